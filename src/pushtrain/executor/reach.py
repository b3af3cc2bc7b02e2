"""Keep the executor's tunnel open for as long as the executor runs.

One loop opens it, waits until it is lost, and opens it again after a pause that grows and is never the same
on two machines. Nothing is sent through the tunnel to see if it is there: an idle executor causes no request.
What happens here touches no run. Whoever asked is told of every new address; the log has one sentence for a
change, none for a try that fails like the one before.
"""

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable
from typing import Final

from pushtrain.core.errors import ConfigError, PushtrainError
from pushtrain.ports import Tunnel

_log = logging.getLogger(__name__)

_FIRST: Final = 0.5
"""Seconds before the first new try at most; twice as many before the next."""
_LONGEST: Final = 45.0
"""Seconds between tries at most: a minute after the network is back the roster has the new address."""
_MENDING: Final = 300.0
"""Seconds between tries when a person must mend something first."""
_STEADY: Final = 10.0
"""Seconds that a tunnel must have been up for the pauses to begin anew."""
_BRIEF: Final = 4
"""One that was up for less counts as a failure, but as no more than this many: the other side is there."""


def pause_after(failures: int, chance: float) -> float:
    """Seconds to wait after so many failures in a row; `chance` from 0 to 1 spreads the tries of many."""
    return float(min(_FIRST * 2 ** min(failures, 30), _LONGEST) * (0.5 + chance / 2))


class Reach:
    """A tunnel that is kept open.

    Args:
        tunnel: How.
        name: What people call it: `ngrok`.
        moved: Told each new public URL before anything else happens; the same one again is not told.
        clock: Seconds that only go forward.
        pause: Waits for some seconds.
        chance: A number from 0 to 1.
    """

    def __init__(
        self,
        tunnel: Tunnel,
        name: str,
        *,
        moved: Callable[[str], Awaitable[None]],
        clock: Callable[[], float] = time.monotonic,
        pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self.name = name
        self.url = ""
        """The newest public URL; empty before the first."""
        self.up = False
        """Whether the tunnel is open."""
        self.trouble = ""
        """Why it is not; empty while it is."""
        self._tunnel = tunnel
        self._moved = moved
        self._clock = clock
        self._pause = pause
        self._chance = chance
        self._tried = asyncio.Event()

    async def run(self, host: str, port: int) -> None:
        """Keep it open in front of the server at `host:port` until cancelled."""
        failures = 0
        while True:
            hopeless = False
            began = self._clock()
            try:
                await self._arrived(await self._tunnel.open(host, port))
                began = self._clock()
                self._gone(f"is lost: {await self._tunnel.lost()}. Runs go on; it is opened again.")
            except PushtrainError as error:
                hopeless = isinstance(error, ConfigError)
                self._gone(f"is not up: {error}")
            except Exception as error:  # noqa: BLE001  a tunnel's defect must not end the executor
                self._gone(f"is not up, by a defect: {error!r}")
                _log.debug("the tunnel's defect", exc_info=True)
            finally:
                was_up, self.up = self.up, False
                self._tried.set()
                await self._tunnel.close()
            failures += 1
            if was_up:
                failures = 0 if self._clock() - began >= _STEADY else min(failures, _BRIEF)
            await self._pause(_MENDING if hopeless else pause_after(failures, self._chance()))

    async def settled(self, seconds: float) -> None:
        """Wait until the first try has come to an end, or until this time is over."""
        try:
            async with asyncio.timeout(seconds):
                await self._tried.wait()
        except TimeoutError:
            pass

    async def _arrived(self, url: str) -> None:
        again = self.url == url
        self.up, self.trouble = True, ""
        if not again:
            try:
                await self._moved(url)
                self.url = url
            except Exception:  # noqa: BLE001  nor may a listener's
                _log.exception("The new address %s could not be told; it is told again with the next.", url)
        _log.info("%s at %s by the %s tunnel.", "Reachable again" if again else "Reachable", url, self.name)
        self._tried.set()

    def _gone(self, what: str) -> None:
        if what != self.trouble:
            _log.warning("The %s tunnel %s", self.name, what)
        self.trouble = what
