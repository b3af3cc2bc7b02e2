"""Claim runs, start their attempts, watch their shims, and write down how they ended.

Nothing here polls: a claim is tried when something changed, a shim is watched by a pidfd in the event loop.
Start-up is recovery (`executor/runs/recovery.py`), so the executor may die at any line. Stopping it leaves
trainings running.
"""

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Final, ParamSpec, TypeVar

from pushtrain.core.errors import Cancelled, Conflict, PushtrainError, StorageError
from pushtrain.core.lifecycle import Cancelled as CancelledEvent
from pushtrain.core.lifecycle import Event, Prepared, PrepareFailed, Requeued
from pushtrain.core.values.run import Attempt, Progress, Run
from pushtrain.core.values.states import Reason, Stage
from pushtrain.executor.owner.cardwatch import Cards
from pushtrain.executor.owner.lending import ALL, Holder, Terms
from pushtrain.executor.runs import launch
from pushtrain.executor.runs.active import Active
from pushtrain.executor.runs.blame import PreparationError, fault_of
from pushtrain.executor.runs.endings import Endings
from pushtrain.executor.runs.prepare import Preparation
from pushtrain.executor.runs.recovery import adopt, recall
from pushtrain.executor.runs.workshop import Workshop
from pushtrain.plumbing.attempts.records import StopOrder
from pushtrain.plumbing.attempts.rundir import RunDir
from pushtrain.plumbing.disk import reserve
from pushtrain.plumbing.programs import orphans
from pushtrain.plumbing.sqlite.store import Store

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
_DEFECTS: Final = 3
"""Tries after which a run is given up whose end cannot be written down, where it is not the disk."""
_MOST_PROGRESS: Final = 0.2
"""Seconds between two words of progress within one stage."""


