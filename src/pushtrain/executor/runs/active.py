"""An attempt that this executor looks after, and what is wished of it; from any thread.

A wish is an order to the shim: on the disk before the shim is told, so that it outlives us. While there is no
shim, whoever prepares asks for it at every step; once there is one, it is told at once. Who cancels wins over
who preempts, in either order, and a shorter grace over a longer one.
"""

import threading

from pushtrain.core.values.run import Attempt, Progress, Run
from pushtrain.core.values.states import Reason
from pushtrain.executor.owner.lending import Holder
from pushtrain.executor.runs import launch
from pushtrain.executor.runs.variables import attempt_mark
from pushtrain.plumbing.attempts.records import StopOrder
from pushtrain.plumbing.attempts.rundir import RunDir


class Active:
    """An attempt that this executor looks after.

    Args:
        run: The run as it was claimed.
        attempt: What is known of the attempt.
        folder: The attempt's.
    """

    def __init__(self, run: Run, attempt: Attempt, folder: RunDir) -> None:
        self.run = run
        self.attempt = attempt
        self.folder = folder
        self.progress: Progress | None = None
        self.told_at = 0.0
        self.hooked = False
        """Whether the owner's programs have run after it."""
        self.defects = 0
        """How often writing down its end failed, other than for want of a disk."""
        self._lock = threading.Lock()
        self._order: StopOrder | None = None
        self._shim: launch.Process | None = None

    @property
    def holder(self) -> Holder:
        """What it has of this machine."""
        job = self.run.command.job
        shim = self._shim.pid if self._shim is not None else None
        part = job.resources.gpu_memory if job.resources.gpu_share else 0
        mark = attempt_mark(self.run)
        return Holder(self.run.id, self.run.attempt, job.title, self.run.gpus, part, shim, mark)

    @property
    def order(self) -> StopOrder | None:
        """What is wished of it; None: to go on."""
        return self._order

    @property
    def cancelled(self) -> bool:
        """Whether somebody wants it to end for good."""
        return self._order is not None and self._order.reason is Reason.CANCELLED

    @property
    def why(self) -> str:
        """Who wants it to end, and why."""
        return self._order.detail if self._order is not None else ""

    def stop(self, order: StopOrder) -> None:
        """End it, whatever it does. A second wish joins the first."""
        with self._lock:
            self._order = order if self._order is None else self._order.joined(order)
            self._tell()

    def cancel(self, why: str, *, grace: float) -> None:
        """End it for good."""
        self.stop(StopOrder(reason=Reason.CANCELLED, detail=why, grace=grace))

    def started(self, shim: launch.Process) -> None:
        """There is a shim now."""
        with self._lock:
            self._shim = shim
            self._tell()

    def _tell(self) -> None:
        if self._shim is not None and self._order is not None:
            launch.stop(self.folder, self._shim, self._order)
