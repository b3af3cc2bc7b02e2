"""The sender: every push, whoever told of it, becomes commands, and every command reaches an executor.

    hear → (push kept) → plan → (push settled, commands kept) → rounds → (delivered, or refused)

What stands in brackets is on the disk before the next step begins, so a sender may die anywhere: at the next
start it goes on with what is kept. Repositories do not wait for each other, and neither do executors.
"""

import asyncio
import logging
import random
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Final, TypeVar

from pushtrain.core.errors import Cancelled, NotFound, PushtrainError
from pushtrain.core.runs.precedence import dropped
from pushtrain.core.settings import Repository
from pushtrain.core.values.command import TrainCommand
from pushtrain.core.values.jobspec import Concurrency
from pushtrain.core.values.push import Push
from pushtrain.plumbing.git.lineage import order
from pushtrain.plumbing.git.mirror import Mirror
from pushtrain.plumbing.sqlite.outbox import HeardPush
from pushtrain.plumbing.sqlite.store import Store
from pushtrain.sender.kept import KeptCommands
from pushtrain.sender.known import Rosters
from pushtrain.sender.planning import plan, watched
from pushtrain.sender.rounds import Known, Rounds

log = logging.getLogger(__name__)
T = TypeVar("T")

_THREADS: Final = 8
_WAITING: Final = 4000
"""Waiting commands among which those of an older push are looked for."""
_FIRST_PAUSE: Final = 0.5
_LONGEST_PAUSE: Final = 60.0


