"""Whose turn it is: which waiting run starts next, on which GPUs.

Runs start in the order in which they were accepted. There are two kinds of room: a run that asks for GPUs
needs only free GPUs, a run that asks for none needs a free slot, and neither kind holds up the other. A run
whose GPUs are taken reserves every GPU it could use until it starts, so later, smaller runs cannot starve it;
those that fit on other GPUs pass it. A run that its own `max_parallel` holds back, and one that asks for GPUs
this machine does not have, holds up nobody.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from pushtrain.core.model import Gpu


@dataclass(frozen=True, slots=True)
class Waiting:
    """A queued run: what it needs."""

    id: str
    gpus: int
    gpu_memory: int
    group: tuple[str, ...]
    """Repository, commit, job and request: the cells that `max_parallel` counts together."""
    max_parallel: int | None
    sender: str = ""
    """Fingerprint of the key that sent it."""


@dataclass(frozen=True, slots=True)
class Active:
    """A run that is being prepared or runs: what it holds."""

    gpus: tuple[str, ...]
    """UUIDs."""
    group: tuple[str, ...]


def pick(
    waiting: Iterable[Waiting], active: Sequence[Active], *, slots: int, gpus: Sequence[Gpu]
) -> tuple[Waiting, tuple[str, ...]] | None:
    """The run whose turn it is and the GPUs it gets, or None.

    Args:
        waiting: Queued runs that may start now, in order of acceptance; read only as far as needed.
        active: Every run that holds something.
        slots: How many runs without GPUs may be active at once.
        gpus: The GPUs that are lent.
    """
    return next(_Room(active, slots, gpus).turns(waiting), None)


def left(
    waiting: Iterable[Waiting], active: Sequence[Active], *, slots: int, gpus: Sequence[Gpu]
) -> tuple[int, tuple[Gpu, ...]]:
    """The slots and the GPUs that a run which came now would find, once those before it have theirs.

    Takes what `pick` takes.
    """
    room = _Room(active, slots, gpus)
    for _ in room.turns(waiting):
        pass
    return max(0, room.slots), tuple(room.gpus)


class _Room:
    """What is free while turns are given out."""

    def __init__(self, active: Sequence[Active], slots: int, gpus: Sequence[Gpu]) -> None:
        taken = {uuid for run in active for uuid in run.gpus}
        self.slots = slots - sum(1 for run in active if not run.gpus)
        self.gpus = [
            gpu for gpu in sorted(gpus, key=lambda gpu: (gpu.memory, gpu.index)) if gpu.uuid not in taken
        ]
        self._lent = gpus
        self._running = Counter(run.group for run in active)

    def turns(self, waiting: Iterable[Waiting]) -> Iterator[tuple[Waiting, tuple[str, ...]]]:
        """The runs that can start, in order, each with its GPUs."""
        if self._full():
            return
        for run in waiting:
            if run.max_parallel is not None and self._running[run.group] >= run.max_parallel:
                continue
            if run.gpus == 0:
                if self.slots <= 0:
                    continue
                self.slots -= 1
                self._running[run.group] += 1
                yield run, ()
            elif sum(1 for gpu in self._lent if gpu.memory >= run.gpu_memory) < run.gpus:
                continue
            else:
                fitting = [gpu.uuid for gpu in self.gpus if gpu.memory >= run.gpu_memory]
                if len(fitting) >= run.gpus:
                    mine = tuple(fitting[: run.gpus])
                    self.gpus = [gpu for gpu in self.gpus if gpu.uuid not in mine]
                    self._running[run.group] += 1
                    yield run, mine
                else:
                    self.gpus = [gpu for gpu in self.gpus if gpu.memory < run.gpu_memory]
            if self._full():
                return

    def _full(self) -> bool:
        return self.slots <= 0 and not self.gpus
