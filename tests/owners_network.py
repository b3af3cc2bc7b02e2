"""An owner's network in namespaces of its own: the machine, its LAN, and a small internet; nothing leaves it.

`python owners_network.py machine FOLDER` is started in fresh network and mount namespaces, `street` in
others. The machine (192.168.77.2) has a router (.1), a neighbour (.5) and, behind the router, "public"
servers and whatever else an attacker would like to reach. Each server notes who came in FOLDER/reached. It
all ends with standard input.
"""

import contextlib
import os
import select
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

PUBLIC: Final = "93.184.216.34"
CAMPUS: Final = "141.20.1.5"
"""A public address that the machine is in one network with, once it has an address there."""
HIDDEN: Final = (
    "10.9.9.9",
    "172.16.3.3",
    "100.64.1.1",
    "169.254.169.254",
    "168.63.129.16",
    "198.18.0.9",
    "192.168.178.1",
)
"""What a router of the owner's leads to."""
NEIGHBOURS: Final = ("192.168.77.1", "192.168.77.5")
PORTS: Final = (22, 53, 80, 1900)
NAMES: Final = {b"public": (PUBLIC,), b"lan": (NEIGHBOURS[1],), b"rebind": (PUBLIC, NEIGHBOURS[1])}
"""What the owner's resolver knows below `.test`; `rebind` tells something else the second time."""


class OwnersNetwork:
    """The machine as a test sees it."""

    def __init__(self, folder: Path, process: "subprocess.Popen[str]") -> None:
        self.folder = folder
        self.process = process

    def inside(self, words: Sequence[str | Path]) -> list[str]:
        """The words that run a command on that machine."""
        return ["nsenter", f"--target={self.process.pid}", "--net", "--mount", "--", *map(str, words)]

    def run(self, *words: str | Path, check: bool = True) -> "subprocess.CompletedProcess[str]":
        """Run a command on that machine."""
        return subprocess.run(self.inside(words), text=True, capture_output=True, timeout=60, check=check)

    def reached(self) -> set[str]:
        """Whom anybody has reached: `tcp 10.9.9.9:80`."""
        return set((self.folder / "reached").read_text().splitlines())

    def forget(self) -> None:
        """Begin anew to note who is reached."""
        (self.folder / "reached").write_text("")


@contextlib.contextmanager
def owners_network(folder: Path) -> Iterator[OwnersNetwork]:
    """The machine, while the block runs.

    Raises:
        RuntimeError: This machine cannot make one; it says why.
    """
    for program in ("ip", "unshare", "nsenter"):
        if shutil.which(program) is None:
            raise RuntimeError(f"{program} is not installed")
    (folder / "reached").touch()
    (folder / "reached").chmod(0o666)
    words = ("unshare", "--net", "--mount", sys.executable, __file__, "machine", str(folder))
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            if process.stdout.readline() != "ready\n":
                raise RuntimeError("network namespaces cannot be made here")
            yield OwnersNetwork(folder, process)
        finally:
            process.stdin.close()
            process.wait(timeout=20)


@contextlib.contextmanager
def open_folder() -> Iterator[Path]:
    """A folder that an ordinary user can use, too; pytest keeps its own to whoever started it."""
    with tempfile.TemporaryDirectory(prefix="pushtrain-test-") as folder:
        Path(folder).chmod(0o777)
        yield Path(folder)


# --- inside -----------------------------------------------------------------------------------------------


def _run(*lines: str) -> None:
    for line in lines:
        subprocess.run(line.split(), check=True, stdin=subprocess.DEVNULL)


def machine(folder: Path) -> None:
    """Be the owner's machine."""
    _run("mount --make-rprivate /", "ip link set lo up")
    street = ("unshare", "--net", sys.executable, __file__, "street", str(folder))
    with subprocess.Popen(street, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdout.readline()
        _run(
            f"ip link add lan0 type veth peer name wan0 netns {process.pid}",
            "ip addr add 192.168.77.2/24 dev lan0",
            "ip link set lan0 up",
            "ip route add default via 192.168.77.1",
        )
        process.stdin.write("go\n")
        process.stdin.flush()
        process.stdout.readline()
        (folder / "resolv.conf").write_text("nameserver 192.168.77.1\n")
        _run(f"mount --bind {folder}/resolv.conf /etc/resolv.conf")
        if os.path.exists("/dev/net/tun"):  # noqa: PTH110  udev lets everybody open it, containers root alone
            tun = folder / "tun"
            os.mknod(tun, 0o600 | 0o020000, os.makedev(10, 200))
            tun.chmod(0o666)
            _run(f"mount --bind {tun} /dev/net/tun")
        serve(folder, "machine")
        process.stdin.close()


def street(folder: Path) -> None:
    """Be everything else."""
    print("here", flush=True)
    sys.stdin.readline()
    _run("ip link set lo up", "ip link set wan0 up", "ip route add 224.0.0.0/4 dev wan0")
    for address in (*(f"{one}/24" for one in NEIGHBOURS), f"{CAMPUS}/24"):
        _run(f"ip addr add {address} dev wan0")
    for address in (PUBLIC, *HIDDEN):
        _run(f"ip addr add {address}/32 dev lo")
    serve(folder, "street")


def serve(folder: Path, who: str) -> None:
    """Answer on every port until standard input ends."""
    servers: list[socket.socket] = []
    for port in PORTS:
        tcp = socket.create_server(("", port))
        udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        udp.setsockopt(socket.IPPROTO_IP, 8, 1)  # IP_PKTINFO: tell whom it was meant for
        udp.bind(("", port))
        if who == "street":
            group = (
                socket.inet_aton("239.255.255.250")
                + b"\0" * 4
                + struct.pack("I", socket.if_nametoindex("wan0"))
            )
            udp.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, group)
        servers += [tcp, udp]
    print("ready", flush=True)
    answers = {name: list(found) for name, found in NAMES.items()}
    with (folder / "reached").open("a") as notes:
        while True:
            ready = select.select([sys.stdin, *servers], [], [])[0]
            if sys.stdin in ready:
                return
            for one in (server for server in servers if server in ready):
                with contextlib.suppress(OSError):
                    print(_answer(one, answers), file=notes, flush=True)


def _answer(one: socket.socket, answers: dict[bytes, list[str]]) -> str:
    port = one.getsockname()[1]
    if one.type == socket.SOCK_STREAM:
        with one.accept()[0] as connection:
            connection.sendall(b"hello")
            return f"tcp {connection.getsockname()[0]}:{port}"
    data, notes, _, sender = one.recvmsg(2000, 200)
    meant = socket.inet_ntoa(notes[0][2][8:12])
    one.sendto(_named(data, answers) if port == 53 else b"hello", sender)
    return f"udp {meant}:{port}"


def _named(query: bytes, answers: dict[bytes, list[str]]) -> bytes:
    """An answer to a question of DNS (RFC 1035): an address without a time to live, or none."""
    first = query[13 : 13 + query[12]]
    question = query[12 : query.index(b"\0", 12) + 5]
    found = answers.get(first, [])
    asks_a = question[-4:-2] == b"\0\1"
    known = found[:1] if asks_a else []
    if asks_a and len(found) > 1:
        found.append(found.pop(0))
    head = query[:2] + b"\x81\x80" + struct.pack(">HHHH", 1, len(known), 0, 0)
    record = b"\xc0\x0c\0\1\0\1" + struct.pack(">IH", 0, 4)
    return head + question + b"".join(record + socket.inet_aton(one) for one in known)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    {"machine": machine, "street": street}[sys.argv[1]](Path(sys.argv[2]))
