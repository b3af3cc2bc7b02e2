"""Runs that leave an executor and come back, and the stream that tells a sender when to move them."""

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from pushtrain.core.errors import Busy, Conflict, Forbidden, NotFound, Unauthorized, Unreachable
from pushtrain.core.lifecycle import Exited, Prepared, Published, Requeued, next_attempt
from pushtrain.core.policy import pace_key
from pushtrain.core.values.jobspec import Resources
from pushtrain.core.values.states import Outcome, Reason, State
from pushtrain.core.wire.bodies import MAX_TOLD
from pushtrain.core.wire.frames import CapacityFrame, RunFrame
from pushtrain.core.wire.signing import fingerprint
from pushtrain.executor.api import events, stream
from pushtrain.plumbing.http.client import ExecutorClient
from pushtrain.plumbing.keys.authorized import Scope
from pushtrain.plumbing.sqlite.store import Store
from pushtrain.testing import Clock, a_command, a_gpu, a_spec, wait_until
from served import Served, served

SENDER = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
OTHER = Ed25519PrivateKey.from_private_bytes(bytes(range(32, 64)))


@pytest.fixture
def executor(tmp_path: Path) -> Iterator[Served]:
    with served(tmp_path / "state") as one:
        one.authorized.add(SENDER.public_key(), name="ada")
        one.authorized.add(OTHER.public_key(), name="bob")
        yield one


def client(executor: Served, key: Ed25519PrivateKey = SENDER) -> ExecutorClient:
    return ExecutorClient(executor.url, executor.key.public_key(), key, clock=executor.clock)


def end(executor: Served) -> None:
    """Run the next run to its end."""
    run, _ = executor.claim()
    for event in (Prepared(), Exited(Reason.EXITED, 0), Published("c" * 40, "runs/x")):
        executor.store.advance(run.id, event, token=run.token)
    executor.tell(run.id)


# --- release ----------------------------------------------------------------------------------------------


def test_a_waiting_run_is_released_and_never_starts_there(executor: Served) -> None:
    sender = client(executor)
    run = sender.send(a_command())
    moved = sender.release(run.id, 0)
    assert (moved.state, moved.outcome, moved.reason) == (State.DONE, Outcome.MOVED, Reason.RELEASED)
    assert executor.store.claim(slots=9, gpus=(), executor="lab-1") is None
    assert [event.kind for event in executor.store.events(run.id)] == ["accepted", "released"]


def test_a_second_release_is_the_first_one(executor: Served) -> None:
    sender = client(executor)
    run = sender.send(a_command())
    assert sender.release(run.id, 0) == sender.release(run.id, 0)
    assert len(executor.store.events(run.id)) == 2


def test_a_run_is_given_away_though_the_disk_does_not_let_its_folder_go(
    executor: Served, tmp_path: Path
) -> None:
    """It was given away in the store, and answered 500, as often as its sender asked."""
    run = client(executor).send(a_command())
    (tmp_path / "state" / "runs" / run.id / "received" / "held").mkdir(parents=True)
    assert client(executor).release(run.id, 0).outcome is Outcome.MOVED


def test_a_run_that_has_started_or_ended_is_not_released(executor: Served) -> None:
    sender = client(executor)
    run = sender.send(a_command())
    claimed, _ = executor.claim()
    with pytest.raises(Busy, match="is being prepared, and may wait again"):
        sender.release(run.id, 0)
    executor.store.advance(run.id, Prepared(), token=claimed.token)
    with pytest.raises(Conflict, match="is running; only one that waits"):
        sender.release(run.id, 0)
    cancelled = sender.send(a_command(request="other"))
    sender.cancel(cancelled.id)
    with pytest.raises(Conflict, match="is publishing"):
        sender.release(cancelled.id, 0)


