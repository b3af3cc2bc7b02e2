"""A short name for a folder whose own is long: UNIX sockets are made in it, and their paths hold 107 bytes.

Python's `multiprocessing`, and so every DataLoader, makes its sockets below `TMPDIR`. The short name is a
link in the system's folder for temporary files, named by a digest of where it leads, and ours or not used.
"""

import contextlib
import hashlib
import os
import re
import tempfile
from pathlib import Path
from typing import Final

_ROOM: Final = 107 - len("/pymp-xxxxxxxx/listener-xxxxxxxx")
_LONGEST: Final = _ROOM - 10
_NAME: Final = re.compile(r"pushtrain-[0-9a-f]{12}")


def to(folder: Path) -> Path:
    """The folder under a name short enough for sockets in it: its own if that is, or if no other is free."""
    if len(str(folder)) <= _LONGEST:
        return folder
    link = _link(folder)
    with contextlib.suppress(FileExistsError):
        link.symlink_to(folder)
    return link if _leads(link, folder) else folder


def remove(folder: Path) -> None:
    """Take the short name away again, where there is one."""
    link = _link(folder)
    if _leads(link, folder):
        link.unlink(missing_ok=True)


def sweep() -> None:
    """Take away short names of ours that lead nowhere any more."""
    for link in Path(tempfile.gettempdir()).glob("pushtrain-*"):
        with contextlib.suppress(OSError):
            ours = _NAME.fullmatch(link.name) and link.is_symlink() and link.lstat().st_uid == os.geteuid()
            if ours and not link.exists():
                link.unlink()


def _link(folder: Path) -> Path:
    digest = hashlib.sha256(str(folder).encode()).hexdigest()
    return Path(tempfile.gettempdir(), f"pushtrain-{digest[:12]}")


def _leads(link: Path, folder: Path) -> bool:
    """Whether this is our link; somebody else's could be turned elsewhere."""
    try:
        return link.lstat().st_uid == folder.stat().st_uid and link.readlink() == folder
    except OSError:
        return False
