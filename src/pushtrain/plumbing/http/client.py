"""An executor as its callers see it: the one description of its HTTP interface outside the executor.

Every answer is verified before it is believed (`connection`). What the executor says went wrong is raised in
the class that it was raised in there. `Unreachable` means that nothing believable came back; its `sent` tells
whether the request may have arrived all the same.

Nothing but a challenge leaves for an address at which the executor has not proven within the last seconds
that it is at home there (`core.wire.address`). A challenge tells who asks and whom, and nothing of what is
wanted.
"""

import secrets
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar
from urllib.parse import quote, urlencode

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from pydantic import ValidationError

from pushtrain.core.errors import (
    Busy,
    NotFound,
    TooLarge,
    Unauthorized,
    Unreachable,
)
from pushtrain.core.values.card import Challenge, ExecutorCard
from pushtrain.core.values.command import TrainCommand
from pushtrain.core.values.run import Artifact, LogChunk, Run, RunView
from pushtrain.core.values.states import Outcome
from pushtrain.core.values.value import Value
from pushtrain.core.wire.address import elsewhere
from pushtrain.core.wire.bodies import BEAT, MAX_BODY, MAX_LINE, MAX_PIECE, RunList
from pushtrain.core.wire.frames import (
    BeatFrame,
    CapacityFrame,
    EndFrame,
    Frame,
    LogFrame,
    RunFrame,
    ViewFrame,
    unseal,
)
from pushtrain.core.wire.protocol import misfit
from pushtrain.core.wire.signing import fingerprint
from pushtrain.plumbing.http.connection import Connection, Request
from pushtrain.plumbing.http.patience import Retry
from pushtrain.plumbing.http.pieces import fetch

if TYPE_CHECKING:
    from pushtrain.core.runs.gpustate import MachineGpus
    from pushtrain.core.runs.usage import Usage
    from pushtrain.ports import Report

__all__ = ["CapacityFrame", "EndFrame", "ExecutorClient", "LogFrame", "RunFrame", "ViewFrame"]

ValueT = TypeVar("ValueT", bound=Value)

PROOF: Final = 5.0
"""Seconds for which an executor counts as the one that it proved to be: a burst of commands is one proof."""
_SILENCE: Final = 2 * BEAT + 5


