"""The keeper of an uplink: one small process that makes a job's own way to the internet, and guards it.

Started by `plumbing/isolation/uplink.py` as `python -I -S keeper.pyc SLIRP4NETNS UID:GID NETWORK…`, with one
end of a socket as descriptor 3. When the other end is closed by the last who holds it, keeper and uplink are
gone.

    job's namespace ── veth ── router's namespace ── tap ── slirp4netns, in the machine's own namespace

The router's namespace decides: it has no process, one route to the internet, and `unreachable` routes for
every NETWORK given and for whatever this machine reaches otherwise than by its default route: its own
addresses, the networks that it is in, VPNs. A job enters its own namespace alone, so nothing that it does
there (binding a socket to a device, source routes, new routes should it ever get a capability) changes what
the router forwards. A second namespace is needed: routes beside the job's own sockets are passed over by
`SO_BINDTODEVICE`, and slirp4netns then connects to the machine's own 127.0.0.1 although told not to
(docs/decisions/0014-uplinks.md). New addresses and routes of the machine are refused as the kernel tells of
them, within milliseconds; private ranges are refused whether it has them or not.

An ordinary user's keeper is started in a user namespace, which the router belongs to. The job's belongs to
another one inside that, in which user and group are UID and GID as outside. There is no IPv6 beyond ::1.

Every import delays a job, and nothing of pushtrain is imported; `_socket` and `_struct` are the C halves.
"""

import ctypes
import fcntl
import os
import select
import sys
from _socket import (
    AF_NETLINK,
    AF_UNIX,
    SCM_RIGHTS,
    SOCK_RAW,
    SOCK_STREAM,
    SOL_SOCKET,
    if_nametoindex,
    inet_aton,
    inet_ntoa,
)
from _socket import socket as Socket  # noqa: N812  the C half has no other name for the class
from _struct import pack, unpack_from

TYPE_CHECKING = False  # typing's own costs 10 ms
if TYPE_CHECKING:
    import signal
    from collections.abc import Iterator
else:
    import _signal as signal

CONTROL = 3
CLONE_NEWUSER = 0x10000000
CLONE_NEWNET = 0x40000000
TAP = "tap0"
"""Where all comes in that comes from outside."""
PR_SET_PDEATHSIG = 1
PR_SET_NAME = 15
TUNSETIFF = 0x400454CA
TUNSETPERSIST = 0x400454CB
IFF_TAP_NO_PI = 0x1002

NLMSG_ERROR = 2
NLMSG_DONE = 3
RTM_NEWLINK = 16
RTM_NEWADDR = 20
RTM_NEWROUTE = 24
RTM_GETROUTE = 26
RTM_SETNEIGHTBL = 67
REQUEST_ACK = 0x5
REQUEST_DUMP = 0x301
CREATE = 0x400
CREATE_NEW = 0x600
IPV4_CHANGES = 0x10 | 0x40  # RTMGRP_IPV4_IFADDR, RTMGRP_IPV4_ROUTE
UNICAST = 1
UNREACHABLE = 7
ON_LINK = 4
SCOPE_LINK = 253

LOOPBACK = 1  # index of `lo` in every namespace
INSIDE = 2  # index of `eth0` in the job's
MTU = 65520
JOB = "10.0.2.100"
ROUTER = "10.0.2.1"
GATEWAY = "10.0.2.2"
RESOLVER = "10.0.2.3"
SHORTEST = 8  # a shorter prefix is a default route by another name: VPNs have 0.0.0.0/1 and 128.0.0.0/1
MOST = 4096  # networks of one machine that are refused; a router of the internet has a million
BATCH = 200

_libc = ctypes.CDLL(None, use_errno=True)


def did(result: int, what: str) -> None:
    """Raise what the C library said."""
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def attribute(kind: int, data: bytes) -> bytes:
    """One attribute of a netlink message."""
    return pack("HH", 4 + len(data), kind) + data + b"\0" * (-len(data) % 4)


def number(value: int) -> bytes:
    """A number as netlink has it."""
    return pack("I", value)


