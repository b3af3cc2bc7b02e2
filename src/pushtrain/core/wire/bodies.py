"""What executor and caller agree on beside the values: limits, and the bodies of lists and errors.

docs/wire-protocol.md describes them for people.
"""

from typing import Final

from pushtrain.core.errors import PushtrainError
from pushtrain.core.values.run import Run
from pushtrain.core.values.value import Value

MAX_BODY: Final = 1024 * 1024
"""Bytes of a request's body."""
MAX_LOG: Final = 4 * 1024 * 1024
"""Bytes of a log in one answer."""
MAX_PIECE: Final = 8 * 1024 * 1024
"""Bytes of a file in one answer."""
MAX_RUNS: Final = 1000
"""Runs in one answer."""
MAX_LINE: Final = 8 * 1024 * 1024
"""Bytes of one line of a live stream."""
BEAT: Final = 15.0
"""Seconds of silence after which a live stream says that it lives."""

MAX_TOLD: Final = 64
"""Waiting runs that one line of the event stream names."""
PACE: Final = 0.1
"""Seconds from one look at what changed to the next, on the event stream."""

JSON: Final = "application/json"
BYTES: Final = "application/octet-stream"
LINES: Final = "application/x-ndjson"


class RunList(Value):
    """Runs, newest first."""

    runs: tuple[Run, ...]


class ErrorDetail(Value):
    """What went wrong, for programs and for people."""

    code: str
    message: str
    mend: str = ""


class ErrorBody(Value):
    """The body of every answer that is not a success."""

    error: ErrorDetail

    @classmethod
    def of(cls, error: PushtrainError) -> "ErrorBody":
        """The body that tells of this error."""
        return cls(error=ErrorDetail(code=error.code, message=error.message, mend=error.mend))

    def raised(self, status: int) -> PushtrainError:
        """The error that it tells of: of the class with its code, else of the first with the status."""
        known = [PushtrainError]
        for kind in known:
            known += kind.__subclasses__()
        same = [kind for kind in known if kind.code == self.error.code]
        near = [kind for kind in known if kind.status == status]
        return (same or near or known)[0](self.error.message, mend=self.error.mend)
