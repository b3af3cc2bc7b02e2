"""One executor's event stream, held open in a thread of its own until it is closed or breaks off."""

import threading
from collections.abc import Callable

from pushtrain.core.errors import PushtrainError
from pushtrain.core.wire.frames import CapacityFrame
from pushtrain.sender.board import Executor


class Watch:
    """Opens the stream at once.

    Args:
        executor: Whose.
        number: Given back with what it tells.
        told: Told of every word, in the watch's thread, until the watch is closed.
        ended: Told once, with the reason, if the stream breaks off before it is closed.
    """

    def __init__(
        self,
        executor: Executor,
        number: int,
        *,
        told: Callable[["Watch", CapacityFrame], None],
        ended: Callable[["Watch", str], None],
    ) -> None:
        self.executor = executor
        self.number = number
        self._told = told
        self._ended = ended
        self._closed = threading.Event()
        self._cut: Callable[[], None] | None = None
        self._thread = threading.Thread(target=self._listen, name=f"watch {executor.url}", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the stream, from any thread; returns at once."""
        self._closed.set()
        if self._cut is not None:
            self._cut()

    def join(self) -> None:
        """Wait for the thread to end; not for long, since it may be waiting for a connection."""
        self._thread.join(1)

    def _opened(self, cut: Callable[[], None]) -> None:
        # `close` sets the wish, then looks for the way to cut; we the other way round: one sees both.
        self._cut = cut
        if self._closed.is_set():
            cut()

    def _listen(self) -> None:
        why = "Its event stream ended."
        try:
            for frame in self.executor.events(self._opened):
                if self._closed.is_set():
                    return
                if isinstance(frame, CapacityFrame):
                    self._told(self, frame)
        except PushtrainError as error:
            why = error.message
        if not self._closed.is_set():
            self._ended(self, why)