class ExecutorClient:
    """One executor. Any thread may use it; connections are kept.

    Args:
        url: Where it is: `https://lab.example`, `http://127.0.0.1:8421`.
        public_key: The key that it must prove with every answer.
        identity: Ours; signs what we ask.
        succession: What our former keys said of it, as a header (`core.wire.succession`).
        met: Told the executor's card whenever it has proven who it is.
        timeout: Seconds for an answer to begin.
        patience: Seconds for which `follow` and `artifact` try to come back after a cut.
        clock: Seconds since the epoch.
        pause: Waits for some seconds.
        ticks: A clock that never goes back.

    Raises:
        UsageError: The address is not of that form.
    """

    def __init__(
        self,
        url: str,
        public_key: Ed25519PublicKey,
        identity: Ed25519PrivateKey,
        *,
        succession: str = "",
        met: Callable[[ExecutorCard], None] = lambda _: None,
        timeout: float = 30,
        patience: float = 600,
        clock: Callable[[], float] = time.time,
        pause: Callable[[float], None] = time.sleep,
        ticks: Callable[[], float] = time.monotonic,
    ) -> None:
        self._key = public_key
        self._ticks = ticks
        self._newest = 0
        self._proven_at: float | None = None
        self._proving = threading.Lock()
        self._met = met
        self._patience = patience
        self._pause = pause
        self._connection = Connection(
            url,
            public_key,
            identity,
            timeout=timeout,
            succession=succession,
            clock=clock,
            nonce=lambda: secrets.token_urlsafe(16),
        )

    @property
    def id(self) -> str:
        """Who it is, wherever it is: its key's fingerprint."""
        return fingerprint(self._key)

    @property
    def url(self) -> str:
        """Where it is."""
        return self._connection.url

    @property
    def public_key(self) -> Ed25519PublicKey:
        """The key that it must prove."""
        return self._key

    def close(self) -> None:
        """Close the kept connections."""
        self._connection.close()

    def expect(self, number: int) -> None:
        """A card of its with this number was seen: an executor that says a lower one is not it any more."""
        self._newest = max(self._newest, number)

    def challenge(self) -> Challenge:
        """Who it is and what it has free, proven by its key; and that it is at home at this address.

        Raises:
            Unreachable: Nobody answers, or somebody else does, or somebody who passes on what it hears; or it
                speaks another version of the protocol.
        """
        body = self._connection.ask(Request("POST", "/v1/challenge"))
        if other := misfit(body):
            self._proven_at = None
            raise Unreachable(
                f"The executor at {self.url} is not understood: {other[0]}.", mend=other[1], sent=False
            )
        said = self._parsed(Challenge, body)
        if why := elsewhere(self.url, said.card, newest=self._newest):
            self._proven_at = None
            raise Unreachable(
                f"The executor {said.card.name[:60]} is not at home at {self.url}: {why}.",
                mend="Nothing was sent there. If the address is right, its owner sets it as `public_url`; "
                "docs/two-machines.md tells more.",
                sent=False,
            )
        self._proven_at = self._ticks()
        self._met(said.card)
        return said

    def _prove(self) -> None:
        """Have it prove who and where it is, unless it just did.

        Raises:
            Unreachable: It did not; nothing else was sent.
        """
        with self._proving:
            if self._proven_at is not None and self._ticks() - self._proven_at <= PROOF:
                return
            try:
                self.challenge()
            except Unreachable as error:
                raise Unreachable(error.message, mend=error.mend, sent=False) from error

    def send(self, command: TrainCommand) -> Run:
        """Hand a command over; it returns once a signed acceptance is here. Sending it again is harmless.

        Raises:
            TooLarge: The command is over the limit; nothing was sent.
            Unreachable: It may have been accepted all the same, unless `sent` is False.
            PushtrainError: The executor refused it.
        """
        body = command.model_dump_json().encode()
        if len(body) > MAX_BODY:
            raise TooLarge(
                f"The command of job {command.job.name} is larger than {MAX_BODY} bytes.",
                mend="Put long lists into a file of the repository.",
            )
        run = self._value(Run, Request("POST", "/v1/runs", body=body, idempotency_key=command.run_id))
        if run.id != command.run_id:
            raise Unreachable(f"The executor at {self.url} accepted another run than the one that was sent.")
        return run

    def runs(self, *, find: str = "", repository: str = "", limit: int = 50) -> list[Run]:
        """Runs, newest first; `find` is the beginning of an id or a commit, a branch, or a job."""
        query = urlencode({"find": find, "repository": repository, "limit": limit}, quote_via=quote)
        return list(self._value(RunList, Request("GET", "/v1/runs", query)).runs)

    def usage(self, days: int) -> "Usage":
        """What the executor's ledger tells of the last days."""
        from pushtrain.core.runs.usage import Usage  # lazy: few callers ask for it

        return self._value(Usage, Request("GET", "/v1/usage", urlencode({"days": days})))

    def gpus(self) -> "MachineGpus":
        """What the executor's GPUs do at this moment."""
        from pushtrain.core.runs.gpustate import MachineGpus  # lazy: few callers ask for it

        return self._value(MachineGpus, Request("GET", "/v1/gpus"))

    def view(self, run_id: str) -> RunView:
        """One run. Raises NotFound."""
        return self._value(RunView, Request("GET", _path(run_id)))

    def log(self, run_id: str, *, attempt: int = 0, offset: int = 0, limit: int = 256 * 1024) -> LogChunk:
        """A piece of an attempt's log, of the current attempt's unless another is named. Raises NotFound."""
        query = urlencode({"attempt": attempt, "offset": offset, "limit": limit})
        return self._value(LogChunk, Request("GET", _path(run_id, "log"), query))

    def cancel(self, run_id: str) -> Run:
        """Ask a run to end; the run as it is then. Raises NotFound, Conflict when it has ended already."""
        return self._value(Run, Request("POST", _path(run_id, "cancel")))

    def release(self, run_id: str, attempt: int) -> Run:
        """Take back a run that waits there, so that it may go elsewhere; asking again is harmless.

        Args:
            run_id: Which run; we must have sent it.
            attempt: The `attempt` of the command that it was sent with.

        Raises:
            Conflict: It has started there, or has ended.
            NotFound: The executor does not know it.
            Unreachable: It may have been released all the same, unless `sent` is False.
        """
        query = urlencode({"attempt": attempt})
        run = self._value(Run, Request("POST", _path(run_id, "release"), query))
        if run.id != run_id or run.outcome is not Outcome.MOVED:
            raise Unreachable(
                f"The executor at {self.url} released another run than the one it was asked for."
            )
        return run

    # --- live ---------------------------------------------------------------------------------------------

    def follow(
        self, run_id: str, *, attempt: int = 0, offset: int = 0, until_log: bool = False
    ) -> Iterator[LogFrame | ViewFrame | EndFrame]:
        """A run as it goes on: each byte of its log once and in order, and the run whenever it changed.

        Cut connections are made again, from where they broke off.

        Args:
            run_id: Which run.
            attempt: Whose log comes first; 0: the current one. Later attempts follow.
            offset: Where in that log to begin.
            until_log: End when the log is whole, rather than when the run is final.

        Raises:
            Unreachable: The executor did not answer at first, or not again within `patience`.
            PushtrainError: The executor refused.
        """
        place = _Place(attempt, offset)
        retry = Retry(self._patience, self._pause)
        while True:
            query = {"attempt": place.attempt, "offset": place.offset, "until": "log" if until_log else "end"}
            request = Request("GET", _path(run_id, "stream"), urlencode(query))
            try:
                for frame in self._frames(request):
                    news = place.news(frame)
                    if news or isinstance(frame, BeatFrame):
                        retry.went_well()
                    if news:
                        yield news
                    if isinstance(frame, EndFrame):
                        return
                retry.after(Unreachable(f"The live stream from {self.url} was cut off."))
            except (Unreachable, Busy) as error:
                retry.after(error)

    def events(
        self, opened: Callable[[Callable[[], None]], None] | None = None
    ) -> Iterator[CapacityFrame | RunFrame]:
        """What the executor has free, at once and whenever it changes, and runs that come to their end.

        One connection: when it is cut, the caller decides whether to come back.

        Args:
            opened: Told once the stream stands how to end it, which any thread may do.

        Raises:
            Unreachable: Nobody answers, or the stream was cut off or is silent.
            PushtrainError: The executor refused.
        """
        for frame in self._frames(Request("GET", "/v1/events"), opened):
            if not isinstance(frame, CapacityFrame | RunFrame):
                raise self._damaged(f"it holds a line of kind {frame.kind}")
            yield frame
        raise Unreachable(f"The live stream from {self.url} was cut off.")

    def _damaged(self, why: str) -> Unreachable:
        return Unreachable(f"The live stream from {self.url} is damaged: {why}")

    def _frames(
        self, request: Request, opened: Callable[[Callable[[], None]], None] | None = None
    ) -> Iterator[Frame]:
        """The lines of one connection, each verified."""
        self._prove()
        with self._connection.stream(request, silence=_SILENCE, opened=opened) as (pieces, signature):
            for number, line in enumerate(_lines(pieces)):
                try:
                    yield unseal(line, key=self._key, request=signature, number=number)
                except (Unauthorized, ValidationError) as error:
                    raise self._damaged(str(error)) from error

    # --- files --------------------------------------------------------------------------------------------

    def artifact(self, run_id: str, path: str, into: Path, report: "Report | None" = None) -> Artifact:
        """Fetch a file that the executor keeps: resumed where an earlier call stopped, verified, then there.

        Args:
            run_id: Whose file.
            path: Which one, as the run's artifacts name it.
            into: Where to; its folder must exist.
            report: Told of the progress.

        Raises:
            NotFound: The executor has no such file.
            DataError: What came is not what the run left.
            StorageError: It cannot be written here.
        """
        found = [file for file in self.view(run_id).artifacts if file.path == path]
        if not found or found[0].where != "executor":
            raise NotFound(f"Run {run_id[:8]} has no file `{path}` on its executor.")
        file = found[0]

        def piece(offset: int) -> bytes:
            query = urlencode({"offset": offset, "limit": MAX_PIECE})
            return self._ask(Request("GET", _path(run_id, "artifacts", path), query))

        retry = Retry(self._patience, self._pause, held=True)
        fetch(file, into, piece=piece, retry=retry, report=report or (lambda *_: None), run=run_id[:8])
        return file

    def _value(self, kind: type[ValueT], request: Request) -> ValueT:
        return self._parsed(kind, self._ask(request))

    def _ask(self, request: Request) -> bytes:
        self._prove()
        return self._connection.ask(request)

    def _parsed(self, kind: type[ValueT], body: bytes) -> ValueT:
        try:
            return kind.model_validate_json(body)
        except ValidationError as error:
            raise Unreachable(
                f"The executor at {self.url} answered with what this version does not understand.",
                mend="Compare `pushtrain --version` on both machines.",
            ) from error


