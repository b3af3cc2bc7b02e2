"""Tell the Git host how each run stands: derived from the store, never in the way of a run.

- What was told is written down once the host has taken it, so a status is told once, also across restarts;
  what was not taken is tried again for a day.
- A verdict is told at once, a station on the way only when it has lasted a second: a short run is one
  request. Each time the newest state is told; what was overtaken never is.
- GitHub asks for at most 80 writes a minute and 500 an hour. Verdicts may use all of that, stations half.
- When a job of a commit is run again, only the newer run speaks for it.
- A clock that is set back makes no pause longer.
"""

import asyncio
import contextlib
import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final, Protocol

from pushtrain.core.errors import NotFound
from pushtrain.core.values.run import Run
from pushtrain.core.wire.status import Answer, CommitStatus, Later, Never, Verdict
from pushtrain.executor.results.status import status_of
from pushtrain.plumbing.sqlite.store import Store

_log = logging.getLogger(__name__)

_LIMITS: Final = ((60.0, 80), (3600.0, 500))
"""Seconds, and how many writes in them."""
_STATIONS: Final = 0.5
_LASTS: Final = 1.0
_HORIZON: Final = 86_400.0
_RESCAN: Final = 600.0
_LONGEST_PAUSE: Final = 600.0
_STEP: Final = 30.0
"""Seconds by which the clock must have gone back since the last look: smaller ones are corrected slowly."""


class StatusHost(Protocol):
    """What takes commit statuses."""

    def serves(self, key: str) -> bool:
        """Whether a repository is there."""

    def tell(self, key: str, commit: str, status: CommitStatus) -> Answer:
        """Put a status beside a commit of a repository."""


class Pace:
    """How many writes have gone out, and when the next may. Not thread-safe."""

    def __init__(self) -> None:
        self._sent: deque[float] = deque(maxlen=max(most for _, most in _LIMITS))

    def sent(self, now: float) -> None:
        """One has gone out."""
        self._sent.append(now)

    def set_back(self, seconds: float) -> None:
        """The clock was set back by so much."""
        self._sent = deque((at - seconds for at in self._sent), maxlen=self._sent.maxlen)

    def wait(self, now: float, share: float = 1.0) -> float:
        """Seconds until one more may go out that may use up this share of the limits."""
        wait = 0.0
        for span, most in _LIMITS:
            allowed = int(most * share)
            if len(self._sent) >= allowed:
                wait = max(wait, self._sent[-allowed] + span - now)
        return wait


@dataclass(frozen=True, slots=True)
class _Waiting:
    key: str
    """The repository's."""
    at: float
    """Not to be told before."""
    station: bool


