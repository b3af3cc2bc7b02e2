"""A house of real processes: `pushtrain executor`, `sender` and `up`, as a user starts them.

They talk to a real smart-HTTP Git host with a token, keep state folders of their own, and know each other by
their keys.
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import tomlkit

from pushtrain.core.values.run import RunView
from pushtrain.core.values.states import State
from pushtrain.core.values.value import RESULTS_BRANCH
from pushtrain.core.wire.signing import parse_public, public_text
from pushtrain.demo.host import Host, hosting
from pushtrain.plumbing.disk.state import StateFolder
from pushtrain.plumbing.http.client import ExecutorClient
from pushtrain.plumbing.keys.authorized import Authorized, load_or_create
from pushtrain.plumbing.programs import proc
from pushtrain.testing import WorkRepository, wait_until

T = TypeVar("T")

SECRET = "between host and sender"
SYSTEM = 'environment = "system"\n'
"""No environment has to be built: these tests are about the line."""
AT_THE_GATE = "while [ ! -e gate ]; do sleep 0.05; done"
"""A job waits until a test opens the gate; it sees nothing of the machine but its own folders."""


def open_gate(state: StateFolder) -> None:
    """Let the jobs go on that wait at the gate."""
    for tree in state.runs.glob("*/*/job/tree"):
        (tree / "gate").touch()


class House:
    """Host, executor, sender.

    Args:
        folder: Everything lies below it.
        host: The running Git host.
        repositories: How many to make, `ada/r0` and so on.
    """

    def __init__(self, folder: Path, host: Host, *, repositories: int = 1) -> None:
        self.folder = folder
        self.host = host
        self.names = [f"ada/r{number}" for number in range(repositories)]
        self.remotes = [host.create(name) for name in self.names]
        self.executor_state = StateFolder(folder / "executor").create()
        self.sender_state = StateFolder(folder / "sender").create()
        self.executors: dict[str, StateFolder] = {}
        """By the names of their processes."""
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self._lend("executor", self.executor_state)
        self.sender_state.webhook_secret.touch(0o600)
        self.sender_state.webhook_secret.write_text(SECRET)
        self._free = iter(range(repositories))

    def another_executor(self) -> str:
        """Have a state folder for one more executor, which obeys our sender; the name of its process."""
        name = f"executor-{len(self.executors) + 1}"
        self._lend(name, StateFolder(self.folder / name).create())
        return name

    def _lend(self, name: str, state: StateFolder) -> None:
        sender = load_or_create(self.sender_state.key).public_key()
        Authorized(state.authorized).add(sender, name="sender")
        self.executors[name] = state

    # --- processes

    def start(
        self, name: str, *words: str | Path, cwd: Path | None = None, program: Path | None = None
    ) -> Path:
        """Start `pushtrain WORDS --json`, or another program like it; the file that its output goes to."""
        out = self.folder / f"{name}.out"
        with out.open("wb") as output, (self.folder / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                (sys.executable, "-P", *((program,) if program else ("-m", "pushtrain")), *words, "--json"),
                cwd=cwd or self.folder,
                env=self._environment(),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=log,
                start_new_session=True,
            )
        return out

    def start_executor(self, *flags: str, port: str = "0") -> dict[str, Any]:
        """Start the executor for every repository; what it says of itself."""
        self.executor_state.card.unlink(missing_ok=True)
        repos = [word for remote in self.remotes for word in ("--repo", remote)]
        state = ("--state", self.executor_state.root)
        out = self.start("executor", "executor", *state, *repos, "--name", "lab-1", "--port", port, *flags)
        facts = self.facts("executor", out)
        self._settle_sender()
        return facts

    def start_sender(self, *, poll_seconds: float = 600, webhook: bool = True) -> dict[str, Any]:
        """Start the sender; with `webhook` the host tells it of pushes."""
        flags = ("--port", "0", "--poll-seconds", str(poll_seconds))
        out = self.start("sender", "sender", "--state", self.sender_state.root, *flags)
        facts = self.facts("sender", out)
        if webhook:
            self.host.notify(facts["webhook"], SECRET.encode())
        return facts

    def facts(self, name: str, out: Path) -> dict[str, Any]:
        """What a process prints when it is ready."""

        def look() -> dict[str, Any] | None:
            assert self.processes[name].poll() is None, self.log(name)
            try:
                document: dict[str, Any] = json.loads(out.read_text())
            except ValueError:
                return None
            return document

        return wait_until(look, timeout=30, what=f"the {name} to be ready")

    def log(self, name: str) -> str:
        """What a process said."""
        return (self.folder / f"{name}.log").read_text(errors="replace")

    def kill(self, name: str) -> None:
        """SIGKILL one process; what it started goes on."""
        child = self.processes.pop(name)
        child.kill()
        child.wait()

    def end(self) -> None:
        """End every process, and the jobs that they left."""
        self.host.quiet()
        for child in self.processes.values():
            child.send_signal(signal.SIGTERM)
        for child in self.processes.values():
            try:
                child.wait(timeout=10)
            except subprocess.TimeoutExpired:
                proc.kill_tree(child.pid)
                child.wait()
        for pid in self.jobs():
            start = proc.start_time(pid)
            if start is not None:
                proc.send(pid, start, signal.SIGKILL)

    def jobs(self) -> list[int]:
        """Processes of attempts: jobs inherit nothing, but their folders are below ours."""
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                told = (entry / "environ").read_bytes() + (entry / "cmdline").read_bytes()
                if any(str(state.runs).encode() in told for state in self.executors.values()):
                    found.append(int(entry.name))
            except OSError:
                continue
        return found

    def _settle_sender(self) -> None:
        card = json.loads(self.executor_state.card.read_text())
        key = public_text(load_or_create(self.executor_state.key).public_key())
        executor = {"url": card["public_url"], "public_key": key}
        document = {"repositories": self.remotes, "sender": {"executors": [executor]}}
        self.sender_state.settings.write_text(tomlkit.dumps(document))

    def _environment(self) -> dict[str, str]:
        return {**os.environ, "PUSHTRAIN_GIT_TOKEN": self.host.token, "PUSHTRAIN_SENDER_PORT": "0"}

    @property
    def port(self) -> str:
        """The port of the executor that runs now."""
        return str(json.loads(self.executor_state.card.read_text())["port"])

    # --- people

    def work(self, jobs: str, files: Mapping[str, str] | None = None, *, number: int | None = None) -> "Work":
        """A clone of a repository that no test has used yet, with a `pushtrain.toml` to commit."""
        index = next(self._free) if number is None else number
        work = Work(self, index)
        work.write({"pushtrain.toml": jobs, **(files or {})})
        return work

    def cli(
        self, *words: str, state: StateFolder | None = None, cwd: Path | None = None
    ) -> "subprocess.CompletedProcess[str]":
        """A verb, as a person calls it with the sender's state folder."""
        return subprocess.run(
            (sys.executable, "-P", "-m", "pushtrain", *words),
            cwd=cwd or self.folder,
            env={**self._environment(), "PUSHTRAIN_STATE": str((state or self.sender_state).root)},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )

    def json(self, *words: str, state: StateFolder | None = None) -> Any:
        """What a verb prints with `--json`."""
        done = self.cli(*words, "--json", state=state)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def client(self, state: StateFolder | None = None) -> ExecutorClient:
        """The executor's API."""
        card = json.loads((state or self.executor_state).card.read_text())
        identity = load_or_create((state or self.sender_state).key)
        return ExecutorClient(card["public_url"], parse_public(card["public_key"]), identity)

    def runs(self, commit: str) -> list[RunView]:
        """All runs of a commit."""
        client = self.client()
        return [client.view(run.id) for run in client.runs(find=commit, limit=50)]

    def run_of(self, commit: str, *, timeout: float = 30) -> RunView:
        """The one run of a commit, as soon as there is one."""
        return self.wait(lambda: next(iter(self.runs(commit)), None), f"a run of {commit[:7]}", timeout)

    def wait(self, condition: Callable[[], T | None], what: str, timeout: float = 30) -> T:
        """Wait for a condition; when it does not come, tell what all processes said."""
        try:
            return wait_until(condition, timeout, what=what)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.logs()}") from None

    def until(self, run_id: str, state: State, *, timeout: float = 60) -> RunView:
        """The run once it is in a state."""
        client = self.client()

        def look() -> RunView | None:
            view = client.view(run_id)
            return view if view.run.state is state else None

        return self.wait(look, f"run {run_id[:8]} to be {state}", timeout)

    def done(self, commit: str) -> RunView:
        """The one run of a commit once it is published."""
        return self.until(self.run_of(commit).run.id, State.DONE)

    def logs(self) -> str:
        """What all processes said."""
        return "\n".join(f"--- {name}\n{self.log(name)}" for name in self.processes)


