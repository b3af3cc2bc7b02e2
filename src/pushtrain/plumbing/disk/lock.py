"""One server for each state folder: a lock that is held for life and dies with its holder.

The lock is a `flock`, so a killed holder leaves nothing to clean up. The pid in the file, and since when, are
for people only.
"""

import fcntl
import os
import time
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from pushtrain.core.errors import Conflict, StorageError

_PATIENCE: Final = 0.1


class FolderLock:
    """The lock of a state folder, held from the moment it is made.

    Args:
        path: The lock file, `StateFolder.lock`.

    Raises:
        Conflict: Another process serves this folder; the message names its pid, and since when.
        StorageError: The file cannot be written.
    """

    def __init__(self, path: Path) -> None:
        try:
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise StorageError(
                f"The lock {path} cannot be opened: {error.strerror}.",
                mend="Check who owns the state folder.",
            ) from error
        if not _take(self._file, patience=_PATIENCE):
            pid, since = _said(self._file)
            os.close(self._file)
            raise Conflict(
                f"The state folder {path.parent} is already served by process {pid or 'unknown'}"
                f"{f', since {since}' if since else ''}.",
                mend=f"Stop that process (`kill {pid or 'PID'}`), or choose another folder with `--state`.",
            )
        os.ftruncate(self._file, 0)
        since = time.strftime("%Y-%m-%d %H:%M:%S %z", time.localtime())
        os.pwrite(self._file, f"{os.getpid()}\n{since}\n".encode(), 0)

    def release(self) -> None:
        """Let go; the folder may be served by another process."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


def holder(path: Path) -> int | None:
    """The pid of the process that holds the lock, or None when nobody does; 0 when it did not say."""
    try:
        file = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StorageError(
            f"The lock {path} cannot be opened: {error.strerror}.", mend="Check who owns the state folder."
        ) from error
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        pid, _ = _said(file)
        return int(pid) if pid.isdecimal() else 0
    finally:
        os.close(file)
    return None


def _said(file: int) -> tuple[str, str]:
    """What the holder wrote: its pid, and since when it holds the lock."""
    pid, _, since = os.pread(file, 80, 0).decode("ascii", "replace").partition("\n")
    return pid.strip(), since.strip()


def _take(file: int, *, patience: float) -> bool:
    """Lock the file; `holder` may have it for microseconds, so one refusal does not count."""
    deadline = time.monotonic() + patience
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                return False
            time.sleep(_PATIENCE / 10)  # a lock cannot be waited for with a limit
        else:
            return True
