"""The rounds of a running sender: executors that are busy, dead, too small, slow, full, or come back."""

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pushtrain.core.errors import Busy, ConfigError, Conflict, Draining, Forbidden, StorageError, Unreachable
from pushtrain.core.values.card import FreeGpu
from pushtrain.core.values.command import TrainCommand
from pushtrain.core.values.jobspec import Resources
from pushtrain.core.values.run import Run
from pushtrain.core.wire.frames import CapacityFrame
from pushtrain.plumbing.sqlite.outbox import Outgoing
from pushtrain.plumbing.sqlite.store import Store
from pushtrain.sender import board
from pushtrain.sender import rounds as rounds_module
from pushtrain.sender.kept import Entry, KeptCommands
from pushtrain.sender.rounds import Rounds
from pushtrain.testing import NOON, Clock, a_capacity, a_command, a_gpu, a_spec, eventually
from sender_world import ScriptedExecutor

FREE, BUSY = a_capacity(), a_capacity(free_slots=0, running=1)


class Sender:
    """Rounds over a real store, with executors that do what the test says."""

    def __init__(self, folder: Path, *executors: ScriptedExecutor) -> None:
        self.folder = folder
        self.executors = list(executors)
        self.clock = Clock()
        self.jumped = 0.0
        """Seconds by which the clock went ahead while no time passed."""
        self.store = Store(folder / "store.db", clock=self.clock)
        self.rounds = self.begin()

    def begin(self) -> Rounds:
        """A sender that knows what is on the disk."""
        self.store.close()
        self.store = Store(self.folder / "store.db", clock=self.clock)
        self.rounds = Rounds(
            self.store,
            lambda: [(executor, None) for executor in self.executors],
            clock=self.clock,
            ticks=lambda: time.monotonic() + self.clock() - NOON - self.jumped,
            jitter=lambda: 0.0,
        )
        return self.rounds

    def push(self, *commands: TrainCommand) -> list[str]:
        self.store.settle_push(None, commands or (a_command(),), "pushed")
        self.rounds.wake()
        return [command.run_id for command in commands or (a_command(),)]

    def state(self, run_id: str) -> str:
        return self.store.outgoing(run_id).state

    def out(self, run_id: str) -> Outgoing:
        return self.store.outgoing(run_id)

    def play(self, story: Callable[[], Any]) -> None:
        """Tell a story while rounds are made."""

        async def both() -> None:
            task = asyncio.create_task(self.rounds.run())
            try:
                await story()
                assert not task.done()
            finally:
                task.cancel()
                await asyncio.wait([task])
                if not task.cancelled():
                    task.result()

        asyncio.run(both())


@pytest.fixture
def sender(tmp_path: Path) -> Iterator[Sender]:
    made = Sender(tmp_path)
    yield made
    made.store.close()


def lab(name: str, **capacity: Any) -> ScriptedExecutor:
    made = ScriptedExecutor(name)
    made.capacity = a_capacity(**capacity)
    return made


async def quiet(*executors: ScriptedExecutor, seconds: float = 0.3) -> None:
    """Nothing is asked, sent or opened for a while, and no stream is open."""
    await eventually(lambda: not any(executor.streams for executor in executors), what="streams to close")
    before = [(executor.asked, executor.opened, len(executor.received)) for executor in executors]
    await asyncio.sleep(seconds)
    assert [(executor.asked, executor.opened, len(executor.received)) for executor in executors] == before


async def quiet_but_for_streams(*executors: ScriptedExecutor, seconds: float = 0.2) -> None:
    """Nothing is asked, sent, opened or closed for a while."""
    before = [(one.asked, one.opened, len(one.received), len(one.streams)) for one in executors]
    await asyncio.sleep(seconds)
    assert [(one.asked, one.opened, len(one.received), len(one.streams)) for one in executors] == before


async def counted(count: Callable[[], int], wanted: int) -> None:
    await eventually(lambda: count() == wanted, what=f"{wanted}, not {count()}")


