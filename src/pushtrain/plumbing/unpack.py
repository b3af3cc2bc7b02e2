"""Archives unpacked so that nothing lands outside, whatever the archive says.

What an archive is, its bytes tell, not its name: zip, tar (plain, gzip, bzip2, xz, zstd where this Python has
it), or one compressed file. A member with an absolute path or `..` in it, a device, a FIFO, a link that leads
out, more files or bytes than the limits or the disk allow: each ends the whole thing. Nothing is written
through a link, because links are made last and then followed once to see where they lead. Of a member's mode
only "executable" is kept; owners are not.
"""

import bz2
import contextlib
import gzip
import importlib
import lzma
import os
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final, cast

from pushtrain.core.errors import DataError
from pushtrain.ports import Report, Stop

_BLOCK: Final = 1024 * 1024
_ZIP: Final = {b"PK\x03\x04", b"PK\x05\x06"}
_DEPTH: Final = 64
_ROOM_CHECK: Final = 64 * _BLOCK


@dataclass(frozen=True, slots=True)
class Limits:
    """What one archive may come to."""

    files: int = 2_000_000
    size: int = 1 << 40
    room: int = 1 << 30
    """Free bytes that must stay on the disk."""


def unpack(
    archive: Path,
    into: Path,
    *,
    title: str,
    report: Report,
    stop: Stop,
    limits: Limits | None = None,
) -> Path:
    """Unpack into the empty folder `into`: to `into/tree`, or a single compressed file to `into/file`.

    Args:
        archive: The file.
        into: Where to.
        title: How the archive is called in messages.
        report: Told of progress in bytes of the archive.
        stop: Called often.
        limits: What it may come to.

    Raises:
        DataError: It is no archive, is damaged, or holds what it must not.
    """
    work = _Unpacking(archive, title, report, stop, limits or Limits())
    with work.explained(), archive.open("rb") as file:
        if file.read(4) in _ZIP:
            return work.zip(file, into / "tree")
        with _decompressed(file, title) as plain:
            head = plain.read(tarfile.BLOCKSIZE)
            if _is_tar(head):
                return work.tar(cast("IO[bytes]", _Prefixed(head, plain)), into / "tree")
            if plain is file:
                raise DataError(
                    f"{title} is to be unpacked, but is no zip, tar or compressed file.",
                    mend="Leave out `unpack`, or check the URL.",
                )
            return work.file(_Prefixed(head, plain), into / "file")


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
    if "\0" in name or len(parts) > _DEPTH:
        raise ValueError("has a path that cannot be")
    return parts


