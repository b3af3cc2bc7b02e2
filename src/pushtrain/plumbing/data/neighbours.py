"""What is near this machine, whatever its number: the machine itself, and the networks that it stands in.

A public address may still be the owner's: a laptop's IPv6 neighbours have global addresses, and so has a
whole university. The kernel's routing table says which are reached without a router. Linux only, like the
executor's sandbox; elsewhere only the machine itself is known.
"""

import contextlib
import socket
import sys
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv4Network, IPv6Network
from pathlib import Path
from typing import Final

from pushtrain.core.text.addresses import Address, Network

_ROUTES: Final = Path("/proc/net/route")
_ROUTES6: Final = Path("/proc/net/ipv6_route")
_UP: Final = 0x1
_GATEWAY: Final = 0x2
_REJECT: Final = 0x200
_WIDEST: Final = 8
"""A route without a gateway for more than a /8 is a tunnel for everything, not a network that we stand in."""


def is_own(address: Address) -> bool:
    """Whether this machine has the address: the kernel would then take it as the source, too.

    Sends nothing: connecting a datagram socket only looks up the route.
    """
    family = socket.AF_INET if isinstance(address, IPv4Address) else socket.AF_INET6
    with contextlib.suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as probe:
        probe.connect((str(address), 9))
        return bool(probe.getsockname()[0] == str(address))
    return False


def networks(v4: Path = _ROUTES, v6: Path = _ROUTES6) -> tuple[Network, ...]:
    """The networks that this machine reaches without a router.

    Args:
        v4: The kernel's IPv4 routes, as proc(5) describes /proc/net/route.
        v6: Its IPv6 routes.
    """
    return (*_of_v4(v4), *_of_v6(v6))


def _of_v4(path: Path) -> Iterator[IPv4Network]:
    for words in _lines(path):
        with contextlib.suppress(ValueError, IndexError):  # the heading
            flags = int(words[3], 16)
            if flags & _UP and not flags & (_GATEWAY | _REJECT):
                start, mask = (IPv4Address(int(words[at], 16).to_bytes(4, sys.byteorder)) for at in (1, 7))
                found = IPv4Network(f"{start}/{mask}")
                if found.prefixlen >= _WIDEST:
                    yield found


def _of_v6(path: Path) -> Iterator[IPv6Network]:
    for words in _lines(path):
        with contextlib.suppress(ValueError, IndexError):
            flags = int(words[8], 16)
            found = IPv6Network((bytes.fromhex(words[0]), int(words[1], 16)))
            if flags & _UP and not flags & (_GATEWAY | _REJECT) and found.prefixlen >= _WIDEST:
                yield found


def _lines(path: Path) -> Iterator[list[str]]:
    with contextlib.suppress(OSError):
        for line in path.read_text("ascii").splitlines():
            yield line.split()