@pytest.mark.parametrize("told_by", ["refusal", "card"])
def test_what_a_draining_executor_does_not_take_goes_to_another_one_at_once(
    sender: Sender, told_by: str
) -> None:
    draining, other = lab("draining", slots=8, free_slots=8), lab("other")
    if told_by == "refusal":
        draining.refusal = Draining("It drains.")
    else:
        draining.card = draining.card.model_copy(update={"draining": True})
    sender.executors = [draining, other]

    async def story() -> None:
        (run_id,) = sender.push()
        await eventually(lambda: run_id in other.accepted, what="the run at the other one")
        assert sender.out(run_id).executor == other.id
        assert draining.accepted == {}

    sender.play(story)


def test_what_only_a_draining_executor_could_take_waits_and_says_so(
    sender: Sender, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(board, "_FULL", 0.2)
    one = lab("lab")
    one.card = one.card.model_copy(update={"draining": True})
    sender.executors = [one]

    async def story() -> None:
        (run_id,) = sender.push()
        await eventually(lambda: sender.out(run_id).detail == "lab is draining", what="why it waits")
        assert one.received == []
        one.card = one.card.model_copy(update={"draining": False})
        await eventually(lambda: run_id in one.accepted, what="the run there")

    sender.play(story)


def test_of_three_executors_one_is_dead_one_busy_one_too_small(sender: Sender) -> None:
    dead, busy, small = lab("dead"), lab("busy", free_slots=0), lab("small")
    gpu = (a_gpu(memory=24 << 30),)
    for one, gpus in ((dead, gpu), (busy, gpu), (small, (a_gpu(memory=8 << 30),))):
        one.card = one.card.model_copy(update={"gpus": gpus})
    dead.down = True
    sender.executors = [dead, busy, small]
    job = a_spec(resources=Resources(gpus=1, gpu_memory=16 << 30))

    async def story() -> None:
        (run_id,) = sender.push(a_command(job=job))
        await eventually(lambda: "small" in sender.out(run_id).detail and busy.streams)
        assert sender.out(run_id).detail == (
            "busy is busy; dead does not answer; small has 0 GPUs of at least 17.1799 GB; the job asks for 1"
        )
        assert (small.received, small.opened, busy.received) == ([], 0, [])
        busy.capacity = a_capacity(free_gpus=1, free=(FreeGpu(memory=24 << 30),))
        begun = time.monotonic()
        busy.tell()
        await eventually(lambda: busy.received == [run_id])
        assert time.monotonic() - begun < 1
        await eventually(lambda: sender.state(run_id) == "started")
        await quiet(dead, busy, small)

    sender.play(story)


def test_a_delivery_takes_one_question_and_one_command(sender: Sender) -> None:
    sender.executors = [lab("a"), lab("b", free_slots=0)]

    async def story() -> None:
        (run_id,) = sender.push()
        await eventually(lambda: sender.state(run_id) == "started")
        assert [(one.asked, len(one.received)) for one in sender.executors] == [(1, 1), (1, 0)]
        assert [one.opened for one in sender.executors] == [1, 0]
        await quiet(*sender.executors)

    sender.play(story)


def test_the_only_executor_gets_everything_at_once_whatever_it_has_free(sender: Sender) -> None:
    only = lab("only", free_slots=0, queued=7)
    sender.executors = [only]

    async def story() -> None:
        sender.push(*(a_command(request=f"r{number}") for number in range(40)))
        await eventually(lambda: len(only.received) == 40)
        await quiet(only)
        assert (only.asked, only.opened) == (1, 0)
        assert len(set(only.received)) == 40

    sender.play(story)


def test_runs_wait_here_in_their_order_and_leave_one_by_one(sender: Sender) -> None:
    one, two = lab("one", free_slots=0), lab("two", free_slots=0)
    sender.executors = [one, two]

    async def story() -> None:
        run_ids = sender.push(*(a_command(request=f"r{number}") for number in range(3)))
        await eventually(lambda: one.streams and two.streams)
        for number, executor in enumerate((one, two, one)):
            executor.capacity = FREE
            executor.tell()
            await counted(lambda: len(one.received + two.received), number + 1)
            executor.capacity = BUSY
            executor.tell()
        assert [*one.received[:1], *two.received, *one.received[1:]] == run_ids

    sender.play(story)


def test_a_stream_that_is_cut_is_opened_again(sender: Sender, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(board, "_FIRST_PAUSE", 0.05)
    one, two = lab("one", free_slots=0), lab("two", free_slots=0)
    sender.executors = [one, two]

    async def story() -> None:
        (run_id,) = sender.push()
        for count in (1, 2, 3):
            await counted(lambda: one.opened, count)
            await eventually(lambda: one.streams)
            one.cut()
        one.capacity = FREE
        await eventually(lambda: run_id in one.received)

    sender.play(story)


def test_an_executor_that_comes_back_is_found(sender: Sender, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(board, "_FIRST_PAUSE", 0.05)
    one, two = lab("one", free_slots=0), lab("two")
    two.down = True
    sender.executors = [one, two]

    async def story() -> None:
        (run_id,) = sender.push()
        await eventually(lambda: two.asked >= 2)
        two.down = False
        await eventually(lambda: run_id in two.received)

    sender.play(story)


def test_a_slow_executor_holds_up_nobody(sender: Sender, monkeypatch: pytest.MonkeyPatch) -> None:
    slow, quick = lab("slow"), lab("quick")
    gate = threading.Event()
    challenge = slow.challenge

    def wait() -> Any:
        assert gate.wait(20)
        return challenge()

    monkeypatch.setattr(slow, "challenge", wait)
    sender.executors = [slow, quick]

    async def story() -> None:
        (run_id,) = sender.push()
        await eventually(lambda: run_id in quick.received)
        gate.set()
        await eventually(lambda: sender.state(run_id) == "started")

    sender.play(story)


def test_a_full_executor_is_left_alone_for_a_while(sender: Sender) -> None:
    full, busy = lab("full", running=0), lab("busy", free_slots=0)
    full.refusal = Busy("full has no room.")
    sender.executors = [full, busy]

    async def story() -> None:
        (run_id,) = sender.push()
        await eventually(lambda: sender.out(run_id).detail == "busy is busy; full has no room")
        asked = full.asked
        await asyncio.sleep(0.2)
        assert full.asked == asked
        busy.capacity = FREE
        busy.tell()
        await eventually(lambda: run_id in busy.received)

    sender.play(story)


def test_a_run_that_everybody_refuses_says_why(sender: Sender) -> None:
    sender.executors = [lab("a"), lab("b")]
    for one in sender.executors:
        one.refusal = Forbidden("Not here.")

    async def story() -> None:
        (run_id,) = sender.push()
        await eventually(lambda: sender.state(run_id) == "refused")
        assert sender.out(run_id).detail == "Not here."
        await quiet(*sender.executors)

    sender.play(story)


def test_a_lost_answer_keeps_the_run_from_others_until_the_executor_was_silent_for_an_hour(
    sender: Sender,
) -> None:
    first, second = lab("first"), lab("second", running=3)
    first.loses_answers = True
    sender.executors = [first, second]

    async def story() -> None:
        (run_id,) = sender.push()
        await eventually(lambda: sender.out(run_id).tries)
        first.down = True
        sender.clock.advance(3000)
        sender.rounds.wake()
        await eventually(lambda: "first may have it" in sender.out(run_id).detail)
        assert second.received == []
        sender.clock.advance(700)
        sender.rounds.wake()
        await eventually(lambda: second.received)
        command = second.accepted[run_id]
        assert (command.possible_duplicate, command.attempt) == (True, 1)

    sender.play(story)


@pytest.mark.parametrize("comes_back", [True, False])
def test_after_eight_hours_of_sleep_a_silent_executor_keeps_its_run_for_minutes_more(
    sender: Sender, comes_back: bool
) -> None:
    """The network of a machine that has just woken up takes a while: that is no silence of the executor's."""
    first, second = lab("first"), lab("second", running=3)
    first.loses_answers = True
    sender.executors = [first, second]

    async def story() -> None:
        (run_id,) = sender.push()
        await eventually(lambda: sender.out(run_id).tries)
        first.down = True
        asked = first.asked
        sender.jumped += 8 * 3600
        sender.clock.advance(8 * 3600)
        sender.rounds.wake()
        await eventually(lambda: first.asked > asked and "may have it" in sender.out(run_id).detail)
        assert second.received == []
        if comes_back:
            first.down = first.loses_answers = False
            sender.clock.advance(30)
            sender.rounds.wake()
            await eventually(lambda: first.received.count(run_id) == 2, what="the same executor again")
            assert second.received == []
        else:
            sender.clock.advance(310)
            sender.rounds.wake()
            await eventually(lambda: second.received)
            assert second.accepted[run_id].possible_duplicate

    sender.play(story)


def test_a_clock_that_is_set_back_an_hour_holds_up_no_command(sender: Sender) -> None:
    one = lab("lab")
    one.refusal = StorageError("Its disk is full.")
    sender.executors = [one]

    async def story() -> None:
        (run_id,) = sender.push()
        await eventually(lambda: sender.out(run_id).tries)
        one.refusal = None
        sender.jumped -= 3600
        sender.clock.advance(-3600)
        sender.rounds.wake()
        await eventually(lambda: run_id in one.accepted, what="the run there")

    sender.play(story)


def test_what_was_taken_before_an_executors_clock_was_set_back_takes_no_room_any_more() -> None:
    one = lab("lab", slots=1, free_slots=1)
    known = board.Board(clock=lambda: 0.0)
    known.know([(one, None)])
    number = known.opening(one.id)
    command = a_command()
    known.sent(one.id, command)
    known.accepted(one.id, command, NOON)

    def free(at: float) -> int:
        known.told(one.id, number, CapacityFrame(capacity=a_capacity(free_slots=1, at=at), waiting=()))
        (seen,) = known.seen()
        assert seen.capacity is not None
        return seen.capacity.free_slots

    assert free(NOON - 1) == 0, "told before it took the command on"
    assert free(NOON - 3600) == 1, "its clock was set back since"


# --- recall -----------------------------------------------------------------------------------------------


def ahead(sender: Sender, monkeypatch: pytest.MonkeyPatch) -> tuple[ScriptedExecutor, ScriptedExecutor, str]:
    """A run was delivered ahead to the only executor, where it waits; now there is another one, idle."""
    monkeypatch.setattr("pushtrain.sender.placement.RECALL_AFTER", 0.05)
    busy, idle = lab("busy", free_slots=0), lab("idle")
    sender.executors = [busy]

    async def story() -> None:
        (run_id,) = sender.push()
        await eventually(lambda: sender.state(run_id) == "delivered")
        busy.waiting = [run_id]

    sender.play(story)
    sender.executors.append(idle)
    sender.begin()
    return busy, idle, a_command().run_id


def test_a_run_that_waits_at_a_busy_executor_is_recalled_for_an_idle_one(
    sender: Sender, monkeypatch: pytest.MonkeyPatch
) -> None:
    busy, idle, run_id = ahead(sender, monkeypatch)

    async def story() -> None:
        await eventually(lambda: run_id in idle.received)
        await eventually(lambda: sender.state(run_id) == "started")
        await quiet(busy, idle)

    sender.play(story)
    assert busy.released == [run_id]
    assert idle.accepted[run_id].attempt == 1
    assert not idle.accepted[run_id].possible_duplicate


def test_a_run_is_not_recalled_again_and_again_for_one_that_refuses_it(
    sender: Sender, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It went to and fro every five seconds, as an attempt each time, for as long as the busy one was."""
    busy, idle, run_id = ahead(sender, monkeypatch)
    idle.refusal = ConfigError("It has 2 processor cores; the job asks for 64.")
    send = busy.send

    def waits_again(command: TrainCommand) -> Run:
        run = send(command)
        busy.waiting.append(command.run_id)
        return run

    monkeypatch.setattr(busy, "send", waits_again)

    async def story() -> None:
        await counted(lambda: len(busy.received), 2)
        await quiet(busy, idle)
        assert busy.released == [run_id]
        idle.refusal = None
        sender.clock.advance(3601)
        sender.rounds.wake()
        await eventually(lambda: run_id in idle.received)

    sender.play(story)


def test_a_recall_whose_answer_is_lost_is_repeated_before_anything_is_sent(
    sender: Sender, monkeypatch: pytest.MonkeyPatch
) -> None:
    busy, idle, run_id = ahead(sender, monkeypatch)
    busy.release_fails = Unreachable("The answer was lost.")

    async def story() -> None:
        await eventually(lambda: sender.out(run_id).tries and sender.state(run_id) == "recalling")
        assert idle.received == []
        busy.release_fails = None
        sender.clock.advance(60)
        sender.rounds.wake()
        await eventually(lambda: run_id in idle.received)

    sender.play(story)
    assert busy.released == [run_id]


def test_a_recall_that_is_put_off_for_hours_is_no_silence(
    sender: Sender, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A checkpoint that took more than an hour to be brought away: its run was begun anew, as a duplicate."""
    busy, idle, run_id = ahead(sender, monkeypatch)
    busy.release_fails = Busy("It is on its way.")

    async def story() -> None:
        for tries in range(1, 6):
            await counted(lambda: sender.out(run_id).tries, tries)
            sender.clock.advance(1000)
            sender.rounds.wake()
        assert sender.state(run_id) == "recalling"
        assert idle.received == []

    sender.play(story)


def test_a_run_that_starts_before_it_is_recalled_stays(
    sender: Sender, monkeypatch: pytest.MonkeyPatch
) -> None:
    busy, idle, run_id = ahead(sender, monkeypatch)

    def started(run: str, attempt: int) -> Any:
        raise Conflict(f"{run} is running as attempt {attempt + 1}.")

    monkeypatch.setattr(busy, "release", started)

    async def story() -> None:
        await eventually(lambda: sender.state(run_id) == "started")
        await quiet(busy, idle)

    sender.play(story)
    assert idle.received == []


def test_a_sender_that_dies_between_release_and_sending_sends_it_when_it_is_back(
    sender: Sender, monkeypatch: pytest.MonkeyPatch
) -> None:
    busy, idle, run_id = ahead(sender, monkeypatch)
    release = busy.release

    def dies(run: str, attempt: int) -> Any:
        release(run, attempt)
        raise Unreachable("The sender died before it heard the answer.")

    monkeypatch.setattr(busy, "release", dies)

    async def first() -> None:
        await eventually(lambda: sender.out(run_id).tries)

    sender.play(first)
    assert (busy.released, sender.state(run_id), idle.received) == ([run_id], "recalling", [])
    monkeypatch.setattr(busy, "release", release)
    sender.begin()
    sender.clock.advance(60)

    async def second() -> None:
        await eventually(lambda: run_id in idle.received)

    sender.play(second)
    assert len(busy.received) == len(idle.received) == 1


def test_a_recall_that_is_never_answered_makes_a_possible_duplicate_after_an_hour(
    sender: Sender, monkeypatch: pytest.MonkeyPatch
) -> None:
    busy, idle, run_id = ahead(sender, monkeypatch)
    busy.release_fails = Unreachable("The answer was lost.")

    async def story() -> None:
        await eventually(lambda: sender.state(run_id) == "recalling" and sender.out(run_id).tries)
        busy.down = True
        sender.clock.advance(3700)
        sender.rounds.wake()
        await eventually(lambda: run_id in idle.received)

    sender.play(story)
    assert idle.accepted[run_id].possible_duplicate


def test_what_has_begun_is_not_recalled_and_nobody_listens_any_more(
    sender: Sender, monkeypatch: pytest.MonkeyPatch
) -> None:
    busy, idle, run_id = ahead(sender, monkeypatch)
    busy.waiting = []

    async def story() -> None:
        await eventually(lambda: sender.state(run_id) == "started")
        await quiet(busy, idle)

    sender.play(story)
    assert (busy.released, idle.asked) == ([], 0)


def test_what_is_prepared_is_listened_for_and_recalled_when_it_waits_again(
    sender: Sender, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It counted as begun once it was claimed: where its machine was not ready, it stayed for a day."""
    unready, idle, run_id = ahead(sender, monkeypatch)
    unready.waiting, unready.preparing = [], [run_id]

    async def story() -> None:
        await eventually(lambda: unready.streams, what="somebody who listens")
        unready.tell()
        await quiet_but_for_streams(unready, idle)
        assert sender.state(run_id) == "delivered"
        unready.capacity = FREE  # it has room, but no network
        unready.waiting, unready.preparing = [run_id], []
        unready.tell()
        await eventually(lambda: run_id in idle.received)
        await eventually(lambda: sender.state(run_id) == "started")
        await quiet(unready, idle)

    sender.play(story)
    assert (unready.released, idle.accepted[run_id].attempt) == ([run_id], 1)


def test_a_time_that_comes_right_after_the_look_at_the_outbox_is_not_slept_through(
    sender: Sender, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A command for later that was past due when it was asked for how long to sleep."""
    only = lab("only")
    only.refusal = StorageError("Its disk is full.")
    sender.executors = [only]
    look = sender.store.outbox_due

    def and_then_time_passes(*arguments: Any, **more: Any) -> list[Outgoing]:
        found = look(*arguments, **more)
        later = sender.store.outbox_next(after=sender.clock())
        if later is not None and not found:
            only.refusal = None
            sender.clock.advance(later - sender.clock() + 1)
        return found

    monkeypatch.setattr(sender.store, "outbox_due", and_then_time_passes)

    async def story() -> None:
        (run_id,) = sender.push()
        await eventually(lambda: run_id in only.accepted)

    sender.play(story)


def test_what_a_person_leaves_right_after_the_first_look_is_seen_soon(tmp_path: Path) -> None:
    """The folder is compared with how it was before the first look, not with how it is some time after it."""
    left, left_behind = a_command(), threading.Event()

    class Folder(KeptCommands):
        def left(self) -> Iterator[Entry]:
            yield from super().left()
            if not left_behind.is_set():
                entry = self.keep(left)
                assert entry
                entry.close()
                left_behind.set()

        def stamp(self) -> int:
            left_behind.wait(0.3)  # on a busy machine the first round may be the quicker one
            return super().stamp()

    only = lab("only")
    sender = Sender(tmp_path, only)
    sender.rounds = Rounds(sender.store, lambda: [(only, None)], kept=Folder(tmp_path / "outbox"))
    sender.play(lambda: eventually(lambda: left.run_id in only.accepted, what="the command there"))
    sender.store.close()


# --- trouble of one's own ---------------------------------------------------------------------------------


def test_a_store_that_fails_delays_and_loses_nothing(sender: Sender, monkeypatch: pytest.MonkeyPatch) -> None:
    only = lab("only")
    sender.executors = [only]
    due = sender.store.outbox_due
    failures = [1, 1]

    def fails(*arguments: Any, **more: Any) -> Any:
        if failures:
            failures.pop()
            raise StorageError("The disk is full.")
        return due(*arguments, **more)

    monkeypatch.setattr(sender.store, "outbox_due", fails)
    monkeypatch.setattr(rounds_module, "LONGEST_PAUSE", 0.1)

    async def story() -> None:
        (run_id,) = sender.push()
        await eventually(lambda: run_id in only.received)

    sender.play(story)
