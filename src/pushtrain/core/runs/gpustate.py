"""How the GPUs of a machine stand at one moment, for people: what each does, and who has it. Pure."""

from collections.abc import Collection

from pushtrain.core.owner.verdict import CardSeen
from pushtrain.core.runs.gpuhealth import GpuSample
from pushtrain.core.values.card import Gpu
from pushtrain.core.values.value import Value

THROTTLES = {
    "heat": "slowed down by heat",
    "power": "held to its power limit",
    "power-brake": "slowed down by its power supply",
}
"""What `GpuSample.throttled` means, in words."""


class GpuRun(Value):
    """A run that has a GPU."""

    id: str = ""
    """Empty: it is of a repository that the reader may not read."""
    title: str = ""
    repository: str = ""


class GpuState(Value):
    """One GPU at one moment. None: the card or its driver does not tell, or was not woken to be asked."""

    gpu: Gpu
    asleep: bool = False
    lost: bool = False
    """It does not answer any more."""
    memory_used: int | None = None
    """Bytes in use by anybody."""
    memory_ours: int | None = None
    """Bytes that runs use."""
    memory_foreign: int | None = None
    """Bytes that the owner's programs use."""
    utilization: int | None = None
    """Percent of the last moments in which something was computed."""
    temperature: int | None = None
    """Degrees Celsius."""
    power: float | None = None
    """Watts."""
    throttled: tuple[str, ...] = ()
    """Why it runs slower than it could: `heat`, `power`, `power-brake`."""
    runs: tuple[GpuRun, ...] = ()
    """Who has it; several share it."""
    lent: bool = True
    """Whether something may start on it, as far as its owner is concerned."""
    stands: str = ""
    """Why not, in words."""

    @property
    def words(self) -> str:
        """How it stands, in a line for people."""
        if self.stands:
            head = self.stands
        elif self.runs:
            head = ", ".join(f"{run.title} ({run.id[:8]})" if run.id else "a run" for run in self.runs)
        elif self.asleep:
            head = "asleep"
        else:
            head = "free"
        if self.stands and self.runs:
            head = f"{head}; {len(self.runs)} run{'s' if len(self.runs) > 1 else ''} on it"
        return "; ".join((head, *(THROTTLES[why] for why in self.throttled if why in THROTTLES)))


class MachineGpus(Value):
    """The GPUs of one executor."""

    executor: str
    at: float = 0
    """Seconds since the epoch."""
    gpus: tuple[GpuState, ...] = ()
    served: bool = True
    """Whether an executor tells this; else the driver alone does, and nothing is lent."""


def state_of(
    gpu: Gpu,
    sample: GpuSample | None,
    seen: CardSeen | None,
    *,
    runs: Collection[GpuRun] = (),
    stands: str = "",
    lent: bool = True,
) -> GpuState:
    """How one GPU stands.

    Args:
        gpu: Which.
        sample: What was read; None: it was not looked at.
        seen: Which part of its use is the owner's; None: not known.
        runs: Who has it.
        stands: Why it is not lent; empty: it is.
        lent: Whether something may start on it.
    """
    known = GpuState(gpu=gpu, runs=tuple(runs), stands=stands, lent=lent)
    if sample is None:
        return known
    if sample.asleep or sample.lost:
        return known.model_copy(update={"asleep": sample.asleep, "lost": sample.lost})
    foreign = None if seen is None else min(seen.foreign_memory, sample.memory_used)
    change = {
        "memory_used": sample.memory_used,
        "memory_foreign": foreign,
        "memory_ours": None if foreign is None else (sample.memory_used - foreign if runs else 0),
        "utilization": sample.utilization,
        "temperature": sample.temperature,
        "power": sample.power,
        "throttled": sample.throttled,
    }
    return known.model_copy(update=change)
