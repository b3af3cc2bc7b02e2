"""A run whose machine is taken back ends, and goes on as its next attempt; whoever dies in between."""

import asyncio
import json
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from executor_house import House, Killable, Stuck, done, logged, reached, story

from pushtrain.core.errors import StorageError
from pushtrain.core.lifecycle import Event, Requeued
from pushtrain.core.values.run import Attempt, Run
from pushtrain.core.values.states import Outcome, Reason, State
from pushtrain.executor.runs import launch
from pushtrain.executor.service import ExecutorService
from pushtrain.plumbing.attempts.records import StopOrder
from pushtrain.plumbing.attempts.rundir import RunDir
from pushtrain.plumbing.programs import proc
from pushtrain.plumbing.sqlite.store import Store
from pushtrain.testing import eventually, wait_until

RESUMES = """
import os, signal, sys
at = os.path.join(os.environ["PUSHTRAIN_CHECKPOINT_DIR"], "step")
if os.environ.get("PUSHTRAIN_RESUME"):
    print("resumed at", open(at).read(), flush=True)
    sys.exit(0)
def save(*_):
    open(at, "w").write("7")
    print("saved", flush=True)
    sys.exit(int(os.environ["THEN"]))
signal.signal(signal.SIGTERM, save)
print("ready", flush=True)
while True:
    signal.pause()
"""


@pytest.fixture
def house(tmp_path: Path) -> House:
    house = House(tmp_path)
    house.commit({"train.py": RESUMES})
    return house


def resumes(house: House, service: ExecutorService, code: int = 85) -> Run:
    return house.send(service, "python train.py", env={"THEN": str(code)})


def folder(house: House, run: Run, number: int = 1) -> RunDir:
    return RunDir.of(house.state.runs, run.id, number)


def kinds(service: ExecutorService, run: Run) -> list[str]:
    return [event.kind for event in service.store.events(run.id)]


def reasons(service: ExecutorService, run: Run) -> list[Reason]:
    return [attempt.reason for attempt in service.store.attempts(run.id)]


def preempt(service: ExecutorService, run: Run, grace: float = 20) -> None:
    service.preempt(run.id, reason=Reason.PREEMPTED, detail="the owner is back", grace=grace)


@story
async def test_what_earlier_attempts_said_is_published_too(house: House) -> None:
    async with house.running() as service:
        run = resumes(house, service, 85)
        await logged(service, run, "ready")
        preempt(service, run)
        run = await done(service, run)
        assert house.result(run, "log.txt") == "resumed at 7"
        assert house.result(run, "log-1.txt").startswith("ready")
        record = json.loads(house.result(run, "run.json"))
        assert record["earlier_logs"]["1"]["left_out"] == 0
        assert "[1](log-1.txt)" in house.result(run, "README.md")


@pytest.mark.parametrize(
    ("code", "reason"), [(85, Reason.CHECKPOINTED), (0, Reason.PREEMPTED), (3, Reason.PREEMPTED)]
)
@story
async def test_a_preempted_run_goes_on_from_its_checkpoint(house: House, code: int, reason: Reason) -> None:
    async with house.running() as service:
        run = resumes(house, service, code)
        await logged(service, run, "ready")
        preempt(service, run)
        run = await done(service, run)
        assert (run.outcome, run.attempt) == (Outcome.SUCCEEDED, 2)
        assert house.result(run, "log.txt") == "resumed at 7"
        assert kinds(service, run) == [
            *("accepted", "claimed", "prepared", "preempt-requested", "requeued"),
            *("claimed", "prepared", "exited", "published"),
        ]
        first, second = service.store.attempts(run.id)
    assert (first.reason, first.detail, first.exit_code) == (reason, "the owner is back", code)
    assert second.reason is Reason.EXITED
    assert not run.preempt_requested


