"""`pushtrain send`: one push by hand, to a real executor, as a person and as a CI step."""

import asyncio
import contextlib
import json
import threading
from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from origins import origin_and_clone
from pushtrain.cli.app import run as pushtrain
from pushtrain.cli.send import _Before, deliver_all
from pushtrain.core.errors import Unreachable
from pushtrain.plumbing.disk.state import StateFolder
from pushtrain.plumbing.http.client import ExecutorClient
from pushtrain.sender.kept import KeptCommands
from pushtrain.testing import WorkRepository, a_command, wait_until
from pushtrain.wiring.parts import executor_clients
from pushtrain.wiring.rooms import serve_both, serve_executor
from pushtrain.wiring.settings import load_settings
from served import Served
from served import served as serving

JOBS = """
[job.train]
command = "echo trained with ${{ matrix.lr }}"
environment = "system"
[job.train.matrix]
lr = [0.1]
[job.broken]
command = "exit 3"
environment = "system"
[job.pushed]
command = "true"
on = {push = true, manual = false}
"""


class Bench:
    """A remote, a clone of it, a state folder, and an executor when asked for."""

    def __init__(self, root: Path) -> None:
        self.remote = root / "remote.git"
        self.work = origin_and_clone(self.remote, root / "work", {"pushtrain.toml": JOBS})
        self.commit = self.work.head()
        self.state = StateFolder(root / "state").create()

    @contextlib.contextmanager
    def executor(self, *, sender: bool = False) -> Iterator[ExecutorClient]:
        """Serve the state folder: an executor, with `sender` both rooms, in a thread of its own."""
        ports = {"port": 0}
        settings = load_settings(
            self.state,
            executor=ports,
            sender={**ports, "poll_seconds": 0.2},
            repositories=(str(self.remote),),
        )
        room: AbstractAsyncContextManager[object] = (serve_both if sender else serve_executor)(
            self.state, settings
        )
        ready, stop = threading.Event(), threading.Event()

        async def serve() -> None:
            async with room:
                ready.set()
                await asyncio.to_thread(stop.wait)

        thread = threading.Thread(target=asyncio.run, args=(serve(),))
        thread.start()
        try:
            assert ready.wait(20)
            yield executor_clients(self.state, settings)[0]
        finally:
            stop.set()
            thread.join(30)

    def send(self, *words: str) -> int:
        return pushtrain(["send", *words, "--state", str(self.state.root)])

    def kept(self) -> list[str]:
        found = []
        for entry in KeptCommands(self.state.outbox).left():
            with entry:
                found.append(entry.command.job.name)
        return found


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    made = Bench(tmp_path)
    monkeypatch.chdir(made.work.folder)
    monkeypatch.setenv("COLUMNS", "200")
    return made


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Bench, ExecutorClient]]:
    made = Bench(tmp_path_factory.mktemp("served"))
    with made.executor() as client:
        yield made, client


@pytest.fixture
def house(served: tuple[Bench, ExecutorClient], monkeypatch: pytest.MonkeyPatch) -> Bench:
    monkeypatch.chdir(served[0].work.folder)
    return served[0]


def said(capsys: pytest.CaptureFixture[str]) -> Any:
    return json.loads(capsys.readouterr().out)


def test_what_is_checked_out_starts_every_job_that_may_be_started_by_hand(
    house: Bench, capsys: pytest.CaptureFixture[str]
) -> None:
    commit = house.work.commit({"a": "1"})
    house.work.push()
    assert house.send("--json") == 0
    first = said(capsys)
    assert [(one["run"]["command"]["job"]["name"], one["new"]) for one in first] == [
        ("train", True),
        ("broken", True),
    ]
    assert {one["run"]["command"]["commit"] for one in first} == {commit}
    assert {one["run"]["command"]["ref"] for one in first} == {"refs/heads/main"}


def test_the_same_commit_is_the_same_run_and_rerun_is_named(
    house: Bench, capsys: pytest.CaptureFixture[str]
) -> None:
    house.work.commit({"a": "2"})
    house.work.push()
    assert house.send("main", "--job", "train") == 0
    first = capsys.readouterr().out
    assert "is queued: train (lr=0.1) at" in first
    assert house.send("--job", "train") == 0
    again = capsys.readouterr().out
    run = first.split()[1]
    assert f"Run {run} exists already" in again
    assert f"pushtrain rerun {run}" in again


