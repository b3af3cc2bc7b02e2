"""The rooms, furnished: an executor, a sender, or both in one process, each open while its block runs."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

from pushtrain.adapters.environments import registry as environments
from pushtrain.adapters.environments.site import Site
from pushtrain.adapters.hosts import HOSTS
from pushtrain.adapters.metrics import FORMATS
from pushtrain.core.settings import Settings
from pushtrain.core.signing import fingerprint, public_text
from pushtrain.executor.publish import Publisher
from pushtrain.executor.service import ExecutorService
from pushtrain.executor.web import create_app as create_executor_app
from pushtrain.plumbing.files import replace
from pushtrain.plumbing.gpu import inventory
from pushtrain.plumbing.keys import Authorized
from pushtrain.plumbing.lock import FolderLock
from pushtrain.plumbing.serve import serving
from pushtrain.plumbing.state import StateFolder
from pushtrain.plumbing.store import Store
from pushtrain.ports import Environment
from pushtrain.sender.board import Listed
from pushtrain.sender.kept import KeptCommands
from pushtrain.sender.poll import Reconciler
from pushtrain.sender.service import SenderService
from pushtrain.sender.web import create_app as create_sender_app
from pushtrain.wiring.parts import (
    adapter,
    client_maker,
    executor_addresses,
    identity,
    mirror,
    mirrors,
    webhook_secret,
)
from pushtrain.wiring.rosters import reading
from pushtrain.wiring.statuses import telling
from pushtrain.wiring.tunnels import HINT, Outside, reaching
from pushtrain.wiring.voice import Voice


@dataclass(frozen=True, slots=True)
class Running:
    """A room that is open: what to tell of it, and the task that ends only when something broke."""

    facts: Mapping[str, str | list[str]]
    task: asyncio.Task[None]
    active: Callable[[], int]
    """How many trainings go on."""


@asynccontextmanager
async def serve_executor(state: StateFolder, settings: Settings) -> AsyncIterator[Running]:
    """Lend this machine while the block runs; with the setting `poll` it is its own sender, too.

    Raises:
        Conflict: Another pushtrain serves this state folder, or the port is taken.
    """
    if settings.executor.poll:
        async with _both(state, settings, lends=True, door=False) as running:
            yield running
        return
    async with _room(state) as store, _executor(state, settings, store, lends=True) as opened:
        service, outside, local, public = opened
        async with _tasks(service.run()) as task:
            where = {"tunnel": HINT, **await outside.facts(local)}
            facts = {**where, **_facts(state, settings, public)}
            yield Running(facts, task, lambda: service.capacity().running)


@asynccontextmanager
async def serve_sender(state: StateFolder, settings: Settings) -> AsyncIterator[Running]:
    """Turn pushes into commands while the block runs.

    Raises:
        Conflict: Another pushtrain serves this state folder, or the port is taken.
    """
    async with _room(state) as store, _sender(state, settings, store) as (service, reconciler, door):
        public = public_text(identity(state).public_key())
        facts = {"url": door, "webhook": f"{door}/webhook", **_facts(state, settings, public)}
        async with _tasks(service.run(), reconciler.run()) as task:
            yield Running(facts, task, lambda: 0)


@asynccontextmanager
async def serve_both(state: StateFolder, settings: Settings) -> AsyncIterator[Running]:
    """Executor and sender in one process, over one store and the same mirrors.

    Raises:
        Conflict: Another pushtrain serves this state folder, or a port is taken.
    """
    async with _both(state, settings, lends=False, door=True) as running:
        yield running


@asynccontextmanager
async def _both(state: StateFolder, settings: Settings, *, lends: bool, door: bool) -> AsyncIterator[Running]:
    """An executor that is its own sender; the door for webhooks is not needed for that."""
    async with (
        _room(state) as store,
        _executor(state, settings, store, lends=lends) as (executor, outside, local, public),
        _sender(state, settings, store, door=door) as (sender, reconciler, url),
        _tasks(executor.run(), sender.run(), reconciler.run()) as task,
    ):
        where = await outside.facts(local)
        looks = {"webhook": f"{url}/webhook"} if door else {"polls": f"every {reconciler.poll_seconds:g} s"}
        facts = {**where, **looks, **_facts(state, settings, public)}
        yield Running(facts, task, lambda: executor.capacity().running)


def _facts(state: StateFolder, settings: Settings, public: str) -> dict[str, str | list[str]]:
    served = [repository.key for repository in settings.repositories]
    return {"key": public, "state": str(state.root), "repositories": served}


def _address(host: str, port: int) -> str:
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


@asynccontextmanager
async def _room(state: StateFolder) -> AsyncIterator[Store]:
    """The folder's lock and its store; one room at a time."""
    with FolderLock(state.lock):
        store = Store(state.store)
        try:
            yield store
        finally:
            store.close()


