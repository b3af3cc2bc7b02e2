"""No run is ever startable at two executors: a real sender's store and rounds, and whatever goes wrong.

The executors here keep their runs with the real lifecycle and lose answers when told to. The sender is killed
at any moment; what it knows afterwards is what its store says.
"""

import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from pushtrain.core.errors import Busy, Conflict, NotFound, Unreachable
from pushtrain.core.lifecycle import (
    Claimed,
    Event,
    Exited,
    Prepared,
    Published,
    Released,
    Requeued,
    Returned,
    advance,
    comes_back,
)
from pushtrain.core.values.card import Capacity, Challenge
from pushtrain.core.values.command import Checkpoint, Segment, TrainCommand
from pushtrain.core.values.run import Run
from pushtrain.core.values.states import Outcome, Reason, State
from pushtrain.core.wire.frames import CapacityFrame
from pushtrain.plumbing.sqlite.store import Store
from pushtrain.sender.rounds import Rounds, Work
from pushtrain.sender.watch import Watch
from pushtrain.testing import SENDER, Clock, a_capacity, a_card, a_command

NAMES = ("a", "b", "c")
FAULTS = st.lists(
    st.sampled_from(("", "", "", "lost before", "lost after", "killed before", "killed after")), max_size=6
)
LIVING = {State.QUEUED, State.PREPARING, State.RUNNING, State.PUBLISHING}


class Killed(BaseException):
    """The sender died here."""


class Lab:
    """An executor with one slot."""

    def __init__(self, name: str, clock: Clock) -> None:
        self.id = self.url = name
        self.card = a_card(name=name)
        self.clock = clock
        self.runs: dict[str, Run] = {}
        self.answers = "well"

    def challenge(self) -> Challenge:
        self._lose("before")
        return Challenge(nonce="n", card=self.card, capacity=self.frame().capacity, version="0", protocol=1)

    def send(self, command: TrainCommand) -> Run:
        self._lose("before")
        known = self.runs.get(command.run_id)
        now = self.clock.advance(0.001)
        if known is None:
            run = Run(
                id=command.run_id,
                command=command,
                sender=SENDER,
                attempt=command.attempt,
                accepted_at=now,
                updated_at=now,
            )
            self.runs[command.run_id] = run
        elif comes_back(known, command):
            self.runs[command.run_id] = advance(known, Returned(command, SENDER), now=now)
        self._lose("after")
        return self.runs[command.run_id]

    def release(self, run_id: str, attempt: int) -> Run:
        self._lose("before")
        if run_id not in self.runs:
            raise NotFound("There is none.")
        run = self.runs[run_id]
        if run.state is State.PREPARING and run.command.attempt == attempt:
            raise Busy("It may wait again.")
        if run.command.attempt != attempt or (run.state is not State.QUEUED and run.outcome != Outcome.MOVED):
            raise Conflict("It has started.")
        if run.state is State.QUEUED:
            tried = Segment(attempt=run.attempt, executor=self.id, began_at=self.clock(), reason=run.reason)
            left = Checkpoint(attempt=run.attempt, where="none", segments=(tried,))
            began = run.attempt > run.command.attempt
            run = run.model_copy(update={"checkpoint": left if began else None})
            self.runs[run_id] = advance(run, Released(), now=self.clock.advance(0.001))
        self._lose("after")
        return self.runs[run_id]

    def events(self, opened: Callable[[Callable[[], None]], None] | None = None) -> Iterator[CapacityFrame]:
        del opened
        yield from ()

    def _lose(self, moment: str) -> None:
        if self.answers == f"lost {moment}":
            raise Unreachable("The answer was lost.", sent=moment == "after")
        if self.answers == f"killed {moment}":
            raise Killed

    def frame(self) -> CapacityFrame:
        waiting = [run.id for run in self.runs.values() if run.state is State.QUEUED]
        active = [run for run in self.runs.values() if run.state in {State.PREPARING, State.RUNNING}]
        free = max(0, 1 - len(active) - len(waiting))
        capacity: Capacity = a_capacity(
            free_slots=free, queued=len(waiting), running=len(active), at=self.clock()
        )
        preparing = tuple(run.id for run in active if run.state is State.PREPARING)
        return CapacityFrame(capacity=capacity, waiting=tuple(reversed(waiting)), preparing=preparing)


