"""Executors from rosters: read when they move, believed by key and number, passed over with a reason."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from pushtrain.core.errors import Cancelled
from pushtrain.core.settings import Repository
from pushtrain.core.values.card import ExecutorCard
from pushtrain.core.wire.place import Place
from pushtrain.core.wire.roster import LIFETIME, Standing, sign_card, with_card
from pushtrain.core.wire.signing import fingerprint, public_text
from pushtrain.plumbing.git.mirror import Mirror
from pushtrain.plumbing.git.rosterfile import RosterFile
from pushtrain.plumbing.sqlite.store import Store
from pushtrain.sender.known import Rosters
from pushtrain.sender.poll import Reconciler
from pushtrain.testing import NOON, Clock, a_card
from sender_world import World

KEYS = [Ed25519PrivateKey.from_private_bytes(bytes([number] * 32)) for number in range(1, 4)]
NAMES = [fingerprint(key.public_key()) for key in KEYS]
REF = "refs/heads/pushtrain/config"


def card_of(number: int = 0, **changes: object) -> ExecutorCard:
    key = KEYS[number]
    given = {
        "public_url": f"https://lab-{number}.example",
        "sequence": 1,
        "expires": NOON + LIFETIME,
        **changes,
    }
    return sign_card(a_card(name=f"lab-{number}", public_key=public_text(key.public_key()), **given), key)


class Reader:
    """A sender that watches two repositories and trusts the first two keys."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.clock = Clock()
        self.trusted = set(NAMES[:2])
        self.places: list[Place] = []
        for number in range(2):
            remote = folder / f"r{number}.git"
            subprocess.run(["git", "init", "-q", "--bare", "-b", "main", str(remote)], check=True)
            repository = Repository(key=f"h/r{number}", remote=str(remote))
            self.places.append(Place(repository=repository, branch="pushtrain/config", path="config.json"))
        self.store = Store(folder / "store.db")
        self.rosters = self.restart()

    def restart(self) -> Rosters:
        self.store.close()
        self.store = Store(self.folder / "store.db")
        files = [RosterFile(Mirror(self.folder / "read", each.repository), each) for each in self.places]
        self.rosters = Rosters(files, self.store, lambda: self.trusted, clock=self.clock)
        return self.rosters

    def write(self, *cards: ExecutorCard, number: int = 0, text: str | None = None) -> None:
        place = self.places[number]
        file = RosterFile(Mirror(self.folder / "write", place.repository), place)

        def change(before: str) -> str:
            after = before if text is None else text
            for card in cards:
                after = with_card(after, card)
            return after

        file.write(change, message="Card", when=1)

    def see(self) -> bool:
        """Look at all repositories, as the reconciler does."""
        files = self.rosters.files
        return sum(self.rosters.see(file.place.repository.key, file.mirror.ls_remote()) for file in files) > 0

    def standings(self) -> list[Standing]:
        return [found.verdict.standing for found in self.rosters.verdicts()]

    def urls(self) -> list[str]:
        return [card.public_url for card in self.rosters.cards()]


@pytest.fixture
def reader(tmp_path: Path) -> Iterator[Reader]:
    made = Reader(tmp_path)
    yield made
    made.store.close()


def test_a_trusted_card_is_an_executor_and_others_are_passed_over_with_the_reason(reader: Reader) -> None:
    reader.write(card_of(0), card_of(1, online=False), card_of(2))
    assert reader.see()
    assert reader.urls() == ["https://lab-0.example"]
    assert sorted(reader.standings()) == [Standing.OFFLINE, Standing.TRUSTED, Standing.UNKNOWN]
    assert {found.roster for found in reader.rosters.verdicts()} == {"h/r0 pushtrain/config:config.json"}
    assert all(
        found.verdict.why for found in reader.rosters.verdicts() if found.verdict.standing != "trusted"
    )


