"""A run goes on at another executor: two real ones and a real sender on loopback, and Git LFS."""

import asyncio
import contextlib
import errno
import hashlib
import json
import os
import tarfile
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any, Literal, cast

import pytest
import urllib3
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from executor_house import House, done, logged, reached, story
from moto.server import ThreadedMotoServer
from pydantic import ValidationError

from pushtrain.core.errors import Busy, Cancelled, Conflict, DataError, PushtrainError, Refused, StorageError
from pushtrain.core.lifecycle import Requeued
from pushtrain.core.runs import retry
from pushtrain.core.values.command import Checkpoint, Segment, TrainCommand
from pushtrain.core.values.jobspec import PreemptSignal, Retry
from pushtrain.core.values.run import Run
from pushtrain.core.values.states import Outcome, Reason, State
from pushtrain.executor.api.web import create_app
from pushtrain.executor.moving import luggage
from pushtrain.executor.moving.backlog import Backlog
from pushtrain.executor.moving.migration import Migration
from pushtrain.executor.results import artifacts, segments
from pushtrain.executor.results.artifacts import UploadError
from pushtrain.executor.runs.endings import Endings
from pushtrain.executor.service import ExecutorService
from pushtrain.plumbing.attempts.rundir import RunDir
from pushtrain.plumbing.data.ledger import Exhausted, Ledger, Quiet
from pushtrain.plumbing.disk.trees import remove_tree
from pushtrain.plumbing.git import lfs
from pushtrain.plumbing.git.mirror import Mirror
from pushtrain.plumbing.http.client import ExecutorClient
from pushtrain.plumbing.http.serve import serving
from pushtrain.plumbing.keys.authorized import Authorized
from pushtrain.plumbing.owner.pause import PauseFile
from pushtrain.plumbing.sqlite.store import Store
from pushtrain.ports import Stop
from pushtrain.sender.rounds import Rounds
from pushtrain.testing import SENDER, a_command, a_run, a_spec, an_attempt, eventually

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
TRAINS = """
import json, os, pathlib, sys, time
at = pathlib.Path(os.environ["PUSHTRAIN_CHECKPOINT_DIR"], "deep", "step")
step = int(at.read_text()) if os.environ.get("PUSHTRAIN_RESUME") else 0
print("from", step, flush=True)
while step < 8:
    step += 1
    with open(os.environ["PUSHTRAIN_METRICS"], "a") as out:
        out.write(json.dumps({"step": step, "loss": 1 / step}) + "\\n")
    if step == 4:
        print("half way", flush=True)
        while not os.path.exists(os.environ["PUSHTRAIN_STOP_FILE"]):
            time.sleep(0.01)
        at.parent.mkdir(exist_ok=True)
        at.write_text(str(step))
        sys.exit(85)
"""


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    for name, value in {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}", "AWS_ALLOW_HTTP": "true", "AWS_REGION": "us-east-1",
        "AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "y",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    assert urllib3.request("PUT", f"http://{host}:{port}/models").status == 200
    yield
    server.stop()


@contextlib.asynccontextmanager
async def served(house: House) -> AsyncIterator[tuple[ExecutorService, ExecutorClient]]:
    """An executor at work behind a real server, and its client."""
    async with house.running() as service, serving(create_app(service), "127.0.0.1", 0) as port:
        service.url = f"http://127.0.0.1:{port}"
        Authorized(house.state.authorized).add(KEY.public_key(), name="ada")
        client = ExecutorClient(service.url, service.key.public_key(), KEY, timeout=10)
        try:
            yield service, client
        finally:
            client.close()


def neighbour(house: House, folder: Path, name: str) -> House:
    """Another executor, of the same repository."""
    other = House(folder, name=name)
    repository = other.settings.repositories[0].model_copy(update={"remote": str(house.origin)})
    other.settings = other.settings.model_copy(update={"repositories": (repository,)})
    return other


def a_job(house: House, **more: object) -> TrainCommand:
    return a_command(
        commit=house.commit({"train.py": TRAINS}),
        job=a_spec(
            command="exec python train.py",
            preempt_signal=PreemptSignal.NONE,
            **{"checkpoint_to": "lfs", **more},
        ),
    )


