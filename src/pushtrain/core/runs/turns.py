"""Whose turn it is: which waiting run starts next, on which GPUs.

`core.runs.fairness` gives each run its place in one order: when it came, its priority, and what its person
and its repository have used lately. There are two kinds of room: a run that asks for GPUs needs only GPUs, a
run that asks for none needs a free slot, and neither kind holds up the other. A run whose GPUs are taken
reserves every GPU it could use until it starts, so smaller runs behind it cannot starve it; those that fit on
other GPUs pass it. A run that its own `max_parallel` or its person's quota holds back, and one that asks for
GPUs this machine does not have, holds up nobody.
"""

import heapq
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from pushtrain.core.runs.fairness import PRESUMED, Holding, Line, Recent, recent, used_up
from pushtrain.core.runs.room import Needs, Place, could, given, place_of, without
from pushtrain.core.values.card import Gpu


@dataclass(frozen=True, slots=True)
class Waiting:
    """A queued run: what it needs, and its place."""

    id: str
    needs: Needs
    group: tuple[str, ...]
    """Repository, commit, job and request: the cells that `max_parallel` counts together."""
    max_parallel: int | None = None
    rank: float = 0
    """`core.runs.fairness.rank`."""
    number: int = 0
    """The order of acceptance, where the rank is the same."""


class Queue(NamedTuple):
    """The runs of one person in one repository that want room of one kind (a tuple: they are many)."""

    sender: str
    """Fingerprint of the key."""
    repository: str
    gpus: bool
    """Whether they ask for GPUs."""
    first: tuple[float, int]
    """Rank and number of the first of them."""
    runs: Iterable[Waiting]
    """In order of rank and number; read only as far as needed. Those that their `max_parallel` holds back may
    be left out, also the first."""


@dataclass(frozen=True, slots=True)
class Active:
    """A run that is being prepared or runs: what it holds."""

    gpus: tuple[str, ...]
    """UUIDs."""
    group: tuple[str, ...]
    memory: int = 0
    """Bytes of its GPU, where it shares it."""
    share: bool = False
    sender: str = ""
    since: float = 0
    """When it began, in seconds since the epoch."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """What the owner keeps, and allows."""

    reserve: int = 0
    """Bytes of a shared GPU that stay the owner's."""
    hours_a_day: float = 0
    """GPU-hours that a person may use from midnight to midnight UTC; 0: no limit."""


UNBOUNDED: Final = Bounds()


@dataclass(frozen=True, slots=True)
class Room:
    """What there is to give."""

    slots: int
    """How many runs without GPUs may be active at once."""
    gpus: Sequence[Gpu]
    """The GPUs that are lent, free or not."""
    bounds: Bounds = UNBOUNDED


def pick(
    queues: Iterable[Queue], active: Sequence[Active], room: Room, *, ledger: Iterable[Line], now: float
) -> tuple[Waiting, tuple[str, ...]] | None:
    """The run whose turn it is and the GPUs it gets, or None.

    Args:
        queues: What may start now; not looked at where no room of their kind is left.
        active: Every run that holds something.
        room: What there is, free or not.
        ledger: What was used lately.
        now: Seconds since the epoch.
    """
    return next(_Turns(active, room, ledger, now).given_out(queues), None)


def left(
    queues: Iterable[Queue], active: Sequence[Active], room: Room, *, ledger: Iterable[Line], now: float
) -> tuple[int, tuple[Place, ...]]:
    """The slots and the cards that a run which came now would find, once those before it have theirs.

    Takes what `pick` takes.
    """
    turns = _Turns(active, room, ledger, now)
    for _ in turns.given_out(queues):
        pass
    return max(0, turns.slots), tuple(turns.places)


