"""Hand one command over at once, as a person's `send` does: whom to ask, and what each answer means.

An executor is asked who it is and what it has free before it is given anything. Which executor gets a command
is written down before the first byte goes there. Another one is tried only where the first certainly did not
take the command on: it could not be reached at all, or refused in so many words. When its answer is lost, the
command waits and goes to the same executor again, where it is the same run. A sender that stays does the same
in its rounds (`rounds`), and lets runs wait until an executor can start them.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

from pushtrain.core.errors import Busy, PushtrainError, Unauthorized, Unreachable
from pushtrain.core.policy import choose, fits
from pushtrain.core.values.card import Capacity, Challenge, ExecutorCard
from pushtrain.core.values.command import TrainCommand
from pushtrain.core.values.run import Run
from pushtrain.sender.board import Executor

log = logging.getLogger(__name__)

_FRESH: Final = 2.0
"""Seconds for which an executor's free slots count, where there is a choice."""
_KNOWN: Final = 60.0
"""Seconds for which an executor's card counts, where there is none."""
_DOWN: Final = 2.0
"""Seconds for which an executor that did not answer is not asked again."""


@dataclass(frozen=True, slots=True)
class Delivered:
    """An executor has taken the command on."""

    run: Run
    executor: Executor


@dataclass(frozen=True, slots=True)
class Refused:
    """Every executor that the command could go to has refused it for good."""

    error: PushtrainError


@dataclass(frozen=True, slots=True)
class Undelivered:
    """Nobody has taken it on yet; try again later."""

    detail: str
    stays: bool
    """Whether it must go to the same executor again, because that one may have taken it on."""


@dataclass(slots=True)
class _Asked:
    at: float
    answer: Challenge | None
    detail: str = ""


class Executors:
    """The executors that a sender may use, and what they last said.

    Args:
        known: Those of this moment; asked again every few seconds, so that one which starts later is found.
        clock: A clock that never goes back.
    """

    def __init__(
        self, known: Callable[[], Sequence[Executor]], *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._known = known
        self._clock = clock
        self._listed: tuple[float, Sequence[Executor]] = (0.0, ())
        self._asked: dict[str, _Asked] = {}
        self._locks: dict[str, threading.Lock] = {}

    def deliver(
        self, command: TrainCommand, placed: str, place: Callable[[str], None]
    ) -> Delivered | Refused | Undelivered:
        """Try once to hand a command over.

        Args:
            command: What to hand over.
            placed: Fingerprint of the executor that may have it already; empty: none.
            place: Writes down durably who gets it; called before its first byte goes there.
        """
        known = self._list()
        if not known:
            return Undelivered("no executor is known", stays=False)
        bound = [executor for executor in known if executor.id == placed]
        if placed and not bound:
            return Undelivered("the executor that may have it is not known any more", stays=True)
        answers = self._ask_all(bound or known, self._patience(known))
        detail = "; ".join(dict.fromkeys(asked.detail for asked in answers if asked.detail))
        refusal: PushtrainError | None = None
        hope = not all(asked.answer for asked in answers)
        for executor in self._in_turn(bound or known, answers, command, chosen=bool(bound)):
            place(executor.id)
            try:
                return Delivered(executor.send(command), executor)
            except Busy as error:
                detail, hope = str(error), True
            except PushtrainError as error:
                if for_good(error):
                    refusal = error
                    continue
                self._forget(executor)
                if not isinstance(error, Unreachable) or error.sent:
                    return Undelivered(str(error), stays=True)
                detail, hope = str(error), True
        if refusal is not None and not hope:
            return Refused(refusal)
        return Undelivered(detail or _nobody_fits(answers, command), stays=bool(bound))

    def _list(self) -> Sequence[Executor]:
        at, listed = self._listed
        if not listed or self._clock() - at > _FRESH:
            listed = self._known()
            self._listed = (self._clock(), listed)
        return listed

    def _in_turn(
        self, executors: Sequence[Executor], answers: Sequence[_Asked], command: TrainCommand, *, chosen: bool
    ) -> Iterator[Executor]:
        """Those that answered, best first; the one that may have it already without a further question."""
        there = [
            (executor, asked.answer)
            for executor, asked in zip(executors, answers, strict=True)
            if asked.answer
        ]
        if chosen:
            yield from (executor for executor, _ in there)
            return
        candidates: list[tuple[ExecutorCard, Capacity | None]] = [
            (said.card, said.capacity) for _, said in there
        ]
        for card in choose(candidates, command.job):
            yield from (executor for executor, said in there if said.card == card)

    def _ask_all(self, executors: Sequence[Executor], patience: float) -> list[_Asked]:
        stale = [executor for executor in executors if not self._current(executor, patience)]
        if len(stale) > 1:
            with ThreadPoolExecutor(max_workers=len(stale)) as threads:
                list(threads.map(lambda executor: self._ask(executor, patience), stale))
        return [self._ask(executor, patience) for executor in executors]

    def _ask(self, executor: Executor, patience: float) -> _Asked:
        with self._locks.setdefault(executor.id, threading.Lock()):
            known = self._current(executor, patience)
            if known:
                return known
            try:
                asked = _Asked(self._clock(), executor.challenge())
            except PushtrainError as error:
                asked = _Asked(self._clock(), None, str(error))
            self._asked[executor.id] = asked
            return asked

    def _current(self, executor: Executor, patience: float) -> _Asked | None:
        asked = self._asked.get(executor.id)
        if asked is None:
            return None
        return asked if self._clock() - asked.at <= (patience if asked.answer else _DOWN) else None

    def _forget(self, executor: Executor) -> None:
        self._asked.pop(executor.id, None)

    @staticmethod
    def _patience(known: Sequence[Executor]) -> float:
        return _FRESH if len(known) > 1 else _KNOWN


def for_good(error: PushtrainError) -> bool:
    """Whether it says that the command was not taken on and will not be, or not now.

    A 401 does not: the executor knew our key a moment ago, so a clock has stepped, or somebody replays an old
    refusal to make us go elsewhere.
    """
    at_fault = 400 <= error.status < 500 and not isinstance(error, Unauthorized)  # noqa: PLR2004  says HTTP
    return at_fault or isinstance(error, Busy)


def _nobody_fits(answers: Sequence[_Asked], command: TrainCommand) -> str:
    reasons = [fits(asked.answer.card, command.job, command.repository) for asked in answers if asked.answer]
    return f"no executor fits: {'; '.join(dict.fromkeys(filter(None, reasons)))}"
