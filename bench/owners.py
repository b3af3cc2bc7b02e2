"""What watching over the owner costs, how soon they are noticed, and what a lab gets out of it."""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from bench.measures import Figure
from pushtrain.executor.owner.landlord import BRISK
from pushtrain.testing.labweek import week

_SHM = Path("/dev/shm")  # noqa: S108  a folder of our own is made there
WATCH = """
import asyncio, json, os, subprocess, sys, tempfile, time
from pathlib import Path
from resource import RUSAGE_CHILDREN, getrusage
from pushtrain.core.owner.lending import OwnerRules
from pushtrain.core.owner.rules import Rules
from pushtrain.core.settings import Settings
from pushtrain.executor.owner.landlord import Landlord
from pushtrain.executor.owner.lending import Holder
from pushtrain.executor.owner.meter import Meter
from pushtrain.plumbing.machine import gpu
from pushtrain.plumbing.machine.energy import EnergyDay
from pushtrain.plumbing.disk.state import StateFolder
from pushtrain.testing.nvml import FakeCard, FakeNvml

seconds, rules = float(sys.argv[1]), json.loads(sys.argv[2])
library = gpu.pynvml = FakeNvml([FakeCard(), FakeCard()])
job = subprocess.Popen(("sleep", "600"), env={**os.environ, "PUSHTRAIN_ATTEMPT_ID": "run-1"})
desktop = subprocess.Popen(("sleep", "600"))
asked = []
home = tempfile.TemporaryDirectory()

class Runs:
    def holders(self):
        return (Holder("run-1", 1, "train", (library.cards[0].uuid,), mark="run-1"),)
    def preempt(self, run_id, **how):
        asked.append(time.monotonic())

async def main():
    state = StateFolder(Path(home.name)).create()
    settings = Settings(rules=Rules(owner=OwnerRules(**rules)))
    landlord = Landlord.of(settings, state, gpu.inventory(), samples=gpu.Sampler(), dispatch=Runs,
        meter=Meter(state.runs, EnergyDay(state.energy)), watchers=(), waiting=lambda: 0, changed=lambda: None)
    library.cards[0].processes[job.pid] = 8 << 30
    library.cards[1].drawing[desktop.pid] = 300 << 20
    task = asyncio.create_task(landlord.run())
    await asyncio.sleep(2)
    spent = lambda: time.process_time() + sum(getrusage(RUSAGE_CHILDREN)[:2])
    before, begin = spent(), time.monotonic()
    await asyncio.sleep(seconds)
    share = (spent() - before) / (time.monotonic() - begin)
    begin = time.thread_time()
    for _ in range(200):
        landlord._step()
    warm = (time.thread_time() - begin) / 200
    noticed = []
    for turn in range(int(sys.argv[3])):
        await asyncio.sleep(0.3 * turn % 1.25)
        stranger = subprocess.Popen(("sleep", "600"))
        library.cards[0].processes[stranger.pid] = 9 << 30
        begin, asked[:] = time.monotonic(), []
        while not asked and time.monotonic() - begin < 20:
            await asyncio.sleep(0.002)
        noticed.append(asked[0] - begin)
        del library.cards[0].processes[stranger.pid]
        stranger.kill(), stranger.wait()
        landlord._asked.clear()
        await asyncio.sleep(1.3)
    task.cancel()
    print(json.dumps({"share": share, "warm": warm, "noticed": noticed}))

try:
    asyncio.run(main())
finally:
    job.kill(), desktop.kill()
"""
"""A landlord alone in a process, watching two cards of the library's fake; the processes are real."""


class _Watched(NamedTuple):
    share: float
    """Of a processor."""
    warm: float
    """Seconds that a look takes when the processor has just done the same: the floor."""
    noticed: list[float]
    """Seconds."""


def _watched(seconds: float, rules: dict[str, object], turns: int) -> _Watched:
    argv = (sys.executable, "-c", WATCH, str(seconds), json.dumps(rules), str(turns))
    done = subprocess.run(argv, capture_output=True, text=True, check=True, timeout=600)
    return _Watched(**json.loads(done.stdout))


def owners(quick: bool) -> Iterator[Figure]:
    """The cost of looking, the time to notice, and a simulated week of a lab."""
    seconds, turns = (10, 3) if quick else (60, 20)
    share, warm, noticed = _watched(seconds, {"settle": 0}, turns)
    note = (
        "two cards, by the default rules; the driver's own part, about 0.1 ms a look, is not in it. "
        f"Floor: {100 * warm / BRISK:.3f} %, were the processor's caches as warm as when looks follow each other"
    )
    yield Figure(
        "watching while a run has a GPU", 100 * share, "% of a core", "≤ 0.2 %", share <= 0.002, note
    )
    share = _watched(seconds, {"settle": 0, "idle": 600, "load": 4, "kwh_per_day": 5}, 0).share
    note = "with keyboard, mouse and load, too"
    yield Figure("… by all rules", 100 * share, "% of a core", "≤ 0.2 %", share <= 0.002, note)
    worst = max(noticed)
    note = f"the worst of {len(noticed)}, from the process on the card to the wish that the job gives it back"
    yield Figure("an owner's program on a GPU is noticed", worst, "s", "≤ 2 s", worst <= 2, note)
    yield from _weeks(quick)


def _weeks(quick: bool) -> Iterator[Figure]:
    days, machines = (1, 3) if quick else (7, 10)
    for pairs in (0.0, 0.1):
        with tempfile.TemporaryDirectory(dir=_SHM if _SHM.is_dir() else None) as folder:
            begin = time.perf_counter()
            found = week(Path(folder), days=days, machines=machines, pairs=pairs)
            took = time.perf_counter() - begin
        tally, used = found.tally, 100 * found.used
        what = f"idle GPU-hours used, {days} days of {machines} machines × 2 GPUs"
        if pairs:
            what = f"… while {pairs:.0%} of the runs ask for both GPUs"
        note = (
            f"{found.idle / 3600:.0f} idle hours, {tally.attempts} attempts, {len(tally.lost)} preempted; "
            f"{100 * found.trained:.1f} % trained; simulated in {took:.0f} s"
        )
        yield Figure(what, used, "%", "≥ 95 %", used >= 95, note)
        if pairs:
            continue
        late = max(tally.yielded)
        note = f"beyond a run's grace; noticed after {max(tally.noticed):.2f} s at most"
        yield Figure("… an owner waits for their memory", late, "s", "≤ 3 s", late <= 3, note)
        lost = max(tally.lost)
        note = (
            f"{sum(tally.lost) / 3600:.1f} h in all; checkpoints every 600 s, one job of ten ignores the wish"
        )
        yield Figure("… work lost by one preemption", lost, "s", "≤ 600 s", lost <= 600, note)
