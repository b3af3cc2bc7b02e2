import asyncio
import threading
from pathlib import Path
from typing import Any

import pytest
from executor_house import House, done, logged, reached, story

from pushtrain.core.errors import ConfigError, Forbidden, NotFound, PushtrainError, StorageError, Unauthorized
from pushtrain.core.values.jobspec import DataSource, Resources, ResultsTarget
from pushtrain.core.values.run import Attempt, Run, StageTime
from pushtrain.core.values.states import Outcome, Reason, Stage, State
from pushtrain.executor.results import courier as courier_module
from pushtrain.executor.results.courier import Courier, clear_left, pause_after
from pushtrain.executor.results.publish import Publishable, Published
from pushtrain.executor.runs import verdicts
from pushtrain.executor.service import ExecutorService
from pushtrain.plumbing.attempts.records import Verdict
from pushtrain.plumbing.attempts.rundir import RunDir
from pushtrain.plumbing.disk.trees import remove_tree
from pushtrain.plumbing.git.branch import Branch
from pushtrain.plumbing.sqlite.store import Store
from pushtrain.testing import SENDER, a_command, a_gpu, a_run, a_spec, an_attempt, eventually


@pytest.fixture
def house(tmp_path: Path) -> House:
    return House(tmp_path)


# --- accepting --------------------------------------------------------------------------------------------


def offer(
    service: ExecutorService, nonce: str = "n", *, repository: str = "github.com/octo/hello", **spec: Any
) -> tuple[Run, bool]:
    command = a_command(repository=repository, job=a_spec(**spec))
    return service.accept(
        command, sender=SENDER, raw=b"{}", headers={"signature": "s"}, nonce=nonce, nonce_expires=2e9
    )


def test_a_command_is_accepted_once_and_known_after(house: House) -> None:
    service = house.open()
    run, fresh = offer(service)
    assert (run.state, fresh) == (State.QUEUED, True)
    assert offer(service, "m") == (run, False)
    with pytest.raises(Unauthorized):
        offer(service, "m")
    service.store.close()


def test_a_repository_that_is_not_served_is_refused(house: House) -> None:
    service = house.open()
    with pytest.raises(Forbidden, match=r"github\.com/octo/other"):
        offer(service, repository="github.com/octo/other")
    with pytest.raises(Forbidden, match=r"github\.com/octo/elsewhere"):
        offer(service, results_to=ResultsTarget(repository="github.com/octo/elsewhere"))
    service.store.close()


@pytest.mark.parametrize(
    "spec",
    [
        {"resources": Resources(gpus=1)},
        {"resources": Resources(labels=("big",))},
        {"resources": Resources(cpus=4096)},
        {"resources": Resources(memory=1 << 50)},
        {"data": (DataSource(mount="imagenet", path="data"),)},
    ],
)
def test_a_job_that_can_never_run_here_is_refused_with_the_reason(house: House, spec: dict[str, Any]) -> None:
    service = house.open()
    with pytest.raises(ConfigError, match="can never run the job train"):
        offer(service, **spec)
    assert service.store.runs() == []
    service.store.close()


# --- showing ----------------------------------------------------------------------------------------------


@story
async def test_a_view_shows_the_run_as_it_goes_along(house: House) -> None:
    go = house.folder / "go"
    async with house.running() as service:
        run = house.send(service, f"echo one; until test -e {go}; do sleep 0.02; done; echo two")
        await logged(service, run, "one")
        view = service.shown.view(run.id)
        assert (view.log_size, view.run.state, view.artifacts) == (4, State.RUNNING, ())
        assert view.progress is not None
        assert view.progress.stage is Stage.TRAIN
        chunk = service.shown.log_chunk(run.id, 0, 0, 100)
        assert (chunk.data, chunk.attempt, chunk.complete) == (b"one\n", 1, False)
        go.touch()
        await done(service, run)
        assert service.shown.log_chunk(run.id, 1, 4, 100).data == b"two\n"
        assert service.shown.log_chunk(run.id, 1, 4, 100).complete
        assert service.shown.view(run.id).progress is None


