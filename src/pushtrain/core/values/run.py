"""What becomes of a command: a run, its attempts, its history, and what it left."""

from typing import Literal

from pydantic import ConfigDict, Field

from pushtrain.core.values.command import Checkpoint, TrainCommand
from pushtrain.core.values.jobspec import DataSource
from pushtrain.core.values.states import Outcome, Reason, Stage, State
from pushtrain.core.values.value import RunId, Value


class StageTime(Value):
    """How long one stage of an attempt took."""

    stage: Stage
    seconds: float
    note: str = ""
    """For people: `cached`, `12 files`, `numpy 2.4 and 3 more`."""


class Progress(Value):
    """What an attempt is doing at this moment; shown, never stored."""

    stage: Stage
    text: str = ""
    done: int = 0
    total: int = 0
    """Bytes or steps; 0: unknown."""


class Fetched(Value):
    """One data source as an attempt really got it."""

    source: DataSource
    sha256: str
    size: int
    etag: str = ""
    pinned: bool
    """Whether the job named the digest."""
    cached: bool = False


class GpuUse(Value):
    """What one attempt used of its GPUs, all together (`core.runs.usage`). None: no look told."""

    seconds: float = Field(ge=0)
    """GPU-seconds: cards times the time that it held them, a shared card by its share of the memory."""
    mean_utilization: float | None = None
    """Percent, over time and cards."""
    peak_utilization: int | None = None
    """Percent, of the busiest card."""
    mean_memory: int | None = None
    """Bytes on each card, over time and cards."""
    peak_memory: int | None = None
    """Bytes, of the card of which it held the most."""
    joules: float | None = None
    estimated: bool = False
    """Whether the energy is power times time, not the cards' own counters."""
    idle: float = 0
    """Seconds of the longest time without a break in which one of its cards computed nothing."""


class Attempt(Value):
    """One start of a run on one executor."""

    run_id: RunId
    number: int
    executor: str
    claimed_at: float
    started_at: float | None = None
    ended_at: float | None = None
    exit_code: int | None = None
    signal: int | None = None
    reason: Reason = Reason.NONE
    detail: str = ""
    gpus: tuple[str, ...] = ()
    """UUIDs."""
    log_size: int = 0
    """Bytes the job wrote, elided ones included."""
    steps: int = 0
    """Steps of training that it logged."""
    stages: tuple[StageTime, ...] = ()
    data: tuple[Fetched, ...] = ()
    environment: str = ""
    """For people: `uv: 14 packages, cached`."""
    secrets: tuple[str, ...] = ()
    """For people: which secrets its command got, and from whom."""
    isolation: str = "none"
    network: str = ""
    """What it reached; empty: it never got so far."""
    cpu_seconds: float = 0
    max_rss: int = 0
    """Bytes; the largest process of the tree."""
    disk_read: int = 0
    """Bytes that its processes had read from disks, the page cache left out."""
    disk_written: int = 0
    """Bytes likewise."""
    gpu: GpuUse | None = None
    """None: it had none."""
    waited: float = 0
    """Seconds that the run waited for this start."""


class Run(Value):
    """One execution of a job for one commit."""

    id: RunId
    command: TrainCommand
    sender: str
    """Fingerprint of the key that signed the command."""
    state: State = State.QUEUED
    outcome: Outcome | None = None
    reason: Reason = Reason.NONE
    detail: str = ""
    """One sentence for people: what went wrong, and the mend."""
    attempt: int = 0
    """Number of the current attempt; 0 before the first claim."""
    token: str = ""
    """The current claim's token; late writes without it are refused."""
    cancel_requested: bool = False
    preempt_requested: bool = False
    checkpoint: Checkpoint | None = None
    """What this executor has brought away of it."""
    gives_way_to: str = ""
    """The run of a newer push that goes first."""
    not_before: float = 0
    waiting_for: str = ""
    gpus: tuple[str, ...] = ()
    accepted_at: float
    updated_at: float
    started_at: float | None = None
    """When the current attempt's command began; None: it has not."""
    ended_at: float | None = None
    """When it ended."""
    done_at: float | None = None
    result_commit: str = ""
    result_path: str = ""
    publish_tries: int = 0

    @property
    def short(self) -> str:
        """The first eight digits of the id, enough for people."""
        return self.id[:8]

    @property
    def ending(self) -> str:
        """How it went, in the same words everywhere: `succeeded`, `failed (timeout)`; empty before."""
        told = f" ({self.reason})" if self.reason in {Reason.TIMEOUT, Reason.REFUSED} else ""
        return f"{self.outcome}{told}" if self.outcome else ""

    @property
    def pending(self) -> bool:
        """Whether its results could not be published yet; that is tried again for as long as it takes."""
        return self.state is State.PUBLISHING and self.publish_tries > 0

    @property
    def final(self) -> bool:
        """Whether nothing more will happen to this run."""
        return self.state is State.DONE


class RunEvent(Value):
    """One line of a run's history; append-only."""

    run_id: RunId
    sequence: int
    time: float
    kind: str
    """The lifecycle event's name in lower case, or `accepted`, `cancel-requested`."""
    state: State
    detail: str = ""


class Artifact(Value):
    """One file that a run left, and where it is."""

    path: str
    size: int
    sha256: str
    where: Literal["git", "lfs", "url", "executor", "refused"]
    url: str = ""
    until: float | None = None
    """For `executor`: kept at least to this time."""
    why: str = ""
    """For `refused`: what was wrong with it."""
    hidden: int = 0
    """Places in it where a secret stood, and `*` now."""


class RunView(Value):
    """A run as its executor shows it."""

    run: Run
    attempts: tuple[Attempt, ...] = ()
    events: tuple[RunEvent, ...] = ()
    progress: Progress | None = None
    log_size: int = 0
    """Bytes the current attempt has written so far."""
    artifacts: tuple[Artifact, ...] = ()
    """Known once the run is published."""


class LogChunk(Value):
    """A piece of one attempt's log. Offsets count every byte that the job wrote, left-out ones included."""

    model_config = ConfigDict(ser_json_bytes="base64", val_json_bytes="base64")

    attempt: int
    offset: int
    """Of the first byte of `data`."""
    data: bytes
    next_offset: int
    """Where to go on reading."""
    complete: bool
    """Nothing comes after `next_offset`, now or later."""
    elided: bool = False
    """`offset` is beyond the one asked for: the middle of an over-long log is not kept."""
