"""What else this machine does: the processors that its owner's work keeps busy, its battery, its Slurm.

All of it is read from `/proc` and `/sys`; no program is asked. A Slurm job is seen by the `slurmstepd` that
each step of one has on its node, so that the cluster's controller is not bothered.
"""

import contextlib
import os
import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Final

_PROC: Final = Path("/proc")
_TICKS: Final = os.sysconf("SC_CLK_TCK")
_IDLE: Final = (3, 4, 7)
"""Columns of `/proc/stat` in which nobody works here: idle, waiting for a disk, another machine's turn."""
_COUNTED: Final = 8
"""Columns that count; the two after them are part of the first two."""


def on_battery(supplies: Path = Path("/sys/class/power_supply")) -> bool | None:
    """Whether the machine lives on a battery of its own; None: it has none, or does not tell."""
    told = None
    try:
        folders = sorted(supplies.iterdir())
    except OSError:
        return None
    for folder in folders:
        kind = _word(folder / "type")
        if kind in {"Mains", "USB"} and _word(folder / "online") == "1":
            return False
        if kind == "Battery" and _word(folder / "scope") != "Device":  # a mouse has one, too
            told = bool(told) or _word(folder / "status") == "Discharging"
    return told


def _word(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""


def slurm_works(proc: Path = _PROC) -> bool | None:
    """Whether a Slurm job runs on this node; None: it is no node of any."""
    node, works = False, False
    try:
        entries = [entry.path for entry in os.scandir(proc) if entry.name.isdigit()]
    except OSError:
        return None
    for path in entries:
        name = _word(Path(path, "comm"))
        node = node or name == "slurmd"
        if name == "slurmstepd":
            with contextlib.suppress(OSError):  # one of them holds the control group and belongs to no job
                works = works or b"infinity" not in Path(path, "cmdline").read_bytes()
    return works if node or works else None


class Load:
    """How many processors are busy with what is not ours.

    Args:
        ours: Pids of our shims.
        proc: Where the kernel tells.
        clock: Seconds.
    """

    def __init__(
        self,
        ours: Callable[[], Collection[int]],
        *,
        proc: Path = _PROC,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._ours = ours
        self._proc = proc
        self._clock = clock
        self._before: tuple[float, float, float] | None = None

    def look(self) -> float | None:
        """Since the last look; None at the first."""
        try:
            words = (self._proc / "stat").read_text().split("\n", 1)[0].split()[1 : 1 + _COUNTED]
        except OSError:
            return None
        busy = sum(int(word) for place, word in enumerate(words) if place not in _IDLE) / _TICKS
        now, own = self._clock(), _spent(self._proc, {*self._ours(), os.getpid()})
        before, self._before = self._before, (now, busy, own)
        if before is None or now <= before[0]:
            return None
        ours = max(0.0, own - before[2])  # what has ended takes its time along
        return max(0.0, busy - before[1] - ours) / (now - before[0])


def _spent(proc: Path, roots: Collection[int]) -> float:
    """Seconds that these processes and all below them have used, their buried children's among it."""
    below: dict[int, list[int]] = {}
    used: dict[int, int] = {}
    for entry in os.scandir(proc):
        if not entry.name.isdigit():
            continue
        try:
            text = Path(entry.path, "stat").read_bytes()
        except OSError:
            continue
        words = text[text.rindex(b")") + 2 :].split()
        pid = int(entry.name)
        below.setdefault(int(words[1]), []).append(pid)
        used[pid] = sum(map(int, words[11:15]))
    found, waiting = set(), [pid for pid in roots if pid in used]
    while waiting:
        pid = waiting.pop()
        if pid not in found:
            found.add(pid)
            waiting += below.get(pid, ())
    return sum(used[pid] for pid in found) / _TICKS
