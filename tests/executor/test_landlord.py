"""The landlord with real rules, cards and processes, on its own clock; the driver's library is a fake."""

import asyncio
import contextlib
import math
import os
import subprocess
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pushtrain.core.owner.lending import OwnerRules
from pushtrain.core.owner.verdict import Why
from pushtrain.core.values.jobspec import Resources
from pushtrain.core.values.states import Reason
from pushtrain.executor.owner import landlord as module
from pushtrain.executor.owner.cardwatch import CardWatch
from pushtrain.executor.owner.landlord import Landlord
from pushtrain.executor.owner.lending import Holder, Terms
from pushtrain.executor.owner.meter import Meter
from pushtrain.executor.owner.ownerscreen import OwnerScreen
from pushtrain.plumbing.disk.lock import FolderLock
from pushtrain.plumbing.machine import gpu
from pushtrain.plumbing.machine.energy import EnergyDay
from pushtrain.plumbing.machine.gpu import Sampler, inventory
from pushtrain.plumbing.owner import standing
from pushtrain.plumbing.owner.pause import PauseFile
from pushtrain.plumbing.owner.presence import Signals
from pushtrain.plumbing.programs import proc
from pushtrain.testing import Clock, eventually
from pushtrain.testing.nvml import FakeCard, FakeNvml

GB = 10**9
GONE = 2**22 + 7
"""A pid that no process has."""


@pytest.fixture(scope="module")
def people() -> Iterator[tuple[int, int]]:
    """The pids of a process of the owner's, and of one of ours, as a container has it."""
    argv, mark = ("sleep", "600"), {proc.ATTEMPT_MARK: "run-1"}
    both = (subprocess.Popen(argv), subprocess.Popen(argv, env={**os.environ, **mark}))
    yield both[0].pid, both[1].pid
    for one in both:
        one.kill()
        one.wait()


class Senses:
    """Signals as a test wants them."""

    def __init__(self) -> None:
        self.signals = Signals(idle=math.inf)
        self.closed = False

    def latest(self, within: float, *, calm: bool = False) -> Signals:
        del within, calm
        return self.signals

    def look(self, *, calm: bool = False, fresh: bool = False) -> Signals:
        del calm, fresh
        return self.signals

    def close(self) -> None:
        self.closed = True


class Estate:
    """A machine with two cards, its landlord, and what that asks of runs."""

    def __init__(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch, people: tuple[int, int], **rules: Any
    ) -> None:
        self.owners, self.ours = people
        self.library = FakeNvml([FakeCard(memory=24 * GB), FakeCard(memory=24 * GB)])
        monkeypatch.setattr(gpu, "pynvml", self.library)
        monkeypatch.setattr("pushtrain.executor.owner.cardwatch.numbers_are_the_machines", lambda: True)
        self.clock = Clock()
        self.gpus = inventory()
        self.holders: list[Holder] = []
        self.asked: list[tuple[str, str, float]] = []
        self.changes = 0
        self.waiting = 0
        self.senses = Senses()
        self.pause = PauseFile(folder / "pause", clock=self.clock)
        self.energy = EnergyDay(folder / "energy", clock=self.clock)
        self.meter = Meter(folder / "runs", self.energy, clock=self.clock)
        self.cards = CardWatch(self.gpus, Sampler(clock=self.clock), self.meter, clock=self.clock)
        self.screen = folder / "standing"
        shown = OwnerScreen(
            self.screen,
            executor="lab-3",
            gpus=self.gpus,
            waiting=lambda: self.waiting,
            kwh=self.cards.kwh,
        )
        self.landlord = Landlord(
            OwnerRules(**{"settle": 0, **rules}),
            executor="lab-3",
            gpus=self.gpus,
            cards=self.cards,
            presence=self.senses,
            pause=self.pause,
            holders=lambda: tuple(self.holders),
            preempt=self.preempt,
            busy=lambda: self.waiting > 0,
            changed=self.changed,
            show=shown.show,
            clock=self.clock,
            minute=lambda _: 0,
            steady=self.clock,
        )

    def owner(self, card: int, memory: int) -> None:
        """The owner's program has this much of a card."""
        self.library.cards[card].processes[self.owners] = memory

    def run_ends(self, card: int, memory: int = 8 * GB) -> None:
        """The tree is gone; the driver still tells of it."""
        self.holders.clear()
        self.library.cards[card].processes = {GONE: memory}

    def preempt(self, run_id: str, *, reason: Reason, detail: str, grace: float) -> None:
        assert reason is Reason.PREEMPTED
        self.asked.append((run_id, detail, grace))

    def changed(self) -> None:
        self.changes += 1

    def look(self, after: float = 2.0) -> Terms:
        self.clock.advance(after)
        return self.landlord.terms()

    def lend(self, *cards: int, run: str = "run-1", memory: int = 8 * GB, attempt: int = 1) -> Holder:
        uuids = tuple(self.gpus[index].uuid for index in cards)
        holder = Holder(run, attempt, "train", uuids, shim=4242, mark="run-1")
        self.holders.append(holder)
        for index in cards:
            self.library.cards[index].processes[self.ours] = memory
        return holder

    def uuid(self, index: int) -> str:
        return self.gpus[index].uuid


