"""The processes of this machine: what `/proc` says of them, and signals that reach the one that was meant.

Pids are used again, so a process is known by its pid and its start time, and is signalled through a pidfd
after both were looked at.
"""

import contextlib
import os
import select
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

ATTEMPT_MARK: Final = "PUSHTRAIN_ATTEMPT_ID"
"""The variable that every process of an attempt carries; a sweep finds them by it."""


@dataclass(frozen=True, slots=True)
class Stat:
    """A part of `/proc/PID/stat`."""

    pid: int
    state: str
    parent: int
    session: int
    start: int
    """Clock ticks since boot."""
    terminal: int = 0
    """The number of its controlling terminal; 0: it has none."""


def glance(path: str) -> bytes:
    """What one of the kernel's small files says, as cheaply as can be: the owner's are looked at each second.

    Args:
        path: A file below `/proc` or `/sys`; 4 KiB of it at most.

    Raises:
        OSError: It cannot be read.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(descriptor, 4096)
    finally:
        os.close(descriptor)


def stat(pid: int) -> Stat | None:
    """What the kernel says of a process; None: there is none."""
    try:
        text = glance(f"/proc/{pid}/stat")
    except OSError:
        return None
    fields = text[text.rindex(b")") + 2 :].split()
    return Stat(pid, fields[0].decode(), int(fields[1]), int(fields[3]), int(fields[19]), int(fields[4]))


def start_time(pid: int) -> int | None:
    """When a process started, in clock ticks since boot; None: there is none."""
    found = stat(pid)
    return None if found is None else found.start


@cache
def boot_id() -> str:
    """A name for the time since the machine was started."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def alive(pid: int, start: int) -> bool:
    """Whether this very process still runs; one that waits to be reaped does not."""
    found = stat(pid)
    return found is not None and found.start == start and found.state not in "ZX"


def everybody() -> Iterator[Stat]:
    """All processes of this machine."""
    for entry in os.scandir("/proc"):
        if entry.name.isdigit() and (found := stat(int(entry.name))):
            yield found


def open_files() -> set[str]:
    """The paths of all files that processes of this user have open."""
    found = set()
    for one in everybody():
        with contextlib.suppress(OSError):
            for entry in os.scandir(f"/proc/{one.pid}/fd"):
                with contextlib.suppress(OSError):
                    found.add(os.readlink(entry.path))  # noqa: PTH115  may name no path at all: `pipe:[7]`
    return found


def descendants(pid: int) -> list[int]:
    """The living processes below this one, parents first."""
    below: dict[int, list[int]] = {}
    for one in everybody():
        if one.state not in "ZX":
            below.setdefault(one.parent, []).append(one.pid)
    found = list(below.get(pid, ()))
    for child in found:
        found += below.get(child, ())
    return found


def marked(value: str, *, name: str = ATTEMPT_MARK) -> list[int]:
    """Living processes of this user whose environment holds `name=value`."""
    wanted = f"{name}={value}".encode()
    found = []
    for entry in os.scandir("/proc"):
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                if wanted in Path(entry.path, "environ").read_bytes().split(b"\0"):
                    found.append(int(entry.name))
    return [pid for pid in found if pid != os.getpid()]


# --- signals ----------------------------------------------------------------------------------------------


def ended_within(pid: int, seconds: float) -> bool:
    """Whether a child of ours ends in this time; it stays unreaped."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([descriptor], [], [], seconds)[0])
    finally:
        os.close(descriptor)


def open_process(pid: int, start: int) -> int | None:
    """A pidfd for this very process, readable when it ends; None: it has ended. The caller closes it."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return None
    if alive(pid, start):
        return descriptor
    os.close(descriptor)
    return None


def send(pid: int, start: int, number: int) -> bool:
    """Signal this very process; False: it has ended."""
    descriptor = open_process(pid, start)
    if descriptor is None:
        return False
    try:
        signal.pidfd_send_signal(descriptor, number)
    except ProcessLookupError:
        return False
    finally:
        os.close(descriptor)
    return True


def kill_tree(pid: int) -> None:
    """Kill a process, all below it and all of its session, until none is left."""
    while True:
        below = {*descendants(pid), pid}
        victims = [one for one in everybody() if one.pid in below or one.session == pid]
        if not sum(send(one.pid, one.start, signal.SIGKILL) for one in victims):
            return


def sweep(value: str, *, seconds: float = 5.0) -> int:
    """Kill every process that carries an attempt's mark; how many were found.

    The last resort after a shim was killed: it finds what has left the session and has been adopted by init.
    """
    killed = set()
    deadline = time.monotonic() + seconds
    while (found := marked(value)) and time.monotonic() < deadline:
        for pid in found:
            start = start_time(pid)
            if start is not None and send(pid, start, signal.SIGKILL):
                killed.add((pid, start))
    return len(killed)
