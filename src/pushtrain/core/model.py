"""The values that flow through the house; all frozen, all strict about unknown fields.

Sizes are bytes, durations seconds, times seconds since the epoch (float, UTC). A value that crosses a
boundary (a file, a socket, the store) is a `Value`; `model_dump_json()` is its wire form.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum
from typing import Annotated, Any, Final, Literal

import rfc8785
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints

from pushtrain.core import names
from pushtrain.core.secretname import SecretName

Scalar = bool | int | float | str
"""What one matrix parameter may hold."""

Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
CommitId = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{40}$|^[0-9a-f]{64}$")]
RepositoryKey = Annotated[
    str, StringConstraints(pattern=r"^[A-Za-z0-9._~:-]+(/[A-Za-z0-9._~-]+)+$", max_length=400)
]
"""`host/path`, for example `github.com/octo/hello`; lower-case host, no `.git`, no user."""


JobName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$")]
RunId = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{32}$")]

RESULTS_BRANCH: Final = "pushtrain/results"
CONFIG_BRANCH: Final = "pushtrain/config"
MAX_SECRETS: Final = 50
"""Secrets of one job."""
MOST_PRIORITY: Final = 100
CAPABILITY: Final = r"^$|^[0-9]{1,2}\.[0-9]{1,2}$"
"""CUDA's compute capability, such as `8.9`; empty: not known, or any."""
_MOST: Final = 2**53
"""The largest number that every JSON reader and the store take."""
CHECKPOINTED: Final = 85
"""The exit code by which a command says: I have saved where I am, start me again."""
NO_COMMIT: Final = "0" * 40
"""What Git hosts send as `before` of a new branch and `after` of a deleted one."""


def _judged(problem: Callable[[str], str], *, words: Sequence[str] = ("",)) -> AfterValidator:
    """Refuse what a name's judge has something to say about; `words` are always good."""

    def judge(value: str) -> str:
        if value not in words and (why := problem(value)):
            raise ValueError(f"{value[:100]!r} {why}")
        return value

    return AfterValidator(judge)


def not_for_results(branch: str) -> str:
    """Why results cannot go to this branch; empty: they can."""
    return (
        "is where executors keep their addresses" if branch == CONFIG_BRANCH else names.branch_problem(branch)
    )


RefName = Annotated[str, _judged(names.ref_problem, words=())]
BranchName = Annotated[str, _judged(not_for_results, words=("same",))]
Variable = Annotated[str, _judged(names.variable_problem, words=())]
Argument = Annotated[str, _judged(names.argument_problem)]


class Value(BaseModel):
    """A frozen value with no unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Isolation(StrEnum):
    """How well a job is kept away from the machine that it runs on, strongest first (docs/isolation.md)."""

    CONTAINER = "container"
    SANDBOX = "sandbox"
    CONFINED = "confined"
    USER = "user"
    NONE = "none"

    def reaches(self, least: "Isolation") -> bool:
        """Whether this level protects at least as well as another."""
        ladder = list(Isolation)
        return ladder.index(self) <= ladder.index(least)

    @classmethod
    def told(cls, word: str) -> "Isolation":
        """The level that a card names; a word that is not known here promises nothing."""
        return cls(word) if word in set(cls) else cls.NONE


class JobNetwork(StrEnum):
    """What a job may reach over the network (docs/network.md)."""

    INTERNET = "internet"
    """Public addresses only: neither the owner's network nor this machine."""
    FULL = "full"
    """Whatever the machine reaches."""
    FETCH_ONLY = "fetch-only"
    """As `internet` while the environment is built and `setup` runs; nothing while the command runs."""
    NONE = "none"
    """Nothing, not even while the environment is built."""


# --- what arrives -----------------------------------------------------------------------------------------


class Push(Value):
    """A branch or tag of a repository moved."""

    host: str
    repository: str
    """Full name on the host, for example `octo/hello`."""
    repository_id: str = ""
    """The host's own number for it, when it has one: checked, never hashed."""
    ref: str
    """Fully qualified: `refs/heads/main`."""
    before: str
    after: str
    pusher: str = ""
    delivery: str
    """Unique for each delivery; a redelivery repeats it."""

    @property
    def key(self) -> str:
        """The repository key, `host/path`."""
        return f"{self.host.lower()}/{self.repository}"

    @property
    def deletes(self) -> bool:
        """Whether this push deleted the ref."""
        return set(self.after) == {"0"}


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


# --- what a job asks for ----------------------------------------------------------------------------------


