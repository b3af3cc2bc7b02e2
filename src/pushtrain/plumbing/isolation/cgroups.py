"""Where this executor may make control groups, so that the kernel itself keeps jobs within their limits.

Both forms are known: version 1, a hierarchy for each controller, and version 2, one for all. There a group
with limited groups below it may hold no process itself; so they lie beside our own, in a part that was
delegated to us and holds no process. systemd makes it so for our unit (`Delegate=`, and `DelegateSubgroup=`
from 254 on). We move nobody. What may be used is tried, not assumed.
"""

import contextlib
import os
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from pushtrain.plumbing.isolation import guard

_CONTROLLERS: Final = ("memory", "pids")
_PROBE: Final = 64 * 1024**2
_OLD: Final = 3600.0
"""Seconds; a younger one may be about to be used."""


def find(root: Path = Path("/")) -> Mapping[str, Path]:
    """Folders below which groups can be made: by controller, or one under `unified`; empty: nowhere.

    Args:
        root: Where `/proc` is, for tests.
    """
    own = _own_groups(root)
    found: dict[str, Path] = {}
    for mount, top, controllers in _mounts(root):
        for name in controllers:
            if name in own and (base := _below(root, mount, top, own[name])) is not None:
                found[name] = base
    usable = {name: base for name, base in found.items() if name in _CONTROLLERS and _works(name, base)}
    for base in usable.values():
        _sweep(base)
    if "unified" in found and not usable:
        for base in (found["unified"], found["unified"].parent):
            if _delegated(base) and _works("unified", base):
                _sweep(base)
                return {"unified": base}
    return usable


def of_attempt(bases: Mapping[str, Path], mark: str) -> dict[str, str]:
    """The groups of one attempt."""
    return {name: str(base / f"pushtrain-{mark}") for name, base in bases.items()}


def end(groups: Mapping[str, str]) -> int:
    """Kill whatever is left in an attempt's groups, and remove them; how many processes that were."""
    killed = set()
    for folder in groups.values():
        for pid in guard.read(f"{folder}/{guard.SETTLED}").split():
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(int(pid), 9)
                killed.add(pid)
        with contextlib.suppress(OSError):
            Path(folder).rmdir()
    return len(killed)


def _own_groups(root: Path) -> dict[str, str]:
    """The group that we are in, by controller."""
    found = {}
    for line in guard.read(str(root / "proc/self/cgroup")).splitlines():
        number, controllers, path = line.split(":", 2)
        for name in (controllers or "unified").split(",") if number != "0" else ("unified",):
            found[name] = path
    return found


def _mounts(root: Path) -> list[tuple[Path, str, tuple[str, ...]]]:
    """Where each hierarchy is mounted, which part of it that is, and its controllers."""
    found: list[tuple[Path, str, tuple[str, ...]]] = []
    for line in guard.read(str(root / "proc/self/mountinfo")).splitlines():
        before, _, after = line.partition(" - ")
        words, kinds = before.split(), after.split()
        if kinds[0] == "cgroup2":
            found.append((Path(_plain(words[4])), _plain(words[3]), ("unified",)))
        elif kinds[0] == "cgroup":
            found.append((Path(_plain(words[4])), _plain(words[3]), tuple(kinds[2].split(","))))
    return found


def _plain(text: str) -> str:
    """A path of mountinfo, where a space is written as its number."""
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), text)


def _below(root: Path, mount: Path, top: str, own: str) -> Path | None:
    """Our own group's folder, if it is within what is mounted."""
    if not Path(own).is_relative_to(top):
        return None
    folder = root / mount.relative_to("/") / Path(own).relative_to(top)
    return folder if folder.is_dir() else None


def _works(name: str, base: Path) -> bool:
    """Whether a group can be made there, limited and removed."""
    folder = base / f"pushtrain-probe-{os.getpid()}"
    limits = {"memory": _PROBE, "processes": 16, "disk": 0, "folders": (), "growing": ()}
    probe = guard.Guard({**limits, "cgroups": {name: str(folder)}})
    probe.open()
    works = bool(probe.groups)
    with contextlib.suppress(OSError):
        folder.rmdir()
    return works


def _sweep(base: Path) -> None:
    """Remove what attempts left whose shim was killed; a group with a process in it stays by itself."""
    for folder in base.glob("pushtrain-*"):
        with contextlib.suppress(OSError):
            if folder.stat().st_mtime < time.time() - _OLD:
                folder.rmdir()


def _delegated(base: Path) -> bool:
    """Whether groups below this one can be limited; version 2 refuses where it holds a process."""
    try:
        guard.write(str(base / "cgroup.subtree_control"), "+memory +pids")
    except OSError:
        return False
    return True
