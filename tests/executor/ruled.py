"""A real executor with rules: signed requests over a socket come in, real git and real processes follow."""

import asyncio
import contextlib
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from pushtrain.core.errors import PushtrainError
from pushtrain.core.owner.rules import Rules
from pushtrain.core.settings import ExecutorSettings, Repository, Settings
from pushtrain.core.values.command import TrainCommand
from pushtrain.core.values.jobspec import EnvironmentKind, EnvironmentSpec
from pushtrain.core.values.run import Run, RunView
from pushtrain.core.values.states import State
from pushtrain.core.wire.signing import parse_public
from pushtrain.plumbing.disk.state import StateFolder
from pushtrain.plumbing.http.client import ExecutorClient
from pushtrain.plumbing.keys.authorized import Authorized, load_or_create
from pushtrain.testing import REPOSITORY, WorkRepository, a_command, a_spec, wait_until
from pushtrain.wiring.parts import running_card
from pushtrain.wiring.rooms import serve_executor

OTHER = "github.com/octo/other"
_numbers = count()


@dataclass
class Lab:
    """An owner's machine and a repository that it serves; the executor runs while `open` does."""

    folder: Path
    rules: Rules = field(default_factory=Rules)
    key: str = REPOSITORY
    """The repository's key."""
    more: Mapping[str, Any] = field(default_factory=dict)
    """Settings of the executor."""

    def __post_init__(self) -> None:
        self.state = StateFolder(self.folder / "state").create()
        self.origin = self.folder / "origin.git"
        self.other = self.folder / "other.git"
        self.work = WorkRepository(self.folder / "work", str(self.origin))
        for bare in (self.origin, self.other):
            self.work.git("init", "--quiet", "--bare", "--initial-branch=main", str(bare))
        self.commit()
        self._clients: dict[str, ExecutorClient] = {}

    def commit(self, files: Mapping[str, str] | None = None, *options: str, branch: str = "main") -> str:
        """Commit and push; the commit."""
        self.work.write(files or {"number.txt": f"{next(_numbers)}"})
        self.work.git("add", "--all")
        self.work.git(*options, "commit", "--quiet", "--allow-empty", "--message", "A change")
        self.work.push(f"HEAD:refs/heads/{branch}")
        return self.work.head()

    @property
    def settings(self) -> Settings:
        """What the owner set."""
        served = {self.key: self.origin, OTHER: self.other}
        return Settings(
            repositories=tuple(Repository(key=key, remote=str(path)) for key, path in served.items()),
            roster="",
            rules=self.rules,
            executor=ExecutorSettings(
                **{"name": "lab-1", "port": 0, "tunnel": "none", "disk_floor": 0, "grace": 1, **self.more}
            ),
        )

    @contextlib.contextmanager
    def open(self) -> Iterator["Lab"]:
        """Lend the machine while the block runs; stopped in order at the end."""
        ready = threading.Event()
        stop: list[Callable[[], object]] = []
        failed: list[BaseException] = []

        async def main() -> None:
            ended = asyncio.Event()
            loop = asyncio.get_running_loop()
            async with serve_executor(self.state, self.settings):
                stop.append(lambda: loop.call_soon_threadsafe(ended.set))
                ready.set()
                await ended.wait()

        def run() -> None:
            try:
                asyncio.run(main())
            except BaseException as error:  # noqa: BLE001  it is raised in the test
                failed.append(error)
            ready.set()

        thread = threading.Thread(target=run)
        thread.start()
        try:
            assert ready.wait(30)
            if not failed:
                yield self
        finally:
            for call in stop:
                call()
            thread.join(30)
            for client in self._clients.values():
                client.close()
            self._clients.clear()
        if failed:
            raise failed[0]

    def sender(self, name: str, **grant: Any) -> Ed25519PrivateKey:
        """The key of somebody whom the owner has authorised."""
        path = self.folder / f"{name}.key"
        key = load_or_create(path)
        Authorized(self.state.authorized).add(key.public_key(), name=name, **grant)
        return key

    def client(self, name: str = "ada") -> ExecutorClient:
        """The executor as this sender reaches it."""
        card = running_card(self.state)
        assert card
        if name not in self._clients:
            path = self.folder / f"{name}.key"
            key = load_or_create(path) if path.exists() else self.sender(name)
            url = f"http://127.0.0.1:{card.port}"
            self._clients[name] = ExecutorClient(url, parse_public(card.public_key), key)
        return self._clients[name]

    def command(
        self, command: str = "echo the job ran", *, ref: str = "refs/heads/main", **changes: Any
    ) -> TrainCommand:
        """A command for the last commit, each a run of its own."""
        about = {name: changes.pop(name) for name in ("commit", "request", "repository") if name in changes}
        about = {"commit": self.work.head(), "repository": self.key, "request": f"r{next(_numbers)}", **about}
        number = changes.pop("repository_id", "")
        system = EnvironmentSpec(kind=EnvironmentKind.SYSTEM)
        spec = a_spec(**{"command": command, "environment": system, **changes})
        made = a_command(ref=ref, job=spec, **about)
        return made.model_copy(update={"repository_id": number})

    def send(self, command: TrainCommand | None = None, *, by: str = "ada") -> Run:
        """Send a command as a sender does; raises what the executor answers."""
        return self.client(by).send(command or self.command())

    def refusal(self, command: TrainCommand | None = None, *, by: str = "ada") -> PushtrainError:
        """What the executor answers to a command that it does not take."""
        try:
            self.send(command, by=by)
        except PushtrainError as error:
            return error
        raise AssertionError("it was accepted")

    def done(self, run: Run, *, by: str = "ada") -> RunView:
        """The run once it is over."""
        return self.until(run, lambda view: view.run.state is State.DONE, by=by)

    def until(self, run: Run, condition: Callable[[RunView], bool], *, by: str = "ada") -> RunView:
        """The run as soon as something holds of it."""
        client = self.client(by)

        def look() -> RunView | None:
            view = client.view(run.id)
            return view if condition(view) else None

        return wait_until(look, 30, what=f"of run {run.short}")

    def log(self, run: Run) -> str:
        """What the run's attempts wrote."""
        return "".join(path.read_text() for path in sorted(self.state.runs.glob(f"{run.id}/*/log.txt")))

    def result(self, run: Run, name: str) -> str:
        """A file of a published run, from the repository."""
        tip = self.work.fetch("pushtrain/results")
        return self.work.show(tip, f"{run.result_path}/{name}")


def ran(lab: Lab, view: RunView) -> bool:
    """Whether anything of a run's job was executed."""
    return view.run.started_at is not None or "the job ran" in lab.log(view.run)
