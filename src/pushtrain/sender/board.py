"""What a sender knows of its executors at this moment: who they are, what they have free, who is silent.

Fed by challenges, by event streams and by what is sent; asked by placement. What was sent counts as taken
until the executor has told of a moment after it took it on, so nothing is given away twice. Nothing here is
kept: a sender that starts asks anew. Any thread may call.
"""

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

from pushtrain.core.runs.room import less, needs_of
from pushtrain.core.values.card import Capacity, Challenge, ExecutorCard
from pushtrain.core.values.command import TrainCommand
from pushtrain.core.values.jobspec import JobSpec
from pushtrain.core.values.run import Run
from pushtrain.core.wire.frames import CapacityFrame, RunFrame
from pushtrain.sender.placement import PATIENCE, Seen

FRESH: Final = 2.0
"""Seconds for which what an executor had free counts, unless its stream is open."""
OPENING: Final = 15.0
"""Seconds for which it counts while its stream is being opened."""
PROVEN: Final = 60.0
"""Seconds for which an executor counts as the one that it proved to be."""
REMEMBERED: Final = 300.0
"""Seconds for which the card of an executor counts that is on no roster."""
_FIRST_PAUSE: Final = 1.0
_LONGEST_PAUSE: Final = 20.0
"""Together with the time that a connection may take it stays below a minute."""
_STEPPED: Final = 60.0
"""Seconds by which an executor's word cannot be older than its acceptance: its clock was set back."""
_FULL: Final = 10.0
"""Seconds for which an executor that said that it is full is left alone."""


class Executor(Protocol):
    """What a sender needs of `plumbing.http.client.ExecutorClient`."""

    @property
    def id(self) -> str:
        """Who it is: its key's fingerprint."""

    @property
    def url(self) -> str:
        """Where it is."""

    def challenge(self) -> Challenge:
        """Who it is and what it has free, proven by its key. Raises Unreachable."""

    def send(self, command: TrainCommand) -> Run:
        """Hand a command over; returns once a signed acceptance is here."""

    def release(self, run_id: str, attempt: int) -> Run:
        """Take a waiting run back; returns once it is signed that it will not start there."""

    def events(
        self, opened: Callable[[Callable[[], None]], None] | None = None
    ) -> Iterator[CapacityFrame | RunFrame]:
        """What it has free, as it changes; `opened` is told how to end it. Raises Unreachable at the end."""


Listed = tuple[Executor, ExecutorCard | None]
"""An executor, each with an id of its own, and its card where it is on a roster."""


@dataclass(slots=True)
class _Entry:
    executor: Executor
    listed: ExecutorCard | None = None
    """Its card on a roster."""
    answered: ExecutorCard | None = None
    asked_at: float | None = None
    """When it was asked, as long as there is no answer."""
    heard_at: float = float("-inf")
    capacity: Capacity | None = None
    paces: Mapping[str, float] = field(default_factory=dict)
    stream: int = 0
    """Number of the event stream that counts; what an earlier one says comes too late."""
    opening: bool = False
    live: bool = False
    trouble: str = ""
    failures: int = 0
    ask_at: float = 0
    taken: dict[str, tuple[JobSpec, float | None]] = field(default_factory=dict)
    """By run: what it takes, and when it was accepted; None: on its way."""
    waiting: dict[str, float] = field(default_factory=dict)
    """Runs of ours that wait there, the last first, and since when we know."""

    @property
    def name(self) -> str:
        card = self.answered or self.listed
        return card.name if card else self.executor.url