def test_only_who_sent_a_run_can_release_it(executor: Served) -> None:
    run = client(executor).send(a_command())
    with pytest.raises(Forbidden, match="sent by another key"):
        client(executor, OTHER).release(run.id, 0)
    executor.authorized.add(SENDER.public_key(), scopes=[Scope.READ])
    with pytest.raises(Forbidden, match="may not send"):
        client(executor).release(run.id, 0)
    assert executor.store.run(run.id).state is State.QUEUED


def test_a_run_that_is_not_there_cannot_be_released(executor: Served) -> None:
    with pytest.raises(NotFound):
        client(executor).release("0" * 32, 0)


def test_a_released_run_comes_back_as_its_next_attempt_and_is_never_doubled(executor: Served) -> None:
    sender = client(executor)
    first = sender.send(a_command())
    sender.send(a_command(request="behind"))
    back = a_command().model_copy(update={"attempt": next_attempt(sender.release(first.id, 0))})
    late = sender.send(a_command())
    assert (late.state, late.outcome) == (State.DONE, Outcome.MOVED), (
        "a command that was late changes nothing"
    )
    run = sender.send(back)
    assert (run.state, run.outcome, run.attempt, run.accepted_at) == (
        State.QUEUED,
        None,
        1,
        first.accepted_at,
    )
    assert sender.send(back) == run
    claimed, _ = executor.claim()
    assert (claimed.id, claimed.attempt) == (first.id, 2), "it has its old place"
    assert executor.store.command_as_received(run.id)[0] == back.model_dump_json().encode()
    assert len(executor.store.runs()) == 2


def test_a_release_that_arrives_late_does_not_take_what_came_back(executor: Served) -> None:
    sender = client(executor)
    run = sender.send(a_command())
    sender.release(run.id, 0)
    sender.send(a_command().model_copy(update={"attempt": 1}))
    with pytest.raises(Conflict, match="as attempt 2, not 1"):
        sender.release(run.id, 0)
    assert sender.release(run.id, 1).outcome is Outcome.MOVED


def test_attempts_are_counted_on_from_where_the_run_was(executor: Served) -> None:
    sender = client(executor)
    sender.send(a_command())
    run, _ = executor.claim()
    executor.store.advance(run.id, Requeued(Reason.PREEMPTED), token=run.token)
    moved = sender.release(run.id, 0)
    assert (moved.attempt, next_attempt(moved)) == (1, 1)
    elsewhere = a_command(request="x").model_copy(update={"attempt": 5, "possible_duplicate": True})
    assert sender.send(elsewhere).command.possible_duplicate
    claimed, _ = executor.claim()
    assert claimed.attempt == 6
    assert [attempt.number for attempt in executor.store.attempts(elsewhere.run_id)] == [6]


def test_a_full_queue_keeps_a_run_from_coming_back(tmp_path: Path) -> None:
    with served(tmp_path / "state", queue_limit=1) as executor:
        executor.authorized.add(SENDER.public_key())
        sender = client(executor)
        run = sender.send(a_command())
        sender.release(run.id, 0)
        sender.send(a_command(request="other"))
        with pytest.raises(Busy):
            sender.send(a_command().model_copy(update={"attempt": 1}))
        assert executor.store.run(run.id).outcome is Outcome.MOVED


def test_a_release_is_on_the_disk_when_it_is_answered(executor: Served) -> None:
    run = client(executor).send(a_command())
    client(executor).release(run.id, 0)
    copy = Store(executor.state.store)
    assert copy.run(run.id).outcome is Outcome.MOVED
    copy.close()


def test_a_run_is_released_or_started_whoever_comes_first(executor: Served) -> None:
    sender = client(executor)
    runs = [sender.send(a_command(request=f"r{number}")) for number in range(24)]

    def release(run_id: str) -> str:
        try:
            sender.release(run_id, 0)
        except (Busy, Conflict):
            return ""
        return run_id

    def claim(_: int) -> str:
        claimed = executor.store.claim(slots=99, gpus=(), executor="lab-1")
        return claimed[0].id if claimed else ""

    with ThreadPoolExecutor(8) as threads:
        released = threads.map(release, [run.id for run in runs])
        claimed = threads.map(claim, range(24))
        gone, started = set(filter(None, released)), set(filter(None, claimed))
    assert not gone & started
    assert gone | started == {run.id for run in runs} - {
        run.id for run in executor.store.runs(states=[State.QUEUED], limit=99)
    }


