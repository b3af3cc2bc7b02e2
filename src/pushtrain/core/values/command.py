"""What a sender tells an executor: run this job of this commit, and go on from this checkpoint."""

import hashlib
from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal, Self

import rfc8785
from pydantic import Field, model_validator

from pushtrain.core.values import names
from pushtrain.core.values.jobspec import JobSpec
from pushtrain.core.values.states import Reason
from pushtrain.core.values.value import (
    MOST,
    CommitId,
    RefName,
    RepositoryKey,
    RunId,
    Scalar,
    Sha256,
    Value,
    judged,
)

LATEST: Final = 1e11
"""Seconds: no time since the epoch, and no length of time, is more. So they may be added up, and shown."""


class Segment(Value):
    """One attempt of a run as it travels with its checkpoint: what a stranger says, within bounds."""

    attempt: int = Field(ge=0, le=MOST)
    executor: str
    began_at: float = Field(ge=0, le=LATEST)
    seconds: float = Field(default=0, ge=-LATEST, le=LATEST)
    """Of training; less than nothing where a clock was set back meanwhile."""
    steps: int = Field(default=0, ge=0, le=MOST)
    """That it logged."""
    gpu_seconds: float = Field(default=0, ge=0, le=MOST)
    joules: float | None = Field(default=None, ge=-MOST, le=MOST)
    """None: nobody measured."""
    reason: Reason = Reason.NONE
    exit_code: int | None = Field(default=None, ge=-MOST, le=MOST)
    detail: str = ""


class Checkpoint(Value):
    """A run's checkpoint where another executor can have it (docs/checkpoints.md#another-executor)."""

    attempt: int = Field(ge=0, le=MOST)
    """The last attempt that it is of."""
    where: Literal["lfs", "url", "none"]
    """`none`: nothing was saved, and there is no file; what was done travels all the same."""
    url: Annotated[str, judged(names.store_problem)] = ""
    sha256: Sha256 | Literal[""] = ""
    size: int = Field(default=0, ge=0, le=MOST)
    segments: tuple[Segment, ...] = Field(default=(), max_length=1000)
    """What was done so far, and where."""

    @model_validator(mode="after")
    def _has_one_file_or_none(self) -> Self:
        named = bool(self.sha256)
        if named != self.has_file or not (named or (self.size, self.url) == (0, "")):
            raise ValueError("a checkpoint has a file with its SHA-256, or none of these")
        return self

    @property
    def has_file(self) -> bool:
        """Whether there is something to go on from."""
        return self.where != "none"


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
