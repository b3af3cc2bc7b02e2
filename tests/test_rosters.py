"""From settings to rosters: which there are, what a verb reads and remembers, what an executor may tell."""

import subprocess
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from pushtrain.cli.checks.rosters import rosters as check
from pushtrain.core.errors import ConfigError
from pushtrain.core.settings import ExecutorAddress, ExecutorSettings, Repository, SenderSettings, Settings
from pushtrain.core.wire.roster import Standing, sign_card, with_card
from pushtrain.core.wire.signing import fingerprint, public_text
from pushtrain.plumbing.disk.state import StateFolder
from pushtrain.plumbing.git.mirror import Mirror
from pushtrain.plumbing.git.rosterfile import RosterFile
from pushtrain.plumbing.keys.authorized import Trusted
from pushtrain.sender.known import Rosters
from pushtrain.testing import a_card
from pushtrain.wiring.parts import identity, mirror
from pushtrain.wiring.rosters import look, places
from pushtrain.wiring.trust import trusted_here
from pushtrain.wiring.voice import published_card

KEY = Ed25519PrivateKey.from_private_bytes(b"k" * 32)
FOREVER = 4e9


def settings_of(
    *repositories: tuple[str, str | None], roster: str = "pushtrain/config:config.json"
) -> Settings:
    made = tuple(
        Repository(key=f"github.com/{name}", remote=f"https://github.com/{name}.git", roster=own)
        for name, own in repositories
    )
    return Settings(repositories=made, roster=roster)


def listed(settings: Settings) -> list[tuple[str, str, tuple[str, ...]]]:
    return [(place.title, place.repository.remote, keys) for place, keys in places(settings)]


def test_each_repository_has_a_roster_of_its_own_by_default() -> None:
    assert listed(settings_of(("octo/a", None), ("octo/b", None))) == [
        (
            f"github.com/octo/{name} pushtrain/config:config.json",
            f"https://github.com/octo/{name}.git",
            (key,),
        )
        for name, key in (("a", "github.com/octo/a"), ("b", "github.com/octo/b"))
    ]


@pytest.mark.parametrize(
    ("roster", "remote"),
    [
        ("lab/gpus", "https://github.com/lab/gpus.git"),
        ("github.com/lab/gpus", "https://github.com/lab/gpus"),
        ("https://github.com/lab/gpus.git", "https://github.com/lab/gpus.git"),
        ("git@github.com:lab/gpus.git", "git@github.com:lab/gpus.git"),
    ],
)
def test_one_roster_may_serve_many_repositories(roster: str, remote: str) -> None:
    found = listed(settings_of(("octo/a", None), ("octo/b", None), ("octo/c", ""), roster=roster))
    title = "github.com/lab/gpus pushtrain/config:config.json"
    assert found == [(title, remote, ("github.com/octo/a", "github.com/octo/b"))]


def test_a_repository_may_have_its_own_or_none_and_a_known_key_has_its_known_remote() -> None:
    found = listed(settings_of(("octo/a", "main:x.json"), ("octo/b", ""), ("octo/c", "github.com/octo/b")))
    assert found == [
        ("github.com/octo/a main:x.json", "https://github.com/octo/a.git", ("github.com/octo/a",)),
        (
            "github.com/octo/b pushtrain/config:config.json",
            "https://github.com/octo/b.git",
            ("github.com/octo/c",),
        ),
    ]


@pytest.mark.parametrize("roster", ["a b:c", "https://user:secret@github.com/lab/gpus", "x.y/..", "gpus"])
def test_a_roster_that_is_nowhere_is_a_mistake_in_the_settings(roster: str) -> None:
    with pytest.raises(ConfigError) as error:
        places(settings_of(("octo/a", None), roster=roster))
    assert "secret" not in error.value.message
    assert error.value.mend


def test_a_neighbour_of_a_folder_is_nowhere() -> None:
    settings = Settings(
        repositories=(Repository(key="localhost/srv/a", remote="/srv/a.git"),), roster="lab/gpus"
    )
    with pytest.raises(ConfigError, match="is a folder of this machine"):
        places(settings)


# --- with a remote ---