# --- what is free -----------------------------------------------------------------------------------------


def test_how_long_a_job_took_is_told_to_who_may_send(executor: Served) -> None:
    client(executor).send(a_command())
    run, _ = executor.claim()
    executor.store.advance(run.id, Prepared(), token=run.token)
    executor.clock.advance(90)
    executor.store.advance(run.id, Exited(Reason.EXITED, 0), token=run.token)
    executor.service._paced = None  # it is kept for half a minute
    key = pace_key(run.command.repository, run.command.job.name)
    assert [(one.job, one.seconds) for one in client(executor).challenge().capacity.paces] == [(key, 90.0)]


def test_free_is_what_no_waiting_run_will_take(tmp_path: Path) -> None:
    gpus = (a_gpu(0, memory=8 << 30), a_gpu(1, memory=24 << 30))
    with served(tmp_path / "state", slots=4, gpus=gpus) as executor:
        executor.authorized.add(SENDER.public_key())
        sender = client(executor)
        free = sender.challenge().capacity
        assert (free.free_slots, free.free_gpus) == (4, 2)
        assert [(gpu.memory, gpu.room, gpu.whole) for gpu in free.free] == [
            (8 << 30, 7 << 30, True),
            (24 << 30, 23 << 30, True),
        ]
        sender.send(a_command(job=a_spec(resources=Resources(gpus=1, gpu_memory=16 << 30))))
        sender.send(a_command(request="cpu"))
        free = sender.challenge().capacity
        assert (free.free_slots, [gpu.memory for gpu in free.free], free.queued) == (3, [8 << 30], 2)
        sender.send(a_command(request="both", job=a_spec(resources=Resources(gpus=2))))
        free = sender.challenge().capacity
        assert (free.free_slots, free.free_gpus, free.at) == (3, 0, executor.clock())


# --- the event stream -------------------------------------------------------------------------------------


class Ear:
    """A listener in a thread."""

    def __init__(self, sender: ExecutorClient) -> None:
        self.heard: list[CapacityFrame | RunFrame] = []
        self.trouble: Exception | None = None
        self._way: list[object] = []
        self.sender = sender
        self.thread = threading.Thread(target=self._listen)
        self.thread.start()

    def _listen(self) -> None:
        try:
            for frame in self.sender.events(self._way.append):
                self.heard.append(frame)
        except Exception as error:  # noqa: BLE001  the test looks at it
            self.trouble = error

    def spoke(self) -> bool:
        return bool(self.heard or self.trouble)

    def close(self) -> None:
        for way in self._way:
            way()  # type: ignore[operator]
        self.thread.join(10)
        assert not self.thread.is_alive()

    def capacities(self) -> list[CapacityFrame]:
        return [frame for frame in self.heard if isinstance(frame, CapacityFrame)]


def listening(executor: Served) -> Ear:
    """A listener that hears something; the executor may not have noticed yet that the last one is gone."""
    while True:
        ear = Ear(client(executor))
        wait_until(ear.spoke)
        if not isinstance(ear.trouble, Busy):
            return ear


@pytest.fixture
def ear(executor: Served) -> Iterator[Ear]:
    one = Ear(client(executor))
    wait_until(lambda: one.heard)
    yield one
    one.close()


