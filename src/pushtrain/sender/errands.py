"""One command and one executor: handed over or called back, and what came of it noted on the disk.

What is done is written down before the next step, so whoever does it may die anywhere. Every method may be
called from any thread; `deliver` and `recall` take as long as the executor's answer.
"""

import logging
from collections.abc import Callable
from typing import Any, Final

from pushtrain.core.errors import Busy, Conflict, NotFound, PushtrainError, Unreachable
from pushtrain.core.lifecycle import next_attempt
from pushtrain.core.values.command import TrainCommand
from pushtrain.core.values.states import State
from pushtrain.plumbing.sqlite.outbox import Outgoing
from pushtrain.plumbing.sqlite.store import Store
from pushtrain.sender.board import Board
from pushtrain.sender.delivery import for_good
from pushtrain.sender.kept import KeptCommands

log = logging.getLogger(__name__)

FIRST_PAUSE: Final = 0.5
LONGEST_PAUSE: Final = 60.0
_REFUSED_FOR: Final = 3600.0
"""Seconds after which an executor is offered again what it has refused: its owner may have thought better."""


class Errands:
    """What is done with commands at executors.

    Args:
        store: Where commands are kept.
        board: What is known of executors; told what they answer.
        kept: What `pushtrain send` has written down, where somebody may send by hand.
        clock: Seconds since the epoch.
        jitter: A number from 0 to 1; spreads retries.
    """

    def __init__(
        self,
        store: Store,
        board: Board,
        *,
        kept: KeptCommands | None,
        clock: Callable[[], float],
        jitter: Callable[[], float],
    ) -> None:
        self._store = store
        self._board = board
        self._kept = kept
        self._clock = clock
        self._jitter = jitter
        self._refused: dict[str, dict[str, tuple[str, float]]] = {}

    def refused(self) -> dict[str, frozenset[str]]:
        """By run: the executors that refused it for good, within the last hour.

        Also while another one has it: who has refused a run that waits there would be taken for one that is
        free for it, and it would be recalled for ever.
        """
        now, found = self._clock(), dict[str, frozenset[str]]()
        for run_id, by in self._refused.copy().items():
            still = frozenset(name for name, (_, at) in by.copy().items() if 0 <= now - at < _REFUSED_FOR)
            if still:
                found[run_id] = still
            else:
                self._refused.pop(run_id, None)
        return found

    def refusal(self, run_id: str) -> str:
        """Why a run was refused by whoever refused it first; from now on nobody has."""
        return next(iter(self._refused.pop(run_id).values()))[0]

    def deliver(self, out: Outgoing, name: str) -> None:
        """Hand a command over, and note what came of it."""
        executor = self._board.executor(name)
        if executor is None:
            return
        if out.executor != name and not self._place(out, name):
            return
        self._board.sent(name, out.command)
        try:
            run = executor.send(out.command)
        except PushtrainError as error:
            self._undelivered(out, name, error)
            return
        self._board.accepted(name, out.command, run.updated_at)
        self._store.outbox_delivered(out.run_id, accepted_at=run.updated_at)
        if run.state not in {State.QUEUED, State.PREPARING}:  # what is prepared may yet wait again
            self._store.outbox_started(out.run_id)
            self._refused.pop(out.run_id, None)
        log.info("run %s (%s) is with %s", out.run_id[:8], out.command.job.title, executor.url)

    def _place(self, out: Outgoing, name: str) -> bool:
        """Write down who gets a command; not if it was dropped, or a `send` gives it to another one."""
        if self._kept is None:
            return self._store.outbox_place(out.run_id, name)
        with self._kept.alone(out.run_id, wait=False) as alone:
            theirs = self._kept.executor_of(out.run_id) if alone else ""
            if alone and theirs in {"", name}:
                return self._store.outbox_place(out.run_id, name)
            again = self._clock() + (0.0 if alone else FIRST_PAUSE)
            self._store.outbox_retry(out.run_id, "a `pushtrain send` hands it over", again, executor=theirs)
        return False

    def _undelivered(self, out: Outgoing, name: str, error: PushtrainError) -> None:
        never_sent = isinstance(error, Unreachable) and not error.sent and not out.executor
        if isinstance(error, Busy):
            self._board.full(name, error.message)
        elif isinstance(error, Unreachable):
            self._board.failed(name, error.message)
        elif for_good(error):
            self._refused.setdefault(out.run_id, {})[name] = str(error), self._clock()
        if never_sent or for_good(error):
            self._board.not_sent(name, out.run_id)
            self._store.outbox_retry(out.run_id, str(error), 0.0, executor="")
        else:
            self._retry(out, error)

    def recall(self, out: Outgoing, name: str) -> None:
        """Ask for a run that waits at an executor; only its signed answer sets it free for another."""
        executor = self._board.executor(name)
        if executor is None:
            return
        first = out.state == "delivered"
        if first:
            self._store.outbox_recall(out.run_id)
        try:
            released = executor.release(out.run_id, out.command.attempt)
            attempt, checkpoint = next_attempt(released), released.checkpoint or out.command.checkpoint
        except NotFound:
            attempt, checkpoint = out.command.attempt + 1, out.command.checkpoint
        except PushtrainError as error:
            if isinstance(error, Conflict) or (first and for_good(error) and not isinstance(error, Busy)):
                self._store.outbox_started(out.run_id)
                self._board.not_sent(name, out.run_id)
                return
            if isinstance(error, Unreachable):
                self._board.failed(name, error.message)
            self._retry(out, error, heard=isinstance(error, Busy))
            return
        command = again(out.command, attempt, checkpoint=checkpoint)
        self._store.outbox_moved(command, f"it was recalled from {executor.url}")
        self._board.not_sent(name, out.run_id)
        log.info("run %s was recalled from %s", out.run_id[:8], executor.url)

    def _retry(self, out: Outgoing, error: PushtrainError, *, heard: bool = False) -> None:
        """To the same executor, later; `heard`: it has the run, and answers."""
        pause = min(LONGEST_PAUSE, FIRST_PAUSE * 2.0 ** min(out.tries, 10)) * (0.75 + 0.5 * self._jitter())
        self._store.outbox_retry(out.run_id, str(error), self._clock() + pause, heard=heard)


def again(command: TrainCommand, attempt: int, **changes: Any) -> TrainCommand:
    """The command for the run's next executor."""
    return command.model_copy(update={"attempt": attempt, **changes})
