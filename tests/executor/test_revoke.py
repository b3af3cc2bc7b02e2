"""Revoked keys: the next request is refused, what waits never starts, what runs may go on or not."""

import asyncio
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from executor_house import Bare, House, story

from pushtrain.cli.app import run as cli
from pushtrain.core.errors import Unauthorized, Unreachable
from pushtrain.core.values.states import Outcome, State
from pushtrain.core.wire.frames import ViewFrame
from pushtrain.core.wire.grants import Word
from pushtrain.core.wire.signing import fingerprint, parse_public
from pushtrain.executor.service import ExecutorService
from pushtrain.executor.warden import Warden
from pushtrain.plumbing.http.client import ExecutorClient
from pushtrain.plumbing.keys.authorized import Authorized
from pushtrain.ports import Activation
from pushtrain.testing import SENDER, SENDER_KEY, Clock, a_command, eventually
from served import Served, served

ADA = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
BOB = Ed25519PrivateKey.from_private_bytes(bytes(range(32, 64)))
ADA_ID, BOB_ID = (fingerprint(key.public_key()) for key in (ADA, BOB))

Out = pytest.CaptureFixture[str]


@pytest.fixture
def house(tmp_path: Path) -> House:
    return House(tmp_path)


@pytest.fixture
def executor(tmp_path: Path) -> Iterator[Served]:
    with served(tmp_path / "state") as one:
        one.authorized.add(ADA.public_key(), name="ada")
        one.authorized.add(BOB.public_key(), name="bob")
        yield one


def revoke(state: Path, *words: str) -> int:
    return cli(["key", "revoke", *words, "--state", str(state)])


def client(executor: Served, key: Ed25519PrivateKey = ADA) -> ExecutorClient:
    return ExecutorClient(executor.url, executor.key.public_key(), key, clock=executor.clock)


def states(service: ExecutorService, *ids: str) -> list[str]:
    return [str(service.store.run(each).outcome or service.store.run(each).state) for each in ids]


# --- requests ---------------------------------------------------------------------------------------------


def test_the_next_request_of_a_revoked_key_is_refused(executor: Served) -> None:
    ada = client(executor)
    ada.challenge()
    assert revoke(executor.state.root, "ada") == 0
    with pytest.raises(Unauthorized):
        ada.challenge()
    with pytest.raises(Unauthorized):
        ada.send(a_command())
    client(executor, BOB).challenge()


def test_a_live_log_of_a_revoked_reader_is_cut(executor: Served) -> None:
    ada = client(executor)
    run = ada.send(a_command())
    reader = ExecutorClient(
        executor.url, executor.key.public_key(), ADA, clock=executor.clock, patience=0, pause=lambda _: None
    )
    frames = reader.follow(run.id)
    assert isinstance(next(frames), ViewFrame)
    assert revoke(executor.state.root, "ada") == 0
    executor.tell(run.id)
    with pytest.raises((Unauthorized, Unreachable)):
        list(frames)


# --- runs that wait, and runs that are trained ------------------------------------------------------------


@story
async def test_what_waits_is_cancelled_and_what_runs_goes_on(tmp_path: Path) -> None:
    house = House(tmp_path, slots=1)
    flag = tmp_path / "flag"
    async with house.running() as service:
        first = house.send(service, f"while [ ! -e {flag} ]; do sleep 0.05; done; echo done")
        await eventually(lambda: service.store.run(first.id).state is State.RUNNING)
        second, third = (house.send(service, "true") for _ in range(2))
        assert revoke(house.state.root, "ada") == 0
        await eventually(lambda: states(service, second.id, third.id) == ["cancelled"] * 2)
        flag.touch()
        await eventually(lambda: service.store.run(first.id).outcome is Outcome.SUCCEEDED)
        (told,) = [event for event in service.store.events(second.id) if event.kind == "cancelled"]
        assert (
            "the owner, who revoked the key that sent it" in service.store.run(second.id).detail + told.detail
        )


