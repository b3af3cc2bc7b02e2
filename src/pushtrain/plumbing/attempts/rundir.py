"""One attempt's folder: its paths, its records, its lock and its log.

Executor and shim speak only through this folder, so either may die and the other still finds out what was
done. `Orders` are written before the shim starts, `Started` before the job's first instruction, `Verdict`
after its tree is dead; each is written whole or not at all. A held lock means: the shim lives. The log is a
plain file with a hole where output beyond the limit was let go: offsets and sizes stay those of all the bytes
that the job wrote, and the file system itself remembers what is missing.
"""

import contextlib
import errno
import fcntl
import os
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

from pydantic import Field, ValidationError

from pushtrain.core.errors import StorageError
from pushtrain.core.run import LogChunk, StageTime
from pushtrain.core.states import Reason
from pushtrain.core.value import Value
from pushtrain.plumbing.disk.files import replace
from pushtrain.ports import Enclosure

RecordT = TypeVar("RecordT", bound=Value)

_MODE: Final = 0o600


# --- records ----------------------------------------------------------------------------------------------


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


# --- the folder -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class RunDir:
    """Paths of one attempt."""

    root: Path

    @property
    def usage(self) -> Path:
        """What it has used of its GPUs so far."""
        return self.root / "usage.json"

    @classmethod
    def of(cls, runs: Path, run_id: str, number: int) -> "RunDir":
        """The folder of an attempt, below the state folder's `runs`."""
        return cls(runs / run_id / str(number))

    def create(self) -> "RunDir":
        """Make the folder and what the job finds ready in it.

        Raises:
            StorageError: It cannot be made.
        """
        try:
            for folder in (self.results, self.overlay, self.tmp, self.checkpoint, self.shown):
                folder.mkdir(parents=True, exist_ok=True)
            self.shown.chmod(0o755)
        except OSError as error:
            raise _storage(self.root, error) from error
        return self

    @property
    def job(self) -> Path:
        """All that only this attempt's job writes."""
        return self.root / "job"

    @property
    def tree(self) -> Path:
        """The work folder: the commit's files."""
        return self.job / "tree"

    @property
    def log(self) -> Path:
        """What the job wrote, standard output and error as they came."""
        return self.root / "log.txt"

    @property
    def spec(self) -> Path:
        """The shim's orders."""
        return self.root / "spec.json"

    @property
    def given(self) -> Path:
        """The secrets that the job got, sealed to this executor."""
        return self.root / "secrets.sealed"

    @property
    def started(self) -> Path:
        """Written by the shim before the job's first instruction."""
        return self.root / "started.json"

    @property
    def exit(self) -> Path:
        """Written by the shim when the job's tree is dead."""
        return self.root / "exit.json"

    @property
    def stop(self) -> Path:
        """Written before the shim is asked to stop."""
        return self.root / "stop.json"

    @property
    def shown(self) -> Path:
        """What the executor and the shim show the job; the job can only read it."""
        return self.root / "shown"

    @property
    def library(self) -> Path:
        """What stands at the end of the job's `PYTHONPATH`."""
        return self.shown / "python"

    @property
    def stop_file(self) -> Path:
        """There when the command is asked to end."""
        return self.shown / "stop"

    @property
    def lock(self) -> Path:
        """Held as long as the shim lives."""
        return self.root / "lock"

    @property
    def summary(self) -> Path:
        """Markdown that joins the report."""
        return self.job / "summary.md"

    @property
    def metrics(self) -> Path:
        """JSON lines of metrics."""
        return self.job / "metrics.jsonl"

    @property
    def results(self) -> Path:
        """Everything in it is a result."""
        return self.job / "results"

    @property
    def artifacts(self) -> Path:
        """Results that did not go into Git, kept to be fetched."""
        return self.root / "artifacts"

    @property
    def withheld(self) -> Path:
        """Results that hold a secret, kept for the owner of the executor; nobody else gets them."""
        return self.root / "withheld"

    @property
    def overlay(self) -> Path:
        """The project's own package, installed for this attempt only."""
        return self.job / "overlay"

    @property
    def tmp(self) -> Path:
        """The job's temporary files."""
        return self.job / "tmp"

    @property
    def checkpoint(self) -> Path:
        """Checkpoints, shared by all attempts of the run."""
        return self.root.parent / "checkpoint"

    @property
    def before(self) -> Path:
        """The metrics of the run's earlier attempts, here and at other executors."""
        return self.root.parent / "before"

    @property
    def received(self) -> Path:
        """Says which checkpoint of another executor has taken its place here."""
        return self.root.parent / "received"

    def checkpointed(self) -> bool:
        """Whether an attempt has left something to go on from."""
        try:
            return any(self.checkpoint.iterdir())
        except FileNotFoundError:
            return False

    def read_orders(self) -> Orders | None:
        """What the shim was told to do, or None before that."""
        return _read(self.spec, Orders)

    def read_started(self) -> Started | None:
        """The shim's first record, or None before it is written."""
        return _read(self.started, Started)

    def read_verdict(self) -> Verdict | None:
        """The shim's last record, or None before it is written."""
        return _read(self.exit, Verdict)

    def read_stop(self) -> StopOrder | None:
        """The order to stop, or None when there is none."""
        return _read(self.stop, StopOrder)


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
        raise _storage(path, error) from error


