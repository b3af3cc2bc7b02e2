"""What a job asks for: its command, data and environment, the machine, and where its results go."""

from enum import StrEnum
from typing import Annotated, Final

from pydantic import Field

from pushtrain.core.values import names
from pushtrain.core.values.isolation import Isolation, JobNetwork
from pushtrain.core.values.secretname import SecretName
from pushtrain.core.values.states import Reason
from pushtrain.core.values.value import (
    MOST,
    RESULTS_BRANCH,
    Argument,
    BranchName,
    JobName,
    Scalar,
    Sha256,
    Value,
    Variable,
    judged,
)

MAX_SECRETS: Final = 50
"""Secrets of one job."""
MOST_PRIORITY: Final = 100
CAPABILITY: Final = r"^$|^[0-9]{1,2}\.[0-9]{1,2}$"
"""CUDA's compute capability, such as `8.9`; empty: not known, or any."""


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
    gpu_memory: int = Field(default=0, ge=0, le=MOST)
    """Bytes on each GPU: at least, or with `gpu_share` at most."""
    gpu_capability: str = Field(default="", pattern=CAPABILITY)
    """CUDA's compute capability that each GPU must have at least; empty: any."""
    gpu_share: bool = False
    """Whether others may use its one GPU at the same time, each with memory of its own."""
    cpus: float = Field(default=0, ge=0, le=MOST)
    """Processor cores that the machine has at least."""
    memory: int = Field(default=0, ge=0, le=MOST)
    """Bytes that an attempt may have there at least."""
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
    """How often a run is started again, by what its attempt failed of; see `core/runs/retry.py`."""

    lost: int = Field(default=2, ge=0, le=100)
    """Times, when the machine or the shim was lost."""
    failed: int = Field(default=0, ge=0, le=100)
    """Times, when the command failed."""
    exit_codes: dict[Annotated[int, Field(ge=-MOST, le=MOST)], Annotated[int, Field(ge=0, le=100)]] = Field(
        default_factory=dict
    )
    """Times, by exit code; such an end does not count as failed."""
    also: tuple[Reason, ...] = ()
    """Reasons, of `RETRIED`, that count as failed and are tried again."""
    backoff: float = Field(default=10, gt=0, le=MOST)
    """Seconds before the first try; each further one waits twice as long."""


class ResultsTarget(Value):
    """Where a run's results are committed."""

    branch: BranchName = RESULTS_BRANCH
    """A branch, or `same` for the pushed one."""
    repository: Annotated[str, judged(names.repository_problem)] = ""
    """Another repository's key; empty: the job's own."""
    path: Annotated[str, judged(names.folder_problem)] = ""
    """Folder in that branch; empty: the root, or `pushtrain-results` on a branch that is not ours alone."""
    artifacts: Annotated[str, judged(names.store_problem, words=("", "lfs"))] = ""
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
    timeout: float | None = Field(default=None, gt=0, le=MOST)
    """Seconds from the training's start; None: the executor's limit."""
    preempt_signal: PreemptSignal = PreemptSignal.TERM
    """What its command gets when the machine is wanted back."""
    retry: Retry = Retry()
    """When it is started again though it failed."""
    checkpoint_to: Annotated[str, judged(names.store_problem, words=("", "lfs"))] = ""
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
    """How much earlier its turn comes than its acceptance says, in hours (`core.runs.fairness`)."""

    @property
    def title(self) -> str:
        """The name with its cell: `train (lr=0.1, seed=2)`."""
        if not self.cell:
            return self.name
        return f"{self.name} ({', '.join(f'{k}={_show(v)}' for k, v in self.cell.items())})"


def _show(value: Scalar) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
