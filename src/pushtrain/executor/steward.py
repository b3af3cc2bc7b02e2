"""See to it that the disk of a lent machine does not fill: at the start, after runs, and when it grows full.

What had its time goes once a day: logs and files of old runs, what died with its process, what mirrors hold
needlessly; a copy of the store is kept. Beyond the budget `plumbing.upkeep` collects what was used least.
"""

import asyncio
import logging
import threading
import time
from typing import Final

from pushtrain.core.errors import Cancelled, PushtrainError
from pushtrain.executor.courier import clear_expired, clear_left
from pushtrain.plumbing.identity import forget_former
from pushtrain.plumbing.upkeep import DAY, Upkeep, in_the_background

_log = logging.getLogger(__name__)

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
        self._looked = 0.0
        self._ended = 0.0

    def ended(self) -> None:
        """An attempt has ended, and may have left much; from any thread."""
        self._ended = time.monotonic()

    async def run(self) -> None:
        """Keep house until cancelled."""
        try:
            while True:
                try:
                    await self._round()
                except Cancelled:
                    return
                except (OSError, PushtrainError) as error:
                    _log.warning("what served its purpose could not be removed: %s", error)
                await asyncio.sleep(_LOOK)
        finally:
            self._stopping.set()

    async def _round(self) -> None:
        now, daily = time.monotonic(), False
        if now - self._tended >= DAY:
            self._tended, daily = now, True
            await asyncio.to_thread(in_the_background, self.clear)
        asked = now - self._looked >= _BETWEEN and (self._ended > self._looked or self._upkeep.low)
        if daily or asked:
            self._looked = now
            await asyncio.to_thread(in_the_background, self._upkeep.collect)

    def clear(self) -> None:
        """Remove what had its time, and keep a copy of the store.

        Raises:
            Cancelled: The executor stops.
            StorageError: The disk or the store cannot be written.
        """
        holdings = self._upkeep.holdings
        runs, store = holdings.state.runs, holdings.store
        clear_expired(runs, self._expiring, before=holdings.clock() - holdings.keep)
        clear_left(runs, lambda run_id: store.over_since(run_id) is not None)
        forget_former(holdings.state.key)
        store.copy()
        self._upkeep.tend(self._unless_stopping)

    def _expiring(self, run_id: str) -> float | None:
        """When a run was over; later, where somebody was told that its files are kept for longer."""
        holdings = self._upkeep.holdings
        over = holdings.store.over_since(run_id)
        return None if over is None else max(over, holdings.store.promised_until(run_id) - holdings.keep)

    def _unless_stopping(self) -> None:
        if self._stopping.is_set():
            raise Cancelled("The executor stops.")
