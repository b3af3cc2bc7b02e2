"""When an executor writes its card, what the card tells, and that no failure disturbs anybody."""

import asyncio
import contextlib
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from executor_house import story
from hypothesis import given
from hypothesis import strategies as st

from pushtrain.core.errors import Cloned, GitError, PushRejected
from pushtrain.core.settings import ExecutorSettings, Repository
from pushtrain.core.values.card import ExecutorCard
from pushtrain.core.wire.place import Place
from pushtrain.core.wire.roster import LIFETIME, Listed, parse, sign_card, with_card
from pushtrain.core.wire.signing import fingerprint, public_text
from pushtrain.core.wire.succession import succession
from pushtrain.executor import announce
from pushtrain.executor.announce import OWN, SHARED, Announcer, Habit, due, public_card
from pushtrain.plumbing.git.branch import Branch
from pushtrain.plumbing.git.mirror import Mirror
from pushtrain.plumbing.git.rosterfile import RosterFile
from pushtrain.plumbing.keys.identity import Identity
from pushtrain.plumbing.sqlite.cards import card_number
from pushtrain.ports import Stop
from pushtrain.testing import NOON, Clock, WorkRepository, a_card, a_gpu, eventually

HOUR = 3600.0
DAY = 24 * HOUR
OTHER = Ed25519PrivateKey.from_private_bytes(b"o" * 32)
KEY = Ed25519PrivateKey.from_private_bytes(b"k" * 32)
NAME = fingerprint(KEY.public_key())
FACE = a_card(
    public_key=public_text(KEY.public_key()), public_url="https://one.example", repositories=("h/r0", "h/r1")
)


class Lab:
    """An executor's announcer, its remotes and its clock."""

    def __init__(self, folder: Path, *branches: str) -> None:
        self.folder = folder
        self.clock = Clock()
        self.card = FACE
        self.identity = Identity(KEY)
        self.twin: Callable[[ExecutorCard], bool] = lambda _: False
        self.remotes: list[Path] = []
        self.places: list[Place] = []
        for number, branch in enumerate(branches or ("pushtrain/config",)):
            remote = folder / f"r{number}.git"
            subprocess.run(["git", "init", "-q", "--bare", "-b", "main", str(remote)], check=True)
            self.remotes.append(remote)
            repository = Repository(key=f"h/r{number}", remote=str(remote))
            self.places.append(Place(repository=repository, branch=branch, path="config.json"))
        self.announcer = self.start()

    def start(self) -> Announcer:
        """A new life of the executor."""
        files = [
            (RosterFile(Mirror(self.folder / "mirrors", place.repository), place), (place.repository.key,))
            for place in self.places
        ]
        self.announcer = Announcer(
            files,
            lambda: self.card,
            identity=lambda: self.identity,
            memory=self.folder / "number",
            twin=self.twin,
            clock=self.clock,
            jitter=lambda: 0.5,
        )
        return self.announcer

    def rotate(self) -> str:
        """Give the executor a new key; its fingerprint."""
        new = Ed25519PrivateKey.generate()
        said = succession(KEY, new.public_key(), at=NOON, overlap=600)
        self.identity = Identity(new, (said,), (KEY,))
        self.card = self.card.model_copy(
            update={"public_key": public_text(new.public_key()), "succession": (str(said),)}
        )
        return fingerprint(new.public_key())

    def stop(self) -> None:
        asyncio.run(self.announcer.farewell())

    def listed(self, number: int = 0) -> Listed:
        found = parse(self.text(number)).find(NAME)
        assert found is not None
        assert found.genuine
        return found

    def told(self, number: int = 0) -> ExecutorCard:
        return self.listed(number).card

    def text(self, number: int = 0) -> str:
        return self.git(number, "show", f"{self.places[number].branch}:config.json")

    def tip(self, number: int = 0) -> str:
        return self.git(number, "rev-parse", self.places[number].ref)

    def git(self, number: int, *words: str) -> str:
        argv = ["git", "--git-dir", str(self.remotes[number]), *words]
        return subprocess.run(argv, check=True, capture_output=True, text=True).stdout.strip()

    def pass_time(self, seconds: float, *, step: float = 60.0, number: int = 0) -> int:
        """Look every minute for so long; how often the branch's tip was another one."""
        commits, tip, end = 0, self.tip(number), self.clock() + seconds
        while self.clock() < end:
            self.clock.advance(step)
            self.announcer.look()
            now = self.tip(number)
            commits, tip = commits + (now != tip), now
        return commits

    def break_remote(self, number: int = 0) -> Callable[[], None]:
        """Take a remote away; call what is returned to bring it back."""
        away = self.remotes[number].with_suffix(".away")
        self.remotes[number].rename(away)

        def mend() -> None:
            away.rename(self.remotes[number])

        return mend


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path)


