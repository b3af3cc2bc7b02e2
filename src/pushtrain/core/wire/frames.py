"""The lines of a live stream: a JSON object each, signed one by one.

A stream has no end that a digest in its headers could cover, so each line carries a signature of its own:
over the request that the stream answers, the line's number, and the line's SHA-256. Lines can therefore not
be dropped, repeated, swapped or taken from another stream; a stream that is cut off lacks its `end`.
"""

import base64
import hashlib
from functools import cache
from typing import Annotated, Final, Literal

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from pydantic import Field, TypeAdapter

from pushtrain.core.errors import Unauthorized
from pushtrain.core.values.card import Capacity
from pushtrain.core.values.run import LogChunk, RunView
from pushtrain.core.values.states import Outcome, State
from pushtrain.core.values.value import RunId, Value

_BASE: Final = b"pushtrain-frame-1\n"
_SEAL: Final = b',"signature":"'
_TEXT_SIZE: Final = 86
_SEAL_SIZE: Final = len(_SEAL) + _TEXT_SIZE + len(b'"}')


class LogFrame(LogChunk):
    """A piece of the log."""

    kind: Literal["log"] = "log"


class ViewFrame(Value):
    """The run, whenever it changed."""

    kind: Literal["view"] = "view"
    view: RunView


class BeatFrame(Value):
    """Nothing happened; the line is alive."""

    kind: Literal["beat"] = "beat"


class EndFrame(Value):
    """Nothing more will come: the run is final, or its log is whole where the reader asked for no more."""

    kind: Literal["end"] = "end"
    view: RunView


class CapacityFrame(Value):
    """What the executor has free, and which of the reader's own runs wait there; told again as a beat."""

    kind: Literal["capacity"] = "capacity"
    capacity: Capacity
    waiting: tuple[RunId, ...] = ()
    """Runs that the reader sent and may take back, the last first."""
    preparing: tuple[RunId, ...] = ()
    """Those that are being prepared, or go on soon, and may yet wait again."""
    whole: bool = True
    """Whether `waiting` and `preparing` name all of them."""


class RunFrame(Value):
    """A run has come to its end."""

    kind: Literal["run"] = "run"
    run_id: RunId
    state: State
    outcome: Outcome | None


Frame = LogFrame | ViewFrame | BeatFrame | EndFrame | CapacityFrame | RunFrame


@cache
def _frames() -> "TypeAdapter[Frame]":
    """What reads a frame; made when first needed, as most callers read none."""
    return TypeAdapter(Annotated[Frame, Field(discriminator="kind")])


def seal(frame: Frame, *, key: Ed25519PrivateKey, request: str, number: int) -> bytes:
    """A frame as a line of the stream, its signature as the last member of the object.

    Args:
        frame: What to say.
        key: The executor's identity.
        request: `Signed.signature` of the request that the stream answers.
        number: The line's number, from 0.
    """
    line = frame.model_dump_json().encode()
    return _sealed(line, key.sign(_base(line, request, number))) + b"\n"


def unseal(sealed: bytes, *, key: Ed25519PublicKey, request: str, number: int) -> Frame:
    """Read a line that `seal` wrote, its signature checked first.

    Raises:
        Unauthorized: It is not this executor's line with this number for this request.
        ValueError: The executor signed something that is no frame.
    """
    body = sealed.removesuffix(b"\n")
    line, text = body[:-_SEAL_SIZE] + b"}", body[-_TEXT_SIZE - 2 : -2]
    try:
        signature = base64.b64decode(text + b"==", altchars=b"-_", validate=True)
        key.verify(signature, _base(line, request, number))
    except (ValueError, InvalidSignature):
        raise _forged() from None
    if body != _sealed(line, signature):  # a signature in another spelling, or a member with another name
        raise _forged()
    return _frames().validate_json(line)


def _sealed(line: bytes, signature: bytes) -> bytes:
    return line[:-1] + _SEAL + base64.urlsafe_b64encode(signature).rstrip(b"=") + b'"}'


def _base(line: bytes, request: str, number: int) -> bytes:
    return _BASE + f"{request}\n{number}\n{hashlib.sha256(line).hexdigest()}".encode()


def _forged() -> Unauthorized:
    return Unauthorized("A line of the live stream is not signed by the executor.")
