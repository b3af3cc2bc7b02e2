"""What dispatch and the landlord tell each other: who holds what, and what may be claimed."""

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Final

from pushtrain.core.values.card import Gpu


@dataclass(frozen=True, slots=True)
class Holder:
    """A run that is being prepared or runs, and what it has of this machine."""

    run_id: str
    attempt: int
    title: str
    """The job's, for the owner's screen."""
    gpus: tuple[str, ...] = ()
    """UUIDs."""
    gpu_memory: int = 0
    """Bytes that are its own of a GPU which it shares; 0: all of each."""
    shim: int | None = None
    """The pid of its shim; None: it has none yet."""
    mark: str = ""
    """What its processes carry in their environment, also those that are not below its shim."""


@dataclass(frozen=True, slots=True)
class Terms:
    """What may be claimed at this moment."""

    starts: bool = True
    """Whether anything may start at all."""
    kept: Collection[str] = field(default_factory=frozenset)
    """UUIDs of the GPUs on which nothing may start."""

    def of(self, gpus: tuple[Gpu, ...], slots: int) -> tuple[tuple[Gpu, ...], int]:
        """The GPUs on which something may start, and the slots for what needs none."""
        if not self.starts:
            return (), 0
        return tuple(gpu for gpu in gpus if gpu.uuid not in self.kept), slots


ALL: Final = Terms()
"""Nobody's wish but the runs' own."""
