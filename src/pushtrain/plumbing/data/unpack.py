"""Archives unpacked so that nothing lands outside, whatever they say, and no more than was allowed.

What an archive is, its bytes tell, not its name: zip, tar (plain, gzip, bzip2, xz, zstd where this Python
has it), or one compressed file; one layer, never an archive within one. It holds files and folders: a
link, a device, a FIFO, an absolute path or `..`, a name with control characters or bytes that are no
UTF-8, two names of which one disk would make one, more files or bytes than the limits or the disk allow:
each ends the whole thing. Of a member's mode only "executable" is kept; owners are not.
"""

import contextlib
import lzma
import os
import re
import shutil
import tarfile
import unicodedata
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pushtrain.core.errors import DataError, StorageError
from pushtrain.plumbing.data.inflate import inflated
from pushtrain.plumbing.data.members import Member, Readable, Unwanted, of_tar, of_zip
from pushtrain.plumbing.disk.files import THE_DISKS
from pushtrain.plumbing.programs import process
from pushtrain.ports import Report, Stop

_BLOCK: Final = 1024 * 1024
_ZIP: Final = {b"PK\x03\x04", b"PK\x05\x06"}
_DEPTH: Final = 64
_ROOM_CHECK: Final = 64 * _BLOCK
_FILES_CHECK: Final = 10_000
_UNDOUBTED: Final = 1 << 30
"""Bytes that any archive may come to, however well it is packed."""
_CONTROL: Final = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class Limits:
    """What one archive may come to."""

    files: int = 2_000_000
    """Files and folders in it."""
    size: int = 1 << 40
    """Bytes of its files."""
    ratio: int = 1000
    """Bytes that may come out of one packed one, beyond the first GiB."""
    room: int = 1 << 30
    """Free bytes that must stay on the disk."""
    inodes: int = 100_000
    """Files that the disk must still have room for, where it counts them."""


def unpack(
    archive: Path,
    into: Path,
    *,
    title: str,
    report: Report,
    stop: Stop,
    limits: Limits | None = None,
    spend: Callable[[int], None] = lambda _: None,
) -> Path:
    """Unpack into the empty folder `into`: to `into/tree`, or a single compressed file to `into/file`.

    Args:
        archive: The file.
        into: Where to.
        title: How the archive is called in messages.
        report: Told of progress in bytes of the archive.
        stop: Called often.
        limits: What it may come to.
        spend: Told of bytes before they are written; raises to refuse more.

    Raises:
        DataError: It is no archive, is damaged, or holds what it must not.
    """
    work = _Unpacking(archive, title, report, stop, limits or Limits(), spend)
    with work.explained(), archive.open("rb") as file:
        if file.read(4) in _ZIP:
            return work.tree(of_zip(file, work.limits.files), into / "tree")
        plain = inflated(file, title, stop)
        head = _head(plain or file)
        if _is_tar(head):
            return work.tree(of_tar(_Prefixed(head, plain or file)), into / "tree")
        if plain is None:
            raise DataError(
                f"{title} is to be unpacked, but is no zip, tar or compressed file.",
                mend="Leave out `unpack`, or check the URL.",
            )
        return work.file(Member("", read=_Prefixed(head, plain).read), into / "file")


def member_path(name: str) -> tuple[str, ...]:
    """The parts of a member's path; empty for the root itself.

    Raises:
        ValueError: The path is absolute, leads out, or is no path; the message says which.
    """
    parts = tuple(part for part in name.split("/") if part not in {"", "."})
    if name.startswith("/"):
        raise ValueError("has an absolute path")
    if ".." in parts:
        raise ValueError("leads out of the archive")
    if _CONTROL.search(name):
        raise ValueError("has a name with control characters, or bytes that are no UTF-8")
    if len(parts) > _DEPTH:
        raise ValueError("has a path that cannot be")
    return parts


class NoRoom(StorageError):
    """Nothing is wrong with the archive: this machine's disk does not take what is in it."""


def spelling(path: str) -> str:
    """What of a path counts on any kind of disk: two that have it in common may be one file there."""
    return unicodedata.normalize("NFC", path.casefold())


