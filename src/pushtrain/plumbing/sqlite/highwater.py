"""How many transactions a store has seen, kept beside it: a journal that was cut off is noticed.

SQLite takes a damaged end of its journal for one that was never written and says nothing. The store counts
its transactions inside; this file holds the same count outside, written after each commit and never synced.
So it can lag behind the store (after a power cut) but not lead it: where it does, the store has lost writes
that it had acknowledged.
"""

import os
import struct
import zlib
from pathlib import Path
from typing import Final

_COUNT: Final = struct.Struct("<QI")


class HighWater:
    """The count of one store.

    Args:
        path: The file; made when it is not there.

    Raises:
        OSError: It cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def read(self) -> int:
        """The count; 0 when the file is new or is not whole."""
        data = os.pread(self._file, _COUNT.size, 0)
        if len(data) != _COUNT.size:
            return 0
        count, check = _COUNT.unpack(data)
        return int(count) if check == _check(count) else 0

    def write(self, count: int) -> None:
        """Keep a new count; it outlives this process at once."""
        os.pwrite(self._file, _COUNT.pack(count, _check(count)), 0)

    def close(self) -> None:
        """Let the file go; a second call changes nothing."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1


def _check(count: int) -> int:
    return zlib.crc32(b"pushtrain high water %d" % count)