@pytest.fixture
def an_estate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, people: tuple[int, int]
) -> Iterator[Callable[..., Estate]]:
    made: list[Estate] = []

    def make(**rules: Any) -> Estate:
        made.append(Estate(tmp_path, monkeypatch, people, **rules))
        return made[-1]

    yield make
    for one in made:
        one.cards.close()


@pytest.fixture
def estate(an_estate: Callable[..., Estate]) -> Estate:
    return an_estate()


# --- what may start ---------------------------------------------------------------------------------------


def test_a_machine_that_nobody_uses_is_lent(estate: Estate) -> None:
    assert estate.look() == Terms()
    assert estate.landlord.why(Resources(gpus=2)) == ""
    assert estate.landlord.stands() == ""


def test_nothing_starts_on_a_card_that_the_owner_uses_and_borrowers_read_why(estate: Estate) -> None:
    estate.owner(0, 9 * GB)
    assert estate.look() == Terms(kept=frozenset({estate.uuid(0)}))
    assert estate.landlord.why(Resources(gpus=2)) == "lab-3 waits: the owner is using GPU 0 (9 GB)"
    assert estate.landlord.why(Resources(gpus=1)) == ""
    assert estate.landlord.why(Resources()) == ""
    assert estate.landlord.stands() == "the owner is using GPU 0 (9 GB)"


def test_a_claim_never_goes_by_an_older_look(estate: Estate) -> None:
    assert estate.look() == Terms()
    estate.owner(0, 9 * GB)
    estate.clock.advance(1)
    assert (
        estate.landlord.terms(within=module.BRISK) == Terms()
    )  # as of a second ago; nothing is claimed by it
    assert estate.landlord.terms().kept == {estate.uuid(0)}


def test_a_claim_looks_for_itself_when_a_run_has_ended(estate: Estate) -> None:
    estate.lend(0)
    estate.look()
    estate.library.cards[0].processes = {estate.owners: 9 * GB}
    estate.holders.clear()
    assert estate.look(after=0.01).kept == {estate.uuid(0)}


def test_a_pause_lets_nothing_start_and_takes_everything_back(estate: Estate) -> None:
    estate.lend(0)
    estate.holders.append(Holder("cpu", 1, "sum"))
    estate.pause.pause(7200)
    assert not estate.look().starts
    assert [one[0] for one in estate.asked] == ["run-1", "cpu"]
    assert estate.asked[0][1:] == ("The owner has paused lending.", 30)
    assert estate.landlord.why(Resources()) == "lab-3 waits: the owner has paused lending"
    estate.clock.advance(7200)
    assert estate.look().starts


def test_readers_are_told_when_it_changes_and_only_then(estate: Estate) -> None:
    estate.look()
    before = estate.changes
    estate.look()
    estate.owner(0, 9 * GB)
    estate.look()
    for size in range(10, 20):  # amounts go up and down all the time
        estate.owner(0, size * GB)
        estate.look()
    assert estate.changes == before + 1
    estate.library.cards[0].processes.clear()
    estate.look()
    assert estate.changes == before + 2


