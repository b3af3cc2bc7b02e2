"""What executor and shim write down for each other: orders, who runs, how it ended, a wish to stop.

`Orders` are written before the shim starts, `Started` before the job's first instruction, `Verdict` after its
tree is dead; each is written whole or not at all.
"""

import errno
import signal
from pathlib import Path
from typing import Final, TypeVar

from pydantic import Field, ValidationError

from pushtrain.core.errors import StorageError
from pushtrain.core.values.run import StageTime
from pushtrain.core.values.states import Reason
from pushtrain.core.values.value import Value
from pushtrain.plumbing.disk.files import replace
from pushtrain.ports import Enclosure

RecordT = TypeVar("RecordT", bound=Value)

_MODE: Final = 0o600


class SetupStep(Value):
    """One command that runs after the environment stands."""

    title: str
    argv: tuple[str, ...]


class Limited(Value):
    """What the shim keeps a job to; see `plumbing/isolation/guard.py`. 0 is no limit."""

    memory: int = 0
    """Bytes, all processes together."""
    processes: int = 0
    """Processes and threads."""
    disk: int = 0
    """Bytes below `folders`, and in deleted files that are still open."""
    folders: tuple[str, ...] = ()
    growing: tuple[str, ...] = ()
    """Folders of which only what is added counts: they were there before."""
    cgroups: dict[str, str] = Field(default_factory=dict)
    """Control groups to make for it, by controller."""


class Orders(Value):
    """What a shim is to do; `spec.json`."""

    setup: tuple[SetupStep, ...] = ()
    argv: tuple[str, ...]
    shell: bool = False
    """Whether `argv` is a shell around the real command; a polite stop then reaches what it started, too."""
    enclosure: Enclosure = Enclosure()
    """What is put around the command."""
    setup_enclosure: Enclosure = Enclosure()
    """What is put around each command of `setup`."""
    env: dict[str, str]
    cwd: str
    log_limit: int
    timeout: float
    """Seconds from the training's start."""
    setup_timeout: float
    grace: float
    preempt_signal: int = signal.SIGTERM
    """What the command gets when it is preempted; 0: nothing."""
    stop_file: str = ""
    """Written for the command before it is asked to end, whatever the reason."""
    limits: Limited = Limited()


class Started(Value):
    """Who runs the attempt; `started.json`."""

    pid: int
    """The shim's."""
    start: int
    """When the shim started, in clock ticks since boot."""
    boot: str
    phase: str
    """`setup` or `train`."""
    at: float
    """When this phase began."""
    command_pid: int
    command_start: int


class Verdict(Value):
    """How the attempt ended; `exit.json`."""

    phase: str
    reason: Reason
    code: int | None = None
    signal: int | None = None
    detail: str = ""
    oom: bool = False
    """Whether the kernel evidently killed it for lack of memory."""
    started_at: float | None = None
    """When the training began; None: it never did."""
    ended_at: float
    log_size: int = 0
    elided: tuple[int, int] | None = None
    cpu_seconds: float = 0
    max_rss: int = 0
    disk_read: int = 0
    disk_written: int = 0
    stages: tuple[StageTime, ...] = ()


class StopOrder(Value):
    """Why a shim is asked to end its job, and how soon; `stop.json`."""

    reason: Reason
    detail: str = ""
    grace: float | None = None
    """Seconds until what is left is killed; None: those of the attempt's orders."""

    def joined(self, later: "StopOrder") -> "StopOrder":
        """What is wanted after a second order: who cancels wins, and the shorter grace."""
        chosen = later if later.reason is Reason.CANCELLED and self.reason is not Reason.CANCELLED else self
        graces = [order.grace for order in (self, later) if order.grace is not None]
        return chosen.model_copy(update={"grace": min(graces, default=None)})


# --- files ------------------------------------------------------------------------------------------------


def write_record(path: Path, value: Value, *, durable: bool = True) -> None:
    """Write a value whole or not at all; when this returns it survives a power failure, if `durable`.

    Raises:
        StorageError: It could not be written; the old content, if any, stands.
    """
    write_bytes(path, value.model_dump_json().encode(), durable=durable)


def write_bytes(path: Path, data: bytes, *, durable: bool = True) -> None:
    """Replace a file's content in one step.

    Raises:
        StorageError: It could not be written; the old content, if any, stands.
    """
    try:
        replace(path, data, mode=_MODE, durable=durable)
    except OSError as error:
        raise unwritten(path, error) from error


def read_record(path: Path, kind: type[RecordT]) -> RecordT | None:
    """The value that a file holds, or None when there is no file.

    Raises:
        StorageError: It is damaged, or cannot be read.
    """
    try:
        return kind.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValidationError) as error:
        raise StorageError(f"The record {path} cannot be read: {error}.") from error


def unwritten(path: Path, error: OSError) -> StorageError:
    """What to raise where something could not be written."""
    mend = "Free some space." if error.errno in (errno.ENOSPC, errno.EDQUOT) else "Check the state folder."
    return StorageError(f"{path} could not be written: {error.strerror}.", mend=mend)
