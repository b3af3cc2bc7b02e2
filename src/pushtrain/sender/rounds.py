"""The rounds of a sender: again and again look at what waits, decide (`placement`), and do it (`errands`).

A round is due when a command came, when an answer or a word of an executor came, and when a time is over that
placement named. Between rounds nothing happens: no request is made while nothing waits. Executors do not wait
for each other. What is done to a command is on the disk before the next step, so a sender may die anywhere:

    place → send → (delivered)         a lost answer: the same executor again
    recall → (released) → place        a lost answer: the same recall again, and only then another executor
"""

import asyncio
import contextlib
import logging
import random
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from typing import Final, TypeVar

from pushtrain.core.errors import PushtrainError
from pushtrain.core.wire.frames import CapacityFrame
from pushtrain.plumbing.sqlite.outbox import Outgoing
from pushtrain.plumbing.sqlite.store import Store
from pushtrain.sender.board import Board, Listed
from pushtrain.sender.errands import FIRST_PAUSE, LONGEST_PAUSE, Errands, again
from pushtrain.sender.kept import KeptCommands
from pushtrain.sender.placement import Given, Plan, Queued, decide
from pushtrain.sender.watch import Watch

log = logging.getLogger(__name__)
T = TypeVar("T")

_AT_ONCE: Final = 4
"""Commands on their way to one executor: enough to hide its disk, few enough to keep their order nearly."""
_CALLS: Final = 24
_GREETED: Final = 3
"""With more executors than this, none is asked before something waits."""
_BREATH: Final = 0.03
"""Seconds in which the words of many executors become one round."""
_LISTED: Final = 2.0
"""Seconds for which the list of executors counts."""
_TICK: Final = 20.0
"""Seconds after which the list is looked at again while anything could be moved."""
_STEP: Final = 60.0
"""Seconds by which the clock must have run ahead: the machine slept, or the clock jumped."""
_GLANCE: Final = 0.5
"""Seconds between glances at the folder where people leave things; each costs one `stat`."""
_MOVABLE: Final = 7 * 86_400.0
"""Seconds for which a run that could go on elsewhere is listened for after it has begun."""
_MOST: Final = 4000
"""Waiting commands that one round looks at."""

Known = Callable[[], Sequence[Listed]]
Work = Callable[[Outgoing, str], None]