class _Unpacking:
    """One archive on its way: counts, checks, writes."""

    def __init__(  # noqa: PLR0917  an unpacking in short
        self,
        archive: Path,
        title: str,
        report: Report,
        stop: Stop,
        limits: Limits,
        spend: Callable[[int], None],
    ) -> None:
        self.limits = limits
        self._title = title
        self._report = report
        self._stop = stop
        self._spend = spend
        self._most = min(limits.size, max(_UNDOUBTED, limits.ratio * archive.stat().st_size))
        self._count = 0
        self._size = 0
        self._names: set[int] = set()
        self._folders: set[Path] = set()
        self._checked = -_ROOM_CHECK

    @contextlib.contextmanager
    def explained(self) -> Iterator[None]:
        """Turn a decompressor's errors into one of ours."""
        try:
            yield
        except Unwanted as error:
            raise self._refuse(error.name, str(error), error.mend) from error
        except (
            tarfile.TarError,
            zipfile.BadZipFile,
            lzma.LZMAError,
            zlib.error,
            EOFError,
            NotImplementedError,  # zip: a version this Python does not know
            OSError,  # bz2: damaged; ours: the disk
            ValueError,
        ) as error:
            number, why = getattr(error, "errno", None), getattr(error, "strerror", None) or error  # no path
            if number in process.NO_MEANS:
                raise  # nothing is wrong with the archive, nor with the disk
            said = f"{self._title} cannot be unpacked: {why}."
            if number in THE_DISKS:
                raise NoRoom(said, mend="Free some space there, or look at the disk.") from error
            raise DataError(said, mend="Check the file that the URL names.") from error

    def tree(self, members: Iterable[Member], root: Path) -> Path:
        """Unpack all members below `root`."""
        root.mkdir()
        self._folders.add(root)
        for member in members:
            self._stop()
            try:
                target = root.joinpath(*member_path(member.name))
            except ValueError as error:
                raise Unwanted(member.name, str(error)) from error
            if member.folder or target == root:
                self._folder(target, member.name)
            else:
                self._folder(target.parent, member.name)
                self._enter(target, member.name)
                self._write(member, target)
        return root

    def file(self, content: Member, target: Path) -> Path:
        """Unpack a single compressed file."""
        self._write(content, target)
        return target

    def _refuse(self, name: str, why: str, mend: str = "") -> DataError:
        return DataError(
            f"{self._title} cannot be unpacked: its member {name[:200]!r} {why}.",
            mend=mend or "Make the archive anew without it.",
        )

    def _enter(self, path: Path, name: str) -> None:
        """Count a file or folder, and refuse a name that is there already, on any kind of disk."""
        self._count += 1
        if self._count > self.limits.files:
            raise DataError(f"{self._title} holds more than {self.limits.files} files.")
        if not self._count % _FILES_CHECK:
            self._check_room(path.parent)
        folded = hash(spelling(str(path)))
        if folded in self._names:
            raise Unwanted(name, "is there twice, or differs from another one only in case or accents' form")
        self._names.add(folded)

    def _folder(self, path: Path, name: str) -> None:
        if path not in self._folders:
            self._folder(path.parent, name)
            self._enter(path, name)
            path.mkdir()
            self._folders.add(path)

    def _write(self, member: Member, target: Path) -> None:
        with target.open("xb") as file:
            while block := member.read(_BLOCK):
                self._size += len(block)
                if self._size > self._most:
                    raise DataError(
                        f"{self._title} unpacks to more than {self._most} bytes.",
                        mend="If it should: the executor's owner sets `rules.limits.data` and `data_ratio`.",
                    )
                self._spend(len(block))
                if self._size - self._checked > _ROOM_CHECK:
                    self._check_room(target.parent)
                file.write(block)
                self._report(f"unpacking {self._title}", self._size, 0)
                self._stop()
        if member.executable:
            target.chmod(0o755)

    def _check_room(self, folder: Path) -> None:
        self._checked = self._size
        disk = os.statvfs(folder)
        counted = disk.f_files > 0  # btrfs and others make room for files as they come
        if shutil.disk_usage(folder).free < self.limits.room or (
            counted and disk.f_favail < self.limits.inodes
        ):
            raise NoRoom(
                f"{self._title} does not fit on the executor's disk: after {self._size} bytes in "
                f"{self._count} files less than {self.limits.room} bytes or {self.limits.inodes} files are "
                "free.",
                mend="Free some space there, or use another executor.",
            )


def _head(source: Readable) -> bytes:
    """The first block, or all there is."""
    found = b""
    while len(found) < tarfile.BLOCKSIZE and (more := source.read(tarfile.BLOCKSIZE - len(found))):
        found += more
    return found


class _Prefixed:
    """A stream whose first bytes were already read."""

    def __init__(self, head: bytes, rest: Readable) -> None:
        self._head = head
        self._rest = rest

    def read(self, size: int) -> bytes:
        """The next bytes."""
        if self._head:
            found, self._head = self._head[:size], self._head[size:]
            return found
        return self._rest.read(size)


def _is_tar(head: bytes) -> bool:
    try:
        tarfile.TarInfo.frombuf(head, "utf-8", "surrogateescape")
    except tarfile.HeaderError:
        return False
    return True
