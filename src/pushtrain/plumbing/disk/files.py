"""Files that are whole or absent: written beside their place, synced, moved in, and the folder synced."""

import errno
import os
import secrets
from pathlib import Path
from typing import Final

THE_DISKS: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS})
"""Errors that are nobody's fault who writes a file, and that may pass."""


def replace(path: Path, content: bytes, *, mode: int = 0o600, durable: bool = True) -> None:
    """Put `content` at `path`; a reader sees the old file or the new one, never a part.

    Args:
        path: Where.
        content: What.
        mode: The file's permissions.
        durable: Whether it must outlive a power failure too; without, it outlives ours.

    Raises:
        OSError: It could not be written; the old file stands.
    """
    fresh = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
        with os.fdopen(descriptor, "wb") as out:
            out.write(content)
            out.flush()
            if durable:
                os.fsync(out.fileno())
        fresh.replace(path)
    finally:
        fresh.unlink(missing_ok=True)
    if durable:
        sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make renames and removals in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
