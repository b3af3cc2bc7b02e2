"""What is done to whole folders: made read-only, brought to the disk, weighed, removed.

Symlinks are never followed.
"""

import contextlib
import ctypes
import hashlib
import os
import secrets
import stat
import time
from collections.abc import MutableMapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pushtrain.plumbing.disk.files import sync_folder

_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_MANY: Final = 256
_PAUSE: Final = 0.001
_WRITE_BITS: Final = stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH
_SET_ID: Final = stat.S_ISUID | stat.S_ISGID


def seal(folder: Path) -> int:
    """Take away everybody's permission to write, and what would run as its owner; the bytes of all files."""
    size = 0
    for item in list(os.scandir(folder)):
        if item.is_dir(follow_symlinks=False):
            size += seal(Path(item.path))
        elif not item.is_symlink():
            found = item.stat(follow_symlinks=False)
            size += found.st_size
            _without_write(Path(item.path), found.st_mode)
    _without_write(folder, folder.stat().st_mode)
    return size


def _without_write(path: Path, mode: int) -> None:
    if mode & (_WRITE_BITS | _SET_ID):
        path.chmod(stat.S_IMODE(mode) & ~(_WRITE_BITS | _SET_ID))


def imprint(folder: Path) -> str:
    """A digest of what the file system says of everything in a folder: names, sizes, inodes and times.

    Nobody but root, with another clock, writes to a file without its change time (`ctime`) telling. Nothing
    is read, so that it costs some microseconds a file.
    """
    told = hashlib.blake2b(digest_size=16)
    _imprint(folder, told)
    return told.hexdigest()


def _imprint(folder: Path, told: "hashlib.blake2b") -> None:
    for item in sorted(os.scandir(folder), key=lambda one: one.name):
        found = item.stat(follow_symlinks=False)
        facts = (found.st_mode, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
        told.update(f"{item.name}\0{facts}\n".encode("utf-8", "surrogateescape"))
        if item.is_dir(follow_symlinks=False):
            _imprint(Path(item.path), told)
            told.update(b"\0")


def flush(folder: Path) -> None:
    """Wait until everything on this folder's file system is on the disk: one call however many files."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        if ctypes.CDLL(None, use_errno=True).syncfs(descriptor) != 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    finally:
        os.close(descriptor)
    sync_folder(folder.parent)


@dataclass(frozen=True, slots=True)
class Weight:
    """What a folder takes on the disk."""

    size: int
    """Bytes that come free when it is removed: blocks, not what files say, and no file that lives on."""
    files: int


def weigh(folder: Path, shared: MutableMapping[tuple[int, int], int]) -> Weight:
    """What a file or a folder takes on the disk; one that goes away meanwhile takes nothing.

    Pauses now and then, so that whoever else works in this process is not held up.

    Args:
        folder: Which.
        shared: Gets the bytes of files that have names elsewhere, too, by device and inode.
    """
    size = files = 0
    several: dict[tuple[int, int], list[int]] = {}
    waiting, seen = [str(folder)], 0
    with contextlib.suppress(OSError):
        found = os.lstat(folder)
        size += found.st_blocks * 512
        if not stat.S_ISDIR(found.st_mode):
            return Weight(size, 1)
    while waiting:
        try:
            entries = list(os.scandir(waiting.pop()))
        except OSError:
            continue
        seen += len(entries)
        if seen >= _MANY:
            seen = 0
            time.sleep(_PAUSE)  # stands back: whatever else uses the disk goes first
        for entry in entries:
            with contextlib.suppress(OSError):
                found = entry.stat(follow_symlinks=False)
                files += 1
                if stat.S_ISDIR(found.st_mode):
                    waiting.append(entry.path)
                elif found.st_nlink > 1:
                    names = several.setdefault(
                        (found.st_dev, found.st_ino), [0, found.st_nlink, found.st_blocks]
                    )
                    names[0] += 1
                    continue
                size += found.st_blocks * 512
    for inode, (here, everywhere, blocks) in several.items():
        if here >= everywhere:
            size += blocks * 512
        else:
            shared[inode] = blocks * 512
    return Weight(size, files)


def remove_tree(folder: Path) -> None:
    """Remove a folder that a job may have written; what resists stays for the next sweep.

    However deep it is nested, deeper than a path can be long, and whatever its folders' modes are: each
    folder is moved to the top before its content is looked at, so that nothing recurses. Nobody can have put
    something under the names that they get there.
    """
    ours = f".going-{secrets.token_hex(8)}-"
    with contextlib.suppress(OSError):
        open_up(folder)
        top = os.open(folder, _FOLDER)
        try:
            waiting = _emptied(top, top, ours, 0)
            number = len(waiting)
            while waiting:
                name = waiting.pop()
                with contextlib.suppress(OSError):
                    below = os.open(name, _FOLDER, dir_fd=top)
                    try:
                        found = _emptied(below, top, ours, number)
                    finally:
                        os.close(below)
                    number += len(found)
                    waiting += found
                    os.rmdir(name, dir_fd=top)
        finally:
            os.close(top)
        folder.rmdir()


def _emptied(at: int, top: int, ours: str, number: int) -> list[str]:
    """Remove a folder's files, and move its folders to the top under names of their own; those names."""
    moved: list[str] = []
    with os.scandir(at) as entries:
        for entry in entries:
            if entry.name.startswith(ours):
                continue  # some file systems list what was moved once more, and so for ever
            with contextlib.suppress(OSError):
                if not entry.is_dir(follow_symlinks=False):
                    os.unlink(entry.name, dir_fd=at)
                    continue
                name = f"{ours}{number + len(moved)}"
                _open_up(entry.name, at)
                os.rename(entry.name, name, src_dir_fd=at, dst_dir_fd=top)
                moved.append(name)
    return moved


def open_up(folder: Path) -> None:
    """Give ourselves every right on a folder that a job may have written. Raises OSError."""
    _open_up(str(folder), None)


def _open_up(name: str, at: int | None) -> None:
    """Give ourselves every right on a folder; a link in its place is not followed."""
    descriptor = os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=at)
    try:
        Path(f"/proc/self/fd/{descriptor}").chmod(0o700)
    finally:
        os.close(descriptor)
