"""`confined`: Landlock, a filter of system calls, no privileges; needs no package, only Linux 6.12 or later.

A job sees the machine as it is, but may open only what its cage names, signal and trace nobody outside, and
reach no abstract socket. What Landlock does not know, it does not stop: connecting to a UNIX socket by its
path, changing the modes of files that the executor's user owns, looking at names and sizes of files. So this
level is not offered where a session bus, Docker's socket or an agent is within reach, and before every job it
is looked for them again. It has no network of its own either: where jobs must not reach the owner's network,
it is not offered.
"""

from pathlib import Path
from typing import Final

from pushtrain.adapters.sandboxes import Ground, demand_network
from pushtrain.adapters.sandboxes.system import PROGRAMS, RESOLVERS
from pushtrain.core.errors import ConfigError
from pushtrain.core.owner.canaries import KNOWN
from pushtrain.core.values.isolation import Isolation, JobNetwork
from pushtrain.plumbing.disk import shortcut
from pushtrain.plumbing.isolation import etc, jobuser, landlock, nearby, seccomp
from pushtrain.plumbing.machine import gpudevices
from pushtrain.ports import Cage, Confinement, Enclosure, Landlock

_ETC: Final = (*etc.COPIED, "group", "hostname", "hosts", "nsswitch.conf", "passwd", etc.RESOLV)
_DEVICES: Final = ("full", "null", "ptmx", "pts", "random", "tty", "urandom", "zero")
_KERNEL: Final = "Linux 6.12 or later keeps signals and abstract sockets apart; `sandbox` needs none of that."


class Confined:
    """Landlock and seccomp.

    Args:
        ground: What may be known of the machine.
    """

    level = Isolation.CONFINED

    def __init__(self, ground: Ground) -> None:
        self._ground = ground

    def missing(self) -> tuple[str, str]:
        """Whether the kernel knows enough."""
        if landlock.abi() < landlock.SCOPED:
            known = f"its Landlock has ABI {landlock.abi()}" if landlock.abi() else "it has no Landlock"
            return f"the kernel is too old for it: {known}", _KERNEL
        return seccomp.missing()

    def explain(self, complaint: str) -> tuple[str, str]:
        """Nothing is known to keep it from working."""
        return f"nothing can be started in it: {complaint.strip()}", ""

    def enclose(self, cage: Cage) -> Enclosure:
        """What the command may open.

        Raises:
            ConfigError: A socket has come within reach by which a job could leave it; or the cage restricts
                the network.
            OSError: A folder that another level gave away cannot be taken back.
        """
        demand_network(self.level, cage, JobNetwork.FULL)
        self._look_around()
        jobuser.take_back(cage)
        tmp = shortcut.to(cage.tmp) if cage.tmp else None
        version = landlock.abi()
        wanted = [
            *((Path(path), landlock.READ) for path in (*PROGRAMS, *RESOLVERS, "/proc")),
            *((Path("/etc", name), landlock.READ) for name in _ETC),
            *((path, landlock.READ) for path in cage.readable),
            *((Path("/dev", name), landlock.DEVICE | landlock.READ) for name in _DEVICES),
            (Path("/dev/shm"), landlock.WRITE & ~landlock.EXECUTE),  # noqa: S108  shared memory is there
            *((path, landlock.WRITE) for path in cage.writable),
            *((node, landlock.DEVICE) for node in gpudevices.devices(cage.gpus)),
            *((Path(name), landlock.READ) for name in (gpudevices.SYSTEM if cage.gpus else ())),
        ]
        confinement = Confinement(
            drop=True,
            landlock=Landlock(
                files=landlock.handled(version),
                rules=landlock.rules(wanted, version),
                scoped=landlock.ABSTRACT_SOCKETS | landlock.SIGNALS,
            ),
            filter=str(self._ground.filter(alone=False)),
        )
        return Enclosure(env={"TMPDIR": str(tmp)} if tmp else {}, confinement=confinement)

    def _look_around(self) -> None:
        machine = nearby.Machine(self._ground.folder, self._ground.folder)
        for act in nearby.SOCKETS:
            if act not in KNOWN[self.level] and (found := nearby.sockets_within_reach(act, machine)):
                where = found[0].replace("\0", "@")
                raise ConfigError(
                    f"A job at level `{self.level}` could {act.value}: {where} has come up.",
                    mend="Start the executor anew: it then chooses a level that stops this.",
                )