class _Place:
    """Where a reader is, across connections."""

    def __init__(self, attempt: int, offset: int) -> None:
        self.attempt = attempt
        self.offset = offset
        self._view: RunView | None = None

    def news(self, frame: Frame) -> LogFrame | ViewFrame | EndFrame | None:
        """Take a frame in; give it back if it says anything that the reader has not heard."""
        match frame:
            case BeatFrame():
                return None
            case LogFrame():
                self.attempt, self.offset = frame.attempt, frame.next_offset
            case ViewFrame(view=view):
                if view == self._view:
                    return None
                self._view = view
                self.attempt = self.attempt or view.run.attempt or 1
            case EndFrame():
                pass
            case CapacityFrame() | RunFrame():
                raise Unreachable("The live stream of a run holds a line of another stream.")
        return frame


def _lines(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """Whole lines; what is left behind the last one is dropped, since a cut made it."""
    rest = b""
    for piece in pieces:
        *whole, rest = (rest + piece).split(b"\n")
        yield from whole
        if len(rest) > MAX_LINE:
            raise Unreachable("The live stream holds a line without an end.")


def _path(run_id: str, *rest: str) -> str:
    return "/".join(["/v1/runs", quote(run_id, safe=""), *(quote(part, safe="/") for part in rest)])