@story
async def test_a_command_that_says_85_by_itself_is_started_again(house: House) -> None:
    async with house.running() as service:
        job = 'test -n "$PUSHTRAIN_RESUME" && exit; touch $PUSHTRAIN_CHECKPOINT_DIR/x; exit 85'
        run = await done(service, house.send(service, job))
        assert (run.outcome, run.attempt) == (Outcome.SUCCEEDED, 2)
        assert reasons(service, run) == [Reason.CHECKPOINTED, Reason.EXITED]


@story
async def test_what_an_attempt_had_for_itself_goes_when_another_follows(house: House) -> None:
    async with house.running() as service:
        second = "test $PUSHTRAIN_ATTEMPT = 2 && exec sleep 600"
        first = "touch $TMPDIR/x; echo {} > $PUSHTRAIN_METRICS; exit 85"
        run = house.send(service, f"{second}; {first}")
        await eventually(lambda: service.store.run(run.id).attempt == 2)
        at = folder(house, run)
        await eventually(lambda: not (at.tree.exists() or at.tmp.exists() or at.overlay.exists()))
        assert (at.before / "metrics-000001.jsonl").exists()
        assert at.log.exists()
        service.cancel(run.id, by="ada")
        await done(service, run)


@story
async def test_a_run_is_preempted_while_it_is_prepared_and_prepared_anew(house: House) -> None:
    house.environments = {"system": Stuck()}
    flag, note = house.folder / "stuck", house.folder / "stuck.pid"
    flag.touch()
    async with house.running() as service:
        run = house.send(service, "echo landed")
        await eventually(lambda: note.exists() and note.read_text().strip())
        flag.unlink()
        preempt(service, run)
        run = await done(service, run)
        assert (run.outcome, run.attempt) == (Outcome.SUCCEEDED, 2)
        assert reasons(service, run) == [Reason.PREEMPTED, Reason.EXITED]


@story
async def test_whoever_cancels_during_the_grace_has_it_cancelled(house: House) -> None:
    async with house.running() as service:
        run = house.send(service, "trap '' TERM; echo ready; while :; do sleep 0.05; done")
        await logged(service, run, "ready")
        preempt(service, run, 600)
        service.cancel(run.id, by="ada")
        preempt(service, run, 0)
        run = await done(service, run)
        assert (run.outcome, run.reason, run.attempt) == (Outcome.CANCELLED, Reason.CANCELLED, 1)