# --- when ---


def test_a_start_writes_a_signed_card_that_is_good_for_a_day_and_a_half(lab: Lab) -> None:
    lab.announcer.look()
    card = lab.told()
    assert (card.public_url, card.online, card.sequence) == ("https://one.example", True, 1)
    assert (card.timestamp, card.expires) == (NOON, NOON + LIFETIME)
    assert card.repositories == ("h/r0",)


def test_an_idle_hour_is_no_commit(lab: Lab) -> None:
    lab.announcer.look()
    assert lab.pass_time(HOUR) == 0


def test_an_idle_day_is_two_commits_and_the_card_never_expires(lab: Lab) -> None:
    lab.announcer.look()
    for _ in range(2):
        assert lab.pass_time(DAY, step=HOUR) == 2
        assert lab.told().expires > lab.clock() + DAY
    assert lab.git(0, "rev-list", "--count", "pushtrain/config") == "1"


def test_a_new_address_is_written_at_once(lab: Lab) -> None:
    lab.announcer.look()
    lab.clock.advance(10)
    lab.card = lab.card.model_copy(update={"public_url": "https://two.example"})
    lab.announcer.look()
    assert (lab.told().public_url, lab.told().sequence) == ("https://two.example", 2)


def test_an_address_that_changes_again_and_again_waits_a_few_seconds(lab: Lab) -> None:
    lab.announcer.look()
    tip = lab.tip()
    lab.card = lab.card.model_copy(update={"public_url": "https://two.example"})
    assert lab.announcer.look() == NOON + 3
    assert lab.tip() == tip
    lab.clock.advance(5)
    lab.announcer.look()
    assert lab.told().public_url == "https://two.example"


@pytest.mark.parametrize("change", [{"labels": ("a100",)}, {"gpus": (a_gpu(),)}, {"name": "lab-2"}])
def test_hardware_labels_and_name_are_told_when_they_change(lab: Lab, change: dict[str, object]) -> None:
    lab.announcer.look()
    lab.clock.advance(60)
    lab.card = lab.card.model_copy(update=change)
    lab.announcer.look()
    assert lab.told().model_dump(include=set(change)) == lab.card.model_dump(include=set(change))


def test_a_clean_stop_marks_the_card_offline_and_a_start_online_again(lab: Lab) -> None:
    lab.announcer.look()
    lab.clock.advance(60)
    lab.stop()
    assert (lab.told().online, lab.told().sequence) == (False, 2)
    lab.clock.advance(60)
    lab.start().look()
    assert (lab.told().online, lab.told().sequence) == (True, 3)


def test_a_stop_before_anything_was_told_tells_nothing(lab: Lab) -> None:
    lab.stop()
    assert lab.git(0, "for-each-ref") == ""


def test_an_executor_that_dies_again_and_again_does_not_write_each_time(lab: Lab) -> None:
    lab.announcer.look()
    tip = lab.tip()
    lab.clock.advance(20)
    lab.start().look()
    assert lab.tip() == tip
    lab.clock.advance(120)
    lab.start().look()
    assert lab.told().timestamp == lab.clock()


def test_on_a_branch_of_people_only_changes_are_commits(tmp_path: Path) -> None:
    lab = Lab(tmp_path, "main")
    work = WorkRepository(tmp_path / "work", str(lab.remotes[0]))
    work.commit({"train.py": "1"})
    work.push()
    lab.announcer.look()
    assert lab.pass_time(7 * DAY, step=HOUR) == 0
    lab.start().look()
    assert lab.told().timestamp == NOON
    lab.card = lab.card.model_copy(update={"public_url": "https://two.example"})
    lab.announcer.look()
    lab.stop()
    assert lab.git(0, "log", "--format=%s", "main").splitlines() == [
        "Executor lab-1 is offline",
        "Executor lab-1 is online",
        "Executor lab-1 is online",
        "A change",
    ]
    assert "[skip ci]" in lab.git(0, "log", "-1", "--format=%b", "main")
    assert lab.told().expires > lab.clock() + 300 * DAY


