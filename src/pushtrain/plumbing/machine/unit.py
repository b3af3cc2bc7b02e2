"""The systemd unit that keeps an executor running. Pure text.

Three of its lines are what pushtrain lives by: `KillMode=process` (stopping or updating the executor leaves
the trainings alone), `OOMPolicy=continue` (a job that runs out of memory does not take the executor with it)
and no `PrivateTmp` (it is emptied when the unit stops, while trainings go on). Left out on purpose, because
training or its sandbox needs it: `MemoryDenyWriteExecute` (compilers at run time), `PrivateDevices`,
`ProtectClock` and `DevicePolicy` (GPUs), `RestrictNamespaces`, `ProtectHostname`, `ProtectKernelTunables` and
`ProtectKernelLogs` (a sandbox makes namespaces, and a `/proc` of its own, which the kernel refuses where
parts of `/proc` are covered).
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_HOMES: Final = ("/home", "/root", "/run/user")

_COMMON: Final = """\
Restart=on-failure
RestartSec=10
# A wrong command line or a wrong setting does not mend itself.
RestartPreventExitStatus=2 3
# Stopping, restarting or updating the executor leaves the trainings alone; it takes them up again.
KillMode=process
TimeoutStopSec=30
# A job that runs out of memory ends alone.
OOMPolicy=continue
TasksMax=infinity
# The executor may limit jobs by control groups beside its own. systemd before 254 does not know the second of
# these and says so once; the executor then looks at each job every second instead.
Delegate=memory pids
DelegateSubgroup=executor
# The machine's owner comes first; the kernel weighs services against each other before their processes.
Nice=5
CPUWeight=20
IOWeight=20
UMask=0077
NoNewPrivileges=yes
LockPersonality=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK
SystemCallArchitectures=native
"""

_SYSTEM: Final = """\
CapabilityBoundingSet=
AmbientCapabilities=
SystemCallFilter=~@clock @cpu-emulation @module @obsolete @raw-io @reboot @swap
SystemCallErrorNumber=EPERM
ProtectSystem=strict
ProtectKernelModules=yes
# Trainings go on while the unit is stopped: their files and their shared memory must stay.
PrivateTmp=no
RemoveIPC=no
"""


@dataclass(frozen=True, slots=True)
class Unit:
    """What one unit is about."""

    command: tuple[str, ...]
    """What it runs; the first word is an absolute path."""
    state: Path
    """The state folder: its working directory, and for a system unit all that it may write beside `/tmp`."""
    environment_file: Path
    """Where tokens are; it need not exist."""
    account: str = ""
    """For a system unit: whom it runs as. Empty: a unit of the user's own manager."""
    path: str = ""
    """`PATH`; empty: systemd's own."""
    lent: tuple[Path, ...] = ()
    """Folders that the owner lends; those in a home are shown to a system unit, read-only."""

    @property
    def system(self) -> bool:
        """Whether it belongs to the machine rather than to a user."""
        return bool(self.account)


def text(unit: Unit) -> str:
    """The unit file."""
    lines = [
        "# Written by `pushtrain executor service install`. Changes of yours belong in `systemctl edit`.",
        "[Unit]",
        "Description=pushtrain executor: trains what is pushed",
        "Documentation=https://github.com/pushtrain/pushtrain/blob/main/docs/service.md",
    ]
    if unit.system:
        lines += ["Wants=network-online.target", "After=network-online.target time-sync.target"]
    lines += [
        "StartLimitIntervalSec=0",
        "",
        "[Service]",
        "Type=exec",
        f"ExecStart={' '.join(quoted(word, variables=True) for word in unit.command)}",
        f"WorkingDirectory={_plain(unit.state)}",
        f"EnvironmentFile=-{_plain(unit.environment_file)}",
    ]
    if unit.path:
        lines.append(f"Environment={quoted(f'PATH={unit.path}')}")
    lines += _COMMON.splitlines()
    if unit.system:
        lines += [f"User={unit.account}", *_SYSTEM.splitlines()]
        lines.append(f"ReadWritePaths={quoted(str(unit.state))} /tmp /var/tmp")
        lines += _homes(unit)
    lines += ["", "[Install]", f"WantedBy={'multi-user' if unit.system else 'default'}.target", ""]
    return "\n".join(lines)


def below_home(path: Path) -> bool:
    """Whether a path lies where `ProtectHome` covers it."""
    return any(path.is_relative_to(home) for home in _HOMES)


def quoted(word: str, *, variables: bool = False) -> str:
    """A word as systemd reads it back: no specifier, no quote, and no variable where those count."""
    for plain, meant in (("\\", "\\\\"), ('"', '\\"'), ("%", "%%"), ("\n", "\\n"), ("\t", "\\t")):
        word = word.replace(plain, meant)
    if variables:
        word = word.replace("$", "$$")
    return word if word and not set(word) & set(" '\"\\;") else f'"{word}"'


def absolute(path: str) -> str:
    """A `PATH` without what depends on the folder that one stands in."""
    return os.pathsep.join(dict.fromkeys(part for part in path.split(os.pathsep) if part.startswith("/")))


def _plain(path: Path) -> str:
    """A path where systemd takes the whole line."""
    return str(path).replace("%", "%%")


def _homes(unit: Unit) -> Sequence[str]:
    shown = [path for path in unit.lent if below_home(path)]
    if not shown and not below_home(unit.state):
        return ["ProtectHome=yes"]
    lines = ["ProtectHome=tmpfs"]
    if below_home(unit.state):
        lines.append(f"BindPaths={quoted(str(unit.state))}")
    return [*lines, *(f"BindReadOnlyPaths={quoted(str(path))}" for path in shown)]
