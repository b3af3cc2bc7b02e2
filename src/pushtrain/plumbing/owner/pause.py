"""The owner's wish not to lend: one small file, so that it holds over restarts and needs nobody to be told.

Written by `pushtrain pause` and `pushtrain resume`, read by the executor whenever it looks at the machine. A
file that cannot be read counts as a pause: somebody wanted one.
"""

import json
import math
import time
from collections.abc import Callable
from pathlib import Path

from pushtrain.core.errors import StorageError
from pushtrain.plumbing.disk.files import replace


class PauseFile:
    """Where the wish is kept.

    Args:
        path: The file; none: there is no wish.
        clock: Seconds since the epoch.
    """

    def __init__(self, path: Path, *, clock: Callable[[], float] = time.time) -> None:
        self._path = path
        self._clock = clock
        self._read: tuple[object, float | None] = (None, None)

    def until(self) -> float | None:
        """When lending goes on; infinite: when the owner resumes it; None: there is no pause."""
        try:
            found = self._path.stat()
        except FileNotFoundError:
            return None
        except OSError:
            return math.inf
        witness = (found.st_mtime_ns, found.st_ino, found.st_size)
        if self._read[0] != witness:
            self._read = (witness, _until(self._path))
        until = self._read[1]
        return until if until is not None and until > self._clock() else None

    def pause(self, seconds: float | None) -> float:
        """Write the wish down durably; until when it holds.

        Args:
            seconds: How long; None: until it is resumed.

        Raises:
            StorageError: It cannot be written.
        """
        until = math.inf if seconds is None else self._clock() + seconds
        document = {"until": None if seconds is None else until, "since": self._clock()}
        try:
            replace(self._path, json.dumps(document).encode())
        except OSError as error:
            raise StorageError(
                f"The pause could not be written to {self._path}: {error.strerror}.",
                mend="Stop the executor instead: its trainings go on, nothing new starts.",
            ) from error
        return until

    def resume(self) -> bool:
        """Take the wish back; whether there was one.

        Raises:
            StorageError: It cannot be taken back.
        """
        before = self.until()
        try:
            self._path.unlink(missing_ok=True)
        except OSError as error:
            raise StorageError(f"{self._path} could not be removed: {error.strerror}.") from error
        return before is not None


def _until(path: Path) -> float | None:
    try:
        found = json.loads(path.read_bytes())["until"]
        return math.inf if found is None else float(found)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError):
        return math.inf
