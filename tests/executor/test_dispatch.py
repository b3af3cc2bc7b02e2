import signal
import subprocess
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from executor_house import House, Killable, Stuck, done, logged, reached, story

from pushtrain.core.errors import Cancelled, Conflict, StorageError
from pushtrain.core.lifecycle import Event, Exited
from pushtrain.core.values.run import Attempt, Run
from pushtrain.core.values.states import Outcome, Reason, Stage, State
from pushtrain.executor.runs import dispatch, launch, verdicts
from pushtrain.executor.runs.prepare import Preparation
from pushtrain.executor.service import ExecutorService
from pushtrain.plumbing.attempts.records import Orders
from pushtrain.plumbing.attempts.rundir import RunDir, held
from pushtrain.plumbing.disk import reserve
from pushtrain.plumbing.programs import proc
from pushtrain.plumbing.sqlite.store import Store
from pushtrain.testing import a_gpu, eventually, wait_until


@pytest.fixture
def house(tmp_path: Path) -> House:
    return House(tmp_path)


def gone(pid: int) -> bool:
    found = proc.stat(pid)
    return found is None or found.state in "ZX"


def folder(house: House, run: Run, number: int = 1) -> RunDir:
    return RunDir.of(house.state.runs, run.id, number)


def kinds(service: ExecutorService, run: Run) -> list[str]:
    return [event.kind for event in service.store.events(run.id)]


# --- the straight line ------------------------------------------------------------------------------------


@story
async def test_a_run_goes_from_accepted_to_published(house: House) -> None:
    house.commit({"train.py": "print('training')"})
    async with house.running() as service:
        run = await done(service, house.send(service, "python train.py"))
        assert (run.outcome, run.attempt, run.gpus) == (Outcome.SUCCEEDED, 1, ())
        assert house.result(run, "log.txt") == "training"
        assert kinds(service, run) == ["accepted", "claimed", "prepared", "exited", "published"]
        (attempt,) = service.store.attempts(run.id)
    assert (attempt.exit_code, attempt.reason, attempt.log_size) == (0, Reason.EXITED, 9)
    assert [stage.stage for stage in attempt.stages] == [
        Stage.QUEUE,
        Stage.FETCH,
        Stage.CHECKOUT,
        Stage.ENVIRONMENT,
        Stage.TRAIN,
    ]
    assert attempt.started_at is not None
    assert attempt.ended_at is not None
    assert attempt.claimed_at <= attempt.started_at <= attempt.ended_at


@story
async def test_a_failed_run_publishes_its_log(house: House) -> None:
    async with house.running() as service:
        run = await done(service, house.send(service, "echo before the end; exit 3"))
        assert (run.outcome, run.reason, run.detail) == (
            Outcome.FAILED,
            Reason.EXITED,
            "The command ended with exit code 3.",
        )
        assert house.result(run, "log.txt") == "before the end"


@story
async def test_the_work_folder_goes_and_the_log_stays(house: House) -> None:
    async with house.running() as service:
        run = await done(service, house.send(service, "echo kept; touch made"))
        at = folder(house, run)
        await eventually(lambda: not (at.tree.exists() or at.tmp.exists() or at.checkpoint.exists()))
        assert service.shown.log_chunk(run.id, 1, 0, 100).data == b"kept\n"


@story
async def test_a_setup_that_fails_is_told_as_such(house: House) -> None:
    async with house.running() as service:
        run = await done(service, house.send(service, "true", setup=("echo ok", "exit 9")))
        assert (run.outcome, run.reason) == (Outcome.FAILED, Reason.SETUP)
        assert run.detail == "The setup command `exit 9` ended with exit code 9."


@story
async def test_a_timeout_is_failed_with_that_reason(house: House) -> None:
    async with house.running() as service:
        run = await done(service, house.send(service, "sleep 60", timeout=0.3))
        assert (run.outcome, run.reason) == (Outcome.FAILED, Reason.TIMEOUT)
        assert run.detail == "The training ran longer than its 0.3 s and was ended."


@story
async def test_runs_start_in_order_and_never_more_than_the_slots(house: House) -> None:
    async with house.running() as service:
        runs = [house.send(service, "sleep 0.05") for _ in range(4)]
        for run in runs:
            await done(service, run)
        attempts = [service.store.attempts(run.id)[0] for run in runs]
    for earlier, later in pairwise(attempts):
        assert earlier.ended_at is not None
        assert earlier.ended_at <= later.claimed_at