class _Unpacking:
    """One archive on its way: counts, checks, writes."""

    def __init__(self, archive: Path, title: str, report: Report, stop: Stop, limits: Limits) -> None:
        self._title = title
        self._stop = stop
        self._limits = limits
        self._archive_size = archive.stat().st_size
        self._report = report
        self._files = 0
        self._size = 0
        self._links: list[tuple[Path, str]] = []
        self._folders: set[Path] = set()
        self._checked = -_ROOM_CHECK

    @contextlib.contextmanager
    def explained(self) -> Iterator[None]:
        """Turn a decompressor's errors into one of ours."""
        try:
            yield
        except (
            tarfile.TarError,
            zipfile.BadZipFile,
            lzma.LZMAError,
            zlib.error,
            EOFError,
            NotImplementedError,  # zip: a compression this Python does not know
            RuntimeError,  # zip: encrypted
            OSError,  # gzip and bz2: damaged; ours: the disk
            ValueError,
        ) as error:
            raise DataError(
                f"{self._title} cannot be unpacked: {error}.", mend="Check the file that the URL names."
            ) from error

    def refuse(self, name: str, why: str) -> DataError:
        """The error for a member that must not be."""
        return DataError(
            f"{self._title} cannot be unpacked: its member {name[:200]!r} {why}.",
            mend="Make the archive anew without it.",
        )

    def zip(self, file: IO[bytes], root: Path) -> Path:
        """Unpack a zip file."""
        root.mkdir()
        with zipfile.ZipFile(file) as archive:
            for info in archive.infolist():
                mode = info.external_attr >> 16
                target = self._target(root, info.filename)
                if info.is_dir():
                    self._folder(target)
                elif stat.S_ISLNK(mode):
                    self._links.append((target, os.fsdecode(archive.read(info))))
                elif stat.S_IFMT(mode) in {0, stat.S_IFREG}:
                    with archive.open(info) as source:
                        self._write(source, target, executable=bool(mode & 0o100))
                else:
                    raise self.refuse(info.filename, "is no file, folder or link")
                self._report(f"unpacking {self._title}", file.tell(), self._archive_size)
        return self._finish(root)

    def tar(self, file: IO[bytes], root: Path) -> Path:
        """Unpack a tar stream."""
        root.mkdir()
        with tarfile.open(fileobj=file, mode="r|") as archive:
            while (member := archive.next()) is not None:
                target = self._target(root, member.name)
                if member.isdir():
                    self._folder(target)
                elif member.issym():
                    self._links.append((target, member.linkname))
                elif member.islnk():
                    self._hard_link(root, member, target)
                elif member.isreg() and (source := archive.extractfile(member)) is not None:
                    self._write(source, target, executable=bool(member.mode & 0o100))
                else:
                    raise self.refuse(member.name, "is no file, folder or link")
                cast("Any", archive).members.clear()  # else it remembers a million of them
                self._report(f"unpacking {self._title}", self._size, 0)
        return self._finish(root)

    def file(self, source: "_Prefixed", target: Path) -> Path:
        """Unpack a single compressed file."""
        self._write(cast("IO[bytes]", source), target, executable=False)
        return target

    def _target(self, root: Path, name: str) -> Path:
        self._files += 1
        if self._files > self._limits.files:
            raise DataError(f"{self._title} holds more than {self._limits.files} files.")
        try:
            return root.joinpath(*member_path(name))
        except ValueError as error:
            raise self.refuse(name, str(error)) from error

    def _folder(self, path: Path) -> None:
        if path not in self._folders:
            path.mkdir(parents=True, exist_ok=True)
            self._folders.add(path)

    def _write(self, source: IO[bytes], target: Path, *, executable: bool) -> None:
        self._folder(target.parent)
        target.unlink(missing_ok=True)  # a later member of the same name replaces the earlier one
        with target.open("xb") as file:
            while block := source.read(_BLOCK):
                self._size += len(block)
                if self._size > self._limits.size:
                    raise DataError(f"{self._title} unpacks to more than {self._limits.size} bytes.")
                if self._size - self._checked > _ROOM_CHECK:
                    self._check_room(target.parent)
                file.write(block)
                self._report(f"unpacking {self._title}", self._size, 0)
                self._stop()
        if executable:
            target.chmod(0o755)

    def _check_room(self, folder: Path) -> None:
        self._checked = self._size
        if shutil.disk_usage(folder).free < self._limits.room:
            raise DataError(
                f"{self._title} does not fit on the executor's disk: less than {self._limits.room} bytes "
                f"are free after {self._size} unpacked ones.",
                mend="Free some space there, or use another executor.",
            )

    def _hard_link(self, root: Path, member: tarfile.TarInfo, target: Path) -> None:
        first = self._target(root, member.linkname)
        if not stat.S_ISREG(first.lstat().st_mode if first.exists() else 0):
            raise self.refuse(member.name, "links to nothing in the archive")
        if first != target:
            with first.open("rb") as source:
                self._write(source, target, executable=bool(first.stat().st_mode & 0o100))

    def _finish(self, root: Path) -> Path:
        """Make the links, then see where they lead."""
        for path, to in self._links:
            self._folder(path.parent)
            path.unlink(missing_ok=True)
            path.symlink_to(to)
        home = root.resolve()
        for path, to in self._links:
            if not path.resolve().is_relative_to(home) or to.startswith("/"):
                raise self.refuse(str(path.relative_to(root)), "is a link that leads out")
        return root


class _Prefixed:
    """A stream whose first bytes were already read."""

    def __init__(self, head: bytes, rest: IO[bytes]) -> None:
        self._head = head
        self._rest = rest

    def read(self, size: int) -> bytes:
        """The next bytes."""
        if self._head:
            found, self._head = self._head[:size], self._head[size:]
            return found if len(found) == size else found + self._rest.read(size - len(found))
        return self._rest.read(size)


@contextlib.contextmanager
def _decompressed(file: IO[bytes], title: str) -> Iterator[IO[bytes]]:
    """The bytes inside one layer of compression; the file itself when there is none."""
    file.seek(0)
    magic = file.read(6)
    file.seek(0)
    openers: dict[bytes, Callable[[], IO[bytes]]] = {
        b"\x1f\x8b": lambda: cast("IO[bytes]", gzip.GzipFile(fileobj=file)),
        b"BZh": lambda: bz2.BZ2File(file),
        b"\xfd7zXZ\0": lambda: lzma.LZMAFile(file),  # noqa: SIM115  entered below
        b"\x28\xb5\x2f\xfd": lambda: _zstd(file, title),
    }
    for start, opener in openers.items():
        if magic.startswith(start):
            with opener() as plain:
                yield plain
            return
    yield file


def _zstd(file: IO[bytes], title: str) -> IO[bytes]:
    try:
        module = importlib.import_module("compression.zstd")
    except ImportError as error:
        raise DataError(
            f"{title} is compressed with zstd, which the executor's Python (before 3.14) does not know.",
            mend="Use .tar.gz or .tar.xz, or run the executor with Python 3.14.",
        ) from error
    return cast("IO[bytes]", module.ZstdFile(file))


def _is_tar(head: bytes) -> bool:
    try:
        tarfile.TarInfo.frombuf(head, tarfile.ENCODING, "surrogateescape")
    except tarfile.HeaderError:
        return False
    return True
