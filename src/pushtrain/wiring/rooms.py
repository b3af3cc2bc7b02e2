"""The rooms, furnished: an executor, a sender, or both in one process, each open while its block runs."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from pushtrain.adapters.environments import registry as environments
from pushtrain.adapters.environments.site import Site
from pushtrain.adapters.environments.tool import clean
from pushtrain.adapters.hosts import HOSTS
from pushtrain.adapters.metrics import FORMATS
from pushtrain.core.errors import Cloned
from pushtrain.core.settings import Settings
from pushtrain.core.wire.signing import public_text
from pushtrain.executor.api.web import create_app as create_executor_app
from pushtrain.executor.results.publish import Publisher
from pushtrain.executor.rulebook import unasked
from pushtrain.executor.service import ExecutorService
from pushtrain.plumbing.attempts.given import mask_of
from pushtrain.plumbing.data.throttle import Throttle
from pushtrain.plumbing.disk.files import replace
from pushtrain.plumbing.disk.home import settle
from pushtrain.plumbing.disk.lock import FolderLock
from pushtrain.plumbing.disk.state import StateFolder
from pushtrain.plumbing.http.serve import serving
from pushtrain.plumbing.keys.authorized import Authorized
from pushtrain.plumbing.keys.identity import Ring, forget_former
from pushtrain.plumbing.keys.sealing import sealing_key
from pushtrain.plumbing.machine.gpu import inventory
from pushtrain.plumbing.programs import orphans
from pushtrain.plumbing.sqlite.soundness import looked_through
from pushtrain.plumbing.sqlite.store import Store
from pushtrain.sender.board import Listed
from pushtrain.sender.kept import KeptCommands
from pushtrain.sender.poll import Reconciler
from pushtrain.sender.service import SenderService
from pushtrain.sender.web import create_app as create_sender_app
from pushtrain.wiring.isolation import choose
from pushtrain.wiring.lean import keep_lean
from pushtrain.wiring.network import granted, way_out
from pushtrain.wiring.parts import (
    adapter,
    client_maker,
    executor_addresses,
    identity,
    mirror,
    mirrors,
    webhook_secret,
)
from pushtrain.wiring.rosters import reading, sealed_secrets
from pushtrain.wiring.statuses import repositories, telling
from pushtrain.wiring.trust import heirs
from pushtrain.wiring.tunnels import HINT, Outside, reaching
from pushtrain.wiring.voice import Voice

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

    from pushtrain.plumbing.git.mirror import Mirror


_FIRST_LOOK: Final = 10.0
"""Seconds that a room which watches branches waits for its first look before it says that pushes count."""
End = asyncio.Future[None]
"""How a room ends that closes by itself: well, or with the error that says why."""


@dataclass(frozen=True, slots=True)
class Running:
    """A room that is open: what to tell of it, and the task that ends when the room must close by itself."""

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
        async with _both(state, settings, lends=True, webhooks=False) as running:
            yield running
        return
    async with _room(state) as store:
        service = _executor(state, settings, store, mirrors(state, settings))
        end: End = asyncio.get_running_loop().create_future()
        async with (
            _door(state, settings, service, create_executor_app(service), end, lends=True) as (
                outside,
                local,
            ),
            _tasks(service.run(), _closing(service, end), end=end) as task,
        ):
            facts = {"tunnel": HINT, **await outside.facts(local), **_facts(state, settings, service)}
            yield Running(facts, task, lambda: service.capacity().running)


@asynccontextmanager
async def serve_sender(state: StateFolder, settings: Settings) -> AsyncIterator[Running]:
    """Turn pushes into commands while the block runs.

    Raises:
        Conflict: Another pushtrain serves this state folder, or the port is taken.
    """
    async with _room(state) as store:
        service, reconciler = _sender(state, settings, store, mirrors(state, settings))
        app = _webhooks(state, service)
        async with (
            serving(app, settings.sender.host, settings.sender.port) as port,
            _tasks(service.run(), reconciler.run(), keep_lean(state, settings, store)) as task,
        ):
            await reconciler.settled(_FIRST_LOOK)
            url = _address(settings.sender.host, port)
            yield Running(
                {"url": url, "webhook": f"{url}/webhook", **_facts(state, settings)}, task, lambda: 0
            )


@asynccontextmanager
async def serve_both(state: StateFolder, settings: Settings) -> AsyncIterator[Running]:
    """Executor and sender in one process: one address, one store, the same mirrors.

    Raises:
        Conflict: Another pushtrain serves this state folder, or the port is taken.
    """
    async with _both(state, settings, lends=False, webhooks=True) as running:
        yield running


@asynccontextmanager
async def _both(
    state: StateFolder, settings: Settings, *, lends: bool, webhooks: bool
) -> AsyncIterator[Running]:
    """An executor that is its own sender; webhooks only make it quicker."""
    async with _room(state) as store:
        shared = mirrors(state, settings)
        executor = _executor(state, settings, store, shared)
        sender, reconciler = _sender(state, settings, store, shared)
        app: ASGIApp = create_executor_app(executor)
        if webhooks:
            app = _side_by_side(app, _webhooks(state, sender))
        end: End = asyncio.get_running_loop().create_future()
        async with (
            _door(state, settings, executor, app, end, lends=lends) as (outside, local),
            _tasks(executor.run(), sender.run(), reconciler.run(), _closing(executor, end), end=end) as task,
        ):
            await reconciler.settled(_FIRST_LOOK)
            where = await outside.facts(local)
            looks = {"polls": f"every {reconciler.poll_seconds:g} s"}
            if webhooks:
                looks = {"webhook": f"{where['url']}/webhook"}
            facts = {**where, **looks, **_facts(state, settings, executor)}
            yield Running(facts, task, lambda: executor.capacity().running)


def _side_by_side(commands: "ASGIApp", webhooks: "ASGIApp") -> "ASGIApp":
    async def app(scope: "Scope", receive: "Receive", send: "Send") -> None:
        await (webhooks if scope["path"] == "/webhook" else commands)(scope, receive, send)

    return app


def _facts(
    state: StateFolder, settings: Settings, executor: ExecutorService | None = None
) -> dict[str, str | list[str]]:
    served = [repository.key for repository in settings.repositories]
    key = public_text(identity(state).public_key())
    told: dict[str, str | list[str]] = {"key": key, "state": str(state.root), "repositories": served}
    if executor is None:
        return told
    return {**told, "isolation": executor.isolation, "network": executor.access.shown}


def _address(host: str, port: int) -> str:
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


@asynccontextmanager
async def _room(state: StateFolder) -> AsyncIterator[Store]:
    """The folder's lock and its store; one room at a time."""
    with FolderLock(state.lock):
        settle(state.machine)
        orphans.take_over(state.root)
        forget_former(state.key)
        with contextlib.closing(Store(state.store)) as store, looked_through(state.store):
            yield store