def test_what_is_free_is_told_at_once_and_whenever_it_changes(executor: Served, ear: Ear) -> None:
    assert ear.capacities()[0].capacity.free_slots == 1
    mine = client(executor).send(a_command())
    wait_until(lambda: ear.capacities()[-1].waiting == (mine.id,))
    assert ear.capacities()[-1].capacity.free_slots == 0
    other = client(executor, OTHER).send(a_command(request="other"))
    wait_until(lambda: ear.capacities()[-1].capacity.queued == 2)
    assert ear.capacities()[-1].waiting == (mine.id,), "other people's runs are nobody's business"
    assert ear.capacities()[-1].whole
    executor.claim()
    wait_until(lambda: ear.capacities()[-1].waiting == ())
    assert other.id not in {frame.run_id for frame in ear.heard if isinstance(frame, RunFrame)}


def test_how_a_run_ended_is_told(executor: Served, ear: Ear) -> None:
    run = client(executor).send(a_command())
    end(executor)
    told = wait_until(lambda: [frame for frame in ear.heard if isinstance(frame, RunFrame)])
    assert told == [RunFrame(run_id=run.id, state=State.DONE, outcome=Outcome.SUCCEEDED)]


def test_a_run_of_a_repository_that_is_not_ones_own_is_not_told_of(
    executor: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "BEAT", 0.3)
    executor.authorized.add(OTHER.public_key(), repositories=["github.com/somebody/*"])
    ear = Ear(client(executor, OTHER))
    wait_until(lambda: ear.heard)
    client(executor).send(a_command())
    end(executor)
    wait_until(lambda: len(ear.heard) > 1)
    assert len(ear.capacities()) == len(ear.heard)
    ear.close()


def test_many_changes_are_a_few_lines(executor: Served, ear: Ear) -> None:
    begun = time.monotonic()
    for number in range(150):
        client(executor).send(a_command(request=f"r{number}"))
    wait_until(lambda: ear.capacities()[-1].capacity.queued == 150)
    assert len(ear.heard) <= 10 * (time.monotonic() - begun) + 3
    last = ear.capacities()[-1]
    assert (len(last.waiting), last.whole) == (MAX_TOLD, False)
    assert last.waiting[0] == a_command(request="r149").run_id


def test_silence_is_broken_by_the_same_again(executor: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "BEAT", 0.05)
    ear = Ear(client(executor))
    wait_until(lambda: len(ear.heard) >= 3)
    assert len(set(ear.heard)) == 1
    ear.close()


def test_a_listener_that_closes_is_gone_at_once(executor: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "MAX_STREAMS_PER_KEY", 1)
    for _ in range(3):
        ear = listening(executor)
        begun = time.monotonic()
        ear.close()
        assert time.monotonic() - begun < 2
        assert isinstance(ear.trouble, Unreachable)


def test_whose_key_is_taken_away_hears_no_more(executor: Served) -> None:
    sender = client(executor, OTHER)
    ear = Ear(sender)
    wait_until(lambda: ear.heard)
    executor.state.authorized.write_text("")
    executor.tell("0" * 32)
    wait_until(lambda: ear.trouble)
    with pytest.raises(Unauthorized):
        sender.challenge()
    ear.close()


def test_who_may_only_read_hears_nothing(executor: Served) -> None:
    executor.authorized.add(OTHER.public_key(), scopes=[Scope.READ])
    with pytest.raises(Forbidden, match="may not send"):
        next(client(executor, OTHER).events())


def test_the_streams_of_one_key_are_bounded(executor: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "MAX_STREAMS_PER_KEY", 1)
    first = Ear(client(executor))
    wait_until(lambda: first.heard)
    with pytest.raises(Busy):
        next(client(executor).events())
    assert client(executor, OTHER).id == fingerprint(executor.key.public_key())
    first.close()


def test_an_event_stream_counts_on_the_executors_clock(executor: Served, ear: Ear) -> None:
    assert isinstance(executor.clock, Clock)
    executor.clock.advance(5)
    run = client(executor).send(a_command())
    wait_until(lambda: ear.capacities()[-1].waiting)
    assert ear.capacities()[-1].capacity.at >= run.updated_at == executor.clock()
