"""A real executor behind a real server on loopback, without the loops that would run what it accepts."""

import asyncio
import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from starlette.types import ASGIApp

from pushtrain.adapters.sandboxes import Ground
from pushtrain.adapters.sandboxes.none import Unconfined
from pushtrain.core.settings import ExecutorSettings, Repository, Settings
from pushtrain.core.values.card import Gpu
from pushtrain.core.values.isolation import JobNetwork
from pushtrain.core.values.run import Run
from pushtrain.executor.api.web import create_app
from pushtrain.executor.runs.access import Access
from pushtrain.executor.service import ExecutorService
from pushtrain.plumbing.attempts.rundir import RunDir
from pushtrain.plumbing.disk.state import StateFolder
from pushtrain.plumbing.http.serve import serving
from pushtrain.plumbing.keys.authorized import Authorized
from pushtrain.plumbing.keys.identity import Ring
from pushtrain.plumbing.sqlite.store import Store
from pushtrain.testing import REPOSITORY, Clock


@dataclass(frozen=True)
class Served:
    """What a test may look at and move by hand."""

    url: str
    port: int
    key: Ed25519PrivateKey
    state: StateFolder
    store: Store
    service: ExecutorService
    authorized: Authorized
    clock: Clock
    loop: asyncio.AbstractEventLoop
    """That of its server."""

    def claim(self) -> tuple[Run, RunDir]:
        """Start the next attempt, as the dispatcher would; its folder."""
        claimed = self.store.claim(slots=8, gpus=(), executor="lab-1")
        assert claimed
        run, attempt = claimed
        folder = RunDir.of(self.state.runs, run.id, attempt.number)
        folder.root.mkdir(parents=True)
        self.tell(run.id)
        return run, folder

    def tell(self, run_id: str) -> None:
        """Say that a run changed, as the dispatcher would."""
        self.service._changed(run_id)


@contextlib.contextmanager
def in_a_thread(app: ASGIApp, loops: list[asyncio.AbstractEventLoop] | None = None) -> Iterator[int]:
    """Serve an application from a loop in a thread; the port. The loop is added to `loops`."""
    ready = threading.Event()
    port: list[int] = []
    stop: list[Callable[[], object]] = []

    async def main() -> None:
        ended = asyncio.Event()
        loop = asyncio.get_running_loop()
        if loops is not None:
            loops.append(loop)
        stop.append(lambda: loop.call_soon_threadsafe(ended.set))
        async with serving(app, "127.0.0.1", 0) as bound:
            port.append(bound)
            ready.set()
            await ended.wait()

    thread = threading.Thread(target=asyncio.run, args=(main(),))
    thread.start()
    try:
        assert ready.wait(20)
        yield port[0]
    finally:
        stop[0]()
        thread.join(20)
        assert not thread.is_alive()


@contextlib.contextmanager
def served(
    folder: Path,
    *,
    queue_limit: int = 1000,
    name: str = "lab-1",
    slots: int = 1,
    gpus: Sequence[Gpu] = (),
    clock: Clock | None = None,
    repository: str = REPOSITORY,
) -> Iterator[Served]:
    """An executor that serves one repository; its clock stands still, unless another one is given."""
    state = StateFolder(folder).create()
    clock = clock or Clock()
    ring = Ring(state.key)
    key = ring().key
    settings = Settings(
        repositories=(Repository(key=repository, remote="https://github.com/octo/hello"),),
        executor=ExecutorSettings(name=name, queue_limit=queue_limit, slots=slots),
    )
    authorized = Authorized(state.authorized, owner=ring, clock=clock)
    store = Store(state.store, clock=clock)
    service = ExecutorService(
        settings,
        state,
        store,
        identity=ring,
        authorized=authorized,
        mirrors=lambda name: (_ for _ in ()).throw(AssertionError(name)),
        environments={},
        publisher=None,  # type: ignore[arg-type]
        sandbox=Unconfined(Ground(state.isolation)),
        access=Access(JobNetwork.FULL, frozenset({JobNetwork.FULL})),
        gpus=gpus,
        clock=clock,
    )
    loops: list[asyncio.AbstractEventLoop] = []
    try:
        with in_a_thread(create_app(service, clock=clock), loops) as port:
            url = f"http://127.0.0.1:{port}"
            service.url = url
            yield Served(url, port, key, state, store, service, authorized, clock, loops[0])
    finally:
        store.close()