class Dispatch:
    """The attempts of one executor.

    Args:
        store: Where runs are claimed.
        shop: What preparing takes.
        slots: Runs at once that ask for no GPU.
        changed: Told the id of each run that changed; called from any thread.
        again: Told each run whose attempt has ended; from any thread.
        ended: Called when a run has become publishable; from any thread.
        may_start: Whether runs may start that the key with this fingerprint sent; asked when a run is
            claimed, and again once it is prepared, which may be an hour later.
        cards: What the GPUs tell at this moment.
        terms: What may be claimed now, as far as the machine's owner is concerned.
    """

    def __init__(
        self,
        store: Store,
        shop: Workshop,
        *,
        slots: int,
        changed: Callable[[str], None],
        ended: Callable[[], None],
        again: Callable[[Run], None] = lambda _: None,
        may_start: Callable[[str], bool],
        terms: Callable[[], Terms] = lambda: ALL,
        cards: Callable[[], Cards] = Cards,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._store = store
        self._shop = shop
        self._slots = slots
        self._changed = changed
        self._ended = ended
        self._again = again
        self._may_start = may_start
        self._terms = terms
        self._clock = clock
        self._compiled = Path()
        self._active: dict[str, Active] = {}
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._endings = Endings(store, shop, stopping=self._stopping, cards=cards, clock=clock)
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
            active.cancel(f"Cancelled by {by}.", grace=self._shop.settings.grace)
        else:
            self._ended()
        self._changed(run_id)
        return run

    def preempt(self, run_id: str, *, reason: Reason, detail: str, grace: float) -> None:
        """Take a run's machine back: its attempt ends within `grace` seconds, and the run waits for another.

        Its command is asked to end first, by the job's preempt signal and `PUSHTRAIN_STOP_FILE`; with no
        grace it is ended at once. A run that is being prepared is stopped, one that is not active left alone.
        A second wish can only hasten it, and somebody who cancels wins.

        Args:
            run_id: Which run.
            reason: One of `core.values.states.TAKEN_BACK`.
            detail: Why, for the borrower.
            grace: Seconds.
        """
        with self._lock:
            active = self._active.get(run_id)
        if active is None:
            return
        active.stop(StopOrder(reason=reason, detail=detail, grace=grace))
        try:
            self._store.request_preempt(run_id, token=active.run.token, detail=detail)
        except (Conflict, StorageError) as error:  # the order to the shim stands, and is obeyed
            _log.warning("run %s: %s", active.run.short, error)
        self._changed(run_id)

    def end(self, run_id: str, reason: Reason, detail: str, grace: float) -> None:
        """End an active run for good, for a reason that is the machine's; from any thread.

        Args:
            run_id: Which run.
            reason: What becomes the run's.
            detail: Why, for the borrower.
            grace: Seconds until what is left is killed.
        """
        with self._lock:
            active = self._active.get(run_id)
        if active is not None:
            active.stop(StopOrder(reason=reason, detail=detail, grace=grace))

    def remark(self, run_id: str, words: str) -> None:
        """Show a sentence beside a run that trains; empty: none any more."""
        active = self._active.get(run_id)
        if active is not None and active.progress is not None and active.progress.stage is Stage.TRAIN:
            self._note(active, Progress(stage=Stage.TRAIN, text=words))

    def holders(self) -> tuple[Holder, ...]:
        """Who holds something of this machine."""
        return tuple(active.holder for active in list(self._active.values()))

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
            await self._call(orphans.take_over, self._shop.state.root)
            async with asyncio.TaskGroup() as group:
                for run in await self._call(self._store.active):
                    group.create_task(self._recover(run))
                while True:
                    self._wake.clear()
                    await self._let_in()
                    looked = self._clock()
                    while (active := await self._claim()) is not None:
                        group.create_task(self._attempt(active))
                    await self._sleep(looked)
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

    async def _sleep(self, looked: float) -> None:
        """Wait until something changed, or until a run may go on that had to wait when we looked for one."""
        daily = bool(self._shop.bounds.hours_a_day)
        due = await self._surely(
            "looking for what is due", partial(self._store.next_due, looked, daily=daily)
        )
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
        gpus, slots = self._terms().of(shop.gpus, self._slots)
        with self._lock:
            claimed = self._store.claim(
                slots=slots,
                gpus=gpus,
                executor=shop.settings.name,
                may_start=self._may_start,
                bounds=shop.bounds,
            )
            if claimed is None:
                return None
            active = self._look_after(*claimed)
        self._changed(active.run.id)
        return active

    def _take_up(self, run_id: str) -> Active:
        """Look after a run again, as it is now: who cancels it from here on finds it."""
        attempts = self._store.attempts(run_id)
        with self._lock:
            return self._look_after(self._store.run(run_id), attempts[-1])

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
            if not self._may_start(run.sender):
                return Requeued(Reason.DEFERRED, "the key that sent it does not count at the moment")
            shim = launch.start(
                folder, orders, self._compiled, secrets=preparation.secrets, uplink=preparation.uplink
            )
        except Cancelled as error:
            return self._given_up(active, str(error))
        except PreparationError as error:
            if error.again_at is None:
                return PrepareFailed(error.reason, error.detail, error.least)
            return Requeued(error.reason, error.detail, error.again_at)
        except StorageError as error:
            return PrepareFailed(Reason.STORAGE, str(error))
        except PushtrainError as error:
            return PrepareFailed(Reason.INTERNAL, str(error))
        except Exception as error:  # noqa: BLE001  one run's defect must not end the others
            _log.exception("run %s could not be prepared", run.short)
            reason = fault_of(error, Reason.INTERNAL)
            return PrepareFailed(reason, f"The preparation failed: {type(error).__name__}: {error}.")
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

    def _given_up(self, active: Active, why: str) -> Event | None:
        """How a preparation ends that was given up; None: the executor stops."""
        if active.cancelled:
            return CancelledEvent(active.why)
        if active.order is not None:
            return Requeued(active.order.reason, active.why)
        return None if self._stopping.is_set() else PrepareFailed(Reason.INTERNAL, why)

    def _check(self, active: Active) -> None:
        if active.order is not None or self._stopping.is_set():
            raise Cancelled(active.why or "The executor stops.")

    def _note(self, active: Active, progress: Progress) -> None:
        """Tell the world what an attempt does, not too often."""
        before, active.progress = active.progress, progress
        now = time.monotonic()
        if before is None or before.stage is not progress.stage or now - active.told_at >= _MOST_PROGRESS:
            active.told_at = now
            self._changed(active.run.id)

    def _finish(self, active: Active) -> None:
        self._end(active, lambda: self._endings.finish(active))

    def _write(self, active: Active, event: Event) -> None:
        self._end(active, lambda: self._endings.write(active, event))

    def _end(self, active: Active, write: Callable[[], None]) -> None:
        """Write down how an attempt ended; by a defect that stays, that it failed for a reason of ours.

        A disk may have room again. What this run itself makes impossible stays so, and its slot and its cards
        would be gone for good.
        """
        try:
            write()
        except (OSError, StorageError, Cancelled, MemoryError):
            raise
        except Exception as error:
            active.defects += 1
            if active.defects < _DEFECTS:
                raise
            _log.exception("run %s is given up: how it ended cannot be written down", active.run.short)
            self._endings.give_up(active, f"{type(error).__name__}: {error}")
        self._let_go(active)

    def _let_go(self, active: Active) -> None:
        """An attempt has ended, and that is written down."""
        with self._lock:
            if self._active.get(active.run.id) is active:
                del self._active[active.run.id]
        self._changed(active.run.id)
        self._again(active.run)
        self._ended()
        self.wake()

    # --- recovery -----------------------------------------------------------------------------------------

    async def _recover(self, run: Run) -> None:
        """Take up a run that was active when the executor stopped or died."""
        active = await self._surely("recovering a run", self._take_up, run.id)
        grace = self._shop.settings.grace
        event = await self._surely("recovering a run", recall, self._store, active, grace=grace)
        if event is not None:
            await self._surely("writing down an interrupted preparation", self._write, active, event)
        elif (shim := await adopt(active)) is None:
            await self._surely("writing down how an attempt ended", self._finish, active)
        else:
            await self._see_through(active, shim)