class Rounds:
    """Keeps every command on its way.

    Args:
        store: Where commands are kept.
        known: The executors of this moment, each with an id of its own, and their cards on rosters.
        kept: Commands that `pushtrain send` left.
        lost_after: Seconds after which a silent executor no longer keeps a command that it may have.
        clock: Seconds since the epoch.
        ticks: A clock that never goes back.
        jitter: A number from 0 to 1; spreads retries.
    """

    def __init__(
        self,
        store: Store,
        known: Known,
        *,
        kept: KeptCommands | None = None,
        lost_after: float = 3600,
        clock: Callable[[], float] = time.time,
        ticks: Callable[[], float] = time.monotonic,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self.board = Board(clock=ticks)
        self.errands = Errands(store, self.board, kept=kept, clock=clock, jitter=jitter)
        self._store = store
        self._known = known
        self._kept = kept
        self._lost_after = lost_after
        self._clock = clock
        self._ticks = ticks
        self._began = self._awake = clock()
        self._apart = clock() - ticks()
        self._listed_at: float | None = None
        self._watches: dict[str, Watch] = {}
        self._ready: dict[str, deque[tuple[Work, Outgoing]]] = {}
        self._flying: set[str] = set()
        self._load: Counter[str] = Counter()
        self._due = asyncio.Event()
        self._nudged = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._group: asyncio.TaskGroup | None = None
        self._looking: ThreadPoolExecutor | None = None
        self._calls: ThreadPoolExecutor | None = None

    # --- from any thread ----------------------------------------------------------------------------------

    def wake(self) -> None:
        """There may be something to do."""
        self._tell_loop(self._due.set)

    def greet(self) -> None:
        """Ask the executors who they are before there is something for them; not, if they are many."""
        self._list()
        seen = self.board.seen()
        for one in seen if len(seen) <= _GREETED else ():
            if not (one.proven or one.asking or one.trouble):
                self._ask(one.id)

    # --- the loop -----------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Make rounds until cancelled."""
        self._loop = asyncio.get_running_loop()
        self._looking = ThreadPoolExecutor(1, thread_name_prefix="placement")
        self._calls = ThreadPoolExecutor(_CALLS, thread_name_prefix="deliver")
        try:
            async with asyncio.TaskGroup() as self._group:
                if self._kept is not None:
                    self._kept.forget(self._clock())
                    seen = self._kept.stamp()  # before the first look
                    self._group.create_task(self._notice(self._kept, seen), name="notice")
                while True:
                    self._due.clear()
                    pause = await self._round()
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(pause):
                            await self._due.wait()
        finally:
            for watch in self._watches.values():
                watch.close()
            await asyncio.to_thread(self._end, list(self._watches.values()))

    async def _notice(self, kept: KeptCommands, seen: int) -> None:
        """Make a round soon after a person has left something: a command, or the wish to cancel one."""
        while True:
            await asyncio.sleep(_GLANCE)
            now = kept.stamp()
            if now != seen:
                seen = now
                self._due.set()

    def _end(self, watches: Sequence[Watch]) -> None:
        for pool in (self._looking, self._calls):
            if pool is not None:
                pool.shutdown(cancel_futures=True)
        for watch in watches:
            watch.join()

    async def _round(self) -> float | None:
        """Look, decide and begin what is to be done; how long until the next round if nothing comes."""
        self._ready = {}  # nothing may begin while it is decided where it goes
        try:
            plan, found = await self._think(self._look)
        except PushtrainError as error:
            log.warning("deliveries wait: %s", error)
            return LONGEST_PAUSE / 4
        for name in plan.ask:
            self._ask(name)
        self._watch_only(plan.watch)
        for work, pairs in ((self.errands.recall, plan.recall), (self.errands.deliver, plan.deliver)):
            for run_id, name in pairs:
                self._ready.setdefault(name, deque()).append((work, found[run_id]))
        self._start()
        return plan.again_in

    async def _think(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._looking, work)

    def _start(self) -> None:
        """Begin what is ready, a few commands at a time for each executor."""
        for name, queue in self._ready.items():
            while queue and self._load[name] < _AT_ONCE and self._group is not None:
                work, out = queue.popleft()
                self._flying.add(out.run_id)
                self._load[name] += 1
                self._group.create_task(self._carry(work, out, name), name=f"{out.run_id[:8]} to {name}")

    async def _carry(self, work: Work, out: Outgoing, name: str) -> None:
        try:
            await asyncio.get_running_loop().run_in_executor(self._calls, work, out, name)
        except PushtrainError as error:
            log.warning("what became of run %s could not be noted: %s", out.run_id[:8], error)
            await asyncio.sleep(FIRST_PAUSE)
        except Exception:
            log.exception("run %s could not be delivered; trying again", out.run_id[:8])
            await asyncio.sleep(LONGEST_PAUSE)
        finally:
            self._flying.discard(out.run_id)
            self._load[name] -= 1
            self._start()
            if not self._ready.get(name):
                self._due.set()

    def _tell_loop(self, work: Callable[[], object]) -> None:
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # the loop has ended, and we with it
                self._loop.call_soon_threadsafe(work)

    def _nudge(self) -> None:
        """An executor has said something; others may do so in the same breath. Called in the loop."""

        def now() -> None:
            self._nudged = False
            self._due.set()

        if not self._nudged and self._loop is not None:
            self._nudged = True
            self._loop.call_later(_BREATH, now)

    # --- looking ------------------------------------------------------------------------------------------

    def _look(self) -> tuple[Plan, dict[str, Outgoing]]:
        """Decide, and write down what needs no executor."""
        if self._kept is not None:
            self._take_in(self._kept)
        self._list()
        now = self._clock()
        if now - self._ticks() > self._apart + _STEP:
            self._awake = now
        self._apart = now - self._ticks()
        given = self._given()
        found = {out.run_id: out for out in (*given.waiting, *given.recalling)}
        found |= {queued.out.run_id: queued.out for queued in given.queued}
        plan = decide(given, now=now, lost_after=self._lost_after)
        for run_id in plan.lost:
            self._lost(found[run_id])
        for run_id in plan.refuse:
            self._refuse(found[run_id])
        self._explain(plan, found)
        if plan.lost:
            plan.look_again(0)
        if given.waiting and not given.seen:
            plan.look_again(_LISTED)
        elif given.waiting or given.unsettled:
            plan.look_again(_TICK)
        later = self._store.outbox_next(after=now)
        if later is not None:
            plan.look_again(max(0.0, later - self._clock()))
        return plan, found

    def _list(self) -> None:
        now = self._ticks()
        if self._listed_at is None or now - self._listed_at > _LISTED:
            known = self._known()
            self.board.know(known)
            self._listed_at = now if known else None

    def _take_in(self, kept: KeptCommands) -> None:
        for entry in chain(kept.left(), kept.sent()):
            with entry:
                if entry.command.run_id in self._flying:  # the next round, which comes when it has landed
                    continue
                self._store.settle_push(None, [entry.command], "sent by hand", executor=entry.executor)
                self._store.outbox_again(entry.command.run_id)
                entry.remove()
        for run_id in kept.wishes():
            if run_id not in self._flying:  # else the next round, which comes when it has landed
                self._cancel(kept, run_id)

    def _cancel(self, kept: KeptCommands, run_id: str) -> None:
        """Drop a command that nobody has. A wish stays as long as it is open whether somebody has it."""
        if self._store.outbox_cancelled(run_id, "cancelled before an executor got it"):
            log.info("run %s was cancelled before an executor got it", run_id[:8])
        else:
            (out,) = self._store.outbox_of([run_id]) or (None,)
            if out is not None and out.state in {"waiting", "recalling"}:
                return
            if out is not None and out.state in {"delivered", "started"}:
                log.warning("run %s is with an executor; it can only be cancelled there", run_id[:8])
        kept.unwish(run_id)

    def _given(self) -> Given:
        flying = frozenset(self._flying)
        waiting = [
            out for out in self._store.outbox_due(self._clock(), limit=_MOST) if out.run_id not in flying
        ]
        seen = self.board.seen()
        there = self._store.outbox_there()
        queued, unsettled = self._queued(there, flying) if len(seen) > 1 else ([], frozenset(there))
        unsettled |= self._movable()
        return Given(
            waiting=waiting,
            seen=seen,
            queued=queued,
            recalling=[out for out in self._store.outbox_recalling() if out.run_id not in flying],
            unsettled=unsettled,
            refused=self.errands.refused(),
            homes={
                out.run_id: home
                for out in waiting
                if out.command.job.max_parallel is not None and (home := self._store.outbox_home(out.command))
            },
            began=self._began,
            awake=self._awake,
        )

    def _movable(self) -> frozenset[str]:
        """Executors to listen to, for what runs there may wait again and go on elsewhere."""
        return self._store.outbox_movable(since=self._clock() - _MOVABLE)

    def _queued(
        self, there: Mapping[str, int], flying: frozenset[str]
    ) -> tuple[list[Queued], frozenset[str]]:
        """Our runs that wait at executors, as those say; and executors that have others of ours."""
        queued: list[Queued] = []
        known: Counter[str] = Counter()
        for name, runs in self.board.waiting().items():
            for out in self._store.outbox_of(list(runs)):
                if out.state == "delivered" and out.executor == name:
                    known[name] += 1
                    if out.run_id not in flying:
                        queued.append(Queued(out, runs[out.run_id]))
        queued.sort(key=lambda one: one.for_)
        return queued, frozenset(name for name, count in there.items() if count > known[name])

    def _explain(self, plan: Plan, found: Mapping[str, Outgoing]) -> None:
        new = {run_id: why for run_id, why in plan.why.items() if found[run_id].detail != why}
        if not new:
            return
        self._store.outbox_waits(new)
        for why, count in Counter(new.values()).items():
            log.info("%d run%s wait%s: %s", count, *(("", "s") if count == 1 else ("s", "")), why)

    def _lost(self, out: Outgoing) -> None:
        """Its executor has been silent for too long: another one may start it, and is told of that one."""
        command = again(out.command, out.command.attempt + 1, possible_duplicate=True)
        self._store.outbox_moved(command, "its executor does not answer any more")
        self.board.not_sent(out.executor, out.run_id)
        log.warning(
            "run %s goes elsewhere as a possible duplicate: who may have it has been silent for %.0f s",
            out.run_id[:8],
            self._lost_after,
        )

    def _refuse(self, out: Outgoing) -> None:
        why = self.errands.refusal(out.run_id)
        self._store.outbox_refused(out.run_id, why)
        log.warning("run %s (%s) was refused: %s", out.run_id[:8], out.command.job.title, why)

    # --- executors: asked and watched ---------------------------------------------------------------------

    def _ask(self, name: str) -> None:
        executor = self.board.executor(name)
        if executor is None:
            return
        self.board.asking(name)

        def ask() -> None:
            try:
                self.board.answered(name, executor.challenge())
            except PushtrainError as error:
                self.board.failed(name, error.message)
            self.wake()

        threading.Thread(target=ask, name=f"ask {name}", daemon=True).start()

    def _watch_only(self, names: set[str]) -> None:
        """Hold these executors' event streams open, and no others."""
        for name, watch in list(self._watches.items()):
            if name not in names or self.board.executor(name) is not watch.executor:
                watch.close()
                self.board.closed(name)
                del self._watches[name]
        for name in names - self._watches.keys():
            executor = self.board.executor(name)
            if executor is not None:
                number = self.board.opening(name)
                self._watches[name] = Watch(executor, number, told=self._told, ended=self._ended)

    def _told(self, watch: Watch, frame: CapacityFrame) -> None:
        """From a watch's thread: what an executor has free, and which of our runs wait there."""
        name = watch.executor.id
        self.board.told(name, watch.number, frame)
        if frame.waiting and name in self._movable():
            self._store.outbox_waits_again(name, frame.waiting)
        if frame.whole and name in self._store.outbox_there():
            here = (*frame.waiting, *frame.preparing)
            self._store.outbox_settled(name, here, at=frame.capacity.at)
        self._tell_loop(self._nudge)

    def _ended(self, watch: Watch, why: str) -> None:
        """From a watch's thread: its stream broke off, we have not closed it."""
        self.board.broke(watch.executor.id, watch.number, why)

        def forget() -> None:
            if self._watches.get(watch.executor.id) is watch:
                del self._watches[watch.executor.id]
            self._due.set()

        self._tell_loop(forget)
