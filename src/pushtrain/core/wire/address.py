"""Whether the executor that answers at an address is at home there. Pure.

The name of a tunnel may be somebody else's by now, and who has it may pass everything on to the executor and
back: what comes back is then signed as it should be. So an executor says, signed and in answer to exactly
this question, what its own address is and which number its newest card has. A caller believes that it speaks
to the executor itself where that is the address it called.

Addresses of one's own network are excepted: they are no names that somebody else can be given, and the
executor does not know what it is called there.
"""

import ipaddress
from typing import Final
from urllib.parse import urlsplit

from pushtrain.core.values.card import ExecutorCard

_PORTS: Final = {"http": 80, "https": 443}


def elsewhere(url: str, card: ExecutorCard, *, newest: int = 0) -> str:
    """Why the executor is not at home at this address; empty when it is.

    Args:
        url: What was called.
        card: What the executor answered, signed for this question.
        newest: The highest number that was seen on a card of its; an executor never says a lower one.
    """
    if card.sequence < newest:
        return f"it is at card number {card.sequence}, and its card number {newest} was seen"
    called = origin(url)
    if called in {origin(card.public_url), ("http", card.ip.lower(), card.port)} or is_own_network(called[1]):
        return ""
    if not card.public_url:
        return "it says that it takes no calls"
    return f"it says that its own address is {card.public_url[:200]}"


def origin(url: str) -> tuple[str, str, int]:
    """Scheme, host and port of a URL, as they are compared; empty where it is none."""
    try:
        parts = urlsplit(url)
        port = parts.port or _PORTS[parts.scheme]
    except (ValueError, KeyError):
        return "", "", 0
    return parts.scheme, (parts.hostname or "").rstrip("."), port


def is_own_network(host: str) -> bool:
    """Whether a host is this machine, or an address that the internet does not lead to."""
    try:
        return not ipaddress.ip_address(host.partition("%")[0]).is_global
    except ValueError:
        return is_loopback(host)


def is_loopback(host: str) -> bool:
    """Whether a host is this machine, by its name alone."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower().rstrip(".") == "localhost"
