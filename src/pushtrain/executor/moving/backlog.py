"""Runs for which something is still to be done in the background, again and again until it is.

Nothing here is written down: a start adds what the store says is still open, and doing it twice must change
nothing. Whoever adds a run waits for nobody.
"""

import asyncio
import contextlib
import logging
import threading
from collections.abc import Callable, Iterable
from typing import Final

from pushtrain.core.errors import Cancelled, NotFound, PushtrainError
from pushtrain.core.values.run import Run
from pushtrain.plumbing.data.ledger import Quiet
from pushtrain.plumbing.sqlite.store import Store

_log = logging.getLogger(__name__)

_PAUSE: Final = 30.0


class Backlog:
    """What is left to do for the runs of one executor.

    Args:
        store: Where they are.
        do: Does it for one run; what it raises is told, and it is tried again.
        undone: What is told then, with the run's id and the error in place of two `%s`.
        after: Called when all were tried; whether there is something left that a pause may mend.
    """

    def __init__(
        self,
        store: Store,
        do: Callable[[Run], None],
        *,
        undone: str,
        after: Callable[[], bool] = lambda: False,
    ) -> None:
        self._store = store
        self._do = do
        self._undone = undone
        self._after = after
        self._guard = threading.Lock()
        self._new: set[str] = set()
        self._told: dict[str, str] = {}
        self._stopping = threading.Event()
        self._wake = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None

    def add(self, run: Run) -> None:
        """See to a run; from any thread, and at once."""
        with self._guard:
            self._new.add(run.id)
        self.wake()

    def unless_stopping(self) -> None:
        """Called now and then by what is done: the executor waits for it when it stops. Raises Cancelled."""
        if self._stopping.is_set():
            raise Cancelled("The executor stops.")

    def wake(self) -> None:
        """Look again now; from any thread."""
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # the loop has ended, and we with it
                self._loop.call_soon_threadsafe(self._wake.set)

    async def run(self, before: Callable[[], Iterable[str]]) -> None:
        """Work until cancelled.

        Args:
            before: The ids of the runs that were there before, and for which there may be something to do.
        """
        self._loop = asyncio.get_running_loop()
        try:
            found = await asyncio.to_thread(before)
            with self._guard:
                self._new.update(found)
            while True:
                self._wake.clear()
                left = await asyncio.to_thread(self._look)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_PAUSE if left else None):
                        await self._wake.wait()
        finally:
            self._stopping.set()

    def _look(self) -> bool:
        """See to every run that came; whether something is left."""
        with self._guard:
            new, self._new = self._new, set()
        left: set[str] = set()
        for run_id in new:
            try:
                self.unless_stopping()
                self._do(self._store.run(run_id))
            except NotFound:
                continue
            except Cancelled:
                return True
            except Quiet:  # nothing to tell: it goes on when the hour is over
                left.add(run_id)
            except Exception as error:  # noqa: BLE001  one run's defect must not end the others, and all of us
                if self._told.get(run_id) != str(error):  # once, not at every try
                    self._told[run_id] = str(error)
                    known = isinstance(error, PushtrainError | OSError)
                    _log.warning(self._undone, run_id[:8], error, exc_info=None if known else error)
                left.add(run_id)
        self._told = {run_id: why for run_id, why in self._told.items() if run_id in left}
        with self._guard:
            self._new |= left
        return self._after() or bool(left)
