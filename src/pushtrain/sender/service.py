"""The sender: every push, whoever told of it, becomes commands, and every command reaches an executor.

    hear → (push kept) → plan → (push settled, commands kept) → deliver → (delivered, or refused)

What stands in brackets is on the disk before the next step begins, so a sender may die anywhere: at the next
start it goes on with what is kept. Repositories do not wait for each other, and neither do executors.
"""

import asyncio
import logging
import random
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, TypeVar

from pushtrain.core.errors import Cancelled, NotFound, PushtrainError
from pushtrain.core.model import Push
from pushtrain.core.settings import Repository
from pushtrain.plumbing.git import Mirror
from pushtrain.plumbing.outbox import HeardPush, Outgoing
from pushtrain.plumbing.store import Store
from pushtrain.sender.delivery import Delivered, Executors, Refused
from pushtrain.sender.kept import KeptCommands
from pushtrain.sender.planning import plan, watched

log = logging.getLogger(__name__)
T = TypeVar("T")

_THREADS: Final = 8
_AT_ONCE: Final = 4
"""Deliveries at the same time: enough to hide an executor's disk, few enough to keep their order nearly."""
_FIRST_PAUSE: Final = 0.5
_LONGEST_PAUSE: Final = 60.0


class SenderService:
    """Turns pushes into delivered commands until its task is cancelled.

    Args:
        repositories: Those that are watched; pushes to others are refused.
        store: Where everything is kept.
        mirror: A repository's mirror, by key; shared with an executor in the same process.
        executors: Whom commands go to.
        kept: Commands that `pushtrain send` could not deliver and left here.
        clock: Seconds since the epoch.
        jitter: A number from 0 to 1; spreads retries.
    """

    def __init__(
        self,
        repositories: Sequence[Repository],
        store: Store,
        mirror: Callable[[str], Mirror],
        executors: Executors,
        *,
        kept: KeptCommands | None = None,
        clock: Callable[[], float] = time.time,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self.repositories = tuple(repositories)
        self.store = store
        self.mirror = mirror
        self._executors = executors
        self._kept = kept
        self._clock = clock
        self._jitter = jitter
        self._keys = {repository.key.lower(): repository.key for repository in repositories}
        self._heard = {repository.key: asyncio.Event() for repository in repositories}
        self._due = asyncio.Event()
        self._free = asyncio.Event()
        self._flying: dict[str, asyncio.Task[None]] = {}
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
        self._wake(self._due)

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
                group.create_task(self._deliver_all(group), name="deliver")
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
                    if not self._greeting:
                        self._greeting = True
                        group.create_task(self._greet(), name="greet")
                    await self._work(self._settle, push)
                    tries = 0
                    self._due.set()
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
            await self._work(self._executors.greet)
        except PushtrainError as error:
            log.info("the executors could not be asked: %s", error)
        finally:
            self._greeting = False

    def _settle(self, heard: HeardPush) -> None:
        push = heard.push
        found = plan(push, self.mirror(push.key), stop=self._stop)
        told = found.seen and watched(push.ref)
        tip = (push.key, push.ref, None if push.deletes else push.after) if told else None
        self.store.settle_push(heard.id, found.commands, found.note, tip=tip)
        log.info("push of %s to %s %s: %s", push.after[:7], push.key, push.ref, found.note)

    async def _deliver_all(self, group: asyncio.TaskGroup) -> None:
        """Keep every due command on its way, a few at a time."""
        while True:
            self._due.clear()
            try:
                pause = await self._deliver_due(group)
            except PushtrainError as error:
                log.warning("deliveries wait: %s", error)
                pause = _LONGEST_PAUSE / 4
            try:
                async with asyncio.timeout(pause):
                    await self._due.wait()
            except TimeoutError:
                continue

    async def _deliver_due(self, group: asyncio.TaskGroup) -> float | None:
        """Start what is due; how long until there may be more, None for until somebody says so."""
        if self._kept is not None:
            await self._work(self._take_in, self._kept)
        while due := [
            out
            for out in await self._work(self.store.outbox_due, self._clock())
            if out.run_id not in self._flying
        ]:
            for out in due:
                while len(self._flying) >= _AT_ONCE:
                    self._free.clear()
                    await self._free.wait()
                task = group.create_task(self._deliver(out), name=f"deliver {out.run_id[:8]}")
                self._flying[out.run_id] = task
        if self._flying:
            return None  # whichever lands first says so
        later = await self._work(self.store.outbox_next)
        return None if later is None else max(0.0, later - self._clock())

    async def _deliver(self, out: Outgoing) -> None:
        try:
            await self._work(self._try, out)
        except PushtrainError as error:
            log.warning("run %s could not be noted as delivered: %s", out.run_id[:8], error)
            await asyncio.sleep(_FIRST_PAUSE)
        except Exception:
            log.exception("run %s could not be delivered; trying again", out.run_id[:8])
            await asyncio.sleep(_LONGEST_PAUSE)
        finally:
            del self._flying[out.run_id]
            self._free.set()
            self._due.set()

    def _try(self, out: Outgoing) -> None:
        run_id, title = out.run_id, f"run {out.run_id[:8]} ({out.command.job.title})"

        def place(url: str) -> None:
            if url != out.executor:
                self.store.outbox_place(run_id, url)

        result = self._executors.deliver(out.command, out.executor, place)
        if isinstance(result, Delivered):
            self.store.outbox_delivered(run_id)
            log.info("%s is with %s", title, result.executor.url)
        elif isinstance(result, Refused):
            self.store.outbox_refused(run_id, str(result.error))
            log.warning("%s was refused: %s", title, result.error)
        else:
            not_before = self._clock() + self._pause(out.tries + 1)
            self.store.outbox_retry(run_id, result.detail, not_before, executor=None if result.stays else "")
            if out.detail != result.detail:
                log.warning("%s waits: %s", title, result.detail)

    def _take_in(self, kept: KeptCommands) -> None:
        for entry in kept.left():
            with entry:
                self.store.settle_push(None, [entry.command], "sent by hand", executor=entry.executor)
                entry.remove()

    def _pause(self, tries: int) -> float:
        pause = min(_LONGEST_PAUSE, _FIRST_PAUSE * 2.0 ** min(tries - 1, 10))
        return pause * (0.75 + 0.5 * self._jitter())
