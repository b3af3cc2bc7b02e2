"""Whether the owner is at this machine: every signal that it gives, each present or "cannot tell".

Each is asked as rarely as keeps it within its share of the processor, whatever it takes on this machine, and
a program never for longer than a second. What the rules do not ask for is not looked at. One that does not
answer is "cannot tell" until it does, and nothing here wakes a GPU.
"""

import logging
import threading
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from resource import RUSAGE_CHILDREN, getrusage
from typing import Final, Generic, TypeVar

from pushtrain.core.owner.lending import OwnerRules
from pushtrain.plumbing.owner import desktop, windows, workload
from pushtrain.plumbing.owner.sessions import Session, sessions, typed_at

_log = logging.getLogger(__name__)
T = TypeVar("T")

_SHARE: Final = 0.0005
"""Of one processor, for each signal."""
_EVERY: Final = 5.0
"""Seconds between two looks of a signal, at least."""
_RARELY: Final = 60.0
"""Seconds between two looks, at most: programs that others start are counted, too, now and then."""
_FORGOTTEN: Final = 60.0
"""Seconds after which the last answer of one that does not answer any more no longer counts."""
_CALM: Final = 6.0
"""How many times as rarely signals are asked while nothing of ours depends on them."""


@dataclass(frozen=True, slots=True)
class Signals:
    """What was seen. None: it cannot tell."""

    idle: float | None = None
    """Seconds since the last key or mouse movement; infinite: nobody is logged in."""
    full_screen: bool | None = None
    game: bool | None = None
    load: float | None = None
    """Processors that work which is not ours keeps busy."""
    on_battery: bool | None = None
    slurm: bool | None = None


class _Paced(Generic[T]):
    """One signal: its last value, and when it is worth asking again."""

    def __init__(self, ask: Callable[[], T], clock: Callable[[], float], *, every: float = _EVERY) -> None:
        self._ask = ask
        self._clock = clock
        self._every = every
        self._pause = every
        self._asked_at = float("-inf")
        self._told_at = float("-inf")
        self._value: T | None = None

    def value(self, calm: float = 1.0) -> T | None:
        """Its value, asked anew when that is due."""
        if self._clock() - self._asked_at >= self._pause * calm:
            begin = _spent()
            try:
                found = self._ask()
            except Exception:  # noqa: BLE001  one signal's defect must not blind the others
                _log.exception("a signal of the owner could not be read")
                found = None
            if found is not None:
                self._told_at = self._clock()
            if found is not None or self._clock() - self._told_at > _FORGOTTEN:
                self._value = found  # a program that was too slow once must not end a training
            self._pause = max(self._every, min(_RARELY, (_spent() - begin) / _SHARE))
            self._asked_at = self._clock()
        return self._value

    def once_more(self) -> None:
        """Ask again at the next look, if the last answer is older than its pace."""
        if self._clock() - self._asked_at >= self._every:
            self._asked_at = float("-inf")


def _spent() -> float:
    """Processor seconds of this thread and of programs that have ended."""
    children = getrusage(RUSAGE_CHILDREN)
    return time.thread_time() + children.ru_utime + children.ru_stime


class Presence:
    """This machine's signals. Any thread may look.

    Args:
        rules: What the owner wants to count.
        ours: Pids of our shims; their work is not the owner's.
        blind: Whether the GPUs' driver names no processes, so that the owner's input must be looked at.
        now: Seconds since the epoch.
        clock: Seconds that only grow.
    """

    def __init__(
        self,
        rules: OwnerRules,
        *,
        ours: Callable[[], Collection[int]] = tuple,
        blind: Callable[[], bool] = lambda: False,
        now: Callable[[], float] = time.time,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._rules = rules
        self._blind = blind
        self._now = now
        self._clock = clock
        self._lock = threading.Lock()
        self._windows = windows.Windows(clock) if windows.is_wsl() else None
        self._screens = desktop.Screens()
        self._there = _Paced(sessions, clock)
        self._rested = _Paced(lambda: desktop.rested(self._displays()), clock)
        self._full = _Paced(lambda: desktop.full_screen(self._displays()), clock)
        self._game = _Paced(lambda: desktop.playing(self._people()), clock)
        self._battery = _Paced(workload.on_battery, clock)
        self._slurm = _Paced(workload.slurm_works, clock, every=2 * _EVERY)
        self._no_slurm = _Paced(workload.slurm_works, clock, every=_RARELY)
        self._load = _Paced(workload.Load(ours, clock=clock).look, clock)
        self._calm = 1.0
        self._seen: tuple[float, bool, Signals] = (float("-inf"), True, Signals())

    def look(self, *, calm: bool = False, fresh: bool = False) -> Signals:
        """Every signal, as recently asked as its pace allows.

        Args:
            calm: Whether nothing of ours depends on it at the moment.
            fresh: Whether something does again, after a while of which that was not so.
        """
        with self._lock:
            self._calm = _CALM if calm else 1.0
            if fresh:
                for one in (self._there, self._rested, self._full, self._game, self._slurm, self._battery):
                    one.once_more()
            found = Signals(
                idle=self._idle(),
                full_screen=self._full_screen() if self._rules.full_screen else None,
                game=self._game.value(self._calm) if self._rules.full_screen else None,
                load=self._load.value(self._calm) if self._rules.load else None,
                on_battery=None if self._rules.battery else self._battery.value(self._calm),
                slurm=self._in_slurm() if self._rules.slurm else None,
            )
            self._seen = (self._clock(), calm, found)
            return found

    def latest(self, within: float, *, calm: bool = False) -> Signals:
        """What was seen last, if that will do; else it is looked at anew.

        Args:
            within: Seconds ago at most.
            calm: Whether what was seen while nothing depended on it will do, too.
        """
        at, was_calm, found = self._seen
        if self._clock() - at <= within and (calm or not was_calm):
            return found
        return self.look(fresh=True)

    def close(self) -> None:
        """End what goes on behind it."""
        with self._lock:
            if self._windows is not None:
                self._windows.close()

    def _people(self) -> tuple[Session, ...]:
        return self._there.value(self._calm) or ()

    def _displays(self) -> tuple[desktop.Screen, ...]:
        return self._screens.of(self._people())

    def _idle(self) -> float | None:
        if not (self._rules.idle or self._blind()):
            return None
        if self._windows is not None:
            word = self._windows.look()
            return None if word is None else word.rested
        people = self._there.value(self._calm)
        rested = self._rested.value(self._calm)
        if people is None:
            found = [rested, typed_at(self._now())]
            return min((one for one in found if one is not None), default=None)
        now = self._now()
        found = [one.untouched(now) for one in people if not (one.graphical and rested is not None)]
        return min((*found, *(() if rested is None else (rested,))), default=float("inf"))

    def _full_screen(self) -> bool | None:
        if self._windows is not None:
            word = self._windows.look()
            return None if word is None else word.full_screen
        return self._full.value(self._calm)

    def _in_slurm(self) -> bool | None:
        if self._no_slurm.value() is None:
            return None
        return self._slurm.value(self._calm)
