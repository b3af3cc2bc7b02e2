"""Every step of a run at which an executor can be killed, or its disk can fail: counted, then done there.

    python tests/chaos/crashpoints.py               # all of them; some minutes
    python tests/chaos/crashpoints.py leaves        # those of the ways with this word in their names

A step is a flush, a rename, a removal; a transaction of the store, a program that is started, a status for
the Git host (killed before each of them and after it). An executor in a process of its own goes a `Way` with
a run and is killed at the n-th step; the next one has to bring it to its end, once. The owner of the machine
and the sender are beside it: they want it back, and take the run elsewhere, until it is so. Then the same
with a disk that fails once at the n-th flush, rename or removal, and with a shim that is killed at the n-th
step of its first attempt: the executor itself has to go on.
"""

import asyncio
import contextlib
import json
import py_compile
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from enum import StrEnum
from itertools import product
from pathlib import Path
from typing import Any, Final

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[1] / "executor"))

from executor_house import House, done

from nursery import NEVER, Child, Nursery, Steps, nursery, passed, settled
from pushtrain.core.errors import Busy, Conflict, StorageError
from pushtrain.core.lifecycle import next_attempt
from pushtrain.core.runs import retry
from pushtrain.core.values.jobspec import PreemptSignal, Retry
from pushtrain.core.values.run import Run
from pushtrain.core.values.states import Outcome, State
from pushtrain.core.wire.status import CommitStatus, Told, Verdict
from pushtrain.executor.moving import backlog
from pushtrain.executor.owner import landlord
from pushtrain.executor.results.herald import Herald
from pushtrain.executor.runs import launch
from pushtrain.executor.service import ExecutorService
from pushtrain.plumbing.attempts import terse
from pushtrain.plumbing.git import lfs
from pushtrain.plumbing.owner.pause import PauseFile
from pushtrain.sender.errands import again
from pushtrain.testing import SENDER, eventually, wait_until

PLAIN: Final = """\
echo $PUSHTRAIN_ATTEMPT began >> {journal}
echo said
echo x > $PUSHTRAIN_RESULTS_DIR/model
"""
SAVES: Final = """\
if test -n "$PUSHTRAIN_RESUME"; then
  echo $PUSHTRAIN_ATTEMPT goes on >> {journal}
  echo said from $(cat $PUSHTRAIN_CHECKPOINT_DIR/at)
  echo x > $PUSHTRAIN_RESULTS_DIR/model
  exit 0
fi
echo $PUSHTRAIN_ATTEMPT began >> {journal}
until test -e $PUSHTRAIN_STOP_FILE; do test -e {journal}; sleep 0.01; done
echo half > $PUSHTRAIN_CHECKPOINT_DIR/at
exit 85
"""


@dataclass(frozen=True)
class Way:
    """What happens to a run: whether its job goes on from a checkpoint, and whether it does so elsewhere."""

    name: str
    saves: bool = True
    leaves: bool = False
    """The executor that it leaves is killed; its next one is not."""
    arrives: bool = False
    """The executor at which it arrives is killed; the one that it left was not."""

    @property
    def job(self) -> dict[str, Any]:
        """Of its job, what is not as usual."""
        moves = self.leaves or self.arrives
        return {
            "preempt_signal": PreemptSignal.NONE,
            "checkpoint_to": "lfs" if moves else "",
            "retry": Retry(backoff=1),
        }

    @property
    def says(self) -> str:
        """What the last attempt says."""
        return "said from half" if self.saves else "said"


WAYS: Final = (
    Way("a run from the queue to the results branch", saves=False),
    Way("a run that gives way and goes on"),
    *(
        (Way("a run that leaves with its checkpoint", leaves=True), Way("a run that arrives", arrives=True))
        if lfs.installed()
        else ()
    ),
)


class Fault(StrEnum):
    """What happens at a step."""

    KILLED = "the executor is killed"
    DISK = "its disk fails"
    SHIM = "the shim is killed"

    @property
    def role(self) -> str:
        """The function below that is an executor to which this happens."""
        return {"KILLED": "be_executor", "DISK": "be_failed", "SHIM": "be_bereft"}[self.name]


SHIM_STEPS: Final = """
import sys as _sys
_me, _count = os.getpid(), [0]
def _step(name):
    if os.getpid() == _me and "/{first}/" in _sys.argv[1]:
        _count[0] += 1
        told = os.open({told!r}, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        _write(told, (name + chr(10)).encode())
        os.close(told)
        if _count[0] == {at}:
            os.kill(_me, 9)
def _made_a_step(name):
    real = getattr(os, name)
    def call(*args, **more):
        _step("before " + name)
        result = real(*args, **more)
        _step("after " + name)
        return result
    setattr(os, name, call)
_write = os.write
for _name in ("fork", "fsync", "ftruncate", "replace", "rename", "unlink"):
    _made_a_step(_name)
"""
"""Goes into a compiled half of the shim, where it is imported: each step of the first attempt's here."""


