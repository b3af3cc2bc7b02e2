"""What the machine's GPUs did all day: lent, free, or kept by their owner, and for what.

Each look adds the time since the last one. It goes to the store's ledger now and then, so a crash loses some
minutes of it at most; whoever asks is told of these, too.
"""

import logging
import threading
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
    """The ledger's half that looks fill; one thread at a time looks, and any may ask.

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
        self._lock = threading.Lock()
        self._seconds: dict[str, list[float]] = {}

    def look(self, verdict: Verdict, _: Cards, holders: Sequence[Holder]) -> None:
        """Add the time since the last look."""
        waiting, now = self._waiting() > 0, self._clock()
        past, self._at = now - (now if self._at is None else self._at), now
        if 0 < past <= _LONGEST:
            for uuid in self._gpus:
                with self._lock:
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
        self._since = self._at
        with self._lock:  # what is written is at no moment told twice, nor not at all
            try:
                self._store.note_stood(day, self._lines())
            except PushtrainError as error:
                _log.debug("what the GPUs did could not be written down yet: %s", error)
                return
            self._seconds.clear()

    def stood(self, *, since: int) -> tuple[Stood, ...]:
        """What the cards did from a day on, to the last look; what they did most first."""
        with self._lock:
            lines = (*self._store.stood(since=since), *self._lines())
        sums: dict[str, Stood] = {}
        for line in lines:
            before = sums.get(line.what, Stood(what=line.what, seconds=0))
            sums[line.what] = before.model_copy(
                update={"seconds": before.seconds + line.seconds, "wanted": before.wanted + line.wanted}
            )
        return tuple(sorted(sums.values(), key=lambda line: (-line.seconds, line.what)))

    def _lines(self) -> list[Stood]:
        """What is not written down yet."""
        return [Stood(what=what, seconds=s, wanted=w) for what, (s, w) in self._seconds.items()]


def _what(uuid: str, verdict: Verdict, holders: Sequence[Holder]) -> str:
    if any(uuid in holder.gpus or uuid == MACHINE for holder in holders):
        return LENT
    found = verdict.of(uuid)
    return str(found[0].why) if found and found[0].stance is not Stance.LENT else FREE
