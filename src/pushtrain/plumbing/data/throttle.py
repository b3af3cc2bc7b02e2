"""So many bytes a second, all downloads together: whoever was quicker waits before the next piece."""

import threading
import time
from collections.abc import Callable
from typing import Final

_BURST: Final = 0.5
"""Seconds' worth of bytes that may come at once after a rest."""


class Throttle:
    """One line's share. Any thread may spend of it.

    Args:
        rate: Bytes a second; 0: as many as come.
        clock: Seconds that only grow.
        sleep: Waits so many seconds.
    """

    def __init__(
        self,
        rate: int = 0,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._rate = rate
        self._clock = clock
        self._sleep = sleep
        self._lock = threading.Lock()
        self._paid = float("-inf")

    def spend(self, count: int) -> None:
        """Say that bytes have come, and wait until they have been worth it."""
        if not self._rate:
            return
        with self._lock:
            now = self._clock()
            self._paid = max(self._paid, now - _BURST) + count / self._rate
            wait = self._paid - now
        if wait > 0:
            self._sleep(wait)
