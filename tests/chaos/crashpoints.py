"""Every step of a run at which an executor can be killed: counted, then killed there, one after the other.

    python tests/chaos/crashpoints.py               # all of them; some minutes

A step is a flush, a rename, a transaction of the store (killed before it and after it), or a program that
is started (likewise). An executor in a process of its own takes a run from the queue to the results branch
and is killed at the n-th step; the next one has to bring it to its end, once.
"""

import asyncio
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any, Final

sys.path.insert(0, str(Path(__file__).parents[1] / "executor"))

from executor_house import House, done

from pushtrain.core.run import Run
from pushtrain.core.states import Outcome
from pushtrain.testing import wait_until

_NEVER: Final = 10**9
COMMAND: Final = "echo $PUSHTRAIN_ATTEMPT >> {journal}; echo said; echo x > $PUSHTRAIN_RESULTS_DIR/model"


# --- in the process that is killed ------------------------------------------------------------------------


class Steps:
    """Counts steps, and kills this process at one of them.

    Args:
        at: At which; each that is passed is written to `told`.
        told: A file.
    """

    def __init__(self, at: int, told: Path) -> None:
        self.at = at
        self.told = os.open(told, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self.count = 0

    def step(self, name: str) -> None:
        """Pass a step, or die."""
        self.count += 1
        os.write(self.told, f"{name}\n".encode())
        if self.count == self.at:
            os.kill(os.getpid(), signal.SIGKILL)

    def before(self, owner: Any, name: str, *, after: bool = False) -> None:
        """Make each call of a function a step; with `after`, what follows it, too."""
        real = getattr(owner, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            self.step(f"before {name}")
            result = real(*args, **kwargs)
            if after:
                self.step(f"after {name}")
            return result

        setattr(owner, name, call)


async def serve(folder: Path, at: int, told: Path) -> None:
    """Be an executor that is killed at a step."""
    from pushtrain.plumbing.programs import process
    from pushtrain.plumbing.sqlite.database import Database

    steps = Steps(at, told)
    for name in ("fsync", "fdatasync", "replace", "rename"):
        steps.before(os, name)
    steps.before(Database, "write", after=True)
    steps.before(process, "run", after=True)
    async with House(folder).running():
        await asyncio.Event().wait()


# --- in the process that looks on -------------------------------------------------------------------------


class World:
    """A house with one accepted run, and what became of it."""

    def __init__(self, folder: Path) -> None:
        self.house = House(folder)
        self.journal = folder / "journal"
        self.told = folder / "steps"
        service = self.house.open()
        self.sent = self.house.send(service, COMMAND.format(journal=self.journal))
        service.store.close()

    def executor(self, at: int) -> "subprocess.Popen[bytes]":
        """An executor that is killed at a step."""
        argv = (sys.executable, __file__, "--serve", str(self.house.folder), str(at), str(self.told))
        return subprocess.Popen(argv, stdin=subprocess.DEVNULL)

    def steps(self) -> list[str]:
        """The steps that were passed."""
        return self.told.read_text().splitlines() if self.told.exists() else []

    async def recovered(self) -> Run:
        """The run, once the next executor has brought it to its end."""
        async with self.house.running() as service:
            return await done(service, self.sent, 60)

    def faults(self, run: Run) -> list[str]:
        """What is lost, doubled or untrue."""
        found = []
        if run.outcome is not Outcome.SUCCEEDED:
            found.append(f"it {run.outcome}: {run.detail}")
        began = Counter(self.journal.read_text().split()) if self.journal.exists() else Counter()
        found += [f"attempt {number} began {times} times" for number, times in began.items() if times > 1]
        if str(run.attempt) not in began:
            found.append(f"attempt {run.attempt} is said to have succeeded and never began")
        tip = self.house.work.fetch("pushtrain/results")
        records = [path for path in self.house.work.files(tip) if path.endswith("/run.json")] if tip else []
        if len(records) != 1:
            found.append(f"its results are there {len(records)} times")
        else:
            where = records[0].removesuffix("/run.json")
            record = json.loads(self.house.work.show(tip, records[0]))
            if record["run"]["id"] != run.id or self.house.work.show(tip, f"{where}/log.txt") != "said":
                found.append("its results are not its own")
        return found


def count(folder: Path) -> list[str]:
    """The steps of a run that nobody disturbs."""
    world = World(folder)
    executor = world.executor(_NEVER)
    try:
        wait_until(lambda: world.house.work.fetch("pushtrain/results"), 60, what="the results")
        settled: list[int] = []

        def quiet() -> bool:
            settled.append(len(world.steps()))
            return len(settled) > 20 and len(set(settled[-20:])) == 1

        wait_until(quiet, 60, what="the last step")
    finally:
        executor.kill()
        executor.wait()
    return world.steps()


def killed_at(folder: Path, at: int) -> list[str]:
    """Kill an executor at a step, start the next one; what is wrong afterwards."""
    world = World(folder)
    executor = world.executor(at)
    try:
        executor.wait(60)
    except subprocess.TimeoutExpired:
        executor.kill()
        executor.wait()
        if len(world.steps()) >= at:
            return ["it was not killed"]
    return world.faults(asyncio.run(world.recovered()))


def main() -> int:
    """Kill at every step; 1 where something was lost."""
    wrong = 0
    with tempfile.TemporaryDirectory(prefix="pushtrain-crash-") as name:
        steps = count(Path(name) / "whole")
        for at, step in enumerate(steps, 1):
            faults = killed_at(Path(name) / str(at), at)
            wrong += bool(faults)
            print(f"{at:4} {step}: {'; '.join(faults) or 'recovered'}", flush=True)  # noqa: T201
    print(f"{len(steps)} steps, {wrong} of them not recovered from")  # noqa: T201
    return 1 if wrong else 0


if __name__ == "__main__":
    if sys.argv[1:2] == ["--serve"]:
        asyncio.run(serve(Path(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4])))
    sys.exit(main())
