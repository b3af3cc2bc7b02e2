"""An event loop in which waiting takes no time: its clock jumps to whatever comes next.

What would go to a thread runs at once, in the loop, so one run is like the other: days pass in seconds, and
nothing depends on the machine. For code whose threads only call and return.
"""

import asyncio
import selectors
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Any, TypeVar, TypeVarTuple, Unpack

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class _Jumping(selectors.SelectSelector):
    """Waits for nothing: it tells how long it was to wait."""

    def __init__(self) -> None:
        super().__init__()
        self.waited = 0.0

    def select(self, timeout: float | None = None) -> Any:
        """What is ready; where nothing is, the time is over at once."""
        ready = super().select(0)
        if not ready:
            if timeout is None:
                raise RuntimeError("Everything waits, and for nothing that will ever come.")
            self.waited += timeout
        return ready


class VirtualLoop(asyncio.SelectorEventLoop):
    """The loop; `time()` starts at 0."""

    def __init__(self) -> None:
        self._jumping = _Jumping()
        super().__init__(self._jumping)

    def time(self) -> float:
        """Seconds that have passed."""
        return self._jumping.waited

    def run_in_executor(
        self, executor: Executor | None, func: Callable[[Unpack[Ts]], T], *args: *Ts
    ) -> "asyncio.Future[T]":
        """Run it here and now."""
        del executor
        future: asyncio.Future[T] = self.create_future()
        try:
            future.set_result(func(*args))
        except Exception as error:  # noqa: BLE001  it is whoever awaits it that cares
            future.set_exception(error)
        return future

    def pass_time(self, seconds: float) -> None:
        """Let everything go on for so long."""
        self.run_until_complete(asyncio.sleep(seconds))
