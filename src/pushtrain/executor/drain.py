"""Drain: take nothing new, finish what runs and publish it, then stop.

Runs that wait stay where they are, for the next start or for a sender that recalls them. Results whose remote
did not take them are kept, too: publishing goes on with the next start. What still runs when the time is over
goes on by itself, as after any other stop.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from pushtrain.core.errors import Draining, PushtrainError
from pushtrain.plumbing.owner.drainfile import DrainOrder, done, ordered
from pushtrain.plumbing.sqlite.store import Store

_log = logging.getLogger(__name__)

_GLANCE: Final = 1.0
"""Seconds between glances at the order; each costs one look at a file that is usually not there."""


class Drain:
    """Whether an executor drains, and when it has.

    Args:
        path: `StateFolder.drain`.
        store: Where it is seen what still runs.
        turned: Called in the event loop when draining begins or is called off: what waits may start then.
        clock: Seconds since the epoch.
    """

    def __init__(
        self,
        path: Path,
        store: Store,
        *,
        turned: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.changed: Callable[[], None] = lambda: None
        """Called after that; whoever serves sets it."""
        self._turned = turned
        self._path = path
        self._store = store
        self._clock = clock
        self._order = ordered(path)
        self._over = asyncio.Event()

    @property
    def on(self) -> bool:
        """Whether nothing new is taken; from any thread."""
        return self._order is not None

    def refuse(self, name: str) -> Draining:
        """What to say to somebody who brings something new."""
        return Draining(
            f"Executor {name} is draining: it finishes what runs, takes nothing new, and stops.",
            mend="Send it to another executor, or wait until it is started again.",
        )

    async def over(self) -> None:
        """Wait until it has drained."""
        await self._over.wait()

    async def run(self) -> None:
        """Watch for the order until it is carried out, or until cancelled."""
        if self.on:
            _log.warning("Draining since an earlier start; `pushtrain executor drain --cancel` calls it off.")
        while not self._over.is_set():
            self._look(ordered(self._path))
            if self._order is not None:
                try:
                    if await asyncio.to_thread(self._finished, self._order):
                        self._over.set()
                except PushtrainError as error:
                    _log.warning("whether everything has ended could not be seen: %s", error)
            await asyncio.sleep(_GLANCE)

    def _look(self, found: DrainOrder | None) -> None:
        before, self._order = self._order, found
        if (before is None) != (found is None):
            _log.info(
                "Lending again: the drain was called off."
                if found is None
                else "Draining: what runs is finished, nothing new is taken."
            )
            self._turned()
            self.changed()

    def _finished(self, order: DrainOrder) -> bool:
        """Whether there is nothing more to wait for; then the order is gone, carried out."""
        active, unpublished = self._store.unfinished()
        if active + unpublished and (order.until is None or self._clock() < order.until):
            return False
        done(self._path)
        _log.info("Drained%s.", f"; {active} still run and go on by themselves" if active else "")
        return True
