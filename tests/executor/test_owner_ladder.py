"""The ladder with a whole executor and real processes: the owner comes, jobs go, and come back.

Which process has memory of a card is said by the fake of the driver's library; whose process it is, is found
out as always.
"""

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from executor_house import House, done, logged, reached, story

from pushtrain.core.owner.lending import OwnerRules
from pushtrain.core.owner.rules import Rules
from pushtrain.core.values.jobspec import Resources
from pushtrain.core.values.run import Run
from pushtrain.core.values.states import Outcome, Reason, State
from pushtrain.executor.owner import landlord
from pushtrain.executor.service import ExecutorService
from pushtrain.plumbing.machine import gpu
from pushtrain.plumbing.machine.gpu import inventory
from pushtrain.plumbing.owner.pause import PauseFile
from pushtrain.plumbing.programs import proc
from pushtrain.testing import eventually
from pushtrain.testing.nvml import FakeCard, FakeNvml

GB = 10**9
SECRET = "secret-game"
"""What the owner's program is called."""
SAVES = """
import os, signal, sys
at = os.path.join(os.environ["PUSHTRAIN_CHECKPOINT_DIR"], "step")
if os.environ.get("PUSHTRAIN_RESUME"):
    print("resumed at", open(at).read(), "on", os.environ["CUDA_VISIBLE_DEVICES"], flush=True)
    sys.exit(0)
def save(*_):
    open(at, "w").write("7")
    print("saved", flush=True)
    sys.exit(85)
signal.signal(signal.SIGTERM, save)
print("pid", os.getpid(), flush=True)
while True:
    signal.pause()
"""
STAYS = """
import os, signal, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
if os.fork() == 0:
    os.setsid()
    if os.fork():
        os._exit(0)
    print("pid", os.getpid(), flush=True)
    while True:
        time.sleep(600)
os.wait()
while True:
    time.sleep(600)
"""


class Lab:
    """An executor with one card, and its owner's program."""

    def __init__(self, folder: Path, library: FakeNvml, owner: int) -> None:
        self.house = House(folder)
        self.card = library.cards[0]
        self.owner = owner
        self.house.gpus = inventory()
        self.house.commit({"saves.py": SAVES, "stays.py": STAYS})
        self.rule()

    def rule(self, **rules: object) -> None:
        found = Rules(owner=OwnerRules(**{"settle": 0, **rules}))
        self.house.settings = self.house.settings.model_copy(update={"rules": found})

    async def trains(self, service: ExecutorService, script: str) -> tuple[Run, int]:
        """A run that has the card, and the pid of its process there."""
        run = self.house.send(service, f"exec python {script}", resources=Resources(gpus=1))
        log = await logged(service, run, "pid ")
        pid = int(log.split("pid ")[1].split()[0])
        self.card.processes[pid] = 8 * GB
        return run, pid

    async def freed(self, pid: int, seconds: float = 20) -> None:
        """Wait until a process is gone, and its memory with it."""
        await eventually(lambda: (found := proc.stat(pid)) is None or found.state in "ZX", seconds)
        self.card.processes.pop(pid)


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Lab]:
    library = FakeNvml([FakeCard(memory=24 * GB)])
    monkeypatch.setattr(gpu, "pynvml", library)
    program = tmp_path / SECRET
    shutil.copy(shutil.which("sleep") or "/bin/sleep", program)
    owner = subprocess.Popen((program, "600"), env={"PATH": os.environ["PATH"]})
    yield Lab(tmp_path, library, owner.pid)
    owner.kill()
    owner.wait()


