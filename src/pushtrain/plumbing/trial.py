"""Try a level of isolation before any job runs in it: the canary goes in, and every act is looked into.

Baits are laid out for it: a decoy that stands for the executor, with a secret among its variables; a file of
"another run"; sockets, shared memory, a server on loopback. What this machine has beside them (keys in a
home, a session bus, Docker's socket, agents, displays) is tried as it is, by reading one byte or by a
connection that says nothing. What the canary says of itself is not enough where its answer could be about
something else of the same name inside; there the trial looks at the bait.
"""

import contextlib
import ctypes
import json
import os
import re
import secrets
import shutil
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from pushtrain.core.canaries import Act, Findings, Result
from pushtrain.core.errors import PushtrainError
from pushtrain.core.model import Isolation, JobNetwork
from pushtrain.plumbing import canary, process
from pushtrain.plumbing.inside import command
from pushtrain.plumbing.interpreters import needed
from pushtrain.plumbing.trees import remove_tree
from pushtrain.ports import Cage, Sandbox

_SECONDS: Final = 30.0
_MOST_FILES: Final = 10
_PATH: Final = "/usr/local/bin:/usr/bin:/bin"
_KEYS: Final = (
    "~/.ssh/*",
    "~/.gnupg/*",
    "~/.gnupg/private-keys-v1.d/*",
    "~/.netrc",
    "~/.git-credentials",
    "~/.config/gh/hosts.yml",
    "~/.aws/credentials",
    "~/.docker/config.json",
    "~/.kube/config",
    "~/.cache/huggingface/token",
    "~/.config/ngrok/ngrok.yml",
    "/etc/ssh/ssh_host_*_key",
    "/etc/shadow",
)
_SOCKETS: Final = {
    Act.SESSION_BUS: ("{runtime}/bus", "{runtime}/systemd/private"),
    Act.SYSTEM_BUS: ("/run/dbus/system_bus_socket", "/run/systemd/private"),
    Act.CONTAINERS: (
        "/run/docker.sock",
        "/var/run/docker.sock",
        "{runtime}/docker.sock",
        "~/.docker/run/docker.sock",
        "/run/podman/podman.sock",
        "{runtime}/podman/podman.sock",
        "/run/containerd/containerd.sock",
        "/run/crio/crio.sock",
        "/run/libvirt/libvirt-sock",
        "/var/lib/incus/unix.socket",
        "/var/lib/lxd/unix.socket",
        "/var/snap/lxd/common/lxd/unix.socket",
    ),
    Act.SSH_AGENT: (
        "{runtime}/ssh-agent*",
        "{runtime}/openssh_agent",
        "{runtime}/keyring/*",
        "{runtime}/gcr/ssh",
        "/tmp/ssh-*/agent.*",  # noqa: S108  where OpenSSH puts them
        "~/.ssh/agent/*",
    ),
    Act.GPG_AGENT: ("{runtime}/gnupg/S.*", "{runtime}/gnupg/*/S.*", "~/.gnupg/S.*"),
    Act.X11: ("/tmp/.X11-unix/X*",),  # noqa: S108  where X puts them
    Act.WAYLAND: ("{runtime}/wayland-*", "{runtime}/pipewire-*", "{runtime}/pulse/native"),
}
_NAMED: Final = {
    Act.SESSION_BUS: "DBUS_SESSION_BUS_ADDRESS",
    Act.CONTAINERS: "DOCKER_HOST",
    Act.SSH_AGENT: "SSH_AUTH_SOCK",
}
"""Variables that name a socket, as a path or within an address such as `unix:path=/run/user/1000/bus`."""
_DEVICES: Final = (
    "/dev/dri/*",
    "/dev/dxg",
    "/dev/fuse",
    "/dev/input/event*",
    "/dev/kmsg",
    "/dev/kvm",
    "/dev/mem",
    "/dev/net/tun",
    "/dev/nvidia[0-9]*",
    "/dev/nvme[0-9]*",
    "/dev/sd[a-z]*",
    "/dev/snd/*",
    "/dev/uinput",
    "/dev/userfaultfd",
    "/dev/vd[a-z]*",
    "/dev/video*",
    "/dev/vsock",
)
"""Opening one of these changes nothing; not so a watchdog, a tape or a modem, which are therefore not tried."""
_ABSTRACT: Final = re.compile(r"@((?:/tmp/\.X11-unix/|/tmp/\.ICE-unix/|/tmp/dbus-).+)")


class TrialError(Exception):
    """The canary could not be run inside; what was said then."""