@story
async def test_two_slots_run_two_at_once(tmp_path: Path) -> None:
    house = House(tmp_path, slots=2)
    meet = "touch {0}; until test -e {1}; do :; done"
    one, two = tmp_path / "one", tmp_path / "two"
    async with house.running() as service:
        runs = [house.send(service, meet.format(*pair)) for pair in ((one, two), (two, one))]
        for run in runs:
            assert (await done(service, run)).outcome is Outcome.SUCCEEDED


@story
async def test_a_run_sees_the_gpus_it_was_given_and_no_others(house: House) -> None:
    house.gpus = (a_gpu(0), a_gpu(1))
    job = "echo [$CUDA_VISIBLE_DEVICES]"
    async with house.running() as service:
        two = await done(service, house.send(service, job, resources={"gpus": 2}))
        none = await done(service, house.send(service, job))
        assert two.outcome is Outcome.SUCCEEDED, two.detail
        assert house.result(two, "log.txt") == f"[{house.gpus[0].uuid},{house.gpus[1].uuid}]"
        assert house.result(none, "log.txt") == "[]"


@story
async def test_nothing_of_the_executors_environment_reaches_a_job_but_the_list(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PUSHTRAIN_GIT_TOKEN", "s3cr3t-token")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s3cr3t-aws")
    monkeypatch.setenv("https_proxy", "http://user:s3cr3t@proxy:3128")
    monkeypatch.setenv("http_proxy", "http://proxy:3128")
    async with house.running() as service:
        run = await done(service, house.send(service, ("env", "-0"), env={"OWN": "value"}, cell={"lr": 0.1}))
        data = service.shown.log_chunk(run.id, 1, 0, 100_000).data.decode()
    env = dict(line.split("=", 1) for line in data.split("\0") if line)
    assert "s3cr3t" not in data
    assert env["http_proxy"] == "http://proxy:3128"
    assert env["OWN"] == "value"
    assert env["PUSHTRAIN_PARAM_LR"] == "0.1"
    assert env["GITHUB_SHA"] == run.command.commit
    ours = {
        "OWN",
        "http_proxy",
        "no_proxy",
        "NO_PROXY",
        "CI",
        "CUDA_VISIBLE_DEVICES",
        "CUDA_DEVICE_ORDER",
        "NVIDIA_VISIBLE_DEVICES",
        "HOME",
        "PATH",
        "PYTHONPATH",
        "TMPDIR",
    }
    known = {"LANG", "TZ", "LC_ALL", "XDG_CACHE_HOME", "TORCH_HOME", "HF_HOME"} | ours
    certificates = {"SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"}
    rest = {name for name in env if not name.startswith(("PUSHTRAIN", "GITHUB_"))}
    assert rest <= known | certificates


# --- cancel in every state --------------------------------------------------------------------------------


@story
async def test_a_queued_run_is_cancelled_at_once_and_published(house: House) -> None:
    async with house.running() as service:
        first = house.send(service, "sleep 60")
        await reached(service, first, State.RUNNING)
        second = house.send(service, "echo never")
        service.cancel(second.id, by="ada")
        second = await done(service, second)
        assert (second.outcome, second.attempt) == (Outcome.CANCELLED, 0)
        service.cancel(first.id, by="ada")
        await done(service, first)


@story
async def test_a_run_is_cancelled_while_it_is_prepared(house: House) -> None:
    house.environments = {"system": Stuck()}
    (house.folder / "stuck").touch()
    async with house.running() as service:
        run = house.send(service, "echo never")
        note = house.folder / "stuck.pid"
        await eventually(lambda: note.exists() and note.read_text().strip())
        assert service.shown.view(run.id).progress is not None
        service.cancel(run.id, by="ada")
        run = await done(service, run)
        assert (run.outcome, run.detail) == (Outcome.CANCELLED, "Cancelled by ada.")
        assert gone(int(note.read_text()))
        assert kinds(service, run) == ["accepted", "claimed", "cancel-requested", "cancelled", "published"]