class Netlink:
    """A socket that speaks of routes with the kernel, about the network namespace it was made in."""

    def __init__(self, groups: int = 0) -> None:
        self.socket = Socket(AF_NETLINK, SOCK_RAW, 0)
        self.socket.bind((0, groups))

    def messages(self) -> "Iterator[tuple[int, bytes]]":
        """What comes next: kind and content."""
        data = self.socket.recv(65536)
        at = 0
        while at < len(data):
            length, kind = unpack_from("IH", data, at)
            yield kind, data[at + 16 : at + length]
            at += -(-length // 4) * 4

    def do(self, *orders: tuple[int, int, bytes]) -> None:
        """Do all of these, each a kind, flags and content."""
        for first in range(0, len(orders), BATCH):
            batch = orders[first : first + BATCH]
            self.socket.send(
                b"".join(
                    pack("IHHII", 16 + len(body), kind, REQUEST_ACK | flags, 0, 0) + body
                    for kind, flags, body in batch
                )
            )
            seen = 0
            while seen < len(batch):
                for kind, body in self.messages():
                    if kind == NLMSG_ERROR:
                        if error := -unpack_from("i", body)[0]:
                            raise OSError(error, f"netlink {batch[seen][0]}: {os.strerror(error)}")
                        seen += 1

    def routes(self) -> "Iterator[bytes]":
        """All IPv4 routes, of every table."""
        body = pack("BBBBBBBBI", 2, 0, 0, 0, 0, 0, 0, 0, 0)
        self.socket.send(pack("IHHII", 16 + len(body), RTM_GETROUTE, REQUEST_DUMP, 0, 0) + body)
        found: list[bytes] = []
        while True:
            for kind, content in self.messages():
                if kind == NLMSG_DONE:
                    return iter(found)
                if kind == RTM_NEWROUTE:
                    found.append(content)


def up(index: int) -> tuple[int, int, bytes]:
    """Bring a device up."""
    return RTM_NEWLINK, 0, pack("BxHiII", 0, 0, index, 1, 1)


def prepare(index: int, *, forward: bool = False, answer_arp: bool = False) -> tuple[int, int, bytes]:
    """Say whether a device forwards IPv4 and answers ARP for others; it makes no IPv6 address for itself."""
    ways = (attribute(1, number(1)) if forward else b"") + (attribute(3, number(1)) if answer_arp else b"")
    inet6 = attribute(10, attribute(8, b"\x01")) if os.path.exists("/proc/net/if_inet6") else b""
    families = (attribute(2, attribute(1, ways)) if ways else b"") + inet6
    body = pack("BxHiII", 0, 0, index, 0, 0) + attribute(4, number(MTU))
    return RTM_NEWLINK, 0, body + (attribute(26, families) if families else b"")


def address(index: int, one: str) -> tuple[int, int, bytes]:
    """Give a device an address of its own."""
    data = inet_aton(one)
    body = pack("BBBBi", 2, 32, 0, 0, index) + attribute(2, data) + attribute(1, data)
    return RTM_NEWADDR, CREATE_NEW, body


def route(network: str, device: int = 0, via: str = "") -> tuple[int, int, bytes]:
    """A route by a device, or through a neighbour; without a device: there is no way."""
    base, _, length = network.partition("/")
    kind, scope = (UNICAST, 0 if via else SCOPE_LINK) if device else (UNREACHABLE, 0)
    body = pack("BBBBBBBBI", 2, int(length), 0, 0, 254, 4, scope, kind, ON_LINK if via else 0)
    body += attribute(1, inet_aton(base)) if int(length) else b""
    body += attribute(5, inet_aton(via)) if via else b""
    body += attribute(4, number(device)) if device else b""
    return RTM_NEWROUTE, CREATE, body


def reached_otherwise(routes: "Iterator[bytes]") -> "set[str]":
    """The networks that this machine does not reach by its default route, its own addresses among them."""
    found = set()
    for body in routes:
        length = body[1]
        at = 12
        while length >= SHORTEST and at < len(body):
            size, kind = unpack_from("HH", body, at)
            if kind == 1:
                found.add(f"{inet_ntoa(body[at + 4 : at + 8])}/{length}")
            at += -(-size // 4) * 4
    if len(found) > MOST:
        raise OSError(0, f"this machine has more than {MOST} routes")
    return found


def write(path: str, text: str) -> None:
    """Write a file of `/proc`."""
    with open(path, "w", encoding="ascii") as file:
        file.write(text)


def enter_own(user: str) -> None:
    """Enter a user namespace of our own, and a network namespace with it, in which root is `UID:GID`."""
    did(_libc.unshare(CLONE_NEWUSER | CLONE_NEWNET), "a user namespace in another one")
    uid, _, gid = user.partition(":")
    write("/proc/self/setgroups", "deny")
    write("/proc/self/uid_map", f"{uid} 0 1")
    write("/proc/self/gid_map", f"{gid} 0 1")


class Keeper:
    """One uplink, from its making to its end.

    Args:
        slirp: The program.
        user: Who a job is in a user namespace of its own; empty: it gets none.
        networks: What is refused in any case.
    """

    def __init__(self, slirp: str, user: str, networks: "tuple[str, ...]") -> None:
        self.control = Socket(AF_UNIX, SOCK_STREAM, 0, CONTROL)
        self.slirp = slirp
        self.refused = set(networks)
        self.pid = os.getpid()
        self.user = user
        self.machine = Netlink()
        self.changes = Netlink(IPV4_CHANGES)

    def run(self) -> None:
        """Make the uplink, tell of it, and guard it to its end."""
        forwarder, go, ready, complaints = self.fork_forwarder()
        net, user = self.make()
        os.write(go, b"1")
        if os.read(ready, 1) != b"1":
            said = os.read(complaints, 4096).decode("utf-8", "replace").strip().splitlines()
            raise OSError(0, f"slirp4netns ended: {'; '.join(said[-3:]) if said else 'it did not say why'}")
        rights = pack(f"{1 + len(user)}i", net, *user)
        self.control.sendmsg([b"1"], [(SOL_SOCKET, SCM_RIGHTS, rights)])
        for one in (net, *user):
            os.close(one)
        self.guard(forwarder, complaints)

    def fork_forwarder(self) -> "tuple[int, int, int, int]":
        """Fork what becomes slirp4netns: in the machine's own namespaces, which we are about to leave.

        It ends when we do: `--exit-fd` is a pipe whose other end we alone hold.
        """
        wait, go = os.pipe()
        end, _alive = os.pipe()
        ready, tell = os.pipe()
        complaints, complain = os.pipe()
        pid = os.fork()
        if pid == 0:
            try:
                _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
                for one in (go, _alive, ready, complaints, CONTROL):
                    os.close(one)
                self.become_forwarder(wait, end, tell, complain)
            finally:
                os._exit(1)
        for one in (wait, end, tell, complain):
            os.close(one)
        os.set_blocking(complaints, False)
        return pid, go, ready, complaints

    def become_forwarder(self, wait: int, end: int, tell: int, complain: int) -> None:
        """In the child: once there is a router, become slirp4netns."""
        if not os.read(wait, 1):
            return
        os.dup2(complain, 2)
        for one in (end, tell):
            os.set_inheritable(one, True)
        words = [
            self.slirp,
            f"--mtu={MTU}",
            "--disable-host-loopback",
            "--enable-sandbox",
            "--enable-seccomp",
            f"--exit-fd={end}",
            f"--ready-fd={tell}",
            str(self.pid),
            TAP,
        ]
        os.execv(self.slirp, words)  # noqa: S606  no shell is the point

    # --- making -------------------------------------------------------------------------------------------

    def make(self) -> "tuple[int, tuple[int, ...]]":
        """Make both namespaces; descriptors of the job's, and of its user namespace where it has one."""
        did(_libc.unshare(CLONE_NEWNET), "a network namespace")
        self.router_net = os.open("/proc/self/ns/net", os.O_RDONLY)
        self.router = Netlink()
        tap = self.make_tap()
        net, user = self.job_namespace()
        side = tap + 1
        peer = pack("BxHiII", 0, 0, INSIDE, 0, 0) + attribute(3, b"eth0\0")
        pair = attribute(1, b"veth\0") + attribute(2, attribute(1, peer + attribute(28, number(net))))
        named = attribute(3, b"job0\0") + attribute(18, pair)
        self.router.do((RTM_NEWLINK, CREATE_NEW, pack("BxHiII", 0, 0, side, 0, 0) + named))
        self.refused |= reached_otherwise(self.machine.routes())
        no_way = [route(one) for one in self.refused]
        at_once = attribute(1, number(tap)) + attribute(14, pack("Q", 0))  # ARP is answered without delay
        self.router.do(
            *no_way,
            address(tap, ROUTER),
            address(side, ROUTER),
            (RTM_SETNEIGHTBL, 0, pack("Bxxx", 2) + attribute(1, b"arp_cache\0") + attribute(6, at_once)),
            prepare(tap, forward=True, answer_arp=True),
            prepare(side, forward=True),
            up(tap),
            up(side),
            route(f"{JOB}/32", side),
            route(f"{RESOLVER}/32", tap),
            route("0.0.0.0/0", tap, GATEWAY),
        )
        did(_libc.setns(net, CLONE_NEWNET), "the job's network")
        job = Netlink()
        job.do(
            prepare(INSIDE),
            up(LOOPBACK),
            up(INSIDE),
            address(INSIDE, JOB),
            route("0.0.0.0/0", INSIDE, ROUTER),
            route(f"{RESOLVER}/32", INSIDE, ROUTER),
            *no_way,  # not what protects, but an error at once is better than one after a while
        )
        job.socket.close()
        did(_libc.setns(self.router_net, CLONE_NEWNET), "the router's network")
        return net, user

    def make_tap(self) -> int:
        """Make the device that slirp4netns will take; its index."""
        tun = os.open("/dev/net/tun", os.O_RDWR)
        fcntl.ioctl(tun, TUNSETIFF, pack("16sH22x", TAP.encode(), IFF_TAP_NO_PI))
        fcntl.ioctl(tun, TUNSETPERSIST, 1)
        os.close(tun)
        return if_nametoindex(TAP)

    def job_namespace(self) -> "tuple[int, tuple[int, ...]]":
        """Make the job's network namespace, and its user namespace where it is to have one."""
        if not self.user:
            did(_libc.unshare(CLONE_NEWNET), "a network namespace")
            net = os.open("/proc/self/ns/net", os.O_RDONLY)
            did(_libc.setns(self.router_net, CLONE_NEWNET), "the router's network")
            return net, ()
        told, tell = os.pipe()
        wait, go = os.pipe()
        pid = os.fork()
        if pid == 0:
            try:
                os.close(go)
                enter_own(self.user)
                os.write(tell, b"1")
                os.read(wait, 1)
            finally:
                os._exit(0)
        for one in (tell, wait):
            os.close(one)
        try:
            if os.read(told, 1) != b"1":
                raise OSError(1, "a user namespace in another one: not permitted")  # EPERM
            return (
                os.open(f"/proc/{pid}/ns/net", os.O_RDONLY),
                (os.open(f"/proc/{pid}/ns/user", os.O_RDONLY),),
            )
        finally:
            for one in (told, go):
                os.close(one)
            os.waitpid(pid, 0)

    # --- guarding -----------------------------------------------------------------------------------------

    def guard(self, forwarder: int, complaints: int) -> None:
        """Refuse what the machine comes to reach, until nobody wants the uplink or slirp4netns has ended."""
        poll = select.poll()
        changes = self.changes.socket.fileno()
        ended = os.pidfd_open(forwarder)
        for one in (CONTROL, changes, ended, complaints):
            poll.register(one, select.POLLIN)
        while True:
            ready = {one for one, _ in poll.poll()}
            if ready & {CONTROL, ended}:
                break
            if complaints in ready and not os.read(complaints, 4096):
                poll.unregister(complaints)
            if changes in ready:
                self.refuse_anew()
        signal.pidfd_send_signal(ended, signal.SIGKILL)
        os.waitpid(forwarder, 0)

    def refuse_anew(self) -> None:
        """An address or a route has come or gone: refuse what is reached now, beside all that was."""
        self.changes.socket.setblocking(False)
        try:
            while True:
                self.changes.socket.recv(65536)
        except BlockingIOError:
            pass
        except OSError:  # more has changed than the socket could hold: all of it is read anew
            pass
        new = reached_otherwise(self.machine.routes()) - self.refused
        self.router.do(*(route(one) for one in new))
        self.refused |= new


def main() -> None:
    """Keep an uplink; whatever goes wrong ends it."""
    _libc.prctl(PR_SET_NAME, b"pushtrain-net", 0, 0, 0)
    os.set_inheritable(CONTROL, False)
    os.chdir("/")
    try:
        Keeper(sys.argv[1], sys.argv[2], tuple(sys.argv[3:])).run()
    except BaseException as error:  # noqa: BLE001  whoever waits for the uplink is told why there is none
        try:
            os.write(CONTROL, f"!{getattr(error, 'errno', 0) or 0} {error}".encode("utf-8", "replace"))
        finally:
            os._exit(1)
    os._exit(0)


if __name__ == "__main__":
    main()