@pytest.fixture
def brisk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Looks that follow each other quickly, so that a test need not take seconds."""
    monkeypatch.setattr(landlord, "BRISK", 0.05)


@pytest.mark.slow
@story
async def test_the_owner_has_the_card_within_two_seconds_and_the_run_goes_on_afterwards(lab: Lab) -> None:
    async with lab.house.running() as service:
        run, pid = await lab.trains(service, "saves.py")
        begin = time.monotonic()
        lab.card.processes[lab.owner] = 9 * GB
        await lab.freed(pid)
        took = time.monotonic() - begin
        waiting = await reached(service, run, State.QUEUED)
        assert took < 2.5  # noticed within two seconds; saving takes a moment
        assert waiting.reason in {Reason.CHECKPOINTED, Reason.PREEMPTED}
        words = "executor waits: the owner is using GPU 0 (9 GB)"
        assert service.shown.view(run.id).run.waiting_for == words
        assert service.shown.runs()[0].waiting_for == words
        screen = lab.house.state.standing.read_text()
        left = [
            service.shown.view(run.id),
            service.machine_gpus(),
            service.card(),
            service.usage(9),
            *service.shown.runs(),
        ]
        free = service.capacity()
        assert (free.free_gpus, free.waits) == (0, "the owner is using GPU 0 (9 GB)")
        del lab.card.processes[lab.owner]
        run = await done(service, run)
        assert (run.outcome, run.attempt) == (Outcome.SUCCEEDED, 2)
        assert lab.house.result(run, "log.txt").startswith("resumed at 7 on GPU-")
        first, _ = service.store.attempts(run.id)
        assert first.detail == "The owner is using GPU 0 (9 GB)."
        told = [*left, free, service.usage(9), service.shown.view(run.id), *service.store.events(run.id)]
        published = lab.house.work.git("log", "-p", "--all", "--text")
    assert SECRET in screen
    assert "resumed at 7" in published
    assert not any(SECRET in words for words in (*map(repr, told), published)), "its name stays on the screen"


@pytest.mark.usefixtures("brisk")
@story
async def test_a_job_that_ignores_the_signal_and_has_double_forked_is_ended_after_the_grace(lab: Lab) -> None:
    lab.rule(grace=0.4)
    async with lab.house.running() as service:
        run, pid = await lab.trains(service, "stays.py")
        begin = time.monotonic()
        lab.card.processes[lab.owner] = 9 * GB
        await lab.freed(pid)
        took = time.monotonic() - begin
        await reached(service, run, State.QUEUED)
        assert 0.4 <= took < 2.5
        (attempt,) = service.store.attempts(run.id)
        assert attempt.reason is Reason.PREEMPTED
        service.cancel(run.id, by="ada")


@pytest.mark.usefixtures("brisk")
@story
async def test_an_owner_who_runs_out_of_memory_ends_the_grace_of_a_job_that_does_not_go(lab: Lab) -> None:
    lab.rule(grace=600)
    async with lab.house.running() as service:
        run, pid = await lab.trains(service, "stays.py")
        lab.card.processes[lab.owner] = 9 * GB
        await eventually(lambda: service.store.run(run.id).preempt_requested)
        assert proc.stat(pid) is not None
        lab.card.processes[lab.owner] = int(15.9 * GB)
        await lab.freed(pid)
        await reached(service, run, State.QUEUED)
        service.cancel(run.id, by="ada")


@pytest.mark.usefixtures("brisk")
@story
async def test_a_pause_takes_everything_back_and_lets_nothing_start_until_it_is_over(lab: Lab) -> None:
    async with lab.house.running() as service:
        run, pid = await lab.trains(service, "saves.py")
        pause = PauseFile(lab.house.state.pause)
        pause.pause(None)
        await lab.freed(pid)
        await reached(service, run, State.QUEUED)
        other = lab.house.send(service, "true")
        words = "executor waits: the owner has paused lending"
        await eventually(lambda: service.shown.view(other.id).run.waiting_for == words)
        assert not service.capacity().free_slots
    async with lab.house.running() as service:  # it holds over a restart
        await eventually(lambda: service.shown.view(other.id).run.waiting_for == words)
        assert service.store.run(other.id).state is State.QUEUED
        pause.resume()
        assert (await done(service, run)).outcome is Outcome.SUCCEEDED
        assert (await done(service, other)).outcome is Outcome.SUCCEEDED


@story
async def test_in_quiet_hours_results_wait_and_say_so(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    lab.rule(quiet=("Mon-Sun",))
    async with lab.house.running() as service:
        run = await reached(service, lab.house.send(service, "true"), State.PUBLISHING)
        assert service.shown.view(run.id).run.waiting_for == "executor publishes nothing at this hour"
        monkeypatch.setattr("pushtrain.executor.service.quiet_until", lambda *_: None)
        service.wake()
        assert (await done(service, run)).outcome is Outcome.SUCCEEDED