class Slow(Bare):
    """An environment that is not ready before somebody says so."""

    def __init__(self) -> None:
        self.asked = threading.Event()
        self.ready = threading.Event()

    def activate(self, *arguments: Any) -> Activation:
        self.asked.set()
        assert self.ready.wait(20)
        return super().activate(*arguments)


@story
async def test_what_is_being_prepared_never_starts(house: House) -> None:
    """Minutes may lie between a claim and the command: what has not started by then does not start."""
    slow = Slow()
    house.environments = {"system": slow}
    async with house.running() as service:
        run = house.send(service, "echo must never run > $PUSHTRAIN_RESULTS_DIR/ran")
        await eventually(slow.asked.is_set)
        assert service.store.run(run.id).state is State.PREPARING
        assert revoke(house.state.root, "ada") == 0
        try:
            await eventually(lambda: service.store.run(run.id).cancel_requested)
        finally:
            slow.ready.set()
        await eventually(lambda: service.store.run(run.id).state is State.DONE)
        assert service.store.run(run.id).outcome is Outcome.CANCELLED
        assert service.shown.view(run.id).artifacts == ()


@story
async def test_a_run_that_is_ready_is_not_started_for_a_key_that_does_not_count(house: House) -> None:
    """Also where nobody cancels it: it goes back to those that wait, as while the file is damaged."""
    slow = Slow()
    house.environments = {"system": slow}
    async with house.running() as service:
        run = house.send(service, "true")
        await eventually(slow.asked.is_set)
        whole = house.state.authorized.read_text()
        house.state.authorized.write_text("no line that can be read\n")
        slow.ready.set()
        await eventually(lambda: service.store.run(run.id).state is State.QUEUED)
        (event,) = [one for one in service.store.events(run.id) if one.kind == "requeued"]
        assert "the key that sent it" in event.detail
        house.state.authorized.write_text(whole)
        await eventually(lambda: service.store.run(run.id).outcome is Outcome.SUCCEEDED)


@story
async def test_what_runs_is_ended_where_the_owner_wants_it(house: House) -> None:
    async with house.running() as service:
        run = house.send(service, "sleep 600")
        await eventually(lambda: service.store.run(run.id).state is State.RUNNING)
        assert revoke(house.state.root, "ada", "--cancel-running") == 0
        await eventually(lambda: service.store.run(run.id).outcome is Outcome.CANCELLED)


@story
async def test_what_was_revoked_while_the_executor_was_away_is_cancelled_when_it_starts(house: House) -> None:
    service = house.open()
    run = house.send(service, "echo must never run > $PUSHTRAIN_RESULTS_DIR/ran")
    service.store.close()
    assert revoke(house.state.root, SENDER) == 0
    async with house.running() as service:
        await eventually(lambda: service.store.run(run.id).outcome is Outcome.CANCELLED)
        assert service.store.attempts(run.id) == []


@story
async def test_what_was_revoked_for_good_is_ended_by_the_next_start(house: House) -> None:
    async with house.running() as service:
        run = house.send(service, "sleep 600")
        await eventually(lambda: service.store.run(run.id).state is State.RUNNING)
    assert revoke(house.state.root, "ada", "--cancel-running") == 0
    async with house.running() as service:
        await eventually(lambda: service.store.run(run.id).outcome is Outcome.CANCELLED)


@story
async def test_a_run_of_a_key_that_does_not_count_never_starts(house: House) -> None:
    """Even before anybody has looked at it: the claim itself asks."""
    service = house.open()
    run = house.send(service, "true")
    Authorized(house.state.authorized).revoke("ada")
    may = service.admission._authorized.word
    claimed = service.store.claim(slots=9, gpus=(), executor="lab", may_start=lambda it: may(it) is Word.MAY)
    assert claimed is None
    assert service.store.run(run.id).state is State.QUEUED
    service.admission._authorized.add(parse_public(SENDER_KEY))
    assert service.store.claim(slots=9, gpus=(), executor="lab", may_start=lambda it: may(it) is Word.MAY)
    service.store.close()