@pytest.mark.slow
@story
async def test_a_preempted_run_goes_on_at_another_executor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not lfs.installed():
        pytest.skip("git-lfs is not installed")
    monkeypatch.setattr("pushtrain.sender.placement.RECALL_AFTER", 0.1)
    first = House(tmp_path / "first", name="lab-1")
    second = neighbour(first, tmp_path / "second", "lab-2")
    command = a_job(first)
    store = Store(tmp_path / "sender.db")
    async with served(first) as (one, at_one), served(second) as (two, at_two):
        known = [(at_one, None)]
        rounds = Rounds(store, lambda: list(known), jitter=lambda: 0.0)
        task = asyncio.create_task(rounds.run())
        try:
            store.settle_push(None, [command], "pushed")
            rounds.wake()
            await eventually(one.store.runs)
            run = one.store.run(command.run_id)
            await logged(one, run, "half way")
            known.append((at_two, None))
            rounds._listed_at = None
            rounds.wake()
            await eventually(lambda: store.outbox_of([command.run_id])[0].state == "started")
            PauseFile(first.state.pause).pause(3600)  # the owner wants the machine back
            (here,) = await eventually(two.store.runs, 60)
            there = await done(two, here, 60)
        finally:
            task.cancel()
            await asyncio.wait([task])
        gone = one.store.run(command.run_id)
        assert (gone.outcome, gone.state) == (Outcome.MOVED, State.DONE)
        assert not RunDir.of(first.state.runs, gone.id, 1).checkpoint.exists()
        assert (there.outcome, there.attempt, there.command.possible_duplicate) == (
            Outcome.SUCCEEDED,
            2,
            False,
        )
        assert first.result(there, "log.txt") == "from 4"
        report = first.result(there, "README.md")
        record = json.loads(first.result(there, "run.json"))
        (series,) = json.loads(first.result(there, "metrics.json"))["series"]
    store.close()
    (segment,) = record["run"]["command"]["checkpoint"]["segments"]
    assert (segment["executor"], segment["attempt"], segment["steps"], segment["reason"]) == (
        "lab-1",
        1,
        4,
        "checkpointed",
    )
    assert segment["seconds"] > 0
    (attempt,) = record["attempts"]
    assert (attempt["executor"], attempt["number"], attempt["steps"]) == ("lab-2", 2, 4)
    assert series["steps"] == list(range(1, 9))
    assert "lab-1" in report.partition("## Attempts")[2]


