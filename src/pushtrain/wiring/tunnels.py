"""Which tunnel the settings ask for, and keeping it open in front of an executor."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

from pushtrain.adapters.tunnels import TUNNELS
from pushtrain.adapters.tunnels.authtoken import find
from pushtrain.core.settings import ExecutorSettings
from pushtrain.core.wire.address import is_loopback
from pushtrain.executor.reach import Reach
from pushtrain.ports import Tunnel
from pushtrain.wiring.parts import adapter, local_host

NONE: Final = "none"
HINT: Final = "none; docs/tunnels.md tells how others reach it"
_FIRST_TRY: Final = 5.0
"""Seconds that a start waits for the tunnel before it goes on without; it is opened all the same."""


def choose(settings: ExecutorSettings, *, lends: bool, token: Callable[[], bool]) -> str:
    """The name of the tunnel to open, or `none`.

    Args:
        settings: What the owner says; a setting that only one tunnel has speaks for that tunnel.
        lends: Whether the machine is lent to others, so that a tunnel nobody asked for makes sense.
        token: Whether there is an authtoken for ngrok; asked only when it matters.
    """
    if settings.tunnel != "auto":
        return settings.tunnel
    if settings.ssh_target:
        return "ssh"
    if settings.domain:
        return "ngrok"
    if settings.public_url:
        return "static"
    return "ngrok" if lends and is_loopback(settings.host) and token() else NONE


def chosen(settings: ExecutorSettings, *, lends: bool) -> str:
    """As `choose`, with this machine's environment and files; the keyring is not asked unasked."""
    return choose(settings, lends=lends, token=lambda: find(ask_keyring=False) is not None)


def make(name: str, settings: ExecutorSettings) -> Tunnel | None:
    """The tunnel of that name; None for `none`.

    Raises:
        ConfigError: Something that it needs is missing or wrong.
    """
    made: Tunnel | None = adapter(TUNNELS[name], settings) if name in TUNNELS else None
    return made


@dataclass(frozen=True, slots=True)
class Outside:
    """How an open executor is reached from elsewhere."""

    reach: Reach | None
    """What keeps its tunnel open; None: there is no tunnel."""

    async def facts(self, local: str) -> dict[str, str]:
        """What to tell of it, after giving the tunnel a moment to come up."""
        if self.reach is None:
            return {"url": local}
        await self.reach.settled(_FIRST_TRY)
        told = self.reach.name if self.reach.up else f"{self.reach.name}, not open yet"
        return {"url": self.reach.url or local, "local": local, "tunnel": told}


@asynccontextmanager
async def reaching(
    settings: ExecutorSettings, port: int, *, lends: bool, moved: Callable[[str], Awaitable[None]]
) -> AsyncIterator[Outside]:
    """Keep the chosen tunnel open in front of `port` while the block runs.

    Args:
        settings: What the owner says.
        port: Where the executor's server listens.
        lends: As in `choose`.
        moved: Told each new public URL.

    Raises:
        ConfigError: The tunnel lacks something that no waiting brings.
    """
    name = await asyncio.to_thread(chosen, settings, lends=lends)
    tunnel = await asyncio.to_thread(make, name, settings)
    if tunnel is None:
        yield Outside(None)
        return
    reach = Reach(tunnel, name, moved=moved)
    task = asyncio.create_task(reach.run(local_host(settings.host), port), name="reach")
    try:
        yield Outside(reach)
    finally:
        task.cancel()
        await asyncio.wait((task,))