# --- in the process that is killed ------------------------------------------------------------------------


def be_executor(way: str, folder: str, run: str, at: str, told: str) -> None:
    """Be an executor that is killed at a step."""
    steps = Steps(int(at), Path(told)).durable()
    asyncio.run(_serve(WAYS[int(way)], Path(folder), run, steps.step))


def be_failed(way: str, folder: str, run: str, at: str, told: str) -> None:
    """Be an executor that its disk fails at a step; what it tries again it tries again soon."""
    backlog._PAUSE = retry.FIRST_UNREADY = 0.2  # type: ignore[misc]
    Steps(int(at), Path(told), disk=True).durable()
    asyncio.run(_serve(WAYS[int(way)], Path(folder), run, lambda _: None))


def be_bereft(way: str, folder: str, run: str, at: str, told: str) -> None:
    """Be an executor whose first attempt's shim is killed at a step."""
    real, arrives = launch.compile_shim, WAYS[int(way)].arrives
    steps = SHIM_STEPS.format(told=told, at=int(at), first=2 if arrives else 1)

    def compiled(into: Path) -> Path:
        found = real(into)
        source = into / "terse.py"
        source.write_text(Path(terse.__file__).read_text() + steps)
        py_compile.compile(str(source), str(found.with_name("terse.pyc")), doraise=True)
        return found

    launch.compile_shim = compiled
    asyncio.run(_serve(WAYS[int(way)], Path(folder), run, lambda _: None))


async def _serve(way: Way, folder: Path, run: str, step: Callable[[str], None]) -> None:
    landlord.BRISK = 0.05  # type: ignore[misc]
    house = second(folder) if way.arrives else House(folder)
    async with house.running() as service, telling(service, folder, step), people(way, house, service, run):
        await asyncio.Event().wait()


def second(folder: Path) -> House:
    """The executor to which a run goes that leaves the first."""
    found = House(folder / "second", name="lab-2")
    found.work = House(folder).work
    repository = found.settings.repositories[0].model_copy(update={"remote": str(folder / "origin.git")})
    found.settings = found.settings.model_copy(update={"repositories": (repository,)})
    return found


@asynccontextmanager
async def people(way: Way, house: House, service: ExecutorService, run: str) -> AsyncIterator[None]:
    """The owner, who wants the machine back, and the sender, who takes the run elsewhere then."""
    task = asyncio.create_task(_owner(way, house, service, run)) if way.saves else None
    try:
        yield
    finally:
        if task:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task


async def _owner(way: Way, house: House, service: ExecutorService, run_id: str) -> None:
    """Come whenever an attempt has begun that has saved nothing, and go when it has ended."""
    pause, first = PauseFile(house.state.pause), not house.folder.match("second")
    journal = (house.folder if first else house.folder.parent) / "journal"

    def trains() -> bool:
        run = service.store.run(run_id)
        return run.state is State.RUNNING and f"{run.attempt} began" in lines(journal)

    while True:
        here = service.store.run(run_id)
        if not (pause.until() and here.state in {State.QUEUED, State.DONE}):
            await eventually(trains, 600, what="a training")
            await eventually(lambda: _said(lambda: pause.pause(None)), what="a pause")
            await eventually(lambda: service.store.run(run_id).state is not State.RUNNING, 60, what="a yield")
        if first and (way.leaves or way.arrives):
            await _takes_away(house, service, run_id)
            return
        await eventually(lambda: _said(pause.resume), what="the end of a pause")


def _said(wish: Callable[[], object]) -> bool:
    """Whether the owner could say it: the disk fails them, too, and they try again."""
    with contextlib.suppress(StorageError):
        wish()
        return True
    return False


async def _takes_away(house: House, service: ExecutorService, run_id: str) -> None:
    """Ask for the run until it is given away, and note with what."""
    house.folder.joinpath("nonces").touch()

    def released() -> Run | None:
        with house.folder.joinpath("nonces").open("a+") as nonces:
            nonces.write("x")
            nonce = f"release-{nonces.tell()}"
        try:
            return service.release(run_id, by={SENDER}, attempt=0, nonce=nonce, nonce_expires=2e9)
        except (Busy, Conflict):
            return None

    given = await eventually(released, 60, what="a release", every=0.05)
    house.folder.joinpath("released").write_text(given.model_dump_json())