@pytest.mark.slow
@story
async def test_a_run_whose_executor_reaches_nobody_is_trained_by_another_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has no checkpoint, and needs no place for one."""
    monkeypatch.setattr("pushtrain.sender.placement.RECALL_AFTER", 0.1)
    first = House(tmp_path / "first", name="lab-1", prefer=9)
    second = neighbour(first, tmp_path / "second", "lab-2")
    (there,) = first.settings.repositories
    away = there.model_copy(update={"remote": "http://127.0.0.1:9/octo/hello"})  # nobody is there
    first.settings = first.settings.model_copy(update={"repositories": (away,)})
    command = a_command(commit=first.commit({"a.txt": "a"}), job=a_spec(command="echo trained"))
    store = Store(tmp_path / "sender.db")
    async with served(first) as (one, at_one), served(second) as (two, at_two):
        rounds = Rounds(store, lambda: [(at_one, None), (at_two, None)], jitter=lambda: 0.0)
        task = asyncio.create_task(rounds.run())
        try:
            store.settle_push(None, [command], "pushed")
            rounds.wake()
            (here,) = await eventually(two.store.runs, 30)
            run = await done(two, here, 30)
        finally:
            task.cancel()
            await asyncio.wait([task])
        assert one.store.run(command.run_id).outcome is Outcome.MOVED
        assert (run.outcome, run.attempt, run.command.possible_duplicate) == (Outcome.SUCCEEDED, 2, False)
        record = json.loads(first.result(run, "run.json"))
        report = first.result(run, "README.md").partition("## Attempts")[2]
    store.close()
    (segment,) = record["run"]["command"]["checkpoint"]["segments"]
    assert (segment["executor"], segment["reason"]) == ("lab-1", "unreachable")
    assert "unreachable" in report


class Killed(BaseException):
    """The executor dies here."""


@pytest.mark.parametrize("step", ["save_checkpoint", "release"])
@pytest.mark.parametrize("moment", ["before", "after"])
def test_an_executor_that_dies_while_it_gives_a_run_up_has_it_or_has_it_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, moment: str
) -> None:
    house = House(tmp_path)
    service = house.open()
    given: Any = {"by": {SENDER}, "attempt": 0, "nonce_expires": 2e9}
    run, _ = service.accept(a_command(), sender=SENDER, raw=b"{}", headers={}, nonce="n", nonce_expires=2e9)
    claimed = service.store.claim(slots=1, gpus=(), executor="lab-1")
    assert claimed
    tried = claimed[1].model_copy(update={"reason": Reason.STORAGE, "ended_at": 2e9})
    service.store.advance(run.id, Requeued(Reason.STORAGE), token=claimed[0].token, attempt=tried)
    really = getattr(service.store, step)

    def dies(*arguments: Any, **named: Any) -> Any:
        if moment == "after":
            really(*arguments, **named)
        raise Killed

    monkeypatch.setattr(service.store, step, dies)
    with pytest.raises(Killed):
        service.release(run.id, nonce="r", **given)
    service.store.close()
    service = house.open()
    gone = service.store.run(run.id).outcome is Outcome.MOVED
    assert gone == (step == "release" and moment == "after")
    assert service.unbegun_of({SENDER}, 9) == (([] if gone else [run.id]), [])
    released = service.release(run.id, nonce="s", **given)
    assert released.outcome is Outcome.MOVED
    assert released.checkpoint is not None
    assert [one.reason for one in released.checkpoint.segments] == [Reason.STORAGE]
    assert service.store.claim(slots=1, gpus=(), executor="lab-1") is None, "it never starts here again"
    service.store.close()


@story
async def test_a_run_whose_checkpoint_does_not_travel_stays_where_it_is(tmp_path: Path) -> None:
    house = House(tmp_path)
    command = a_job(house, checkpoint_to="")
    async with house.running() as service:
        run, _ = service.accept(command, sender=SENDER, raw=b"{}", headers={}, nonce="n", nonce_expires=2e9)
        await logged(service, run, "half way")
        PauseFile(house.state.pause).pause(3600)
        run = await reached(service, run, State.QUEUED)
        with pytest.raises(Conflict, match="goes on here, where its checkpoint is"):
            service.release(run.id, by={SENDER}, attempt=0, nonce="r", nonce_expires=2e9)
        travels = run.model_copy(
            update={
                "command": run.command.model_copy(
                    update={"job": run.command.job.model_copy(update={"checkpoint_to": "lfs"})}
                )
            }
        )
        with pytest.raises(Busy, match="is on its way"):
            service._migration.may_leave(travels)


def test_only_files_travel_and_a_changed_checkpoint_is_not_unpacked(tmp_path: Path) -> None:
    folder = RunDir.of(tmp_path, "run", 1).create()
    (folder.checkpoint / "a").write_text("kept")
    (folder.checkpoint / "link").symlink_to("/etc/passwd")
    (folder.checkpoint / "deep").mkdir()
    (folder.checkpoint / "deep" / "b").write_bytes(b"\0" * 5000)
    packed = luggage.pack(folder)
    with tarfile.open(packed.path) as tar:
        assert tar.getnames() == ["checkpoint", "checkpoint/a", "checkpoint/deep/b"]
    assert hashlib.sha256(packed.path.read_bytes()).hexdigest() == packed.sha256


def nested(at: Path, deep: int) -> None:
    for _ in range(deep):
        at /= "d"
        at.mkdir()


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_a_checkpoint_travels_whole_or_not_at_all(tmp_path: Path) -> None:
    """A name that its next executor refuses lost the run there; what could not be opened stayed behind."""
    spoilt: dict[str, Callable[[Path], object]] = {
        "only in case": lambda at: [(at / name).write_text("") for name in ("Model", "model")],
        "control characters": lambda at: (at / "a\nb").write_text(""),
        "no UTF-8": lambda at: (at / os.fsdecode(b"\xff")).write_text(""),
        "cannot be": lambda at: nested(at, 1100),
        "hard link": lambda at: (at / "key").hardlink_to(tmp_path / "owners"),
    }
    (tmp_path / "owners").write_text("secret")
    for number, (why, spoil) in enumerate(spoilt.items()):
        folder = RunDir.of(tmp_path, str(number), 1).create()
        (folder.checkpoint / "step").write_text("7")
        spoil(folder.checkpoint)
        held = descriptors()
        with pytest.raises(PushtrainError, match=why):
            luggage.pack(folder)
        assert descriptors() == held
        assert not (folder.root.parent / luggage.NAME).exists()
        remove_tree(folder.root.parent)  # pytest could not remove it, nor what any later run leaves


def test_only_a_file_of_metrics_joins_the_runs_curve(tmp_path: Path) -> None:
    """A folder in its place could not be packed: the run never left."""
    folder = RunDir.of(tmp_path, "run", 1).create()
    folder.metrics.mkdir()
    Endings._keep_metrics(folder)
    assert not luggage.measured(folder)
    folder.metrics.rmdir()
    folder.job.rename(folder.root / "kept")
    folder.job.symlink_to(folder.job)
    Endings._keep_metrics(folder)  # an error here was tried again for ever, and the run's cards stayed taken
    folder.job.unlink()
    (folder.root / "kept").rename(folder.job)
    folder.metrics.write_text("{}\n")
    Endings._keep_metrics(folder)
    assert luggage.measured(folder)


@story
async def test_a_run_that_cannot_be_packed_ends_neither_the_others_nor_the_executor(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    waiting = Waiting(tmp_path, a_command(job=a_spec(checkpoint_to="lfs")))
    seen: list[str] = []

    def do(run: Run) -> None:
        seen.append(run.id)
        raise RecursionError("a defect that one run shows")

    backlog = Backlog(waiting.store, do, undone="%s: %s")
    backlog.add(waiting.run)
    task = asyncio.create_task(backlog.run(list))
    await eventually(lambda: seen, 20, what="the run")
    backlog.wake()
    await eventually(lambda: len(seen) > 1, 20, what="another try")
    assert len(caplog.records) == 1, "it is told once"
    assert not task.done()
    task.cancel()
    waiting.store.close()


@story
async def test_an_executor_that_stops_waits_for_no_upload(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its state folder stayed taken for as long as the store was slow, an hour or more."""
    waiting = Waiting(tmp_path, a_command(job=a_spec(checkpoint_to="lfs")))
    (waiting.folder.create().checkpoint / "step").write_text("7")
    begun, over = threading.Event(), threading.Event()

    def bring(*_: object, stop: Stop = lambda: None, **__: object) -> tuple[str, str]:
        begun.set()
        while not over.wait(0.01):
            stop()
        return "lfs", ""

    monkeypatch.setattr(luggage, "bring", bring)
    waiting.migration.soon(waiting.run)
    task = asyncio.create_task(waiting.migration.run())
    await eventually(begun.is_set, 20, what="the upload")
    task.cancel()
    try:
        async with asyncio.timeout(10):
            await asyncio.get_running_loop().shutdown_default_executor()
    finally:
        over.set()
    assert waiting.store.run(waiting.run.id).checkpoint is None
    waiting.store.close()


