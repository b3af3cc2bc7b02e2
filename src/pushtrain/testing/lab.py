"""A simulated lab: machines with owners, and the real rules, landlord, turns and lifecycle, on one clock.

What is simulated are the world's parts: GPUs (`FakeNvml`), owners who come and go, jobs that train, save and
end. Each machine is watched by a real `Landlord` with a real `CardWatch`; whose turn it is is decided by
`core.runs.turns`, in memory or by a real `Store`; a run moves by `core.lifecycle` alone. What must never be
is checked at every step and raises AssertionError: two runs on one card, a start while its owner is there.

    lab = Lab()
    machine = lab.machine("lab-1", cards=2, rules=OwnerRules())
    machine.submit(Work(train=3600))
    lab.at(600, lambda: machine.owner_comes(0))
    lab.run(until=7200)
"""

import heapq
import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from typing import Final

from pushtrain.core.lifecycle import Event, Exited, Prepared, Requeued
from pushtrain.core.owner.lending import OwnerRules
from pushtrain.core.owner.verdict import MACHINE, Stance
from pushtrain.core.values.card import Gpu
from pushtrain.core.values.command import TrainCommand
from pushtrain.core.values.jobspec import Resources
from pushtrain.core.values.run import Run
from pushtrain.core.values.states import Reason
from pushtrain.executor.owner import landlord as landlords
from pushtrain.executor.owner.cardwatch import CardWatch
from pushtrain.executor.owner.landlord import Landlord
from pushtrain.executor.owner.lending import Holder
from pushtrain.testing import NOON, Clock, a_command, a_spec
from pushtrain.testing.labparts import (
    Desk,
    Kin,
    Library,
    Memory,
    NoMeter,
    Pause,
    Senses,
    Tally,
    Work,
    put_library,
)
from pushtrain.testing.nvml import FakeCard, FakeNvml

__all__ = ["Lab", "Machine", "Tally", "Work"]

GIB: Final = 1024**3
_GRAIN: Final = 0.001
"""Seconds by which two moments may differ and be the same."""


def _never(happened: bool, words: str) -> None:
    """What must never be."""
    if happened:
        raise AssertionError(words)


@dataclass
class Tenant:
    """An attempt on a machine."""

    run: Run
    work: Work
    pid: int
    progress: float
    """Seconds of training that a checkpoint holds."""
    began: float | None = None
    """When its training began; None: it is prepared."""
    ends: int = 0
    """Grows with each new end that is planned: an older plan is void."""
    asked_at: float | None = None
    grace: float = 0.0
    claimed_at: float = 0.0


class Lab:
    """Machines on one clock."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.tally = Tally()
        self.machines: list[Machine] = []
        self.changed: Callable[[], None] = lambda: None
        """Called when a machine may have become free."""
        self._agenda: list[tuple[float, int, Callable[[], object]]] = []
        self._numbers = count()
        self._real = put_library(None)
        put_library(self._real)

    def machine(
        self, name: str, *, cards: int, rules: OwnerRules, desk: Desk | None = None, phase: float = 0.0
    ) -> "Machine":
        """One more machine; its landlord's looks begin `phase` seconds after the lab."""
        made = Machine(self, name, cards, rules, desk or Memory(self.clock), phase)
        self.machines.append(made)
        return made

    def at(self, seconds: float, work: Callable[[], object]) -> None:
        """Do something so long after the lab's beginning."""
        heapq.heappush(self._agenda, (NOON + seconds, next(self._numbers), work))

    def later(self, seconds: float, work: Callable[[], object]) -> None:
        """Do something so long from now."""
        self.at(self.now + seconds, work)

    @property
    def now(self) -> float:
        """Seconds since the lab's beginning."""
        return self.clock() - NOON

    def run(self, until: float) -> None:
        """Let time pass."""
        while self._agenda and self._agenda[0][0] <= NOON + until + _GRAIN:
            at, _, work = heapq.heappop(self._agenda)
            self.clock.advance(max(0.0, at - self.clock()))
            work()
        self.clock.advance(max(0.0, NOON + until - self.clock()))

    def close(self) -> None:
        """Let the libraries go, and give the real one back."""
        for machine in self.machines:
            machine.cards.close()
        put_library(self._real)


