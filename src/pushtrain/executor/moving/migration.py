"""Bring the checkpoint of a run that waits again to where another executor can have it.

As soon as an attempt has ended that another one follows, and only where the job names a place. The sender
takes a run back (`release`) once its checkpoint is there, when an executor is free that could go on. What is
packed while the run waits is whole; if the run begins again meanwhile, it is dropped.

A run that has saved nothing waits for no upload: what was done of it leaves with it, in the answer itself. So
it is with every run that has saved nothing, wherever its checkpoints would go.
"""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from pushtrain.core.errors import Busy, Cancelled, Conflict, PushtrainError
from pushtrain.core.values.command import Checkpoint
from pushtrain.core.values.run import Run
from pushtrain.core.values.states import State
from pushtrain.executor.moving import luggage
from pushtrain.executor.moving.backlog import Backlog
from pushtrain.executor.results import artifacts, segments
from pushtrain.plumbing.attempts.rundir import RunDir
from pushtrain.plumbing.data.ledger import Quiet
from pushtrain.plumbing.git.mirror import Mirror
from pushtrain.plumbing.sqlite.store import Store

_log = logging.getLogger(__name__)


class Migration:
    """Checkpoints of one executor's runs, on their way.

    Args:
        store: Where runs are.
        runs: The state folder's `runs`.
        mirrors: The mirror of a repository's key.
        changed: Told the id of each run that changed.
        allowed: Raises `Quiet` at hours in which nothing leaves.
        pace: Told of each piece that goes to a store; waits until the next may.
    """

    def __init__(
        self,
        store: Store,
        runs: Path,
        mirrors: Callable[[str], Mirror],
        *,
        changed: Callable[[str], None],
        allowed: Callable[[], None] = lambda: None,
        pace: artifacts.Spend = artifacts.at_once,
    ) -> None:
        self._store = store
        self._runs = runs
        self._mirrors = mirrors
        self._changed = changed
        self._allowed = allowed
        self._pace = pace
        undone = "the checkpoint of run %s is not away yet: %s"
        self._backlog = Backlog(store, self._bring, undone=undone)

    def soon(self, run: Run) -> None:
        """An attempt of a run has ended; from any thread, and at once."""
        if run.command.job.checkpoint_to:
            self._backlog.add(run)

    def may_leave(self, run: Run) -> None:
        """See that a waiting run leaves nothing behind that it needs.

        Raises:
            Conflict: It has a checkpoint here, which does not travel.
            Busy: Its checkpoint is being brought away.
        """
        if run.state is not State.QUEUED or not _began(run):
            return
        travels = bool(run.command.job.checkpoint_to)
        if not travels and self._folder(run).checkpointed():
            raise Conflict(
                f"Run {run.short} goes on here, where its checkpoint is.",
                mend="`checkpoint_to` in pushtrain.toml lets it go on elsewhere.",
            )
        if _away(run):
            return
        if (at_once := self._at_once(run)) is None:
            raise Busy(f"The checkpoint of run {run.short} is on its way.", mend="Try again soon.")
        self._save(run, at_once)

    async def run(self) -> None:
        """Bring checkpoints away until cancelled."""
        await self._backlog.run(self._store.may_travel)

    def _bring(self, run: Run) -> None:
        if _away(run) or run.state is not State.QUEUED or not _began(run):
            return
        if (at_once := self._at_once(run)) is not None:
            self._save(run, at_once)
            return
        try:
            self._upload(run)
        except Cancelled:
            raise
        except Quiet:
            raise
        except PushtrainError as error:
            if not self._saved_nothing(run):
                raise
            _log.warning("run %s saved nothing; what it measured stays here: %s", run.short, error)
            self._save(run, _bare(run))

    def _at_once(self, run: Run) -> Checkpoint | None:
        """What a run leaves with that has nothing to be brought away; None: there is something."""
        came, folder = run.command.checkpoint, self._folder(run)
        if came is not None and not luggage.received(came, folder):
            return came  # whatever is here of it is not whole, and nothing was added
        measured = bool(run.command.job.checkpoint_to) and luggage.measured(folder)
        return _bare(run) if self._saved_nothing(run) and not measured else None

    def _saved_nothing(self, run: Run) -> bool:
        """Whether nothing was saved here, and nothing came with the run."""
        came = run.command.checkpoint
        return not (came and came.has_file) and not self._folder(run).checkpointed()

    def _upload(self, run: Run) -> None:
        self._allowed()
        stop = self._backlog.unless_stopping
        packed = luggage.pack(self._folder(run), stop=stop)
        try:
            if self._store.run(run.id).token or self._store.run(run.id).attempt != run.attempt:
                return  # it has begun again meanwhile
            where, url = luggage.bring(
                packed,
                run.command.job.checkpoint_to,
                run,
                self._mirrors(run.command.repository),
                stop=stop,
                pace=self._pace,
            )
        finally:
            packed.path.unlink(missing_ok=True)
        kind: Literal["lfs", "url"] = "lfs" if where == "lfs" else "url"
        self._save(
            run,
            Checkpoint(attempt=run.attempt, where=kind, url=url, sha256=packed.sha256, size=packed.size),
        )

    def _save(self, run: Run, checkpoint: Checkpoint) -> None:
        """Note where a checkpoint is, with the attempts that it is of."""
        told = segments.of(run, self._store.attempts(run.id))[-1000:]
        checkpoint = checkpoint.model_copy(update={"attempt": run.attempt, "segments": told})
        if self._store.save_checkpoint(run.id, checkpoint):
            _log.info("the checkpoint of run %s can be had elsewhere (%s)", run.short, checkpoint.where)
            self._changed(run.id)

    def _folder(self, run: Run) -> RunDir:
        return RunDir.of(self._runs, run.id, run.attempt)


def _bare(run: Run) -> Checkpoint:
    return Checkpoint(attempt=run.attempt, where="none")


def _away(run: Run) -> bool:
    """Whether what the last attempt has left can be had elsewhere."""
    return run.checkpoint is not None and run.checkpoint.attempt >= run.attempt


def _began(run: Run) -> bool:
    """Whether an attempt was made here since the run came, though it may have left no checkpoint."""
    return run.attempt > run.command.attempt