def _executor(
    state: StateFolder, settings: Settings, store: Store, served: "Callable[[str], Mirror]"
) -> ExecutorService:
    ring, gpus = Ring(state.key), inventory()
    way = way_out(state)
    with contextlib.ExitStack() as failed:
        failed.callback(way.close)
        sandbox = choose(state, settings.rules, way)
        site = Site(state.tools, built=state.environments, offered=settings.executor.environments)
        publisher = Publisher(
            served,
            settings.executor,
            who=lambda: ring().id,
            formats=[adapter(target) for target in FORMATS.values()],
            gpus=gpus,
            masks=partial(mask_of, key=sealing_key(state.sealing_key)),
            pace=(outgoing := Throttle(settings.rules.owner.bandwidth)).spend,
        )
        asks = any(entry.id for entry in settings.rules.allow)
        numbers = repositories(settings).number_of if asks else unasked
        service = ExecutorService(
            settings,
            state,
            store,
            identity=ring,
            authorized=Authorized(state.authorized, owner=ring),
            mirrors=served,
            environments={kind: adapter(target, site) for kind, target in environments.items()},
            publisher=publisher,
            sealed=sealed_secrets(settings, partial(mirror, state)),
            sandbox=sandbox,
            access=granted(settings.rules, sandbox.level, way),
            gpus=gpus,
            shed=partial(clean, site),
            number_of=numbers,
            pace=outgoing.spend,
        )
        service.rulebook.check()
        failed.pop_all()
    return service