class _Turns:
    """What is free while turns are given out."""

    def __init__(self, active: Sequence[Active], room: Room, ledger: Iterable[Line], now: float) -> None:
        alone: set[str] = set()
        shared: dict[str, int] = defaultdict(int)
        for run in active:
            for uuid in run.gpus:
                if run.share:
                    shared[uuid] += run.memory
                else:
                    alone.add(uuid)
        self.slots = room.slots - sum(1 for run in active if not run.gpus)
        reserve = room.bounds.reserve
        gpus = sorted(room.gpus, key=lambda gpu: (gpu.memory, gpu.index))
        self._lent = [place_of(gpu, reserve=reserve) for gpu in gpus]
        self.places = [
            place_of(gpu, reserve=reserve, shared=shared[gpu.uuid]) if gpu.uuid in shared else place
            for gpu, place in zip(gpus, self._lent, strict=True)
            if gpu.uuid not in alone
        ]
        self._gpus = room.gpus
        self._running = Counter(run.group for run in active)
        self._bounds = room.bounds
        self._ledger = ledger
        self._active = active
        self._now = now

    def given_out(self, queues: Iterable[Queue]) -> Iterator[tuple[Waiting, tuple[str, ...]]]:
        """The runs that can start, in order, each with its GPUs."""
        free = {gpus: self._free(gpus=gpus) for gpus in (True, False)}
        if not any(free.values()):
            return
        used = lately(self._active, self._gpus, self._ledger, now=self._now)
        hours = self._bounds.hours_a_day
        lines = [
            _Line(queue)
            for queue in queues
            if free[queue.gpus] and not (queue.gpus and used_up(used, queue.sender, hours))
        ]
        while True:
            heap = [line.turn(used, at) for at, line in enumerate(lines) if line.place is not None]
            heapq.heapify(heap)
            started = False
            while heap and not started:
                at = heapq.heappop(heap)[-1]
                line = lines[at]
                place = line.place
                if not self._free(gpus=line.queue.gpus) or (run := line.head()) is None:
                    continue
                if line.place != place:  # who stood there before is held back, and was not read
                    heapq.heappush(heap, line.turn(used, at))
                    continue
                taken = self._taken(run)
                if taken is not None:
                    started = True
                    uuids = tuple(place.uuid for place in taken)
                    yield run, uuids
                    cards = _cards(uuids, run.needs.memory if run.needs.share else None, self._gpus)
                    used.add(line.queue.sender, line.queue.repository, PRESUMED * cards)
                line.move_on()
                if not started and line.place is not None:
                    heapq.heappush(heap, line.turn(used, at))
            if not started:
                return

    def _taken(self, run: Waiting) -> tuple[Place, ...] | None:
        """What a run gets when it is its turn; None: nothing now, and what it waits for is kept for it."""
        if run.max_parallel is not None and self._running[run.group] >= run.max_parallel:
            return None
        needs = run.needs
        taken: tuple[Place, ...] | None = ()
        if not needs.gpus:
            if self.slots <= 0:
                return None
            self.slots -= 1
        elif sum(1 for place in self._lent if could(place, needs)) < needs.gpus:
            return None
        elif (taken := given(self.places, needs)) is None:
            self.places = [place for place in self.places if not could(place, needs)]
            return None
        else:
            self.places = without(self.places, taken, needs)
        self._running[run.group] += 1
        return taken

    def _free(self, *, gpus: bool) -> bool:
        if gpus:
            return any(place.whole or place.room > 0 for place in self.places)
        return self.slots > 0


def lately(active: Iterable[Active], gpus: Sequence[Gpu], ledger: Iterable[Line], *, now: float) -> Recent:
    """What counts against people and repositories, by the ledger and by what runs now."""
    held = []
    for run in active:
        cards = _cards(run.gpus, run.memory if run.share else None, gpus)
        held.append(Holding(run.sender, run.group[0], cards, run.since))
    return recent(ledger, held, now=now)


def _cards(uuids: Sequence[str], share: int | None, gpus: Iterable[Gpu]) -> float:
    """How many cards a run has, one that it shares counted by the part that is its own."""
    if share is None:
        return float(len(uuids))
    return sum(share / gpu.memory for gpu in gpus if gpu.uuid in uuids and gpu.memory)


class _Line:
    """One queue, read as far as its head; of its first run only the place is known before it is its turn."""

    def __init__(self, queue: Queue) -> None:
        self.queue = queue
        self.place: tuple[float, int] | None = queue.first
        """Of its head; None: there is nobody left."""
        self._runs = iter(queue.runs)
        self._head: Waiting | None = None

    def head(self) -> Waiting | None:
        """Who is first."""
        if self._head is None:
            self.move_on()
        return self._head

    def move_on(self) -> None:
        """The next one is its head."""
        self._head = next(self._runs, None)
        self.place = None if self._head is None else (self._head.rank, self._head.number)

    def turn(self, used: Recent, at: int) -> tuple[float, int, int]:
        """Where its head stands among all; `at` is what finds it again."""
        rank, number = self.place or self.queue.first
        return (rank + used.behind(self.queue.sender, self.queue.repository), number, at)