@asynccontextmanager
async def _executor(
    state: StateFolder, settings: Settings, store: Store, *, lends: bool
) -> AsyncIterator[tuple[ExecutorService, Outside, str, str]]:
    """The executor with its door open, how it is reached from outside, its local URL, and its public key."""
    key, gpus, served = identity(state), inventory(), mirrors(state, settings)
    publisher = Publisher(
        served,
        settings.executor,
        fingerprint=fingerprint(key.public_key()),
        formats=[adapter(target) for target in FORMATS.values()],
        gpus=gpus,
    )
    service = ExecutorService(
        settings,
        state,
        store,
        key=key,
        grants=Authorized(state.authorized, owner=key.public_key()).lookup,
        mirrors=served,
        environments=_ways_to_build(state, settings),
        publisher=publisher,
        gpus=gpus,
    )
    app = create_executor_app(service)
    async with serving(app, settings.executor.host, settings.executor.port) as port:
        local = _address(settings.executor.host, port)

        async def known_as(url: str) -> None:
            service.url = url
            card = service.card().model_dump_json(indent=2).encode()
            await asyncio.to_thread(replace, state.card, card)

        voice = Voice(state, settings, service)

        async def moved(url: str) -> None:
            await known_as(url)
            voice.moved(url)

        service.listens = (settings.executor.host, port)
        await known_as(local)
        try:
            async with (
                telling(settings, service),
                reaching(settings.executor, port, lends=lends, moved=moved) as outside,
                voice.telling(outside.reach, lends=lends),
            ):
                yield service, outside, local, public_text(key.public_key())
        finally:
            state.card.unlink(missing_ok=True)


def _ways_to_build(state: StateFolder, settings: Settings) -> dict[str, Environment]:
    offered = settings.executor.environments
    site = Site(caches=state.caches, built=state.environments, offered=offered)
    return {kind: adapter(target, site) for kind, target in environments.items()}


@asynccontextmanager
async def _sender(
    state: StateFolder, settings: Settings, store: Store, *, door: bool = True
) -> AsyncIterator[tuple[SenderService, Reconciler, str]]:
    """The sender, what looks at the branches for it, and the URL of its door for webhooks if it has one."""
    client = client_maker(state)
    rosters = reading(state, settings, partial(mirror, state), store)

    def known() -> list[Listed]:
        cards = {card.public_key: card for card in rosters.cards()}
        found = executor_addresses(state, settings, tuple(cards.values()))
        return [(client(address), cards.get(address.public_key)) for address in found]

    service = SenderService(
        settings.repositories,
        store,
        mirrors(state, settings),
        known,
        kept=KeptCommands(state.outbox),
        rosters=rosters,
        lost_after=settings.sender.lost_after,
    )
    reconciler = Reconciler(service, poll_seconds=settings.sender.poll_seconds, rosters=rosters)
    if not door:
        yield service, reconciler, ""
        return
    app = create_sender_app(service, host=adapter(HOSTS["github"]), secret=webhook_secret(state))
    async with serving(app, settings.sender.host, settings.sender.port) as port:
        yield service, reconciler, _address(settings.sender.host, port)


@asynccontextmanager
async def _tasks(*works: Coroutine[Any, Any, None]) -> AsyncIterator[asyncio.Task[None]]:
    """Run these while the block runs; one task that ends when any of them fails."""

    async def together() -> None:
        async with asyncio.TaskGroup() as group:
            for work in works:
                group.create_task(work)

    task = asyncio.create_task(together())
    try:
        yield task
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
