"""A real OpenSSH server on loopback, with its own keys, port and configuration; for root and for any user."""

import contextlib
import os
import pwd
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from pushtrain.plumbing.programs import proc
from pushtrain.testing import wait_until


class Sshd:
    """One server and one client's configuration for it, in which its name is `gpu`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self.config = folder / "client.conf"
        self._authorized = folder / "authorized_keys"
        self._process: subprocess.Popen[bytes] | None = None
        for name in ("host", "client", "stranger"):
            make = ("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", str(folder / name))
            subprocess.run(make, check=True, capture_output=True)
        host = (folder / "host.pub").read_text()
        (folder / "known").write_text(f"[127.0.0.1]:{self.port} {host}")
        self.authorize()
        self.be("client")
        (folder / "sshd.conf").write_text(
            f"ListenAddress 127.0.0.1\nPort {self.port}\nHostKey {folder / 'host'}\nPidFile none\n"
            f"AuthorizedKeysFile {self._authorized}\nStrictModes no\nUsePAM no\nPermitRootLogin yes\n"
            "PasswordAuthentication no\nKbdInteractiveAuthentication no\nLogLevel ERROR\nPrintMotd no\n"
        )

    def authorize(self, options: str = "") -> None:
        """Let the client's key in, with these options before it."""
        key = (self.folder / "client.pub").read_text()
        self._authorized.write_text(f"{options} {key}" if options else key)

    def be(self, who: str, *, known: str = "known") -> None:
        """Use this key as the client, and this file of known hosts."""
        user = pwd.getpwuid(os.getuid()).pw_name
        self.config.write_text(
            f"Host gpu\n  HostName 127.0.0.1\n  Port {self.port}\n  User {user}\n"
            f"  IdentityFile {self.folder / who}\n  IdentitiesOnly yes\n  IdentityAgent none\n"
            f"  UserKnownHostsFile {self.folder / known}\n  GlobalKnownHostsFile /dev/null\n"
        )

    def start(self) -> None:
        if os.getuid() == 0:
            Path("/run/sshd").mkdir(
                mode=0o755, exist_ok=True
            )  # where it locks itself up before it knows who calls
        program = shutil.which("sshd", path=f"{os.environ['PATH']}:/usr/sbin:/sbin")
        assert program, "`scripts/bootstrap.sh test` installs openssh-server"
        with (self.folder / "sshd.log").open("ab") as log:
            self._process = subprocess.Popen(
                (program, "-D", "-e", "-f", self.folder / "sshd.conf"), stdin=subprocess.DEVNULL, stderr=log
            )
        wait_until(self._answers, 10, what=f"sshd: {self.log()}")

    def stop(self) -> None:
        """End the server and every connection."""
        child, self._process = self._process, None
        if child is not None:
            proc.kill_tree(child.pid)
            child.wait()

    def freeze(self) -> None:
        """Stop the server and every connection without a word: the connections stay, and say nothing."""
        assert self._process is not None
        for pid in (*proc.descendants(self._process.pid), self._process.pid):
            os.kill(pid, signal.SIGSTOP)

    def log(self) -> str:
        return (self.folder / "sshd.log").read_text()

    def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, self.log()
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1) as line:
            return line.recv(4) == b"SSH-"
        return False


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


@pytest.fixture
def sshd(tmp_path: Path) -> Iterator[Sshd]:
    """A running server."""
    folder = tmp_path / "ssh"
    folder.mkdir()
    server = Sshd(folder)
    server.start()
    try:
        yield server
    finally:
        server.stop()
