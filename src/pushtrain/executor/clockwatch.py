"""Notice that the machine's clock jumped, or that the machine slept, and let nothing wait for it.

Pauses are kept as times of day, so that they hold over restarts. Set back by an hour, the clock would make
each of them an hour longer: they are moved by as much. Set forward, or after a sleep, what is due is looked
at now rather than when the timers that slept as well run out.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Final

from pushtrain.core.errors import PushtrainError
from pushtrain.plumbing.sqlite.store import Store

_log = logging.getLogger(__name__)

_LOOK: Final = 5.0
"""Seconds between looks at two clocks."""
_STEP: Final = 30.0
"""Seconds by which they must have parted since the last look."""


class ClockWatch:
    """Watches the clock of one executor.

    Args:
        store: Whose runs wait for a time of day.
        jumped: Called in the event loop after a jump: there may be something to do.
        clock: Seconds since the epoch.
        ticks: A clock that never jumps, and stands still while the machine sleeps.
    """

    def __init__(
        self,
        store: Store,
        *,
        jumped: Callable[[], None],
        clock: Callable[[], float] = time.time,
        ticks: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._jumped = jumped
        self._clock = clock
        self._ticks = ticks

    async def run(self) -> None:
        """Watch until cancelled."""
        apart = self._apart()
        while True:
            await asyncio.sleep(_LOOK)
            step = self._apart() - apart
            if abs(step) <= _STEP:
                apart += step  # clocks drift, and are brought back slowly
                continue
            if step < 0:
                try:
                    moved = await asyncio.to_thread(self._store.clock_set_back, -step)
                except PushtrainError as error:
                    _log.warning(
                        "The clock was set back by %.0f s; what waits cannot be moved: %s", -step, error
                    )
                    continue
                _log.warning(
                    "The clock was set back by %.0f s; %d runs that wait go by the new one.", -step, moved
                )
            else:
                _log.info("The clock went ahead by %.0f s, or the machine slept.", step)
            apart += step
            self._jumped()

    def _apart(self) -> float:
        return self._clock() - self._ticks()