@story
async def test_a_key_that_is_authorised_again_lets_what_waited_start(house: House) -> None:
    house.state.create()
    Authorized(house.state.authorized).add(parse_public(SENDER_KEY), expires="2001-01-01")
    async with house.running() as service:
        run = house.send(service, "true")
        await asyncio.sleep(0)
        Authorized(house.state.authorized).add(parse_public(SENDER_KEY))
        await eventually(lambda: service.store.run(run.id).outcome is Outcome.SUCCEEDED)


# --- the warden's look ------------------------------------------------------------------------------------


class Watched:
    """A warden over a real executor's store and key file, with a clock to turn."""

    def __init__(self, executor: Served) -> None:
        self.executor = executor
        self.ticks = Clock(0)
        self.looks = 0
        self.warden = Warden(
            self,
            executor.authorized,
            lambda run_id, by: executor.service.cancel(run_id, by=by),
            clock=executor.clock,
            ticks=self.ticks,
        )

    def unended(self) -> dict[str, list[tuple[str, State]]]:
        self.looks += 1
        return self.executor.store.unended()

    def look(self, *, after: float = 0) -> None:
        self.ticks.advance(after)
        self.executor.clock.advance(after)
        self.warden.look()

    def state(self, run_id: str) -> str:
        (found,) = states(self.executor.service, run_id)
        return found


@pytest.fixture
def watched(executor: Served) -> Watched:
    return Watched(executor)


