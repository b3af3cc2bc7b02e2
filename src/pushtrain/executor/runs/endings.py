"""Write down how an attempt ended, and clear up after it.

Everything here may be cut short and done again: the shim's verdict stands, and what moves the run is one
transaction. Whoever cancels until then is heeded: nothing is started again that somebody has cancelled.
"""

import logging
import stat
import threading
from collections.abc import Callable
from dataclasses import replace

from pushtrain.core.errors import Cancelled, Conflict, StorageError
from pushtrain.core.lifecycle import Event, Exited, Lost, Prepared, PrepareFailed, Requeued, unless_cancelled
from pushtrain.core.runs.gpuhealth import Trouble, diagnosis
from pushtrain.core.runs.room import part
from pushtrain.core.values.run import Attempt, Run
from pushtrain.core.values.states import Reason, State
from pushtrain.executor.owner.cardwatch import Cards
from pushtrain.executor.results import segments
from pushtrain.executor.results.metrics import steps_in
from pushtrain.executor.runs import launch, verdicts
from pushtrain.executor.runs.active import Active
from pushtrain.executor.runs.prepare import time_limit
from pushtrain.executor.runs.variables import attempt_mark
from pushtrain.executor.runs.workshop import Workshop
from pushtrain.plumbing.attempts.cleanlog import clean_log
from pushtrain.plumbing.attempts.log import log_size, tail_of
from pushtrain.plumbing.attempts.rundir import RunDir
from pushtrain.plumbing.disk import reserve, shortcut
from pushtrain.plumbing.disk.files import THE_DISKS
from pushtrain.plumbing.disk.trees import open_up, remove_tree
from pushtrain.plumbing.sqlite.store import Store

_log = logging.getLogger(__name__)


