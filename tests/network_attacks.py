"""What a job may try in order to reach what it must not; run inside an uplink. It has
the standard library alone.

`python network_attacks.py` prints a JSON object: each way that was tried, and `reached` or what came instead.
Every attack has half a second and all go at the same time.
"""

import ctypes
import json
import os
import socket
import struct
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

SECONDS = 0.5
MACHINE = "192.168.77.2"
FORBIDDEN = (
    "192.168.77.1 192.168.77.5 192.168.178.1 10.9.9.9 172.16.3.3 100.64.1.1 169.254.169.254 168.63.129.16 "
    f"198.18.0.9 {MACHINE} 10.0.2.1 10.0.2.2 127.0.0.1"
).split()
SPELT = (
    "::ffff:192.168.77.5",
    "::ffff:c0a8:4d05",
    "::ffff:127.0.0.1",
    "::192.168.77.5",
    "64:ff9b::c0a8:4d05",
    "2002:c0a8:4d05::1",
    "fd00::2",
    "fe80::2",
    "::1",
    "::",
)
GROUPS = ("239.255.255.250", "224.0.0.251", "255.255.255.255", "192.168.77.255", "10.0.2.255")
IP_OPTIONS = 4
IP_PKTINFO = 8
IP_UNICAST_IF = 50
SO_BINDTODEVICE = 25
DEVICE = b"eth0\0"


def tcp(
    address: str, port: int = 80, *, device: bool = False, unicast_if: bool = False, **options: bytes
) -> None:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family) as one:
        one.settimeout(SECONDS)
        if device:
            one.setsockopt(socket.SOL_SOCKET, SO_BINDTODEVICE, DEVICE)
        if unicast_if:
            one.setsockopt(socket.IPPROTO_IP, IP_UNICAST_IF, struct.pack("!I", socket.if_nametoindex("eth0")))
        if "route" in options:
            one.setsockopt(socket.IPPROTO_IP, IP_OPTIONS, options["route"])
        one.connect((address, port))
        assert one.recv(5) == b"hello"


def udp(address: str, port: int = 1900, *, device: bool = False, pktinfo: bool = False) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
        one.settimeout(SECONDS)
        one.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        index = socket.if_nametoindex("eth0")
        one.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, b"\0" * 8 + struct.pack("I", index))
        if device:
            one.setsockopt(socket.SOL_SOCKET, SO_BINDTODEVICE, DEVICE)
        notes = [(socket.IPPROTO_IP, IP_PKTINFO, struct.pack("I8x", index))] if pktinfo else []
        one.sendmsg([b"anybody there?"], notes, 0, (address, port))
        one.recv(100)


def source_route(kind: int, first: str, last: str) -> None:
    option = bytes((kind, 7, 4)) + socket.inet_aton(last) + b"\0"
    tcp(first, route=option)


def change_routes() -> None:
    """Ask the kernel for a route to the LAN."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as one:
        body = struct.pack("BBBBBBBBI", 2, 32, 0, 0, 254, 4, 0, 1, 4)
        for kind, data in ((1, "192.168.77.5"), (5, "10.0.2.1")):
            body += struct.pack("HH", 8, kind) + socket.inet_aton(data)
        body += struct.pack("HHI", 8, 4, socket.if_nametoindex("eth0"))
        one.send(struct.pack("IHHII", 16 + len(body), 24, 0x405, 1, 0) + body)
        error = -struct.unpack_from("i", one.recv(4096), 16)[0]
        if error:
            raise OSError(error, os.strerror(error))


def own_namespace() -> None:
    """Become root of a user namespace, and change routes from there."""
    child = os.fork()
    if child == 0:
        try:
            libc = ctypes.CDLL(None, use_errno=True)
            if libc.unshare(0x10000000) == 0:
                change_routes()
                os._exit(0)
        except OSError:
            pass
        os._exit(1)
    if os.waitpid(child, 0)[1]:
        raise PermissionError("no")


def raw(family: int, kind: int, protocol: int) -> None:
    socket.socket(family, kind, protocol).close()


def attacks() -> dict[str, Callable[[], None]]:
    """Every way, by what it is."""
    found: dict[str, Callable[[], None]] = {}
    for address in FORBIDDEN:
        found[f"tcp {address}"] = partial(tcp, address)
        found[f"tcp {address}, bound to the device"] = partial(tcp, address, device=True)
        found[f"tcp {address}, by IP_UNICAST_IF"] = partial(tcp, address, unicast_if=True)
        found[f"udp {address}"] = partial(udp, address)
        found[f"udp {address}, bound to the device"] = partial(udp, address, device=True)
        found[f"udp {address}, by IP_PKTINFO"] = partial(udp, address, pktinfo=True)
    for address in SPELT:
        found[f"tcp {address}"] = partial(tcp, address)
    for port in (22, 80, 1900):
        found[f"another port of the resolver, tcp {port}"] = partial(tcp, "10.0.2.3", port)
    found["another port of the resolver, udp"] = partial(udp, "10.0.2.3")
    for group in GROUPS:
        found[f"to all, {group}"] = partial(udp, group)
        found[f"to all, {group}, bound to the device"] = partial(udp, group, device=True)
        found[f"to all, {group}, by IP_PKTINFO"] = partial(udp, group, pktinfo=True)
    for kind in (0x83, 0x89):
        for hop in ("93.184.216.34", "10.0.2.2"):
            found[f"source route {kind:#x} by {hop}"] = partial(source_route, kind, hop, "192.168.77.5")
            found[f"source route {kind:#x} from {hop}"] = partial(source_route, kind, "192.168.77.5", hop)
    found["a raw socket"] = partial(raw, socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_TCP)
    found["a packet socket"] = partial(raw, socket.AF_PACKET, socket.SOCK_RAW, 3)
    found["a route"] = change_routes
    found["a route from a user namespace"] = own_namespace
    return found


def tried(attack: Callable[[], None]) -> str:
    try:
        attack()
    except (OSError, AssertionError) as error:
        return f"{type(error).__name__}: {error}"
    return "reached"


def main() -> None:
    ways = attacks()
    with ThreadPoolExecutor(64) as pool:
        print(json.dumps(dict(zip(ways, pool.map(tried, ways.values()), strict=True))))


if __name__ == "__main__":
    main()
