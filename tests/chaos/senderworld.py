"""What a killed sender has around it: a repository on a real Git host, and real executors, on loopback."""

import json
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from typing import Final

import tomlkit
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from nursery import NEVER, Child, Nursery, nursery
from pushtrain.core.errors import StorageError
from pushtrain.core.jobs.jobfile import expand, parse
from pushtrain.core.values.command import TrainCommand
from pushtrain.core.values.run import Run
from pushtrain.core.values.states import Outcome
from pushtrain.core.wire.grants import Scope
from pushtrain.core.wire.signing import public_text
from pushtrain.demo.host import Host, hosting
from pushtrain.plumbing.disk.state import StateFolder
from pushtrain.plumbing.keys.identity import load_or_create
from pushtrain.plumbing.sqlite.outbox import Outgoing
from pushtrain.plumbing.sqlite.store import Store
from pushtrain.plumbing.sqlite.view import View
from pushtrain.sender.kept import KeptCommands
from pushtrain.testing import SENDER, Clock, WorkRepository, a_command, a_gpu, wait_until
from served import Served, served

TOML: Final = """\
[job.train]
command = "true"
environment = "system"
concurrency = "cancel-older"
gpus = 1
"""
JOB: Final = expand(parse(TOML).jobs[0])[0]
SECRET: Final = "between host and sender"
SENDS: Final = "senderpoints:be_sender"
_NAME: Final = "ada/hello"
_MODULES: Final = ("senderpoints", "pushtrain.cli.sender", "pushtrain.cli.send", "pushtrain.cli.app")

Place = tuple[str, str, int, bool]
"""A run that may start: which, at which executor, as which attempt, marked as a possible duplicate or not."""


class Now(Clock):
    """The time of day, so that signatures hold."""

    def __call__(self) -> float:
        return time.time()


