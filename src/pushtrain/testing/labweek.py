"""A week of a lab: machines whose owners come and go as people do, and a queue that is never empty.

The owners are drawn: most work at their desk on weekdays, in sessions of minutes to hours with breaks
between, some train something of their own over night, few come at the weekend. Where each run goes is decided
by `sender.placement`, on each machine a real store keeps and claims it, and the landlord is the real one.
What is drawn depends on the seed alone.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pushtrain.core.errors import Conflict
from pushtrain.core.lifecycle import next_attempt
from pushtrain.core.owner.lending import OwnerRules
from pushtrain.core.runs.room import told
from pushtrain.core.values.card import Capacity
from pushtrain.core.values.command import TrainCommand
from pushtrain.core.values.jobspec import Resources
from pushtrain.core.values.states import State
from pushtrain.plumbing.sqlite.outbox import Outgoing
from pushtrain.plumbing.sqlite.store import Store
from pushtrain.sender.placement import Given, Queued, Seen, decide
from pushtrain.testing import SENDER, a_card, a_command, a_spec
from pushtrain.testing.lab import Lab, Machine, Tally, Work
from pushtrain.testing.labparts import Kept

__all__ = ["Session", "Week", "sessions", "week"]

HOUR: Final = 3600.0
DAY: Final = 24 * HOUR
_TRIP: Final = 0.2
"""Seconds from a change at an executor until its sender has decided what follows."""
_DEEP: Final = 25
"""Runs that wait at least."""


@dataclass(frozen=True)
class Session:
    """An owner's time at one card, in seconds since Monday, 00:00."""

    card: int
    begin: float
    end: float
    memory: int


def sessions(rng: random.Random, *, days: int, cards: int) -> list[Session]:
    """How one owner uses their machine; no two sessions of one card overlap."""
    found: list[Session] = []
    works, trains = rng.random(), rng.random()
    for day in range(days):
        weekend = day % 7 >= 5  # noqa: PLR2004  Saturday and Sunday
        if rng.random() < (0.15 if weekend else 0.55 + 0.4 * works):
            found += _at_the_desk(rng, day * DAY, weekend=weekend)
        if cards and rng.random() < 0.15 * trains:  # something of their own, over night
            begin = day * DAY + rng.uniform(18, 21) * HOUR
            found.append(Session(cards - 1, begin, begin + rng.uniform(5, 13) * HOUR, 20 * 2**30))
    return list(_apart(found))


def _at_the_desk(rng: random.Random, midnight: float, *, weekend: bool) -> Iterator[Session]:
    at = midnight + rng.gauss(13 if weekend else 9.3, 0.8) * HOUR
    leaves = midnight + rng.gauss(16 if weekend else 18, 1.0) * HOUR
    while at < leaves:
        long = min(rng.lognormvariate(7.0, 1.0), 4 * HOUR)  # about 18 minutes, now and then hours
        yield Session(0, at, at + long, int(rng.uniform(1.5, 12) * 2**30))
        at += long + min(rng.lognormvariate(7.6, 0.9), 4 * HOUR)


def _apart(found: list[Session]) -> Iterator[Session]:
    free: dict[int, float] = {}
    for one in sorted(found, key=lambda each: each.begin):
        begin = max(one.begin, free.get(one.card, 0.0) + 1)
        if begin < one.end:
            free[one.card] = one.end
            yield Session(one.card, begin, one.end, one.memory)


@dataclass(frozen=True)
class Week:
    """What came of it."""

    tally: Tally
    idle: float
    """GPU-seconds in which no owner was at a card."""

    @property
    def used(self) -> float:
        """The part of them in which a run held the card."""
        return self.tally.held / self.idle

    @property
    def trained(self) -> float:
        """The part of them that was training which counts."""
        return self.tally.trained / self.idle


