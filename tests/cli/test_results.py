"""`pushtrain results`: what runs left, from a clone, with and without a network."""

import hashlib
import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from origins import origin_and_clone
from pushtrain.adapters.metrics.jsonl import JsonLines
from pushtrain.cli import published
from pushtrain.cli.app import run
from pushtrain.cli.results import _Haul
from pushtrain.core.errors import NotFound
from pushtrain.core.settings import ExecutorSettings, Repository
from pushtrain.core.values.jobspec import ResultsTarget
from pushtrain.core.values.states import Outcome, Reason, State
from pushtrain.executor.results.publish import Publishable, Published, Publisher
from pushtrain.plumbing.attempts.rundir import RunDir
from pushtrain.plumbing.git import lfs
from pushtrain.plumbing.git.mirror import Mirror
from pushtrain.testing import NOON, a_command, a_run, a_spec, an_attempt

KEY = "github.com/octo/hello"


class Bench:
    """A clone to stand in, and an executor that publishes to its origin."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.origin = folder / "origin.git"
        remote = f"file://{self.origin}"
        self.work = origin_and_clone(self.origin, folder / "work", {"a": "1"}, message="Begin", remote=remote)
        self.commit = self.work.head()
        mirror = Mirror(folder / "m", Repository(key=KEY, remote=f"file://{self.origin}"))
        settings = ExecutorSettings(name="lab-3", git_file_limit=1000)
        self.publisher = Publisher(lambda _: mirror, settings, formats=[JsonLines()], clock=time.time)
        self.number = 0

    def publish(self, files: dict[str, bytes] | None = None, ref: str = "refs/heads/main", **job: Any) -> str:
        """Publish a run; its id."""
        self.number += 1
        command = a_command(commit=self.commit, ref=ref, job=a_spec(**job), request=f"r{self.number}")
        over = {"state": State.PUBLISHING, "outcome": Outcome.SUCCEEDED, "reason": Reason.EXITED}
        base = a_run(command, accepted_at=NOON + 60 * self.number)
        done = base.model_copy(update={**over, "attempt": 1})
        folder = RunDir.of(self.folder / "runs", done.id, 1).create()
        folder.tree.mkdir()
        folder.metrics.write_text('{"step": 1, "loss": 0.5}\n')
        for name, content in (files or {}).items():
            (folder.results / name).write_bytes(content)
        (outcome,) = self.publisher.publish([Publishable(done, (an_attempt(done),), folder)]).values()
        assert isinstance(outcome, Published), outcome
        return done.id


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    bench = Bench(tmp_path)
    monkeypatch.chdir(bench.work.folder)
    return bench


Tell = Callable[..., Any]


@pytest.fixture
def tell(capsys: pytest.CaptureFixture[str]) -> Tell:
    def call(*words: str, code: int = 0) -> Any:
        assert run(["results", *words, "--json"]) == code
        captured = capsys.readouterr()
        return json.loads(captured.out or captured.err)

    return call


def test_list_tells_the_newest_runs_first(bench: Bench, tell: Tell) -> None:
    ids = [bench.publish(cell={"lr": number}) for number in range(3)]
    assert [found["run"] for found in tell("list")] == ids[::-1]
    first = tell("list", "-n", "1")[0]
    assert first["commit"] == bench.commit
    assert first["cell"] == {"lr": 2}
    assert first["outcome"] == "succeeded"
    assert first["metrics"]["loss"]["last"] == 0.5


def test_runs_are_found_by_id_commit_job_and_branch(bench: Bench, tell: Tell) -> None:
    one = bench.publish()
    two = bench.publish(ref="refs/heads/feature/x", name="eval")
    for which in (one, one[:8], one[:10]):
        assert [found["run"] for found in tell("list", which)] == [one]
    assert {found["run"] for found in tell("list", bench.commit[:9])} == {one, two}
    assert {found["run"] for found in tell("list", "HEAD")} == {one, two}
    assert [found["run"] for found in tell("list", "eval")] == [two]
    assert [found["run"] for found in tell("list", "feature/x")] == [two]
    assert [found["run"] for found in tell("list", "main")] == [one]
    assert tell("list", "nothing-of-the-kind") == []


def test_list_and_show_are_readable(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    id_ = bench.publish(cell={"lr": 0.1})
    assert run(["results", "list"]) == 0
    out = capsys.readouterr().out
    assert "train (lr=0.1)" in out
    assert "loss 0.5" in out
    assert run(["results", "show", id_[:8]]) == 0
    assert "# ✅ succeeded · train (lr=0.1)" in capsys.readouterr().out
    assert run(["results", "list", "elsewhere"]) == 0
    assert "No published run fits `elsewhere`." in capsys.readouterr().out


def test_without_a_network_what_is_here_is_shown(
    bench: Bench, tell: Tell, capsys: pytest.CaptureFixture[str]
) -> None:
    id_ = bench.publish()
    tell("list")
    bench.origin.rename(bench.folder / "away")
    assert run(["results", "list", "--json"]) == 0
    captured = capsys.readouterr()
    assert [found["run"] for found in json.loads(captured.out)] == [id_]
    assert "What was fetched before is shown." in captured.err
    assert tell("show", "--offline")["run"]["id"] == id_


def test_before_the_first_run_there_is_nothing_to_show(bench: Bench, tell: Tell) -> None:
    assert "no results branch" in tell("list", code=NotFound.exit_code)["error"]["message"]
    bench.publish()
    error = tell("show", "nope", code=NotFound.exit_code)["error"]
    assert error["message"] == "No published run fits `nope`."


def test_a_folder_that_is_no_clone_is_a_users_mistake(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tell: Tell
) -> None:
    (tmp_path / "plain").mkdir()
    monkeypatch.chdir(tmp_path / "plain")
    assert "not inside a Git work tree" in tell("list", code=2)["error"]["message"]


def test_the_branch_is_the_one_that_pushtrain_toml_names(bench: Bench, tell: Tell) -> None:
    id_ = bench.publish(results_to=ResultsTarget(branch="reports"))
    toml = '[results]\nbranch = "reports"\n[job.train]\ncommand = "true"\n'
    (bench.work.folder / "pushtrain.toml").write_text(toml)
    assert [found["run"] for found in tell("list")] == [id_]
    (bench.work.folder / "pushtrain.toml").write_text(
        toml.replace('"reports"', '"reports"\nrepository = "x.y/z"')
    )
    assert "--remote" in tell("list", code=2)["error"]["mend"]
    assert [found["run"] for found in tell("list", "--remote", f"file://{bench.origin}")] == [id_]


def test_results_on_the_pushed_branch_are_found_there(bench: Bench, tell: Tell) -> None:
    id_ = bench.publish(results_to=ResultsTarget(branch="same"))
    (bench.work.folder / "pushtrain.toml").write_text(
        '[results]\nbranch = "same"\n[job.train]\ncommand = "true"\n'
    )
    assert [found["run"] for found in tell("list")] == [id_]


def test_fetch_writes_the_report_and_the_files(bench: Bench, tell: Tell, tmp_path: Path) -> None:
    id_ = bench.publish({"model.pt": b"weights"})
    told = tell("fetch", id_[:8], "--into", str(tmp_path / "out"))
    assert told["missing"] == {}
    assert (tmp_path / "out" / "files" / "model.pt").read_bytes() == b"weights"
    assert (tmp_path / "out" / "README.md").read_text().startswith("# ✅")
    assert (tmp_path / "out" / "plots" / "loss.svg").exists()
    assert set(told["files"]) >= {"README.md", "run.json", "files/model.pt"}
    again = tell("fetch", "--into", str(tmp_path / "out"))
    assert again["files"] == told["files"]


def plant(bench: Bench, path: str, record: str) -> None:
    """Have somebody who can push put a folder on the results branch."""
    tip = bench.work.fetch("pushtrain/results")
    bench.work.git("checkout", "--quiet", tip)
    bench.work.commit({f"{path}/run.json": record, f"{path}/README.md": "all is well"})
    bench.work.git("push", "--quiet", "origin", "HEAD:refs/heads/pushtrain/results")


def test_where_a_run_has_several_folders_nobody_chooses_for_the_reader(bench: Bench, tell: Tell) -> None:
    id_ = bench.publish()
    told = tell("show")
    own = tell("list")[0]["path"]
    told["run"]["accepted_at"] += 1000
    plant(bench, f"{own}{id_[8:]}", json.dumps(told))
    assert {found["path"] for found in tell("list", id_)} == {own, f"{own}{id_[8:]}"}
    for verb in ("show", "fetch"):
        for which in ([], [id_], [id_[:8]]):
            error = tell(verb, *which, code=2)["error"]
            assert f"{own}, {own}{id_[8:]}" in error["message"]
    assert tell("show", own)["run"]["accepted_at"] == told["run"]["accepted_at"] - 1000


def test_records_that_are_odd_or_of_another_run_are_passed_over(bench: Bench, tell: Tell) -> None:
    id_ = bench.publish()
    own, told = tell("list")[0]["path"], tell("show")
    odd = own.rpartition("-")[0]
    for number, record in enumerate(("[" * 100_000, json.dumps(told), json.dumps(told | {"metrics": [1]}))):
        plant(bench, f"{odd}-{number:08d}", record)
    plant(bench, odd.replace("train", "a\nb\u2028c"), "{}")
    plant(bench, own.replace("train", "a\nb\u2028c"), json.dumps(told))
    assert [found["path"] for found in tell("list")] == [own]
    assert tell("show", id_)["run"]["id"] == id_
    huge = {"metrics": {"a": {"last": 10**400}}}
    for number, odd_one in enumerate((huge, {"attempts": [1]}, {"events": 1}, {"log": []})):
        plant(bench, f"{own}{id_[8 : 12 + number]}", json.dumps(told | odd_one))
    assert [found["path"] for found in tell("list")] == [own]
    assert run(["results", "list"]) == 0
    assert run(["ps"]) == 0


def test_records_that_are_too_large_together_break_no_list(
    bench: Bench, tell: Tell, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two gigabytes of them were read before it failed."""
    id_ = bench.publish()
    own, told = tell("list")[0]["path"], tell("show")
    for number in range(2):
        plant(bench, f"{own.rpartition('-')[0]}-{number:08d}", json.dumps(told) + " " * 9000)
    monkeypatch.setattr(published, "_LARGEST", 20_000)
    assert [found["run"] for found in tell("list")] == [id_]


