"""A little space put by for the moment when the disk is full: given up, it lets the store write once more.

Without it a job that filled the disk could not even be written down as ended, and would hold its slot.
"""

import contextlib
import os
from pathlib import Path
from typing import Final

SIZE: Final = 1024 * 1024
"""Bytes: enough for some transactions of the store and the small records of a run."""


def keep(path: Path) -> None:
    """Have the reserve, if the disk gives it now; without space nothing is said, it is tried again."""
    with contextlib.suppress(OSError):
        if path.exists() and path.stat().st_size >= SIZE:
            return
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.posix_fallocate(descriptor, 0, SIZE)
        finally:
            os.close(descriptor)


def give_up(path: Path) -> None:
    """Let the reserve go."""
    with contextlib.suppress(OSError):
        path.unlink()
