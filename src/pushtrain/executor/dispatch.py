"""Claim runs, start their attempts, watch their shims, and write down how they ended.

Nothing here polls: a claim is tried when something changed, a shim is watched by a pidfd in the event loop.
Start-up is recovery and there is no other: every active run is looked at, and a held lock means that its shim
lives and is watched again, a verdict that it ended, a start without either that it was lost, and neither lock
nor start that it never began and waits anew. So the executor may die at any line. Stopping it leaves
trainings running.
"""

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final, ParamSpec, TypeVar

from pushtrain.core.errors import Cancelled, Conflict, PushtrainError, StorageError
from pushtrain.core.lifecycle import Cancelled as CancelledEvent
from pushtrain.core.lifecycle import Event, Exited, Lost, Prepared, PrepareFailed, Requeued
from pushtrain.core.model import Attempt, Progress, Reason, Run, Stage, State
from pushtrain.executor import launch, verdicts
from pushtrain.executor.prepare import Preparation, PreparationError, Workshop, time_limit
from pushtrain.executor.variables import attempt_mark
from pushtrain.plumbing import process, reserve
from pushtrain.plumbing.cleanlog import clean_log
from pushtrain.plumbing.rundir import RunDir, StopOrder, held, log_size
from pushtrain.plumbing.store import Store
from pushtrain.plumbing.trees import remove_tree

_log = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")

_SOON: Final = 0.02
_BURST: Final = 0.03
"""Seconds after an acceptance in which another one may belong to the same burst."""
_LONGEST_BURST: Final = 1.0
"""Seconds that a burst may hold up the next start."""
_FIRST_PAUSE: Final = 0.5
_LATEST: Final = 60.0
_MOST_PROGRESS: Final = 0.2
"""Seconds between two words of progress within one stage."""


class Active:
    """An attempt that this executor looks after."""

    def __init__(self, run: Run, attempt: Attempt, folder: RunDir) -> None:
        self.run = run
        self.attempt = attempt
        self.folder = folder
        self.progress: Progress | None = None
        self.told_at = 0.0
        self.hooked = False
        """Whether the owner's programs have run after it."""
        self._cancelled = threading.Event()
        self._shim: launch.Process | None = None
        self._why = ""

    @property
    def cancelled(self) -> bool:
        """Whether somebody wants it to end."""
        return self._cancelled.is_set()

    @property
    def why(self) -> str:
        """Who wants it to end."""
        return self._why

    def cancel(self, why: str) -> None:
        """End it, whatever it does; from any thread. A second wish changes nothing."""
        if not self._cancelled.is_set():
            self._why = why
        self._cancelled.set()
        self._stop_shim()

    def started(self, shim: launch.Process) -> None:
        """There is a shim now."""
        self._shim = shim
        if self._cancelled.is_set():
            self._stop_shim()

    def _stop_shim(self) -> None:
        # `cancel` sets the wish, then looks for the shim; `started` the other way round: one sees both.
        if self._shim is not None:
            launch.stop(self.folder, self._shim, StopOrder(reason=Reason.CANCELLED, detail=self._why))


