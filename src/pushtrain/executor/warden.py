"""See to it that what a key has sent ends with its rights: waiting runs never start, and are cancelled.

- A run is claimed, and once it is prepared started, only while its sender's key counts, or the key that took
  its place (`Authorized.word`). So nothing starts, whatever else is late.
- Runs of a key that was revoked and have not started are cancelled at once; where the owner wants it, running
  ones, too.
- Runs of a key that has expired, or that no line names any more, are cancelled a few seconds later: an
  editor may just be writing the file. They only wait while the file is damaged or open to others.

It looks when `authorized_keys` changed, when a key expires, and now and then. A start is a change: so what
was revoked while the executor was away is seen to at its next start, and there is no other path.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from typing import Final, Protocol

from pushtrain.core.errors import Conflict, NotFound, PushtrainError
from pushtrain.core.values.states import State
from pushtrain.core.wire.grants import Word
from pushtrain.plumbing.keys.authorized import Authorized

_log = logging.getLogger(__name__)

_LOOK: Final = 1.0
"""Seconds between two looks at whether the file has changed."""
_SURE: Final = 5.0
"""Seconds for which a key must be missing before its runs are cancelled."""
_AFTER: Final = 10.0
"""Seconds after a change in which it is looked again: a command may just have come in."""
_ANYWAY: Final = 30.0
"""Seconds after which it is looked in any case: a run that was stopped may wait again."""
_NOT_STARTED: Final = frozenset({State.QUEUED, State.PREPARING})
_WHY: Final = {
    Word.REVOKED: "the owner, who revoked the key that sent it",
    Word.EXPIRED: "the executor: the key that sent it has expired",
    Word.UNKNOWN: "the executor: the key that sent it is not authorised any more",
}


class Runs(Protocol):
    """Where runs are found: the store."""

    def unended(self) -> dict[str, list[tuple[str, State]]]:
        """Runs that wait or are active, oldest first, by the key that sent them."""


class Warden:
    """Watches over the keys of one executor.

    Args:
        runs: Where runs are found.
        authorized: Whom the executor obeys.
        cancel: Cancels a run by its id, given by whom.
        changed: Called when the file has changed: a run that had to wait may start.
        clock: Seconds since the epoch.
        ticks: Seconds that only go forward.
    """

    def __init__(
        self,
        runs: Runs,
        authorized: Authorized,
        cancel: Callable[[str, str], object],
        *,
        changed: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.time,
        ticks: Callable[[], float] = time.monotonic,
    ) -> None:
        self._runs = runs
        self._authorized = authorized
        self._cancel = cancel
        self._changed = changed
        self._clock = clock
        self._ticks = ticks
        self._seen: object = self
        self._changed_at = ticks()
        self._looked_at = -_ANYWAY
        self._ends_at = 0.0
        self._missing: dict[str, float] = {}
        self._ended: set[tuple[str, str]] = set()

    async def run(self) -> None:
        """Watch until cancelled; no failure ends this."""
        trouble = ""
        while True:
            try:
                if self._due():  # nearly never: a thread would cost more than the look
                    await asyncio.to_thread(self.look)
                trouble = ""
            except Exception as error:  # noqa: BLE001  who guards the door does not leave
                if trouble != str(error):
                    trouble = str(error)
                    trace = None if isinstance(error, PushtrainError) else error
                    _log.warning(
                        "whether waiting runs may still start could not be looked at: %s",
                        error,
                        exc_info=trace,
                    )
            await asyncio.sleep(_LOOK)

    def look(self) -> None:
        """Cancel what must not start any more, if there may be something."""
        if not self._due():
            return
        now, stamp = self._ticks(), self._authorized.stamp
        if stamp != self._seen:
            self._seen, self._changed_at = stamp, now
            self._changed()
        ends_at = self._authorized.next_end()  # before the look: some end meanwhile
        self._look(now)
        self._looked_at, self._ends_at = now, ends_at

    def _due(self) -> bool:
        now = self._ticks()
        return (
            bool(self._missing)
            or self._authorized.stamp != self._seen
            or now - self._changed_at < _AFTER
            or now - self._looked_at >= _ANYWAY
            or self._clock() >= self._ends_at
        )

    def _look(self, now: float) -> None:
        found = self._runs.unended()
        missing: dict[str, float] = {}
        for sender, runs in found.items():
            word = self._authorized.word(sender)
            if word is Word.MAY:
                continue
            if word is not Word.REVOKED:
                since = missing[sender] = self._missing.get(sender, now)
                if now - since < _SURE or not self._authorized.sound:
                    continue
            running = word is Word.REVOKED and self._authorized.ends_running(sender)
            ended = [run_id for run_id, state in runs if state in _NOT_STARTED or running]
            fresh = [run_id for run_id in ended if (sender, run_id) not in self._ended]
            for run_id in fresh:
                with contextlib.suppress(Conflict, NotFound):  # it has ended meanwhile
                    self._cancel(run_id, _WHY[word])
            self._ended.update((sender, run_id) for run_id in fresh)
            if fresh:
                _log.warning("%d runs of %s are cancelled by %s", len(fresh), sender, _WHY[word])
        self._missing = missing
        self._ended &= {(sender, run_id) for sender, runs in found.items() for run_id, _ in runs}