class Work(WorkRepository):
    """A clone in a house."""

    def __init__(self, house: House, number: int) -> None:
        self.key = house.host.key(house.names[number])
        super().__init__(house.folder / f"work-{number}", house.remotes[number], token=house.host.token)

    def pushed(self, message: str = "A change", files: Mapping[str, str] | None = None) -> str:
        """Commit and push to `main`; the commit."""
        commit = self.commit(files, message)
        self.push()
        return commit

    def results(self, view: RunView) -> dict[str, str]:
        """The files of a run as they came back, by path below its folder; metrics and logs as text."""
        tip = self.fetch(RESULTS_BRANCH)
        assert tip, "there is no results branch"
        run = view.run
        self.git("merge-base", "--is-ancestor", run.result_commit, tip)
        below = f"{run.result_path}/"
        paths = [path for path in self.files(run.result_commit) if path.startswith(below)]
        return {path.removeprefix(below): self.show(run.result_commit, path) for path in paths}

    def results_count(self) -> int:
        """How many commits the results branch has."""
        tip = self.fetch(RESULTS_BRANCH)
        return int(self.git("rev-list", "--count", tip)) if tip else 0


@contextmanager
def housed(folder: Path, *, repositories: int = 1) -> Iterator[House]:
    """A house with its host; every process is ended when the block ends."""
    with hosting(folder / "host") as host:
        house = House(folder, host, repositories=repositories)
        try:
            yield house
        finally:
            house.end()