@dataclass(frozen=True, slots=True)
class Machine:
    """What of this machine a job must keep away from."""

    folder: Path
    """Where baits may lie; nobody else uses it."""
    state: Path
    """The state folder."""
    private: tuple[Path, ...] = ()
    """Files of it that only the executor reads."""
    home: Path = field(default_factory=lambda: Path(os.path.expanduser("~")))  # noqa: PTH111  it need not be
    environ: Mapping[str, str] = field(default_factory=lambda: os.environ)


def sockets_within_reach(act: Act, machine: Machine) -> tuple[str, ...]:
    """The sockets of one kind that somebody listens at now, and that we could connect to."""
    runtime = machine.environ.get("XDG_RUNTIME_DIR") or f"/run/user/{os.getuid()}"
    found = [
        path for pattern in _SOCKETS[act] for path in _matching(pattern.format(runtime=runtime), machine.home)
    ]
    named = re.search(r"(/[^,;]+)", machine.environ.get(_NAMED.get(act, ""), ""))
    paths = dict.fromkeys([*found, *([Path(named[1])] if named else [])])
    return tuple(str(path) for path in paths if _is_socket(path) and canary.connects(str(path)))


def try_level(sandbox: Sandbox, machine: Machine, network: JobNetwork) -> Findings:
    """Let the canary try everything inside a level.

    Args:
        sandbox: The level.
        machine: What is to be protected.
        network: What jobs may reach; their network is as it will be.

    Raises:
        TrialError: Nothing could be run inside.
    """
    with _Trial(sandbox.level, machine) as trial:
        python = Path(sys.base_prefix, "bin", f"python{sys.version_info[0]}.{sys.version_info[1]}")
        python = python if python.exists() else Path(sys.executable)
        cage = Cage(
            writable=(trial.own,),
            readable=(trial.program, *needed((python.parent,), never=(machine.home, machine.state))),
            tmp=trial.own / "tmp",
            network=network,
        )
        try:
            enclosure = sandbox.enclose(cage)
            words = (python, "-I", "-S", trial.program, json.dumps(trial.targets))
            env = {"PATH": _PATH, **enclosure.env}
            done = process.run(command(enclosure, words), cwd=trial.own, env=env, timeout=_SECONDS)
        except (OSError, PushtrainError) as error:
            raise TrialError(str(error)) from error
        try:
            told = json.loads(done.out)
        except ValueError:
            raise TrialError(done.complaint or f"the canary ended with {done.code}") from None
        return Findings(level=sandbox.level, results=trial.judge(told))


