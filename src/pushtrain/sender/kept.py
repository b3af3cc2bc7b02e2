"""Commands that `pushtrain send` must not lose, one file each, from before the first byte leaves.

`send` opens no store: a server may hold the folder's. It writes each command here, tries to deliver it, and
takes the file away once an executor has refused. Once one has accepted, the file says so to the folder's
sender, this one or the next, which starts the run nowhere else. What is left (no executor answered, or it was
killed) the next `pushtrain send` or the folder's sender delivers. A file's lock says that somebody is at it;
a killed holder's lock is gone with it.

Sender and `send` may want to hand over the same run at the same moment. Each decides where it goes while it
alone holds the run (`alone`): it looks what the other wrote, follows that, and else writes its own.

`pushtrain cancel` leaves its wish here in the same way, an empty file named after the run: the folder's
sender holds the store, and looks here before it decides anything.
"""

import contextlib
import fcntl
import os
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from itertools import chain
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from pydantic import ValidationError

from pushtrain.core.errors import Conflict, StorageError
from pushtrain.core.values.command import TrainCommand
from pushtrain.core.values.value import Value
from pushtrain.plumbing.disk.files import replace, sync_folder

_SUFFIX: Final = ".json"
_SENT: Final = ".sent"
_WISH: Final = ".cancel"
_LOCKS: Final = "locks"
_PAUSE: Final = 0.01
_REMEMBERED: Final = 7 * 86400.0
"""Seconds after which what an executor has accepted is not told any more, where no sender ever asked."""


class _Kept(Value):
    """What a file holds."""

    command: TrainCommand
    executor: str = ""


