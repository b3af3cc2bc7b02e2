"""What a GPU is doing at one moment, and what is wrong with it.

Read by `plumbing/gpu.py`, judged here: memory that nobody holds, errors of its memory, a card that has fallen
off the bus. Utilisation says nothing about who may use a card: a program at 0 % still holds its memory.
"""

from collections.abc import Collection
from enum import StrEnum
from typing import Final

from pushtrain.core.model import Value

UNEXPLAINED: Final = 1024**3
"""Bytes that a card may have in use beyond what its processes tell: contexts, the driver, a display."""


class GpuProcess(Value):
    """A process that uses a GPU."""

    pid: int
    """In the executor's own process namespace; 0: the driver does not tell."""
    memory: int | None = None
    """Bytes; None: the driver does not tell (WSL2, MIG without rights)."""
    graphics: bool = False
    """Whether it draws: a desktop, a game."""


class GpuSample(Value):
    """One GPU at one moment. None: the card or its driver does not tell."""

    uuid: str
    at: float
    """Seconds on the sampler's clock."""
    asleep: bool = False
    """It is powered down; nothing else was read, since reading would wake it."""
    lost: bool = False
    """It does not answer any more; nothing else could be read."""
    memory: int = 0
    """Bytes in all."""
    memory_used: int = 0
    """Bytes in use by anybody."""
    utilization: int | None = None
    """Percent of the last moments in which something was computed."""
    temperature: int | None = None
    """Degrees Celsius."""
    power: float | None = None
    """Watts."""
    energy: float | None = None
    """Joules since the driver was loaded."""
    throttled: tuple[str, ...] = ()
    """Why it runs slower than it could: `heat`, `power`, `power-brake`."""
    display: bool = False
    """Whether a display is attached and lit."""
    memory_errors: int | None = None
    """Uncorrected ECC errors since the driver was loaded."""
    retire_pending: bool = False
    """Memory waits for a reset of the card to be taken out of use."""
    processes: tuple[GpuProcess, ...] | None = None
    """None: the driver tells of no processes here; only the totals above count."""

    @property
    def memory_free(self) -> int:
        """Bytes that nobody uses."""
        return self.memory - self.memory_used


class Trouble(StrEnum):
    """Why a card is not lent until somebody has looked at it."""

    FALLEN_OFF = "fallen-off"
    """It does not answer: reset the machine."""
    MEMORY_ERRORS = "memory-errors"
    """Its memory has uncorrected errors: what is computed on it may be wrong."""
    HELD = "memory-held"
    """Much of its memory is in use, and no process is there that uses it: a wedged one, or one that hides."""


def trouble(sample: GpuSample, *, baseline: int | None, ours: Collection[int] = ()) -> Trouble | None:
    """What is wrong with a card; None when nothing is.

    Memory that nobody holds is told of each sample: whoever asks decides for how long it may be so.

    Args:
        sample: What was read.
        baseline: Uncorrected errors that it had when it was first seen; None: not known.
        ours: Pids of our own jobs, which may hold memory that the driver attributes to nobody (containers).
    """
    if sample.lost:
        return Trouble.FALLEN_OFF
    if sample.asleep:
        return None
    fresh = (sample.memory_errors or 0) > (baseline or 0)
    if fresh or sample.retire_pending:
        return Trouble.MEMORY_ERRORS
    if sample.processes is None or sample.display or ours:
        return None
    told = sum(process.memory or 0 for process in sample.processes)
    hidden = any(process.memory is None for process in sample.processes)
    if not hidden and sample.memory_used - told > UNEXPLAINED:
        return Trouble.HELD
    return None