@asynccontextmanager
async def _door(
    state: StateFolder, settings: Settings, service: ExecutorService, app: "ASGIApp", end: End, *, lends: bool
) -> AsyncIterator[tuple[Outside, str]]:
    """Serve the executor's address: how it is reached from outside, and its local URL.

    Its card is in the state folder meanwhile, and in the rosters; its tunnel is kept open. Where a roster
    shows that a copy of the state folder is at work, the room ends with that.
    """
    host = settings.executor.host
    async with serving(app, host, settings.executor.port) as port:
        local = _address(host, port)

        async def known_as(url: str) -> None:
            service.url = url
            card = service.card().model_dump_json(indent=2).encode()
            await asyncio.to_thread(replace, state.card, card)

        def cloned(error: Cloned) -> None:
            if not end.done():
                end.set_exception(error)

        voice = Voice(state, settings, service, cloned=cloned)
        service.drain.changed = voice.refreshed

        async def moved(url: str) -> None:
            await known_as(url)
            voice.moved(url)

        service.listens = (host, port)
        await known_as(local)
        try:
            async with (
                telling(settings, service),
                reaching(settings.executor, port, lends=lends, moved=moved) as outside,
                voice.telling(outside.reach, lends=lends),
            ):
                yield outside, local
        finally:
            state.card.unlink(missing_ok=True)


def _sender(
    state: StateFolder, settings: Settings, store: Store, served: "Callable[[str], Mirror]"
) -> tuple[SenderService, Reconciler]:
    client = client_maker(state, settings)
    rosters = reading(state, settings, partial(mirror, state), store)

    def known() -> list[Listed]:
        for former, name in heirs(state).items():
            store.outbox_inherited(former, name)
        cards = {card.public_key: card for card in rosters.cards()}
        found = executor_addresses(state, settings, tuple(cards.values()))
        listed = [(client(address), cards.get(address.public_key)) for address in found]
        for one, card in listed:
            one.expect(card.sequence if card else 0)
        return list(listed)

    service = SenderService(
        settings.repositories,
        store,
        served,
        known,
        kept=KeptCommands(state.outbox),
        rosters=rosters,
        lost_after=settings.sender.lost_after,
    )
    return service, Reconciler(service, poll_seconds=settings.sender.poll_seconds, rosters=rosters)


def _webhooks(state: StateFolder, service: SenderService) -> "ASGIApp":
    return create_sender_app(service, host=adapter(HOSTS["github"]), secret=webhook_secret(state))


async def _closing(service: ExecutorService, end: End) -> None:
    """Close the room once its executor has drained."""
    await service.drain.over()
    if not end.done():
        end.set_result(None)


@asynccontextmanager
async def _tasks(
    *works: Coroutine[Any, Any, None], end: End | None = None
) -> AsyncIterator[asyncio.Task[None]]:
    """Run these while the block runs; one task that ends when any of them fails, and as `end` does."""

    async def together() -> None:
        async with asyncio.TaskGroup() as group:
            for work in works:
                group.create_task(work)

    async def until_the_end() -> None:
        working = asyncio.create_task(together())
        try:
            await asyncio.wait({working, end} if end else {working}, return_when=asyncio.FIRST_COMPLETED)
            (end if end and end.done() else working).result()
        finally:
            working.cancel()
            await asyncio.wait({working})

    task = asyncio.create_task(until_the_end())
    try:
        yield task
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
