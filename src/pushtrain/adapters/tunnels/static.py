"""A URL that somebody else forwards here: a router, a reverse proxy, a VPN. There is nothing to keep open."""

import asyncio

from pushtrain.adapters.tunnels import checked
from pushtrain.core.errors import ConfigError
from pushtrain.core.settings import ExecutorSettings


class Static:
    """The tunnel that is somebody else's; fits `ports.Tunnel`.

    Args:
        settings: Its `public_url` is the address.

    Raises:
        ConfigError: There is no `public_url`, or it is no address.
    """

    def __init__(self, settings: ExecutorSettings) -> None:
        if not settings.public_url:
            raise ConfigError(
                "The static tunnel needs the URL that is forwarded to this machine.",
                mend="Give it with `--public-url` or as `public_url` in settings.toml.",
            )
        self._url = checked(settings.public_url, "`public_url`")

    async def open(self, host: str, port: int) -> str:
        """The URL, at once; `host` and `port` are whoever forwards' business."""
        del host, port
        return self._url

    async def lost(self) -> str:
        """Never: nobody would notice."""
        await asyncio.Event().wait()
        return ""

    async def close(self) -> None:
        """Nothing to do."""