def test_fetch_names_its_folder_after_the_run(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    id_ = bench.publish()
    assert run(["results", "fetch"]) == 0
    name = f"results-train-{bench.commit[:7]}-{id_[:8]}"
    assert (bench.work.folder / name / "README.md").exists()
    assert name in capsys.readouterr().out


def test_what_cannot_be_written_is_named_and_the_rest_is_there(
    bench: Bench, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It was a traceback."""
    bench.publish({"a.csv": b"1", "b.csv": b"2"})
    out = tmp_path / "out"
    (out / "files" / "a.csv").mkdir(parents=True)
    assert run(["results", "fetch", "--into", str(out)]) == NotFound.exit_code
    assert (
        "files/a.csv could not be fetched: it cannot be written: Is a directory." in capsys.readouterr().err
    )
    assert (out / "files" / "b.csv").read_bytes() == b"2"
    assert sorted(path.name for path in (out / "files").iterdir()) == ["a.csv", "b.csv"]
    (tmp_path / "file").touch()
    assert run(["results", "fetch", "--into", str(tmp_path / "file")]) == NotFound.exit_code


def test_fetch_writes_only_what_the_record_names(bench: Bench, tell: Tell, tmp_path: Path) -> None:
    id_ = bench.publish({"model.pt": b"weights", "b": b"b"})
    own = tell("list")[0]["path"]
    bench.work.git("checkout", "--quiet", bench.work.fetch("pushtrain/results"))
    bench.work.commit({f"{own}/files/more": "x", f"{own}/run.sh": "x", f"{own}/files/b": "c"})
    bench.work.git("push", "--quiet", "origin", "HEAD:refs/heads/pushtrain/results")
    out = tmp_path / "out"
    assert run(["results", "fetch", id_, "--into", str(out)]) == NotFound.exit_code
    assert (out / "files" / "model.pt").read_bytes() == b"weights"
    assert not any((out / name).exists() for name in ("files/more", "run.sh", "files/b"))


@dataclass
class FakeClient:
    """An executor that keeps one file; the real client and server are tested together elsewhere."""

    content: bytes | None
    asked: list[tuple[str, str]] = field(default_factory=list)

    def artifact(self, run_id: str, path: str, into: Path, report: Callable[[str, int, int], None]) -> None:
        self.asked.append((run_id, path))
        if self.content is None:
            raise NotFound("No such run here.")
        report(path, 0, len(self.content))
        into.write_bytes(self.content)


def executors(monkeypatch: pytest.MonkeyPatch, *clients: FakeClient) -> None:
    monkeypatch.setattr("pushtrain.cli.connect.clients", lambda _: list(clients))


def test_fetch_gets_what_the_executor_keeps(
    bench: Bench, tell: Tell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = os.urandom(2000)
    id_ = bench.publish({"big.bin": content})
    here, other = FakeClient(content), FakeClient(None)
    executors(monkeypatch, other, here)
    told = tell("fetch", "--into", str(tmp_path / "out"))
    assert "files/big.bin" in told["files"]
    assert (tmp_path / "out" / "files" / "big.bin").read_bytes() == content
    assert other.asked == here.asked == [(id_, "big.bin")]
    tell("fetch", "--into", str(tmp_path / "out"))
    assert len(here.asked) == 1  # what is there and whole is not fetched again


def test_what_the_executor_gives_is_verified(
    bench: Bench, tell: Tell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.publish({"big.bin": b"x" * 2000})
    executors(monkeypatch, FakeClient(b"y" * 2000))
    tell("fetch", "--into", str(tmp_path / "out"), code=NotFound.exit_code)
    assert not (tmp_path / "out" / "files" / "big.bin").exists()
    assert (tmp_path / "out" / "README.md").exists()


def test_a_file_that_nobody_here_has_is_named(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    bench.publish({"big.bin": b"x" * 2000, "big.two": b"x" * 2000})
    executors(monkeypatch)
    assert run(["results", "fetch"]) == NotFound.exit_code
    captured = capsys.readouterr()
    assert "files/big.bin (and 1 more) could not be fetched" in captured.err
    assert "lab-3" in captured.err


def test_lfs_files_are_fetched_or_named(bench: Bench, tell: Tell, tmp_path: Path) -> None:
    if not lfs.installed():
        return  # the executor cannot have put it there; see test_large_results
    content = os.urandom(3000)
    bench.publish({"big.bin": content}, results_to=ResultsTarget(artifacts="lfs"))
    tell("fetch", "--into", str(tmp_path / "out"))
    got = (tmp_path / "out" / "files" / "big.bin").read_bytes()
    assert hashlib.sha256(got).digest() == hashlib.sha256(content).digest()


def test_a_hostile_results_branch_writes_nothing_outside_the_folder(tmp_path: Path) -> None:
    into = tmp_path / "out"
    into.mkdir()
    (into / "files").symlink_to(tmp_path)
    haul = _Haul(into, quiet=True)
    for path in ("../evil", ".git/hooks/x", "files/evil", "/etc/evil", "a/../../evil"):
        haul._write(path, b"x")
    assert haul.written == []
    assert len(haul.missing) == 5
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]
