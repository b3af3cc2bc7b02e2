"""See to it that the disk of a lent machine does not fill: at the start, after runs, and when it grows full.

What killed processes left half-done is ended at once. What takes its time is done by a process apart
(`plumbing.housekeeping.upkeep`), half a minute after the start and then once a day, within minutes after an
attempt has ended, and when the disk grows full.
"""

import asyncio
import logging
import threading
import time
from collections.abc import Callable
from typing import Final

from pushtrain.core.errors import Cancelled, PushtrainError
from pushtrain.executor.results.courier import clear_left
from pushtrain.plumbing.housekeeping.upkeep import DAY, Upkeep, apart, in_the_background
from pushtrain.plumbing.keys.identity import forget_former

_log = logging.getLogger(__name__)

_SETTLE: Final = 30.0
"""Seconds that an executor has for its runs first."""
_LOOK: Final = 60.0
"""Seconds between two looks at how much of the disk is free."""
_BETWEEN: Final = 300.0
"""Seconds between two looks at all that lies on it, which take some microseconds a file."""


class Steward:
    """One executor's."""

    def __init__(self, upkeep: Upkeep) -> None:
        self._upkeep = upkeep
        self._stopping = threading.Event()
        self._tended = -DAY
        self._looked = -_BETWEEN
        self._ended = 0.0

    def ended(self) -> None:
        """An attempt has ended, and may have left much; from any thread."""
        self._ended = time.monotonic()

    async def run(self) -> None:
        """Keep house until cancelled."""
        try:
            await self._try(self.begin)
            await asyncio.sleep(_SETTLE)
            while True:
                now = time.monotonic()
                if now - self._tended >= DAY:
                    if self._tended > 0:
                        await self._try(self.begin)
                    self._tended = now
                    self._looked = -_BETWEEN
                    self._ended = now
                if now - self._looked >= _BETWEEN and (self._ended > self._looked or self._upkeep.low):
                    self._looked = now
                    await self._try(self._apart)
                await asyncio.sleep(_LOOK)
        finally:
            self._stopping.set()

    async def _try(self, work: Callable[[], None]) -> None:
        try:
            await asyncio.to_thread(in_the_background, work)
        except Cancelled:
            return
        except (OSError, PushtrainError) as error:
            _log.warning("what served its purpose could not be removed: %s", error)

    def begin(self) -> None:
        """End what killed processes left half-done, and keep a copy of the store.

        Raises:
            StorageError: The disk or the store cannot be written.
        """
        holdings = self._upkeep.holdings
        holdings.finish()
        clear_left(holdings.state.runs, lambda run_id: holdings.store.over_since(run_id) is not None)
        forget_former(holdings.state.key)
        self._upkeep.forget()
        holdings.store.copy()

    def _apart(self) -> None:
        apart(self._upkeep.holdings.state, self._unless_stopping)

    def _unless_stopping(self) -> None:
        if self._stopping.is_set():
            raise Cancelled("The executor stops.")
