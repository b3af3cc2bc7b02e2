"""What the machine's GPUs did all day: lent, free, or kept by their owner, and for what.

Each look adds the time since the last one. It goes to the store's ledger now and then, so a crash loses some
minutes of it at most.
"""

import logging
import time
from collections.abc import Callable, Sequence
from typing import Final

from pushtrain.core.errors import PushtrainError
from pushtrain.core.owner.verdict import MACHINE, Stance, Verdict
from pushtrain.core.runs.usage import DAY, Stood
from pushtrain.executor.owner.cardwatch import Cards
from pushtrain.executor.owner.lending import Holder
from pushtrain.plumbing.sqlite.store import Store

_log = logging.getLogger(__name__)

_EVERY: Final = 600.0
_LONGEST: Final = 60.0
"""Seconds between two looks beyond which nobody knows what was; the machine slept, perhaps."""

LENT: Final = "lent"
FREE: Final = "free"


class Books:
    """The ledger's half that looks fill; one thread at a time.

    Args:
        store: Where it is kept.
        gpus: UUIDs of the machine's GPUs; none: it is the machine itself.
        waiting: How many runs wait.
        clock: Seconds since the epoch.
    """

    def __init__(
        self,
        store: Store,
        gpus: Sequence[str],
        *,
        waiting: Callable[[], int],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._store = store
        self._waiting = waiting
        self._gpus = tuple(gpus) or (MACHINE,)
        self._clock = clock
        self._at: float | None = None
        self._since: float | None = None
        self._seconds: dict[str, list[float]] = {}

    def look(self, verdict: Verdict, _: Cards, holders: Sequence[Holder]) -> None:
        """Add the time since the last look."""
        waiting, now = self._waiting() > 0, self._clock()
        past, self._at = now - (now if self._at is None else self._at), now
        if 0 < past <= _LONGEST:
            for uuid in self._gpus:
                line = self._seconds.setdefault(_what(uuid, verdict, holders), [0.0, 0.0])
                line[0] += past
                line[1] += past if waiting else 0.0
        if self._since is None:
            self._since = now
        if not 0 <= now - self._since < _EVERY or int(now // DAY) != int(self._since // DAY):
            self.settle()

    def settle(self) -> None:
        """Write down what was added."""
        day = int((self._clock() if self._since is None else self._since) // DAY)
        lines = [Stood(what=what, seconds=s, wanted=w) for what, (s, w) in self._seconds.items()]
        self._since = self._at
        try:
            self._store.note_stood(day, lines)
        except PushtrainError as error:
            _log.debug("what the GPUs did could not be written down yet: %s", error)
            return
        self._seconds.clear()


def _what(uuid: str, verdict: Verdict, holders: Sequence[Holder]) -> str:
    if any(uuid in holder.gpus or uuid == MACHINE for holder in holders):
        return LENT
    found = verdict.of(uuid)
    return str(found[0].why) if found and found[0].stance is not Stance.LENT else FREE
