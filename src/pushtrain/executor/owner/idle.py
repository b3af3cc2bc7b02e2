"""Runs that hold a GPU and compute nothing on it: told of, and ended where the owner wants that."""

import logging
from collections.abc import Callable, Sequence
from typing import Final, Protocol

from pushtrain.core.owner.ruling import spoken
from pushtrain.core.owner.verdict import Verdict
from pushtrain.core.values.states import Reason
from pushtrain.executor.owner.cardwatch import Cards
from pushtrain.executor.owner.lending import Holder
from pushtrain.executor.owner.meter import Meter

_log = logging.getLogger(__name__)

WORTH_TELLING: Final = 600.0
"""Seconds without a break after which it is told."""
RULE: Final = "rules.limits.gpu_idle"
_GRACE: Final = 30.0


class Runs(Protocol):
    """What can be said to runs: `Dispatch`."""

    def remark(self, run_id: str, words: str) -> None:
        """Show a sentence beside a run; empty: none any more."""

    def end(self, run_id: str, reason: Reason, detail: str, grace: float) -> None:
        """End a run for good, within `grace` seconds."""


class Idle:
    """Looks for such runs.

    Args:
        meter: Knows.
        limit: Seconds that a run may leave a GPU idle; 0: for ever.
        runs: The executor's.
    """

    def __init__(
        self,
        meter: Meter,
        limit: float,
        *,
        runs: Callable[[], Runs],
    ) -> None:
        self._meter = meter
        self._limit = limit
        self._runs = runs
        self._told: dict[tuple[str, int], str] = {}
        self._ended: set[tuple[str, int]] = set()

    def look(self, _: Verdict, __: Cards, holders: Sequence[Holder]) -> None:
        """Look at those who hold GPUs."""
        current = {(holder.run_id, holder.attempt) for holder in holders}
        self._told = {key: words for key, words in self._told.items() if key in current}
        self._ended &= current
        for holder in holders:
            if not holder.gpus:
                continue
            key, seconds = (holder.run_id, holder.attempt), self._meter.idle(holder)
            words = f"idle GPU for {seconds / 60:.0f} min" if seconds >= WORTH_TELLING else ""
            if words != self._told.get(key, ""):
                self._told[key] = words
                self._runs().remark(holder.run_id, words)
            if self._limit and seconds >= self._limit and key not in self._ended:
                self._ended.add(key)
                why = f"It left a GPU idle for {spoken(self._limit)}: the owner's rule `{RULE}` ended it."
                _log.info("run %s is ended: %s", holder.run_id[:8], why)
                self._runs().end(holder.run_id, Reason.IDLE, why, _GRACE)