class DataSource(Value):
    """One entry of a job's `data`: a URL or a folder that the executor's owner lends.

    Exactly one of `url` and `mount` is set.
    """

    url: str = ""
    """http(s), or s3, gs, az, hf. A URL that ends in `/` names a folder and needs `manifest`."""
    mount: str = ""
    """Name of a folder that the owner lends read-only; also a placement label."""
    sha256: Sha256 | None = None
    """Digest of the file, or of the manifest where there is one."""
    path: str
    """Where it appears, relative to the work folder."""
    unpack: bool = False
    manifest: str = ""
    """For a folder: the file below `url` that lists `DIGEST  PATH` lines, as `sha256sum` writes them."""


class EnvironmentKind(StrEnum):
    """Ways to build a job's environment; `auto` looks at the repository."""

    AUTO = "auto"
    UV = "uv"
    REQUIREMENTS = "requirements"
    SCRIPT = "script"
    CONDA = "conda"
    NAMED = "named"
    SYSTEM = "system"


class EnvironmentSpec(Value):
    """What a job's command runs in."""

    kind: EnvironmentKind = EnvironmentKind.AUTO
    file: str = ""
    """The file it is built from, relative to the repository's root; for `uv` the folder of pyproject.toml.

    For `auto` only a hint, which the executor adds: the script that the command runs.
    """
    name: str = ""
    """For `named`: the environment that the owner offers."""
    python: str = ""
    """A Python version such as `3.12`; empty: what the project asks for, else the executor's."""
    groups: tuple[str, ...] = ()
    """uv dependency groups, beside the default ones."""
    extras: tuple[str, ...] = ()
    """The project's optional dependencies."""


class Resources(Value):
    """What an attempt needs of the machine."""

    gpus: int = Field(default=0, ge=0, le=64)
    gpu_memory: int = Field(default=0, ge=0, le=_MOST)
    """Bytes on each GPU: at least, or with `gpu_share` at most."""
    gpu_capability: str = Field(default="", pattern=CAPABILITY)
    """CUDA's compute capability that each GPU must have at least; empty: any."""
    gpu_share: bool = False
    """Whether others may use its one GPU at the same time, each with memory of its own."""
    cpus: float = Field(default=0, ge=0, le=_MOST)
    memory: int = Field(default=0, ge=0, le=_MOST)
    """Bytes."""
    labels: tuple[str, ...] = ()


class Launcher(StrEnum):
    """What starts a job's command, and how often (docs/gpus.md)."""

    NONE = ""
    """The command is started once."""
    TORCHRUN = "torchrun"
    """PyTorch's: once for each GPU."""


class PreemptSignal(StrEnum):
    """What a job's command gets when its machine is wanted back (docs/checkpoints.md)."""

    TERM = "SIGTERM"
    INT = "SIGINT"
    HUP = "SIGHUP"
    USR1 = "SIGUSR1"
    USR2 = "SIGUSR2"
    NONE = "none"
    """No signal: the command looks at `PUSHTRAIN_STOP_FILE`."""


class Concurrency(StrEnum):
    """What becomes of a branch's older run when a newer push starts the same job."""

    QUEUE = "queue"
    """Both run, as they came."""
    CANCEL = "cancel-older"
    CHECKPOINT = "checkpoint-older"
    """It saves where it is, and goes on when the newer one has ended."""


class Retry(Value):
    """How often a run is started again, by what its attempt failed of; see `core/retry.py`."""

    lost: int = Field(default=2, ge=0, le=100)
    """Times, when the machine or the shim was lost."""
    failed: int = Field(default=0, ge=0, le=100)
    """Times, when the command failed."""
    exit_codes: dict[int, Annotated[int, Field(ge=0, le=100)]] = Field(default_factory=dict)
    """Times, by exit code; such an end does not count as failed."""
    also: tuple[Reason, ...] = ()
    """Reasons, of `RETRIED`, that count as failed and are tried again."""
    backoff: float = Field(default=10, gt=0, le=_MOST)
    """Seconds before the first try; each further one waits twice as long."""


class ResultsTarget(Value):
    """Where a run's results are committed."""

    branch: BranchName = RESULTS_BRANCH
    """A branch, or `same` for the pushed one."""
    repository: Annotated[str, _judged(names.repository_problem)] = ""
    """Another repository's key; empty: the job's own."""
    path: Annotated[str, _judged(names.folder_problem)] = ""
    """Folder in that branch; empty: the root, or `pushtrain-results` on a branch that is not ours alone."""
    artifacts: Annotated[str, _judged(names.store_problem, words=("", "lfs"))] = ""
    """Where files over the limits go: empty (they stay with the executor), `lfs`, or a URL such as `s3://b/p`."""


