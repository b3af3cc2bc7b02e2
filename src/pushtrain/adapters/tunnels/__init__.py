"""Ways to be reached from elsewhere; each fits `ports.Tunnel` and is made from the executor's settings."""

from typing import Final
from urllib.parse import urlsplit

from pushtrain.core.errors import ConfigError

TUNNELS: Final = {
    "ngrok": "pushtrain.adapters.tunnels.ngrok:Ngrok",
    "ssh": "pushtrain.adapters.tunnels.ssh:Ssh",
    "static": "pushtrain.adapters.tunnels.static:Static",
}
"""Name → where it stands; `wiring` imports it when used. `none` is the absence of one."""

_LONGEST: Final = 500


def checked(url: str, setting: str) -> str:
    """The URL without its last slash, if a card may publish it.

    Raises:
        ConfigError: It is no plain http(s) address; `setting` names where it comes from.
    """
    try:
        parts = urlsplit(url)
        good = parts.scheme in {"http", "https"} and parts.hostname and (parts.port is None or parts.port)
    except ValueError:
        good = False
    if not good or "@" in url or "?" in url or "#" in url or not url.isprintable() or len(url) > _LONGEST:
        raise ConfigError(
            f"{setting} is {_without_password(url)!r}, which callers cannot use as an address.",
            mend="Write a plain URL such as `https://gpu.example` or `http://gpu.example:8421`.",
        )
    return url.rstrip("/")


def _without_password(url: str) -> str:
    return f"…@{url.rpartition('@')[2]}"[:80] if "@" in url else url.partition("?")[0][:80]
