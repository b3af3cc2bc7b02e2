"""The parts of a simulated lab (`pushtrain.testing.lab`): work, counts, desks, and what a machine tells."""

import math
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any, Final, Protocol

from pushtrain.core.lifecycle import Claimed, Event, advance
from pushtrain.core.runs.gpuhealth import GpuSample
from pushtrain.core.runs.room import needs_of
from pushtrain.core.runs.turns import Active, Queue, Room, Waiting, pick
from pushtrain.core.values.card import Gpu
from pushtrain.core.values.command import TrainCommand
from pushtrain.core.values.run import Run
from pushtrain.core.values.states import State
from pushtrain.executor.owner.meter import Meter
from pushtrain.plumbing.machine import gpu
from pushtrain.plumbing.machine.energy import EnergyDay
from pushtrain.plumbing.machine.gpu import Sampler
from pushtrain.plumbing.owner.presence import Signals
from pushtrain.plumbing.sqlite.store import Store
from pushtrain.testing import SENDER, Clock, a_run
from pushtrain.testing.nvml import FakeNvml

__all__ = ["Desk", "Kept", "Kin", "Library", "Memory", "NoMeter", "Pause", "Senses", "Tally", "Work"]

_NOWHERE: Final = Path("/nonexistent")


def put_library(library: Any) -> Any:
    """Put a driver's library in the place of the one that is asked now; that one."""
    before = vars(gpu)["pynvml"]
    vars(gpu)["pynvml"] = library
    return before


@dataclass(frozen=True)
class Work:
    """What a job does."""

    train: float
    """Seconds of training in all."""
    gpus: int = 1
    prepare: float = 20.0
    every: float = 600.0
    """Seconds between two checkpoints."""
    saves: float | None = 5.0
    """Seconds that saving takes when it is asked to; None: it ignores the wish."""
    vacates: float = 0.3
    """Seconds from the tree's end until the driver has the memory back."""


@dataclass
class Tally:
    """What a lab has seen."""

    held: float = 0.0
    """GPU-seconds that runs held cards."""
    owned: float = 0.0
    """GPU-seconds that owners were at cards."""
    trained: float = 0.0
    """GPU-seconds of training that count."""
    lost: list[float] = field(default_factory=list)
    """By preemption: seconds of training that must be done anew."""
    noticed: list[float] = field(default_factory=list)
    """By owner who found a run on their card: seconds until it was asked to go."""
    yielded: list[float] = field(default_factory=list)
    """... until the card's memory was theirs, beyond the grace that the run was given."""
    done: int = 0
    attempts: int = 0
    looks: int = 0


class Desk(Protocol):
    """Where runs wait and are claimed: in memory, or the executor's own store."""

    def accept(self, command: TrainCommand) -> Run:
        """Queue a run."""

    def claim(self, *, slots: int, gpus: Sequence[Gpu]) -> Run | None:
        """Start the run whose turn it is."""

    def advance(self, run: Run, event: Event) -> Run:
        """Move a run."""

    def waiting(self) -> int:
        """How many wait."""