class World:
    """A repository, a sender's folder and executors, for one way.

    Args:
        folder: Everything lies below it.
        host: Where the repository is.
        nurse: Who makes the senders.
        first: A folder to begin with, of a sender that has seen the repository; None: a new one.
    """

    def __init__(self, folder: Path, host: Host, nurse: Nursery, first: "World | None" = None) -> None:
        self.folder, self.host, self.nurse = folder, host, nurse
        folder.mkdir()
        self.told = folder / "steps"
        self.repository = host.key(_NAME)
        self.state = StateFolder(folder / "state")
        if first is None:
            self.work = WorkRepository(folder / "work", host.create(_NAME), token=host.token)
            self.work.commit({"README.md": "hello\n"})
            self.work.push()
            shutil.copytree(host.folder(_NAME), folder / "origin.git")
            self.begin()
        else:
            shutil.rmtree(host.folder(_NAME))
            shutil.copytree(first.folder / "origin.git", host.folder(_NAME))
            shutil.copytree(first.folder / "work", folder / "work")
            self.work = WorkRepository(folder / "work", token=host.token)
            shutil.copytree(first.state.root, self.state.root, symlinks=True)
        self.kept = KeptCommands(self.state.outbox)
        self.executors: list[Served] = []
        self.commands: list[TrainCommand] = []
        self.silent = Ed25519PrivateKey.generate()
        self._open = ExitStack()
        self.child: Child | None = None

    def begin(self) -> None:
        """A state folder in which no sender has been yet."""
        shutil.rmtree(self.state.root, ignore_errors=True)
        self.state.create()
        self.state.webhook_secret.touch(0o600)
        self.state.webhook_secret.write_text(SECRET)

    # --- what is around the sender

    def executor(self, name: str, *, scopes: tuple[Scope, ...] = (), busy: bool = False) -> Served:
        """One more executor, with one GPU."""
        found = self._open.enter_context(
            served(
                self.folder / name,
                name=name,
                gpus=(a_gpu(memory=24 << 30),),
                clock=Now(),
                repository=self.repository,
            )
        )
        found.authorized.add(self.key.public_key(), scopes=scopes)
        self.executors.append(found)
        if busy:
            command = a_command(repository=self.repository, request="somebody's", job=JOB)
            found.store.accept(
                command, sender=SENDER, raw=b"{}", headers={}, nonce="n", nonce_expires=9e9, queue_limit=9
            )
            assert found.store.claim(slots=1, gpus=found.service.gpus, executor=name)
            found.tell(command.run_id)
        return found

    @property
    def key(self) -> Ed25519PrivateKey:
        """The sender's."""
        return load_or_create(self.state.key)

    def know(self, *executors: Served, silent: bool = False) -> None:
        """The sender's settings name these executors, and perhaps one that does not answer."""
        keys = [(one.url, one.key) for one in executors] + [("http://127.0.0.1:9", self.silent)] * silent
        there = [{"url": url, "public_key": public_text(key.public_key())} for url, key in keys]
        document = {
            "repositories": [self.host.remote(_NAME)],
            "sender": {"executors": there, "poll_seconds": 600, "port": 0},
        }
        self.state.settings.write_text(tomlkit.dumps(document))

    def commit(self) -> TrainCommand:
        """A commit in the clone; the command that it should become."""
        number = len(self.commands)
        commit = self.work.commit({"pushtrain.toml": TOML, "count.txt": f"{number}\n"})
        command = a_command(repository=self.repository, commit=commit, job=JOB)
        self.commands.append(command)
        return command

    def push(self) -> TrainCommand:
        """A commit, pushed to `main`; the command that it should become."""
        command = self.commit()
        self.work.push()
        return command

    # --- the sender

    def start(self, role: str = SENDS, *, at: int = NEVER) -> Child:
        """A process that is killed at a step."""
        self.stop()
        token = {"PUSHTRAIN_GIT_TOKEN": self.host.token}
        words = (self.state.root, at, self.told if at != NEVER else self.folder / "more steps")
        self.child = self.nurse.start(role, *words, said=self.folder / "said", cwd=self.work.folder, **token)
        return self.child

    def stop(self) -> None:
        """SIGKILL the sender, if there is one."""
        if self.child is not None:
            self.child.kill()
            self.child = None

    def until(self, condition: Callable[[], object], what: str) -> None:
        """Wait, and show what the senders said when it does not come."""
        try:
            wait_until(condition, 30, what=what)
        except AssertionError as error:
            said = (self.folder / "said.log").read_text(errors="replace")[-4000:]
            raise AssertionError(f"{error}\n{self.rows()}\n{said}") from None

    def store(self) -> Store:
        """The sender's store, to be written while it does not run."""
        return Store(self.state.store)

    def rows(self) -> dict[str, Outgoing]:
        """What stands in the outbox; nothing while there is no store."""
        with suppress(StorageError), closing(View(self.state.store)) as store:
            return {out.run_id: out for out in store.outbox(limit=100)}
        return {}

    def seen(self) -> bool:
        """Whether the sender has noted where the repository's branches are."""
        with suppress(StorageError), closing(View(self.state.store)) as store:
            return bool(store.tips(self.repository))
        return False

    def listening(self) -> str:
        """Where the sender takes webhooks; empty: it does not yet."""
        with suppress(OSError, ValueError):
            return str(json.loads((self.folder / "said").read_text())["webhook"])
        return ""

    @property
    def dead(self) -> bool:
        """Whether the sender has ended."""
        return self.child is None or self.child.dead

    def runs(self, executor: Served) -> list[Run]:
        """Runs of ours at an executor."""
        ours = {command.run_id for command in self.commands}
        return [run for run in executor.store.runs(limit=100) if run.id in ours]

    def alive(self) -> list[Place]:
        """Runs that may start somewhere: which, where, as which attempt, marked as a duplicate or not."""
        return sorted(
            (run.id, one.service.settings.executor.name, run.command.attempt, run.command.possible_duplicate)
            for one in self.executors
            for run in self.runs(one)
            if run.outcome is not Outcome.MOVED
        )

    def there(self, command: TrainCommand, executor: Served | None = None) -> bool:
        """Whether an executor has taken a command on, and the sender knows."""
        out = self.rows().get(command.run_id)
        if out is None or out.state not in {"delivered", "started"}:
            return False
        return executor is None or any(run.id == command.run_id for run in self.runs(executor))

    def left(self) -> list[str]:
        """What the sender's folder still holds that somebody has to see to.

        What `send` has delivered stays there for the folder's sender, if one should ever be started.
        """
        kept = (path.name for path in self.state.outbox.glob("*.*") if path.suffix != ".sent")
        found = [f"{name} is still kept" for name in kept if name[0] != "."]
        with closing(View(self.state.store)) as store:
            pending = store.pending_pushes()
        return found + [f"the push of {heard.push.after[:7]} is not settled" for heard in pending]

    def close(self) -> None:
        """End everything, and leave nothing on the disk."""
        self.stop()
        self._open.close()
        shutil.rmtree(self.folder, ignore_errors=True)


@contextmanager
def worlds(folder: Path) -> Iterator[Callable[[str], World]]:
    """Make worlds by name, one at a time, in which a sender has seen the repository."""
    with hosting(folder / "host") as host, nursery(*_MODULES) as nurse:
        first = World(folder / "first", host, nurse)
        try:
            first.know()
            first.start()
            first.until(first.seen, "the first look")
            first.stop()
            yield lambda name: World(folder / name, host, nurse, first)
        finally:
            first.close()