@story
async def test_a_running_run_is_cancelled_with_its_whole_tree(house: House) -> None:
    async with house.running() as service:
        job = "(setsid bash -c 'trap \"\" TERM; echo pid $$; while :; do sleep 1; done' &); sleep 60"
        run = house.send(service, job)
        log = await logged(service, run, "pid ")
        service.cancel(run.id, by="ada")
        run = await done(service, run)
        assert (run.outcome, run.reason, run.detail) == (
            Outcome.CANCELLED,
            Reason.CANCELLED,
            "Cancelled by ada.",
        )
        assert gone(int(log.split()[1]))


@story
async def test_cancelling_after_the_end_is_a_conflict(house: House) -> None:
    async with house.running() as service:
        run = await done(service, house.send(service, "true"))
        with pytest.raises(Conflict):
            service.cancel(run.id, by="ada")


# --- death ------------------------------------------------------------------------------------------------


@story
async def test_a_killed_shim_is_a_lost_run_and_the_command_is_dead(house: House) -> None:
    async with house.running() as service:
        run = house.send(service, "setsid sleep 61 & echo pid $$ $!; wait", retry={"lost": 0})
        log = await logged(service, run, "pid ")
        shim = launch.find(folder(house, run))
        assert shim is not None
        proc.send(shim.pid, shim.start, signal.SIGKILL)
        run = await done(service, run)
        assert (run.outcome, run.reason) == (Outcome.LOST, Reason.LOST)
        assert all(gone(int(pid)) for pid in log.split()[1:3])
        assert "pid " in house.result(run, "log.txt")


@story
async def test_what_a_job_said_before_its_shim_was_killed_is_in_its_log(house: House) -> None:
    """Also what the shim had not got round to copying, and with no executor there."""
    go, said = house.folder / "go", house.folder / "said"
    script = f"echo begun; until test -e {go}; do sleep 0.02; done; seq 5000; touch {said}; sleep 60"
    async with house.running() as service:
        run = house.send(service, script, retry={"lost": 0})
        await logged(service, run, "begun")
    shim = launch.find(folder(house, run))
    assert shim is not None
    proc.send(shim.pid, shim.start, signal.SIGSTOP)
    go.touch()
    await eventually(said.exists, what="the last line")
    proc.send(shim.pid, shim.start, signal.SIGKILL)
    async with house.running() as service:
        run = await done(service, run)
        assert run.outcome is Outcome.LOST
        assert house.result(run, "log.txt").split() == ["begun", *map(str, range(1, 5001))]


@story
async def test_stopping_the_executor_leaves_the_training_and_the_next_one_takes_it_up(house: House) -> None:
    go = house.folder / "go"
    async with house.running() as service:
        run = house.send(service, f"echo started; until test -e {go}; do sleep 0.02; done; echo finished")
        await logged(service, run, "started")
    assert held(folder(house, run).lock)
    async with house.running() as service:
        assert service.store.run(run.id).state is State.RUNNING
        go.touch()
        run = await done(service, run)
        assert (run.outcome, run.attempt) == (Outcome.SUCCEEDED, 1)
        assert house.result(run, "log.txt") == "started\nfinished"