@given(
    st.sampled_from([OWN, SHARED]),
    st.floats(-DAY, 500 * DAY),
    st.floats(-DAY, DAY),
    st.booleans(),
    st.booleans(),
)
def test_a_card_is_renewed_before_it_expires_and_never_twice_within_the_spacing(
    habit: Habit, age: float, up: float, changed: bool, online: bool
) -> None:
    last = FACE.model_copy(
        update={"timestamp": NOON - age, "expires": NOON - age + habit.lifetime, "online": online}
    )
    face = FACE.model_copy(update={"labels": ("new",)}) if changed else FACE
    when = due(face, last, habit, started=NOON - up, now=NOON)
    assert when <= last.expires
    assert when < last.timestamp or when >= last.timestamp + habit.spacing
    if changed or not online:
        assert when <= max(NOON, last.timestamp) + habit.spacing
    elif not habit.greets and age >= 0:
        assert when >= last.timestamp + 200 * DAY


# --- several rosters, several lives ---


def test_cards_of_one_round_have_one_number_and_each_names_only_its_own_repository(tmp_path: Path) -> None:
    lab = Lab(tmp_path, "pushtrain/config", "pushtrain/config")
    lab.announcer.look()
    assert [lab.told(number).sequence for number in (0, 1)] == [1, 1]
    assert [lab.told(number).repositories for number in (0, 1)] == [("h/r0",), ("h/r1",)]


def test_rosters_that_drifted_apart_are_renewed_together(tmp_path: Path) -> None:
    lab = Lab(tmp_path, "pushtrain/config", "pushtrain/config")
    mend = lab.break_remote(1)
    lab.announcer.look()
    mend()
    lab.clock.advance(HOUR)
    lab.announcer.look()
    assert [lab.told(number).sequence for number in (0, 1)] == [1, 2]
    lab.clock.advance(11 * HOUR)
    lab.announcer.look()
    assert [lab.told(number).sequence for number in (0, 1)] == [3, 3]


def test_the_number_never_goes_back_even_when_the_state_folder_does(lab: Lab) -> None:
    lab.announcer.look()
    for _ in range(3):
        lab.clock.advance(13 * HOUR)
        lab.announcer.look()
    assert lab.told().sequence == 4
    for lost in ("1\n", "", "nonsense", None):
        before = lab.told().sequence
        if lost is None:
            (lab.folder / "number").unlink()
        else:
            (lab.folder / "number").write_text(lost)
        lab.clock.advance(13 * HOUR)
        lab.start().look()
        assert lab.told().sequence == before + 1
        assert (lab.folder / "number").read_text() == f"{before + 1}\n"


def test_a_restored_state_folder_learns_its_number_where_no_new_card_is_due(tmp_path: Path) -> None:
    """Else the executor would prove an older number than its card has, and nobody would speak to it."""
    lab = Lab(tmp_path, "main")
    lab.announcer.look()
    number = lab.told().sequence
    for lost in ("0\n", None):
        (lab.folder / "number").unlink()
        if lost is not None:
            (lab.folder / "number").write_text(lost)
        tip = lab.tip()
        lab.clock.advance(60)
        lab.start().look()
        assert lab.tip() == tip, "no card was due"
        assert card_number(lab.folder / "number") == number


def test_a_forged_number_under_our_name_is_not_believed(lab: Lab) -> None:
    lab.announcer.look()
    forged = sign_card(FACE.model_copy(update={"sequence": 2**50}), KEY).model_copy(update={"name": "x"})
    file = RosterFile(Mirror(lab.folder / "rival", lab.places[0].repository), lab.places[0])
    file.write(lambda text: with_card(text, forged), message="x", when=1)
    lab.clock.advance(13 * HOUR)
    lab.announcer.look()
    assert lab.told().sequence == 2


def write_as_rival(lab: Lab, card: ExecutorCard) -> None:
    """Put a card that our key has signed into the roster, as a copy of our state folder would."""
    file = RosterFile(Mirror(lab.folder / "rival", lab.places[0].repository), lab.places[0])
    file.write(lambda text: with_card(text, sign_card(card, KEY)), message="x", when=1)


@pytest.mark.parametrize("ahead", [1, 7])
def test_a_card_of_ours_that_we_have_not_written_is_a_copy_of_our_state_folder_at_work(
    lab: Lab, ahead: int
) -> None:
    lab.announcer.look()
    twin = FACE.model_copy(
        update={"sequence": 1 + ahead, "name": "lab-2", "public_url": "https://two.example"}
    )
    write_as_rival(lab, twin)
    tip = lab.tip()
    lab.clock.advance(13 * HOUR)
    with pytest.raises(Cloned, match=rf"card number {1 + ahead} of its key, lab-2 at https://two\.example"):
        lab.announcer.look()
    lab.stop()
    assert lab.tip() == tip, "the other one's card stays as it is"


