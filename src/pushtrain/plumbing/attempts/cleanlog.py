"""Logs without secrets: hidden on reading while a job writes, and in the file itself when it has ended.

The same bytes are hidden whatever piece is asked for, and as many `*` stand in their place, so offsets stay
those of what the job wrote. While it runs, the last few bytes are held back as long as they may be the
beginning of a secret. Once the attempt has ended the file is replaced by its cleaned copy, so that later
readers, and later lives of the executor, need not know the secrets.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from pushtrain.core.errors import StorageError
from pushtrain.core.text.redact import STAR, Mask
from pushtrain.core.values.run import LogChunk
from pushtrain.plumbing.attempts.log import hole, read_log
from pushtrain.plumbing.disk.files import sync_folder

_STEP: Final = 1024 * 1024
_MODE: Final = 0o600


def read_clean(path: Path, attempt: int, offset: int, limit: int, *, ended: bool, mask: Mask) -> LogChunk:
    """As `log.read_log`, with what the mask hides hidden. Asks for more than is shown, on either side."""
    while True:
        chunk = read_log(path, attempt, offset, limit, ended=ended)
        if not mask or not chunk.data:
            return chunk
        with path.open("rb", buffering=0) as file:
            clean = _clean_piece(file.fileno(), chunk, ended=ended, mask=mask)
        if clean is not None:
            return clean


def _clean_piece(descriptor: int, chunk: LogChunk, *, ended: bool, mask: Mask) -> LogChunk | None:
    """The piece with what is hidden hidden; None when it was let go meanwhile."""
    size = os.fstat(descriptor).st_size
    start, end = _stretch(descriptor, size, chunk.offset)
    low, high = max(start, chunk.offset - mask.reach), min(end, chunk.next_offset + mask.reach)
    around = os.pread(descriptor, high - low, low)
    if _stretch(descriptor, size, low) != (start, end):
        return None  # the hole grew while we read
    clean = _hidden(around, mask, after_gap=low == start > 0, before_gap=high == end < size)
    until = chunk.next_offset
    if high == end == size and not ended:
        until = max(chunk.offset, min(until, high - mask.begun(around)))
    data = clean[chunk.offset - low : until - low]
    whole = chunk.complete and until == chunk.next_offset
    return chunk.model_copy(update={"data": data, "next_offset": until, "complete": whole})


def clean_log(path: Path, mask: Mask) -> None:
    """Replace a log that is no longer written to by its cleaned copy; one without secrets stays as it is.

    May be cut short at any moment and repeated. Sizes, offsets and the hole stay.

    Raises:
        StorageError: The disk is full or cannot be written; the log is as it was.
    """
    if not mask or not path.exists():
        return
    fresh = path.with_name(f".{path.name}.clean")
    try:
        with path.open("rb", buffering=0) as file:
            descriptor = file.fileno()
            size = os.fstat(descriptor).st_size
            if all(clean == raw for _, raw, clean in _cleaned(descriptor, size, mask)):
                return
            fresh.unlink(missing_ok=True)
            copy = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, _MODE)
            try:
                os.ftruncate(copy, size)
                for at, _, clean in _cleaned(descriptor, size, mask):
                    if os.pwrite(copy, clean, at) != len(clean):
                        raise OSError("it was written in part")
                os.fsync(copy)
            finally:
                os.close(copy)
        fresh.replace(path)
        sync_folder(path.parent)
    except OSError as error:
        fresh.unlink(missing_ok=True)
        raise StorageError(
            f"The log {path} could not be cleaned of secrets: {error.strerror or error}.",
            mend="Free some space; until then it is not published.",
        ) from error


def _cleaned(descriptor: int, size: int, mask: Mask) -> Iterator[tuple[int, bytes, bytes]]:
    """The log in pieces: where each begins, as it is, and as it is shown."""
    start = 0
    while start < size:
        start, end = _stretch(descriptor, size, start)
        for at in range(start, end, _STEP):
            until = min(at + _STEP, end)
            low, high = max(start, at - mask.reach), min(end, until + mask.reach)
            around = os.pread(descriptor, high - low, low)
            clean = _hidden(around, mask, after_gap=low == start > 0, before_gap=high == end < size)
            yield at, around[at - low : until - low], clean[at - low : until - low]
        start = end


def _stretch(descriptor: int, size: int, at: int) -> tuple[int, int]:
    """The beginning and end of what is kept around a place, or after it where it is in the hole."""
    begin, end = hole(descriptor, size) or (size, size)
    return (0, begin) if at < begin else (end, size)


def _hidden(data: bytes, mask: Mask, *, after_gap: bool, before_gap: bool) -> bytes:
    """A stretch with what is hidden hidden; next to the hole also what may be half of a secret."""
    first = mask.ended(data) if after_gap else 0
    last = len(data) - (mask.begun(data) if before_gap else 0)
    clean = mask.hide(data)
    return _stars(clean[:first]) + clean[first:last] + _stars(clean[last:]) if first < last else _stars(clean)


def _stars(data: bytes) -> bytes:
    return bytes(byte if byte in b"\r\n" else STAR[0] for byte in data)