def test_no_thread_is_woken_while_no_key_changes_and_a_change_is_seen_at_once(
    executor: Served, watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pushtrain.executor.warden._LOOK", 0.002)
    real, woken = asyncio.to_thread, 0

    async def counted(work: Any) -> Any:
        nonlocal woken
        woken += 1
        return await real(work)

    async def story() -> None:
        task = asyncio.create_task(watched.warden.run())
        await eventually(lambda: watched.looks)
        watched.ticks.advance(11)
        await eventually(lambda: not watched.warden._due())
        before, glances = woken, 0

        def glanced() -> bool:
            nonlocal glances
            glances += 1
            return glances > 20

        await eventually(glanced)
        assert woken - before <= 1, "one may have been on its way"
        looks = watched.looks
        executor.state.authorized.unlink()
        await eventually(lambda: watched.looks > looks)
        task.cancel()
        await asyncio.wait([task])

    monkeypatch.setattr(asyncio, "to_thread", counted)
    asyncio.run(story())


def test_a_line_that_an_editor_is_just_writing_costs_nobody_his_runs(
    executor: Served, watched: Watched
) -> None:
    run = client(executor).send(a_command())
    text = executor.state.authorized.read_text()
    watched.look()
    executor.state.authorized.unlink()
    watched.look(after=1)
    watched.look(after=1)
    executor.state.authorized.write_text(text)
    executor.state.authorized.chmod(0o600)
    for _ in range(20):
        watched.look(after=1)
    assert watched.state(run.id) == "queued"


def test_a_line_that_stays_away_is_as_good_as_revoked(executor: Served, watched: Watched) -> None:
    run = client(executor).send(a_command())
    executor.state.authorized.unlink()
    watched.look()
    assert watched.state(run.id) == "queued"
    watched.look(after=6)
    assert watched.state(run.id) == "cancelled"


@pytest.mark.parametrize("damage", ["mode", "typo", "noise"])
def test_a_damaged_file_stops_runs_and_cancels_none(executor: Served, watched: Watched, damage: str) -> None:
    run = client(executor).send(a_command())
    path = executor.state.authorized
    match damage:
        case "mode":
            path.chmod(0o666)
        case "typo":
            path.write_text(path.read_text().replace("name=", "nmae="))
        case _:
            path.write_bytes(b"\xff\xfe")
    for _ in range(30):
        watched.look(after=1)
    assert watched.state(run.id) == "queued"
    assert executor.authorized.word(ADA_ID) is Word.UNKNOWN, "and it does not start"


def test_runs_of_a_key_that_expires_are_cancelled(executor: Served, watched: Watched) -> None:
    executor.authorized.add(ADA.public_key(), expires="60s")
    run = client(executor).send(a_command())
    watched.look()
    watched.look(after=59)
    assert watched.state(run.id) == "queued"
    watched.look(after=2)
    watched.look(after=6)
    assert watched.state(run.id) == "cancelled"
    assert "has expired" in executor.store.events(run.id)[-1].detail


def test_a_key_that_expires_while_the_runs_are_looked_at_is_not_looked_past(
    executor: Served, watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    executor.authorized.add(ADA.public_key(), expires="60s")
    run = client(executor).send(a_command())
    watched.look()
    asked = executor.authorized.word

    def and_then_time_passes(key_id: str) -> Word:
        found = asked(key_id)
        executor.clock.advance(2)
        return found

    monkeypatch.setattr(executor.authorized, "word", and_then_time_passes)
    watched.look(after=59)
    assert watched.state(run.id) == "queued"
    watched.look(after=1)
    watched.look(after=6)
    assert watched.state(run.id) == "cancelled"


def test_nothing_is_read_while_nothing_changes(executor: Served, watched: Watched) -> None:
    watched.look()
    for _ in range(40):
        watched.look(after=1)
    before = watched.looks
    for _ in range(25):
        watched.look(after=1)
    assert watched.looks - before <= 1
    before = watched.looks
    executor.authorized.add(BOB.public_key())
    watched.look(after=1)
    assert watched.looks - before == 1


def test_a_command_that_slipped_in_just_then_is_found(executor: Served, watched: Watched) -> None:
    """It was let in before the key was revoked, and written down after the first look."""
    watched.look()
    ada = client(executor)
    executor.authorized.revoke("ada")
    watched.look(after=1)
    executor.authorized.add(ADA.public_key(), name="ada")
    run = ada.send(a_command())
    executor.authorized.revoke("ada")
    watched.look(after=1)
    watched.look(after=1)
    assert watched.state(run.id) == "cancelled"


# --- the verb ---------------------------------------------------------------------------------------------


def test_a_key_is_named_by_name_fingerprint_or_key(executor: Served, capsys: Out) -> None:
    for who in ("ada", ADA_ID, ADA_ID.removeprefix("SHA256:")[:8], SENDER_KEY):
        executor.authorized.add(ADA.public_key(), name="ada")
        assert revoke(executor.state.root, who, "--json") == 0
        (told,) = json.loads(capsys.readouterr().out)["revoked"]
        assert told["fingerprint"] == ADA_ID
        assert executor.authorized.lookup(ADA_ID) is None
    assert executor.authorized.lookup(BOB_ID)


@pytest.mark.parametrize(
    ("who", "code", "told"),
    [
        ("nobody", 5, "No key here is called `nobody`"),
        ("SHA256:abc", 5, "No key here"),
        ("", 5, "No key here"),
        ("twin", 2, "Several keys are meant by 'twin'"),
    ],
)
def test_a_name_that_means_none_or_several_revokes_nobody(
    executor: Served, capsys: Out, who: str, code: int, told: str
) -> None:
    for number in (1, 2):
        executor.authorized.add(
            Ed25519PrivateKey.from_private_bytes(bytes([number]) * 32).public_key(), name="twin"
        )
    before = executor.state.authorized.read_text()
    assert revoke(executor.state.root, who) == code
    assert told in capsys.readouterr().err
    assert executor.state.authorized.read_text() == before


def test_a_stranger_can_be_revoked_beforehand(executor: Served) -> None:
    stranger = "ed25519:" + "A" * 43 + "="
    assert revoke(executor.state.root, stranger) == 0
    assert executor.authorized.word(fingerprint(parse_public(stranger))) is Word.REVOKED


def test_what_waits_is_told_when_nobody_serves(executor: Served, capsys: Out) -> None:
    client(executor).send(a_command())
    assert revoke(executor.state.root, "ada") == 0
    assert "Its runs that wait are cancelled when the executor starts: 1." in capsys.readouterr().out
    assert cli(["key", "list", "--state", str(executor.state.root)]) == 0
    assert "nothing: revoked" in capsys.readouterr().out
