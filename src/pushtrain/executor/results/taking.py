"""A job's files and folders by their descriptors: what was looked at is what is taken.

What its name means by then does not count, and no link is followed. Linux only: a file is given its second
name through `/proc/self/fd`.
"""

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

_FOLDER_FLAGS: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


CHANGED: Final = "it changed while it was collected"


class Unwanted(Exception):
    """A file is not taken; the text says why."""


@contextmanager
def folder_opened(folder: Path | str, at: int | None = None) -> Iterator[int | None]:
    """A folder's descriptor, or None when it is not there, not a folder, or a symlink."""
    try:
        descriptor = os.open(folder, _FOLDER_FLAGS, dir_fd=at)
    except OSError:
        yield None
        return
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def shut(folder: Path | str, at: int | None = None) -> str:
    """Why a folder could not be opened, as the end of a sentence; empty: it is not there."""
    try:
        mode = os.stat(folder, dir_fd=at, follow_symlinks=False).st_mode
    except OSError as error:
        return "" if isinstance(error, FileNotFoundError) else f"cannot be looked at: {error.strerror}"
    if stat.S_ISDIR(mode):
        return f"cannot be read: its mode is {stat.S_IMODE(mode):03o}"
    return "is a symbolic link" if stat.S_ISLNK(mode) else "is no folder any more"


@contextmanager
def file_opened(at: int, name: str) -> Iterator[int]:
    """A job's file, open; what has come into its place since it was looked at is no error of ours."""
    try:
        source = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=at)
    except OSError as error:
        if error.errno in {
            errno.ELOOP,
            errno.ENXIO,
            errno.ENODEV,
            errno.ENOTDIR,
        }:  # a link, a socket, a device
            raise Unwanted(CHANGED) from None
        raise
    try:
        yield source
    finally:
        os.close(source)


def linked(source: int, target: Path) -> bool:
    """Give the very file that was looked at a name of ours, whatever has its old name by now."""
    try:
        # Linux: linkat(2) with AT_SYMLINK_FOLLOW. An absolute path makes no use of a folder's descriptor, but
        # without one Python calls link(2), which does not follow.
        os.link(f"/proc/self/fd/{source}", target, src_dir_fd=source, follow_symlinks=True)
    except OSError:
        return False
    return True


def taken_before(at: int, name: str, target: Path) -> bool:
    """Whether a call that was cut short has given this file its new name already; the old one goes."""
    with suppress(OSError):
        if os.path.samestat(os.stat(name, dir_fd=at, follow_symlinks=False), target.lstat()):
            with target.open("rb") as ours:
                make_ours(ours.fileno())
            os.unlink(name, dir_fd=at)
            return True
    return False


def make_ours(descriptor: int) -> None:
    """Let nobody else read or change a file that was taken; root's jobs are somebody else."""
    if os.fstat(descriptor).st_uid != os.geteuid():
        os.fchown(descriptor, os.geteuid(), os.getegid())
    os.fchmod(descriptor, 0o600)