class Board:
    """The executors that a sender may use.

    Args:
        clock: A clock that never goes back.
    """

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._entries: dict[str, _Entry] = {}

    # --- who there is -------------------------------------------------------------------------------------

    def know(self, executors: Sequence[Listed]) -> None:
        """These, and no others. One that has moved to another address is asked anew."""
        with self._lock:
            before, self._entries = self._entries, {}
            for executor, card in executors:
                entry = before.get(executor.id)
                if entry is None or entry.executor is not executor:
                    entry = _Entry(executor, taken=entry.taken if entry else {})
                entry.listed = card
                self._entries[executor.id] = entry

    def executor(self, name: str) -> Executor | None:
        """The executor with this id."""
        with self._lock:
            entry = self._entries.get(name)
            return entry.executor if entry else None

    def seen(self) -> tuple[Seen, ...]:
        """What placement looks at."""
        now = self._clock()
        with self._lock:
            return tuple(_seen(name, entry, now) for name, entry in self._entries.items())

    def waiting(self) -> dict[str, dict[str, float]]:
        """By executor: the runs of ours that wait there, the last first, and for how many seconds."""
        now = self._clock()
        with self._lock:
            return {
                name: {run_id: now - since for run_id, since in entry.waiting.items()}
                for name, entry in self._entries.items()
                if entry.waiting
            }

    # --- what they say ------------------------------------------------------------------------------------

    def asking(self, name: str) -> None:
        """A challenge is on its way."""
        self._note(name, lambda entry, now: setattr(entry, "asked_at", now))

    def answered(self, name: str, said: Challenge) -> None:
        """It has answered."""

        def note(entry: _Entry, now: float) -> None:
            _alive(entry, now)
            entry.answered = said.card
            if said.card.draining:
                _fail(entry, f"{said.card.name} is draining", now, pause=_FULL)
                return
            if not entry.live:
                _told(entry, said.capacity)

        self._note(name, note)

    def failed(self, name: str, why: str) -> None:
        """It does not answer."""
        self._note(name, lambda entry, now: _fail(entry, why, now))

    def full(self, name: str, why: str) -> None:
        """It answers, but takes nothing more for now."""
        self._note(name, lambda entry, now: _fail(entry, why, now, pause=_FULL))

    def opening(self, name: str) -> int:
        """Its event stream is being opened; the stream's number."""
        with self._lock:
            entry = self._entries.get(name)
            if entry is None:
                return 0
            entry.stream += 1
            entry.opening, entry.live = True, False
            return entry.stream

    def told(self, name: str, stream: int, frame: CapacityFrame) -> None:
        """An event stream has told something."""

        def note(entry: _Entry, now: float) -> None:
            if entry.stream == stream:
                _alive(entry, now)
                entry.live, entry.opening = True, False
                _told(entry, frame.capacity)
                entry.waiting = {run_id: entry.waiting.get(run_id, now) for run_id in frame.waiting}

        self._note(name, note)

    def broke(self, name: str, stream: int, why: str) -> None:
        """An event stream broke off, or could not be opened."""

        def note(entry: _Entry, now: float) -> None:
            if entry.stream == stream:
                _fail(entry, why, now)

        self._note(name, note)

    def closed(self, name: str) -> None:
        """We have closed its event stream."""

        def note(entry: _Entry, _: float) -> None:
            entry.stream += 1
            entry.live = entry.opening = False

        self._note(name, note)

    # --- what is sent -------------------------------------------------------------------------------------

    def sent(self, name: str, command: TrainCommand) -> None:
        """A command is on its way there."""
        self._note(name, lambda entry, _: entry.taken.update({command.run_id: (command.job, None)}))

    def accepted(self, name: str, command: TrainCommand, accepted_at: float) -> None:
        """It was taken on, at this time by the executor's clock."""
        taken = {command.run_id: (command.job, accepted_at)}
        self._note(name, lambda entry, _: entry.taken.update(taken))

    def not_sent(self, name: str, run_id: str) -> None:
        """A command was not taken on, or is not there any more."""

        def note(entry: _Entry, _: float) -> None:
            entry.taken.pop(run_id, None)
            entry.waiting.pop(run_id, None)

        self._note(name, note)

    def _note(self, name: str, note: Callable[[_Entry, float], None]) -> None:
        now = self._clock()
        with self._lock:
            if entry := self._entries.get(name):
                note(entry, now)


def _alive(entry: _Entry, now: float) -> None:
    entry.asked_at, entry.heard_at = None, now
    entry.trouble, entry.failures, entry.ask_at = "", 0, 0


def _fail(entry: _Entry, why: str, now: float, *, pause: float = 0) -> None:
    entry.asked_at = None
    entry.trouble = why
    entry.ask_at = now + (pause or min(_LONGEST_PAUSE, _FIRST_PAUSE * 2.0 ** min(entry.failures, 10)))
    entry.failures += 1
    entry.capacity, entry.live, entry.opening = None, False, False


def _told(entry: _Entry, capacity: Capacity) -> None:
    entry.capacity, entry.paces = capacity, {pace.job: pace.seconds for pace in capacity.paces}
    entry.taken = {
        run_id: (spec, at)
        for run_id, (spec, at) in entry.taken.items()
        if at is None or capacity.at < at <= capacity.at + _STEPPED
    }


def _seen(name: str, entry: _Entry, now: float) -> Seen:
    age = now - entry.heard_at
    capacity = entry.capacity
    if not (entry.live or age <= (OPENING if entry.opening else FRESH)):
        capacity = None
    if capacity is not None:
        for spec, _ in entry.taken.values():
            capacity = less(capacity, needs_of(spec.resources))
    fresh = entry.live or age <= REMEMBERED
    trouble, ask_in = entry.trouble, max(0.0, entry.ask_at - now)
    asking = entry.asked_at is not None and now - entry.asked_at < PATIENCE
    if entry.asked_at is not None and not asking:  # it may answer yet; until then others are as good
        trouble, ask_in = trouble or f"{entry.name} has not answered yet", max(ask_in, 1.0)
    return Seen(
        id=name,
        name=entry.name,
        card=entry.answered if fresh and entry.answered else entry.listed,
        capacity=None if trouble else capacity,
        paces=entry.paces,
        proven=entry.live or age <= PROVEN,
        asking=asking,
        trouble=trouble,
        ask_in=ask_in,
    )
