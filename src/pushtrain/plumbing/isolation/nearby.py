"""What there is on this machine that a job must keep away from: files and keys, buses, agents, devices.

Only looked for, never used: a file is opened and one byte of it read, a socket is connected to and nothing
said.
"""

import contextlib
import glob
import os
import re
import socket
import stat
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from pushtrain.core.owner.canaries import Act
from pushtrain.plumbing.isolation import canary

_MOST_FILES: Final = 10
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
SOCKETS: Final = {
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
"""Opening one of these changes nothing; not so a watchdog, a tape or a modem, which are not tried."""
_TAKING: Final = {"kmsg"}
"""Who opens it takes from it what others would read."""
_SETTINGS: Final = (
    "/proc/sys/kernel/core_pattern",
    "/proc/sys/kernel/modprobe",
    "/proc/sys/kernel/poweroff_cmd",
    "/proc/sys/vm/drop_caches",
    "/proc/sysrq-trigger",
    "/sys/kernel/uevent_helper",
)
_ABSTRACT: Final = {
    Act.SESSION_BUS: re.compile(r"@(/tmp/dbus-.+)"),
    Act.X11: re.compile(r"@(/tmp/\.(?:X11|ICE)-unix/.+)"),
}
"""Names without a file; they belong to a network, not to a file system."""


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
        path for pattern in SOCKETS[act] for path in _matching(pattern.format(runtime=runtime), machine.home)
    ]
    named = re.search(r"(/[^,;]+)", machine.environ.get(_NAMED.get(act, ""), ""))
    paths = dict.fromkeys([*found, *([Path(named[1])] if named else [])])
    there = [str(path) for path in paths if _is_socket(path)]
    return tuple(name for name in (*there, *_abstract(act)) if canary.connects(name))


def sockets(machine: Machine) -> dict[str, tuple[str, ...]]:
    """The sockets of every kind, by the name of the act of reaching them."""
    return {act.name: sockets_within_reach(act, machine) for act in SOCKETS}


def keys(machine: Machine) -> list[str]:
    """Keys and tokens that we can read."""
    return readable(_all_matching(_KEYS, machine.home))


def devices() -> list[str]:
    """Devices that we can read."""
    return [str(path) for path in _all_matching(_DEVICES, Path("/")) if os.access(path, os.R_OK)]


def files_for_root() -> list[str]:
    """Files of the kernel's that tell root what nobody else may know, and that we can open."""
    found = []
    for path in sorted(Path("/proc").iterdir()):
        with contextlib.suppress(OSError):
            held = path.lstat()
            if stat.S_ISREG(held.st_mode) and not held.st_mode & stat.S_IROTH and path.name not in _TAKING:
                found.append(str(path))
    return [path for path in found if canary.opens(path)]


def settings() -> list[str]:
    """Settings of the kernel that could have it run a program or stop the machine."""
    return [path for path in _SETTINGS if os.path.exists(path)]  # noqa: PTH110  strings are wanted


def interop() -> list[str]:
    """The sockets by which WSL starts Windows programs."""
    return [str(path) for path in _matching("/run/WSL/*_interop", Path("/"))]


def _matching(pattern: str, home: Path) -> list[Path]:
    full = str(home / pattern.removeprefix("~/")) if pattern.startswith("~/") else pattern
    return [Path(path) for path in sorted(glob.glob(full))]  # noqa: PTH207  ten times as quick, before each job


def _all_matching(patterns: Iterable[str], home: Path) -> list[Path]:
    return [path for pattern in patterns for path in _matching(pattern, home)]


def readable(paths: Iterable[Path]) -> list[str]:
    """Those of these files that we could read, and that hold something. None is opened.

    The executor's own store is among them: closing any descriptor of a file lets go of all the locks that
    this process has on it, SQLite's too (https://sqlite.org/howtocorrupt.html, 2.2).
    """
    return [str(path) for path in paths if _full(path) and os.access(path, os.R_OK, effective_ids=True)]


def _full(path: Path) -> bool:
    with contextlib.suppress(OSError):
        found = path.stat()
        return stat.S_ISREG(found.st_mode) and found.st_size > 0
    return False


def files_of(home: Path, state: Path) -> Iterator[Path]:
    """Some files of the owner's, none of ours."""
    found = 0
    with contextlib.suppress(OSError):
        for folder in (home, *(one for one in sorted(home.iterdir()) if one.is_dir())):
            if state.is_relative_to(folder) and folder != home:
                continue
            with contextlib.suppress(OSError):
                for path in sorted(folder.iterdir()):
                    if readable([path]):
                        yield path
                        found += 1
                        if found == _MOST_FILES:
                            return


def _is_socket(path: Path) -> bool:
    try:
        return stat.S_ISSOCK(path.stat().st_mode)
    except OSError:
        return False


def _abstract(act: Act) -> list[str]:
    """Abstract sockets of one kind."""
    if act not in _ABSTRACT:
        return []
    try:
        lines = Path("/proc/net/unix").read_text(errors="replace").splitlines()
    except OSError:
        return []
    found = [_ABSTRACT[act].fullmatch(line.rpartition(" ")[2]) for line in lines]
    return list(dict.fromkeys(f"\0{one[1]}" for one in found if one))


def own_addresses() -> list[str]:
    """Loopback, and the address that this machine would call others from; nothing is sent."""
    found = ["127.0.0.1"]
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("192.0.2.1", 9))
        found.append(probe.getsockname()[0])
    return list(dict.fromkeys(found))
