"""The event stream: what the executor has free, and how runs end, told as it happens.

A sender whose runs wait holds one of these in place of asking again and again. It is told what is free at
once, then whenever that or the list of its own waiting runs changes, at most ten times a second; in silence
the same again, as a sign of life. While nobody listens, nothing is looked at.
"""

import asyncio
import contextlib
import threading
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Final, Protocol

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from pushtrain.core.errors import NotFound
from pushtrain.core.values.card import Capacity
from pushtrain.core.wire.bodies import BEAT, MAX_TOLD, PACE
from pushtrain.core.wire.frames import CapacityFrame, RunFrame
from pushtrain.executor.admission import Admission
from pushtrain.executor.api.lines import Lines
from pushtrain.executor.runs.shown import Shown
from pushtrain.plumbing.keys.authorized import Grant, Scope

_MOST: Final = 10_000
"""Changed runs that are remembered between two looks."""


class Source(Protocol):
    """What a listener needs of the executor."""

    @property
    def admission(self) -> Admission:
        """Who may come in."""

    @property
    def shown(self) -> Shown:
        """Runs as they are shown."""

    def capacity(self) -> Capacity:
        """What is free now."""

    def unbegun_of(self, keys: Collection[str], limit: int) -> tuple[list[str], list[str]]:
        """Ids of the runs that keys sent and may take back now, and of those that may yet be so."""

    def subscribe(self, changed: Callable[[str], None]) -> Callable[[], None]:
        """Call `changed(run_id)` whenever a run changes; returns how to stop it."""


@dataclass(frozen=True, slots=True)
class Listening:
    """Who listens."""

    request: str
    """Signature of the request; every line is bound to it."""
    reader: str
    """Fingerprint of the listener's key."""
    key: Ed25519PrivateKey
    """Signs each line."""


class Listener:
    """One event stream."""

    def __init__(self, source: Source, listening: Listening, lines: Lines, news: asyncio.Event) -> None:
        self._source = source
        self._reader = listening.reader
        self._lines = lines
        self._news = news
        self._changed: set[str] = set()
        self._guard = threading.Lock()
        self._told: CapacityFrame | None = None

    def concerns(self, run_id: str) -> bool:
        """Note that a run changed, from any thread; any change may be news here."""
        with self._guard:
            if len(self._changed) < _MOST:
                self._changed.add(run_id)
        return True

    async def run(self, gone: "asyncio.Future[None]") -> None:
        """Write until the listener is gone, or may not listen any more."""
        while not gone.done():
            self._news.clear()
            with self._guard:
                changed, self._changed = self._changed, set()
            found = await asyncio.to_thread(self._look, changed)
            if found is None:
                return
            frame, ended = found
            for run in ended:
                await self._lines.tell(run)
            if self._is_news(frame) or self._lines.quiet() >= BEAT:
                self._told = frame
                await self._lines.tell(frame)
            await asyncio.sleep(PACE)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._news.wait(), max(0.0, BEAT - self._lines.quiet()))

    def _look(self, changed: set[str]) -> tuple[CapacityFrame, list[RunFrame]] | None:
        grant = self._source.admission.grant(self._reader)
        if grant is None:
            return None
        capacity = self._source.capacity()
        waiting, preparing = self._source.unbegun_of({self._reader, *grant.was}, MAX_TOLD + 1)
        whole = len(waiting) + len(preparing) <= MAX_TOLD
        frame = CapacityFrame(
            capacity=capacity, waiting=tuple(waiting[:MAX_TOLD]), preparing=tuple(preparing), whole=whole
        )
        return frame, [told for run_id in changed if (told := self._ended(run_id, grant))]

    def _ended(self, run_id: str, grant: Grant) -> RunFrame | None:
        try:
            run = self._source.shown.run(run_id)
        except NotFound:
            return None
        if not run.final or not grant.allows(Scope.SEND, run.command.repository):
            return None
        return RunFrame(run_id=run.id, state=run.state, outcome=run.outcome)

    def _is_news(self, frame: CapacityFrame) -> bool:
        """Whether it says more than the last one, its time apart."""
        if self._told is None:
            return True
        same = frame.capacity.model_copy(update={"at": self._told.capacity.at})
        return frame.model_copy(update={"capacity": same}) != self._told