def test_a_log_that_does_not_exist_yet_is_empty(house: House) -> None:
    service = house.open()
    run, _ = offer(service)
    for attempt in (0, 1, 7):
        chunk = service.shown.log_chunk(run.id, attempt, 5, 100)
        assert (chunk.data, chunk.next_offset, chunk.complete) == (b"", 5, False)
    service.cancel(run.id, by="ada")
    assert service.shown.log_chunk(run.id, 0, 0, 100).complete
    with pytest.raises(NotFound):
        service.shown.log_chunk("0" * 32, 0, 0, 100)
    service.store.close()


def test_runs_are_found_by_text_repository_and_state(house: House) -> None:
    service = house.open()
    run, _ = offer(service)
    key = run.command.repository
    shown = service.shown
    assert shown.runs() == shown.runs(repository=key) == shown.runs(find=run.id[:6]) == [run]
    assert shown.runs(find="train", repository=key, states=(State.QUEUED,)) == [run]
    assert shown.runs(find="train", states=(State.DONE,)) == []
    assert shown.runs(find="train", repository="github.com/octo/other") == []
    assert service.shown.runs(states=(State.DONE,)) == []
    service.store.close()


def test_a_cancel_uses_up_its_nonce(house: House) -> None:
    service = house.open()
    run, _ = offer(service)
    assert service.cancel(run.id, by="ada", nonce="c", nonce_expires=2e9).outcome is Outcome.CANCELLED
    with pytest.raises(Unauthorized):
        service.cancel(run.id, by="ada", nonce="c", nonce_expires=2e9)
    service.store.close()


@story
async def test_the_challenge_tells_what_is_free(house: House) -> None:
    house.gpus = (a_gpu(0), a_gpu(1))
    async with house.running() as service:
        service.url = "http://127.0.0.1:1"
        held = house.send(service, "sleep 60", resources={"gpus": 1})
        other = house.send(service, "sleep 60")
        await reached(service, held, State.RUNNING)
        await reached(service, other, State.RUNNING)
        answer = service.challenge("nonce")
        assert answer.nonce == "nonce"
        assert (answer.capacity.slots, answer.capacity.free_slots, answer.capacity.free_gpus) == (2, 1, 1)
        assert (answer.capacity.running, answer.capacity.queued) == (2, 0)
        assert answer.card.public_url == "http://127.0.0.1:1"
        assert answer.card.gpus == house.gpus
        for run in (held, other):
            service.cancel(run.id, by="ada")
            await done(service, run)


@story
async def test_subscribers_hear_of_changes_until_they_leave(house: House) -> None:
    heard: list[str] = []

    def broken(run_id: str) -> None:
        raise ValueError(run_id)

    async with house.running() as service:
        service.subscribe(broken)
        leave = service.subscribe(heard.append)
        run = await done(service, house.send(service, "true"))
        assert heard.count(run.id) >= 4
        leave()
        count = len(heard)
        await done(service, house.send(service, "true"))
        assert len(heard) == count


@story
async def test_an_artifact_is_found_by_its_path_and_never_outside(tmp_path: Path) -> None:
    house = House(tmp_path, git_file_limit=10)
    async with house.running() as service:
        job = (
            "mkdir $PUSHTRAIN_RESULTS_DIR/sub; head -c 1000 /dev/zero > $PUSHTRAIN_RESULTS_DIR/sub/model.bin"
        )
        run = await done(service, house.send(service, job))
        (kept,) = service.store.artifacts(run.id)
        assert (kept.where, kept.path) == ("executor", "sub/model.bin")
        assert service.shown.artifact_path(run.id, "sub/model.bin").stat().st_size == 1000
        pieces = [service.shown.artifact_piece(run.id, kept.path, at, 600) for at in (0, 600, 2**53)]
        assert [len(piece) for piece in pieces] == [600, 400, 0], "also where no file system has an offset"
        for path in ("../log.txt", "/etc/passwd", "sub", "other", ""):
            with pytest.raises(NotFound):
                service.shown.artifact_path(run.id, path)


def test_a_key_nobody_authorised_has_no_grant(house: House) -> None:
    service = house.open()
    assert service.admission.grant("SHA256:" + "S" * 43) is None
    service.store.close()