def test_packing_a_checkpoint_ends_when_somebody_wants_it_to(tmp_path: Path) -> None:
    folder = RunDir.of(tmp_path, "run", 1).create()
    (folder.checkpoint / "large").write_bytes(bytes(1 << 20))
    packed = []

    def stop() -> None:
        packed.append((folder.root.parent / luggage.NAME).stat().st_size)
        raise Cancelled("Enough.")

    with pytest.raises(Cancelled):
        luggage.pack(folder, stop=stop)
    assert packed[0] < 1 << 20
    assert not (folder.root.parent / luggage.NAME).exists()


def travelling(house: House, **changes: Any) -> TrainCommand:
    """A command whose run has been elsewhere."""
    checkpoint = Checkpoint(attempt=1, where="lfs", sha256="0" * 64, size=10)
    return a_job(house).model_copy(update={"attempt": 1, "checkpoint": checkpoint.model_copy(update=changes)})


async def outcome_of(house: House, command: TrainCommand) -> Run:
    async with house.running() as service:
        run, _ = service.accept(command, sender=SENDER, raw=b"{}", headers={}, nonce="n", nonce_expires=2e9)
        return await done(service, run)


@story
async def test_a_checkpoint_that_is_not_to_be_had_starts_nothing(tmp_path: Path) -> None:
    house = House(tmp_path)
    run = await outcome_of(house, travelling(house))
    assert (run.outcome, run.reason) == (Outcome.FAILED, Reason.DATA)


@story
async def test_a_checkpoint_is_fetched_only_from_where_the_owner_allows(tmp_path: Path) -> None:
    house = House(tmp_path)
    with pytest.raises(Refused, match=r"rules.artifact_urls.*s3://the-owners/private"):
        await outcome_of(house, travelling(house, where="url", url="s3://the-owners/private"))


def a_packed(folder: Path) -> luggage.Packed:
    """A checkpoint that an executor has brought away."""
    old = RunDir.of(folder, "run", 1).create()
    (old.checkpoint / "step").write_text("7")
    return luggage.pack(old)


