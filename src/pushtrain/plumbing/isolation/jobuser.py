"""Who root's jobs are: not root, but a uid for each repository, to which its jobs' folders are given.

The kernel trusts uid 0 with more than capabilities: it owns files of `/proc` that nobody else may read, and
settings; what it leaves set-uid runs as root wherever it is found. So jobs of root's executor are somebody
who owns nothing else on the machine. An ordinary user's executor has nobody else to be, and needs nobody.
"""

import errno
import hashlib
import os
import stat
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from pushtrain.plumbing.isolation.visits import visit
from pushtrain.ports import Cage

FIRST: Final = 0x7A000000
"""The first of 2^24 uids that no distribution, directory service or container uses by custom."""
NAMES: Final = {"USER": "job", "LOGNAME": "job"}
"""Variables that tell the name of who has no entry in `/etc/passwd`."""
_COUNT: Final = 1 << 24
_EVERYBODY: Final = ["0", "0", str(0xFFFFFFFF)]
_NEEDED: Final = {"CHOWN": 0, "DAC_OVERRIDE": 1, "KILL": 5, "SETGID": 6, "SETUID": 7, "SYS_ADMIN": 21}
"""Capabilities, by their numbers, that it takes to give jobs somebody else's uid."""


def wanted() -> bool:
    """Whether we are root of the machine itself: root of a user namespace is an ordinary user outside."""
    return os.geteuid() == 0 and Path("/proc/self/uid_map").read_text().split() == _EVERYBODY


def root_outside() -> bool:
    """Whether our uid 0 is called so outside as well: where we cannot be sure, it counts as root's."""
    return any(line.split()[:2] == ["0", "0"] for line in Path("/proc/self/uid_map").read_text().splitlines())


def lacking() -> tuple[str, str]:
    """What keeps us from giving jobs a uid of their own, and the mend; empty: nothing does."""
    status = Path("/proc/self/status").read_text()
    held = next((int(line.split()[1], 16) for line in status.splitlines() if line.startswith("CapEff")), 0)
    gone = [name for name, number in _NEEDED.items() if not held >> number & 1]
    if not gone:
        return "", ""
    names = ", ".join(f"CAP_{name}" for name in gone)
    mend = "Run the executor as an ordinary user, or give its container `--cap-add SYS_ADMIN`."
    return f"its jobs would be root, because root lacks {names} here", mend


def of(cage: Cage) -> int:
    """The uid of a cage's commands, which is its group's number too.

    That of the folder which it shares with others before and after it; a folder that was never given away
    gets one by its name.
    """
    last = _own(cage)[-1] if _own(cage) else Path()
    with suppress(OSError):
        if FIRST <= (found := last.stat().st_uid) < FIRST + _COUNT:
            return found
    return FIRST + int.from_bytes(hashlib.sha256(str(last).encode()).digest()[:3], "big")


def settle(cage: Cage) -> int:
    """Give a cage's folders to its uid, which is returned.

    Raises:
        OSError: A folder cannot be given away, or is none that the cage may write: all below it would go.
    """
    uid = of(cage)
    _settle(cage, uid)
    return uid


def take_back(cage: Cage) -> None:
    """Give a cage's folders to root, for a level whose jobs stay root; another level may have had them.

    Raises:
        OSError: As `settle`.
    """
    if wanted():
        _settle(cage, 0)


def _settle(cage: Cage, uid: int) -> None:
    own = dict.fromkeys((*_own(cage), *((cage.tmp,) if cage.tmp else ())))
    for path in own:
        if not any(path.is_relative_to(one) for one in cage.writable):
            raise OSError(errno.EPERM, "what a job may not write is not given to it", str(path))
    for path in own:
        _open_way(path, cage.writable)
        give(path, uid)
        if cage.own is None and path.is_dir() and not path.is_symlink():
            path.chmod(0o700)


def _open_way(path: Path, writable: Sequence[Path]) -> None:
    """Let others pass through what is shown as writable, to what in it is given away."""
    for folder in path.parents:
        if any(folder.is_relative_to(one) for one in writable):
            held = folder.stat()
            if not held.st_mode & stat.S_IXOTH and held.st_uid == 0:
                folder.chmod(stat.S_IMODE(held.st_mode) | stat.S_IXOTH)


def _own(cage: Cage) -> Sequence[Path]:
    return cage.writable if cage.own is None else cage.own


def give(path: Path, uid: int) -> None:
    """Give a folder and what is below it to a uid.

    Another job of the same uid may put links in the place of anything: none is followed. A file with several
    names may be somebody else's, too, and stays. A folder that is that uid's already is not entered, but for
    the outermost one: an executor may have made something in it anew.
    """

    def one(at: int, name: str, found: os.stat_result) -> bool:
        if found.st_uid == uid:
            return False
        if stat.S_ISDIR(found.st_mode) or found.st_nlink == 1:
            os.chown(name, uid, uid, dir_fd=at, follow_symlinks=False)
        return True

    visit(path, one)
    os.chown(path, uid, uid, follow_symlinks=False)