# --- the courier ------------------------------------------------------------------------------------------


def test_pauses_double_from_one_second_to_ten_minutes() -> None:
    assert [pause_after(tries) for tries in (0, 1, 2, 8, 9, 10, 1000)] == [1, 2, 4, 256, 512, 600, 600]


class Flaky:
    """A publisher that fails in a way of its own first."""

    def __init__(self, failure: Exception | None) -> None:
        self.failure = failure
        self.batches: list[int] = []

    def publish(
        self, batch: list[Publishable], *, stop: object = None
    ) -> dict[str, Published | PushtrainError]:
        assert callable(stop)
        self.batches.append(len(batch))
        if self.failure is not None:
            failure, self.failure = self.failure, None
            raise failure
        return {item.run.id: Published("c" * 40, "runs/x") for item in batch}


@pytest.mark.parametrize("failure", [ValueError("a defect"), PushtrainError("the disk is full")])
@story
async def test_a_publisher_that_raises_is_tried_again(house: House, failure: Exception) -> None:
    service = house.open()
    for nonce in ("a", "b"):
        run, _ = offer(service, nonce, name=f"job-{nonce}")
        service.cancel(run.id, by="ada")
    service.store.close()
    store = Store(house.state.store)
    flaky = Flaky(failure)
    courier = Courier(store, flaky, house.state.runs, changed=lambda _: None)  # type: ignore[arg-type]
    task = asyncio.create_task(courier.run())
    try:
        await eventually(lambda: all(run.final for run in store.runs()))
    finally:
        task.cancel()
        await asyncio.wait({task})
    assert flaky.batches == [2, 2]
    assert {run.publish_tries for run in store.runs()} == {1}
    assert str(failure) in store.events(run.id)[-2].detail
    store.close()