class JobSpec(Value):
    """One job, one matrix cell: everything an executor needs, with matrix values already put in."""

    name: JobName
    command: Argument | Annotated[tuple[Argument, ...], Field(min_length=1)]
    """A string runs as `bash -eo pipefail -c`; a tuple is executed as it is."""
    workdir: str = "."
    setup: tuple[Argument, ...] = ()
    """Commands after the environment stands, each as `bash -eo pipefail -c`."""
    data: tuple[DataSource, ...] = ()
    environment: EnvironmentSpec = EnvironmentSpec()
    env: dict[Variable, Argument] = Field(default_factory=dict)
    secrets: tuple[SecretName, ...] = Field(default=(), max_length=MAX_SECRETS)
    """Names of the secrets that its command gets as environment variables; nothing else of the job does."""
    network: JobNetwork | None = None
    """What it reaches at most; None: whatever the executor's owner allows."""
    resources: Resources = Resources()
    timeout: float | None = Field(default=None, gt=0, le=_MOST)
    """Seconds from the training's start; None: the executor's limit."""
    preempt_signal: PreemptSignal = PreemptSignal.TERM
    """What its command gets when the machine is wanted back."""
    retry: Retry = Retry()
    """When it is started again though it failed."""
    checkpoint_to: Annotated[str, _judged(names.store_problem, words=("", "lfs"))] = ""
    """Where its checkpoint goes, so that another executor can go on: `lfs`, or a URL; empty: nowhere."""
    concurrency: Concurrency = Concurrency.QUEUE
    """What becomes of an older push's run of this job."""
    results: tuple[str, ...] = ()
    """Globs relative to the work folder."""
    results_to: ResultsTarget = ResultsTarget()
    min_isolation: Isolation | None = None
    """The weakest level of isolation that it may run at; None: as the executor's owner allows."""
    submodules: bool = False
    lfs: bool = True
    """Whether Git LFS pointers must be resolved."""
    cell: dict[str, Scalar] = Field(default_factory=dict)
    """The matrix cell's values; empty without a matrix."""
    max_parallel: int | None = Field(default=None, ge=1, le=1_000_000)
    """How many cells of this job and commit may run at once."""
    launcher: Launcher = Launcher.NONE
    priority: int = Field(default=0, ge=-MOST_PRIORITY, le=MOST_PRIORITY)
    """How much earlier its turn comes than its acceptance says, in hours (`core.fairness`)."""

    @property
    def title(self) -> str:
        """The name with its cell: `train (lr=0.1, seed=2)`."""
        if not self.cell:
            return self.name
        return f"{self.name} ({', '.join(f'{k}={_show(v)}' for k, v in self.cell.items())})"


def _show(value: Scalar) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


class Segment(Value):
    """One attempt of a run as it travels with its checkpoint."""

    attempt: int
    executor: str
    began_at: float
    seconds: float = 0
    """Of training."""
    steps: int = 0
    """That it logged."""
    gpu_seconds: float = 0
    joules: float | None = None
    """None: nobody measured."""
    reason: Reason = Reason.NONE
    detail: str = ""


class Checkpoint(Value):
    """A run's checkpoint where another executor can have it (docs/checkpoints.md#another-executor)."""

    attempt: int
    """The last attempt that it is of."""
    where: Literal["lfs", "url"]
    url: Annotated[str, _judged(names.store_problem)] = ""
    sha256: Sha256
    size: int = Field(ge=0, le=_MOST)
    segments: tuple[Segment, ...] = Field(default=(), max_length=1000)
    """What was done so far, and where."""


class TrainCommand(Value):
    """What a sender signs and an executor runs. Times and nonce live in the signature, not here."""

    version: Literal[1] = 1
    run_id: RunId
    repository: RepositoryKey
    ref: RefName
    commit: CommitId
    job: JobSpec
    request: str = Field(default="", max_length=64)
    """Empty for pushes, so that a redelivery is the same run; fresh for a deliberate re-run."""
    attempt: int = Field(default=0, ge=0, le=1_000_000)
    """Attempts that count before this executor's first; grows each time the run is placed anew."""
    repository_id: str = Field(default="", pattern=r"^[0-9]{0,19}$")
    """The host's own number for the repository, where a webhook told it: checked, never hashed."""
    checkpoint: Checkpoint | None = None
    """What an earlier executor has brought away of it."""
    possible_duplicate: bool = False
    """An executor that may have taken the run on has not answered since; it may run there, too."""


