"""No run waits longer than a minute while an executor that fits it idles: hours of simulated trouble.

The sender's rounds are the real ones, over a real store; the network and the executors live on a clock that
is moved from event to event. A dead executor's address takes ten seconds to time out, a stream that died
silently is noticed after 35, and nobody tells that an executor is back.
"""

import heapq
import tempfile
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from pushtrain.core.errors import Unreachable
from pushtrain.core.values.card import Challenge
from pushtrain.core.values.command import TrainCommand
from pushtrain.core.values.run import Run
from pushtrain.core.wire.frames import CapacityFrame
from pushtrain.plumbing.sqlite.store import Store
from pushtrain.sender.rounds import Rounds
from pushtrain.sender.watch import Watch
from pushtrain.testing import NOON, SENDER, Clock, a_capacity, a_card, a_command, a_run

TRIP, TIMEOUT, SILENCE = 0.2, 10.0, 35.0
LONGEST = 60.0
END = 1500.0


class Lab:
    """One slot; a run takes it for as long as the run says."""

    def __init__(self, name: str, world: "World") -> None:
        self.id = self.url = name
        self.card = a_card(name=name)
        self.world = world
        self.up = True
        self.taken = 0
        self.stream = 0

    @property
    def idle(self) -> bool:
        return self.up and self.taken == 0

    def challenge(self) -> Challenge:
        return Challenge(nonce="n", card=self.card, capacity=self.frame().capacity, version="0", protocol=1)

    def frame(self) -> CapacityFrame:
        return CapacityFrame(
            capacity=a_capacity(free_slots=int(self.taken == 0), running=self.taken, at=self.world.clock())
        )

    def send(self, command: TrainCommand) -> Run:
        if not self.up:
            raise Unreachable("It does not answer.", sent=False)
        self.take(float(command.request.partition("-")[2]))
        now = self.world.clock()
        return a_run(command, sender=SENDER, accepted_at=now, updated_at=now)

    def take(self, seconds: float) -> None:
        """Somebody's run takes the slot."""
        self.taken += 1
        self.tell()
        self.world.later(seconds, self.free)

    def free(self) -> None:
        self.taken -= 1
        self.tell()

    def tell(self) -> None:
        if self.up and self.stream:
            number = self.stream
            self.world.later(TRIP, lambda: self.world.told(self, number))

    def go(self, *, up: bool) -> None:
        self.up = up
        if not up and self.stream:
            number, self.stream = self.stream, 0
            self.world.later(SILENCE, lambda: self.world.broke(self, number))

    def release(self, run_id: str, attempt: int) -> Run:
        raise AssertionError(f"nothing waits at an executor here: {run_id} {attempt}")

    def events(self, opened: Callable[[Callable[[], None]], None] | None = None) -> Any:
        raise AssertionError(f"the world tells: {opened}")