def test_what_cannot_be_seen_lets_nothing_start(an_estate: Callable[..., Estate]) -> None:
    estate = an_estate(idle=600)
    estate.senses.signals = Signals(idle=None)
    assert not estate.look().starts
    estate.senses.signals = Signals(idle=700.0)
    assert estate.look().starts


def test_on_wsl_only_stated_hours_lend_without_windows(an_estate: Callable[..., Estate]) -> None:
    estate = an_estate()
    for card in estate.library.cards:
        card.told = False
    estate.senses.signals = Signals(idle=None)
    assert not estate.look().starts
    assert estate.landlord.why(Resources()).endswith("it cannot tell whether its owner is there")
    estate.senses.signals = Signals(idle=700.0)
    assert estate.look().starts
    estate.holders.append(Holder("run-1", 1, "train", (estate.uuid(0),), shim=4242, mark="run-1"))
    estate.senses.signals = Signals(idle=3.0)
    estate.look()
    assert estate.asked == [("run-1", "The owner is working at it.", 30)]


# --- the ladder -------------------------------------------------------------------------------------------


def test_a_run_is_asked_once_and_with_the_grace(estate: Estate) -> None:
    estate.lend(0)
    estate.lend(1, run="run-2")
    estate.look()
    assert estate.asked == []
    estate.owner(0, 9 * GB)
    for _ in range(5):
        estate.look()
    assert estate.asked == [("run-1", "The owner is using GPU 0 (9 GB).", 30)]


def test_a_grace_ends_at_once_when_the_owner_runs_out_of_memory(estate: Estate) -> None:
    estate.lend(0)
    estate.look()
    estate.owner(0, 9 * GB)
    estate.look()
    estate.owner(0, int(15.5 * GB))
    estate.look()
    estate.look()
    assert [grace for *_, grace in estate.asked] == [30, 0]


def test_a_program_that_finds_no_memory_beside_a_run_ends_it_at_once(estate: Estate) -> None:
    """It holds its context and no more: what it asks for next is refused to it."""
    estate.lend(0, memory=23_500 * 10**6)
    estate.look()
    estate.owner(0, 300 * 10**6)
    estate.look()
    assert estate.asked == [("run-1", "The owner is using GPU 0 (0.3 GB).", 0.0)]


def test_what_was_there_before_a_run_and_what_only_draws_may_stay_beside_it(estate: Estate) -> None:
    estate.owner(0, 300 * 10**6)
    estate.look()
    estate.lend(0, 1, memory=23_500 * 10**6)
    estate.look()
    estate.library.cards[1].drawing[estate.owners] = 300 * 10**6  # somebody logs in
    estate.look()
    assert estate.asked == []
    del estate.library.cards[0].processes[estate.owners]
    estate.look()
    estate.owner(0, 300 * 10**6)  # started anew
    estate.look()
    assert [grace for _, _, grace in estate.asked] == [0.0]


def test_a_program_whose_memory_is_not_told_is_seen_beside_a_run(estate: Estate) -> None:
    estate.lend(0)
    estate.look()
    estate.library.cards[0].processes[estate.owners] = None
    estate.library.cards[0].reserved = 2 * GB
    estate.look()
    assert estate.asked == [("run-1", "The owner is using GPU 0 (2 GB).", 30)]


def test_a_run_with_several_cards_is_asked_once(estate: Estate) -> None:
    estate.lend(0, 1)
    estate.look()
    estate.owner(0, 9 * GB)
    estate.owner(1, 9 * GB)
    estate.look()
    assert len(estate.asked) == 1


def test_its_next_attempt_can_be_asked_again(estate: Estate) -> None:
    first = estate.lend(0)
    estate.owner(0, 9 * GB)
    estate.look()
    estate.holders = [replace(first, attempt=2)]
    estate.look()
    assert len(estate.asked) == 2