class Memory:
    """Runs in memory: the real turns, the real lifecycle."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.runs: dict[str, Run] = {}

    def accept(self, command: TrainCommand) -> Run:
        """Queue a run."""
        now = self._clock()
        return self.runs.setdefault(command.run_id, a_run(command, accepted_at=now, updated_at=now))

    def claim(self, *, slots: int, gpus: Sequence[Gpu]) -> Run | None:
        """Start the run whose turn it is."""
        queued = [run for run in self.runs.values() if run.state is State.QUEUED]
        holding = [run for run in self.runs.values() if run.state in {State.PREPARING, State.RUNNING}]
        queues = []
        for wants in (False, True):
            waiting = [
                Waiting(run.id, needs, (run.id,), rank=run.accepted_at, number=number)
                for number, run in enumerate(queued)
                for needs in (needs_of(run.command.job.resources),)
                if bool(needs.gpus) is wants
            ]
            if waiting:
                first = (waiting[0].rank, waiting[0].number)
                queues.append(Queue(SENDER, waiting[0].id, wants, first, waiting))
        active = [Active(run.gpus, (run.id,), since=run.updated_at) for run in holding]
        turn = pick(queues, active, Room(slots, gpus), ledger=(), now=self._clock())
        if turn is None:
            return None
        chosen, uuids = turn
        return self.advance(self.runs[chosen.id], Claimed(token=f"{self._clock()}", gpus=uuids))

    def advance(self, run: Run, event: Event) -> Run:
        """Move a run."""
        moved = advance(self.runs[run.id], event, now=self._clock())
        self.runs[run.id] = moved
        return moved

    def waiting(self) -> int:
        """How many wait."""
        return sum(run.state is State.QUEUED for run in self.runs.values())


class Kept:
    """Runs in an executor's store.

    Args:
        store: Open, on the lab's clock.
    """

    def __init__(self, store: Store) -> None:
        self.store = store
        self._numbers = count()

    def accept(self, command: TrainCommand) -> Run:
        """Queue a run."""
        raw = command.model_dump_json().encode()
        nonce = f"{command.run_id}-{next(self._numbers)}"
        run, _ = self.store.accept(
            command,
            sender=SENDER,
            raw=raw,
            headers={},
            nonce=nonce,
            nonce_expires=math.inf,
            queue_limit=10**6,
        )
        return run

    def claim(self, *, slots: int, gpus: Sequence[Gpu]) -> Run | None:
        """Start the run whose turn it is."""
        claimed = self.store.claim(slots=slots, gpus=gpus, executor="lab")
        return claimed[0] if claimed else None

    def advance(self, run: Run, event: Event) -> Run:
        """Move a run."""
        return self.store.advance(run.id, event, token=run.token)

    def waiting(self) -> int:
        """How many wait."""
        return self.store.waiting()


class Senses:
    """What a machine tells beside its GPUs."""

    def __init__(self) -> None:
        self.signals = Signals(idle=math.inf)

    def look(self, *, calm: bool = False, fresh: bool = False) -> Signals:
        """The same for whoever looks."""
        del calm, fresh
        return self.signals

    def latest(self, within: float, *, calm: bool = False) -> Signals:
        """The same for whoever looks."""
        del within, calm
        return self.signals

    def close(self) -> None:
        """There is nothing to end."""


class Kin:
    """Whose a process is: known, since all of them are made here."""

    def __init__(self) -> None:
        self.ours: set[int] = set()
        self.dead: set[int] = set()

    def sort(
        self, pids: Iterable[int], roots: Collection[int], marks: Collection[str] = ()
    ) -> tuple[set[int], set[int]]:
        """Those that are ours, and those that are gone."""
        del roots, marks
        asked = set(pids)
        return asked & self.ours, asked & self.dead


class Pause:
    """The owner's wish."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.over: float | None = None

    def until(self) -> float | None:
        """When lending goes on."""
        return self.over if self.over is not None and self.over > self._clock() else None


class Library:
    """A real sampler on this machine's own library."""

    def __init__(self, library: FakeNvml, clock: Clock) -> None:
        self._library = library
        self._sampler = Sampler(pci=_NOWHERE, clock=clock)

    def sample(self, *, held: Collection[str] = ()) -> tuple[GpuSample, ...]:
        """Every GPU as it is now."""
        put_library(self._library)
        return self._sampler.sample(held=held)

    def close(self) -> None:
        """Let the library go."""
        put_library(self._library)
        self._sampler.close()


class NoMeter(Meter):
    """Writes nothing down, and counts no energy: that has tests of its own."""

    def __init__(self, clock: Clock) -> None:
        super().__init__(_NOWHERE, EnergyDay(_NOWHERE / "energy", clock=clock), clock=clock)

    def look(self, *_: object, **__: object) -> None:
        """Nothing is metered."""
