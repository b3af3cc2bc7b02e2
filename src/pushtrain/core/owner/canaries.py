"""What a job must not be able to do, and whether a level of isolation lets it.

Each act is really tried inside each level (`plumbing/isolation/canary.py`); what came of it is `Findings`,
and a level that lets through what it claims to stop is not offered. Pure.
"""

from enum import StrEnum
from typing import Final

from pushtrain.core.values.isolation import Isolation, JobNetwork
from pushtrain.core.values.value import Value


class Act(StrEnum):
    """One thing that a job must not be able to do; the value is what a person reads in the table."""

    HOME = "read the owner's home"
    SSH_KEYS = "read SSH and GPG keys, tokens"
    STATE = "read the executor's key and store"
    OTHER_RUN = "read another run's files"
    ENVIRON = "read the executor's variables"
    COMMAND_LINES = "see other programs"
    SIGNAL = "signal the executor"
    TRACE = "trace the executor"
    WRITE = "write outside its folders"
    MODES = "change modes outside its folders"
    SESSION_BUS = "reach the session bus"
    SYSTEM_BUS = "reach the system bus"
    CONTAINERS = "reach Docker or Podman"
    SSH_AGENT = "reach the SSH agent"
    GPG_AGENT = "reach the GPG agent"
    X11 = "reach X11"
    WAYLAND = "reach Wayland or PipeWire"
    ABSTRACT = "reach abstract sockets"
    WSL = "run Windows programs (WSL)"
    LOOPBACK = "reach this machine's loopback"
    SHARED_MEMORY = "read others' shared memory"
    PRIVILEGES = "gain capabilities or setuid"
    SET_UID = "leave programs that run as root"
    ROOTS_FILES = "read what the kernel tells root"
    SETTINGS = "change the kernel's settings"
    NAMESPACES = "make namespaces or mounts"
    KERNEL = "use keyrings, BPF, io_uring"
    SOCKETS = "open vsock, packet or raw sockets"
    TERMINAL = "type into the owner's terminal"
    DEVICES = "open devices it was not given"


class Result(StrEnum):
    """What came of an act."""

    DENIED = "denied"
    DONE = "done"
    ABSENT = "absent"
    """There is no such thing on this machine at the moment."""


KNOWN: Final[dict[Isolation, frozenset[Act]]] = {
    Isolation.CONTAINER: frozenset(),
    Isolation.SANDBOX: frozenset(),
    Isolation.CONFINED: frozenset(
        {
            Act.COMMAND_LINES,
            Act.MODES,
            Act.SYSTEM_BUS,
            Act.SHARED_MEMORY,
            Act.SET_UID,  # these two where root runs the executor
            Act.ROOTS_FILES,
        }
    ),
    Isolation.USER: frozenset(
        {Act.HOME, Act.COMMAND_LINES, Act.WRITE, Act.SYSTEM_BUS, Act.ABSTRACT, Act.LOOPBACK, Act.DEVICES}
    ),
    Isolation.NONE: frozenset(Act),
}
"""What each level is known not to stop, and says so (docs/isolation.md)."""


class Findings(Value):
    """What came of every act inside one level."""

    level: Isolation
    results: dict[Act, Result]

    def through(self, network: JobNetwork) -> tuple[Act, ...]:
        """The acts that were done although the level claims to stop them.

        Args:
            network: What it was tried with. Where the machine's own network is shared, its loopback and its
                abstract sockets are a part of it; those of displays and buses are acts of their own.
        """
        meant = {Act.LOOPBACK, Act.ABSTRACT} if network is JobNetwork.FULL else set()
        accepted = KNOWN[self.level] | meant
        return tuple(
            act for act, result in self.results.items() if result is Result.DONE and act not in accepted
        )
