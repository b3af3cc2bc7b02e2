"""Bring the checkpoint of a run that waits again to where another executor can have it.

As soon as an attempt has ended that another one follows, and only where the job names a place. The sender
takes a run back (`release`) once its checkpoint is there, when an executor is free that could go on. What is
packed while the run waits is whole; if the run begins again meanwhile, it is dropped.
"""

import asyncio
import contextlib
import logging
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Final, Literal

from pushtrain.core.errors import Busy, Conflict, NotFound, PushtrainError
from pushtrain.core.model import Checkpoint, Run, State
from pushtrain.executor import luggage, segments
from pushtrain.plumbing.git import Mirror
from pushtrain.plumbing.rundir import RunDir
from pushtrain.plumbing.store import Store

_log = logging.getLogger(__name__)

_PAUSE: Final = 30.0
_MOST: Final = 10_000


class Migration:
    """Checkpoints of one executor's runs, on their way.

    Args:
        store: Where runs are.
        runs: The state folder's `runs`.
        mirrors: The mirror of a repository's key.
        changed: Told the id of each run that changed.
    """

    def __init__(
        self,
        store: Store,
        runs: Path,
        mirrors: Callable[[str], Mirror],
        *,
        changed: Callable[[str], None],
    ) -> None:
        self._store = store
        self._runs = runs
        self._mirrors = mirrors
        self._changed = changed
        self._guard = threading.Lock()
        self._new: set[str] = set()
        self._wake = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None

    def soon(self, run: Run) -> None:
        """An attempt of a run has ended; from any thread, and at once."""
        if not run.command.job.checkpoint_to:
            return
        with self._guard:
            self._new.add(run.id)
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # the loop has ended, and we with it
                self._loop.call_soon_threadsafe(self._wake.set)

    def may_leave(self, run: Run) -> None:
        """See that a waiting run leaves nothing behind that it needs.

        Raises:
            Conflict: It has a checkpoint here, which does not travel.
            Busy: Its checkpoint is being brought away.
        """
        if run.state is not State.QUEUED or not self._has_checkpoint(run):
            return
        if not run.command.job.checkpoint_to:
            raise Conflict(
                f"Run {run.short} goes on here, where its checkpoint is.",
                mend="`checkpoint_to` in pushtrain.toml lets it go on elsewhere.",
            )
        if run.checkpoint is None or run.checkpoint.attempt < run.attempt:
            raise Busy(f"The checkpoint of run {run.short} is on its way.", mend="Try again soon.")

    async def run(self) -> None:
        """Bring checkpoints away until cancelled."""
        self._loop = asyncio.get_running_loop()
        for run in await asyncio.to_thread(self._store.runs, states=(State.QUEUED,), limit=_MOST):
            self.soon(run)
        while True:
            self._wake.clear()
            left = await asyncio.to_thread(self._look)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_PAUSE if left else None):
                    await self._wake.wait()

    def _look(self) -> bool:
        """Bring away what has to be; whether something is left."""
        with self._guard:
            new, self._new = self._new, set()
        left: set[str] = set()
        for run_id in new:
            try:
                self._bring(self._store.run(run_id))
            except NotFound:
                continue
            except (PushtrainError, OSError) as error:
                _log.warning("the checkpoint of run %s is not away yet: %s", run_id[:8], error)
                left.add(run_id)
        with self._guard:
            self._new |= left
        return bool(left)

    def _bring(self, run: Run) -> None:
        done = run.checkpoint is not None and run.checkpoint.attempt >= run.attempt
        if done or run.state is not State.QUEUED or not self._has_checkpoint(run):
            return
        packed = luggage.pack(self._folder(run))
        try:
            if self._store.run(run.id).token or self._store.run(run.id).attempt != run.attempt:
                return  # it has begun again meanwhile
            where, url = luggage.bring(
                packed, run.command.job.checkpoint_to, run, self._mirrors(run.command.repository)
            )
        finally:
            packed.path.unlink(missing_ok=True)
        kind: Literal["lfs", "url"] = "lfs" if where == "lfs" else "url"
        checkpoint = Checkpoint(
            attempt=run.attempt,
            where=kind,
            url=url,
            sha256=packed.sha256,
            size=packed.size,
            segments=segments.of(run, self._store.attempts(run.id))[-1000:],
        )
        if self._store.save_checkpoint(run.id, checkpoint):
            _log.info("the checkpoint of run %s can be had elsewhere (%s)", run.short, where)
            self._changed(run.id)

    def _has_checkpoint(self, run: Run) -> bool:
        here = run.attempt > run.command.attempt
        return here and self._folder(run).checkpointed()

    def _folder(self, run: Run) -> RunDir:
        return RunDir.of(self._runs, run.id, run.attempt)
