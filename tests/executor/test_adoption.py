"""An executor that starts anew, or is a newer one, takes up everything that runs: within two seconds."""

import json
import py_compile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from executor_house import House, done, logged, reached, story

from pushtrain.core.values.states import Outcome, Reason, Stage, State
from pushtrain.core.values.value import Value
from pushtrain.executor.runs import launch
from pushtrain.plumbing.attempts.records import write_bytes
from pushtrain.testing import eventually

AT_THE_GATE = "echo begun; while [ ! -e gate ]; do sleep 0.1; done; echo through"
OLDER = Path(__file__).parents[1] / "fixtures/shim/2026-11-27.zip"
"""The shim as it was that day, with what was compiled to lie beside it."""
PROMISED = 2.0
"""Seconds after its start within which an executor has taken up every run."""


@pytest.mark.slow
@story
async def test_twenty_running_attempts_are_taken_up_within_two_seconds_logs_and_timeouts_included(
    tmp_path: Path,
) -> None:
    house = House(tmp_path, slots=21)
    async with house.running() as service:
        runs = [house.send(service, AT_THE_GATE) for _ in range(20)]
        short = house.send(service, "echo begun; sleep 600", timeout=2.0)
        for run in (*runs, short):
            await reached(service, run, State.RUNNING, seconds=60)
            await logged(service, run, "begun")
    house.open().store.close()
    began = time.monotonic()
    async with house.running() as service:

        def adopted() -> bool:
            found = [service.shown.view(run.id).progress for run in runs]
            return all(one is not None and one.stage is Stage.TRAIN for one in found)

        await eventually(adopted, PROMISED, what="every run to be taken up")
        took = time.monotonic() - began
        assert took <= PROMISED
        assert (await done(service, short)).reason is Reason.TIMEOUT
        for run in runs:
            (house.state.runs / run.id / "1/job/tree/gate").touch()
        for run in runs:
            ended = await done(service, run, seconds=60)
            assert (ended.outcome, ended.attempt) == (Outcome.SUCCEEDED, 1)
            assert service.shown.log_chunk(run.id, 1, 0, 1000).data == b"begun\nthrough\n"


@pytest.fixture
def older(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Have attempts started as an earlier version did, with its shim and its orders; call it to upgrade."""
    folder = tmp_path / "older"
    with zipfile.ZipFile(OLDER) as archive:
        archive.extractall(folder)
    for source in folder.glob("*.py"):
        py_compile.compile(str(source), str(source.with_suffix(".pyc")), doraise=True)

    def write_as_then(path: Path, value: Value, *, durable: bool = True) -> None:
        known = value.model_dump(mode="json", exclude={"preempt_signal", "stop_file"})
        write_bytes(path, json.dumps(known).encode(), durable=durable)

    monkeypatch.setattr(launch, "compile_shim", lambda _: folder / "shim.pyc")
    monkeypatch.setattr(launch, "write_record", write_as_then)
    return monkeypatch.undo


@story
async def test_a_newer_executor_looks_after_the_attempts_of_an_older_shim(
    tmp_path: Path, older: Callable[[], None]
) -> None:
    house = House(tmp_path / "house", slots=4)
    async with house.running() as service:
        through, cancelled, preempted = (house.send(service, AT_THE_GATE) for _ in range(3))
        short = house.send(service, "echo begun; sleep 600", timeout=1.0)
        for run in (through, cancelled, preempted, short):
            await reached(service, run, State.RUNNING)
            await logged(service, run, "begun")
    older()
    async with house.running() as service:
        await eventually(lambda: service.shown.view(through.id).progress, what="the attempts to be taken up")
        service.cancel(cancelled.id, by="ada")
        ended = await done(service, cancelled)
        assert (ended.outcome, ended.reason) == (Outcome.CANCELLED, Reason.CANCELLED)
        service._dispatch.preempt(preempted.id, reason=Reason.PREEMPTED, detail="Wanted back.", grace=5)
        await eventually(lambda: service.store.run(preempted.id).attempt == 2, what="the second attempt")
        assert (await done(service, short)).reason is Reason.TIMEOUT
        gates = ((through, 1), (preempted, 2))
        for run, attempt in gates:
            await logged(service, run, "begun")
            (house.state.runs / run.id / f"{attempt}/job/tree/gate").touch()
        for run, attempt in gates:
            ended = await done(service, run)
            assert (ended.outcome, ended.attempt) == (Outcome.SUCCEEDED, attempt)
            assert service.shown.log_chunk(run.id, attempt, 0, 1000).data == b"begun\nthrough\n"