class Herald:
    """Reports one executor's runs.

    Args:
        store: Where runs are, and what was told of them.
        host: Who is told.
        executor: The executor's name.
        clock: Seconds since the epoch.
        ticks: A clock that never goes back.
    """

    def __init__(
        self,
        store: Store,
        host: StatusHost,
        *,
        executor: str,
        clock: Callable[[], float] = time.time,
        ticks: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._host = host
        self._executor = executor
        self._clock = clock
        self._ticks = ticks
        self._apart = clock() - ticks()
        self._guard = threading.Lock()
        self._heard: dict[str, float] = {}
        self._waiting: dict[str, _Waiting] = {}
        self._pace = Pace()
        self._quiet = 0.0
        self._closed: dict[str, float] = {}
        self._tries = 0
        self._said: dict[str, str] = {}
        self._scanned = float("-inf")
        self._wake = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None

    def hear(self, run_id: str) -> None:
        """A run has changed; from any thread, and at once."""
        with self._guard:
            self._heard.setdefault(run_id, self._clock())
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # the loop has ended, and we with it
                self._loop.call_soon_threadsafe(self._wake.set)

    async def run(self) -> None:
        """Tell until cancelled; a defect here is logged and ends nothing."""
        self._loop = asyncio.get_running_loop()
        while True:
            self._wake.clear()
            try:
                pause = await asyncio.to_thread(self.step)
            except Exception:  # noqa: BLE001  an extra: nothing that it meets may end the executor
                _log.exception("commit statuses could not be reported")
                pause = _LONGEST_PAUSE
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._wake.wait()

    def step(self) -> float:
        """Tell the one thing that is most due, if any; seconds until there may be more to do.

        Raises:
            StorageError: The store cannot be read or written.
        """
        now = self._clock()
        self._mind_the_clock(now)
        if now >= self._scanned + _RESCAN:
            self._scanned = now
            for run_id in self._store.unsettled(since=now - _HORIZON):
                self.hear(run_id)
        self._sort(now)
        run_id, wait = self._choose(now)
        if not run_id:
            return wait
        del self._waiting[run_id]
        found = self._look(run_id, now)
        if found is not None:
            self._tell(*found, now)
        return 0.0

    def _mind_the_clock(self, now: float) -> None:
        """Where it was set back, everything that waits for a time does so by the new one."""
        before, self._apart = self._apart, now - self._ticks()
        if (back := before - self._apart) < _STEP:
            return
        self._scanned -= back
        self._quiet -= back
        self._closed = {key: until - back for key, until in self._closed.items()}
        self._waiting = {run_id: replace(one, at=one.at - back) for run_id, one in self._waiting.items()}
        self._pace.set_back(back)
        with self._guard:
            self._heard = {run_id: min(at, now) for run_id, at in self._heard.items()}

    def _sort(self, now: float) -> None:
        """Put what was heard into its place in the queue."""
        with self._guard:
            heard, self._heard = self._heard, {}
        for run_id, at in heard.items():
            known = self._waiting.get(run_id)
            found = self._look(run_id, now)
            if found is None:
                self._waiting.pop(run_id, None)
                continue
            run, status = found
            station = status.verdict is Verdict.PENDING
            since = known.at if known and known.station and station else at + _LASTS
            self._waiting[run_id] = _Waiting(run.command.repository, since if station else at, station)

    def _choose(self, now: float) -> tuple[str, float]:
        """The run to tell of now, verdicts first; or empty, and the seconds until there is one."""
        soonest = self._scanned + _RESCAN
        open_at = {
            False: max(self._quiet, now + self._pace.wait(now)),
            True: max(self._quiet, now + self._pace.wait(now, _STATIONS)),
        }
        for station in (False, True):
            for run_id, one in self._waiting.items():
                if one.station is station:
                    at = max(one.at, open_at[station], self._closed.get(one.key, 0.0))
                    if at <= now:
                        return run_id, 0.0
                    soonest = min(soonest, at)
        return "", max(0.01, soonest - now)

    def _look(self, run_id: str, now: float) -> tuple[Run, CommitStatus] | None:
        """The run, and the status to tell of it; None when there is nothing new."""
        try:
            run = self._store.run(run_id)
        except NotFound:
            return None
        told, settled = self._store.status_told(run_id)
        if settled or not self._host.serves(run.command.repository):
            return None
        late = run.done_at is not None and run.done_at < now - _HORIZON
        attempts = self._store.attempts(run_id) if run.outcome else []
        status = status_of(run, attempts[-1] if attempts else None, executor=self._executor)
        if status and not late and status.model_dump_json() != told and not self._store.run_again(run):
            return run, status
        if run.final:
            self._store.tell_status(run_id, told, settled=True)
        return None

    def _tell(self, run: Run, status: CommitStatus, now: float) -> None:
        command = run.command
        self._pace.sent(now)
        answer = self._host.tell(command.repository, command.commit, status)
        if isinstance(answer, Later):
            self._put_off(run, answer)
            return
        self._tries = 0
        self._said.pop("", None)
        self._said.pop(command.repository, None)
        if isinstance(answer, Never):
            _log.warning("run %s: its commit status was refused: %s", run.short, answer.why)
        self._store.tell_status(run.id, status.model_dump_json(), settled=run.final)
        self.hear(run.id)  # it may have moved on meanwhile

    def _put_off(self, run: Run, answer: Later) -> None:
        self._tries += 1
        pause = float(min(2 ** min(self._tries, 20), _LONGEST_PAUSE)) if answer.wait is None else answer.wait
        until = self._clock() + pause
        scope = "" if answer.everywhere else run.command.repository
        if answer.everywhere:
            self._quiet = until
        else:
            self._closed[scope] = until
        if self._said.get(scope) != answer.why:  # once, not at every try
            self._said[scope] = answer.why
            _log.warning(
                "commit statuses%s wait: %s. %s", f" of {scope}" if scope else "", answer.why, answer.mend
            )
        self.hear(run.id)