class World:
    """A sender, its executors, and what happens when."""

    def __init__(self, folder: Path, names: str) -> None:
        self.clock = Clock()
        self.store = Store(folder / "store.db", clock=self.clock)
        self.labs = {name: Lab(name, self) for name in names}
        self.rounds = Rounds(
            self.store,
            lambda: [(lab, None) for lab in self.labs.values()],
            clock=self.clock,
            ticks=self.clock,
            jitter=lambda: 1.0,
        )
        self.agenda: list[tuple[float, int, Callable[[], None]]] = []
        self.numbers = count()
        self.watched: set[str] = set()
        self.idle_since: float | None = None
        self.worst = 0.0

    def later(self, seconds: float, work: Callable[[], None]) -> None:
        heapq.heappush(self.agenda, (self.clock() + seconds, next(self.numbers), work))

    def told(self, lab: Lab, number: int) -> None:
        watch = object.__new__(Watch)
        watch.executor, watch.number = lab, number
        self.rounds._told(watch, lab.frame())

    def broke(self, lab: Lab, number: int) -> None:
        self.rounds.board.broke(lab.id, number, "The stream is silent.")
        self.watched.discard(lab.id)

    def push(self, name: str) -> None:
        self.store.settle_push(None, [a_command(request=name)], "pushed")

    def run(self, until: float) -> None:
        wake = 0.0
        while self.clock() < NOON + until:
            wake = self.clock() + min(self.round(), END)
            self.judge()
            at = min(wake, self.agenda[0][0] if self.agenda else wake)
            self.clock.advance(max(0.001, at - self.clock()))
            while self.agenda and self.agenda[0][0] <= self.clock():
                heapq.heappop(self.agenda)[2]()
            self.judge()

    def round(self) -> float:
        """What `Rounds` does between two looks, with this world's network."""
        plan, found = self.rounds._look()
        for name in plan.ask:
            self.rounds.board.asking(name)
            self.later(TRIP if self.labs[name].up else TIMEOUT, lambda lab=self.labs[name]: self.answer(lab))  # type: ignore[misc]
        for name in self.watched - plan.watch:
            self.rounds.board.closed(name)
            self.labs[name].stream = 0
        for name in plan.watch - self.watched:
            self.open(self.labs[name])
        self.watched = set(plan.watch)
        for run_id, name in plan.deliver:
            self.rounds.errands.deliver(found[run_id], name)
        return 0.0 if plan.deliver else plan.again_in if plan.again_in is not None else END

    def answer(self, lab: Lab) -> None:
        if lab.up:
            self.rounds.board.answered(lab.id, lab.challenge())
        else:
            self.rounds.board.failed(lab.id, "It does not answer.")

    def open(self, lab: Lab) -> None:
        number = self.rounds.board.opening(lab.id)
        if lab.up:
            lab.stream = number
            self.later(TRIP, lambda: self.told(lab, number))
        else:
            self.later(TIMEOUT, lambda: self.broke(lab, number))

    def judge(self) -> None:
        """Nobody waits for a minute while an executor idles."""
        waits = bool(self.store.outbox(states=("waiting",), limit=1))
        if not (waits and any(lab.idle for lab in self.labs.values())):
            self.idle_since = None
        elif self.idle_since is None:
            self.idle_since = self.clock()
        else:
            self.worst = max(self.worst, self.clock() - self.idle_since)
            assert self.worst <= LONGEST, f"{self.worst:.1f} s: {self.rounds.board.seen()}"


TIMES = st.floats(0, END / 2).map(lambda seconds: round(seconds, 1))
OUTAGES = st.lists(st.tuples(st.sampled_from("abc"), TIMES, st.floats(0.5, 400)), max_size=6)
TAKEN = st.lists(st.tuples(st.sampled_from("abc"), TIMES, st.floats(0.5, 300)), max_size=5)
PUSHES = st.lists(st.tuples(TIMES, st.floats(0.1, 100)), min_size=1, max_size=8)


@example(outages=[("a", 0, 400), ("b", 5, 390), ("c", 0, 1000)], taken=[("b", 0, 3)], pushes=[(6.0, 50.0)])
@given(outages=OUTAGES, taken=TAKEN, pushes=PUSHES)
@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
def test_no_run_waits_for_a_minute_while_an_executor_that_fits_idles(
    outages: list[tuple[str, float, float]],
    taken: list[tuple[str, float, float]],
    pushes: list[tuple[float, float]],
) -> None:
    with tempfile.TemporaryDirectory(prefix="pushtrain-test-") as folder:
        world = World(Path(folder), "abc")
        for name, at, seconds in outages:
            lab = world.labs[name]
            world.later(at, lambda lab=lab: lab.go(up=False))  # type: ignore[misc]
            world.later(at + seconds, lambda lab=lab: lab.go(up=True))  # type: ignore[misc]
        for name, at, seconds in taken:
            world.later(at, lambda lab=world.labs[name], seconds=seconds: lab.take(seconds))  # type: ignore[misc]
        for number, (at, seconds) in enumerate(pushes):
            world.later(at, lambda text=f"{number}-{seconds}": world.push(text))  # type: ignore[misc]
        world.run(END)
        world.store.close()


def test_an_hour_without_anything_to_do_makes_no_request_and_opens_no_stream(tmp_path: Path) -> None:
    world = World(tmp_path, "abc")
    world.push("0-1")
    world.run(10)
    assert not world.store.outbox(states=("waiting",))

    def never(*_: object) -> None:
        raise AssertionError("a request")

    for name in ("asking", "opening"):
        pytest.MonkeyPatch().setattr(world.rounds.board, name, never)
    world.run(3600)
    assert (world.watched, world.agenda) == (set(), [])
    world.store.close()
