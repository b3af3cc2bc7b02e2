"""What a Git host is told of a commit, and what it may answer."""

from dataclasses import dataclass
from enum import StrEnum

from pushtrain.core.values.value import Value


class Verdict(StrEnum):
    """How a job stands on a commit, in the hosts' words."""

    PENDING = "pending"
    SUCCESS = "success"
    FAILURE = "failure"
    """The training ran, and failed."""
    ERROR = "error"
    """It did not run to its end: cancelled, lost, or something around it failed."""


class CommitStatus(Value):
    """One line beside a commit; a later one with the same context takes its place."""

    context: str
    """Which line: `pushtrain/train`, or with the matrix cell."""
    verdict: Verdict
    description: str
    """A few words for people."""
    link: str = ""
    """The report; empty while there is none."""


@dataclass(frozen=True, slots=True)
class Told:
    """The host has taken the status."""


@dataclass(frozen=True, slots=True)
class Never:
    """The host will not take this status, however often it is told."""

    why: str


@dataclass(frozen=True, slots=True)
class Later:
    """The host did not take the status this time."""

    why: str
    mend: str = ""
    """What a person can do; empty: it mends itself."""
    wait: float | None = None
    """Seconds that the host asks for; None: as long as one thinks fit."""
    everywhere: bool = True
    """Whether every repository must wait; else only this one."""


Answer = Told | Never | Later
