"""The reconciler: compare every watched branch with where it was, so that a lost webhook only costs time.

Each watched ref's tip gets its runs within one round. Tips at first sight are a baseline and start nothing;
tips that were overtaken between two rounds count as superseded; a deleted ref is forgotten. A push that a
webhook told of already is the same runs, because run ids follow from what is run.
"""

import asyncio
import contextlib
import logging
import random
import secrets
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from pushtrain.core.errors import Cancelled, PushtrainError
from pushtrain.core.settings import Repository
from pushtrain.core.values.push import NO_COMMIT, Push
from pushtrain.plumbing.git.complaint import RateLimited
from pushtrain.sender.known import Rosters
from pushtrain.sender.planning import watched
from pushtrain.sender.service import SenderService

log = logging.getLogger(__name__)

_LOOKED: Final = ""
"""The ref under which it is noted that a repository was looked at before; an empty one has no other."""
_SPREAD: Final = 0.1
_THREADS: Final = 32
"""Repositories that are looked at at once."""
_LONGEST_WISH: Final = 3600.0
"""Seconds for which a host that asks for fewer requests is left alone at most."""


@dataclass(frozen=True, slots=True)
class Moves:
    """What became of a repository's refs since the last look."""

    pushes: tuple[Push, ...]
    tips: Mapping[str, str | None]
    """What to note at once; a moved tip is noted when its push is settled."""


def moves(key: str, known: Mapping[str, str], seen: Mapping[str, str], *, look: str = "") -> Moves:
    """Compare two looks at one repository.

    Args:
        key: The repository.
        known: Each ref's commit as noted.
        seen: Each ref's commit now.
        look: A word that only this look has: a branch may come back to a commit, which is a push of its own.
    """
    now = {ref: commit for ref, commit in seen.items() if watched(ref)}
    if _LOOKED not in known:
        return Moves((), {**now, _LOOKED: NO_COMMIT})
    host, _, name = key.partition("/")
    pushes = tuple(
        Push(
            host=host,
            repository=name,
            ref=ref,
            before=known.get(ref, "0" * len(commit)),
            after=commit,
            delivery=f"poll:{key}:{ref}:{commit}:{look}",
        )
        for ref, commit in sorted(now.items())
        if known.get(ref) != commit
    )
    return Moves(pushes, {ref: None for ref in known if ref not in now and ref != _LOOKED})


class Reconciler:
    """Looks at every repository each so many seconds.

    Args:
        service: Whom to tell of pushes.
        poll_seconds: From the end of one look to the next.
        rosters: Read whenever a look shows that they moved.
        jitter: A number from 0 to 1; spreads the looks of many senders.
    """

    def __init__(
        self,
        service: SenderService,
        poll_seconds: float,
        *,
        rosters: Rosters | None = None,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._rosters = rosters
        self._service = service
        self.poll_seconds = poll_seconds
        self._jitter = jitter
        self._ending = False
        self._threads: ThreadPoolExecutor | None = None
        self._first = {repository.key: asyncio.Event() for repository in service.repositories}

    async def run(self) -> None:
        """Look at each repository, at once and then again and again, until cancelled."""
        self._ending = False
        most = min(_THREADS, len(self._service.repositories) + 1)
        self._threads = threads = ThreadPoolExecutor(most, thread_name_prefix="poll")
        try:
            async with asyncio.TaskGroup() as group:
                for repository in self._service.repositories:
                    group.create_task(self._watch(repository), name=f"poll {repository.key}")
                group.create_task(self._watch_rosters(), name="poll shared rosters")
        finally:
            self._ending = True  # a thread that waits for a remote ends with us
            await asyncio.to_thread(threads.shutdown, cancel_futures=True)

    async def settled(self, seconds: float) -> None:
        """Wait until each repository was looked at once, or in vain; not for longer than this.

        What is pushed before the first look belongs to the baseline: whoever says that pushes start something
        should not say it before.
        """
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                for looked in self._first.values():
                    await looked.wait()

    def _stop(self) -> None:
        if self._ending:
            raise Cancelled("The sender ends.")

    async def _work(self, work: Callable[..., object], *arguments: Any) -> None:
        """In a thread of ours: hosts that do not answer must not take everybody's."""
        await asyncio.get_running_loop().run_in_executor(self._threads, work, *arguments)

    async def _watch(self, repository: Repository) -> None:
        trouble = ""
        while True:
            least = 0.0
            try:
                await self._work(self.look, repository.key)
                trouble = ""
            except PushtrainError as error:
                least = min(error.after, _LONGEST_WISH) if isinstance(error, RateLimited) else 0.0
                if str(error) != trouble:
                    trouble = str(error)
                    log.warning("the branches of %s could not be compared: %s", repository.key, trouble)
            except Exception:
                log.exception("the branches of %s could not be compared", repository.key)
            self._first[repository.key].set()
            self._service.kept_more()
            pause = self.poll_seconds * (1 - _SPREAD + 2 * _SPREAD * self._jitter())
            await asyncio.sleep(max(pause, least))

    def look(self, key: str) -> int:
        """Compare one repository's refs with what is noted; how many pushes were found.

        Raises:
            GitError: The remote did not answer.
            StorageError: What was found could not be kept.
        """
        seen = self._service.mirror(key).ls_remote(stop=self._stop)
        waiting = {(heard.push.ref, heard.push.after) for heard in self._service.store.pending_pushes(key)}
        known = self._service.store.tips(key)  # after what waits: what was settled in between is noted here
        found = moves(key, known, seen, look=secrets.token_hex(8))
        fresh = [push for push in found.pushes if (push.ref, push.after) not in waiting]
        new = sum(self._service.hear(push, source="poll") for push in fresh)
        if found.tips:
            self._service.store.set_tips(key, found.tips)
        if _LOOKED not in known:
            log.info("%s is watched: what is pushed from now on starts its jobs", key)
        if self._rosters is not None:
            self._rosters.see(key, seen, stop=self._stop)
        return new

    async def _watch_rosters(self) -> None:
        """Look at the rosters that lie in repositories which are not watched."""
        watched = {repository.key for repository in self._service.repositories}
        while self._rosters is not None and (files := self._rosters.elsewhere(watched)):
            for file in files:
                await self._work(partial(self._rosters.refresh, file, stop=self._stop))
            self._service.kept_more()
            await asyncio.sleep(self.poll_seconds * (1 - _SPREAD + 2 * _SPREAD * self._jitter()))
