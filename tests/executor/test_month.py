"""A month of an executor's life, its days by an injected clock: at its end it is as lean as after the first.

The test lives through twelve days, in `make chaos` through thirty. As a program it prints what docs/disk.md
tells, for so many days, runs a day, and MB of budget:
`PYTHONPATH=tests:tests/executor python tests/executor/test_month.py 30 16 15`.
"""

import asyncio
import contextlib
import hashlib
import os
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from executor_house import Bare, House, done, story

from data_server import FileServer, file_server
from depth import tries
from pushtrain.core.owner.rules import Rules
from pushtrain.core.values.jobspec import DataSource, EnvironmentSpec
from pushtrain.core.values.states import Outcome
from pushtrain.executor.service import ExecutorService
from pushtrain.executor.steward import Steward
from pushtrain.ports import Activation, Builder, Recipe

DAY = 86_400.0
BUDGET = 6_000_000


class Built(Bare):
    """An environment whose key a file of the commit decides; it has 50 files."""

    def plan(self, tree: Path, spec: EnvironmentSpec) -> Recipe | None:
        key = hashlib.sha256((tree / "lock").read_bytes()).hexdigest()[:16]
        return Recipe(key=key, title="built", locked=True)

    def build(self, tree: Path, spec: EnvironmentSpec, into: Path, builder: Builder) -> None:
        (into / "bin").mkdir()
        (into / "bin" / "python").symlink_to(sys.executable)
        for number in range(50):
            (into / f"module{number}.py").write_bytes(os.urandom(8000))

    def activate(
        self, tree: Path, spec: EnvironmentSpec, root: Path, overlay: Path, builder: Builder
    ) -> Activation:
        return Activation(path=(root / "bin", Path(sys.executable).parent))


@dataclass(frozen=True)
class Girth:
    """What an executor takes."""

    size: int
    """Bytes of its state folder."""
    files: int
    store: int
    """Bytes of its store."""
    descriptors: int
    threads: int
    trash: int


@dataclass
class Life:
    """One executor over many days."""

    house: House
    files: FileServer
    now: float

    def clock(self) -> float:
        """What the executor takes for the time."""
        return self.now

    async def day(self, service: ExecutorService, number: int, runs: int) -> None:
        """A day's pushes, each with an environment and data that are new every few days; then the night."""
        self.house.commit({"lock": f"{number // 2}\n", f"src/{number % 9}.py": f"day = {number}\n"})
        content = hashlib.sha256(str(number // 3).encode()).digest() * 20_000
        digest = hashlib.sha256(content).hexdigest()
        data = (DataSource(url=self.files.serve(f"/{number // 3}", content), sha256=digest, path="data/x"),)
        script = "head -c 300000 /dev/urandom > left; echo x > $PUSHTRAIN_RESULTS_DIR/note; seq 200"
        sent = [self.house.send(service, script, data=data) for _ in range(runs)]
        for run in sent:
            self.now += 2  # whatever is tried again is due
            assert (await done(service, run, 60)).outcome is Outcome.SUCCEEDED
        self.now += DAY
        await asyncio.to_thread(night, service)

    def girth(self) -> Girth:
        """What it takes now."""
        root = self.house.state.root
        found = [path.lstat() for path in root.rglob("*")]
        return Girth(
            size=sum(each.st_blocks * 512 for each in found),
            files=len(found),
            store=self.house.state.store.stat().st_size,
            descriptors=len(list(Path("/proc/self/fd").iterdir())),
            threads=threading.active_count(),
            trash=len(list(self.house.state.trash.glob("*"))),
        )


def night(service: ExecutorService) -> None:
    """What the steward does once a day, here and now: a process apart would not have the executor's clock."""
    upkeep = service._shop.upkeep
    Steward(upkeep).begin()
    upkeep.tend(lambda: None)
    upkeep.collect()


@contextlib.contextmanager
def life(folder: Path, budget: int = BUDGET) -> Iterator[Life]:
    """An executor with a small budget, data from a server of its own, and short memories."""
    with file_server() as files:
        house = House(folder, slots=2, disk_budget=budget, keep_artifacts_days=3, keep_runs_days=5)
        rules = house.settings.rules.model_copy(update={"allow_data_hosts": (files.url.partition("://")[2],)})
        house.settings = house.settings.model_copy(update={"rules": Rules.model_validate(rules.model_dump())})
        house.environments = {"system": Built()}
        found = Life(house, files, time.time())
        house.clock = found.clock
        yield found


async def live(one: Life, days: int, runs: int, *, each: int) -> list[Girth]:
    """Live through these days, with a restart every `each`; the girth at each restart's eve."""
    girths = []
    for first in range(0, days, each):
        async with one.house.running() as service:
            for number in range(first, min(first + each, days)):
                await one.day(service, number, runs)
            girths.append(one.girth())
    return girths


@pytest.mark.slow
@pytest.mark.deep
@pytest.mark.timeout(600)
@story
async def test_an_executor_is_as_lean_after_many_days_as_after_the_first(tmp_path: Path) -> None:
    with life(tmp_path) as one:
        young, *_, old = await live(one, days=tries(12, 30), runs=1, each=6)
    assert old.size <= BUDGET * 1.2
    assert old.files <= young.files * 1.25
    assert old.store <= 400_000
    assert old.descriptors <= young.descriptors + 4
    assert old.threads <= young.threads + 2
    assert old.trash == 0


def main(days: int, runs: int, budget: int) -> None:
    """Live through so many days, and print what became of it."""
    with tempfile.TemporaryDirectory() as folder, life(Path(folder), budget * 1_000_000) as one:
        begun = time.perf_counter()
        for number, girth in enumerate(asyncio.run(live(one, days, runs, each=5)), start=1):
            spent = time.perf_counter() - begun
            sys.stdout.write(f"day {number * 5}: {girth}, {spent:.0f} s\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main(*map(int, sys.argv[1:4]))