def test_a_roster_is_read_only_when_its_branch_has_moved(
    reader: Reader, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader.write(card_of(0))
    assert reader.see()
    with monkeypatch.context() as patch:
        patch.setattr(RosterFile, "read_at", lambda *_, **__: pytest.fail("read although nothing moved"))
        assert not reader.see()
        assert not reader.rosters.see("h/r0", {}, complete=False)
    reader.write(card_of(0, sequence=2, public_url="https://moved.example"))
    assert reader.see()
    assert reader.urls() == ["https://moved.example"]


def test_a_key_that_is_trusted_later_needs_no_new_look(reader: Reader) -> None:
    reader.write(card_of(2))
    reader.see()
    assert reader.urls() == []
    reader.trusted.add(NAMES[2])
    assert reader.urls() == ["https://lab-2.example"]


def test_an_older_card_is_not_believed_again_even_after_a_restart(reader: Reader) -> None:
    old, new = card_of(0, sequence=6), card_of(0, sequence=7, online=False)
    reader.write(new)
    reader.see()
    assert reader.standings() == [Standing.OFFLINE]
    reader.write(old)
    reader.see()
    assert reader.standings() == [Standing.OLDER]
    reader.restart()
    reader.see()
    assert reader.standings() == [Standing.OLDER]
    assert reader.store.newest_cards() == {NAMES[0]: 7}


def test_strangers_leave_no_trace_in_the_store(reader: Reader) -> None:
    forged = card_of(0, sequence=2**40).model_copy(update={"name": "forged"})
    reader.write(card_of(2), forged)
    reader.see()
    assert sorted(reader.standings()) == [Standing.FORGED, Standing.UNKNOWN]
    assert reader.store.newest_cards() == {}


def test_of_one_executor_in_two_rosters_the_newest_card_counts(reader: Reader) -> None:
    reader.write(card_of(0, sequence=1, repositories=("h/r0",)))
    reader.write(card_of(0, sequence=2, repositories=("h/r1",), public_url="https://moved.example"), number=1)
    reader.see()
    assert reader.urls() == ["https://moved.example"]
    assert sorted(reader.standings()) == [Standing.OLDER, Standing.TRUSTED]
    reader.write(card_of(0, sequence=2, repositories=("h/r0",), public_url="https://moved.example"))
    reader.see()
    (card,) = reader.rosters.cards()
    assert card.repositories == ("h/r0", "h/r1")


def test_cards_expire_while_nobody_looks(reader: Reader) -> None:
    reader.write(card_of(0))
    reader.see()
    reader.clock.advance(LIFETIME)
    assert reader.standings() == [Standing.EXPIRED]


def test_a_roster_that_breaks_is_told_of_once_and_keeps_what_it_said(
    reader: Reader, caplog: pytest.LogCaptureFixture
) -> None:
    reader.write(card_of(0))
    reader.see()
    reader.write(text="<<<<<<<")
    for _ in range(3):
        assert not reader.see()
    assert reader.urls() == ["https://lab-0.example"]
    assert list(reader.rosters.trouble()) == ["h/r0 pushtrain/config:config.json"]
    assert len([one for one in caplog.records if one.levelname == "WARNING"]) == 1
    reader.write(card_of(0, sequence=2), text="")
    assert reader.see()
    assert reader.rosters.trouble() == {}


def test_a_deleted_branch_has_no_cards(reader: Reader) -> None:
    reader.write(card_of(0))
    reader.see()
    remote = reader.places[0].repository.remote
    subprocess.run(["git", "--git-dir", remote, "update-ref", "-d", REF], check=True)
    assert reader.see()
    assert reader.urls() == []


def test_what_cannot_be_read_as_a_card_is_listed_with_the_reason(reader: Reader) -> None:
    reader.write(text=f'{{"version": 1, "executors": {{"{NAMES[0]}": 1}}}}')
    reader.see()
    (found,) = reader.rosters.verdicts()
    assert (found.verdict.standing, found.verdict.fingerprint) == (Standing.UNREADABLE, NAMES[0])
    assert found.verdict.why


def test_a_roster_is_remembered_and_a_remote_that_is_away_is_trouble(reader: Reader) -> None:
    reader.write(card_of(0))
    reader.see()
    texts = reader.rosters.texts()
    again = reader.restart()
    again.recall({**texts, "elsewhere": "x"})
    assert reader.urls() == ["https://lab-0.example"]
    again.recall(dict.fromkeys(texts, "broken"))
    assert reader.urls() == ["https://lab-0.example"]
    Path(reader.places[0].repository.remote).rename(reader.folder / "away")
    assert not again.refresh(again.files[0])
    assert list(again.trouble()) == [reader.places[0].title]
    assert reader.urls() == ["https://lab-0.example"]


def test_a_look_that_is_called_off_is_no_trouble_of_the_roster(reader: Reader) -> None:
    def stop() -> None:
        raise Cancelled("enough")

    with pytest.raises(Cancelled):
        reader.rosters.refresh(reader.rosters.files[0], stop=stop)
    assert reader.rosters.trouble() == {}


def test_rosters_tell_where_they_lie(reader: Reader) -> None:
    assert reader.rosters.path_on("h/r0", REF) == "config.json"
    assert reader.rosters.path_on("h/r0", "refs/heads/main") == ""
    assert [file.place.repository.key for file in reader.rosters.elsewhere({"h/r0"})] == ["h/r1"]


# --- in a sender ---


def rosters_of(world: World, branch: str, key: str = "") -> Rosters:
    repository = world.repository if not key else Repository(key=key, remote=str(world.remote))
    place = Place(repository=repository, branch=branch, path="config.json")
    file = RosterFile(Mirror(world.root / "rosters", repository), place)
    return Rosters([file], world.store, lambda: set(NAMES), clock=lambda: NOON)


def publish(world: World, branch: str, card: ExecutorCard) -> str:
    place = Place(repository=world.repository, branch=branch, path="config.json")
    file = RosterFile(Mirror(world.root / "writer", world.repository), place)
    return file.write(lambda text: with_card(text, card), message="Card", when=1).commit


def test_the_reconcilers_look_at_the_branches_reads_the_roster_too(tmp_path: Path) -> None:
    with World(tmp_path) as world:
        world.commit()
        publish(world, "pushtrain/config", card_of(0))
        rosters = rosters_of(world, "pushtrain/config")
        reconciler = Reconciler(world.service, 60, rosters=rosters)
        assert reconciler.look(world.repository.key) == 0
        assert [card.name for card in rosters.cards()] == ["lab-0"]


def test_a_push_to_the_rosters_branch_is_read_at_once_and_starts_nothing(tmp_path: Path) -> None:
    for branch in ("pushtrain/config", "main"):
        folder = tmp_path / branch.replace("/", "-")
        folder.mkdir()
        with World(folder) as world:
            before = world.commit()
            commit = publish(world, branch, card_of(0))
            rosters = rosters_of(world, branch)
            world.service._rosters = rosters
            world.service.hear(
                world.push(commit, ref=f"refs/heads/{branch}", before=before), source="webhook"
            )
            (heard,) = world.store.pending_pushes()
            world.service._settle(heard)
            assert [card.name for card in rosters.cards()] == ["lab-0"]
            assert "starts nothing" in world.note()
            assert world.store.outbox() == []
