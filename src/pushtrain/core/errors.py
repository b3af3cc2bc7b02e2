"""What can go wrong, who mends it, and the exit code and HTTP status each error carries.

Every error that a user can meet is a `PushtrainError`. Its message names what failed and why; `mend` names
what to do about it. The command line prints one line and exits with `exit_code`; a server answers with
`status` and `{"error": {"code", "message", "mend"}}`. Anything else that escapes is a defect.
"""

import re
from typing import ClassVar, Final

_UNFIT: Final = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def fit(text: str) -> str:
    """A text that can be stored, sent and shown: what a terminal would obey, and half characters, are marked.

    Errors repeat names of files and branches and what other machines said.
    """
    return _UNFIT.sub("\ufffd", text)


class PushtrainError(Exception):
    """Base of every error meant for a person.

    Args:
        message: What failed and why, one sentence, without the mend.
        mend: What the reader can do about it, one sentence; may hold a command in backquotes.
    """

    code: ClassVar[str] = "error"
    exit_code: ClassVar[int] = 1
    status: ClassVar[int] = 500
    retry_after: ClassVar[int] = 0
    """Seconds after which it may be different, told as `Retry-After`; 0: there is nothing to tell."""

    def __init__(self, message: str, *, mend: str = "") -> None:
        super().__init__(fit(message))
        self.message = fit(message)
        self.mend = fit(mend)

    def __str__(self) -> str:
        return f"{self.message} {self.mend}" if self.mend else self.message


class UsageError(PushtrainError):
    """A command or a request is not of a form we understand."""

    code = "usage"
    exit_code = 2
    status = 400


class ConfigError(PushtrainError):
    """`pushtrain.toml` or a settings file is wrong; the message names file, key and value."""

    code = "config"
    exit_code = 3
    status = 422


class BeyondLimits(ConfigError):
    """The job asks for more than the executor's owner lets one run have; the message names the rule."""

    code = "limits"


class Cloned(ConfigError):
    """A state folder belongs to another machine, or one of its copies is at work; the message says which."""

    code = "cloned"


class Unauthorized(PushtrainError):
    """A signature is missing, wrong or expired, or its key was never authorised: one answer for all."""

    code = "unauthorized"
    exit_code = 4
    status = 401


class Forbidden(PushtrainError):
    """The key is known, but may not do this."""

    code = "forbidden"
    exit_code = 4
    status = 403


class Refused(Forbidden):
    """A rule of the executor's owner does not allow it; the message names the rule."""

    code = "refused"


class NotFound(PushtrainError):
    """There is no such run, job, commit or file."""

    code = "not-found"
    exit_code = 5
    status = 404


class Conflict(PushtrainError):
    """The thing exists, but its state does not allow this."""

    code = "conflict"
    exit_code = 6
    status = 409


class IllegalTransition(Conflict):
    """A lifecycle event does not fit the run's state; the run is as it was."""

    code = "illegal-transition"


class TooLarge(PushtrainError):
    """A request or a file is over its documented limit."""

    code = "too-large"
    exit_code = 2
    status = 413


class Busy(PushtrainError):
    """A documented cap is reached; try again later."""

    code = "busy"
    exit_code = 7
    status = 429
    retry_after = 10


class Draining(Busy):
    """The executor finishes what runs and takes nothing new; another one may take it now."""

    code = "draining"
    status = 503
    retry_after = 60


class Unreachable(PushtrainError):
    """The other machine did not answer, or what answered is not what it should be.

    Args:
        message: What failed and why.
        mend: What the reader can do about it.
        sent: Whether the request may have arrived all the same; False only when no connection was made.
    """

    code = "unreachable"
    exit_code = 7
    status = 502

    def __init__(self, message: str, *, mend: str = "", sent: bool = True) -> None:
        super().__init__(message, mend=mend)
        self.sent = sent


class StorageError(PushtrainError):
    """This machine could not write something down durably: disk full, I/O error, damaged store."""

    code = "storage"
    exit_code = 8
    status = 503


class StoreDamaged(StorageError):
    """The store is damaged or has lost writes; nothing more is read from it or written to it."""

    code = "store-damaged"


class GitError(PushtrainError):
    """A git command failed."""

    code = "git"
    exit_code = 9
    status = 502


class PushRejected(GitError):
    """The remote has moved on since we fetched; fetch and try again."""

    code = "push-rejected"


class CredentialError(GitError):
    """The remote refused our credentials, or we have none."""

    code = "credential"


class DataError(PushtrainError):
    """Data could not be fetched, or is not what its digest says."""

    code = "data"
    exit_code = 10
    status = 502


class DataAway(DataError):
    """Whoever has the data does not answer now, or not to the end; nothing is wrong with what was asked."""

    code = "data-away"


class BuildError(PushtrainError):
    """The environment could not be built, or does not fit this machine."""

    code = "environment"
    exit_code = 11
    status = 500


class IndexAway(BuildError):
    """Whoever has the packages does not answer now; nothing is wrong with what was asked."""

    code = "index-away"


class BuildKilled(BuildError):
    """A build was ended from outside: by the kernel for want of memory, by whoever shut the machine down."""

    code = "build-killed"


class SecretError(PushtrainError):
    """A secret is missing, cannot be read, or may not be given out."""

    code = "secret"
    exit_code = 11
    status = 422


class NeedsCode(BuildError):
    """An environment needs something built from source: code of others would run."""

    code = "needs-code"


class RunFailed(PushtrainError):
    """The run that we waited for did not succeed."""

    code = "run-failed"
    exit_code = 12
    status = 500


class Cancelled(PushtrainError):
    """Work stopped because somebody asked for it."""

    code = "cancelled"
    exit_code = 13
    status = 409


class NeedsMending(PushtrainError):
    """`pushtrain doctor` found something that must be mended."""

    code = "needs-mending"
    exit_code = 14
    status = 500


class ServiceError(PushtrainError):
    """systemd could not do what it was asked."""

    code = "service"
    exit_code = 15
    status = 500
