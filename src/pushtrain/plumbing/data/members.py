"""What stands in an archive, one member after the other: files and folders, and nothing else.

A tar is read by a reader of our own around the standard library's header: `tarfile` itself reads a
header's extension of any length into memory, takes a damaged header or a missing end for the end, and
makes zeros out of nothing for sparse members. A zip is listed by `zipfile`, after a look at how much
there is to list, and before its members are checked not to share bytes with each other (David Fifield, "A
better zip bomb", 2019).
"""

import stat
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import IO, Any, Final, Protocol

from pushtrain.core.errors import DataError

_BLOCK: Final = tarfile.BLOCKSIZE
_LARGEST_EXTENSION: Final = 1024 * 1024
"""Bytes of a tar header's extension: a long name, or what pax adds."""
_LARGEST_LISTING: Final = 128 * 1024 * 1024
"""Bytes of a zip's central directory."""
_LONGEST_END: Final = 128 * 1024
"""Bytes of a zip's end, with its comment of 64 KiB at most."""
_LOCAL_HEADER: Final = 30
_LISTED_HEADER: Final = 46
_LISTED: Final = b"PK\x01\x02"
"""Sizes of a zip's headers without their names, and how those of the listing begin (APPNOTE.TXT, 4.3)."""
_PADDING: Final = 64 * 1024 * 1024
"""Zeros behind a tar's end; tar fills up a block of its own choice."""
_FILES: Final = {tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE}
_NAMES: Final = {
    tarfile.SYMTYPE: "a symbolic link",
    tarfile.LNKTYPE: "a hard link",
    tarfile.CHRTYPE: "a device",
    tarfile.BLKTYPE: "a device",
    tarfile.FIFOTYPE: "a FIFO",
    tarfile.GNUTYPE_SPARSE: "a sparse file",
}
_MODES: Final = {stat.S_IFLNK: "a symbolic link", stat.S_IFIFO: "a FIFO"}
_LINK_MEND: Final = (
    "Make the archive anew with what the links lead to: `tar --dereference --hard-dereference …`."
)


class Readable(Protocol):
    """What a tar comes from."""

    def read(self, size: int, /) -> bytes:
        """At most so many bytes; empty at the end."""


class Unwanted(Exception):
    """A member must not be.

    Args:
        name: Its name in the archive.
        why: What is wrong with it, the second half of a sentence.
        mend: What to do about it.
    """

    def __init__(self, name: str, why: str, mend: str = "") -> None:
        super().__init__(why)
        self.name = name
        self.mend = mend


@dataclass(frozen=True, slots=True)
class Member:
    """A file or a folder."""

    name: str
    folder: bool = False
    executable: bool = False
    read: Callable[[int], bytes] = lambda _: b""
    """The next bytes of its content; valid until the next member is asked for."""


def of_tar(stream: Readable) -> Iterator[Member]:
    """The members of a tar.

    Raises:
        Unwanted: A member is a link, a device, a FIFO or sparse.
        tarfile.TarError: It is damaged.
        EOFError: It ends in the middle.
    """
    extra: dict[str, str] = {}
    while True:
        header = _exactly(stream, _BLOCK)
        if not any(header):
            _expect_end(stream)
            return
        found = tarfile.TarInfo.frombuf(header, "utf-8", "surrogateescape")
        if found.type in {tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE, tarfile.XGLTYPE}:
            more = _pax(_extension(stream, found.size))
            if found.type != tarfile.XGLTYPE:
                extra |= more
            elif {"path", "size"} & more.keys():
                raise Unwanted(found.name, "would rename all others")
            continue
        if found.type in {tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK}:
            text = _extension(stream, found.size).partition(b"\0")[0].decode("utf-8", "surrogateescape")
            extra |= {"path": text} if found.type == tarfile.GNUTYPE_LONGNAME else {}
            continue
        yield from _tar_member(stream, found, extra)
        extra = {}


def _tar_member(stream: Readable, found: tarfile.TarInfo, extra: dict[str, str]) -> Iterator[Member]:
    name, size = extra.get("path", found.name), _size(extra.get("size"), found.size)
    if any(key.startswith("GNU.sparse.") for key in extra):
        raise Unwanted(name, "is a sparse file", "Make the archive anew without `--sparse`.")
    if found.type == tarfile.DIRTYPE or (found.type == tarfile.AREGTYPE and name.endswith("/")):
        yield Member(name, folder=True)
        return
    if found.type not in _FILES:
        kind = _NAMES.get(found.type, "no file or folder")
        raise Unwanted(name, f"is {kind}", _LINK_MEND if "link" in kind else "")
    content = _Content(stream, size)
    yield Member(name, executable=bool(found.mode & stat.S_IXUSR), read=content.read)
    content.skip()
    _exactly(stream, -size % _BLOCK)