class Dispatch:
    """The attempts of one executor.

    Args:
        store: Where runs are claimed.
        shop: What preparing takes.
        slots: Runs at once that ask for no GPU.
        changed: Told the id of each run that changed; called from any thread.
        ended: Called when a run has become publishable; from any thread.
        may_start: Whether runs may start that the key with this fingerprint sent.
    """

    def __init__(
        self,
        store: Store,
        shop: Workshop,
        *,
        slots: int,
        changed: Callable[[str], None],
        ended: Callable[[], None],
        may_start: Callable[[str], bool],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._store = store
        self._shop = shop
        self._slots = slots
        self._changed = changed
        self._ended = ended
        self._may_start = may_start
        self._clock = clock
        self._compiled = Path()
        self._active: dict[str, Active] = {}
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._accepted_at = 0.0
        self._wake = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._pool = ThreadPoolExecutor(slots + len(shop.gpus) + 2, thread_name_prefix="pushtrain-attempt")

    # --- from any thread ----------------------------------------------------------------------------------

    def wake(self) -> None:
        """Look whether a run can be claimed."""
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # the loop has ended, and we with it
                self._loop.call_soon_threadsafe(self._wake.set)

    def accepted(self) -> None:
        """A run was accepted: look whether it can be claimed, once the burst it may belong to is over."""
        self._accepted_at = time.monotonic()
        self.wake()

    def cancel(self, run_id: str, *, by: str) -> Run:
        """Cancel a run in whatever state it is.

        Raises:
            NotFound, Conflict: As `Store.request_cancel`.
        """
        with self._lock:
            run = self._store.request_cancel(run_id, by=by)
            active = self._active.get(run_id)
        if active is not None:
            active.cancel(f"Cancelled by {by}.")
        else:
            self._ended()
        self._changed(run_id)
        return run

    def progress(self, run_id: str) -> Progress | None:
        """What an attempt is doing at the moment."""
        active = self._active.get(run_id)
        return active.progress if active else None

    # --- the loop -----------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Recover, then claim and look after attempts until cancelled. Shims are left running."""
        self._loop = asyncio.get_running_loop()
        try:
            self._compiled = await self._call(launch.compile_shim, self._shop.state.root)
            await self._call(process.end_orphans)
            async with asyncio.TaskGroup() as group:
                for run in await self._call(self._store.active):
                    group.create_task(self._recover(run))
                while True:
                    self._wake.clear()
                    await self._let_in()
                    while (active := await self._claim()) is not None:
                        group.create_task(self._attempt(active))
                    await self._sleep()
        finally:
            self._stopping.set()
            self._pool.shutdown(wait=False)
            await asyncio.to_thread(self._pool.shutdown)

    async def _call(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._pool, lambda: work(*args, **kwargs))

    async def _surely(self, what: str, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Do what must be done, again and again until it succeeds: the disk may be full for a while."""
        pause, told = _FIRST_PAUSE, ""
        while True:
            try:
                return await self._call(work, *args, **kwargs)
            except Exception as error:  # noqa: BLE001  whatever it was, giving up would strand the run
                if told != str(error):
                    told = str(error)
                    trace = None if isinstance(error, StorageError) else error
                    _log.error(
                        "%s failed and is tried again until it succeeds: %s", what, error, exc_info=trace
                    )
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LATEST)

    async def _sleep(self) -> None:
        """Wait until something changed, or until the next run that waits for a time may go on."""
        due = await self._surely("looking for what is due", self._store.next_due)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(None if due is None else max(_SOON, due - self._clock())):
                await self._wake.wait()

    async def _let_in(self) -> None:
        """While commands come in one after the other and something runs already, take them in first.

        A caller waits for its 202, and starting an attempt takes the processor for longer than ten of them.
        """
        latest = time.monotonic() + _LONGEST_BURST
        while self._active:
            left = min(latest, self._accepted_at + _BURST) - time.monotonic()
            if left <= 0:
                return
            await asyncio.sleep(left)

    async def _claim(self) -> Active | None:
        return await self._surely("claiming a run", self._claim_now)

    def _claim_now(self) -> Active | None:
        shop = self._shop
        with self._lock:
            claimed = self._store.claim(
                slots=self._slots, gpus=shop.gpus, executor=shop.settings.name, may_start=self._may_start
            )
            if claimed is None:
                return None
            active = self._look_after(*claimed)
        self._changed(active.run.id)
        return active

    def _look_after(self, run: Run, attempt: Attempt) -> Active:
        active = Active(run, attempt, RunDir.of(self._shop.state.runs, run.id, run.attempt))
        self._active[run.id] = active
        return active

    # --- one attempt --------------------------------------------------------------------------------------

    async def _attempt(self, active: Active) -> None:
        begun = await self._call(self._begin, active)
        if isinstance(begun, launch.Process):
            await self._see_through(active, begun)
        elif begun is not None:
            await self._surely("writing down a failed preparation", self._write, active, begun)

    async def _see_through(self, active: Active, shim: launch.Process) -> None:
        await self._end_of(shim)
        launch.bury(shim)
        await self._surely("writing down how an attempt ended", self._finish, active)

    async def _end_of(self, shim: launch.Process) -> None:
        """Wait for a process that need not be our child."""
        descriptor = launch.watch(shim)
        if descriptor is None:
            return
        loop = asyncio.get_running_loop()
        ended = asyncio.Event()
        loop.add_reader(descriptor, ended.set)
        try:
            await ended.wait()
        finally:
            loop.remove_reader(descriptor)
            launch.let_go(descriptor)

    def _begin(self, active: Active) -> launch.Process | Event | None:
        """Prepare an attempt and start its shim.

        Returns:
            The shim; or the event with which the attempt ended before it had one; None when the executor
            stops, whose next start takes the run up again.
        """
        run, folder = active.run, active.folder
        preparation = Preparation(
            run,
            folder,
            self._shop,
            progress=lambda progress: self._note(active, progress),
            stop=lambda: self._check(active),
        )
        try:
            self._check(active)
            reserve.keep(self._shop.state.reserve)
            folder.create()
            orders = preparation.orders()
            shim = launch.start(
                folder, orders, self._compiled, secrets=preparation.secrets, uplink=preparation.uplink
            )
        except Cancelled:
            return CancelledEvent(active.why) if active.cancelled else None
        except PreparationError as error:
            if error.again_at is None:
                return PrepareFailed(error.reason, error.detail)
            if active.cancelled:
                return CancelledEvent(active.why)
            return Requeued(error.reason, error.detail, error.again_at)
        except PushtrainError as error:
            return PrepareFailed(Reason.INTERNAL, str(error))
        except Exception as error:  # noqa: BLE001  one run's defect must not end the others
            _log.exception("run %s could not be prepared", run.short)
            return PrepareFailed(Reason.INTERNAL, f"The preparation failed: {type(error).__name__}: {error}.")
        finally:
            preparation.close()
            active.attempt = preparation.told(active.attempt)
        active.attempt = active.attempt.model_copy(update={"started_at": self._clock()})
        active.started(shim)
        self._note(active, Progress(stage=Stage.TRAIN))
        try:
            prepared = Prepared(active.attempt.started_at)
            self._store.advance(run.id, prepared, token=run.token, attempt=active.attempt)
        except PushtrainError:
            _log.exception("run %s runs, which could not be written down yet", run.short)
        self._changed(run.id)
        _log.info("run %s (%s) trains", run.short, run.command.job.title)
        return shim

    def _check(self, active: Active) -> None:
        if active.cancelled or self._stopping.is_set():
            raise Cancelled(active.why or "The executor stops.")

    def _note(self, active: Active, progress: Progress) -> None:
        """Tell the world what an attempt does, not too often."""
        before, active.progress = active.progress, progress
        now = time.monotonic()
        if before is None or before.stage is not progress.stage or now - active.told_at >= _MOST_PROGRESS:
            active.told_at = now
            self._changed(active.run.id)

    def _finish(self, active: Active) -> None:
        """Write down how an attempt ended; clear up after a shim that was killed."""
        run, folder = active.run, active.folder
        verdict = folder.read_verdict()
        killed = launch.clear_up(folder, attempt_mark(run)) if verdict is None else 0
        self._clean(folder)
        if verdict is None:
            _log.warning("run %s was lost; %d of its processes were ended", run.short, killed)
            self._write(active, Lost("Its shim was killed, or the machine restarted; there is no verdict."))
            return
        limits = self._shop.rules.limits
        limit = limits.time if verdict.phase == "setup" else time_limit(run.command.job, limits)
        active.attempt = verdicts.with_verdict(active.attempt, verdict)
        self._write(active, verdicts.exited(verdict, limit=limit, most=limits.time))

    def _clean(self, folder: RunDir) -> None:
        """Take the secrets out of a log that nobody writes to any more, before it can be published."""
        try:
            clean_log(folder.log, self._shop.vault.mask(folder))
        except StorageError:
            self._make_room(folder)
            raise

    def _write(self, active: Active, event: Event) -> None:
        """Move the run by the event that ends its attempt, and let go of it."""
        run = active.run
        attempt = verdicts.ended(active.attempt, event, now=self._clock(), size=log_size(active.folder.log))
        self._ask_hooks(active, attempt, event)
        try:
            if isinstance(event, Exited | Lost) and self._store.run(run.id).state is State.PREPARING:
                began = attempt.started_at or attempt.claimed_at
                self._store.advance(run.id, Prepared(began), token=run.token)
            self._store.advance(run.id, event, token=run.token, attempt=attempt)
        except Conflict as error:
            _log.warning("run %s went on without this attempt: %s", run.short, error)
        except StorageError:
            self._make_room(active.folder)
            raise
        if self._active.get(run.id) is active:
            del self._active[run.id]
        self._changed(run.id)
        self._ended()
        self.wake()

    def _ask_hooks(self, active: Active, attempt: Attempt, event: Event) -> None:
        """Run the owner's programs after an attempt, once however often writing its end down is tried."""
        if active.hooked:
            return
        rulebook = self._shop.rulebook
        rulebook.hooks.after(
            active.run, rulebook.who(active.run.sender), attempt, event, stop=self._unless_stopping
        )
        active.hooked = True

    def _unless_stopping(self) -> None:
        if self._stopping.is_set():
            raise Cancelled("The executor stops.")

    def _make_room(self, folder: RunDir) -> None:
        """The disk is full, perhaps by this very attempt: what only it needed goes, with our reserve."""
        for scratch in (folder.tmp, folder.overlay):
            remove_tree(scratch)
        reserve.give_up(self._shop.state.reserve)

    # --- recovery -----------------------------------------------------------------------------------------

    async def _recover(self, run: Run) -> None:
        """Take up a run that was active when the executor stopped or died."""
        active = await self._surely("recovering a run", self._recall, run)
        if active is None:
            return
        shim = await self._adopt(active)
        if shim is None:
            await self._surely("writing down how an attempt ended", self._finish, active)
        else:
            await self._see_through(active, shim)

    def _recall(self, run: Run) -> Active | None:
        """What is known of an active run's attempt; None when it had not begun."""
        attempts = self._store.attempts(run.id)
        active = self._look_after(run, attempts[-1])
        folder = active.folder
        if run.state is State.PREPARING:
            if not (held(folder.lock) or folder.started.exists()):
                self._write(active, _anew(run))
                return None
            started = folder.read_started()
            self._store.advance(run.id, Prepared(started.at if started else None), token=run.token)
        active.progress = Progress(stage=Stage.TRAIN)
        if run.cancel_requested:
            active.cancel("Cancelled while the executor was away.")
        return active

    async def _adopt(self, active: Active) -> launch.Process | None:
        """The living shim of an attempt; None when it is dead. One that is just starting is waited for."""
        folder = active.folder
        while held(folder.lock):
            shim = launch.find(folder)
            if shim is not None:
                active.started(shim)
                return shim
            await asyncio.sleep(_SOON)
        return None


def _anew(run: Run) -> Event:
    """What becomes of a run whose preparation was cut short."""
    if run.cancel_requested:
        return CancelledEvent("Cancelled while it was prepared.")
    return Requeued(Reason.INTERRUPTED, "The executor stopped while it prepared the run.")