@pytest.mark.parametrize("alive", [True, False])
def test_a_start_that_finds_its_key_at_work_at_another_address_stops(lab: Lab, alive: bool) -> None:
    lab.announcer.look()
    lab.card = FACE.model_copy(update={"public_url": "https://two.example"})
    asked: list[str] = []

    def twin(card: ExecutorCard) -> bool:
        asked.append(card.public_url)
        return alive

    lab.twin = twin
    lab.clock.advance(60)
    tip, announcer = lab.tip(), lab.start()
    if alive:
        with pytest.raises(Cloned, match=r"card number 1 of its key, .* at https://one\.example"):
            announcer.look()
        assert lab.tip() == tip
    else:
        announcer.look()
        announcer.look()
        assert lab.told().public_url == "https://two.example"
    assert asked == ["https://one.example"]


def test_a_card_of_ours_whose_push_was_reported_as_failed_is_no_copy(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    push, lost = Branch.push, iter((PushRejected("it was there"), GitError("the line is cut")))

    def loses_its_answer(branch: Branch, commit: str, *, onto: str = "", stop: Stop | None = None) -> None:
        push(branch, commit, onto=onto, stop=stop)
        if (error := next(lost, None)) is not None:
            raise error

    monkeypatch.setattr(Branch, "push", loses_its_answer)
    lab.announcer.look()
    lab.clock.advance(HOUR)
    lab.announcer.look()
    assert lab.told().online
    lab.clock.advance(13 * HOUR)
    lab.announcer.look()
    lab.stop()
    assert not lab.told().online


def test_a_neighbours_card_and_what_nobody_understands_stay(lab: Lab) -> None:
    other = Ed25519PrivateKey.from_private_bytes(b"o" * 32)
    neighbour = sign_card(a_card(public_key=public_text(other.public_key())), other)
    file = RosterFile(Mirror(lab.folder / "rival", lab.places[0].repository), lab.places[0])
    text = with_card('{"note": [1.50], "version": 1, "executors": {"x": 1e999}}', neighbour)
    file.write(lambda _: text, message="x", when=1)
    lab.announcer.look()
    after = lab.text()
    assert '"note": [1.50]' in after
    assert '"x": 1e999' in after
    assert {one.fingerprint for one in parse(after).cards} == {NAME, fingerprint(other.public_key())}


# --- trouble ---


def test_a_roster_that_cannot_be_written_is_tried_again_later_each_time(
    lab: Lab, caplog: pytest.LogCaptureFixture
) -> None:
    mend = lab.break_remote()
    pauses = []
    for _ in range(4):
        again = lab.announcer.look()
        pauses.append(again - lab.clock())
        lab.clock.advance(again - lab.clock())
    assert pauses == [5, 10, 20, 40]
    assert len([one for one in caplog.records if one.levelname == "WARNING"]) == 1
    mend()
    lab.announcer.look()
    assert lab.told().online


def test_a_clock_that_is_set_back_keeps_no_roster_waiting(lab: Lab) -> None:
    lab.announcer.look()
    mend = lab.break_remote()
    lab.card = FACE.model_copy(update={"labels": ("new",)})
    for _ in range(12):
        lab.clock.advance(900)
        lab.announcer.look()
    mend()
    lab.clock.advance(-3600)
    lab.announcer.look()
    assert lab.told().labels == ("new",)


def test_a_new_address_does_not_wait_for_the_end_of_a_pause(lab: Lab) -> None:
    lab.announcer.look()
    mend = lab.break_remote()
    lab.clock.advance(13 * HOUR)
    for _ in range(8):
        lab.clock.advance(max(0.0, lab.announcer.look() - lab.clock()))
    lab.announcer.look()
    mend()
    lab.card = lab.card.model_copy(update={"public_url": "https://two.example"})
    lab.announcer.look()
    assert lab.told().public_url == "https://two.example"


def test_a_broken_roster_is_made_anew_on_our_branch_and_left_alone_on_a_branch_of_people(
    tmp_path: Path,
) -> None:
    lab = Lab(tmp_path, "pushtrain/config", "main")
    for place in lab.places:
        file = RosterFile(Mirror(tmp_path / "rival", place.repository), place)
        file.write(lambda _: "<<<<<<< HEAD\n", message="x", when=1)
    lab.announcer.look()
    assert lab.told(0).online
    assert lab.text(1) == "<<<<<<< HEAD"


def test_a_roster_of_a_newer_pushtrain_is_left_alone(lab: Lab) -> None:
    file = RosterFile(Mirror(lab.folder / "rival", lab.places[0].repository), lab.places[0])
    tip = file.write(lambda _: '{"version": 2}', message="x", when=1).commit
    lab.announcer.look()
    assert lab.tip() == tip


def test_a_full_disk_stops_the_cards_and_nothing_else(lab: Lab, caplog: pytest.LogCaptureFixture) -> None:
    (lab.folder / "number").mkdir()

    async def scene() -> None:
        task = asyncio.create_task(lab.announcer.run())
        await eventually(lambda: "could not be looked at" in caplog.text)
        assert not task.done()
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        await lab.announcer.farewell()

    asyncio.run(scene())
    assert lab.git(0, "for-each-ref") == ""


def test_a_stop_does_not_wait_for_a_roster_that_does_not_answer(lab: Lab) -> None:
    lab.announcer.look()
    mend = lab.break_remote()
    lab.stop()
    mend()
    assert lab.told().online


@story
async def test_whoever_tells_of_a_change_is_heard_at_once_and_the_end_is_orderly(tmp_path: Path) -> None:
    lab = Lab(tmp_path)
    lab.card = FACE.model_copy(update={"public_url": ""})
    task = asyncio.create_task(lab.announcer.run())
    await eventually(lambda: lab.git(0, "for-each-ref"))
    lab.clock.advance(10)
    lab.card = FACE
    lab.announcer.told()
    await eventually(lambda: lab.told().public_url, 5)
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    await lab.announcer.farewell()
    assert not lab.told().online


# --- what the card tells ---

RICH = a_card(gpus=(a_gpu(driver="580.65"),), public_url="http://127.0.0.1:8421")


def shown(tunnel: str | None = None, **settings: object) -> ExecutorCard:
    made = ExecutorSettings.model_validate(settings)
    card = RICH.model_copy(update={"ip": made.host})
    return public_card(card, made, tunnel=tunnel, host_name="box.example")


def test_by_default_a_card_tells_neither_uuids_nor_host_name_nor_an_address_that_was_not_meant_for_it() -> (
    None
):
    card = shown(host="192.168.1.5")
    (gpu,) = card.gpus
    assert (gpu.uuid, gpu.driver, gpu.index, gpu.name, gpu.memory) == ("", "", 0, "NVIDIA RTX 4090", 24 << 30)
    assert (card.name, card.ip, card.port, card.public_url) == ("lab-1", "", 0, "")
    assert "box.example" not in card.model_dump_json()
    assert "192.168" not in card.model_dump_json()


def test_the_tunnels_url_is_told_and_where_the_server_listens_on_loopback() -> None:
    card = shown("https://one.example")
    assert (card.public_url, card.ip, card.port) == ("https://one.example", "127.0.0.1", 8421)
    assert shown("").public_url == ""
    assert shown().public_url == ""


def test_the_owner_may_publish_more() -> None:
    assert shown(publish_gpu_uuids=True).gpus == RICH.gpus
    assert shown(publish_host_name=True).name == "box.example"
    assert shown(publish_host_name=True, name="lab-1").name == "lab-1"
    open_house = shown(host="192.168.1.5", publish_address=True)
    assert (open_house.ip, open_house.port) == ("192.168.1.5", 8421)
    assert open_house.public_url == "http://192.168.1.5:8421"
    assert shown(host="2001:db8::1", publish_address=True).public_url == "http://[2001:db8::1]:8421"
    assert shown(host="0.0.0.0", publish_address=True).public_url == ""  # noqa: S104  nothing listens
    assert shown(host="lab.example", publish_address=True).public_url == "http://lab.example:8421"


# --- a new key --------------------------------------------------------------------------------------------


def test_the_card_of_a_new_key_takes_the_old_ones_place(lab: Lab) -> None:
    neighbour = sign_card(a_card(public_key=public_text(OTHER.public_key())), OTHER)
    lab.announcer.look()
    lab.announcer._targets[0].file.write(lambda text: with_card(text, neighbour), message="x", when=1)
    new = lab.rotate()
    lab.clock.advance(60)
    lab.announcer.look()
    cards = {listed.fingerprint: listed for listed in parse(lab.text()).cards}
    assert cards.keys() == {new, fingerprint(OTHER.public_key())}
    assert all(listed.genuine for listed in cards.values())
    lab.stop()
    assert parse(lab.text()).cards[0].card.online is not parse(lab.text()).cards[1].card.online


@story
async def test_a_new_key_is_told_before_the_next_look_at_the_card(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(announce, "_HEIR", 0.01)
    lab = Lab(tmp_path)
    task = asyncio.create_task(lab.announcer.run())
    await eventually(lambda: lab.git(0, "for-each-ref"))
    lab.clock.advance(10)
    new = lab.rotate()
    await eventually(lambda: [listed.fingerprint for listed in parse(lab.text()).cards] == [new], 5)
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
