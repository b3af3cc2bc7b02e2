"""One SQLite file with one connection: what is written is on the disk before `write` returns.

WAL with `synchronous=FULL`, a private file (mode 0600), a schema version. Writes that wait for each other
share one transaction (group commit): each runs in a savepoint of its own, so one that fails takes nothing
with it, and one flush to the disk serves them all. Nothing here ever waits for a network, git or a process.

Another process may read the file at the same time (`read_only`): it makes, changes and migrates nothing, and
neither side waits for the other.
"""

import logging
import os
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import resources
from pathlib import Path
from typing import Any, Final, Generic, TypeVar

import apsw

from pushtrain.core.errors import StorageError

log = logging.getLogger(__name__)
T = TypeVar("T")

MIGRATIONS: Final[tuple[str, ...]] = (
    """CREATE TABLE statuses (
        run_id  TEXT PRIMARY KEY REFERENCES runs (id),
        told    TEXT NOT NULL,
        settled INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID""",
    """CREATE TABLE cards (
        fingerprint TEXT PRIMARY KEY,
        sequence    INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID""",
    """ALTER TABLE outbox ADD COLUMN placed_at REAL NOT NULL DEFAULT 0;
    ALTER TABLE outbox ADD COLUMN accepted_at REAL NOT NULL DEFAULT 0;
    UPDATE outbox SET placed_at = updated_at WHERE executor <> '';
    CREATE INDEX outbox_there ON outbox (executor, state) WHERE state IN ('delivered', 'recalling')""",
    "CREATE INDEX runs_again ON runs (commit_id, seq) WHERE request <> ''",
)
"""SQL scripts; the n-th (from 1) leads from version n to n + 1. `schema.sql` is always the newest version."""

_BUSY_MS: Final = 10_000
_DAMAGED = (apsw.CorruptError, apsw.NotADBError)