class _Trial:
    """The baits of one trial."""

    def __init__(self, level: Isolation, machine: Machine) -> None:
        self._machine = machine
        self._level = level
        self._nonce = f"pushtrain-canary-{secrets.token_hex(8)}"
        self._secret = secrets.token_hex(16)
        self._root = machine.folder / self._nonce
        self._stack = ExitStack()
        self.own = self._root / "own"
        self.program = self._root / "canary.py"
        self.targets: dict[str, Any] = {}

    def __enter__(self) -> "_Trial":
        with ExitStack() as stack:
            self._stack = stack
            self._lay_out()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _lay_out(self) -> None:
        machine, stack = self._machine, self._stack
        stack.callback(remove_tree, self._root)
        for folder in (self.own / "tmp", self._root / "other"):
            folder.mkdir(parents=True)
        shutil.copyfile(canary.__file__, self.program)
        other = self._root / "other" / "secret"
        other.write_text(self._nonce)
        self._decoy = subprocess.Popen(
            ("cat",), stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, env={"PATH": _PATH, "SECRET": self._secret}
        )
        stack.callback(self._end_decoy)
        self.targets = {
            "nonce": self._nonce,
            "halves": [self._secret[:16], self._secret[16:]],
            "decoy": self._decoy.pid,
            "start": process.start_time(self._decoy.pid),
            "files": {
                Act.HOME.name: list(map(str, _files_of(machine.home, machine.state))),
                Act.SSH_KEYS.name: _readable(_all_matching(_KEYS, machine.home)),
                Act.STATE.name: _readable((*machine.private, other)),
                Act.OTHER_RUN.name: [str(other)],
            },
            "sockets": {act.name: sockets_within_reach(act, machine) for act in _SOCKETS},
            "write": list(map(str, self._places())),
            "abstract": [self._abstract(), *_bound_abstract()],
            "wsl": [str(path) for path in _matching("/run/WSL/*_interop", machine.home)],
            "loopback": [self._server(host) for host in _own_addresses()],
            "devices": [str(path) for path in _all_matching(_DEVICES, machine.home) if os.access(path, os.R_OK)],
            **self._shared_memory(),
        }

    def judge(self, told: Mapping[str, str]) -> dict[Act, Result]:
        """What came of each act."""
        results = {act: Result(told[act.name]) for act in Act if told.get(act.name) != "sent"}
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._decoy.wait(0 if told[Act.SIGNAL.name] == Result.DENIED else 1)
        signalled = self._decoy.returncode == -signal.SIGUSR1
        left = [place for place in self._places() if (place / self._nonce).exists()]
        for place in left:
            (place / self._nonce).unlink()
        results[Act.SIGNAL] = Result.DONE if signalled else Result.DENIED
        results[Act.WRITE] = Result.DONE if left else Result.DENIED
        return {act: results[act] for act in Act}

    # --- the baits ----------------------------------------------------------------------------------------

    def _end_decoy(self) -> None:
        self._decoy.kill()
        self._decoy.wait()
        if self._decoy.stdin is not None:
            self._decoy.stdin.close()

    def _places(self) -> tuple[Path, ...]:
        """Where no job may write; without any isolation only places of our own are tried."""
        ours = (self._root / "other", self._machine.state)
        if self._level is Isolation.NONE:
            return ours
        return (*ours, self._machine.home, Path("/etc"), Path("/usr/local"), Path("/var/tmp"))  # noqa: S108

    def _abstract(self) -> str:
        own = self._stack.enter_context(socket.socket(socket.AF_UNIX))
        own.bind(f"\0{self._nonce}")
        own.listen()
        return self._nonce

    def _server(self, host: str) -> tuple[str, int]:
        own = self._stack.enter_context(socket.socket())
        own.bind((host, 0))
        own.listen()
        return host, own.getsockname()[1]

    def _shared_memory(self) -> dict[str, Any]:
        libc = ctypes.CDLL(None, use_errno=True)
        libc.shmat.restype = ctypes.c_void_p
        segment = libc.shmget(0, 4096, 0o1600)  # IPC_PRIVATE, IPC_CREAT
        self._stack.callback(libc.shmctl, segment, 0, None)  # IPC_RMID
        at = libc.shmat(segment, None, 0)
        if segment >= 0 and at is not None and at != ctypes.c_void_p(-1).value:
            ctypes.memmove(at, self._nonce.encode(), len(self._nonce))
            libc.shmdt(ctypes.c_void_p(at))
        file = Path("/dev/shm", self._nonce)  # noqa: S108  shared memory is there
        with contextlib.suppress(OSError):
            file.touch(0o600)
            file.write_text(self._nonce)
        self._stack.callback(file.unlink, missing_ok=True)
        return {"segment": segment, "shm": [str(file)]}


# --- what there is on this machine ------------------------------------------------------------------------


def _matching(pattern: str, home: Path) -> list[Path]:
    path = home / pattern.removeprefix("~/") if pattern.startswith("~/") else Path(pattern)
    fixed = next(index for index, part in enumerate(path.parts) if re.search(r"[*?\[]", part) or path == Path(*path.parts[: index + 1]))
    root = Path(*path.parts[:fixed])
    with contextlib.suppress(OSError):
        return sorted(root.glob(str(path.relative_to(root))))
    return []


def _all_matching(patterns: Iterable[str], home: Path) -> list[Path]:
    return [path for pattern in patterns for path in _matching(pattern, home)]


def _readable(paths: Iterable[Path]) -> list[str]:
    return [str(path) for path in paths if path.is_file() and canary.readable(str(path))]


def _files_of(home: Path, state: Path) -> Iterator[Path]:
    """Some files of the owner's, none of ours."""
    found = 0
    with contextlib.suppress(OSError):
        for folder in (home, *(one for one in sorted(home.iterdir()) if one.is_dir())):
            if state.is_relative_to(folder) and folder != home:
                continue
            with contextlib.suppress(OSError):
                for path in sorted(folder.iterdir()):
                    if path.is_file() and canary.readable(str(path)):
                        yield path
                        found += 1
                        if found == _MOST_FILES:
                            return


def _is_socket(path: Path) -> bool:
    try:
        return stat.S_ISSOCK(path.stat().st_mode)
    except OSError:
        return False


def _bound_abstract() -> list[str]:
    """Abstract sockets of displays, sessions and buses."""
    try:
        lines = Path("/proc/net/unix").read_text(errors="replace").splitlines()
    except OSError:
        return []
    names = [found[1] for line in lines if (found := _ABSTRACT.fullmatch(line.split()[-1]))]
    return [name for name in dict.fromkeys(names) if canary.connects(f"\0{name}")]


def _own_addresses() -> list[str]:
    """Loopback, and the address that this machine would call others from; nothing is sent."""
    found = ["127.0.0.1"]
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("192.0.2.1", 9))
        found.append(probe.getsockname()[0])
    return list(dict.fromkeys(found))