def _read(path: Path, kind: type[RecordT]) -> RecordT | None:
    try:
        return kind.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValidationError) as error:
        raise StorageError(f"The record {path} cannot be read: {error}.") from error


def _storage(path: Path, error: OSError) -> StorageError:
    mend = "Free some space." if error.errno in (errno.ENOSPC, errno.EDQUOT) else "Check the state folder."
    return StorageError(f"{path} could not be written: {error.strerror}.", mend=mend)


def take_lock(path: Path) -> int | None:
    """Take an attempt's lock; the descriptor that holds it, or None when another process does.

    The lock belongs to the open file, not to the process: whoever inherits the descriptor holds it too, and
    it is free when the last of them is gone.
    """
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, _MODE)
    except OSError as error:
        raise _storage(path, error) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor


def held(path: Path) -> bool:
    """Whether a living process holds this lock."""
    if not path.exists():
        return False
    descriptor = take_lock(path)
    if descriptor is None:
        return True
    os.close(descriptor)
    return False


# --- the log ----------------------------------------------------------------------------------------------


def read_log(path: Path, attempt: int, offset: int, limit: int, *, ended: bool) -> LogChunk:
    """Up to `limit` bytes of a log from `offset` on, never across the hole.

    Args:
        path: The log; it need not exist yet.
        attempt: Whose log it is.
        offset: Counted in all bytes that the job wrote.
        limit: Bytes at most.
        ended: Whether the writer has ended; asked before this is called, so that `complete` is true.
    """
    at, data, size = offset, b"", 0
    with contextlib.suppress(FileNotFoundError), path.open("rb", buffering=0) as file:
        descriptor = file.fileno()
        while True:
            size = os.fstat(descriptor).st_size
            data = os.pread(descriptor, limit, at)
            # The hole only ever grows, so what lies outside it after the reading was true while reading.
            begin, end = hole(descriptor, size) or (size, 0)
            if not begin <= at < end:
                break
            at = end
        if at < begin:
            data = data[: begin - at]
    after = at + len(data)
    return LogChunk(
        attempt=attempt,
        offset=at,
        data=data,
        next_offset=after,
        complete=ended and after >= size,
        elided=at > offset,
    )


def tail_of(log: Path, *, most: int = 32_768) -> str:
    """The end of a log as text, for who looks for words in it; empty where there is none."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - most))
            return file.read(most).decode(errors="replace")
    except OSError:
        return ""


def log_size(path: Path) -> int:
    """Bytes written so far, those let go included."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


@dataclass(frozen=True, slots=True)
class LogEnds:
    """A log's head and tail; between them `missing` bytes."""

    head: bytes
    tail: bytes
    missing: int
    size: int


def read_ends(path: Path, limit: int) -> LogEnds:
    """A log of at most `limit` bytes: all of it, or its head and its tail, half each, cut at line ends.

    For a log that is no longer written to.
    """
    if not path.exists():
        return LogEnds(b"", b"", 0, 0)
    with path.open("rb", buffering=0) as file:
        descriptor = file.fileno()
        size = os.fstat(descriptor).st_size
        gap = hole(descriptor, size)
        if gap is None and size <= limit:
            return LogEnds(os.pread(descriptor, size, 0), b"", 0, size)
        half = limit // 2
        first, second = gap or (size, 0)
        head = os.pread(descriptor, min(half, first), 0)
        begin = max(size - half, second)
        tail = os.pread(descriptor, size - begin, begin)
    head = head[: head.rfind(b"\n") + 1] or head
    tail = tail[tail.find(b"\n") + 1 :] or tail
    return LogEnds(head, tail, size - len(head) - len(tail), size)


def hole(descriptor: int, size: int) -> tuple[int, int] | None:
    """The first byte let go and the first kept again; the file system knows."""
    try:
        start = os.lseek(descriptor, 0, os.SEEK_HOLE)
        if start >= size:
            return None
        return start, os.lseek(descriptor, start, os.SEEK_DATA)
    except OSError as error:
        if error.errno == errno.ENXIO:
            return None
        raise