class Database:
    """A store's file, open.

    Args:
        path: The file; made when it is not there.
        migrations: For tests of the migration itself.
        read_only: Whether to read what is there, beside the process that writes it.

    Raises:
        StorageError: The file cannot be used: damaged, of a newer pushtrain, not writable; to be read only
            and not there, or of an older pushtrain.
    """

    def __init__(
        self, path: Path, *, migrations: Sequence[str] = MIGRATIONS, read_only: bool = False
    ) -> None:
        self.path = path
        self._purpose = "reading" if read_only else "writing"
        self._lock = threading.Lock()
        self._waiting: deque[_Ticket[Any]] = deque()
        with self._explained():
            if read_only:
                self._connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
            else:
                os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
                path.chmod(0o600)
                self._connection = apsw.Connection(str(path))
        try:
            with self._explained():
                self._connection.set_busy_timeout(_BUSY_MS)
                if read_only:
                    self._current(migrations)
                    return
                self._connection.execute("PRAGMA journal_mode = WAL")
                self._connection.execute("PRAGMA synchronous = FULL")
                self._connection.execute("PRAGMA foreign_keys = ON")
                self._migrate(migrations)
        except BaseException:
            self._connection.close()
            raise

    def close(self) -> None:
        """Close the file; calls after this raise StorageError."""
        with self._lock:
            self._connection.close()

    def read(self, work: Callable[[apsw.Connection], T]) -> T:
        """Run `work`, which only reads."""
        with self._lock, self._explained():
            return work(self._connection)

    def write(self, work: Callable[[apsw.Connection], T]) -> T:
        """Run `work` in a transaction; once this returns, what it wrote survives a power cut.

        An exception in `work` undoes what `work` did and is raised here.
        """
        ticket = _Ticket(work)
        self._waiting.append(ticket)
        with self._lock:
            if not ticket.done:
                self._commit_waiting()
        return ticket.take()

    def _commit_waiting(self) -> None:
        """Do everything that waits, in one transaction. Called with the lock held."""
        tickets: list[_Ticket[Any]] = []
        while self._waiting:
            tickets.append(self._waiting.popleft())
        connection = self._connection
        try:
            with self._explained():
                connection.execute("BEGIN IMMEDIATE")
                for ticket in tickets:
                    connection.execute("SAVEPOINT one")
                    try:
                        ticket.value = ticket.work(connection)
                    except Exception as error:
                        if not connection.in_transaction:
                            raise
                        ticket.error = self._explain(error) if isinstance(error, apsw.Error) else error
                        connection.execute("ROLLBACK TO one")
                    connection.execute("RELEASE one")
                connection.execute("COMMIT")
        except StorageError as error:
            self._undo()
            for ticket in tickets:
                ticket.error = error
        except BaseException:
            self._undo()
            for ticket in tickets:
                ticket.error = StorageError(
                    f"Writing the store {self.path} was interrupted.", mend="Try again."
                )
            raise
        finally:
            for ticket in tickets:
                ticket.done = True

    def _undo(self) -> None:
        try:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
        except apsw.Error:
            log.exception("a failed transaction of %s could not be rolled back", self.path)

    def _current(self, migrations: Sequence[str]) -> None:
        """See that the file is of our version, without changing it."""
        version, ours = self._newest(migrations)
        if version < ours:
            raise StorageError(
                f"The store {self.path} was written by an older pushtrain "
                f"(its format is {version}, this one reads {ours}).",
                mend="The next start brings it up to date: `pushtrain up`, `executor` or `sender`.",
            )

    def _migrate(self, migrations: Sequence[str]) -> None:
        connection = self._connection
        version, newest = self._newest(migrations)
        if version == newest:
            return
        connection.execute("BEGIN EXCLUSIVE")
        try:
            version = self._version()
            if version == 0:
                connection.execute(resources.files("pushtrain.plumbing").joinpath("schema.sql").read_text())
            for script in migrations[version - 1 :] if version else ():
                connection.execute(script)
            connection.execute(f"PRAGMA user_version = {newest:d}")
            connection.execute("COMMIT")
        except BaseException:
            self._undo()
            raise

    def _newest(self, migrations: Sequence[str]) -> tuple[int, int]:
        """The file's version, and ours; the file's is not the newer one."""
        version, newest = self._version(), 1 + len(migrations)
        if version > newest:
            raise StorageError(
                f"The store {self.path} was written by a newer pushtrain "
                f"(its format is {version}, this one knows {newest}).",
                mend="Upgrade pushtrain, or choose another state folder with `--state`.",
            )
        return version, newest

    def _version(self) -> int:
        return int(self._connection.pragma("user_version"))

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Turn what SQLite and the system say into a StorageError with its mend."""
        try:
            yield
        except (apsw.Error, OSError) as error:
            raise self._explain(error) from error

    def _explain(self, error: Exception) -> StorageError:
        if isinstance(error, apsw.FullError):
            why, mend = "the disk is full", "Free some space; nothing that was accepted is lost."
        elif isinstance(error, _DAMAGED):
            why = "the file is damaged or is not a store"
            mend = "Stop pushtrain and move the file aside; a new one is made, and runs can be sent again."
        elif isinstance(error, apsw.BusyError | apsw.LockedError):
            why, mend = (
                "another process has been writing it for too long",
                "See which one with `pushtrain doctor`.",
            )
        elif isinstance(
            error, apsw.ReadOnlyError | apsw.CantOpenError | apsw.PermissionsError | PermissionError
        ):
            why = f"it cannot be opened for {self._purpose} ({error})"
            mend = "Check who owns the state folder."
        elif isinstance(error, apsw.ConnectionClosedError):
            why, mend = "it has been closed", "Start pushtrain again."
        else:
            why, mend = str(error), "Check the disk (`dmesg`, `df`); nothing that was accepted is lost."
        return StorageError(f"The store {self.path} cannot be used: {why}.", mend=mend)


class _Ticket(Generic[T]):
    """One write that waits for its transaction."""

    __slots__ = ("done", "error", "value", "work")

    def __init__(self, work: Callable[[apsw.Connection], T]) -> None:
        self.work = work
        self.done = False
        self.error: BaseException | None = None
        self.value: T | None = None

    def take(self) -> T:
        if self.error is not None:
            raise self.error
        return self.value  # type: ignore[return-value]  # done without an error: it is what work returned
