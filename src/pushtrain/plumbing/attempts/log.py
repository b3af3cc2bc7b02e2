"""An attempt's log: read in pieces, or its two ends, never across what was let go.

The log is a plain file with a hole where output beyond the limit was let go: offsets and sizes stay those of
all the bytes that the job wrote, and the file system itself remembers what is missing.
"""

import contextlib
import errno
import os
from dataclasses import dataclass
from pathlib import Path

from pushtrain.core.values.run import LogChunk


def read_log(path: Path, attempt: int, offset: int, limit: int, *, ended: bool) -> LogChunk:
    """Up to `limit` bytes of a log from `offset` on, never across the hole.

    Args:
        path: The log; it need not exist yet.
        attempt: Whose log it is.
        offset: Counted in all bytes that the job wrote.
        limit: Bytes at most.
        ended: Whether the writer has ended; asked before this is called, so that `complete` is true.
    """
    at, data, size = offset, b"", 0
    with contextlib.suppress(FileNotFoundError), path.open("rb", buffering=0) as file:
        descriptor = file.fileno()
        while True:
            size = os.fstat(descriptor).st_size
            data = os.pread(descriptor, limit, at)
            # The hole only ever grows, so what lies outside it after the reading was true while reading.
            begin, end = hole(descriptor, size) or (size, 0)
            if not begin <= at < end:
                break
            at = end
        if at < begin:
            data = data[: begin - at]
    after = at + len(data)
    return LogChunk(
        attempt=attempt,
        offset=at,
        data=data,
        next_offset=after,
        complete=ended and after >= size,
        elided=at > offset,
    )


def tail_of(log: Path, *, most: int = 32_768) -> str:
    """The end of a log as text, for who looks for words in it; empty where there is none."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - most))
            return file.read(most).decode(errors="replace")
    except OSError:
        return ""


def log_size(path: Path) -> int:
    """Bytes written so far, those let go included."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


@dataclass(frozen=True, slots=True)
class LogEnds:
    """A log's head and tail; between them `missing` bytes."""

    head: bytes
    tail: bytes
    missing: int
    size: int


def read_ends(path: Path, limit: int) -> LogEnds:
    """A log of at most `limit` bytes: all of it, or its head and its tail, half each, cut at line ends.

    For a log that is no longer written to.
    """
    if not path.exists():
        return LogEnds(b"", b"", 0, 0)
    with path.open("rb", buffering=0) as file:
        descriptor = file.fileno()
        size = os.fstat(descriptor).st_size
        gap = hole(descriptor, size)
        if gap is None and size <= limit:
            return LogEnds(os.pread(descriptor, size, 0), b"", 0, size)
        half = limit // 2
        first, second = gap or (size, 0)
        head = os.pread(descriptor, min(half, first), 0)
        begin = max(size - half, second)
        tail = os.pread(descriptor, size - begin, begin)
    head = head[: head.rfind(b"\n") + 1] or head
    tail = tail[tail.find(b"\n") + 1 :] or tail
    return LogEnds(head, tail, size - len(head) - len(tail), size)


def hole(descriptor: int, size: int) -> tuple[int, int] | None:
    """The first byte let go and the first kept again; the file system knows."""
    try:
        start = os.lseek(descriptor, 0, os.SEEK_HOLE)
        if start >= size:
            return None
        return start, os.lseek(descriptor, start, os.SEEK_DATA)
    except OSError as error:
        if error.errno == errno.ENXIO:
            return None
        raise