@story
async def test_a_run_that_is_cancelled_while_the_executor_takes_it_up_ends(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with house.running() as service:
        run = house.send(service, "echo started; sleep 60")
        await logged(service, run, "started")
    attempts = Store.attempts

    def cancelled_meanwhile(store: Store, run_id: str) -> list[Attempt]:
        monkeypatch.setattr(Store, "attempts", attempts)
        service.cancel(run.id, by="ada")
        return attempts(store, run_id)

    monkeypatch.setattr(Store, "attempts", cancelled_meanwhile)
    async with house.running() as service:
        run = await done(service, run)
        assert run.outcome is Outcome.CANCELLED


@story
async def test_a_run_cancelled_after_adoption_ends(house: House) -> None:
    async with house.running() as service:
        run = house.send(service, "echo started; sleep 60")
        await logged(service, run, "started")
    async with house.running() as service:
        service.cancel(run.id, by="ada")
        assert (await done(service, run)).outcome is Outcome.CANCELLED


@story
async def test_a_wish_to_cancel_outlives_the_executor(house: House) -> None:
    async with house.running() as service:
        run = house.send(service, "echo started; sleep 60")
        await logged(service, run, "started")
    store = Store(house.state.store)
    store.request_cancel(run.id, by="ada")
    store.close()
    async with house.running() as service:
        assert (await done(service, run)).outcome is Outcome.CANCELLED


async def kill_at(house: House, there: Callable[[], Any], **options: Any) -> None:
    """Have an executor in a process of its own work until a condition holds, then kill it."""
    killable = Killable(house, **options)
    try:
        await eventually(there, 20, what="the moment to kill")
    finally:
        killable.kill()


def accepted(house: House, command: str, **changes: Any) -> Run:
    """Have a run accepted by an executor that does nothing else."""
    service = house.open()
    run = house.send(service, command, **changes)
    service.store.close()
    return run


@story
async def test_killed_while_queued_the_run_still_lands(house: House) -> None:
    run = accepted(house, "echo landed")
    async with house.running() as service:
        assert (await done(service, run)).outcome is Outcome.SUCCEEDED


@story
async def test_killed_while_preparing_the_run_is_prepared_anew_and_the_tools_are_dead(house: House) -> None:
    run = accepted(house, "echo landed")
    flag, note = house.folder / "stuck", house.folder / "stuck.pid"
    flag.touch()
    await kill_at(house, lambda: note.exists() and note.read_text().strip(), environment="Stuck")
    flag.unlink()
    house.environments = {"system": Stuck()}
    async with house.running() as service:
        run = await done(service, run)
        assert (run.outcome, run.attempt) == (Outcome.SUCCEEDED, 2)
        assert "requeued" in kinds(service, run)
        assert service.store.attempts(run.id)[0].reason is Reason.INTERRUPTED
    assert gone(int(note.read_text()))


@story
async def test_killed_while_running_the_same_attempt_goes_on(house: House) -> None:
    go = house.folder / "go"
    run = accepted(house, f"echo started; until test -e {go}; do sleep 0.02; done; echo finished")
    log = folder(house, run).log
    await kill_at(house, lambda: log.exists() and log.read_text())
    async with house.running() as service:
        go.touch()
        run = await done(service, run)
        assert (run.outcome, run.attempt) == (Outcome.SUCCEEDED, 1)
        assert house.result(run, "log.txt") == "started\nfinished"


@story
async def test_a_training_that_ends_while_no_executor_lives_is_published_later(house: House) -> None:
    go = house.folder / "go"
    run = accepted(house, f"echo started; until test -e {go}; do sleep 0.02; done; exit 4")
    at = folder(house, run)
    await kill_at(house, lambda: at.log.exists() and at.log.read_text())
    go.touch()
    wait_until(at.exit.exists)
    wait_until(lambda: not held(at.lock))
    async with house.running() as service:
        run = await done(service, run)
        assert (run.outcome, run.reason, run.attempt) == (Outcome.FAILED, Reason.EXITED, 1)


@story
async def test_executor_and_shim_killed_together_is_a_lost_run(house: House) -> None:
    run = accepted(house, "echo pid $$; sleep 60", retry={"lost": 0})
    at = folder(house, run)
    await kill_at(house, lambda: at.log.exists() and at.log.read_text())
    shim = launch.find(at)
    assert shim is not None
    proc.send(shim.pid, shim.start, signal.SIGKILL)
    async with house.running() as service:
        run = await done(service, run)
        assert run.outcome is Outcome.LOST
    assert gone(int(at.log.read_text().split()[1]))


@story
async def test_killed_while_publishing_the_result_still_lands(house: House) -> None:
    away = house.origin.with_suffix(".away")
    run = accepted(house, f"echo landed; mv {house.origin} {away}")
    await kill_at(house, folder(house, run).exit.exists)
    away.rename(house.origin)
    async with house.running() as service:
        run = await done(service, run)
        assert house.result(run, "log.txt") == "landed"


# --- publishing -------------------------------------------------------------------------------------------


@story
async def test_results_wait_while_the_remote_is_away_and_hold_no_slot(house: House) -> None:
    away = house.origin.with_suffix(".away")
    async with house.running() as service:
        first = house.send(service, f"mv {house.origin} {away}")
        first = await reached(service, first, State.PUBLISHING)

        def waits() -> Run | None:
            found = service.store.run(first.id)
            return found if found.publish_tries else None

        waiting = await eventually(waits)
        assert waiting.waiting_for
        assert waiting.not_before > waiting.updated_at
        assert service.capacity().free_slots == 1
        away.rename(house.origin)
        first = await done(service, first)
        assert first.outcome is Outcome.SUCCEEDED
        assert kinds(service, first)[-2:] == ["publishfailed", "published"]


@story
async def test_a_preparation_that_gives_up_though_nobody_wants_it_to_ends_its_run(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would stand as being prepared, with what it holds, until the next start."""

    def gives_up(_: Preparation) -> Orders:
        raise Cancelled("Another part of the preparation failed.")

    monkeypatch.setattr(Preparation, "orders", gives_up)
    async with house.running() as service:
        run = await done(service, house.send(service, "true"))
    assert (run.outcome, run.reason) == (Outcome.FAILED, Reason.INTERNAL)
    assert "Another part of the preparation failed." in run.detail


# --- a full disk ------------------------------------------------------------------------------------------


@story
async def test_a_job_that_filled_the_disk_ends_because_what_only_it_needed_is_given_up(
    house: House, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(dispatch, "_FIRST_PAUSE", 0.01)
    advance = Store.advance
    tries: list[tuple[bool, bool]] = []

    def full(store: Store, run_id: str, event: Event, **rest: Any) -> Run:
        (tmp,) = house.state.runs.glob("*/1/job/tmp") if not tries else (None,)
        if isinstance(event, Exited) and len(tries) < 3:
            tries.append((tmp is not None and (tmp / "scratch").exists(), house.state.reserve.exists()))
            raise StorageError("The store cannot be used: the disk is full.")
        return advance(store, run_id, event, **rest)

    monkeypatch.setattr(Store, "advance", full)
    async with house.running() as service:
        run = house.send(
            service, "echo scratch > $TMPDIR/scratch; echo kept > $PUSHTRAIN_RESULTS_DIR/kept.txt"
        )
        run = await done(service, run)
        assert house.result(run, "files/kept.txt") == "kept"
    assert tries == [(True, True), (False, False), (False, False)]
    told = [record for record in caplog.records if "disk is full" in record.getMessage()]
    assert len(told) == 1
    assert told[0].exc_info is None


@story
@pytest.mark.parametrize("at", ["event_of", "tried_again"])
async def test_a_run_whose_end_cannot_be_written_down_for_another_reason_than_the_disk_fails_and_lets_go(
    house: House, monkeypatch: pytest.MonkeyPatch, at: str
) -> None:
    """A defect that only this run meets, met every time: nobody else's slot is gone for it."""
    monkeypatch.setattr(dispatch, "_FIRST_PAUSE", 0.01)
    real = getattr(verdicts, at)

    def defective(first: Any, run: Any, *rest: Any, **more: Any) -> Any:
        job = (run if at == "event_of" else first).command.job
        if "poison" in str(job.command):
            raise ValueError("this run is too much")
        return real(first, run, *rest, **more)

    monkeypatch.setattr(verdicts, at, defective)
    async with house.running() as service:
        poisoned = house.send(service, "echo poison")
        healthy = house.send(service, "echo fine")
        run = await done(service, poisoned)
        assert (run.outcome, run.reason) == (Outcome.FAILED, Reason.INTERNAL)
        assert "this run is too much" in run.detail
        assert house.result(run, "log.txt") == "poison"
        assert (await done(service, healthy)).outcome is Outcome.SUCCEEDED


@story
async def test_a_reserve_that_was_given_up_is_put_by_again(house: House) -> None:
    house.state.create()
    async with house.running() as service:
        await done(service, house.send(service, "true"))
        assert house.state.reserve.stat().st_blocks * 512 >= reserve.SIZE
        reserve.give_up(house.state.reserve)
        await done(service, house.send(service, "true"))
        assert house.state.reserve.exists()


# --- any order of events ----------------------------------------------------------------------------------


@pytest.mark.slow
@story
async def test_runs_land_exactly_once_though_the_executor_is_killed_again_and_again(tmp_path: Path) -> None:
    house = House(tmp_path, slots=2)
    runs = [accepted(house, f"sleep 0.0{number}; echo run {number}") for number in range(8)]
    for number in range(8):
        killable = Killable(house, slots=2)
        try:
            killable.process.wait(0.45 + 0.03 * number)
        except subprocess.TimeoutExpired:
            killable.kill()
    async with house.running() as service:
        for number, sent in enumerate(runs):
            run = await done(service, sent)
            assert run.outcome is Outcome.SUCCEEDED, kinds(service, run)
            assert house.result(run, "log.txt") == f"run {number}"
    tip = house.work.fetch("pushtrain/results")
    records = [path for path in house.work.files(tip) if path.endswith("run.json")]
    assert len(records) == len(runs)