def run_id(*, repository: str, commit: str, job: str, cell: Mapping[str, Scalar], request: str = "") -> str:
    """The deterministic id of a run: 32 hex digits of SHA-256 over RFC 8785 bytes.

    The ref is not hashed: one commit on two branches is one run.
    """
    identity: list[Any] = [repository, commit, job, dict(cell), request]
    return hashlib.sha256(b"pushtrain-run-1\n" + rfc8785.dumps(identity)).hexdigest()[:32]


# --- what an executor knows -------------------------------------------------------------------------------


class Gpu(Value):
    """One GPU of this machine."""

    uuid: str
    index: int
    name: str
    memory: int
    """Bytes in all."""
    driver: str = ""
    capability: str = ""
    """CUDA's compute capability, for example `8.9`."""
    display: bool = False
    """Whether a display was attached and lit when the executor started."""
    trouble: str = ""
    """Why nobody gets it until it is mended: `fallen-off`, `memory-errors`; empty: it is in order."""
    slice: int | None = None
    """Its number among the slices (MIG) that its card is cut into; None: it is a whole card."""

    @property
    def number(self) -> str:
        """What people call it: `0`, or `0.2` for a slice of GPU 0."""
        return str(self.index) if self.slice is None else f"{self.index}.{self.slice}"


class ExecutorCard(Value):
    """How a sender reaches and recognises one executor; its entry in `config.json`."""

    name: str
    public_url: str
    """Empty: it takes no calls and acts by itself (`--tunnel none`)."""
    ip: str = "127.0.0.1"
    """Where the local server listens. Informative; never dialled."""
    port: int = 0
    """Where the local server listens. Informative; never dialled."""
    timestamp: float
    """When this card was written."""
    public_key: str
    """`ed25519:` and the base64 of 32 bytes."""
    sealing_key: str = ""
    """`x25519:` and the base64 of 32 bytes: what secrets for it are sealed to. Empty: it takes none."""
    succession: tuple[str, ...] = ()
    """What its former keys said of the next one, the oldest first (`core.succession`); empty: it had none."""
    labels: tuple[str, ...] = ()
    prefer: int = 0
    """What its owner wishes: where several executors could start a run, the one with the highest number is
    asked for it."""
    mounts: tuple[str, ...] = ()
    gpus: tuple[Gpu, ...] = ()
    repositories: tuple[str, ...] = ()
    isolation: str = "none"
    """The level that its jobs run at."""
    network: str = "full"
    """What its jobs reach over the network. Empty: the level cannot enforce what the owner allows, and no job
    runs but one that asks for less (docs/network.md)."""
    online: bool = True
    """False after a clean stop."""
    draining: bool = False
    """Whether it finishes what runs and takes nothing new."""
    sequence: int = 0
    """Grows with every card that this executor writes; an older one is never believed again."""
    expires: float = 0
    """When the card is no longer believed; 0: it was never published."""
    signature: str = ""
    """Base64 Ed25519 over the card without this field; empty: it was never published."""


class FreeGpu(Value):
    """What is free of one GPU."""

    memory: int
    """Bytes that it has in all."""
    whole: bool = True
    """Whether nobody uses it: a run may have it alone."""
    room: int = 0
    """Bytes that a run may have that shares it."""
    capability: str = ""
    slice: bool = False
    """Whether it is a MIG slice: a run of several GPUs cannot use it."""


class Pace(Value):
    """How long a job takes at an executor."""

    job: str
    """`core.policy.pace_key` of repository and job."""
    seconds: float
    """The median of its last runs."""


class Capacity(Value):
    """What a run that came now would find: what is free, and not spoken for by a run that waits."""

    slots: int
    free_slots: int
    free_gpus: int
    """GPUs that nobody uses."""
    free: tuple[FreeGpu, ...] = ()
    """Those, and those that are shared and have room for more."""
    queued: int
    running: int
    waits: str = ""
    """Why a part of it is not lent at the moment, for people: `the owner is using GPU 0 (9 GB)`."""
    paces: tuple[Pace, ...] = ()
    """How long jobs take here, of those that ran lately."""
    at: float = 0
    """When this was so, by the executor's clock."""


class Challenge(Value):
    """The executor's answer to a challenge: who it is, and what it has free."""

    nonce: str
    card: ExecutorCard
    capacity: Capacity
    version: str


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
    """What one attempt used of its GPUs, all together (`core.usage`). None: no look told."""

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