def test_a_run_that_is_being_prepared_is_asked_too(estate: Estate) -> None:
    estate.holders.append(Holder("run-1", 1, "train", (estate.uuid(0),)))
    estate.owner(0, 9 * GB)
    estate.look()
    assert [one[0] for one in estate.asked] == ["run-1"]


def test_our_own_use_of_a_card_is_no_owner(estate: Estate) -> None:
    estate.lend(0, memory=20 * GB)
    estate.library.cards[0].utilization = 100
    estate.look()
    assert estate.asked == []
    assert estate.landlord.stands() == ""


def test_a_program_of_the_owners_that_computes_much_and_holds_little_is_seen_beside_a_run(
    estate: Estate,
) -> None:
    """A video or a page with 3D: far less memory than counts, and half of the card's time."""
    estate.lend(0, memory=20 * GB)
    estate.owner(0, GB // 4)
    card = estate.library.cards[0]
    card.utilization, card.busy = 100, {estate.ours: 60, estate.owners: 20}
    estate.look()
    assert estate.asked == [], "no more than a desktop"
    card.busy = {estate.ours: 50, estate.owners: 50}
    estate.look()
    assert estate.asked == [("run-1", "The owner is using GPU 0.", 30)]


def test_a_run_that_still_holds_its_card_long_after_its_grace_is_told_of_once(
    estate: Estate, caplog: pytest.LogCaptureFixture
) -> None:
    estate.lend(0)
    estate.owner(0, 9 * GB)
    for _ in range(40):
        estate.look()
    assert len([one for one in caplog.records if "still holds" in one.message]) == 1


# --- memory and trouble -----------------------------------------------------------------------------------


def test_a_card_is_given_to_nobody_before_its_memory_is_back(estate: Estate) -> None:
    estate.lend(0)
    estate.look()
    estate.run_ends(0)
    estate.library.cards[0].utilization = 90
    assert estate.look(after=0.1).kept == {estate.uuid(0)}
    assert estate.landlord.stands() == ""  # nobody is there: it is on its way back
    estate.library.cards[0].processes.clear()
    assert estate.look(after=2) == Terms()


def test_memory_that_is_not_back_within_a_second_is_trouble(
    estate: Estate, caplog: pytest.LogCaptureFixture
) -> None:
    estate.lend(0)
    estate.look()
    estate.run_ends(0)
    estate.look(after=0.1)
    estate.look(after=1.3)
    assert estate.landlord.stands() == "GPU 0 is out of order (memory-held)"
    assert [one.message for one in caplog.records] == ["GPU 0 is out of order (memory-held)"]
    estate.library.cards[0].processes.clear()
    assert estate.look() == Terms()
    assert caplog.records[-1].message == "GPU 0 is in order again"


def test_memory_that_nobody_ever_held_is_trouble_too(estate: Estate) -> None:
    estate.library.cards[1].reserved = 9 * GB
    estate.look()
    assert estate.look().kept == {estate.uuid(1)}
    assert estate.landlord.verdict().of(estate.uuid(1))[0].why is Why.TROUBLE


def test_new_errors_of_its_memory_are_trouble_and_old_ones_are_not(estate: Estate) -> None:
    estate.library.cards[0].memory_errors = 3
    assert estate.look() == Terms()
    estate.library.cards[0].memory_errors = 4
    assert estate.look().kept == {estate.uuid(0)}


def test_a_sleeping_card_is_not_woken_to_be_watched(estate: Estate, tmp_path: Path) -> None:
    for card in estate.library.cards:
        folder = tmp_path / "pci" / card.bus.lower()[4:] / "power"
        folder.mkdir(parents=True)
        (folder / "runtime_status").write_text("active\n")
        (folder / "control").write_text("auto\n")
    cards = CardWatch(
        estate.gpus, Sampler(pci=tmp_path / "pci", clock=estate.clock), estate.meter, clock=estate.clock
    )
    cards.look(())
    assert estate.library.attached
    for card in estate.library.cards:
        (tmp_path / "pci" / card.bus.lower()[4:] / "power" / "runtime_status").write_text("suspended\n")
    estate.library.attached.clear()
    found = cards.look(())
    assert estate.library.attached == []
    assert estate.library.sessions == 0
    assert all(card.asleep for card in found.seen)


def test_a_library_that_breaks_lets_nothing_start(
    estate: Estate, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    estate.look()

    def broken(_: object) -> None:
        raise RuntimeError("the driver is gone")

    monkeypatch.setattr(Sampler, "sample", broken)
    assert estate.landlord._step() == module.BRISK
    assert not estate.landlord._terms.starts
    assert "could not be looked at" in caplog.text


def test_a_library_that_breaks_lets_nothing_be_claimed_and_is_told_of_once(
    estate: Estate, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("the driver is gone")

    with monkeypatch.context() as patch:
        patch.setattr(Sampler, "sample", broken)
        for _ in range(3):
            assert not estate.look().starts
    assert len(caplog.records) == 1
    assert estate.look() == Terms()


def test_a_driver_that_hangs_lets_nothing_start_and_holds_up_nobody(
    estate: Estate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_PATIENCE", 0.05)
    hangs, goes_on = threading.Event(), threading.Event()
    real = Sampler.sample

    def hanging(sampler: Sampler, **how: Any) -> Any:
        hangs.set()
        goes_on.wait(20)
        return real(sampler, **how)

    monkeypatch.setattr(Sampler, "sample", hanging)
    stuck = threading.Thread(target=estate.look)
    stuck.start()
    assert hangs.wait(20)
    assert not estate.look().starts
    goes_on.set()
    stuck.join()
    assert estate.look() == Terms()


def test_a_run_that_could_not_be_asked_is_asked_again_and_the_others_are_too(
    estate: Estate, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(run_id: str, **_: object) -> None:
        raise RuntimeError(run_id)

    estate.lend(0)
    estate.lend(1, run="run-2")
    estate.look()
    estate.owner(0, 9 * GB)
    estate.owner(1, 9 * GB)
    with monkeypatch.context() as patch:
        patch.setattr(estate.landlord, "_preempt", broken)
        estate.look()
    estate.look()
    assert [run for run, *_ in estate.asked] == ["run-1", "run-2"]


def test_a_screen_that_fails_keeps_no_owner_waiting(estate: Estate, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise OSError("no space")

    monkeypatch.setattr(estate.landlord, "_show", broken)
    estate.lend(0)
    estate.owner(0, 9 * GB)
    assert estate.look().kept == {estate.uuid(0)}
    assert len(estate.asked) == 1


# --- pace and energy --------------------------------------------------------------------------------------


def test_looks_are_brisk_while_runs_hold_or_wait_and_rare_else(estate: Estate) -> None:
    assert module.BRISK <= 2
    step = estate.landlord._step
    assert step() == module.CALM
    estate.waiting = 1
    assert step() == module.WAITING
    estate.waiting = 0
    estate.lend(0)
    assert step() == module.BRISK


def test_looks_that_are_dear_are_rare_while_nothing_hangs_on_them(
    estate: Estate, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A laptop's card takes 20 ms a look, as the library is let go after each."""
    spent = iter(range(10**6))
    monkeypatch.setattr("time.thread_time", lambda: next(spent) * 0.02)
    estate.waiting = 1
    assert estate.landlord._step() == pytest.approx(10)
    estate.lend(0)
    assert estate.landlord._step() == module.BRISK


@pytest.mark.parametrize("found_again", [False, True])
def test_a_run_that_starts_while_looks_are_rare_is_watched_at_once(
    estate: Estate, monkeypatch: pytest.MonkeyPatch, *, found_again: bool
) -> None:
    monkeypatch.setattr(module, "BRISK", 0.05)
    monkeypatch.setattr(module, "CALM", 600.0)

    async def story() -> None:
        task = asyncio.create_task(estate.landlord.run())
        await eventually(lambda: estate.landlord.verdict().at)
        await asyncio.sleep(0)
        estate.lend(0)
        if not found_again:  # whoever claims asks, before and after it; whoever finds a run again does not
            await asyncio.to_thread(estate.landlord.terms)
        estate.owner(0, 9 * GB)
        await eventually(lambda: estate.asked)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task

    asyncio.run(story())


def test_a_pause_and_its_end_are_seen_at_once_though_looks_are_rare(
    estate: Estate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "BRISK", 0.02)
    monkeypatch.setattr(module, "CALM", 600.0)

    async def story() -> None:
        task = asyncio.create_task(estate.landlord.run())
        await eventually(lambda: estate.landlord.verdict().at)
        estate.pause.pause(None)
        await eventually(lambda: not estate.landlord.verdict().lent)
        estate.pause.resume()
        await eventually(lambda: estate.landlord.verdict().lent)
        estate.pause.pause(60)
        await eventually(lambda: not estate.landlord.verdict().lent)
        estate.clock.advance(61)
        await eventually(lambda: estate.landlord.verdict().lent)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task

    asyncio.run(story())


def test_threads_that_all_wait_for_a_network_do_not_delay_the_owner(
    estate: Estate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "BRISK", 0.02)
    over = threading.Event()

    async def story() -> None:
        loop = asyncio.get_running_loop()
        loop.set_default_executor(ThreadPoolExecutor(1))
        waiting = loop.run_in_executor(None, over.wait, 60)
        task = asyncio.create_task(estate.landlord.run())
        try:
            await eventually(lambda: estate.landlord.verdict().at, 10)
            estate.pause.pause(None)
            await eventually(lambda: not estate.landlord.verdict().lent, 10)
        finally:
            over.set()
            await waiting
            task.cancel()
            await asyncio.wait([task])

    asyncio.run(story())


def test_nothing_looks_any_more_once_the_executor_has_ended(
    estate: Estate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CALM", 12.0)

    def looking() -> bool:
        return any(thread.name.startswith("pushtrain-owner") for thread in threading.enumerate())

    async def story() -> None:
        task = asyncio.create_task(estate.landlord.run())
        await eventually(lambda: estate.landlord.verdict().at)
        assert looking()
        task.cancel()
        await asyncio.wait([task])
        await eventually(lambda: not looking(), 5)

    asyncio.run(story())


def test_energy_of_cards_that_runs_have_is_counted_and_of_others_not(
    an_estate: Callable[..., Estate],
) -> None:
    estate = an_estate(kwh_per_day=1)
    estate.lend(0)
    estate.look()
    estate.library.cards[0].energy = 3_000_000.0
    estate.library.cards[1].energy = 9_000_000.0
    estate.look()
    assert estate.cards.kwh() == pytest.approx(3 / 3.6)
    assert estate.asked == []
    estate.library.cards[0].energy = 4_000_000.0
    estate.look()
    assert not estate.look().starts
    assert estate.asked == [("run-1", "Today's 1 kWh are used up.", 30)]


def test_a_card_without_a_meter_counts_by_its_power(estate: Estate) -> None:
    for card in estate.library.cards:
        card.energy, card.power = None, 360.0
    estate.lend(0)
    estate.look()
    for _ in range(10):
        estate.look(after=10)
    assert estate.cards.kwh() == pytest.approx(0.01)


# --- the owner's screen -----------------------------------------------------------------------------------


def test_the_owners_screen_names_programs_and_borrowers_never_read_them(
    estate: Estate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pushtrain.executor.owner.ownerscreen._name", lambda _: "blender")
    estate.lend(1)
    estate.waiting = 2
    estate.owner(0, 9 * GB)
    estate.look()
    assert standing.read(estate.screen, tmp_path / "lock") is None  # nobody serves this folder
    with FolderLock(tmp_path / "lock"):
        found = standing.read(estate.screen, tmp_path / "lock")
    assert found is not None
    assert found.cards[0].programs[0].name == "blender"
    assert found.cards[1].runs == ("train",)
    assert found.line(None) == "lab-3: lending 1 of 2 GPUs · 1 run · 2 wait"
    assert found.line(1.0, clock="15:30") == "lab-3: paused until 15:30 · 1 run gives back · 2 wait"
    told = (estate.landlord.why(Resources(gpus=2)), estate.landlord.stands(), *map(str, estate.asked))
    assert not any("blender" in words for words in told)