@story
async def test_a_checkpoint_that_is_not_to_be_had_for_now_loses_no_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk is full, or its store does not answer: nothing is wrong with the run."""
    packed, tries = a_packed(tmp_path / "old"), []

    def from_lfs(*_: object) -> Path:
        tries.append("")
        if len(tries) == 1:
            raise UploadError("The bucket cannot be reached.") from OSError("no route to host")
        if len(tries) == 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        return packed.path

    monkeypatch.setattr(luggage, "_from_lfs", from_lfs)
    monkeypatch.setattr(retry, "FIRST_UNREADY", 0.05)
    house = House(tmp_path)
    command = travelling(house, sha256=packed.sha256, size=packed.size)
    job = command.job.model_copy(update={"command": 'test "$(cat $PUSHTRAIN_CHECKPOINT_DIR/step)" = 7'})
    run = await outcome_of(house, command.model_copy(update={"job": job}))
    assert (run.outcome, run.attempt, len(tries)) == (Outcome.SUCCEEDED, 4, 3)


@pytest.mark.parametrize(
    ("cause", "error"),
    [
        (FileNotFoundError(), UploadError),
        (ValueError("more than was published"), UploadError),
        (OSError("no route to host"), luggage.Withheld),
        (OSError(errno.ENOSPC, "No space left on device"), StorageError),
        (ModuleNotFoundError("obstore"), luggage.Withheld),
    ],
)
def test_a_checkpoint_is_waited_for_unless_it_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cause: Exception, error: type[PushtrainError]
) -> None:
    def from_url(*_: object, **__: object) -> None:
        raise UploadError("It could not be downloaded.") from cause

    monkeypatch.setattr(artifacts, "from_url", from_url)
    came = Checkpoint(attempt=1, where="url", url="s3://models/x", sha256="0" * 64, size=1)
    mirror: Any = None
    with pytest.raises(error):
        luggage.fetch(came, RunDir.of(tmp_path, "run", 2).create(), mirror, limit=0, stop=lambda: None)


@story
async def test_an_executor_without_git_lfs_loses_no_run_whose_checkpoint_comes_by_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lfs, "installed", lambda: False)
    house = House(tmp_path)
    async with house.running() as service:
        command = travelling(house)
        run, _ = service.accept(command, sender=SENDER, raw=b"{}", headers={}, nonce="n", nonce_expires=2e9)
        await eventually(lambda: service.store.run(run.id).not_before, 20, what="a first try")
        waits = service.store.run(run.id)
    assert waits.state is State.QUEUED
    assert "git-lfs is not installed" in waits.waiting_for


@pytest.mark.parametrize("where", ["lfs", "url"])
def test_a_checkpoint_larger_than_a_day_may_bring_waits_for_another_executor(
    tmp_path: Path, where: Literal["lfs", "url"]
) -> None:
    """No other day makes it fit here, and nothing is wrong with the run."""
    house = House(tmp_path)
    mirror = Mirror(house.state.repositories, house.settings.repositories[0])
    came = Checkpoint(attempt=1, where=where, url="s3://models/x", sha256="0" * 64, size=100)
    folder = RunDir.of(tmp_path, "run", 2).create()
    toll = Ledger(tmp_path / "downloads.json", 99)
    with pytest.raises(luggage.Withheld, match=r"100 bytes.*99"):
        luggage.fetch(came, folder, mirror, limit=0, stop=lambda: None, toll=toll)
    toll = Ledger(tmp_path / "downloads.json", 101)
    toll.add(100)
    with pytest.raises(Exhausted):
        luggage.fetch(came, folder, mirror, limit=0, stop=lambda: None, toll=toll)


def test_a_checkpoint_is_received_again_by_whoever_was_killed_while_it_was_received(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packed = a_packed(tmp_path / "old")
    new = RunDir.of(tmp_path / "new", "run", 2).create()
    (new.root.parent / luggage.NAME).write_text("half")
    monkeypatch.setattr(luggage, "_from_lfs", lambda *_: packed.path)
    came = Checkpoint(attempt=1, where="lfs", sha256=packed.sha256, size=packed.size)
    mirror: Any = None
    assert luggage.fetch(came, new, mirror, limit=0, stop=lambda: None)
    assert (new.checkpoint / "step").read_text() == "7"
    assert sorted(path.name for path in new.root.parent.iterdir()) == [
        "2",
        "before",
        "checkpoint",
        "received",
    ]


@pytest.mark.slow
@pytest.mark.usefixtures("s3")
def test_a_checkpoint_by_an_object_store_is_believed_by_its_digest_and_replaces_what_was_there(
    tmp_path: Path,
) -> None:
    old = RunDir.of(tmp_path / "old", "run", 1).create()
    (old.checkpoint / "step").write_text("7")
    packed = luggage.pack(old)
    mirror: Any = None  # an object store needs none
    pieces: list[int] = []
    where, url = luggage.bring(packed, "s3://models/lab", a_run(attempt=1), mirror, pace=pieces.append)
    assert sum(pieces) == packed.size, "it goes at the owner's pace"
    checkpoint = Checkpoint(attempt=1, where="url", url=url, sha256=packed.sha256, size=packed.size)
    new = RunDir.of(tmp_path / "new", "run", 2).create()
    (new.checkpoint / "stale").write_text("from before")
    lie = checkpoint.model_copy(update={"sha256": "0" * 64})
    with pytest.raises(DataError, match="is not the one that its command names"):
        luggage.fetch(lie, new, mirror, limit=0, stop=lambda: None)
    with pytest.raises(DataError, match="are allowed here"):
        luggage.fetch(checkpoint, new, mirror, limit=100, stop=lambda: None)
    gone = checkpoint.model_copy(update={"url": f"{url}.gone"})
    with pytest.raises(UploadError, match=r"\.gone could not be downloaded"):
        luggage.fetch(gone, new, mirror, limit=0, stop=lambda: None)
    hour: list[float | None] = [2e9]
    toll = Ledger(tmp_path / "downloads.json", packed.size + 1, quiet=lambda: hour[0])
    with pytest.raises(Quiet):
        luggage.fetch(checkpoint, new, mirror, limit=0, stop=lambda: None, toll=toll)
    assert [path.name for path in new.checkpoint.iterdir()] == ["stale"]
    hour[0] = None
    assert luggage.fetch(checkpoint, new, mirror, limit=0, stop=lambda: None, toll=toll)
    assert toll.today() == packed.size
    with pytest.raises(Exhausted):
        luggage.fetch(lie, new, mirror, limit=0, stop=lambda: None, toll=toll)
    assert (where, {path.name: path.read_text() for path in new.checkpoint.iterdir()}) == (
        "url",
        {"step": "7"},
    )
    (new.checkpoint / "step").write_text("9")
    assert not luggage.fetch(checkpoint, new, mirror, limit=0, stop=lambda: None), "it went on from there"
    assert (new.checkpoint / "step").read_text() == "9"


@pytest.mark.slow
@pytest.mark.usefixtures("s3")
def test_a_checkpoint_whose_download_was_broken_off_goes_on_from_there(tmp_path: Path) -> None:
    """A run that was deferred in the midst of one began it anew, and so did one whose line broke."""
    old = RunDir.of(tmp_path / "old", "run", 1).create()
    (old.checkpoint / "weights").write_bytes(os.urandom(14 << 20))
    packed = luggage.pack(old)
    mirror: Any = None  # an object store needs none
    _, url = luggage.bring(packed, "s3://models/lab", a_run(attempt=1), mirror)
    checkpoint = Checkpoint(attempt=1, where="url", url=url, sha256=packed.sha256, size=packed.size)
    new = RunDir.of(tmp_path / "new", "run", 2).create()
    asked: list[None] = []

    def deferred() -> None:
        asked.append(None)
        if len(asked) > 1:
            raise Cancelled("The owner is back.")

    with pytest.raises(Cancelled):
        luggage.fetch(checkpoint, new, mirror, limit=0, stop=deferred)
    left = new.root.parent / f".{luggage.NAME}.partial"
    there = left.stat().st_size
    assert 0 < there < packed.size
    toll = Ledger(tmp_path / "downloads.json", 2 * packed.size)
    assert luggage.fetch(checkpoint, new, mirror, limit=0, stop=lambda: None, toll=toll)
    assert toll.today() == packed.size - there, "only the rest has come"
    again = RunDir.of(tmp_path / "again", "run", 2).create()
    (again.root.parent / left.name).write_bytes(bytes(there))  # a power loss has eaten its content
    assert luggage.fetch(checkpoint, again, mirror, limit=0, stop=lambda: None)
    for folder in (new, again):
        assert (folder.checkpoint / "weights").read_bytes() == (old.checkpoint / "weights").read_bytes()
        assert not (folder.root.parent / left.name).exists()


@pytest.mark.slow
@story
async def test_a_checkpoint_that_was_not_away_when_the_executor_died_is_brought_away_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not lfs.installed():
        pytest.skip("git-lfs is not installed")
    house = House(tmp_path)
    command = a_job(house)

    def away(*_: object, **__: object) -> None:
        raise UploadError("The remote does not answer.")

    monkeypatch.setattr(luggage, "bring", away)
    async with house.running() as service:
        run, _ = service.accept(command, sender=SENDER, raw=b"{}", headers={}, nonce="n", nonce_expires=2e9)
        await logged(service, run, "half way")
        PauseFile(house.state.pause).pause(3600)
        run = await reached(service, run, State.QUEUED)
        with pytest.raises(Busy, match="is on its way"):
            service.release(run.id, by={SENDER}, attempt=0, nonce="r", nonce_expires=2e9)
    monkeypatch.undo()
    async with house.running() as service:

        def there() -> Checkpoint | None:
            return service.store.run(run.id).checkpoint

        checkpoint = await eventually(there)
        assert (checkpoint.where, checkpoint.attempt, len(checkpoint.segments)) == ("lfs", 1, 1)
        released = service.release(run.id, by={SENDER}, attempt=0, nonce="s", nonce_expires=2e9)
        again = service.release(run.id, by={SENDER}, attempt=0, nonce="t", nonce_expires=2e9)
        assert released.checkpoint == again.checkpoint == checkpoint, "a lost answer is asked for again"


class Waiting:
    """A run of which an attempt was made here, and that waits again; and who brings away what it has left."""

    def __init__(
        self,
        folder: Path,
        command: TrainCommand,
        allowed: Callable[[], None] = lambda: None,
        *,
        reason: Reason = Reason.INTERRUPTED,
    ) -> None:
        self.runs = folder / "runs"
        self.store = Store(folder / "store.db")
        given = {"sender": SENDER, "raw": b"{}", "headers": {}, "nonce": "n", "nonce_expires": 2e9}
        self.store.accept(command, queue_limit=9, **given)  # type: ignore[arg-type]
        claim = self.store.claim(slots=1, gpus=(), executor="lab-2")
        assert claim is not None
        run, attempt = claim
        self.run = self.store.advance(
            run.id,
            Requeued(reason),
            token=run.token,
            attempt=attempt.model_copy(update={"reason": reason}),
        )
        self.folder = RunDir.of(self.runs, run.id, run.attempt)
        mirrors: Any = lambda _: None  # noqa: E731
        self.migration = Migration(self.store, self.runs, mirrors, changed=lambda _: None, allowed=allowed)

    def brought(self) -> Checkpoint:
        """What is brought away of it, once it is: before that it goes nowhere."""
        with pytest.raises(Busy, match="is on its way"):
            self.migration.may_leave(self.run)
        self.migration._bring(self.run)
        run = self.store.run(self.run.id)
        self.migration.may_leave(run)
        self.store.close()
        assert run.checkpoint is not None
        return run.checkpoint


@pytest.fixture
def shelf(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Names of the files in each checkpoint that was brought away."""
    found: list[list[str]] = []

    def bring(packed: luggage.Packed, *_: object, **__: object) -> tuple[str, str]:
        with tarfile.open(packed.path) as tar:
            found.append(tar.getnames())
        return "lfs", ""

    monkeypatch.setattr(luggage, "bring", bring)
    return found


