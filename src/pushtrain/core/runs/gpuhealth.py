"""What a GPU is doing at one moment, what is wrong with it, and whether it is to blame for how a run ended.

Read by `plumbing/machine/gpu.py`, judged here: memory that nobody holds, errors of its memory, a card that
has fallen off the bus. Utilisation says nothing about who may use a card: a program at 0 % still holds its
memory.
"""

import re
from collections.abc import Collection
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from pushtrain.core.values.states import Reason
from pushtrain.core.values.value import Value

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
    utilization: int | None = None
    """Percent of the last moments in which it had something computed; None: the driver does not tell."""


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


LASTING: Final = frozenset({Trouble.FALLEN_OFF, Trouble.MEMORY_ERRORS})
"""Troubles that count until the machine was restarted or the owner says that the card is mended."""


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


# --- whose fault it was -----------------------------------------------------------------------------------


class Fault(StrEnum):
    """What of a GPU made a command fail."""

    CARD = "card"
    """The card failed, and the driver says so."""
    TOLD = "told"
    """The command says that the card failed; the driver says nothing."""
    BUSY = "busy"
    """The card could not be used: something else has it."""
    CROWDED = "crowded"
    """Its memory ran out, and it was not the run's alone."""
    MEMORY = "memory"
    """Its memory ran out, and the run had it alone."""
    UNSUPPORTED = "unsupported"
    """The program was not built for such a card."""
    DRIVER = "driver"
    """The driver is too old for the program, or was replaced under it."""


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """What of a GPU made a command fail, and what follows."""

    fault: Fault
    reason: Reason
    """`gpu`: it is not the run's fault, so it is tried again like a lost machine; others are not, unasked."""
    words: str


_SAYS: Final = tuple(
    (re.compile("|".join(patterns), re.IGNORECASE), kind)
    for kind, patterns in (
        (Fault.TOLD, (r"uncorrectable (ECC|NVLink) error", r"ECC_?UNCORRECTABLE")),
        (Fault.TOLD, (r"GPU is lost", r"fallen off the bus", r"GPU requires (a )?reset")),
        (Fault.BUSY, (r"devices?(\(s\))? (are|is/are) busy or unavailable", r"cudaErrorDevicesUnavailable")),
        (Fault.MEMORY, (r"CUDA out of memory", r"CUDA_ERROR_OUT_OF_MEMORY", r"cudaErrorMemoryAllocation")),
        (Fault.MEMORY, (r"torch\.(cuda\.)?OutOfMemoryError", r"CUBLAS_STATUS_ALLOC_FAILED")),
        (Fault.MEMORY, (r"RESOURCE_EXHAUSTED: Out of memory",)),
        (Fault.UNSUPPORTED, (r"no kernel image is available", r"cudaErrorNoKernelImageForDevice")),
        (Fault.UNSUPPORTED, (r"is not compatible with the current PyTorch installation",)),
        (Fault.DRIVER, (r"CUDA driver version is insufficient", r"NVIDIA driver on your system is too old")),
        (Fault.DRIVER, (r"Driver/library version mismatch",)),
    )
)
_WORDS: Final = {
    Fault.TOLD: "Its output says that the GPU has failed, but the driver does not say so.",
    Fault.BUSY: "Its output says that the GPU could not be used: something else had it.",
    Fault.CROWDED: "The GPU's memory ran out while others used it, too.",
    Fault.MEMORY: "The GPU's memory ran out. Ask for more with `gpu_memory`, or use less.",
    Fault.UNSUPPORTED: "Its program was not built for this GPU: say which it needs with `gpu_capability`.",
    Fault.DRIVER: "This machine's NVIDIA driver does not fit the program: use a build for an older CUDA.",
}
_REASONS: Final = {
    Fault.MEMORY: Reason.GPU_MEMORY,
    Fault.UNSUPPORTED: Reason.NO_GPU,
    Fault.DRIVER: Reason.NO_GPU,
}


def diagnosis(tail: str, *, troubles: Collection[Trouble] = (), crowded: bool = False) -> Diagnosis | None:
    """Whether a GPU is to blame that a command failed; None: nothing says so.

    What the driver says counts most. What the command printed may decide about its own run, never about the
    card: a job could print anything.

    Args:
        tail: The end of its output.
        troubles: What is wrong with the cards that it had.
        crowded: Whether others used memory of them.
    """
    lasting = sorted(LASTING & set(troubles))
    if lasting:
        words = f"The GPU has failed ({', '.join(lasting)}), and nobody gets it until it is mended."
        return Diagnosis(Fault.CARD, Reason.GPU, words)
    latest = max(
        ((found.start(), kind) for pattern, kind in _SAYS for found in pattern.finditer(tail)),
        default=None,
    )
    if latest is None:
        return None
    fault = latest[1]
    if fault is Fault.MEMORY and crowded:
        fault = Fault.CROWDED
    return Diagnosis(fault, _REASONS.get(fault, Reason.GPU), _WORDS[fault])
