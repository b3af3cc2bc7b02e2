"""A store, read beside the process that serves its folder: nothing here makes, changes or migrates it.

It knows nothing of how runs move, so a verb that only tells of them starts quickly.
"""

import time
from collections.abc import Callable
from pathlib import Path

from pushtrain.plumbing.sqlite.accounts import Accounts
from pushtrain.plumbing.sqlite.database import Database
from pushtrain.plumbing.sqlite.outbox import Outbox
from pushtrain.plumbing.sqlite.retention import Retention
from pushtrain.plumbing.sqlite.runs import Runs


class View(Runs, Outbox, Accounts, Retention):
    """One state folder's store, open for reading; what would write raises StorageError.

    Args:
        path: The file.
        clock: Seconds since the epoch.

    Raises:
        StorageError: The file cannot be used: not there, damaged, of a newer or an older pushtrain.
    """

    def __init__(self, path: Path, *, clock: Callable[[], float] = time.time) -> None:
        self._database = Database(path, read_only=True)
        self._clock = clock

    def close(self) -> None:
        """Close the file; calls after this raise StorageError."""
        self._database.close()

    def copy(self) -> Path:
        """Keep a copy beside the store, in place of the one before; where it is. Raises StorageError."""
        return self._database.copy()
