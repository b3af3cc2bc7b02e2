"""Live streams: a run's log and its changes, as they happen, line by signed line.

While nobody reads, nothing runs. While somebody does, the log is looked at every 80 ms as long as it may
grow; changes of the run come by notification. A slow reader slows its own stream down and nothing else.
"""

import asyncio
import contextlib
import logging
import threading
from collections.abc import Coroutine, Iterator
from dataclasses import dataclass
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from pushtrain.core.errors import Busy, PushtrainError
from pushtrain.core.values.run import LogChunk, RunView
from pushtrain.core.values.states import State
from pushtrain.core.wire.bodies import BEAT
from pushtrain.core.wire.frames import BeatFrame, EndFrame, LogFrame, ViewFrame
from pushtrain.executor.api import events
from pushtrain.executor.api.events import Listening
from pushtrain.executor.api.lines import Lines, Write

log = logging.getLogger(__name__)

MAX_STREAMS: Final = 64
MAX_STREAMS_PER_KEY: Final = 16
_LOOK: Final = 0.08
_PIECE: Final = 64 * 1024


@dataclass(frozen=True, slots=True)
class Reading:
    """What one reader wants to follow."""

    run_id: str
    attempt: int
    """Whose log comes first; later attempts follow from their beginning."""
    offset: int
    whole_log_is_enough: bool
    """End when the log is whole, rather than when the run is final."""
    request: str
    """Signature of the request; every line is bound to it."""
    reader: str
    """Fingerprint of the reader's key."""
    key: Ed25519PrivateKey
    """Signs each line."""


class Streams:
    """The live streams of one executor.

    Args:
        source: Where runs and logs come from.
    """

    def __init__(self, source: events.Source) -> None:
        self._source = source
        self._open: list[str] = []
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def place(self, reading: Reading | Listening) -> Iterator[None]:
        """Hold a place for one stream.

        Raises:
            Busy: All are taken, or the reader has its share.
        """
        with self._lock:
            if len(self._open) >= MAX_STREAMS or self._open.count(reading.reader) >= MAX_STREAMS_PER_KEY:
                raise Busy(f"{len(self._open)} live streams are open.", mend="Close one, or try later.")
            self._open.append(reading.reader)
        try:
            yield
        finally:
            with self._lock:
                self._open.remove(reading.reader)

    async def follow(
        self, reading: Reading | Listening, write: Write, gone: Coroutine[Any, Any, None]
    ) -> None:
        """Write a stream until it is at its end or its reader is gone.

        Args:
            reading: What to follow.
            write: Takes one line; may block for as long as the reader is slow.
            gone: Returns when the reader has hung up.
        """
        news = asyncio.Event()
        loop = asyncio.get_running_loop()

        lines = Lines(reading.key, reading.request, write)
        follower = (
            events.Listener(self._source, reading, lines, news)
            if isinstance(reading, Listening)
            else _Follower(self._source, reading, lines, news)
        )

        def changed(run_id: str) -> None:
            if follower.concerns(run_id):
                with contextlib.suppress(RuntimeError):  # the loop may be closed before the executor is
                    loop.call_soon_threadsafe(news.set)

        stop = self._source.subscribe(changed)
        watcher = asyncio.ensure_future(gone)
        watcher.add_done_callback(lambda _: news.set())
        try:
            await follower.run(watcher)
        except PushtrainError as error:  # the stream lacks its end, so the reader knows and comes again
            log.warning("a live stream broke off: %s", error)
        finally:
            stop()
            watcher.cancel()


class _Follower:
    """One stream's position."""

    def __init__(self, source: events.Source, reading: Reading, lines: Lines, news: asyncio.Event) -> None:
        self._source = source
        self._reading = reading
        self._lines = lines
        self._news = news
        self._attempt = reading.attempt
        self._offset = reading.offset
        self._whole = False
        """Whether all of this attempt's log has been written to the reader."""

    def concerns(self, run_id: str) -> bool:
        """Whether a change of this run is news here."""
        return run_id == self._reading.run_id

    async def run(self, gone: "asyncio.Future[None]") -> None:
        view = await self._look(None)
        while not gone.done():
            if self._source.admission.grant(self._reading.reader) is None:
                return  # without an end: whoever comes again is told that his key does not count any more
            if self._news.is_set():
                self._news.clear()
                view = await self._look(view)
            has_log = view.run.attempt >= self._attempt
            if has_log and not self._whole and await self._tell_log():
                continue
            if self._whole and view.run.attempt > self._attempt:
                self._attempt, self._offset, self._whole = self._attempt + 1, 0, False
            elif self._at_the_end(view.run.state) and (self._whole or not has_log):
                await self._lines.tell(EndFrame(view=view))
                return
            else:
                may_grow = has_log and not self._whole and view.run.state is not State.QUEUED
                await self._wait(_LOOK if may_grow else BEAT)

    def _at_the_end(self, state: State) -> bool:
        enough = self._reading.whole_log_is_enough and state is State.PUBLISHING
        return enough or state is State.DONE

    async def _look(self, before: RunView | None) -> RunView:
        """The run as it is now; told to the reader if it changed."""
        view = await asyncio.to_thread(self._source.shown.view, self._reading.run_id)
        view = view.model_copy(update={"run": view.run.model_copy(update={"token": ""})})
        if view != before:
            await self._lines.tell(ViewFrame(view=view))
        return view

    async def _tell_log(self) -> bool:
        """Write the next piece of the log; False when there is none now."""
        chunk, line = await asyncio.to_thread(self._piece)
        self._whole = chunk.complete
        if line:
            self._offset = chunk.next_offset
            await self._lines.write(line)
        return bool(line)

    def _piece(self) -> tuple[LogChunk, bytes]:
        chunk = self._source.shown.log_chunk(self._reading.run_id, self._attempt, self._offset, _PIECE)
        return chunk, self._lines.seal(LogFrame(**dict(chunk))) if chunk.data else b""

    async def _wait(self, patience: float) -> None:
        quiet = self._lines.quiet()
        if quiet >= BEAT:
            await self._lines.tell(BeatFrame())
            self._news.set()  # look at the run, too: a lost notification costs no more than a beat
            return
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._news.wait(), min(patience, BEAT - quiet))