@story
async def test_a_disk_that_is_full_when_results_are_written_down_does_not_end_the_courier(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(courier_module, "_UNWRITTEN_PAUSE", 0.01)
    service = house.open()
    run, _ = offer(service)
    service.cancel(run.id, by="ada")
    service.store.close()

    class FullForAWhile(Store):
        left = 2

        def advance(self, *args: Any, **kwargs: Any) -> Run:
            if self.left:
                self.left -= 1
                raise StorageError("The store cannot be used: the disk is full.")
            return super().advance(*args, **kwargs)

    store = FullForAWhile(house.state.store)
    flaky = Flaky(None)
    courier = Courier(store, flaky, house.state.runs, changed=lambda _: None)  # type: ignore[arg-type]
    task = asyncio.create_task(courier.run())
    try:
        await eventually(lambda: task.done() or store.run(run.id).final)
        assert not task.done()
    finally:
        task.cancel()
        await asyncio.wait({task})
    assert flaky.batches == [1, 1, 1]
    store.close()


@story
async def test_a_work_folder_goes_before_its_results_are_out_where_the_disk_is_full(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    grow, trees = Branch.grow, []

    def full(*args: Any, **kwargs: Any) -> list[str]:
        trees.append(len(list(house.state.runs.glob("*/1/job/tree"))))
        if len(trees) == 1:
            raise StorageError("git could not write the results' commit: no space left on device.")
        return grow(*args, **kwargs)

    monkeypatch.setattr(Branch, "grow", full)
    async with house.running() as service:
        run = await done(service, house.send(service, "echo kept > kept.txt", results=("*.txt",)))
        assert house.result(run, "files/kept.txt") == "kept"
    assert trees == [1, 0]


@story
async def test_remotes_that_hang_do_not_hold_up_the_results_of_others(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(courier_module, "_SLOW", 0.05)
    store = Store(house.state.create().store)
    runs = {}
    for name in (*(f"hangs-{number}" for number in range(6)), "answers"):
        command = a_command(repository=f"github.com/octo/{name}")
        runs[name], _ = store.accept(
            command, sender=SENDER, raw=b"{}", headers={}, nonce=name, nonce_expires=2e9, queue_limit=99
        )
        store.request_cancel(runs[name].id, by="ada")

    class Hanging(Flaky):
        def publish(
            self, batch: list[Publishable], *, stop: object = None
        ) -> dict[str, Published | PushtrainError]:
            assert callable(stop)
            while "hangs" in batch[0].run.command.repository:
                stop()
                threading.Event().wait(0.01)
            return super().publish(batch, stop=stop)

    courier = Courier(store, Hanging(None), house.state.runs, changed=lambda _: None)  # type: ignore[arg-type]
    task = asyncio.create_task(courier.run())
    try:
        await eventually(lambda: store.run(runs["answers"].id).final)
    finally:
        task.cancel()
        await asyncio.wait({task})
    store.close()


def test_what_a_killed_executor_did_not_clear_is_cleared_later(tmp_path: Path) -> None:
    for run_id in ("over", "going"):
        folder = RunDir.of(tmp_path, run_id, 1).create()
        folder.tree.mkdir()
        folder.log.touch()
    clear_left(tmp_path, lambda run_id: run_id == "over")
    assert not RunDir.of(tmp_path, "over", 1).tree.exists()
    assert RunDir.of(tmp_path, "over", 1).log.exists()
    assert RunDir.of(tmp_path, "going", 1).tree.exists()


def test_a_log_that_has_gone_reads_as_empty(house: House) -> None:
    service = house.open()
    run, _ = offer(service)
    service.store.claim(slots=1, gpus=(), executor="lab-1")
    folder = RunDir.of(house.state.runs, run.id, 1).create()
    folder.log.write_bytes(b"a long story")
    remove_tree(folder.root.parent)
    assert service.shown.view(run.id).log_size == 0
    assert service.shown.log_chunk(run.id, 1, 0, 100).data == b""
    service.store.close()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"code": 0}, ""),
        ({"code": 3}, "The command ended with exit code 3."),
        ({"code": 127}, "The command ended with exit code 127 (command not found)."),
        ({"code": 126}, "The command ended with exit code 126 (it could not be executed)."),
        ({"reason": Reason.SIGNALLED, "signal": 11}, "The command was ended by SIGSEGV."),
        ({"reason": Reason.SIGNALLED, "signal": 44}, "The command was ended by signal 44."),
        (
            {"reason": Reason.SIGNALLED, "signal": 9, "oom": True},
            "The command was killed by the kernel, because the machine ran out of memory.",
        ),
        ({"reason": Reason.TIMEOUT}, "The training ran longer than its 2 h and was ended."),
        (
            {"reason": Reason.TIMEOUT, "phase": "setup"},
            (
                "The setup commands took longer than the 2 h that the owner's rule `rules.limits.time` "
                "allows, and were ended."
            ),
        ),
        (
            {"reason": Reason.SETUP, "phase": "setup", "code": 1, "detail": "make"},
            "The setup command `make` ended with exit code 1.",
        ),
        ({"reason": Reason.CANCELLED, "detail": "Cancelled by ada."}, "Cancelled by ada."),
        ({"reason": Reason.INTERNAL, "detail": "The shim failed: x"}, "The shim failed: x"),
    ],
)
def test_an_end_is_told_in_a_sentence(change: dict[str, Any], words: str) -> None:
    verdict = Verdict(**{"phase": "train", "reason": Reason.EXITED, "ended_at": 1.0, **change})
    event = verdicts.event_of(verdict, a_run(), order=None, limit=7200, most=86_400)
    assert (event.reason, event.exit_code, event.detail) == (verdict.reason, verdict.code, words)


def test_an_attempt_takes_over_what_its_shim_found_out() -> None:
    before: Attempt = an_attempt(stages=(StageTime(stage=Stage.FETCH, seconds=1),))
    verdict = Verdict(
        phase="train",
        reason=Reason.EXITED,
        code=0,
        started_at=5,
        ended_at=7,
        log_size=9,
        cpu_seconds=1.5,
        max_rss=77,
        stages=(StageTime(stage=Stage.TRAIN, seconds=2),),
    )
    after = verdicts.with_verdict(before, verdict)
    assert (after.started_at, after.ended_at, after.exit_code, after.log_size) == (5, 7, 0, 9)
    assert [stage.stage for stage in after.stages] == [Stage.FETCH, Stage.TRAIN]