class SenderService:
    """Turns pushes into delivered commands until its task is cancelled.

    Args:
        repositories: Those that are watched; pushes to others are refused.
        store: Where everything is kept.
        mirror: A repository's mirror, by key; shared with an executor in the same process.
        known: The executors of this moment, to which commands go; see `rounds`.
        kept: Commands that `pushtrain send` could not deliver and left here.
        rosters: Read at once where a push tells that they moved; a card starts nothing.
        lost_after: Seconds after which a silent executor no longer keeps a command that it may have.
        clock: Seconds since the epoch.
        ticks: A clock that never goes back.
        jitter: A number from 0 to 1; spreads retries.
    """

    def __init__(
        self,
        repositories: Sequence[Repository],
        store: Store,
        mirror: Callable[[str], Mirror],
        known: Known,
        *,
        kept: KeptCommands | None = None,
        rosters: Rosters | None = None,
        lost_after: float = 3600,
        clock: Callable[[], float] = time.time,
        ticks: Callable[[], float] = time.monotonic,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self.repositories = tuple(repositories)
        self.store = store
        self.mirror = mirror
        self._rounds = Rounds(
            store, known, kept=kept, lost_after=lost_after, clock=clock, ticks=ticks, jitter=jitter
        )
        self._rosters = rosters
        self._jitter = jitter
        self._keys = {repository.key.lower(): repository.key for repository in repositories}
        self._heard = {repository.key: asyncio.Event() for repository in repositories}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._threads: ThreadPoolExecutor | None = None
        self._ending = False
        self._greeting = False

    # --- the doors' side: from any thread --------------------------------------------------------------

    def hear(self, push: Push, *, source: str) -> bool:
        """Keep a push and see to it soon; False when this delivery was heard before.

        Args:
            push: What moved.
            source: `webhook`, `poll` or `person`.

        Raises:
            NotFound: Its repository is not watched.
            StorageError: It could not be kept; the host should deliver it again.
        """
        key = self._keys.get(push.key.lower())
        if key is None:
            raise NotFound(
                f"This sender does not watch {push.key}.",
                mend="Add it to `repositories` in settings.toml, or start the sender with `--repo`.",
            )
        host, _, name = key.partition("/")
        new = self.store.record_push(
            push.model_copy(update={"host": host, "repository": name}), source=source
        )
        if new:
            self._wake(self._heard[key])
        return new

    def kept_more(self) -> None:
        """Look again for what `pushtrain send` left, and for what is due."""
        self._rounds.wake()

    def _wake(self, event: asyncio.Event) -> None:
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(event.set)

    # --- the work --------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Settle pushes and deliver commands until cancelled."""
        self._loop = asyncio.get_running_loop()
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="sender")
        self._ending = False
        try:
            async with asyncio.TaskGroup() as group:
                for key in self._heard:
                    group.create_task(self._settle_all(key, group), name=f"settle {key}")
                group.create_task(self._rounds.run(), name="rounds")
        finally:
            self._ending = True
            await asyncio.to_thread(self._threads.shutdown, cancel_futures=True)

    async def _work(self, work: Callable[..., T], *arguments: Any) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work, *arguments)

    def _stop(self) -> None:
        if self._ending:
            raise Cancelled("The sender ends.")

    async def _settle_all(self, key: str, group: asyncio.TaskGroup) -> None:
        """Settle one repository's pushes in the order in which they were heard."""
        heard = self._heard[key]
        tries = 0
        while True:
            heard.clear()
            try:
                pushes = await self._work(self.store.pending_pushes, key)
                first = tries % max(1, len(pushes))  # a push that cannot be settled must not hold up the rest
                for push in pushes[first:] + pushes[:first]:
                    if not self._greeting and watched(push.push.ref):
                        self._greeting = True
                        group.create_task(self._greet(), name="greet")
                    await self._work(self._settle, push)
                    tries = 0
                    self._rounds.wake()
                await heard.wait()
            except Exception as error:
                tries += 1
                pause = self._pause(tries)
                log.warning(
                    "a push to %s waits, tried again in %.0f s: %s",
                    key,
                    pause,
                    error if str(error) else type(error).__name__,
                    exc_info=None if isinstance(error, PushtrainError) else error,
                )
                await asyncio.sleep(pause)

    async def _greet(self) -> None:
        """Learn who the executors are while git fetches."""
        try:
            await self._work(self._rounds.greet)
        except PushtrainError as error:
            log.info("the executors could not be asked: %s", error)
        finally:
            self._greeting = False

    def _settle(self, heard: HeardPush) -> None:
        push, roster = heard.push, ""
        if self._rosters is not None and (roster := self._rosters.path_on(push.key, push.ref)):
            refs = {} if push.deletes else {push.ref: push.after}
            self._rosters.see(push.key, refs, complete=False, stop=self._stop)
        found = plan(push, self.mirror(push.key), roster=roster, stop=self._stop)
        told = found.seen and watched(push.ref)
        tip = (push.key, push.ref, None if push.deletes else push.after) if told else None
        replaced = self._replaced(found.commands, self.mirror(push.key))
        self.store.settle_push(heard.id, found.commands, found.note, tip=tip, dropped=replaced)
        for run_id, why in replaced.items():
            log.info("run %s is dropped, unless an executor has it: %s", run_id[:8], why)
        log.info("push of %s to %s %s: %s", push.after[:7], push.key, push.ref, found.note)

    def _replaced(self, commands: Sequence[TrainCommand], mirror: Mirror) -> dict[str, str]:
        """By run: commands that give way, as their jobs say, and to what; executors see to theirs."""
        if all(command.job.concurrency is Concurrency.QUEUE for command in commands):
            return {}
        waiting = [out.command for out in self.store.outbox(states=("waiting",), limit=_WAITING)]
        ref = commands[0].ref
        found = dropped(commands, waiting, partial(order, mirror, ref, stop=self._stop))
        return {older.run_id: f"a newer push, {newer.commit[:7]}, takes its place" for older, newer in found}

    def _pause(self, tries: int) -> float:
        pause = min(_LONGEST_PAUSE, _FIRST_PAUSE * 2.0 ** min(tries - 1, 10))
        return pause * (0.75 + 0.5 * self._jitter())
