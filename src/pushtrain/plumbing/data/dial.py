"""A connection to exactly the address that was judged, so that nobody can change it in between.

A host's name is looked up once, in the moment of connecting. Every address that it led to is judged, one
that must not be reached refuses the host, and the connection goes to one of these addresses and no other:
a name that is public when it is checked and loopback when it is used (DNS rebinding) gains nothing. TLS
and the `Host` header keep the name, since urllib3 takes them from the connection's host.
"""

import socket
from collections.abc import Callable, Sequence
from functools import partial
from ipaddress import IPv4Address, ip_address
from typing import Any, Final, cast

from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import ConnectTimeoutError, NameResolutionError, NewConnectionError
from urllib3.response import HTTPResponse

from pushtrain.core.errors import DataError
from pushtrain.core.owner.outward import Outward
from pushtrain.core.text.addresses import Address
from pushtrain.plumbing.data import neighbours
from pushtrain.plumbing.http.pace import Pace

Look = Callable[[str, int], Sequence[Address]]
"""The addresses of a host, all of them judged; raises DataError for one that must not be reached."""

_MOST: Final = 4
"""Addresses of one host that are tried; the rest of a long answer would only take time."""


def judge(outward: Outward, host: str, port: int) -> Sequence[Address]:
    """Look a host up, once; its addresses, if every one of them may be reached.

    Raises:
        DataError: One of them must not be reached.
        socket.gaierror: There is no such name.
    """
    addresses = anywhere(host, port)
    for address in addresses:
        why = outward.why_not_reach(host, port, address) or _near(outward, host, port, address)
        if why:
            raise refused(host, port, why)
    return addresses


def refused(host: str, port: int, why: str) -> DataError:
    """The error for a host that must not be reached; which address it has is nobody's business."""
    entry = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    listing = f'`allow_data_hosts = ["{entry}"]`'
    return DataError(
        f"The executor does not fetch from {entry}: it is {why}.",
        mend=f"Use a public server, or have the executor's owner write {listing} into `[rules]`.",
    )


def unknown(error: BaseException | None) -> bool:
    """Whether a name is known not to exist; without a network nobody knows."""
    return isinstance(error, socket.gaierror) and error.errno in {socket.EAI_NONAME, socket.EAI_NODATA}


def pools(look: Look, pace: Pace) -> dict[str, Callable[..., HTTPConnectionPool]]:
    """What a `urllib3.PoolManager` takes its pools from, so that each connection is judged and watched.

    Args:
        look: Gives the addresses that may be connected to.
        pace: Watches what comes.
    """

    def plain(host: str, port: int, **more: Any) -> HTTPConnectionPool:
        pool: Any = HTTPConnectionPool(host, port, **more)
        pool.ConnectionCls = partial(_Plain, look, pace)
        return cast("HTTPConnectionPool", pool)

    def tls(host: str, port: int, **more: Any) -> HTTPConnectionPool:
        pool: Any = HTTPSConnectionPool(host, port, **more)
        pool.ConnectionCls = partial(_Tls, look, pace)
        return cast("HTTPConnectionPool", pool)

    return {"http": plain, "https": tls}


def anywhere(host: str, port: int) -> Sequence[Address]:
    """Look a host up, and find nothing wrong with where it is."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    # A zone (`fe80::1%eth0`) stands in the text, and makes the address a link-local one.
    return list(dict.fromkeys(ip_address(one[4][0]) for one in found))


class _Ours(HTTPConnection):
    """A connection whose socket is ours; `_new_conn` is what urllib3's own SOCKS support replaces, too."""

    def __init__(self, look: Look, pace: Pace, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self._look = look
        self._pace = pace

    def _new_conn(self) -> socket.socket:
        found = _connect(self, self._look)
        self._pace.begin(found.fileno())  # TLS and headers are watched as one
        return found

    def getresponse(self) -> HTTPResponse:  # type: ignore[override]  # as urllib3 itself has it
        """Wait for the answer, under watch also where the connection was kept open."""
        if self.sock is not None:
            self._pace.begin(self.sock.fileno())
        return super().getresponse()


class _Plain(_Ours):
    """Without TLS."""


class _Tls(_Ours, HTTPSConnection):
    """With TLS, which is spoken to the host's name."""


def _connect(connection: HTTPConnection, look: Look) -> socket.socket:
    """A socket to the first of the host's addresses that answers; a name is looked up nowhere else."""
    try:
        addresses = look(connection.host, connection.port)
    except OSError as error:  # gaierror, or a name that cannot be sent
        raise NameResolutionError(connection.host, connection, socket.gaierror(*error.args)) from error
    last: OSError = OSError("it has no address")
    for address in addresses[:_MOST]:
        try:
            return _to(address, connection)
        except OSError as error:
            last = error
    if isinstance(last, TimeoutError):
        raise ConnectTimeoutError(connection, f"{connection.host} did not answer in time") from last
    raise NewConnectionError(connection, f"no connection to {connection.host}: {last}") from last


def _to(address: Address, connection: HTTPConnection) -> socket.socket:
    family = socket.AF_INET if isinstance(address, IPv4Address) else socket.AF_INET6
    found = socket.socket(family, socket.SOCK_STREAM)
    try:
        for option in connection.socket_options or ():
            found.setsockopt(*option)
        if connection.timeout is None or isinstance(connection.timeout, int | float):
            found.settimeout(connection.timeout)
        found.connect((str(address), connection.port))
    except BaseException:
        found.close()
        raise
    return found


def _near(outward: Outward, host: str, port: int, address: Address) -> str:
    if outward.lists(host, port, address):
        return ""
    if neighbours.is_own(address):
        return "an address of this machine"
    if any(address in network for network in neighbours.networks()):
        return "an address of the network that this machine stands in"
    return ""