class _Sender:
    """Places runs by the real decision, with a view of the machines that is a moment old."""

    def __init__(self, lab: Lab, rng: random.Random, pairs: float) -> None:
        self._lab = lab
        self._rng = rng
        self._pairs = pairs
        self._waiting: dict[str, Outgoing] = {}
        self._there: dict[str, tuple[Outgoing, Machine]] = {}
        self._works: dict[str, Work] = {}
        self._planned = False

    def changed(self) -> None:
        """Something may be free."""
        if not self._planned:
            self._planned = True
            self._lab.later(_TRIP, self._place)

    def _place(self) -> None:
        self._planned = False
        while len(self._waiting) < _DEEP:
            self._draw()
        now = self._lab.clock()
        machines = {machine.name: machine for machine in self._lab.machines}
        given = Given(
            waiting=tuple(self._waiting.values()),
            seen=[_seen(machine, now) for machine in machines.values()],
            queued=list(self._queued(now)),
        )
        plan = decide(given, now=now, lost_after=HOUR)
        for run_id, name in plan.recall:
            self._recall(run_id, machines[name])
        for run_id, name in plan.deliver:
            out = self._waiting.pop(run_id)
            self._there[run_id] = (_out(out.command, name, now), machines[name])
            machines[name].take(out.command, self._works[run_id])
        if plan.again_in is not None:
            self._lab.later(plan.again_in, self.changed)

    def _draw(self) -> None:
        gpus = 2 if self._rng.random() < self._pairs else 1
        work = Work(
            train=min(max(600.0, self._rng.lognormvariate(8.6, 0.8)), 20 * HOUR),
            gpus=gpus,
            prepare=self._rng.uniform(5, 40),
            saves=None if self._rng.random() < 0.1 else self._rng.uniform(1, 20),  # noqa: PLR2004
        )
        job = a_spec(resources=Resources(gpus=gpus))
        command = a_command(job=job, request=f"run-{len(self._works)}")
        self._works[command.run_id] = work
        self._waiting[command.run_id] = _out(command, "", self._lab.clock())

    def _queued(self, now: float) -> Iterator[Queued]:
        """Runs that were sent and never started; one that has started is its executor's."""
        for run_id, (out, machine) in list(self._there.items()):
            run = _store(machine).run(run_id)
            if run.state is State.QUEUED and not run.attempt:
                yield Queued(out, now - out.placed_at)
            else:
                del self._there[run_id]

    def _recall(self, run_id: str, machine: Machine) -> None:
        out, _ = self._there.pop(run_id)
        store, attempt = _store(machine), out.command.attempt
        try:
            run = store.release(
                run_id, by={SENDER}, attempt=attempt, nonce=f"recall-{run_id}-{attempt}", nonce_expires=2e9
            )
        except Conflict:
            return
        command = out.command.model_copy(update={"attempt": next_attempt(run)})
        self._waiting[run_id] = _out(command, "", self._lab.clock())
        self.changed()


def _out(command: TrainCommand, executor: str, now: float) -> Outgoing:
    state = "delivered" if executor else "waiting"
    return Outgoing(command, state, executor, 0, 0.0, now, now, "", now, now)


def _store(machine: Machine) -> Store:
    assert isinstance(machine.desk, Kept)  # noqa: S101  made so below
    return machine.desk.store


def _seen(machine: Machine, now: float) -> Seen:
    gpus, slots = machine.landlord.terms(within=1.25).of(machine.gpus, len(machine.gpus))
    free_slots, free = _store(machine).room(slots=slots, gpus=gpus)
    capacity = Capacity(
        slots=len(machine.gpus),
        free_slots=free_slots,
        free_gpus=sum(1 for one in free if one.whole),
        free=told(free),
        queued=machine.desk.waiting(),
        running=len(machine.tenants),
        waits=machine.landlord.stands(),
        at=now,
    )
    card = a_card(name=machine.name, gpus=machine.gpus)
    return Seen(id=machine.name, name=machine.name, card=card, capacity=capacity, proven=True)


def week(
    folder: Path,
    *,
    days: int = 7,
    machines: int = 10,
    cards: int = 2,
    pairs: float = 0.0,
    seed: int = 1,
) -> Week:
    """Let a lab live.

    Args:
        folder: Where its stores lie.
        days: How long, from a Monday on.
        machines: How many.
        cards: Of each.
        pairs: The part of the runs that ask for two GPUs; all others ask for one.
        seed: What is drawn.

    Raises:
        AssertionError: Something happened that must never (`pushtrain.testing.lab`).
    """
    rng, lab = random.Random(seed), Lab()  # noqa: S311  a simulation
    stores = []
    sender = _Sender(lab, rng, pairs)
    lab.changed = sender.changed
    try:
        for number in range(machines):
            name = f"lab-{number + 1}"
            stores.append(Store(folder / f"{name}.db", clock=lab.clock))
            made = lab.machine(
                name, cards=cards, rules=OwnerRules(), desk=Kept(stores[-1]), phase=rng.uniform(0, 1.25)
            )
            for one in sessions(rng, days=days, cards=cards):
                lab.at(one.begin, lambda made=made, one=one: made.owner_comes(one.card, one.memory))  # type: ignore[misc]
                lab.at(one.end, lambda made=made, one=one: made.owner_goes(one.card))  # type: ignore[misc]
        lab.at(0, sender.changed)
        lab.run(until=days * DAY)
        for made in lab.machines:
            made.stop_counting()
        return Week(lab.tally, machines * cards * days * DAY - lab.tally.owned)
    finally:
        lab.close()
        for store in stores:
            store.close()