class _Content:
    """The content of a tar's member."""

    def __init__(self, stream: Readable, size: int) -> None:
        self._stream = stream
        self._left = size

    def read(self, size: int) -> bytes:
        found = self._stream.read(min(size, self._left)) if self._left else b""
        if self._left and not found:
            raise EOFError("it ends in the middle of a member")
        self._left -= len(found)
        return found

    def skip(self) -> None:
        while self.read(_LARGEST_EXTENSION):
            pass


def _extension(stream: Readable, size: int) -> bytes:
    if not 0 <= size <= _LARGEST_EXTENSION:
        raise tarfile.ReadError("a member's header is too large")
    found = _exactly(stream, size)
    _exactly(stream, -size % _BLOCK)
    return found


def _exactly(stream: Readable, size: int) -> bytes:
    found = b""
    while len(found) < size:
        more = stream.read(size - len(found))
        if not more:
            raise EOFError("it ends in the middle")
        found += more
    return found


def _expect_end(stream: Readable) -> None:
    """Read to the end of the file, so that a checksum there is checked, too."""
    left = _PADDING
    while found := stream.read(_LARGEST_EXTENSION):
        left -= len(found)
        if left < 0 or found.strip(b"\0"):
            raise tarfile.ReadError("something stands behind its end")


def _pax(content: bytes) -> dict[str, str]:
    """The records `LENGTH KEY=VALUE` and a newline, LENGTH counting all of it (POSIX.1-2001, pax)."""
    found: dict[str, str] = {}
    while content:
        digits = content.partition(b" ")[0]
        length = int(digits) if len(digits) < 8 and digits.isdigit() else 0  # noqa: PLR2004  7 digits are enough
        key, equals, value = content[len(digits) + 1 : length - 1].partition(b"=")
        if not equals or content[length - 1 : length] != b"\n":
            raise tarfile.ReadError("a member's header is damaged")
        found[key.decode("utf-8", "surrogateescape")] = value.decode("utf-8", "surrogateescape")
        content = content[length:]
    return found


def _size(told: str | None, size: int) -> int:
    if told is not None:
        size = int(told) if told.isascii() and told.isdigit() and len(told) < 20 else -1  # noqa: PLR2004  64 bits
    if size < 0:
        raise tarfile.ReadError("a member's size is none")
    return size


# --- zip --------------------------------------------------------------------------------------------------


def of_zip(file: IO[bytes], most: int) -> Iterator[Member]:
    """The members of a zip.

    Args:
        file: It.
        most: Members that there may be.

    Raises:
        Unwanted: A member is no file or folder, is encrypted, or is packed in a way that has no bound.
        zipfile.BadZipFile: It is damaged, or its members share bytes.
    """
    with zipfile.ZipFile(_Listed(file, most)) as archive:
        _check_apart(archive)
        for info in archive.infolist():
            mode = info.external_attr >> 16
            if "\0" in info.orig_filename or "\\" in info.filename:
                raise Unwanted(info.orig_filename, "has a path that cannot be")
            if stat.S_IFMT(mode) not in {0, stat.S_IFREG, stat.S_IFDIR}:
                raise Unwanted(info.filename, f"is {_MODES.get(stat.S_IFMT(mode), 'a device')}", _LINK_MEND)
            if info.flag_bits & 1:
                raise Unwanted(info.filename, "is encrypted")
            if info.is_dir():
                yield Member(info.filename, folder=True)
                continue
            if info.compress_type not in {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}:
                raise Unwanted(
                    info.filename, "is packed in an unusual way", "Use zip's own, deflate, or a .tar.xz."
                )
            with archive.open(info) as content:
                yield Member(info.filename, executable=bool(mode & stat.S_IXUSR), read=content.read)


def _check_apart(archive: zipfile.ZipFile) -> None:
    """Refuse members that lie over each other: a small file would come to any size."""
    end = 0
    for info in sorted(archive.infolist(), key=lambda one: one.header_offset):
        if info.header_offset < end:
            raise zipfile.BadZipFile("members share the same bytes")
        end = info.header_offset + _LOCAL_HEADER + info.compress_size
    if end > archive.start_dir:
        raise zipfile.BadZipFile("members share the same bytes")


class _Listed:
    """The file of a zip, whose listing is no longer than we say."""

    def __init__(self, file: IO[bytes], most: int) -> None:
        self._file = file
        self._most = most

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def read(self, size: int = -1) -> bytes:
        """As a file does; a read of the whole listing is one that is looked at."""
        if size > _LARGEST_LISTING:
            raise zipfile.BadZipFile(f"its listing has {size} bytes")
        found = self._file.read(size if size >= 0 else _LONGEST_END)
        if size > _LISTED_HEADER and found.count(_LISTED) > self._most:
            raise DataError(f"The archive holds more than {self._most} files.")
        return found
