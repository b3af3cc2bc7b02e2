"""`sandbox`: bubblewrap. A job sees the system's programs read-only, its own folders, and no other process.

It has namespaces of its own for users, processes, mounts, IPC and host names, no capability, and cannot gain
any. Jobs of root's executor have a uid of their repository's own outside as well
(`plumbing/isolation/jobuser.py`), and bubblewrap runs as that uid, too. Nothing of `/run`, `/home`, `/root`
or `/var` is there unless it is named in the cage; `/etc` is a copy of what programs need. bubblewrap dies
with the shim and holds the attempt's lock while anything inside lives; the command itself never has that
descriptor.
"""

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from pushtrain.adapters.sandboxes import Ground
from pushtrain.adapters.sandboxes.system import PROGRAMS
from pushtrain.core.values.isolation import Isolation, JobNetwork
from pushtrain.plumbing.isolation import etc, jobuser, landlock, namespaces, seccomp
from pushtrain.plumbing.machine import gpudevices
from pushtrain.ports import Cage, Confinement, Enclosure, Landlock

_LOCK: Final = 20
_STATUS: Final = 21
_FILTER: Final = 22
_VARIABLES: Final = 23

LAUNCH: Final = """\
case $1 in
*/*) if [ ! -e "$1" ]; then echo "pushtrain: command not found: $1" >&2; exit 127; fi
     if [ -d "$1" ] || [ ! -x "$1" ]; then
       echo "pushtrain: $1 cannot be executed: Permission denied" >&2; exit 126; fi ;;
*) command -v -- "$1" >/dev/null || { echo "pushtrain: command not found: $1" >&2; exit 127; } ;;
esac
exec "$@"
"""
"""Says what the shim would say, where only the inside can tell, and becomes the command."""


class Bubblewrap:
    """Namespaces by `bwrap`.

    Args:
        ground: What may be known of the machine.
    """

    level = Isolation.SANDBOX

    def __init__(self, ground: Ground) -> None:
        self._ground = ground

    def missing(self) -> tuple[str, str]:
        """Whether there is a bubblewrap."""
        if shutil.which("bwrap") is None:
            return "bubblewrap is not installed", "`sudo apt install bubblewrap`"
        if jobuser.wanted() and jobuser.lacking()[0]:
            return jobuser.lacking()
        return seccomp.missing()

    def explain(self, complaint: str) -> tuple[str, str]:
        """Most machines that refuse have a switch for it."""
        return namespaces.explain(complaint)

    def enclose(self, cage: Cage) -> Enclosure:
        """The command line of bubblewrap, and what it needs open.

        Raises:
            OSError: The files that it shows cannot be made, or a folder not be given to the job's uid.
        """
        uid = jobuser.settle(cage) if jobuser.wanted() else None
        nodes = gpudevices.devices(cage.gpus)
        places = _Places(apart=uid is not None)
        prefix = (
            os.path.realpath(shutil.which("bwrap") or "bwrap"),  # a link could lie where only root passes
            *("--unshare-user", "--unshare-pid", "--unshare-ipc", "--unshare-uts", "--unshare-cgroup-try"),
            *(("--unshare-net",) if cage.network is JobNetwork.NONE else ()),
            *("--die-with-parent", "--new-session", "--cap-drop", "ALL"),
            *("--uid", str(etc.USER), "--gid", str(etc.USER), "--hostname", etc.HOST),
            *("--sync-fd", str(_LOCK), "--json-status-fd", str(_STATUS), "--seccomp", str(_FILTER)),
            *("--args", str(_VARIABLES)),
            *self._system(places),
            *_tmp(cage, places),
            *_gpus(nodes, places),
            *_names(cage.network),
            *_shown(cage, places),
            *("--remount-ro", "/"),  # memory that nobody counts; what lies on it is mounted for itself
            "--",
            *("/bin/sh", "-c", LAUNCH, "pushtrain"),
        )
        env = {"TMPDIR": "/tmp"} if cage.tmp else {}  # noqa: S108  its own, and sockets' names must be short
        shared = cage.network is JobNetwork.FULL and landlock.abi() >= landlock.SCOPED
        confinement = Confinement(
            opened={_FILTER: str(self._ground.filter(alone=True))},
            lock=_LOCK,
            status=_STATUS,
            variables=(_VARIABLES, "args"),
            uplink=cage.network in {JobNetwork.INTERNET, JobNetwork.FETCH_ONLY},
            # Abstract sockets belong to the network, and so they do not go away where it is shared.
            landlock=Landlock(scoped=landlock.ABSTRACT_SOCKETS) if shared else None,
            user=(uid, uid) if uid is not None else None,
            groups=gpudevices.groups(nodes) if uid is not None else (),
            trees=tuple(places.trees) if uid is not None else None,
        )
        return Enclosure(prefix=prefix, env=env, confinement=confinement)

    def _system(self, places: "_Places") -> Iterator[str]:
        """What every job sees."""
        for name in PROGRAMS:
            path = Path(name)
            if path.is_symlink() and path.parent == Path("/"):
                yield from ("--symlink", str(path.readlink()), name)
            elif path.exists():
                yield from ("--ro-bind", name, name)
        skeleton = etc.skeleton(self._ground.folder / "etc")
        yield from ("--ro-bind", places.of(skeleton), "/etc")
        yield from ("--proc", "/proc", "--dev", "/dev", "--dir", "/run", "--dir", "/var")
        yield from ("--symlink", "../tmp", "/var/tmp", "--symlink", "../run", "/var/run")  # noqa: S108


@dataclass
class _Places:
    """Where bubblewrap finds what it shows: as root's job it cannot pass through root's folders."""

    apart: bool
    trees: list[tuple[str, bool]] = field(default_factory=list)

    def of(self, path: Path, *, writable: bool = False) -> str:
        """The name under which it finds this."""
        if not self.apart:
            return str(path)
        self.trees.append((str(path), writable))
        return f"/tmp/{len(self.trees) - 1}"  # noqa: S108  see `Confinement.trees`


def _tmp(cage: Cage, places: _Places) -> Iterator[str]:
    where = "/tmp"  # noqa: S108  the job's own
    yield from (
        ("--tmpfs", where) if cage.tmp is None else ("--bind", places.of(cage.tmp, writable=True), where)
    )


def _gpus(nodes: tuple[Path, ...], places: _Places) -> Iterator[str]:
    """The devices of its GPUs alone, and how they are connected."""
    for node in nodes:
        yield from ("--dev-bind", places.of(node, writable=True), str(node))
    if nodes:
        for name in gpudevices.SYSTEM:
            yield from ("--ro-bind-try", name, name)
        if Path(gpudevices.HIDDEN).is_dir():
            yield from ("--tmpfs", gpudevices.HIDDEN)


def _names(network: JobNetwork) -> Iterator[str]:
    """How names are looked up on the machine's own network; its file may be a link into `/run`."""
    if network is JobNetwork.FULL:
        yield from ("--ro-bind-try", str(Path("/etc", etc.RESOLV).resolve()), f"/etc/{etc.RESOLV}")


def _shown(cage: Cage, places: _Places) -> Iterator[str]:
    """Outer folders before inner ones, so that none is covered by a later one."""
    how = dict.fromkeys(cage.readable, "--ro-bind-try") | dict.fromkeys(cage.writable, "--bind")
    for path in sorted(how, key=lambda one: len(one.parts)):
        yield from (how[path], places.of(path, writable=how[path] == "--bind"), str(path))
