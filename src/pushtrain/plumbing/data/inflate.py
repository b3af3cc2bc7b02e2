"""One layer of compression taken off a file, in pieces: no piece and no dictionary is larger than we say.

The standard library's file objects are not used, because they leave the size of a dictionary to the file
(an xz may ask for 4 GiB). What stands behind the end of the compressed data is an error, zeros that fill
a block apart.
"""

import bz2
import importlib
import lzma
import zlib
from collections.abc import Callable
from functools import partial
from typing import IO, Any, Final, Protocol

from pushtrain.core.errors import DataError
from pushtrain.ports import Stop

_INPUT: Final = 64 * 1024
_XZ_MEMORY: Final = 512 * 1024 * 1024
"""Bytes that unpacking an xz may take; `xz -9` needs 65 MiB."""


class _Decompressor(Protocol):
    eof: bool
    needs_input: bool
    unused_data: bytes

    def decompress(self, data: bytes, max_length: int) -> bytes: ...


class Inflated:
    """The bytes inside; reads like a file, forward only.

    Args:
        file: The compressed file, standing at its start.
        make: A new decompressor; a file may hold several streams in a row, empty ones too.
        stop: Called for every piece of the file.
    """

    def __init__(self, file: IO[bytes], make: Callable[[], _Decompressor], stop: Stop) -> None:
        self._file = file
        self._stop = stop
        self._make = make
        self._now = make()
        self._begun = False
        self._waiting = b""

    def read(self, size: int) -> bytes:
        """The next bytes, at most so many; empty at the end.

        Raises:
            EOFError: The file ends in the middle.
        """
        while True:
            if self._now.eof and not self._next():
                return b""
            if self._now.needs_input and not self._waiting:
                self._waiting = self._input()
                if not self._waiting:
                    raise EOFError("it ends in the middle")
            data, self._waiting = (self._waiting, b"") if self._now.needs_input else (b"", self._waiting)
            if found := self._now.decompress(data, size):
                return found

    def _next(self) -> bool:
        """Go on with the stream behind the one that has ended."""
        rest = self._now.unused_data + self._waiting
        while not (rest := rest.lstrip(b"\0")):
            rest = self._input()
            if not rest:
                return False
        self._now, self._waiting = self._make(), rest
        return True

    def _input(self) -> bytes:
        self._stop()
        return self._file.read(_INPUT)


class _Gzip:
    """zlib, in the way that the other decompressors are spoken to."""

    def __init__(self) -> None:
        self._inner = zlib.decompressobj(zlib.MAX_WBITS | 16)
        self._tail = b""

    @property
    def eof(self) -> bool:
        return self._inner.eof

    @property
    def needs_input(self) -> bool:
        return not self._tail and not self._inner.eof

    @property
    def unused_data(self) -> bytes:
        return self._inner.unused_data

    def decompress(self, data: bytes, max_length: int) -> bytes:
        found = self._inner.decompress(self._tail + data, max_length)
        self._tail = self._inner.unconsumed_tail
        return found


def inflated(file: IO[bytes], title: str, stop: Stop) -> Inflated | None:
    """The bytes inside a compressed file; None: it is not compressed, by its first bytes.

    Args:
        file: It, anywhere; it is left at its start.
        title: How it is called in messages.
        stop: Called for every piece of the file.

    Raises:
        DataError: This Python does not know the compression.
    """
    file.seek(0)
    magic = file.read(6)
    file.seek(0)
    kinds: dict[bytes, Callable[[], Any]] = {
        b"\x1f\x8b": _Gzip,
        b"BZh": bz2.BZ2Decompressor,
        b"\xfd7zXZ\0": lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_XZ_MEMORY),
        b"\x28\xb5\x2f\xfd": partial(_zstd, title),
    }
    make = next((make for start, make in kinds.items() if magic.startswith(start)), None)
    return Inflated(file, make, stop) if make else None


def _zstd(title: str) -> Any:
    """Its own limit for a window is 128 MiB."""
    try:
        module = importlib.import_module("compression.zstd")
    except ImportError as error:
        raise DataError(
            f"{title} is compressed with zstd, which the executor's Python (before 3.14) does not know.",
            mend="Use .tar.gz or .tar.xz, or run the executor with Python 3.14.",
        ) from error
    return module.ZstdDecompressor()