def test_overrides_are_a_run_of_their_own_each_time(house: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("--job", "train", "--param", "lr=0.5", "--data-url", "https://host.invalid/x.csv", "--json")
    runs = []
    for _ in range(2):
        assert house.send(*words) == 0
        runs += said(capsys)
    assert len({one["run"]["id"] for one in runs}) == 2
    job = runs[0]["run"]["command"]["job"]
    assert (job["cell"], job["command"]) == ({"lr": 0.5}, "echo trained with 0.5")
    assert job["data"][0]["url"] == "https://host.invalid/x.csv"
    for one in runs:
        assert pushtrain(["cancel", one["run"]["id"], "--state", str(house.state.root)]) == 0


def test_waiting_follows_the_log_to_a_good_end(
    house: Bench, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    assert house.send("--job", "train", "--command", "echo it learnt", "--wait") == 0
    assert b"it learnt\n" in capfdbinary.readouterr().out


def test_waiting_ends_with_12_when_a_run_fails(house: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    house.work.commit({"a": "3"})
    house.work.push()
    assert house.send("--job", "broken", "--wait") == 12
    assert "exit code 3" in capsys.readouterr().err
    assert house.send("--wait") == 12


def test_several_failures_are_told_together(house: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("--job", "train", "--command", "exit 4", "--wait")
    house.work.commit({"pushtrain.toml": JOBS.replace("[0.1]", "[0.1, 0.2]")})
    house.work.push()
    assert house.send(*words) == 12
    assert "2 of 2 runs did not succeed" in capsys.readouterr().err
    house.work.commit({"pushtrain.toml": JOBS})
    house.work.push()


def test_a_ci_step_on_a_detached_head_sends_the_branch_that_its_host_names(
    house: Bench, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    house.work.git("switch", "--quiet", "--create", "topic")
    commit = house.work.commit({"a": "4"})
    house.work.push("topic")
    house.work.git("switch", "--quiet", "--detach")
    monkeypatch.setenv("GITHUB_SHA", commit)
    monkeypatch.setenv("GITHUB_REF", "refs/heads/topic")
    assert house.send("--job", "train", "--json") == 0
    assert said(capsys)[0]["run"]["command"]["ref"] == "refs/heads/topic"
    house.work.git("switch", "--quiet", "main")


@pytest.mark.parametrize("revision", ["", "main", "refs/heads/main", "v1", "COMMIT"])
def test_without_a_clone_a_remote_and_a_revision_are_enough(
    house: Bench,
    revision: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    commit = house.work.head()
    house.work.git("tag", "--force", "v1")
    house.work.push("v1", "--force")
    monkeypatch.chdir(tmp_path)
    words = [word for word in (revision.replace("COMMIT", commit),) if word]
    assert house.send(*words, "--repo", str(house.remote), "--job", "train", "--json") == 0
    command = said(capsys)[0]["run"]["command"]
    assert command["commit"] == commit
    assert command["ref"].startswith("refs/")


@pytest.mark.parametrize("inside", [True, False], ids=["in-a-clone", "without"])
def test_a_bare_commit_is_sent_with_a_branch_that_holds_it(
    house: Bench,
    inside: bool,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    house.work.git("switch", "--quiet", "--create", f"side-{inside}")
    commit = house.work.commit({"b": f"{inside}"})
    house.work.commit({"b": f"{inside}, later"})
    house.work.push(f"side-{inside}")
    house.work.git("switch", "--quiet", "main")
    if not inside:
        monkeypatch.chdir(tmp_path)
    where = () if inside else ("--repo", str(house.remote))
    assert house.send(commit, *where, "--job", "train", "--json") == 0
    command = said(capsys)[0]["run"]["command"]
    assert (command["ref"], command["commit"]) == (f"refs/heads/side-{inside}", commit)


def test_a_revision_that_the_remote_does_not_have_is_refused_with_a_suggestion(
    house: Bench, capsys: pytest.CaptureFixture[str]
) -> None:
    assert house.send("mian", "--repo", str(house.remote)) == 5
    error = capsys.readouterr().err
    assert "no branch or tag `mian`" in error
    assert "`main`" in error


def test_what_is_not_pushed_is_not_seen(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    bench.work.commit({"a": "1"})
    assert bench.send() == 5
    assert "`git push` first" in capsys.readouterr().err


def test_a_job_that_only_a_push_starts_is_not_sent(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    assert bench.send("--job", "pushed") == 2
    assert "`on.manual` is false" in capsys.readouterr().err


def test_a_folder_that_is_no_clone_or_has_no_remote_or_no_commit_says_so(
    bench: Bench, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    bare = WorkRepository(tmp_path / "bare")
    monkeypatch.chdir(tmp_path)
    assert bench.send() == 2
    monkeypatch.chdir(bare.folder)
    assert bench.send() == 2
    assert "no remote `origin`" in capsys.readouterr().err
    bare.git("remote", "add", "origin", str(bench.remote))
    assert bench.send() == 5
    assert "no commit yet" in capsys.readouterr().err


def test_what_no_executor_takes_is_kept_and_the_next_send_delivers_it(
    bench: Bench, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    assert bench.send("--job", "broken") == 7
    assert "It is kept" in capsys.readouterr().err
    assert bench.kept() == ["broken"]
    with bench.executor() as client:
        assert bench.send("--job", "train") == 0
        assert {run.command.job.name for run in client.runs()} == {"broken", "train"}
    assert bench.kept() == []
    assert "kept from an earlier `send`: delivered" in caplog.text


def test_what_send_kept_the_folders_sender_delivers(bench: Bench) -> None:
    assert bench.send("--job", "broken") == 7
    with bench.executor(sender=True) as client:
        wait_until(lambda: [run.command.job.name for run in client.runs()] == ["broken"])
    assert bench.kept() == []


def test_a_repository_that_the_executor_does_not_serve_is_refused_for_good(
    house: Bench, bench: Bench, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(bench.work.folder)
    assert pushtrain(["send", "--job", "train", "--state", str(house.state.root)]) == 4
    assert capsys.readouterr().err.startswith("pushtrain: ")
    assert house.kept() == []


@contextmanager
def two_executors(folder: Path) -> Iterator[tuple[list[Served], list[ExecutorClient]]]:
    """Two executors that know one key, and its clients of them."""
    key = Ed25519PrivateKey.generate()
    with (
        serving(folder / "first", name="first") as first,
        serving(folder / "second", name="second") as second,
    ):
        for one in (first, second):
            one.authorized.add(key.public_key())
        both = [first, second]
        clients = [ExecutorClient(one.url, one.key.public_key(), key, clock=one.clock) for one in both]
        yield both, clients
        for client in clients:
            client.close()


def test_a_run_that_an_executor_has_is_sent_to_no_other_one(tmp_path: Path) -> None:
    """A sender had given it to the second one, and the first one has nothing to do."""
    with two_executors(tmp_path) as (executors, clients):
        clients[1].send(a_command())
        (sent,) = deliver_all([a_command()], clients, KeptCommands(tmp_path / "outbox"))
        assert (sent.known, sent.client) == (True, clients[1])
        assert executors[0].store.runs(limit=9) == []


@pytest.mark.parametrize("theirs", [0, 1])
def test_a_run_that_the_sender_is_handing_over_is_sent_where_the_sender_sends_it(
    tmp_path: Path, theirs: int
) -> None:
    """The sender has written down where, was perhaps killed then, and no executor has the run yet."""
    kept = KeptCommands(tmp_path / "outbox")
    with two_executors(tmp_path) as (executors, clients):
        placed = clients[theirs].id
        (sent,) = deliver_all([a_command()], clients, kept, placed=lambda _: placed)
        assert sent.client is clients[theirs]
        assert kept.executor_of(a_command().run_id) == placed
        assert [len(one.store.runs(limit=9)) for one in executors] == [1 - theirs, theirs]


def test_a_run_that_an_executor_took_which_is_silent_now_is_sent_to_no_other_one(tmp_path: Path) -> None:
    """It trains there behind a broken tunnel; what `send` itself knows must be enough."""
    kept = KeptCommands(tmp_path / "outbox")
    with two_executors(tmp_path) as (executors, clients):
        (sent,) = deliver_all([a_command()], clients[:1], kept)
        assert sent.client is clients[0]
        key = Ed25519PrivateKey.generate()
        away = ExecutorClient("http://127.0.0.1:9", executors[0].key.public_key(), key)
        assert away.id == clients[0].id
        with pytest.raises(Unreachable):
            deliver_all([a_command()], [away, clients[1]], kept)
        away.close()
        assert executors[1].store.runs(limit=9) == []


def test_a_run_that_one_executor_gave_back_may_go_to_another_one(tmp_path: Path) -> None:
    key = Ed25519PrivateKey.generate()
    with serving(tmp_path / "first") as first:
        first.authorized.add(key.public_key())
        client = ExecutorClient(first.url, first.key.public_key(), key, clock=first.clock)
        client.send(a_command())
        assert _Before([client]).has(a_command()) == client.id
        client.release(a_command().run_id, 0)
        assert not _Before([client]).has(a_command())
        client.close()
