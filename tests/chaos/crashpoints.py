"""Every step of a run at which an executor can be killed: counted, then killed there, one after the other.

    python tests/chaos/crashpoints.py               # all of them; some minutes

A step is a flush, a rename, a removal; a transaction of the store, a program that is started, a status for
the Git host (killed before each of them and after it). An executor in a process of its own takes a run from
the queue to the results branch and is killed at the n-th step; the next one has to bring it to its end, once.
"""

import asyncio
import contextlib
import json
import sys
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Final

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[1] / "executor"))

from executor_house import House, done

from nursery import NEVER, Child, Nursery, Steps, nursery, passed, settled
from pushtrain.core.values.run import Run
from pushtrain.core.values.states import Outcome
from pushtrain.core.wire.status import CommitStatus, Told, Verdict
from pushtrain.executor.results.herald import Herald
from pushtrain.executor.service import ExecutorService
from pushtrain.testing import eventually, wait_until

COMMAND: Final = "echo $PUSHTRAIN_ATTEMPT >> {journal}; echo said; echo x > $PUSHTRAIN_RESULTS_DIR/model"


# --- in the process that is killed ------------------------------------------------------------------------


def be_executor(folder: str, at: str, told: str) -> None:
    """Be an executor that is killed at a step."""
    steps = Steps(int(at), Path(told)).durable()
    asyncio.run(_serve(Path(folder), steps.step))


async def _serve(folder: Path, step: Callable[[str], None]) -> None:
    async with House(folder).running() as service, telling(service, folder, step):
        await asyncio.Event().wait()


class Board:
    """A Git host's memory of statuses: a file with a line for each."""

    def __init__(self, folder: Path, step: Callable[[str], None]) -> None:
        self._file = folder / "statuses"
        self._step = step

    def serves(self, key: str) -> bool:
        return True

    def tell(self, key: str, commit: str, status: CommitStatus) -> Told:
        self._step("before status")
        with self._file.open("a") as file:
            file.write(f"{status.verdict}\n")
        self._step("after status")
        return Told()


@asynccontextmanager
async def telling(
    service: ExecutorService, folder: Path, step: Callable[[str], None] = lambda _: None
) -> AsyncIterator[None]:
    """Tell statuses while the block runs, as `wiring.statuses` does."""
    herald = Herald(service.store, Board(folder, step), executor="lab-1")
    leave = service.subscribe(herald.hear)
    task = asyncio.create_task(herald.run())
    try:
        yield
    finally:
        leave()
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


# --- in the process that looks on -------------------------------------------------------------------------


class World:
    """A house with one accepted run, and what became of it."""

    def __init__(self, folder: Path, nurse: Nursery) -> None:
        self.folder, self.nurse = folder, nurse
        self.house = House(folder)
        self.journal = folder / "journal"
        self.told = folder / "steps"
        service = self.house.open()
        self.sent = self.house.send(service, COMMAND.format(journal=self.journal))
        service.store.close()

    def executor(self, at: int) -> Child:
        """An executor that is killed at a step."""
        words = (self.folder, at, self.told)
        return self.nurse.start("crashpoints:be_executor", *words, said=self.folder / "said", cwd=self.folder)

    async def recovered(self) -> Run:
        """The run, once the next executor has brought it to its end and told the Git host."""
        async with self.house.running() as service, telling(service, self.folder):
            run = await done(service, self.sent, 60)
            await eventually(lambda: service.store.status_told(run.id)[1], 60, what="its status")
            return run

    def faults(self, run: Run) -> list[str]:
        """What is lost, doubled or untrue."""
        found = []
        if run.outcome is not Outcome.SUCCEEDED:
            found.append(f"it {run.outcome}: {run.detail}")
        began = Counter(self.journal.read_text().split()) if self.journal.exists() else Counter()
        found += [f"attempt {number} began {times} times" for number, times in began.items() if times > 1]
        if str(run.attempt) not in began:
            found.append(f"attempt {run.attempt} is said to have succeeded and never began")
        statuses = (self.folder / "statuses").read_text().split()
        verdicts = statuses.count(Verdict.SUCCESS)  # another one where it died before it had noted the first
        if statuses[-1:] != [Verdict.SUCCESS] or verdicts > 2:
            found.append(f"its host was told {statuses}")
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


@contextmanager
def executors() -> Iterator[Nursery]:
    """A nursery of executors."""
    with nursery("crashpoints") as nurse:
        yield nurse


def count(folder: Path, nurse: Nursery) -> list[str]:
    """The steps of a run that nobody disturbs."""
    world = World(folder, nurse)
    executor = world.executor(NEVER)
    try:
        return settled(world.told, lambda: world.house.work.fetch("pushtrain/results"), what="the results")
    finally:
        executor.kill()


def killed_at(folder: Path, at: int, nurse: Nursery) -> list[str]:
    """Kill an executor at a step, start the next one; what is wrong afterwards."""
    world = World(folder, nurse)
    executor = world.executor(at)
    try:
        wait_until(lambda: executor.dead, 60, what="its end")
    except AssertionError:
        if len(passed(world.told)) >= at:
            return ["it was not killed"]
    finally:
        executor.kill()
    return world.faults(asyncio.run(world.recovered()))


def main() -> int:
    """Kill at every step; 1 where something was lost."""
    wrong = 0
    with tempfile.TemporaryDirectory(prefix="pushtrain-crash-") as name, executors() as nurse:
        steps = count(Path(name) / "whole", nurse)
        for at, step in enumerate(steps, 1):
            faults = killed_at(Path(name) / str(at), at, nurse)
            wrong += bool(faults)
            print(f"{at:4} {step}: {'; '.join(faults) or 'recovered'}", flush=True)  # noqa: T201
    print(f"{len(steps)} steps, {wrong} of them not recovered from")  # noqa: T201
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
