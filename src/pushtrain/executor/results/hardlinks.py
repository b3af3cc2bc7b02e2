"""Tell a file whose every name lies in the run's own folders from one that is somebody else's, too.

A hard link keeps the owner and the mode of its file, so where the kernel allows it (`protected_hardlinks`
off) a job may lay one to a file that only the executor can read, and we would publish it.
"""

import os
import stat
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Final

_MOST_LOOKED_AT: Final = 500_000


class Links:
    """Which files have all their names in the run's own folders.

    Args:
        folders: The run's own.
    """

    def __init__(self, folders: Sequence[Path]) -> None:
        self._folders = folders
        self._known: Counter[tuple[int, int]] | None = None

    def all_ours(self, file: os.stat_result) -> bool:
        """Whether as many names are found there as the file has."""
        if self._known is None:
            self._known = Counter(self._names())
        return self._known[file.st_dev, file.st_ino] >= file.st_nlink

    def _names(self) -> Iterator[tuple[int, int]]:
        """Each name of a file with several: file system and inode."""
        looked_at = 0
        waiting = [str(folder) for folder in dict.fromkeys(self._folders)]
        while waiting and looked_at <= _MOST_LOOKED_AT:
            try:
                entries = os.scandir(waiting.pop())
            except OSError:
                continue
            with entries:
                for entry in islice(entries, _MOST_LOOKED_AT):
                    looked_at += 1
                    try:
                        found = entry.stat(follow_symlinks=False)
                    except OSError:
                        continue  # it has gone meanwhile
                    if stat.S_ISDIR(found.st_mode):
                        waiting.append(entry.path)
                    elif stat.S_ISREG(found.st_mode) and found.st_nlink > 1:
                        yield found.st_dev, found.st_ino
