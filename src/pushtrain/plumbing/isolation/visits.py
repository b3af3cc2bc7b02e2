"""Visit folders that jobs may be writing at the same time: to give them away, to disarm what is in them.

Symlinks are never followed.
"""

import contextlib
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Final

_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_SET_ID: Final = stat.S_ISUID | stat.S_ISGID
_PASSABLE: Final = stat.S_IRUSR | stat.S_IXUSR


def visit(folder: Path, look: Callable[[int, str, os.stat_result], bool]) -> None:
    """Look at everything below a folder that a job may be writing at the same time.

    However deep it is nested: one folder is open at a time, and the way back up is by `..`, which must lead
    to where we came from. What cannot be entered is left out; a folder moved meanwhile ends the visit.

    Args:
        folder: Where to begin; a link, a file or nothing in its place is not looked into.
        look: Called with an open folder's descriptor, a name in it, and what stands there, links not
            followed; says whether a folder is to be entered. May raise OSError: the entry is passed over.
    """
    with contextlib.suppress(OSError):
        at = os.open(folder, _FOLDER)
        try:
            above = [_standing(at)]
            while above:
                if names := above[-1][1]:
                    at = _entered(at, names.pop(), look, above)
                    continue
                above.pop()
                if above:
                    at = _left(at)
                    if _identity(at) != above[-1][0]:
                        return
        finally:
            os.close(at)


_Identity = tuple[int, int]


def _identity(at: int) -> _Identity:
    found = os.fstat(at)
    return found.st_dev, found.st_ino


def _standing(at: int) -> tuple[_Identity, list[str]]:
    return _identity(at), os.listdir(at)


def _entered(
    at: int,
    name: str,
    look: Callable[[int, str, os.stat_result], bool],
    above: list[tuple[_Identity, list[str]]],
) -> int:
    """Look at one entry; the folder that is open then, the entry itself where it is to be entered."""
    below = -1
    try:
        found = os.stat(name, dir_fd=at, follow_symlinks=False)
        if not (look(at, name, found) and stat.S_ISDIR(found.st_mode)):
            return at
        if os.geteuid() and found.st_mode & _PASSABLE != _PASSABLE:
            return at  # nor would we get out of it again
        below = os.open(name, _FOLDER, dir_fd=at)
        above.append(_standing(below))
    except OSError:
        if below >= 0:
            os.close(below)
        return at
    os.close(at)
    return below


def _left(at: int) -> int:
    up = os.open("..", _FOLDER, dir_fd=at)
    os.close(at)
    return up


def disarm(folder: Path) -> None:
    """Take set-uid and set-gid bits from every file below a folder that jobs write."""
    visit(folder, _disarm)


def _disarm(at: int, name: str, found: os.stat_result) -> bool:
    if stat.S_ISREG(found.st_mode) and found.st_mode & _SET_ID:
        descriptor = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=at)
        try:
            now = os.fstat(descriptor)
            if stat.S_ISREG(now.st_mode):
                Path(f"/proc/self/fd/{descriptor}").chmod(stat.S_IMODE(now.st_mode) & ~_SET_ID)
        finally:
            os.close(descriptor)
    return True