class Deliveries(RuleBasedStateMachine):
    """Any order of rounds, answers, losses, deaths and work."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="pushtrain-test-"))
        self.clock = Clock()
        self.labs = {name: Lab(name, self.clock) for name in NAMES}
        self.known = list(NAMES)
        self.count = 0
        self.todo: list[tuple[Work, Any, str]] = []
        self.store = Store(self.folder / "store.db", clock=self.clock)
        self.begin()

    def teardown(self) -> None:
        self.store.close()
        shutil.rmtree(self.folder)

    def begin(self) -> None:
        self.todo.clear()
        self.rounds = Rounds(
            self.store,
            lambda: [(self.labs[name], None) for name in self.known],
            clock=self.clock,
            ticks=self.clock,
            jitter=lambda: 0.0,
        )

    @initialize(count=st.integers(1, 4), first=st.sampled_from(NAMES))
    def start_with_one_executor(self, count: int, first: str) -> None:
        self.known = [first]
        self.push(count)
        self.round([])

    @rule(count=st.integers(1, 3))
    def push(self, count: int) -> None:
        commands = [a_command(request=f"run-{self.count + number}") for number in range(count)]
        self.count += count
        self.store.settle_push(None, commands, "pushed")

    @rule(names=st.sets(st.sampled_from(NAMES), min_size=1))
    def know(self, names: set[str]) -> None:
        self.known = sorted(names)

    @rule(name=st.sampled_from(NAMES), how=st.sampled_from(("well", "well", "lost before", "lost after")))
    def answer(self, name: str, how: str) -> None:
        self.labs[name].answers = how

    @rule(seconds=st.sampled_from((1.0, 10.0, 10.0, 70.0, 4000.0)), faults=FAULTS)
    def round(self, faults: list[str], seconds: float = 0) -> None:
        """Time passes, everybody is asked and heard, and what is due is done; some of it goes wrong."""
        self.clock.advance(seconds)
        self.look()
        self.look()
        for fault in [*faults, *[""] * 8][:8]:
            if self.todo:
                self.do(fault)

    def look(self) -> None:
        plan, found = self.rounds._look()
        self.todo = [(self.rounds.errands.recall, found[run_id], name) for run_id, name in plan.recall]
        self.todo += [(self.rounds.errands.deliver, found[run_id], name) for run_id, name in plan.deliver]
        for name in plan.ask:
            try:
                self.rounds.board.answered(name, self.labs[name].challenge())
            except Unreachable as error:
                self.rounds.board.failed(name, str(error))
        for name in plan.watch:
            self.hear(name)

    def do(self, fault: str) -> None:
        work, out, name = self.todo.pop(0)
        lab, before = self.labs[name], self.labs[name].answers
        lab.answers = fault or before
        try:
            work(out, name)
        except Killed:
            self.begin()
        finally:
            lab.answers = before

    def hear(self, name: str) -> None:
        watch = object.__new__(Watch)
        watch.executor, watch.number = self.labs[name], self.rounds.board.opening(name)
        self.rounds._told(watch, self.labs[name].frame())

    @rule()
    def die(self) -> None:
        self.begin()

    @rule(name=st.sampled_from(NAMES), again=st.booleans(), ready=st.booleans())
    def work(self, name: str, again: bool, ready: bool) -> None:
        """The executor goes on with its oldest run by one step; it may turn out not to be ready for it."""
        lab, now = self.labs[name], self.clock.advance(0.001)
        active = next((run for run in lab.runs.values() if run.state in LIVING - {State.QUEUED}), None)
        if active is None:
            active = next((run for run in lab.runs.values() if run.state is State.QUEUED), None)
        if active is None:
            return
        events: dict[State, Event] = {
            State.QUEUED: Claimed("token"),
            State.PREPARING: Prepared() if ready else Requeued(Reason.UNREACHABLE, "Nobody answers."),
            State.RUNNING: Requeued(Reason.PREEMPTED) if again else Exited(Reason.EXITED, 0),
            State.PUBLISHING: Published("c" * 40, "runs/x"),
        }
        lab.runs[active.id] = advance(active, events[active.state], now=now)

    @invariant()
    def no_run_is_at_two_executors(self) -> None:
        for number in range(self.count):
            run_id = a_command(request=f"run-{number}").run_id
            there = [lab.runs[run_id] for lab in self.labs.values() if run_id in lab.runs]
            alive = [run for run in there if run.outcome is not Outcome.MOVED]
            assert len(alive) <= 1 or any(run.command.possible_duplicate for run in alive)

    @invariant()
    def no_run_is_forgotten(self) -> None:
        for number in range(self.count):
            out = self.store.outgoing(a_command(request=f"run-{number}").run_id)
            if out.state == "started" and out.executor in self.labs:
                run = self.labs[out.executor].runs[out.run_id]
                assert run.outcome is not Outcome.MOVED
            assert out.state != "refused"


TestDeliveries = Deliveries.TestCase
TestDeliveries.settings = settings(
    max_examples=40, stateful_step_count=60, deadline=None, suppress_health_check=list(HealthCheck)
)