def lines(file: Path) -> list[str]:
    """The lines of a file that may not be there yet."""
    return file.read_text().splitlines() if file.exists() else []


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
    """A house with one accepted run, and what became of it.

    Args:
        way: What happens to it.
        folder: Where; nobody else's.
        nurse: Makes executors.
    """

    def __init__(self, way: Way, folder: Path, nurse: Nursery) -> None:
        self.way, self.folder, self.nurse = way, folder, nurse
        self.house = House(folder)
        self.journal = folder / "journal"
        self.told = folder / "steps"
        script = (SAVES if way.saves else PLAIN).format(journal=self.journal)
        service = self.house.open()
        self.sent = self.house.send(service, script, **way.job)
        service.store.close()
        if way.arrives:
            asyncio.run(self._left())
            self.house = second(folder)
            service = self.house.open()
            self._arrives(service)
            service.store.close()

    def executor(self, at: int, fault: Fault) -> Child:
        """An executor to which this happens at a step."""
        words = (str(WAYS.index(self.way)), self.folder, self.sent.id, str(at), self.told)
        role = f"crashpoints:{fault.role}"
        return self.nurse.start(role, *words, said=self.folder / "said", cwd=self.folder)

    @property
    def over(self) -> bool:
        """Whether the executor that may be killed has done its part."""
        if self.way.leaves:
            return (self.folder / "released").exists()
        return bool(self.house.work.fetch("pushtrain/results"))

    async def recovered(self) -> Run:
        """The run, once the next executor has brought it to its end and told the Git host."""
        if self.way.leaves:
            await self._left()
            self.house = second(self.folder)
        async with self.house.running() as service, telling(service, self.folder):
            if self.way.leaves:
                self._arrives(service)
            async with people(self.way, self.house, service, self.sent.id):
                run = await done(service, self.sent, 60)
            await eventually(lambda: service.store.status_told(run.id)[1], 60, what="its status")
            return run

    async def _left(self) -> None:
        """The run has left the first executor, whatever that takes."""
        async with self.house.running() as service, people(self.way, self.house, service, self.sent.id):
            await eventually((self.folder / "released").exists, 60, what="its departure")
            assert service.store.run(self.sent.id).outcome is Outcome.MOVED

    def _arrives(self, service: ExecutorService) -> None:
        """The run comes to the second executor."""
        left = Run.model_validate_json((self.folder / "released").read_text())
        command = again(left.command, next_attempt(left), checkpoint=left.checkpoint)
        raw, nonce = command.model_dump_json().encode(), "arrives"
        service.accept(command, sender=SENDER, raw=raw, headers={}, nonce=nonce, nonce_expires=2e9)

    def faults(self, run: Run) -> list[str]:
        """What is lost, doubled or untrue."""
        found = []
        if run.outcome is not Outcome.SUCCEEDED:
            found.append(f"it {run.outcome}: {run.detail}")
        began = Counter(line.split()[0] for line in lines(self.journal))
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
            if (
                record["run"]["id"] != run.id
                or self.house.work.show(tip, f"{where}/log.txt") != self.way.says
            ):
                found.append("its results are not its own")
            if not all(one["reason"] for one in record["attempts"]):
                found.append("an attempt has ended, and nobody says why")
        return found


@contextmanager
def executors() -> Iterator[Nursery]:
    """A nursery of executors."""
    with nursery("crashpoints") as nurse:
        yield nurse


def count(way: Way, folder: Path, nurse: Nursery, fault: Fault = Fault.KILLED) -> list[str]:
    """The steps of a way that nobody disturbs."""
    world = World(way, folder, nurse)
    executor = world.executor(NEVER, fault)
    try:
        return settled(world.told, lambda: world.over, what=way.name)
    finally:
        executor.kill()


def struck_at(way: Way, folder: Path, at: int, nurse: Nursery, fault: Fault = Fault.KILLED) -> list[str]:
    """Let it happen at a step, and start the next executor; what is wrong when the run has ended."""
    world = World(way, folder, nurse)
    executor = world.executor(at, fault)
    killed = fault is Fault.KILLED
    try:
        wait_until(lambda: executor.dead or (world.over and not killed), 60, what="the end")
        if executor.dead and not killed:
            return ["the executor ended"]
    except AssertionError as error:
        if not killed or len(passed(world.told)) >= at:
            return [str(error)]
    finally:
        executor.kill()
    return _after(world)


def _after(world: World) -> list[str]:
    try:
        return world.faults(asyncio.run(world.recovered()))
    except AssertionError as error:
        return [str(error)]


def main() -> int:
    """Let each fault happen at every step of every way; 1 where something was lost."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # whoever ends us leaves nothing of ours
    wrong = total = 0
    with tempfile.TemporaryDirectory(prefix="pushtrain-crash-") as name, executors() as nurse:
        for number, (fault, way) in enumerate(product(Fault, WAYS)):
            if sys.argv[1:] and not any(word in f"{way.name}, {fault}" for word in sys.argv[1:]):
                continue
            steps = count(way, Path(name) / f"w{number}", nurse, fault)
            print(f"{way.name}: {len(steps)} steps, {fault} at one", flush=True)  # noqa: T201
            for at, step in enumerate(steps, 1):
                faults = struck_at(way, Path(name) / f"w{number}-{at}", at, nurse, fault)
                wrong += bool(faults)
                total += 1
                print(f"{at:4} {step}: {'; '.join(faults) or 'recovered'}", flush=True)  # noqa: T201
    print(f"{total} steps, {wrong} of them not recovered from")  # noqa: T201
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