class Lab:
    """A state folder, a repository, and another executor that writes into its roster."""

    def __init__(self, folder: Path) -> None:
        self.remote = folder / "remote.git"
        subprocess.run(["git", "init", "-q", "--bare", "-b", "main", str(self.remote)], check=True)
        self.state = StateFolder(folder / "state").create()
        self.settings = Settings(repositories=(Repository(key="h/octo", remote=str(self.remote)),))
        ((self.place, _),) = places(self.settings)
        self.writer = RosterFile(Mirror(folder / "writer", self.place.repository), self.place)

    def write(self, *, sequence: int = 1, **changes: object) -> str:
        given = {"sequence": sequence, "expires": FOREVER, "public_url": "https://lab.example", **changes}
        card = sign_card(a_card(public_key=public_text(KEY.public_key()), **given), KEY)
        return self.writer.write(lambda text: with_card(text, card), message="Card", when=1).text

    def look(self, max_age: float = 0) -> Rosters:
        return look(self.state, self.settings, lambda each: mirror(self.state, each), max_age=max_age)

    def standings(self, max_age: float = 0) -> list[Standing]:
        return [found.verdict.standing for found in self.look(max_age).verdicts()]


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path)


def test_a_verb_reads_the_roster_and_remembers_it_where_git_does_not_answer(lab: Lab) -> None:
    lab.write()
    assert lab.standings() == [Standing.UNKNOWN]
    Trusted(lab.state.trusted).add(KEY.public_key())
    lab.remote.rename(lab.remote.with_suffix(".away"))
    rosters = lab.look()
    assert [card.public_url for card in rosters.cards()] == ["https://lab.example"]
    assert list(rosters.trouble()) == [lab.place.title]


def test_what_was_read_a_moment_ago_is_not_read_again(lab: Lab) -> None:
    lab.write()
    assert lab.standings() == [Standing.UNKNOWN]
    lab.write(sequence=2, online=False)
    Trusted(lab.state.trusted).add(KEY.public_key())
    assert lab.standings(max_age=60) == [Standing.TRUSTED]
    assert lab.standings() == [Standing.OFFLINE]


def test_a_verb_too_does_not_believe_an_older_card(lab: Lab) -> None:
    Trusted(lab.state.trusted).add(KEY.public_key())
    lab.write(sequence=2)
    assert lab.standings() == [Standing.TRUSTED]
    lab.write(sequence=1)
    assert lab.standings() == [Standing.OLDER]


def test_trusted_are_the_own_key_those_in_the_file_and_those_in_the_settings(lab: Lab) -> None:
    assert trusted_here(lab.state, lab.settings) == {fingerprint(identity(lab.state).public_key())}
    Trusted(lab.state.trusted).add(KEY.public_key())
    other = Ed25519PrivateKey.generate().public_key()
    addresses = tuple(
        ExecutorAddress(url="http://127.0.0.1:1", public_key=text)
        for text in (public_text(other), "nonsense")
    )
    settings = lab.settings.model_copy(update={"sender": SenderSettings(executors=addresses)})
    found = trusted_here(lab.state, settings)
    assert {fingerprint(KEY.public_key()), fingerprint(other)} < found
    assert len(found) == 3


def test_doctor_tells_of_each_card_with_its_mend(lab: Lab) -> None:
    def found() -> list[tuple[str, str, str]]:
        return [(one.what, one.verdict, one.text + one.mend) for one in check(lab.state, lab.settings)]

    assert [each[:2] for each in found()] == [("roster", "ok")]
    lab.write()
    (_, card) = found()
    assert card[:2] == ("card", "note")
    assert "pushtrain key trust ed25519:" in card[2]
    Trusted(lab.state.trusted).add(KEY.public_key())
    assert [each[:2] for each in found()] == [("roster", "ok")]
    lab.write(sequence=0)
    assert [each[:2] for each in found()] == [("roster", "ok"), ("card", "wrong")]
    lab.writer.write(lambda _: "{", message="x", when=1)
    assert [each[:2] for each in found()] == [("roster", "wrong")]


def test_doctor_notes_that_a_running_executor_has_no_card(lab: Lab) -> None:
    own = public_text(identity(lab.state).public_key())
    lab.state.card.write_text(a_card(public_key=own).model_dump_json())
    _, card = check(lab.state, lab.settings)
    assert "has no card" in card.text


def test_the_card_that_is_shown_is_the_one_that_others_see(lab: Lab) -> None:
    settings = lab.settings.model_copy(update={"executor": ExecutorSettings(name="lab-9", labels=("x",))})
    idle = published_card(lab.state, settings)
    assert (idle.name, idle.online, idle.public_url, idle.labels) == ("lab-9", False, "", ("x",))
    card = a_card(public_key=public_text(identity(lab.state).public_key()), public_url="https://lab.example")
    lab.state.card.write_text(card.model_dump_json())
    assert published_card(lab.state, settings).public_url == "https://lab.example"
    local = card.model_copy(update={"public_url": "http://127.0.0.1:8421"})
    lab.state.card.write_text(local.model_dump_json())
    assert published_card(lab.state, settings).public_url == ""