class Entry:
    """One kept command, locked while it is held.

    Attributes:
        command: What is to be delivered.
        executor: Fingerprint of the executor that may have it already; empty: none.
    """

    def __init__(self, path: Path, handle: int, kept: _Kept) -> None:
        self.command = kept.command
        self.executor = kept.executor
        self._path = path
        self._handle = handle

    def place(self, executor: str) -> None:
        """Write down durably who gets it."""
        if executor != self.executor:
            handle = _write(self._path, _Kept(command=self.command, executor=executor))
            os.close(self._handle)
            self._handle, self.executor = handle, executor

    def delivered(self) -> None:
        """An executor has accepted it, and the folder's sender is to know: durably."""
        with _explained(self._path):
            self._path.replace(self._path.with_suffix(_SENT))
            sync_folder(self._path.parent)

    def remove(self) -> None:
        """It is taken care of; durably, or what is cancelled meanwhile would come back after a power cut."""
        with _explained(self._path):
            self._path.unlink(missing_ok=True)
            sync_folder(self._path.parent)

    def close(self) -> None:
        """Let go; what was not removed stays for whoever comes next."""
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class KeptCommands:
    """A folder of kept commands.

    Args:
        folder: `StateFolder.outbox`; made when first written to.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def keep(self, command: TrainCommand) -> Entry | None:
        """Write a command down durably and hold it; None when somebody is delivering the same one.

        A wish to cancel it is older than this wish to send it, and is gone.

        Raises:
            StorageError: It could not be written.
        """
        path = self._folder / f"{command.run_id}{_SUFFIX}"
        with _explained(path):
            self._folder.mkdir(mode=0o700, exist_ok=True)
        before = _locked(path, create=True)
        if before is None:
            return None
        try:
            known = _read(before)
            self.unwish(command.run_id)
            kept = _Kept(command=command, executor=known.executor if known else "")
            return Entry(path, _write(path, kept), kept)
        finally:
            os.close(before)

    @contextlib.contextmanager
    def alone(self, run_id: str, *, wait: bool) -> Iterator[bool]:
        """Hold a run while it is decided where it goes; whether that worked. Whoever dies lets go.

        Args:
            run_id: Which one.
            wait: Whether to wait for whoever holds it.

        Raises:
            StorageError: The lock could not be made.
        """
        path = self._folder / _LOCKS / run_id
        with _explained(path):
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle = _locked(path, create=True)
        while handle is None and wait:
            time.sleep(_PAUSE)  # another process holds it, and takes the locked file itself away
            handle = _locked(path, create=True)
        try:
            yield handle is not None
        finally:
            if handle is not None:
                path.unlink(missing_ok=True)
                os.close(handle)

    def executor_of(self, run_id: str) -> str:
        """The executor (its fingerprint) to which a `send` hands a run over, or has; empty: none.

        Raises:
            StorageError: It could not be read.
        """
        for suffix in (_SUFFIX, _SENT):  # in this order: the first becomes the second
            path = self._folder / f"{run_id}{suffix}"
            with _explained(path), contextlib.suppress(FileNotFoundError, ValidationError):
                if executor := _Kept.model_validate_json(path.read_bytes()).executor:
                    return executor
        return ""

    def peek(self) -> list[tuple[TrainCommand, str, float]]:
        """Each kept command, the executor that may have it, and since when it is kept; nothing is locked.

        Raises:
            StorageError: The folder could not be read.
        """
        found = []
        with _explained(self._folder):
            for path in sorted(self._folder.glob(f"*{_SUFFIX}")) if self._folder.is_dir() else ():
                try:
                    kept = _Kept.model_validate_json(path.read_bytes())
                    found.append((kept.command, kept.executor, path.stat().st_mtime))
                except (OSError, ValidationError):  # delivered just now, or being written
                    continue
        return found

    def drop(self, run_id: str) -> bool:
        """Take a kept command away; False when it is not here, or somebody is delivering it.

        Raises:
            Conflict: An executor may have it already.
            StorageError: It could not be taken away.
        """
        path = self._folder / f"{run_id}{_SUFFIX}"
        handle = _locked(path, create=False)
        if handle is None:
            return False
        try:
            kept = _read(handle)
            if kept is not None and kept.executor:
                raise Conflict(
                    f"An executor may have run {run_id[:8]} already: its answer was lost.",
                    mend="`pushtrain send` asks that executor again; then it can be cancelled there.",
                )
            with _explained(path):
                path.unlink(missing_ok=True)
                sync_folder(self._folder)
        finally:
            os.close(handle)
        return True

    def inherited(self, heirs: Mapping[str, str]) -> None:
        """Executors have new keys: what one may have, it has under its new fingerprint.

        Args:
            heirs: The new fingerprint for each former one.

        Raises:
            StorageError: A command could not be written.
        """
        for entry in chain(self.left(), self.sent()) if heirs else ():
            with entry:
                if entry.executor in heirs:
                    entry.place(heirs[entry.executor])

    # --- wishes to cancel ----------------------------------------------------------------------------------

    def wish_cancel(self, run_id: str) -> None:
        """Ask the folder's sender, this one or the next, to drop a command before any executor gets it.

        Raises:
            StorageError: The wish could not be written down.
        """
        path = self._folder / f"{run_id}{_WISH}"
        with _explained(path):
            self._folder.mkdir(mode=0o700, exist_ok=True)
            replace(path, b"")

    def wishes(self) -> list[str]:
        """Runs whose commands are to be dropped.

        Raises:
            StorageError: The folder could not be read.
        """
        with _explained(self._folder):
            return sorted(path.stem for path in self._folder.glob(f"*{_WISH}"))

    def unwish(self, run_id: str) -> None:
        """A wish has been seen to."""
        path = self._folder / f"{run_id}{_WISH}"
        with _explained(path):
            path.unlink(missing_ok=True)

    def stamp(self) -> int:
        """Another number whenever something has come here or gone; cheap to ask for."""
        try:
            return self._folder.stat().st_mtime_ns
        except OSError:
            return 0

    # --- what was left -------------------------------------------------------------------------------------

    def left(self) -> Iterator[Entry]:
        """What nobody is delivering, each to be closed by the caller. Damaged files are skipped.

        Raises:
            StorageError: The folder could not be read.
        """
        return self._entries(_SUFFIX, partial(_locked, create=False))

    def sent(self) -> Iterator[Entry]:
        """What executors have accepted from a `send`, each to be closed by the caller. It changes no more.

        Raises:
            StorageError: The folder could not be read.
        """
        return self._entries(_SENT, _opened)

    def forget(self, now: float) -> None:
        """Let go of what was accepted long ago where no sender serves the folder, and of dead ones' locks.

        A failure is nobody's: the next one tries again.
        """
        with contextlib.suppress(OSError):
            for path in (*self._folder.glob(f"*{_SENT}"), *self._folder.glob(f"{_LOCKS}/*")):
                if path.stat().st_mtime < now - _REMEMBERED:
                    path.unlink(missing_ok=True)

    def _entries(self, suffix: str, opened: Callable[[Path], int | None]) -> Iterator[Entry]:
        with _explained(self._folder):
            if not self._folder.is_dir():
                return
            found = sorted(self._folder.glob(f"*{suffix}"))
        for path in found:
            handle = opened(path)
            if handle is None:
                continue
            kept = _read(handle)
            if kept is None:
                os.close(handle)
            else:
                yield Entry(path, handle, kept)


def _opened(path: Path) -> int | None:
    with _explained(path):
        try:
            return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return None


def _locked(path: Path, *, create: bool) -> int | None:
    """The file, open and locked; None when another holds it, or it went away meanwhile."""
    try:
        handle = os.open(path, os.O_RDWR | os.O_CLOEXEC | (os.O_CREAT if create else 0), 0o600)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _failed(path, error) from error
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if path.stat().st_ino == os.fstat(handle).st_ino:
            return handle
    except OSError:
        pass
    os.close(handle)
    return None


def _write(path: Path, kept: _Kept) -> int:
    """Put the file in place, whole, durable and locked; returns its handle."""
    with _explained(path):
        fresh = path.with_name(f".{path.name}.{os.getpid()}")
        handle = os.open(fresh, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            os.write(handle, kept.model_dump_json().encode())
            os.fsync(handle)
            fresh.replace(path)
            sync_folder(path.parent)
        except BaseException:
            os.close(handle)
            raise
        return handle


def _read(handle: int) -> _Kept | None:
    """What an open file holds; None when it is damaged, which none is that `keep` returned from."""
    try:
        return _Kept.model_validate_json(os.pread(handle, os.fstat(handle).st_size, 0))
    except (OSError, ValidationError):
        return None


@contextlib.contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise _failed(path, error) from error


def _failed(path: Path, error: OSError) -> StorageError:
    return StorageError(
        f"{path} cannot be used: {error.strerror}.", mend="Check the disk and the folder's owner."
    )
