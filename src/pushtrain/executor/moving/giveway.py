"""Have an older push's run give way to a newer one's, as `concurrency` says (`core.runs.precedence`).

The order of commits is asked of git, in the background: no caller waits for it. What was not decided yet when
the executor died is decided at its next start; deciding twice changes nothing. Where the remote does not
answer both runs stay as they are, and it is asked again.
"""

import logging
from collections.abc import Callable
from functools import partial

from pushtrain.core.errors import Conflict, StorageError
from pushtrain.core.runs.precedence import GivesWay, giving_way, group_of
from pushtrain.core.values.jobspec import Concurrency
from pushtrain.core.values.run import Run
from pushtrain.core.values.states import Reason
from pushtrain.executor.moving.backlog import Backlog
from pushtrain.executor.runs.dispatch import Dispatch
from pushtrain.plumbing.git.lineage import order
from pushtrain.plumbing.git.mirror import Mirror
from pushtrain.plumbing.sqlite.store import Store

_log = logging.getLogger(__name__)


class GiveWay:
    """Decides for the runs of one executor.

    Args:
        store: Where they are.
        dispatch: Ends them.
        mirrors: The mirror of a repository's key.
        grace: Seconds that an older run has to save where it is.
        changed: Told the id of each run that changed.
    """

    def __init__(
        self,
        store: Store,
        dispatch: Dispatch,
        mirrors: Callable[[str], Mirror],
        *,
        grace: float,
        changed: Callable[[str], None],
    ) -> None:
        self._store = store
        self._dispatch = dispatch
        self._mirrors = mirrors
        self._grace = grace
        self._changed = changed
        undone = "whether run %s gives way is not known yet: %s"
        self._backlog = Backlog(store, self._decide, undone=undone, after=self._free)

    def soon(self, run: Run) -> None:
        """A run was accepted; from any thread, and at once."""
        if run.command.job.concurrency is Concurrency.QUEUE or group_of(run.command) is None:
            return
        self._backlog.add(run)

    def ended(self) -> None:
        """A run has ended: another one's way may be free; from any thread."""
        self._backlog.wake()

    async def run(self) -> None:
        """Decide until cancelled."""
        await self._backlog.run(self._store.may_supersede)

    def _free(self) -> bool:
        """Let go on whose way is free; whether that is not known."""
        try:
            freed = self._store.free_ways()
        except StorageError as error:
            _log.warning("whose way is free is not known yet: %s", error)
            return True
        for run_id in freed:
            self._changed(run_id)
        if freed:
            self._dispatch.wake()
        return False

    def _decide(self, run: Run) -> None:
        command = run.command
        others = self._store.runs(
            repository=command.repository, ref=command.ref, job=command.job.name, limit=1000
        )
        mirror = self._mirrors(command.repository)
        stands = partial(order, mirror, command.ref, stop=self._backlog.unless_stopping)
        for one in giving_way(run, others, stands):
            self._do(one)

    def _do(self, one: GivesWay) -> None:
        older, sha = one.older, one.newer.command.commit[:7]
        _log.info("run %s gives way to a newer push, %s (%s)", older.short, sha, one.how)
        try:
            if one.how is Concurrency.CANCEL:
                why = f"a newer push, {sha}, replaces it on {older.command.ref}"
                if self._store.hand_over(older.id, why=why, other_than=older.command.ref):
                    self._changed(older.id)
                    return
                self._dispatch.cancel(older.id, by=f"a newer push, {sha}")
                return
            self._store.give_way(older.id, to=one.newer.id)
        except Conflict:
            return  # it has ended meanwhile
        why = f"A newer push, {sha}, goes first."
        self._dispatch.preempt(older.id, reason=Reason.PREEMPTED, detail=why, grace=self._grace)
        self._changed(older.id)
