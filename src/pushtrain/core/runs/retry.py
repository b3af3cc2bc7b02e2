"""Whether a run is started again after an attempt that did not succeed, and when. Pure.

- What an owner takes back, and what has saved where it is, goes on for nothing: no budget is asked.
- A preparation that reached nobody, or found the executor's disk full, is tried again for about a day.
- Lost machines and GPUs, failed commands and chosen exit codes have a budget each, counted over the run's
  attempts.
- Whatever would fail the same way again (no memory, no environment, no such commit) is not tried again unless
  the job asks for it. What a rule of the owner's refused, what was cancelled and what timed out never is.
- Each try waits twice as long as the one before. A command that asks to be started again and again, without
  training for a minute, waits longer and longer, too.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby, takewhile
from typing import Final, TypeVar

from pushtrain.core.values.command import Segment
from pushtrain.core.values.jobspec import Retry
from pushtrain.core.values.run import Attempt
from pushtrain.core.values.states import CHECKPOINTED, RETRIED, TAKEN_BACK, Reason

Tried = Attempt | Segment
"""An attempt, here or as another executor tells of it."""
T = TypeVar("T", bound=Tried)

MOST_ATTEMPTS: Final = 1000
"""Starts of one run, whatever the reasons."""
LONGEST_PAUSE: Final = 600.0
"""Seconds between two tries, at most."""
UNREADY: Final = frozenset({Reason.UNREACHABLE, Reason.STORAGE})
"""Why a preparation failed that the run is not to blame for, and that may be over at any moment."""
SOON: Final = 600.0
"""Seconds for which a run that an owner's rule puts off waits where it is; beyond them it may leave."""
_PUT_OFF: Final = 10_800.0
"""Seconds for which an executor counts as one that has put a run off."""
MOST_UNREADY: Final = 150
"""Such preparations in a row: with their pauses about a day."""
MOST_ALIKE: Final = 3
"""Such preparations in a row that are told one by one."""
FIRST_UNREADY: Final = 15.0
_NO_START: Final = UNREADY | {Reason.DEFERRED}
"""Why an attempt ended that had not begun, and that says nothing of the run."""
SHORT: Final = 60.0
"""Seconds of training below which a checkpoint counts as haste."""


@dataclass(frozen=True, slots=True)
class Again:
    """The run is started again."""

    pause: float
    """Seconds until then."""
    note: str = ""
    """For people: `retry 1 of 2`; empty where nothing is counted."""


@dataclass(frozen=True, slots=True)
class _Budget:
    name: str
    most: int


def after(ended: Attempt, earlier: Sequence[Tried], retry: Retry) -> Again | None:
    """What follows an attempt that has ended and did not succeed; None: nothing, the run is over.

    Args:
        ended: The attempt, its reason and exit code known.
        earlier: The run's attempts before it.
        retry: What the job asks for.
    """
    if sum(one.reason not in _NO_START for one in (*earlier, ended)) >= MOST_ATTEMPTS:
        return None
    if goes_on(ended):
        return Again(_patience([*earlier, ended]))
    if ended.reason in UNREADY:
        before = _unready(earlier)
        return Again(_pause(FIRST_UNREADY, before)) if before < MOST_UNREADY else None
    budget = _budget(ended, retry)
    if budget is None:
        return None
    used = sum(_budget(one, retry) == budget for one in earlier)
    if used >= budget.most:
        return None
    return Again(_pause(retry.backoff, used), f"retry {used + 1} of {budget.most}")


def worth_telling(attempts: Iterable[T]) -> list[tuple[int, T]]:
    """The attempts that people want to see, each with the number of those left out before it.

    Of a row of more than three that found the machine not ready, the first and the last are enough.
    """
    found: list[tuple[int, T]] = []
    for unready, row in groupby(attempts, lambda one: one.reason in UNREADY):
        alike = list(row)
        if unready and len(alike) > MOST_ALIKE:
            found += [(0, alike[0]), (len(alike) - 2, alike[-1])]
        else:
            found += [(0, one) for one in alike]
    return found


def unready_at(told: Sequence[Segment], now: float) -> frozenset[str]:
    """Names of the executors that lately were not ready for a run, or put it off, in its last attempts.

    Args:
        told: What was done of it so far.
        now: Seconds since the epoch; the others' clocks are not far from it.
    """
    lasts = dict.fromkeys(UNREADY, LONGEST_PAUSE) | {Reason.DEFERRED: _PUT_OFF}
    row = takewhile(lambda one: one.reason in lasts, reversed(told))
    return frozenset(one.executor for one in row if abs(now - one.began_at) < lasts[one.reason])


def goes_on(ended: Attempt) -> bool:
    """Whether an attempt ended without having failed."""
    return ended.reason in TAKEN_BACK or ended.reason is Reason.CHECKPOINTED


def _budget(ended: Tried, retry: Retry) -> _Budget | None:
    """What an attempt that ended like this is counted against."""
    reason, code = ended.reason, ended.exit_code
    if reason in {Reason.LOST, Reason.GPU}:
        return _Budget("lost", retry.lost)
    if reason is Reason.EXITED and code is not None and code in retry.exit_codes:
        return _Budget(f"exit code {code}", retry.exit_codes[code])
    if reason is Reason.SIGNALLED or (reason is Reason.EXITED and code not in {0, CHECKPOINTED, None}):
        return _Budget("failed", retry.failed)
    return _Budget("failed", retry.failed) if reason in RETRIED and reason in retry.also else None


def _patience(attempts: Sequence[Tried]) -> float:
    """How long to wait after attempts that saved and were over in no time; nothing after the first."""
    hasty = 0
    for one in reversed(attempts):
        if one.reason is not Reason.CHECKPOINTED or _trained(one) >= SHORT:
            break
        hasty += 1
    return _pause(1.0, hasty - 2) if hasty > 1 else 0.0


def _unready(attempts: Sequence[Tried]) -> int:
    """At how many of the last attempts in a row the machine was not ready; a rule's hours end no row."""
    row = takewhile(lambda one: one.reason in _NO_START, reversed(attempts))
    return sum(one.reason in UNREADY for one in row)


def _trained(attempt: Tried) -> float:
    if isinstance(attempt, Segment):
        return attempt.seconds
    if attempt.started_at is None or attempt.ended_at is None:
        return 0.0
    return attempt.ended_at - attempt.started_at


def _pause(first: float, before: int) -> float:
    return min(first * 2.0 ** min(before, 30), max(first, LONGEST_PAUSE))
