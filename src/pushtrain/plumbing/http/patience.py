"""Patience with a line that breaks."""

from collections.abc import Callable
from typing import Final

from pushtrain.core.errors import Busy, Unreachable

_FIRST_PAUSE: Final = 0.2
_LONGEST_PAUSE: Final = 10.0


class Retry:
    """None before the line ever held, then back-off up to a limit.

    Args:
        patience: Seconds of waiting after which it is at its end; begun anew whenever the line holds.
        pause: Waits for some seconds.
        held: Whether the line has held already.
    """

    def __init__(self, patience: float, pause: Callable[[float], None], *, held: bool = False) -> None:
        self._patience = patience
        self._pause = pause
        self._waited = 0.0
        self._next = _FIRST_PAUSE
        self._held = held

    def went_well(self) -> None:
        """The line holds."""
        self._waited, self._next, self._held = 0.0, _FIRST_PAUSE, True

    def after(self, error: Unreachable | Busy) -> None:
        """Wait a while before the next try; raise the error when patience is at its end."""
        if not self._held or self._waited >= self._patience:
            raise error
        self._pause(self._next)
        self._waited += self._next
        self._next = min(2 * self._next, _LONGEST_PAUSE)