def test_what_an_attempt_that_saved_nothing_was_and_has_measured_travels_too(
    tmp_path: Path, shelf: list[list[str]]
) -> None:
    waiting = Waiting(tmp_path, a_command(job=a_spec(checkpoint_to="lfs")))
    before = waiting.folder.create().before
    before.mkdir()
    (before / "metrics-000001.jsonl").write_text("{}\n")
    brought = waiting.brought()
    assert [(one.attempt, one.executor, one.reason) for one in brought.segments] == [
        (1, "lab-2", Reason.INTERRUPTED)
    ]
    assert shelf == [["checkpoint", "metrics-000001.jsonl"]]


@pytest.fixture
def no_shelf(monkeypatch: pytest.MonkeyPatch) -> None:
    """The place for checkpoints is out of order."""

    def bring(*_: object, **__: object) -> tuple[str, str]:
        raise UploadError("The bucket's credentials are wrong.")

    monkeypatch.setattr(luggage, "bring", bring)


@pytest.mark.usefixtures("no_shelf")
@pytest.mark.parametrize("has_a_folder", [True, False])
def test_a_run_that_has_nothing_to_carry_leaves_at_once_though_checkpoints_have_no_place(
    tmp_path: Path, has_a_folder: bool
) -> None:
    """Also one that was preempted while it was prepared, before it had so much as a folder."""
    waiting = Waiting(tmp_path, a_command(job=a_spec(checkpoint_to="lfs")))
    if has_a_folder:
        waiting.folder.create()
    waiting.migration.may_leave(waiting.run)
    left = waiting.store.run(waiting.run.id).checkpoint
    waiting.store.close()
    assert left is not None
    assert (left.where, [one.reason for one in left.segments]) == ("none", [Reason.INTERRUPTED])


