"""Uplinks: an attempt's own way to public addresses, and to nothing else.

`Uplinks.take()` gives one that is ready, or makes one in some 20 ms; `plumbing/isolation/keeper.py` says what
it is made of. It lasts as long as somebody holds its `control`: the executor while it prepares, then the
shim. So nothing is left behind, whoever is killed. Two attempts never share one, and cannot reach each other.
"""

import contextlib
import errno
import os
import py_compile
import select
import shutil
import signal
import socket
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pushtrain.core.errors import ConfigError, StorageError
from pushtrain.core.owner.network import PRIVATE
from pushtrain.plumbing.isolation import keeper as keeper_module
from pushtrain.plumbing.isolation import namespaces
from pushtrain.plumbing.programs import proc

RESOLVER: Final = keeper_module.RESOLVER
"""Where a job asks for names; slirp4netns asks this machine's own resolver on its behalf."""

_PATIENCE: Final = 10.0
"""Seconds that a keeper may take; it needs 0.02."""
_LATER: Final = 0.5
"""Seconds until the next one is made: what took the last one is starting a job meanwhile."""
_TUN: Final = Path("/dev/net/tun")
_CAP_NET_ADMIN: Final = 12
_CAP_SYS_ADMIN: Final = 21


@dataclass(frozen=True, slots=True)
class Uplink:
    """One uplink that is ready. Whoever has it closes it."""

    pid: int
    """The keeper's, or that of bubblewrap around it."""
    control: int
    """Descriptor; the uplink ends when the last copy of it is closed."""
    net: int
    """Descriptor of the network namespace that a job enters."""
    user: int | None
    """Descriptor of the user namespace that it enters before; None: the executor's own (as root)."""

    @property
    def descriptors(self) -> tuple[int, ...]:
        """What a program needs to inherit in order to run `enter`."""
        return (self.net,) if self.user is None else (self.net, self.user)

    @property
    def enter(self) -> tuple[str, ...]:
        """Words before a command that make it run in the uplink's namespace."""
        user = () if self.user is None else (f"--user=/proc/self/fd/{self.user}", "--preserve-credentials")
        return ("nsenter", *user, f"--net=/proc/self/fd/{self.net}", "--")

    def alive(self) -> bool:
        """Whether it has not ended by itself: its keeper says nothing more until then."""
        return not select.select([self.control], [], [], 0)[0]

    def received(self) -> int | None:
        """Bytes that have come in through it, by the kernel's own count; None: nobody tells."""
        own = Path("/proc/self/ns/net").readlink()
        for pid in (self.pid, *proc.descendants(self.pid)):  # an ordinary user's is below bubblewrap
            with contextlib.suppress(OSError, ValueError, IndexError):
                if Path(f"/proc/{pid}/ns/net").readlink() == own:
                    continue  # a tap of the machine's is somebody else's
                for line in Path(f"/proc/{pid}/net/dev").read_text().splitlines():
                    name, _, counts = line.partition(":")
                    if name.strip() == keeper_module.TAP:
                        return int(counts.split()[0])
        return None

    def close(self) -> None:
        """Let go of it; it ends unless a shim holds it, too."""
        for one in (self.control, *self.descriptors):
            with contextlib.suppress(OSError):
                os.close(one)


class Uplinks:
    """The uplinks of one executor; one more than is used is ready, so that a run need not wait.

    Args:
        folder: Where the keeper's bytecode is put.
        program: slirp4netns; empty: the one on `PATH`.
    """

    def __init__(self, folder: Path, program: str = "") -> None:
        self._folder = folder
        self._program = program
        self._compiled = ""
        self._lock = threading.Lock()
        self._spare: Uplink | None = None
        self._making: threading.Timer | None = None
        self._closed = False
        self._keepers: set[int] = set()

    def missing(self) -> tuple[str, str]:
        """Why this machine cannot make an uplink, and the mend; empty: one was made, and is ready."""
        try:
            self._keep_spare(self._make())
        except ConfigError as error:
            return error.message, error.mend
        return "", ""

    def take(self) -> Uplink:
        """One that is ready.

        Raises:
            ConfigError: None can be made; the mend is named.
        """
        with self._lock:
            found, self._spare = self._spare, None
        if found is not None and not found.alive():
            found.close()
            found = None
        found = found or self._make()
        self._refill()
        return found

    def close(self) -> None:
        """End the one that is ready; those that were taken are their holders' affair."""
        with self._lock:
            self._closed = True
            making, self._making = self._making, None
        if making is not None:
            making.cancel()
            making.join()
        with self._lock:
            found, self._spare = self._spare, None
        if found is not None:
            found.close()
        self._bury(wait=found.pid if found else 0)

    def _refill(self) -> None:
        with self._lock:
            if self._closed or self._making is not None:
                return
            self._making = threading.Timer(_LATER, self._make_spare)
            self._making.daemon = True
            self._making.start()

    def _make_spare(self) -> None:
        made = None
        with contextlib.suppress(ConfigError):  # whoever takes the next one is told
            made = self._make()
        with self._lock:
            self._making = None
        if made is not None:
            self._keep_spare(made)

    def _keep_spare(self, made: Uplink) -> None:
        with self._lock:
            if self._spare is None and not self._closed:
                self._spare, made = made, None  # type: ignore[assignment]
        if made is not None:
            made.close()

    def _make(self) -> Uplink:
        self._bury()
        program = self._program or shutil.which("slirp4netns") or ""
        if not program:
            raise ConfigError(
                "slirp4netns is not installed.", mend="Install it: `sudo apt install slirp4netns`."
            )
        ours, theirs = socket.socketpair()
        complaints = os.memfd_create("complaints")
        try:
            words = (*around(), *_keeper(self._bytecode(), program))
            pid = _start(words, theirs.fileno(), complaints)
            theirs.close()
            with self._lock:
                self._keepers.add(pid)
            return _received(pid, ours, complaints)
        except OSError as error:
            raise ConfigError(f"No process could be started: {error.strerror}.") from error
        finally:
            theirs.close()
            ours.close()
            os.close(complaints)

    def _bytecode(self) -> str:
        if not self._compiled:
            compiled = self._folder / "keeper.pyc"
            try:
                py_compile.compile(keeper_module.__file__, str(compiled), doraise=True)
            except OSError as error:
                raise StorageError(f"{compiled} could not be written: {error.strerror}.") from error
            self._compiled = str(compiled)
        return self._compiled

    def _bury(self, wait: int = 0) -> None:
        """Reap keepers that have ended; `wait` for this one."""
        with self._lock:
            for pid in tuple(self._keepers):
                with contextlib.suppress(ChildProcessError):
                    if os.waitpid(pid, 0 if pid == wait else os.WNOHANG)[0] == 0:
                        continue
                self._keepers.discard(pid)


