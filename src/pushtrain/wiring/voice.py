"""An executor's card as it may be published, and keeping it in the rosters while the executor runs."""

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Final

from pushtrain.core.errors import Cloned, PushtrainError
from pushtrain.core.settings import Settings
from pushtrain.core.values.card import ExecutorCard
from pushtrain.core.wire.signing import parse_public, public_text
from pushtrain.executor.announce import Announcer, public_card
from pushtrain.executor.reach import Reach
from pushtrain.executor.service import ExecutorService
from pushtrain.plumbing.disk.home import saw_twin
from pushtrain.plumbing.disk.state import StateFolder
from pushtrain.plumbing.http.client import ExecutorClient
from pushtrain.plumbing.keys.sealing import sealing_key, sealing_text
from pushtrain.plumbing.machine.gpu import inventory
from pushtrain.wiring.parts import identity, local_url, mirror, running_card
from pushtrain.wiring.rosters import roster_files

_GREETING: Final = 5.0
"""Seconds for whoever may be at the address of an earlier card to answer."""
_SETTLING: Final = 10.0
"""Seconds that the first card waits for the tunnel, so that there are not two."""


class Voice:
    """What is told of an executor, and telling it.

    Args:
        state: Keeps the card's number.
        settings: What may be published, and where.
        service: The executor.
        cloned: Told, in the event loop, that a copy of the state folder is at work elsewhere.

    Raises:
        ConfigError: A setting names no place for a roster.
    """

    def __init__(
        self,
        state: StateFolder,
        settings: Settings,
        service: ExecutorService,
        *,
        cloned: Callable[[Cloned], None],
    ) -> None:
        self._machine = state.machine
        self._cloned = cloned
        self._settings = settings.executor
        self._service = service
        self._tunnel: str | None = None
        self._announcer = Announcer(
            roster_files(settings, partial(mirror, state)),
            self.card,
            identity=lambda: service.identity,
            memory=state.card_number,
            twin=self._is_twin,
        )

    def card(self) -> ExecutorCard:
        """What may be published now."""
        return public_card(
            self._service.card(), self._settings, tunnel=self._tunnel, host_name=socket.gethostname()
        )

    def _is_twin(self, card: ExecutorCard) -> bool:
        """Ask at a card's address who is there: our key, and not this process?"""
        key = self._service.identity.key
        client = ExecutorClient(card.public_url, parse_public(card.public_key), key, timeout=_GREETING)
        try:
            said = client.challenge()
        except PushtrainError:
            return False
        finally:
            client.close()
        return not self._service.was_asked(said.nonce)

    def moved(self, url: str) -> None:
        """The tunnel's URL is another one now."""
        self._tunnel = url
        self._announcer.told()

    def refreshed(self) -> None:
        """The card says something else than before."""
        self._announcer.told()

    @asynccontextmanager
    async def telling(self, reach: Reach | None, *, lends: bool) -> AsyncIterator[None]:
        """Keep the card in the rosters while the block runs; then say there that the executor is offline.

        Args:
            reach: Keeps the tunnel open; None: there is no tunnel.
            lends: Whether others are meant to use the machine. Where they are not and could not, there is
                nothing to tell.
        """
        if reach is None and not lends:
            yield
            return

        async def speak() -> None:
            if reach is not None:
                self._tunnel = self._tunnel or ""
                await reach.settled(_SETTLING)
            try:
                await self._announcer.run()
            except Cloned as error:
                saw_twin(self._machine, error.message)
                self._cloned(error)

        task = asyncio.create_task(speak(), name="announce")
        try:
            yield
        finally:
            task.cancel()
            await asyncio.wait((task,))
            await self._announcer.farewell()


def published_card(state: StateFolder, settings: Settings) -> ExecutorCard:
    """The card of this state folder's executor as a roster shows it, but for number and signature.

    While no executor runs it is the one that a start would make, without a tunnel and offline.
    """
    running = running_card(state)
    tunnel = None
    if running is not None:
        tunnel = running.public_url if running.public_url != local_url(running) else None
    card = running or ExecutorCard(
        name=settings.executor.name,
        public_url="",
        ip=settings.executor.host,
        port=settings.executor.port,
        timestamp=time.time(),
        public_key=public_text(identity(state).public_key()),
        sealing_key=sealing_text(sealing_key(state.sealing_key).public_key()),
        labels=settings.executor.labels,
        mounts=tuple(settings.executor.mounts),
        gpus=inventory(),
        repositories=tuple(repository.key for repository in settings.repositories),
        online=False,
    )
    return public_card(card, settings.executor, tunnel=tunnel, host_name=socket.gethostname())