class Machine:
    """One machine: cards, an owner, an executor."""

    def __init__(  # noqa: PLR0917  one call
        self, lab: Lab, name: str, cards: int, rules: OwnerRules, desk: Desk, phase: float
    ) -> None:
        self.lab = lab
        self.name = name
        self.desk = desk
        self.library = FakeNvml([FakeCard(uuid=f"GPU-{name}-{number}") for number in range(cards)])
        self.gpus = tuple(
            Gpu(uuid=card.uuid, index=index, name=card.name, memory=card.memory)
            for index, card in enumerate(self.library.cards)
        )
        self.senses = Senses()
        self.pause = Pause(lab.clock)
        self.tenants: dict[str, Tenant] = {}
        self.work: dict[str, Work] = {}
        self.progress: dict[str, float] = {}
        self._kin = Kin()
        self._pids = count(1000)
        self._owners: dict[int, float] = {}
        self._index = {gpu.uuid: gpu.index for gpu in self.gpus}
        self._paused_at = 0.0
        self._looking: float | None = None
        self._phase = phase
        self.cards = CardWatch(
            self.gpus, Library(self.library, lab.clock), NoMeter(lab.clock), kin=self._kin, clock=lab.clock
        )
        self.landlord = Landlord(
            rules,
            executor=name,
            gpus=self.gpus,
            cards=self.cards,
            presence=self.senses,
            pause=self.pause,
            holders=self.holders,
            preempt=self.preempt,
            busy=lambda: desk.waiting() > 0,
            changed=lab.changed,
            clock=lab.clock,
            minute=lambda at: int((at - NOON) // 60) % (7 * 24 * 60),
            steady=lab.clock,
        )

    # --- the owner ----------------------------------------------------------------------------------------

    def owner_comes(self, card: int, memory: int = 9 * GIB) -> None:
        """A program of the owner's takes some of a card."""
        if card not in self._owners:
            self._owners[card] = self.lab.now
        self.library.cards[card].processes[1 + card] = memory
        self._touched()

    def owner_goes(self, card: int) -> None:
        """It ends."""
        came = self._owners.pop(card, None)
        self.library.cards[card].processes.pop(1 + card, None)
        if came is not None:
            self.lab.tally.owned += self.lab.now - came
        self._touched()

    def pause_until(self, seconds: float | None) -> None:
        """`pushtrain pause` until so long after the beginning; None: `resume`."""
        self.pause.over = None if seconds is None else NOON + seconds
        self._paused_at = self.lab.now
        self._touched()

    # --- runs ---------------------------------------------------------------------------------------------

    def submit(self, work: Work, name: str = "") -> Run:
        """A run of this machine's queue."""
        job = a_spec(resources=Resources(gpus=work.gpus))
        command = a_command(job=job, request=name or f"{self.name}-{len(self.work)}")
        return self.take(command, work)

    def take(self, command: TrainCommand, work: Work, progress: float = 0.0) -> Run:
        """A run that somebody sends."""
        self.work[command.run_id] = work
        self.progress.setdefault(command.run_id, progress)
        run = self.desk.accept(command)
        self.claim()
        return run

    def holders(self) -> tuple[Holder, ...]:
        """Who holds what."""
        return tuple(
            Holder(one.run.id, one.run.attempt, "train", one.run.gpus, shim=one.pid)
            for one in self.tenants.values()
        )

    def claim(self) -> None:
        """What `Dispatch` does when it is woken."""
        while True:
            gpus, slots = self.landlord.terms().of(self.gpus, len(self.gpus))
            run = self.desk.claim(slots=slots, gpus=gpus)
            if run is None:
                break
            self._start(run)
        if self.cards.last.emptying:
            self.lab.later(landlords.SOON, self._touched)

    def preempt(self, run_id: str, *, reason: Reason, detail: str, grace: float) -> None:
        """What the landlord asks of a run."""
        _never(reason is not Reason.PREEMPTED or not detail, f"a wish without a reason: {detail!r}")
        tenant = self.tenants[run_id]
        now = self.lab.now
        if tenant.asked_at is None:
            tenant.asked_at, tenant.grace = now, grace
            for card in map(self._index.__getitem__, tenant.run.gpus):
                if card in self._owners:
                    self.lab.tally.noticed.append(now - max(self._owners[card], tenant.claimed_at))
        else:
            tenant.grace = min(tenant.grace, now + grace - tenant.asked_at)
        left = max(0.0, tenant.asked_at + tenant.grace - now)
        tenant.ends += 1
        plan, saves = tenant.ends, tenant.work.saves
        polite = saves is not None and tenant.began is not None and saves <= left
        preparing = tenant.began is None
        after = 0.1 if preparing else saves if polite and saves is not None else left
        self.lab.later(after, lambda: self._preempted(tenant, plan, saved=polite))

    def _start(self, run: Run) -> None:
        now = self.lab.now
        taken = {uuid for other in self.tenants.values() for uuid in other.run.gpus}
        _never(bool(taken & set(run.gpus)), f"two runs on one card at {now}: {run.gpus}")
        for uuid in run.gpus:
            index = self._index[uuid]
            came = self._owners.get(index, now)
            _never(now - came > landlords.AT_ONCE, f"a start while the owner is there at {now}: {uuid}")
            ours = self.library.cards[index].processes.keys() - {1 + index}
            _never(bool(ours), f"a start before the memory is back at {now}: {uuid}")
        paused = now - self._paused_at > landlords.AT_ONCE and self.pause.until() is not None
        _never(paused, f"a start during a pause at {now}")
        tenant = Tenant(run, self.work[run.id], next(self._pids), self.progress[run.id], claimed_at=now)
        self.tenants[run.id] = tenant
        self.lab.tally.attempts += 1
        self.lab.later(tenant.work.prepare, lambda: self._prepared(tenant))

    def _prepared(self, tenant: Tenant) -> None:
        if self.tenants.get(tenant.run.id) is not tenant or tenant.asked_at is not None:
            return
        tenant.run = self.desk.advance(tenant.run, Prepared())
        tenant.began = self.lab.now
        self._kin.ours.add(tenant.pid)
        for uuid in tenant.run.gpus:
            self.library.cards[self._index[uuid]].processes[tenant.pid] = 8 * GIB
        plan = tenant.ends
        self.lab.later(tenant.work.train - tenant.progress, lambda: self._finished(tenant, plan))

    def _finished(self, tenant: Tenant, plan: int) -> None:
        if self.tenants.get(tenant.run.id) is not tenant or tenant.ends != plan:
            return
        self.lab.tally.trained += (tenant.work.train - tenant.progress) * len(tenant.run.gpus)
        self.lab.tally.done += 1
        self.progress[tenant.run.id] = tenant.work.train
        self._vacate(tenant, Exited(Reason.EXITED, 0))

    def _preempted(self, tenant: Tenant, plan: int, *, saved: bool) -> None:
        if self.tenants.get(tenant.run.id) is not tenant or tenant.ends != plan:
            return
        trained = 0.0 if tenant.began is None else self.lab.now - tenant.began
        trained = min(trained, tenant.work.train - tenant.progress)
        kept = trained if saved else trained - (tenant.progress + trained) % tenant.work.every
        kept = max(0.0, kept)
        self.lab.tally.lost.append(trained - kept)
        self.lab.tally.trained += kept * len(tenant.run.gpus)
        self.progress[tenant.run.id] = tenant.progress + kept
        self._vacate(tenant, Requeued(Reason.PREEMPTED, "The owner is back."))

    def _vacate(self, tenant: Tenant, event: Event) -> None:
        """The tree is dead; the driver has its memory back a moment later."""
        del self.tenants[tenant.run.id]
        now = self.lab.now
        self.lab.tally.held += (now - tenant.claimed_at) * len(tenant.run.gpus)
        if tenant.began is not None:
            self._kin.ours.discard(tenant.pid)
            self._kin.dead.add(tenant.pid)
        self.desk.advance(tenant.run, event)
        self.lab.later(tenant.work.vacates, lambda: self._emptied(tenant))
        self.claim()
        self.lab.changed()

    def _emptied(self, tenant: Tenant) -> None:
        for card in map(self._index.__getitem__, tenant.run.gpus):
            self.library.cards[card].processes.pop(tenant.pid, None)
            if card in self._owners and tenant.asked_at is not None:
                since = max(self._owners[card], tenant.claimed_at)
                self.lab.tally.yielded.append(self.lab.now - since - tenant.grace)
        self._kin.dead.discard(tenant.pid)

    def stop_counting(self) -> None:
        """Count what runs and owners have held so far."""
        for tenant in self.tenants.values():
            self.lab.tally.held += (self.lab.now - tenant.claimed_at) * len(tenant.run.gpus)
            if tenant.began is not None:
                self.lab.tally.trained += (self.lab.now - tenant.began) * len(tenant.run.gpus)
        for came in self._owners.values():
            self.lab.tally.owned += self.lab.now - came

    # --- looking ------------------------------------------------------------------------------------------

    def _touched(self) -> None:
        """Something changed: the landlord's next turn comes when it would come."""
        pause = self._pace()
        now = self.lab.now
        due = self._phase + math.ceil((now - self._phase + _GRAIN) / pause) * pause
        if self._looking is None or due < self._looking - _GRAIN:
            self._looking = due
            self.lab.at(due, lambda: self._turn(due))

    def _pace(self) -> float:
        if self.cards.last.emptying:
            return landlords.SOON
        if self.tenants:
            return landlords.BRISK
        return landlords.WAITING if self.desk.waiting() else landlords.CALM

    def _turn(self, due: float) -> None:
        if self._looking != due:
            return
        self._looking = None
        self.lab.tally.looks += 1
        self.landlord.terms()
        self.claim()
        self._again()

    def _again(self) -> None:
        """When the landlord would next see something else though nothing happens: a settle, a window."""
        verdict = self.landlord.verdict()
        keys = (MACHINE, *self._index)
        ends = [each.until for key in keys for each in verdict.of(key) if each.until is not None]
        waits = [until - NOON - self.lab.now for until in ends if math.isfinite(until)]
        if self.cards.last.emptying:
            waits.append(landlords.SOON)
        if any(verdict.stance(key) is not Stance.LENT for key in keys) or waits:
            pause = max(landlords.SOON, min(waits, default=60.0))
            self.lab.later(pause + _GRAIN, self._touched)
