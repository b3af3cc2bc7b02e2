"""A sender's world: a real remote, a real store, and an executor that does what the test says."""

import asyncio
import contextlib
import queue
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Self

from pushtrain.core.errors import Conflict, PushtrainError, Unreachable
from pushtrain.core.lifecycle import Released, advance
from pushtrain.core.settings import Repository
from pushtrain.core.values.card import Challenge, ExecutorCard
from pushtrain.core.values.command import TrainCommand
from pushtrain.core.values.push import Push
from pushtrain.core.values.run import Run
from pushtrain.core.wire.frames import CapacityFrame
from pushtrain.plumbing.git.mirror import Mirror
from pushtrain.plumbing.sqlite.store import Store
from pushtrain.sender.board import Listed
from pushtrain.sender.kept import KeptCommands
from pushtrain.sender.service import SenderService
from pushtrain.testing import NOON, WorkRepository, a_capacity, a_card, a_push, a_run

KEY = "git.example.org/octo/hello"
JOBS = """
[job.train]
command = "python train.py"
"""


_numbers = count(1)


class ScriptedExecutor:
    """Stands in for an executor behind `ExecutorClient`: accepts, refuses or is down, as told.

    It does not run what it accepts; what it has and what waits is what the test says, told by `tell`.
    """

    def __init__(self, name: str = "lab-1") -> None:
        number = next(_numbers)
        self.id = f"SHA256:{name}-{number}"
        self.url = f"http://127.0.0.1:{number}"
        self.card: ExecutorCard = a_card(name=name, public_url=self.url, public_key=str(number))
        self.capacity = a_capacity()
        self.down = False
        self.refusal: PushtrainError | None = None
        self.loses_answers = False
        self.asked = 0
        self.accepted: dict[str, TrainCommand] = {}
        self.received: list[str] = []
        self.waiting: list[str] = []
        self.preparing: list[str] = []
        self.released: list[str] = []
        self.release_fails: PushtrainError | None = None
        self.streams: list[queue.SimpleQueue[CapacityFrame | None]] = []
        self.opened = 0
        self._lock = threading.Lock()

    def challenge(self) -> Challenge:
        self.asked += 1
        if self.down:
            raise Unreachable(f"{self.card.name} does not answer.")
        return Challenge(nonce="n", card=self.card, capacity=self.capacity, version="0", protocol=1)

    def send(self, command: TrainCommand) -> Run:
        if self.down:
            raise Unreachable(f"{self.card.name} does not answer.", sent=False)
        if self.refusal is not None:
            raise self.refusal
        with self._lock:
            self.received.append(command.run_id)
            self.accepted[command.run_id] = command
        if self.loses_answers:
            raise Unreachable(f"The answer of {self.card.name} was lost.")
        return a_run(command)

    def release(self, run_id: str, attempt: int) -> Run:
        if self.down:
            raise Unreachable(f"{self.card.name} does not answer.", sent=False)
        command = self.accepted[run_id]
        if run_id not in self.waiting and run_id not in self.released:
            raise Conflict("It has started.")
        with self._lock:
            if run_id in self.waiting:
                self.waiting.remove(run_id)
                self.released.append(run_id)
        if self.release_fails is not None:
            raise self.release_fails
        assert attempt == command.attempt
        return advance(a_run(command, attempt=command.attempt), Released(), now=NOON)

    def frame(self) -> CapacityFrame:
        capacity = self.capacity.model_copy(update={"at": time.time() + 1e9})
        return CapacityFrame(capacity=capacity, waiting=tuple(self.waiting), preparing=tuple(self.preparing))

    def tell(self) -> None:
        """Say on every open stream how things are now."""
        for stream in list(self.streams):
            stream.put(self.frame())

    def cut(self) -> None:
        """Break every open stream."""
        for stream in list(self.streams):
            stream.put(None)

    def events(self, opened: Callable[[Callable[[], None]], None] | None = None) -> Iterator[CapacityFrame]:
        if self.down:
            raise Unreachable(f"{self.card.name} does not answer.", sent=False)
        stream: queue.SimpleQueue[CapacityFrame | None] = queue.SimpleQueue()
        self.streams.append(stream)
        self.opened += 1
        try:
            if opened is not None:
                opened(lambda: stream.put(None))
            stream.put(self.frame())
            while frame := stream.get():
                yield frame
            raise Unreachable(f"The stream from {self.card.name} was cut off.")
        finally:
            self.streams.remove(stream)


class World:
    """One sender and what is around it; `start` may be called again, as after a crash."""

    def __init__(self, root: Path, *, fresh: bool = True) -> None:
        self.root = root
        self.remote = root / "remote.git"
        if fresh:
            self.work = WorkRepository(root / "work", str(self.remote))
            self.work.git("init", "--quiet", "--bare", "--initial-branch=main", str(self.remote))
        self.repository = Repository(key=KEY, remote=str(self.remote))
        self.executors: list[ScriptedExecutor] = [ScriptedExecutor()]
        self.kept = KeptCommands(root / "outbox")
        self.store = Store(root / "store.db")
        self.service = self.restart()

    @property
    def executor(self) -> ScriptedExecutor:
        return self.executors[0]

    def known(self) -> list[Listed]:
        return [(executor, None) for executor in self.executors]

    def restart(self) -> SenderService:
        """A sender that knows only what is on the disk."""
        self.store.close()
        self.store = Store(self.root / "store.db")
        mirrors = {KEY: Mirror(self.root / "repositories", self.repository)}
        self.service = SenderService(
            [self.repository],
            self.store,
            mirrors.__getitem__,
            self.known,
            kept=self.kept,
            ticks=lambda: time.monotonic() * 20,  # an executor is asked again sooner
            jitter=lambda: 0.0,
        )
        return self.service

    def commit(self, files: dict[str, str] | None = None, message: str = "A change") -> str:
        """Commit (with a pushtrain.toml) and push to main."""
        commit = self.work.commit({"pushtrain.toml": JOBS, **(files or {})}, message)
        self.work.push("main")
        return commit

    def push(self, commit: str, **changes: object) -> Push:
        host, _, name = KEY.partition("/")
        return a_push(**{"host": host, "repository": name, "after": commit, **changes})

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.store.close()

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[SenderService]:
        task = asyncio.create_task(self.service.run())
        try:
            yield self.service
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    def note(self) -> str:
        """What came of the newest push."""
        return self.store.pushes(limit=1)[0].note

    def delivered(self) -> list[str]:
        return [out.run_id for out in self.store.outbox(states=("delivered", "started"))]