def around() -> tuple[str, ...]:
    """Words before a keeper's own: as an ordinary user it is root of a user namespace, by bubblewrap.

    Not by ourselves: where AppArmor lets only some programs make user namespaces, bubblewrap is the one that
    the owner has allowed.

    Raises:
        ConfigError: There is no bubblewrap, and it takes one.
    """
    if _privileged():
        return ()
    program = shutil.which("bwrap")
    if program is None:
        raise ConfigError("bubblewrap is not installed.", mend="Install it: `sudo apt install bubblewrap`.")
    user = ("--unshare-user", "--uid", "0", "--gid", "0", "--cap-add", "ALL")
    return (program, *user, "--dev-bind", "/", "/", "--")


def _privileged() -> bool:
    """Whether we may make network namespaces without a user namespace of our own."""
    needed = 1 << _CAP_NET_ADMIN | 1 << _CAP_SYS_ADMIN
    status = Path("/proc/self/status").read_text()
    held = next((int(line.split()[1], 16) for line in status.splitlines() if line.startswith("CapEff")), 0)
    return held & needed == needed


def _keeper(compiled: str, program: str) -> tuple[str, ...]:
    user = "" if _privileged() else f"{os.getuid()}:{os.getgid()}"
    return (sys.executable, "-I", "-S", "-X", "utf8", compiled, program, user, *PRIVATE)


def _start(words: tuple[str, ...], control: int, complaints: int) -> int:
    return os.posix_spawn(
        words[0],
        words,
        {name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH") if name in os.environ},
        file_actions=(
            (os.POSIX_SPAWN_DUP2, complaints, 2),
            (os.POSIX_SPAWN_DUP2, control, keeper_module.CONTROL),
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDWR, 0),
            (os.POSIX_SPAWN_DUP2, 0, 1),
        ),
        setsid=True,
        setsigmask=(),
        setsigdef={signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP},
    )


def _received(pid: int, ours: socket.socket, complaints: int) -> Uplink:
    """Wait for what a keeper says."""
    ours.settimeout(_PATIENCE)
    try:
        said, rights, *_ = socket.recv_fds(ours, 4096, 2)
    except OSError:
        said, rights = b"!0 it did not answer", []
    if said != b"1" or not rights:
        if not said:  # it was never started
            raise _refused(errno.EPERM, os.pread(complaints, 4096, 0).decode("utf-8", "replace"))
        number, _, text = said.decode("utf-8", "replace").removeprefix("!").partition(" ")
        raise _refused(int(number) if number.isdigit() else 0, text)
    for one in rights:
        os.set_inheritable(one, False)
    ours.setblocking(True)
    return Uplink(pid, os.dup(ours.fileno()), rights[0], rights[1] if len(rights) > 1 else None)


def _refused(number: int, text: str) -> ConfigError:
    """What a keeper could not do, and the command that mends it."""
    if str(_TUN) in text:
        if number == errno.EACCES:
            return ConfigError(f"{_TUN} may not be opened.", mend=f"Allow it: `sudo chmod 0666 {_TUN}`.")
        return ConfigError(f"There is no {_TUN}.", mend="Load its module: `sudo modprobe tun`.")
    if number in {errno.EOPNOTSUPP, errno.ENOTSUP}:
        mend = "Load the modules that it takes: `sudo modprobe -a veth tun`."
        return ConfigError(f"The kernel cannot make what an uplink takes: {text}.", mend=mend)
    if number in {errno.EPERM, errno.EACCES, errno.ENOSPC}:
        why, mend = namespaces.explain(text)
        return ConfigError(f"An uplink could not be made: {why}.", mend=mend)
    return ConfigError(f"An uplink could not be made: {text}.")