class Endings:
    """How attempts of one executor end.

    Args:
        store: Where runs are.
        shop: What preparing took.
        stopping: Set when the executor stops.
        cards: What the GPUs tell at this moment.
        clock: Seconds since the epoch.
    """

    def __init__(
        self,
        store: Store,
        shop: Workshop,
        *,
        stopping: threading.Event,
        cards: Callable[[], Cards],
        clock: Callable[[], float],
    ) -> None:
        self._store = store
        self._shop = shop
        self._stopping = stopping
        self._cards = cards
        self._clock = clock

    def finish(self, active: Active) -> None:
        """Write down how an attempt ended that had a shim; clear up after a shim that was killed.

        Raises:
            StorageError: It could not be written down; try again.
        """
        run, folder = active.run, active.folder
        verdict = folder.read_verdict()
        killed = launch.clear_up(folder, attempt_mark(run)) if verdict is None else 0
        launch.settle(folder)
        self._clean(folder)
        if verdict is None:
            _log.warning("run %s was lost; %d of its processes were ended", run.short, killed)
            self.write(active, Lost("Its shim was killed, or the machine restarted; there is no verdict."))
            return
        limits = self._shop.rules.limits
        limit = limits.time if verdict.phase == "setup" else time_limit(run.command.job, limits)
        active.attempt = verdicts.with_verdict(active.attempt, verdict).model_copy(
            update={"steps": steps_in(folder.metrics, folder.root)}
        )
        event = verdicts.event_of(
            verdict, self._store.run(run.id), order=active.order, limit=limit, most=limits.time
        )
        self.write(active, self._blamed(active, event))

    def _blamed(self, active: Active, event: Event) -> Event:
        """The event that says so, where a GPU is to blame that the command failed."""
        mine = active.run.gpus
        if not mine or not isinstance(event, Exited) or event.exit_code == 0:
            return event
        if event.reason not in {Reason.EXITED, Reason.SIGNALLED}:
            return event
        cards = [card for card in self._cards().seen if card.uuid in mine]
        found = diagnosis(
            tail_of(active.folder.log),
            troubles=[Trouble(card.trouble) for card in cards if card.trouble],
            crowded=active.run.command.job.resources.gpu_share or any(card.foreign_memory for card in cards),
        )
        return event if found is None else replace(event, reason=found.reason, detail=found.words)

    def write(self, active: Active, event: Event) -> None:
        """Move the run by the event that ends its attempt.

        Raises:
            StorageError: It could not be written down; try again.
        """
        while True:
            run = self._store.run(active.run.id)
            ended = unless_cancelled(run, self._again(run, active, event))
            attempt = self._ended(active, ended)
            self._ask_hooks(active, attempt, ended)
            if isinstance(ended, Requeued):
                self._keep_metrics(active.folder)
            try:
                self._advance(active, ended, attempt)
                break
            except Conflict as error:
                if self._store.run(run.id).cancel_requested is not run.cancel_requested:
                    continue  # somebody has cancelled it at this very moment
                _log.warning("run %s went on without this attempt: %s", run.short, error)
                break
            except StorageError:
                self._make_room(active.folder)
                raise
        if isinstance(ended, Requeued):
            self._clear(active.folder)

    def give_up(self, active: Active, why: str) -> None:
        """End the run as failed without asking what it was: how its attempt ended cannot be written down.

        Raises:
            StorageError: This cannot be written down, either; try again.
        """
        launch.clear_up(active.folder, attempt_mark(active.run))
        try:
            self._clean(active.folder)
        except StorageError:
            raise
        except Exception:  # noqa: BLE001  what is not clean is not shown
            _log.exception("run %s: its log cannot be cleaned of secrets, and is removed", active.run.short)
            active.folder.log.unlink(missing_ok=True)
        run = self._store.run(active.run.id)
        told = f"How the attempt ended could not be written down: {why[:300]}"
        event: Event = PrepareFailed(Reason.INTERNAL, told)
        if run.state is State.RUNNING:
            event = Exited(Reason.INTERNAL, None, told, self._clock())
        attempt = verdicts.ended(active.attempt, event, now=self._clock(), size=0)
        try:
            self._store.advance(run.id, event, token=active.run.token, attempt=attempt)
        except Conflict as error:
            _log.warning("run %s went on without this attempt: %s", run.short, error)

    def _ended(self, active: Active, event: Event) -> Attempt:
        size = log_size(active.folder.log)
        attempt = verdicts.ended(active.attempt, event, now=self._clock(), size=size)
        share = part(active.run.command.job.resources, attempt.gpus, self._shop.gpus)
        return attempt.model_copy(update={"gpu": self._shop.meter.used(attempt, share=share)})

    def _again(self, run: Run, active: Active, event: Event) -> Event:
        """What becomes of the run where the policy starts it again."""
        earlier = segments.earlier(run, self._store.attempts(run.id))
        return verdicts.tried_again(run, event, self._ended(active, event), earlier, now=self._clock())

    def _advance(self, active: Active, event: Event, attempt: Attempt) -> None:
        run = active.run
        began = isinstance(event, Exited | Lost) or (isinstance(event, Requeued) and attempt.started_at)
        if began and self._store.run(run.id).state is State.PREPARING:
            at = attempt.started_at or attempt.claimed_at
            self._store.advance(run.id, Prepared(at), token=run.token)
        self._store.advance(run.id, event, token=run.token, attempt=attempt)

    def _clean(self, folder: RunDir) -> None:
        """Take the secrets out of a log that nobody writes to any more, before it can be published."""
        try:
            clean_log(folder.log, self._shop.vault.mask(folder))
        except StorageError:
            self._make_room(folder)
            raise

    def _ask_hooks(self, active: Active, attempt: Attempt, event: Event) -> None:
        """Run the owner's programs after an attempt, once however often writing its end down is tried."""
        if active.hooked:
            return
        rulebook = self._shop.rulebook
        rulebook.hooks.after(
            active.run, rulebook.who(active.run.sender), attempt, event, stop=self._unless_stopping
        )
        active.hooked = True

    def _unless_stopping(self) -> None:
        if self._stopping.is_set():
            raise Cancelled("The executor stops.")

    def _make_room(self, folder: RunDir) -> None:
        """The disk is full, perhaps by this very attempt: what only it needed goes, with our reserve."""
        for scratch in (folder.tmp, folder.overlay):
            remove_tree(scratch)
        reserve.give_up(self._shop.state.reserve)

    @staticmethod
    def _keep_metrics(folder: RunDir) -> None:
        """What an attempt measured joins the run's curve; its own folder goes when the next one begins.

        A job may have put anything in the file's place, and taken the right to write from its folder.
        """
        try:
            open_up(folder.job)
            if not stat.S_ISREG(folder.metrics.lstat().st_mode):
                return
            kept = folder.before / f"metrics-{int(folder.root.name):06}.jsonl"
            kept.parent.mkdir(exist_ok=True)
            folder.metrics.rename(kept)
        except FileNotFoundError:
            return
        except OSError as error:
            if error.errno in THE_DISKS:  # whatever else is wrong with what a job has left stays so
                raise
            _log.warning("the metrics in %s do not join the run's curve: %s", folder.root, error)

    @staticmethod
    def _clear(folder: RunDir) -> None:
        """What only served an attempt that another one follows; what it measured stays for the report."""
        shortcut.remove(folder.tmp)
        for scratch in (folder.tree, folder.tmp, folder.overlay, folder.results):
            remove_tree(scratch)