@pytest.mark.parametrize("reason", sorted(retry.UNREADY))
def test_a_run_that_its_machine_was_not_ready_for_leaves_with_what_was_tried(
    tmp_path: Path, reason: Reason
) -> None:
    """It stayed for its day where it was, though another executor was free."""
    waiting = Waiting(tmp_path, a_command(), reason=reason)
    assert waiting.store.unbegun_of([SENDER], limit=9) == ([waiting.run.id], [])
    waiting.migration.may_leave(waiting.run)
    noted = waiting.store.run(waiting.run.id)  # killed here, it is where it was, and may go on
    assert (noted.state, noted.outcome) == (State.QUEUED, None)
    assert noted.checkpoint is not None
    assert [(one.executor, one.reason) for one in noted.checkpoint.segments] == [("lab-2", reason)]
    claimed = waiting.store.claim(slots=1, gpus=(), executor="lab-2")
    assert claimed is not None
    assert waiting.store.unbegun_of([SENDER], limit=9) == ([], [waiting.run.id]), "it may yet wait again"
    given: Any = {
        "by": {SENDER},
        "attempt": 0,
        "nonce": "r",
        "nonce_expires": 2e9,
        "seen": waiting.run.attempt,
    }
    with pytest.raises(Busy, match="may wait again"):
        waiting.store.release(waiting.run.id, **given)
    run, attempt = claimed
    waiting.store.advance(
        run.id, Requeued(reason), token=run.token, attempt=attempt.model_copy(update={"reason": reason})
    )
    with pytest.raises(Busy, match="started meanwhile"):  # what that attempt has left was not looked at
        waiting.store.release(run.id, **given | {"nonce": "s"})
    waiting.migration.may_leave(waiting.store.run(run.id))
    released = waiting.store.release(run.id, **given | {"nonce": "t", "seen": 2})
    waiting.store.close()
    assert (released.outcome, released.checkpoint and len(released.checkpoint.segments)) == (Outcome.MOVED, 2)


def test_a_run_that_the_owners_rules_put_off_for_long_may_leave_and_one_that_goes_on_soon_stays(
    tmp_path: Path,
) -> None:
    """The day's downloads are used up: it waited for midnight, whoever else was free."""
    waiting = Waiting(tmp_path, a_command(), reason=Reason.DEFERRED)
    store, run_id = waiting.store, waiting.run.id
    assert store.unbegun_of([SENDER], limit=9) == ([], [run_id]), "nobody knows for how long"
    for seconds, may_leave in ((60, False), (7200, True)):
        claimed = store.claim(slots=1, gpus=(), executor="lab-2")
        assert claimed is not None
        attempt = claimed[1].model_copy(update={"reason": Reason.DEFERRED})
        later = Requeued(Reason.DEFERRED, "rules.limits.downloads", time.time() + seconds)
        store.advance(run_id, later, token=claimed[0].token, attempt=attempt)
        told = ([run_id], []) if may_leave else ([], [run_id])  # who is not told of it takes it for begun
        assert store.unbegun_of([SENDER], limit=9) == told
        if not may_leave:
            assert store.clock_set_back(3600)  # its time has come
    waiting.migration.may_leave(store.run(run_id))
    checkpoint = store.run(run_id).checkpoint
    store.close()
    assert checkpoint is not None
    assert {one.reason for one in checkpoint.segments} == {Reason.DEFERRED}


def test_what_was_trained_here_is_not_offered_to_others_when_the_machine_is_not_ready_for_more(
    tmp_path: Path,
) -> None:
    waiting = Waiting(tmp_path, a_command(), reason=Reason.STORAGE)
    (before,) = waiting.store.attempts(waiting.run.id)
    claimed = waiting.store.claim(slots=1, gpus=(), executor="lab-2")
    assert claimed is not None
    waiting.store.save_attempt(before.model_copy(update={"started_at": 1.0}), token=claimed[0].token)
    waiting.store.advance(waiting.run.id, Requeued(Reason.STORAGE), token=claimed[0].token)
    assert waiting.store.unbegun_of([SENDER], limit=9) == ([], [])
    (RunDir.of(waiting.runs, waiting.run.id, 2).create().checkpoint / "step").write_text("7")
    with pytest.raises(Conflict, match="goes on here, where its checkpoint is"):
        waiting.migration.may_leave(waiting.store.run(waiting.run.id))
    waiting.store.close()


@pytest.mark.usefixtures("no_shelf")
def test_metrics_alone_hold_no_run_back_when_they_cannot_be_brought_away(tmp_path: Path) -> None:
    waiting = Waiting(tmp_path, a_command(job=a_spec(checkpoint_to="lfs")))
    before = waiting.folder.create().before
    before.mkdir()
    (before / "metrics-000001.jsonl").write_text("{}\n")
    assert waiting.brought().where == "none"


@pytest.mark.usefixtures("no_shelf")
def test_a_checkpoint_that_cannot_be_brought_away_keeps_its_run(tmp_path: Path) -> None:
    waiting = Waiting(tmp_path, a_command(job=a_spec(checkpoint_to="lfs")))
    (waiting.folder.create().checkpoint / "step").write_text("7")
    with pytest.raises(UploadError):
        waiting.migration._bring(waiting.run)
    with pytest.raises(Busy):
        waiting.migration.may_leave(waiting.store.run(waiting.run.id))
    waiting.store.close()


