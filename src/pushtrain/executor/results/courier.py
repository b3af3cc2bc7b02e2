"""Hand finished runs to the publisher until their results are on the remote.

Runs of one repository go in one batch, which is one push; while one repository's remote is away the others go
on, and one that takes its time soon holds none of the few places any more. What failed is tried again after
1 s, then twice as long each time up to 10 min, for as long as it takes; it holds no slot meanwhile. A host
that asks to be left alone is, by every run of that repository. When a run is published its work folder goes.
"""

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final, Protocol

from pushtrain.core.errors import Cancelled, IllegalTransition, PushtrainError, StorageError
from pushtrain.core.lifecycle import Published as PublishedEvent
from pushtrain.core.lifecycle import PublishFailed
from pushtrain.core.values.run import Run
from pushtrain.executor.results.harvest import harvested
from pushtrain.executor.results.publish import Publishable, Published
from pushtrain.plumbing.attempts.rundir import RunDir
from pushtrain.plumbing.disk import shortcut
from pushtrain.plumbing.disk.trees import remove_tree
from pushtrain.plumbing.git.complaint import RateLimited
from pushtrain.plumbing.sqlite.store import Store
from pushtrain.ports import Stop

_log = logging.getLogger(__name__)

_FIRST_PAUSE: Final = 1.0
_LONGEST_PAUSE: Final = 600.0
_LONGEST_WISH: Final = 3600.0
"""Seconds that a host may ask for."""
_AT_ONCE: Final = 4
"""Repositories that are published to at once."""
_SLOW: Final = 60.0
"""Seconds after which another one may begin beside a repository whose remote has not answered yet."""
_THREADS: Final = 64
_MOST_AT_ONCE = 200
"""Runs that are read at once."""
_SOON: Final = 0.05
_UNWRITTEN_PAUSE: Final = 10.0
"""Seconds until the next try where what became of a run could not be written down: the disk is full."""


class Publisher(Protocol):
    """What brings results to a remote."""

    def publish(
        self, batch: Sequence[Publishable], *, stop: Stop | None = None
    ) -> dict[str, Published | PushtrainError]:
        """Publish these runs; for each run's id what came of it."""


def pause_after(tries: int, error: PushtrainError | None = None) -> float:
    """Seconds until the next try, after so many that failed, the last one with this error."""
    pause = float(min(_FIRST_PAUSE * 2 ** min(tries, 20), _LONGEST_PAUSE))
    if isinstance(error, RateLimited):
        return max(pause, error.patience)
    return pause


