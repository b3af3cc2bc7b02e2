"""A line of runs to publish: an origin, executors that publish to it, and runs that have results."""

import sys
from pathlib import Path
from typing import Any

from origins import origin_and_clone
from pushtrain.adapters.metrics.jsonl import JsonLines
from pushtrain.core.errors import PushtrainError
from pushtrain.core.settings import ExecutorSettings, Repository
from pushtrain.core.values.run import Run
from pushtrain.core.values.states import Outcome, Reason, State
from pushtrain.executor.results.artifacts import Spend, at_once
from pushtrain.executor.results.publish import Publishable, Published, Publisher
from pushtrain.plumbing.attempts.rundir import RunDir
from pushtrain.plumbing.git.mirror import Mirror
from pushtrain.testing import NOON, a_command, a_gpu, a_run, a_spec, an_attempt

KEY = "github.com/octo/hello"
RESULTS = "pushtrain/results"


class Line:
    """An origin with one commit, and executors that publish to it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.origin = folder / "origin.git"
        self.work = origin_and_clone(
            self.origin, folder / "work", {"train.py": "print(1)\n"},
            message="Try a larger rate", remote=f"file://{self.origin}",
        )  # fmt: skip
        self.commit = self.work.head()
        self._runs = 0
        self.key = "SHA256:k"

    def mirror(self, name: str = "lab-3", remote: Path | None = None, key: str = KEY) -> Mirror:
        where = Repository(key=key, remote=f"file://{remote or self.origin}")
        mirror = Mirror(self.folder / name, where)
        if remote is None:
            mirror.fetch("refs/heads/main", self.commit)
        return mirror

    def publisher(self, name: str = "lab-3", *, pace: Spend = at_once, **changes: Any) -> Publisher:
        mirror = self.mirror(name)
        settings = ExecutorSettings(name=name, **changes)
        return Publisher(
            lambda _: mirror, settings, who=lambda: self.key, formats=[JsonLines()], gpus=[a_gpu()],
            pace=pace, clock=lambda: NOON,
        )  # fmt: skip

    def item(self, files: dict[str, bytes] | None = None, **job: Any) -> Publishable:
        """A run that succeeded, with a log and these result files."""
        self._runs += 1
        command = a_command(commit=self.commit, job=a_spec(**job), request=f"r{self._runs}")
        run = over(a_run(command))
        folder = RunDir.of(self.folder / "runs", run.id, 1).create()
        folder.tree.mkdir()
        folder.log.write_text("hello\n")
        for name, content in (files or {}).items():
            (folder.results / name).parent.mkdir(parents=True, exist_ok=True)
            (folder.results / name).write_bytes(content)
        attempt = an_attempt(run, started_at=NOON, ended_at=NOON + 5, exit_code=0, gpus=("GPU-00000000",))
        headers = {"Signature": "sig=:x:", "Host": "10.0.0.7", "Content-Digest": "d"}
        return Publishable(run, (attempt,), folder, (), b'{"version":1}', headers)

    def show(self, done: Published, name: str, branch: str = RESULTS) -> str:
        """A file of a run's folder, or with a leading slash of the branch."""
        self.tip(branch)
        path = name[1:] if name.startswith("/") else f"{done.path}/{name}"
        return self.work.show(done.commit, path)

    def tip(self, branch: str = RESULTS) -> str:
        return self.work.fetch(branch)

    def log(self, branch: str = RESULTS, form: str = "%H") -> list[str]:
        tip = self.tip(branch)
        return self.work.git("log", f"--format={form}", tip).splitlines() if tip else []


def over(run: Run, outcome: Outcome = Outcome.SUCCEEDED) -> Run:
    change = {"state": State.PUBLISHING, "outcome": outcome, "reason": Reason.EXITED, "attempt": 1}
    return run.model_copy(update=change)


def published(outcome: Published | PushtrainError) -> Published:
    assert isinstance(outcome, Published), outcome
    return outcome


def one(publisher: Publisher, item: Publishable) -> Published:
    (outcome,) = publisher.publish([item]).values()
    return published(outcome)


def publish(mirror: str, remote: str, results: str, run: str) -> None:
    """Publish a run in a process of its own that may be killed; says so when it is done."""
    where = Mirror(Path(mirror), Repository(key=KEY, remote=remote))
    item = Publishable(Run.model_validate_json(run), (), RunDir(Path(results)))
    (outcome,) = Publisher(lambda _: where, ExecutorSettings()).publish([item]).values()
    sys.stdout.write("published" if isinstance(outcome, Published) else f"{outcome}\n")