@story
async def test_a_checkpoint_leaves_at_no_quiet_hour_and_nobody_is_bothered_until_then(
    tmp_path: Path,
    shelf: list[list[str]],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr("pushtrain.executor.moving.backlog._PAUSE", 0.01)
    asked: list[int] = []

    def allowed() -> None:
        asked.append(1)
        if len(asked) < 4:
            raise Quiet(2e9)

    waiting = Waiting(tmp_path, a_command(job=a_spec(checkpoint_to="lfs")), allowed)
    (waiting.folder.create().checkpoint / "step").write_text("7")
    task = asyncio.create_task(waiting.migration.run())
    try:
        await eventually(lambda: waiting.store.run(waiting.run.id).checkpoint)
    finally:
        task.cancel()
        await asyncio.wait([task])
    waiting.store.close()
    assert (len(asked), shelf) == (4, [["checkpoint", "checkpoint/step"]])
    assert [each.message for each in caplog.records if each.levelname == "WARNING"] == []


def test_a_checkpoint_without_a_file_is_received_with_nothing_to_fetch(tmp_path: Path) -> None:
    """What an earlier stay has left here is not what the run goes on from."""
    came = Checkpoint(attempt=1, where="none")
    new, mirror = RunDir.of(tmp_path / "new", "run", 2).create(), cast("Any", None)
    (new.checkpoint / "old").write_text("7")
    assert not luggage.fetch(came, new, mirror, limit=1, stop=lambda: None)
    assert not new.checkpointed(), "there is nothing to go on from"
    (new.checkpoint / "own").write_text("8")
    assert not luggage.fetch(came, new, mirror, limit=1, stop=lambda: None)
    assert new.checkpointed(), "it went on from there"


@pytest.mark.parametrize(
    "wrong",
    [
        {"where": "none", "sha256": "0" * 64},
        {"where": "lfs"},
        {"where": "none", "size": 1},
        {"where": "none", "url": "s3://models/lab"},
    ],
)
def test_a_checkpoint_has_a_file_with_its_digest_or_none(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="or none of these"):
        Checkpoint(attempt=1, **wrong)


def test_a_checkpoint_that_was_received_by_half_goes_on_as_it_came(
    tmp_path: Path, shelf: list[list[str]]
) -> None:
    """What is here of it lacks the metrics; where it came from it is whole."""
    one = Segment(attempt=1, executor="lab-1", began_at=1)
    came = Checkpoint(attempt=1, where="lfs", sha256="0" * 64, size=10, segments=(one,))
    command = a_command(job=a_spec(checkpoint_to="lfs")).model_copy(update={"attempt": 1, "checkpoint": came})
    waiting = Waiting(tmp_path, command)
    (waiting.folder.create().checkpoint / "step").write_text("7")
    waiting.migration.may_leave(waiting.run)
    brought = waiting.store.run(waiting.run.id).checkpoint
    waiting.store.close()
    assert brought is not None
    assert (brought.attempt, brought.sha256, shelf) == (2, came.sha256, [])
    assert [(segment.attempt, segment.executor) for segment in brought.segments] == [
        (1, "lab-1"),
        (2, "lab-2"),
    ]


@story
@pytest.mark.parametrize(("tries", "attempts"), [(1, 2), (2, 3)])
async def test_what_was_tried_elsewhere_counts_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tries: int, attempts: int
) -> None:
    """A retry that was used up at one executor is not there again at the next."""
    monkeypatch.setattr(luggage, "fetch", lambda *_, **__: False)
    house = House(tmp_path)
    policy = Retry(exit_codes={3: tries}, backoff=0.01)
    one = Segment(attempt=1, executor="lab-1", began_at=1, reason=Reason.EXITED, exit_code=3)
    command = travelling(house, segments=(one,))
    job = command.job.model_copy(update={"command": "exit 3", "retry": policy})
    run = await outcome_of(house, command.model_copy(update={"job": job}))
    assert (run.outcome, run.attempt) == (Outcome.FAILED, attempts)


def test_a_run_that_comes_back_has_each_of_its_attempts_once() -> None:
    one, two = (Segment(attempt=number, executor=f"lab-{number}", began_at=1) for number in (1, 2))
    came = Checkpoint(attempt=2, where="lfs", sha256="0" * 64, size=10, segments=(one, two))
    run = a_run(a_command().model_copy(update={"attempt": 2, "checkpoint": came}))
    attempts = [an_attempt(run, number=number, executor="lab-1") for number in (1, 3)]
    assert [segment.attempt for segment in segments.of(run, attempts)] == [1, 2, 3]


def test_whatever_a_command_tells_of_other_attempts_the_policy_reads_it() -> None:
    """Built without the door, as a store of before has it: an attempt that ends must end."""
    mad = Segment.model_construct(
        attempt=1, executor="x", began_at=1.7e308, seconds=1.7e308, reason=Reason.CHECKPOINTED, exit_code=85
    )
    came = Checkpoint.model_construct(attempt=1, where="lfs", sha256="0" * 64, size=10, segments=(mad,))
    run = a_run(a_command().model_copy(update={"attempt": 1, "checkpoint": came}), attempt=2)
    last = an_attempt(run, number=2, reason=Reason.LOST)
    earlier = segments.earlier(run, [last])
    assert earlier == [mad]
    assert retry.after(last, earlier, Retry(lost=1)) is not None
    assert retry.after(last.model_copy(update={"reason": Reason.CHECKPOINTED}), earlier, Retry()) is not None