class Courier:
    """The results of one executor on their way out.

    Args:
        store: Where publishable runs are found.
        publisher: Brings them out.
        runs: The state folder's `runs`.
        quiet: When the hours end in which nothing is published; None: these are none.
        changed: Told the id of each run that changed; called from any thread.
    """

    def __init__(
        self,
        store: Store,
        publisher: Publisher,
        runs: Path,
        *,
        changed: Callable[[str], None],
        quiet: Callable[[], float | None] = lambda: None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._store = store
        self._publisher = publisher
        self._runs = runs
        self._changed = changed
        self._quiet = quiet
        self._clock = clock
        self._busy: set[str] = set()
        self._left_alone: dict[str, float] = {}
        """Repositories whose host asked for fewer requests, and until when."""
        self._places = asyncio.Semaphore(_AT_ONCE)
        self._stopping = threading.Event()
        self._wake = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="pushtrain-publish")

    def wake(self) -> None:
        """Look whether something can be published; from any thread."""
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # the loop has ended, and we with it
                self._loop.call_soon_threadsafe(self._wake.set)

    async def run(self) -> None:
        """Publish until cancelled."""
        self._loop = asyncio.get_running_loop()
        try:
            async with asyncio.TaskGroup() as group:
                while True:
                    self._wake.clear()
                    pause = _SOON
                    try:
                        batches, due = await self._loop.run_in_executor(self._pool, self._due)
                    except PushtrainError:
                        _log.exception("what is to be published could not be read")
                        batches, due = {}, self._clock() + _LONGEST_PAUSE / 10
                    for target, batch in batches.items():
                        self._busy.add(target)
                        group.create_task(self._deliver(target, batch))
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(None if due is None else max(pause, due - self._clock())):
                            await self._wake.wait()
        finally:
            self._stopping.set()
            await asyncio.to_thread(self._pool.shutdown)

    def _due(self) -> tuple[dict[str, list[Run]], float | None]:
        """Runs to publish now, by repository, without those whose repository is busy; and the next time."""
        now = self._clock()
        if (quiet := self._quiet()) is not None:
            return {}, quiet
        batches: dict[str, list[Run]] = {}
        dues = [self._store.next_due(now)]
        most = _MOST_AT_ONCE
        while True:
            found = self._store.publishable(now, limit=most)
            for run in found:
                target = _target(run)
                until = self._left_alone.get(target, now)
                if now < until <= now + _LONGEST_WISH:
                    dues.append(until)
                elif target not in self._busy:
                    batches.setdefault(target, []).append(run)
            if len(found) < most:
                break
            if batches:
                dues.append(now)  # soon again, when these are busy
                break
            most *= 4  # whom nobody serves now holds up no other repository
        return batches, min((due for due in dues if due is not None), default=None)

    @contextlib.asynccontextmanager
    async def _place(self) -> AsyncIterator[None]:
        """One of the few places, for as long as it takes; a slow remote soon gives it back."""
        await self._places.acquire()
        held = True

        def give_back() -> None:
            nonlocal held
            if held:
                held = False
                self._places.release()

        timer = asyncio.get_running_loop().call_later(_SLOW, give_back)
        try:
            yield
        finally:
            timer.cancel()
            give_back()

    async def _deliver(self, target: str, batch: Sequence[Run]) -> None:
        try:
            async with self._place():
                await asyncio.get_running_loop().run_in_executor(self._pool, self._publish, batch)
        except Cancelled:
            return
        except Exception as error:  # noqa: BLE001  one repository's trouble must not end the others', and all of us
            trace = None if isinstance(error, PushtrainError) else error
            _log.warning(
                "publishing to %s goes on in %g s: %s", target, _UNWRITTEN_PAUSE, error, exc_info=trace
            )
            await asyncio.sleep(_UNWRITTEN_PAUSE)
        finally:
            self._busy.discard(target)
        self._wake.set()

    def _publish(self, batch: Sequence[Run]) -> None:
        outcomes: dict[str, Published | PushtrainError]
        try:
            outcomes = self._publisher.publish([self._publishable(run) for run in batch], stop=self._check)
        except Cancelled:
            raise
        except PushtrainError as error:
            outcomes = {run.id: error for run in batch}
        except Exception as error:  # noqa: BLE001  a defect must not end the other repositories' results
            _log.exception("publishing failed")
            outcomes = {run.id: PushtrainError(f"{type(error).__name__}: {error}") for run in batch}
        now = self._clock()  # the same for all, so that what fails together is tried again together
        for run in batch:
            silent = PushtrainError("The publisher said nothing of this run.")
            self._note(run, outcomes.get(run.id, silent), now)

    def _publishable(self, run: Run) -> Publishable:
        store = self._store
        command, headers = store.command_as_received(run.id)
        return Publishable(
            run=run,
            attempts=tuple(store.attempts(run.id)),
            folder=RunDir.of(self._runs, run.id, run.attempt) if run.attempt else None,
            events=tuple(store.events(run.id)),
            command=command,
            headers=headers,
        )

    def _check(self) -> None:
        if self._stopping.is_set():
            raise Cancelled("The executor stops.")

    def _note(self, run: Run, outcome: Published | PushtrainError, now: float) -> None:
        try:
            if isinstance(outcome, Published):
                if outcome.artifacts:
                    self._store.save_artifacts(run.id, outcome.artifacts)
                self._store.advance(run.id, PublishedEvent(outcome.commit, outcome.path))
                clear(self._runs / run.id)
                _log.info(
                    "run %s %s; results are %s, %s", run.short, run.ending, outcome.commit[:12], outcome.path
                )
            else:
                if isinstance(outcome, StorageError) and run.attempt:
                    _make_room(RunDir.of(self._runs, run.id, run.attempt))
                pause = pause_after(run.publish_tries, outcome)
                if isinstance(outcome, RateLimited):
                    self._left_alone[_target(run)] = now + pause
                _log.warning("run %s: not published, next try in %g s: %s", run.short, pause, outcome)
                self._store.advance(run.id, PublishFailed(str(outcome), now + pause))
        except IllegalTransition as error:
            _log.warning("run %s: %s", run.short, error)  # a person has abandoned it
        self._changed(run.id)


def _target(run: Run) -> str:
    """The repository that a run's results go to."""
    return run.command.job.results_to.repository or run.command.repository


def clear(run_folder: Path) -> None:
    """Remove what only served a run's attempts; logs, records and kept result files stay."""
    for attempt in run_folder.glob("[0-9]*"):
        folder = RunDir(attempt)
        folder.given.unlink(missing_ok=True)  # its log is clean, and its results are published
        shortcut.remove(folder.tmp)
        remove_tree(folder.job)
    last = RunDir(run_folder / "0")
    last.received.unlink(missing_ok=True)
    for shared in (last.checkpoint, last.before):
        remove_tree(shared)


def _make_room(folder: RunDir) -> None:
    """The disk is full: what this attempt no longer needs goes before its results are out."""
    for gone in (folder.tmp, folder.overlay, *((folder.tree,) if harvested(folder) else ())):
        remove_tree(gone)


def clear_left(runs: Path, over: Callable[[str], bool]) -> None:
    """Clear runs that are over and were not cleared, because the executor died at that moment.

    Args:
        runs: The state folder's `runs`.
        over: Whether the run with this id is.
    """
    for last in runs.glob("*/[0-9]*/job"):
        folder = last.parents[1]
        if over(folder.name):
            clear(folder)
