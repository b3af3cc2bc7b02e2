"""The words for a run: where it is, how it went, why, and the stations of its line."""

from enum import StrEnum
from typing import Final

CHECKPOINTED: Final = 85
"""The exit code by which a command says: I have saved where I am, start me again."""


class Reason(StrEnum):
    """Why a run or an attempt ended as it did."""

    NONE = ""
    EXITED = "exited"
    SIGNALLED = "signalled"
    TIMEOUT = "timeout"
    CANCELLED = "cancelled"
    CHECKOUT = "checkout"
    SECRETS = "secrets"
    DATA = "data"
    ENVIRONMENT = "environment"
    SETUP = "setup"
    NO_GPU = "no-gpu"
    ISOLATION = "isolation"
    GPU = "gpu"
    """A GPU failed, or could not be used: not the run's fault."""
    GPU_MEMORY = "gpu-memory"
    """It ran out of a GPU's memory."""
    OOM = "oom"
    DISK = "disk"
    PROCESSES = "processes"
    IDLE = "idle"
    """It held a GPU and computed nothing on it for longer than the executor's owner allows."""
    LOST = "lost"
    UNREACHABLE = "unreachable"
    """Its preparation reached nobody: a host did not answer, or the executor had no network."""
    STORAGE = "storage"
    """The executor could not keep what it prepared: its disk is full, or fails."""
    PREEMPTED = "preempted"
    CHECKPOINTED = "checkpointed"
    INTERRUPTED = "interrupted"
    INTERNAL = "internal"
    REFUSED = "refused"
    """A rule of the executor's owner does not allow it."""
    DEFERRED = "deferred"
    """A rule of the executor's owner lets it wait."""
    RELEASED = "released"


RETRIED: Final = frozenset(
    {
        Reason.OOM,
        Reason.GPU_MEMORY,
        Reason.DISK,
        Reason.PROCESSES,
        Reason.SETUP,
        Reason.CHECKOUT,
        Reason.DATA,
        Reason.ENVIRONMENT,
        Reason.SECRETS,
        Reason.NO_GPU,
        Reason.INTERNAL,
    }
)
"""Reasons that a job may have tried again beside a command that failed by itself."""
TAKEN_BACK: Final = frozenset({Reason.PREEMPTED, Reason.INTERRUPTED})
"""Why an attempt may be ended that did nothing wrong: the run starts anew, and no retry is counted."""
NEVER: Final = 1e11
"""The `not_before` of a run that waits for another one, not for a time."""


class State(StrEnum):
    """Where a run is."""

    QUEUED = "queued"
    PREPARING = "preparing"
    RUNNING = "running"
    PUBLISHING = "publishing"
    DONE = "done"


class Outcome(StrEnum):
    """How a run went."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    LOST = "lost"
    MOVED = "moved"


class Stage(StrEnum):
    """The stations of the line, each timed."""

    QUEUE = "queue"
    FETCH = "fetch"
    CHECKOUT = "checkout"
    DATA = "data"
    ENVIRONMENT = "environment"
    SETUP = "setup"
    TRAIN = "train"
    PUBLISH = "publish"
