"""A newer push to a branch and the older run of the same job, with real git."""

from pathlib import Path
from typing import Any

import pytest
from executor_house import House, _nonces, done, logged, reached, story

from pushtrain.core.values.jobspec import Concurrency, PreemptSignal
from pushtrain.core.values.run import Run
from pushtrain.core.values.states import Outcome, Reason, State
from pushtrain.executor.service import ExecutorService
from pushtrain.testing import SENDER, a_command, a_spec, eventually

SAVES = """
import os, pathlib, sys, time
if os.environ.get("PUSHTRAIN_RESUME"):
    sys.exit(0)
print("ready", flush=True)
while not os.path.exists(os.environ["PUSHTRAIN_STOP_FILE"]):
    time.sleep(0.01)
pathlib.Path(os.environ["PUSHTRAIN_CHECKPOINT_DIR"], "x").touch()
sys.exit(85)
"""


@pytest.fixture
def house(tmp_path: Path) -> House:
    return House(tmp_path)


def pushed(service: ExecutorService, commit: str, command: str, **job: Any) -> Run:
    """Have the run of a push accepted."""
    sent = a_command(commit=commit, job=a_spec(command=command, **job))
    run, _ = service.accept(
        sent,
        sender=SENDER,
        raw=sent.model_dump_json().encode(),
        headers={},
        nonce=f"nonce-{next(_nonces)}",
        nonce_expires=2e9,
    )
    return run


@story
async def test_a_newer_push_cancels_the_older_run_where_the_job_says_so(house: House) -> None:
    first = house.work.head()
    second = house.commit({"x": "2"})
    async with house.running() as service:
        older = pushed(service, first, "echo ready; sleep 600", concurrency=Concurrency.CANCEL)
        await logged(service, older, "ready")
        newer = pushed(service, second, "echo newer", concurrency=Concurrency.CANCEL)
        older = await done(service, older)
        assert (older.outcome, older.detail) == (
            Outcome.CANCELLED,
            f"Cancelled by a newer push, {second[:7]}.",
        )
        assert (await done(service, newer)).outcome is Outcome.SUCCEEDED


@story
async def test_an_older_push_that_is_delivered_last_never_supersedes_the_newer(house: House) -> None:
    first = house.work.head()
    second = house.commit({"x": "2"})
    async with house.running() as service:
        newer = pushed(service, second, "echo ready; sleep 600", concurrency=Concurrency.CANCEL)
        await logged(service, newer, "ready")
        late = await done(service, pushed(service, first, "true", concurrency=Concurrency.CANCEL))
        assert (late.outcome, late.attempt) == (Outcome.CANCELLED, 0)
        assert service.store.run(newer.id).state is State.RUNNING
        service.cancel(newer.id, by="ada")
        await done(service, newer)


@story
async def test_an_older_run_saves_and_goes_on_when_the_newer_has_ended(house: House) -> None:
    first = house.commit({"train.py": SAVES})
    second = house.commit({"x": "2"})
    go = house.folder / "go"
    async with house.running() as service:
        older = pushed(
            service,
            first,
            "exec python train.py",
            concurrency=Concurrency.CHECKPOINT,
            preempt_signal=PreemptSignal.NONE,
        )
        await logged(service, older, "ready")
        job = f"until test -e {go}; do sleep 0.02; done"
        newer = pushed(service, second, job, concurrency=Concurrency.CHECKPOINT)
        await reached(service, newer, State.RUNNING)
        waits = service.store.run(older.id)
        assert (waits.state, waits.waiting_for) == (State.QUEUED, "the run of a newer push goes first")
    async with house.running() as service:  # another life knows that it waits, and for what
        go.touch()
        assert (await done(service, newer)).outcome is Outcome.SUCCEEDED
        older = await done(service, older)
        assert (older.outcome, older.attempt, older.gives_way_to) == (Outcome.SUCCEEDED, 2, "")
        assert service.store.attempts(older.id)[0].reason in {Reason.CHECKPOINTED, Reason.PREEMPTED}


@story
async def test_an_older_run_goes_on_when_the_newer_has_left_for_another_executor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing else ends meanwhile that would have it looked at."""
    house = House(tmp_path, slots=1)
    first, second, third = house.work.head(), house.commit({"x": "2"}), house.commit({"x": "3"})
    go, looked = house.folder / "go", set[str]()
    async with house.running() as service:
        free_ways = service.store.free_ways

        def looking() -> list[str]:
            before = {run.gives_way_to for run in service.store.runs(limit=9)}
            freed = free_ways()
            looked.update(before)
            return freed

        monkeypatch.setattr(service.store, "free_ways", looking)
        other = pushed(service, third, f"until test -e {go}; do sleep 0.02; done", name="other")
        await reached(service, other, State.RUNNING)
        older = pushed(service, first, "true", concurrency=Concurrency.CHECKPOINT)
        newer = pushed(service, second, "true", concurrency=Concurrency.CHECKPOINT)
        await eventually(lambda: newer.id in looked, what="a look at ways that finds this one taken")
        service.release(newer.id, by={SENDER}, attempt=0, nonce="released", nonce_expires=2e9)
        await eventually(lambda: not service.store.run(older.id).gives_way_to)
        assert service.store.run(other.id).state is State.RUNNING
        go.touch()
        assert (await done(service, older)).outcome is Outcome.SUCCEEDED


@story
async def test_after_a_rewritten_history_the_branch_decides_which_is_newer(house: House) -> None:
    house.commit({"x": "1"})
    replaced = house.work.head()
    async with house.running() as service:
        older = pushed(service, replaced, "echo ready; sleep 600", concurrency=Concurrency.CANCEL)
        await logged(service, older, "ready")
        house.work.git("reset", "--quiet", "--hard", "HEAD~1")
        rewritten = house.work.commit({"x": "other"})
        house.work.git("push", "--quiet", "--force", "origin", "HEAD:refs/heads/main")
        newer = pushed(service, rewritten, "echo newer", concurrency=Concurrency.CANCEL)
        assert (await done(service, older)).outcome is Outcome.CANCELLED
        assert (await done(service, newer)).outcome is Outcome.SUCCEEDED


@story
async def test_without_the_setting_both_run_as_they_came(house: House) -> None:
    first = house.work.head()
    second = house.commit({"x": "2"})
    async with house.running() as service:
        runs = [pushed(service, commit, "true") for commit in (first, second)]
        assert [(await done(service, run)).outcome for run in runs] == [Outcome.SUCCEEDED] * 2


@story
async def test_what_the_executor_had_not_decided_when_it_died_is_decided_at_its_next_start(
    house: House,
) -> None:
    first = house.work.head()
    second = house.commit({"x": "2"})
    async with house.running() as service:
        older = pushed(service, first, "echo ready; sleep 600", concurrency=Concurrency.CANCEL)
        await logged(service, older, "ready")
    service = house.open()  # accepts, and is gone before it does anything else
    newer = pushed(service, second, "true", concurrency=Concurrency.CANCEL)
    service.store.close()
    async with house.running() as service:
        assert (await done(service, older)).outcome is Outcome.CANCELLED
        assert (await done(service, newer)).outcome is Outcome.SUCCEEDED
