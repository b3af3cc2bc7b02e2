"""Take up again what was active when the executor stopped or died; there is no other start-up.

A held lock means that the shim lives and is watched again, a verdict that it ended, a start without either
that it was lost, and neither lock nor start that it never began and waits anew. An order to stop lies beside
the shim's records, and is given again: the shim may have missed it.
"""

import asyncio
from typing import Final

from pushtrain.core.lifecycle import Cancelled, Event, Prepared, Requeued
from pushtrain.core.values.run import Progress, Run
from pushtrain.core.values.states import Reason, Stage, State
from pushtrain.executor.runs import launch
from pushtrain.executor.runs.active import Active
from pushtrain.plumbing.attempts.records import StopOrder
from pushtrain.plumbing.attempts.rundir import held
from pushtrain.plumbing.sqlite.store import Store

_SOON: Final = 0.02


def recall(store: Store, active: Active, *, grace: float) -> Event | None:
    """What becomes of an active run at once; None when its attempt had begun and is seen through.

    Args:
        store: Where it is.
        active: The run as it was found, with its last attempt.
        grace: Seconds, where a wish to stop it came without.

    Raises:
        StorageError: It could not be written down; try again.
    """
    run, folder = active.run, active.folder
    if run.state is State.PREPARING:
        if not (held(folder.lock) or folder.started.exists()):
            return _anew(run)
        started = folder.read_started()
        store.advance(run.id, Prepared(started.at if started else None), token=run.token)
    active.progress = Progress(stage=Stage.TRAIN)
    if (order := folder.read_stop()) is not None:
        active.stop(order)
    if run.cancel_requested:
        active.cancel("Cancelled while the executor was away.", grace=grace)
    elif run.preempt_requested and order is None:
        active.stop(StopOrder(reason=Reason.PREEMPTED, detail=_WANTED, grace=grace))
    return None


async def adopt(active: Active) -> launch.Process | None:
    """The living shim of an attempt; None when it is dead. One that is just starting is waited for."""
    folder = active.folder
    while held(folder.lock):
        shim = launch.find(folder)
        if shim is not None:
            active.started(shim)
            return shim
        await asyncio.sleep(_SOON)
    return None


_WANTED: Final = "The machine was wanted for something else."


def _anew(run: Run) -> Event:
    """What becomes of a run whose preparation was cut short."""
    if run.cancel_requested:
        return Cancelled("Cancelled while it was prepared.")
    if run.preempt_requested:
        return Requeued(Reason.PREEMPTED, _WANTED)
    return Requeued(Reason.INTERRUPTED, "The executor stopped while it prepared the run.")