@story
async def test_a_cancel_that_comes_while_the_end_is_written_down_is_heeded(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    advance = Store.advance

    def cancelled_first(store: Store, run_id: str, event: Event, **rest: Any) -> Run:
        if isinstance(event, Requeued):
            store.request_cancel(run_id, by="ada")
        return advance(store, run_id, event, **rest)

    monkeypatch.setattr(Store, "advance", cancelled_first)
    async with house.running() as service:
        run = await done(service, house.send(service, "exit 85"))
        assert (run.outcome, run.reason) == (Outcome.CANCELLED, Reason.CANCELLED)


@story
async def test_a_run_that_is_not_active_is_left_alone(house: House) -> None:
    async with house.running() as service:
        run = await done(service, house.send(service, "true"))
        preempt(service, run)
        assert service.store.run(run.id) == run


@story
async def test_a_full_disk_cannot_turn_a_preempted_run_into_a_cancelled_one(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise StorageError("The disk is full.")

    async with house.running() as service:
        run = resumes(house, service)
        await logged(service, run, "ready")
        with monkeypatch.context() as patch:
            patch.setattr(launch, "write_record", full)
            preempt(service, run)
        run = await done(service, run)
        assert run.outcome is Outcome.SUCCEEDED
        assert reasons(service, run) == [Reason.CHECKPOINTED, Reason.EXITED]
        assert service.store.attempts(run.id)[0].detail == "the owner is back"


# --- death ------------------------------------------------------------------------------------------------


async def ready(house: House, **job: Any) -> tuple[Run, Killable]:
    """A run that a killable executor has brought so far that it waits for its end."""
    service = house.open()
    run = house.send(service, "python train.py", env={"THEN": "85"}, **job)
    service.store.close()
    killable = Killable(house)
    log = folder(house, run).log
    try:
        await eventually(lambda: log.exists() and "ready" in log.read_text(), 20)
    except BaseException:
        killable.kill()
        raise
    return run, killable


def ask(house: House, run: Run, *moments: str) -> None:
    """Do of a preemption what an executor had done until it was killed."""
    at = folder(house, run)
    shim = launch.find(at)
    assert shim is not None
    if "order" in moments:
        order = StopOrder(reason=Reason.PREEMPTED, detail="the owner is back", grace=20)
        at.stop.write_text(order.model_dump_json())
    if "note" in moments:
        store = Store(house.state.store)
        store.request_preempt(run.id, token=store.run(run.id).token, detail="the owner is back")
        store.close()
    if "signal" in moments:
        proc.send(shim.pid, shim.start, signal.SIGTERM)


@pytest.mark.parametrize(
    "moments", [("order",), ("order", "note"), ("note",), ("order", "signal"), ("order", "note", "signal")]
)
@pytest.mark.slow
@story
async def test_killed_in_the_middle_of_a_preemption_the_run_is_started_again_once(
    house: House, moments: tuple[str, ...]
) -> None:
    run, killable = await ready(house)
    killable.kill()
    await asyncio.to_thread(ask, house, run, *moments)
    async with house.running() as service:
        run = await done(service, run)
        assert (run.outcome, run.attempt) == (Outcome.SUCCEEDED, 2)
        assert kinds(service, run).count("requeued") == 1
        assert reasons(service, run) == [Reason.CHECKPOINTED, Reason.EXITED]
        assert house.result(run, "log.txt") == "resumed at 7"


@story
async def test_preempted_while_it_was_prepared_and_killed_the_run_says_so(house: House) -> None:
    service = house.open()
    run = house.send(service, "python train.py", env={"THEN": "85"})
    claimed, attempt = service.store.claim(slots=1, gpus=(), executor="lab") or pytest.fail(
        "nothing to claim"
    )
    assert isinstance(attempt, Attempt)
    service.store.request_preempt(run.id, token=claimed.token, detail="the owner is back")
    service.store.close()
    async with house.running() as service:
        await reached(service, run, State.RUNNING)
        assert reasons(service, run)[0] is Reason.PREEMPTED
        service.cancel(run.id, by="ada")
        await done(service, run)


# --- retries ----------------------------------------------------------------------------------------------


@story
async def test_a_time_that_comes_right_after_the_look_for_runs_is_not_slept_through(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that was not due at the look, and was past due when it was asked for how long to sleep."""
    claim = Store.claim

    def and_then_time_passes(store: Store, **how: Any) -> tuple[Run, Attempt] | None:
        found = claim(store, **how)
        times = [run.not_before for run in store.runs(states=(State.QUEUED,))]
        if found is None and times:
            wait_until(lambda: time.time() > max(times))
        return found

    monkeypatch.setattr(Store, "claim", and_then_time_passes)
    async with house.running() as service:
        run = house.send(service, "exit $((2 - PUSHTRAIN_ATTEMPT))", retry={"failed": 1, "backoff": 0.3})
        assert (await done(service, run)).outcome is Outcome.SUCCEEDED


@story
async def test_a_lost_attempt_is_tried_again_and_goes_on_from_its_checkpoint(house: House) -> None:
    async with house.running() as service:
        first = "touch $PUSHTRAIN_CHECKPOINT_DIR/x; exec sleep 600"
        job = f"echo $PUSHTRAIN_RESUME.; test $PUSHTRAIN_RESUME || {{ {first}; }}"
        run = house.send(service, job, retry={"backoff": 0.01})
        await eventually((folder(house, run).checkpoint / "x").exists)
        shim = launch.find(folder(house, run))
        assert shim is not None
        proc.send(shim.pid, shim.start, signal.SIGKILL)
        run = await done(service, run)
        assert (run.outcome, run.attempt) == (Outcome.SUCCEEDED, 2)
        assert reasons(service, run) == [Reason.LOST, Reason.EXITED]
        assert house.result(run, "log.txt") == "1."


@story
async def test_a_failed_command_is_tried_as_often_as_the_job_asks_and_every_try_is_told(house: House) -> None:
    async with house.running() as service:
        retry = {"failed": 1, "exit_codes": {75: 1}, "backoff": 0.01}
        metric = '{"step": \'$PUSHTRAIN_ATTEMPT\', "loss": 0.5}'
        job = f"echo '{metric}' > $PUSHTRAIN_METRICS; exit $((77 - PUSHTRAIN_ATTEMPT * 2))"
        run = await done(service, house.send(service, job, retry=retry))
        assert (run.outcome, run.reason, run.detail) == (
            Outcome.FAILED,
            Reason.EXITED,
            "The command ended with exit code 71.",
        )
        attempts = service.store.attempts(run.id)
        assert [(one.exit_code, one.detail) for one in attempts] == [
            (75, "The command ended with exit code 75. It is tried again (retry 1 of 1)."),
            (73, "The command ended with exit code 73. It is tried again (retry 1 of 1)."),
            (71, "The command ended with exit code 71."),
        ]
        report = house.result(run, "README.md")
        assert "## Attempts" in report
        assert "exit code 73" in report
        record = json.loads(house.result(run, "run.json"))
        assert [one["exit_code"] for one in record["attempts"]] == [75, 73, 71]
        (series,) = json.loads(house.result(run, "metrics.json"))["series"]
        assert series["steps"] == [1, 2, 3]


@story
async def test_a_preparation_is_tried_again_only_when_the_job_asks(house: House) -> None:
    async with house.running() as service:
        no = await done(service, house.send(service, "true", workdir="nowhere", retry={"failed": 1}))
        assert (no.outcome, no.reason, no.attempt) == (Outcome.FAILED, Reason.CHECKOUT, 1)
        retry = {"failed": 1, "also": ["checkout"], "backoff": 0.01}
        run = await done(service, house.send(service, "true", workdir="nowhere", retry=retry))
        assert (run.outcome, run.reason, run.attempt) == (Outcome.FAILED, Reason.CHECKOUT, 2)


@story
async def test_a_run_that_waits_for_its_retry_can_be_cancelled(house: House) -> None:
    async with house.running() as service:
        run = house.send(service, "exit 3", retry={"failed": 1, "backoff": 3000})
        run = await reached_attempt(service, run)
        assert run.waiting_for == "The command ended with exit code 3. It is tried again (retry 1 of 1)."
        service.cancel(run.id, by="ada")
        run = await done(service, run)
        assert (run.outcome, run.attempt) == (Outcome.CANCELLED, 1)


async def reached_attempt(service: ExecutorService, run: Run) -> Run:
    """Wait until a run that was started waits again."""

    def there() -> Run | None:
        found = service.store.run(run.id)
        return found if found.state is State.QUEUED and found.attempt else None

    return await eventually(there)


@story
async def test_a_curve_is_whole_though_the_work_folder_of_an_earlier_attempt_was_collected(
    house: House,
) -> None:
    go = house.folder / "go"
    metric = '{"step": \'$PUSHTRAIN_ATTEMPT\', "loss": 0.5}'
    wait = f"until test -e {go}; do sleep 0.02; done"
    job = f"echo '{metric}' > $PUSHTRAIN_METRICS; test $PUSHTRAIN_ATTEMPT = 2 || exit 85; {wait}"
    async with house.running() as service:
        run = house.send(service, job)
        await eventually(folder(house, run, 2).metrics.exists)
        assert service._shop.upkeep.holdings.superseded() == 1
        go.touch()
        run = await done(service, run)
        assert run.outcome is Outcome.SUCCEEDED
        (series,) = json.loads(house.result(run, "metrics.json"))["series"]
    assert series["steps"] == [1, 2]
