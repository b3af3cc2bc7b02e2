"""One SQLite file with one connection: what is written is on the disk before `write` returns.

WAL with `synchronous=FULL`, a private file (mode 0600), a schema version. Writes that wait for each other
share one transaction (group commit): each runs in a savepoint of its own, so one that fails takes nothing
with it, and one flush to the disk serves them all. Nothing here ever waits for a network, git or a process.

Damage is told, never answered from: each page has a checksum (`checksums`), and the count of transactions is
kept outside as well (`highwater`), so that a journal whose end is missing is noticed. A copy is kept beside
the file before each migration and whenever `copy()` is called; `salvage` puts a store together again.

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

from pushtrain.core.errors import StorageError, StoreDamaged
from pushtrain.plumbing.disk.files import sync_folder
from pushtrain.plumbing.sqlite import checksums
from pushtrain.plumbing.sqlite.highwater import HighWater

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
    "CREATE TABLE transactions (count INTEGER NOT NULL) STRICT; INSERT INTO transactions VALUES (0)",
    """CREATE TABLE usage (
        day         INTEGER NOT NULL,
        sender      TEXT NOT NULL,
        repository  TEXT NOT NULL,
        attempts    INTEGER NOT NULL,
        seconds     REAL NOT NULL,
        gpu_seconds REAL NOT NULL,
        cpu_seconds REAL NOT NULL,
        joules      REAL NOT NULL,
        estimated   INTEGER NOT NULL,
        waited      REAL NOT NULL,
        PRIMARY KEY (day, sender, repository)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE stood (
        day     INTEGER NOT NULL,
        what    TEXT NOT NULL,
        seconds REAL NOT NULL,
        wanted  REAL NOT NULL,
        PRIMARY KEY (day, what)
    ) STRICT, WITHOUT ROWID""",
    """ALTER TABLE runs ADD COLUMN gpu_capability INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE runs ADD COLUMN gpu_share INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE runs ADD COLUMN sender TEXT NOT NULL DEFAULT '';
    ALTER TABLE runs ADD COLUMN rank REAL NOT NULL DEFAULT 0;
    UPDATE runs SET sender = coalesce(json_extract(value, '$.sender'), ''),
        rank = coalesce(json_extract(value, '$.accepted_at'), 0);
    DROP INDEX runs_queued;
    CREATE INDEX runs_queued ON runs (sender, repository, gpus > 0, rank, seq, not_before)
        WHERE state = 'queued'""",
    """CREATE TABLE asked (
        run_id  TEXT NOT NULL REFERENCES runs (id),
        sender  TEXT NOT NULL,
        command TEXT NOT NULL,
        raw     BLOB NOT NULL,
        headers TEXT NOT NULL,
        PRIMARY KEY (run_id, sender)
    ) STRICT, WITHOUT ROWID""",
)
"""SQL scripts; the n-th (from 1) leads from version n to n + 1. `schema.sql` is always the newest version."""

_BUSY_MS: Final = 10_000
_DAMAGED = (apsw.CorruptError, apsw.NotADBError)
MEND: Final = (
    "Stop pushtrain and run `pushtrain store recover`: it saves what can be read, takes the rest from the "
    "copy that is kept, and tells what is missing."
)


class Database:
    """A store's file, open.

    Args:
        path: The file; made when it is not there.
        migrations: For tests of the migration itself.
        read_only: Whether to read what is there, beside the process that writes it.
        vfs: SQLite's layer below, by name; None: the one that checks pages, else the system's.

    Raises:
        StoreDamaged: The file is damaged, or its journal was cut off.
        StorageError: The file cannot be used: of a newer pushtrain, not writable; to be read only and not
            there, or of an older pushtrain.
    """

    def __init__(
        self,
        path: Path,
        *,
        migrations: Sequence[str] = MIGRATIONS,
        read_only: bool = False,
        vfs: str | None = None,
    ) -> None:
        self.path = path
        self._purpose = "reading" if read_only else "writing"
        self._vfs = vfs or checksums.vfs()
        self._count = 0
        self._mark: HighWater | None = None
        self._lock = threading.Lock()
        self._waiting: deque[_Ticket[Any]] = deque()
        with self._explained():
            if read_only:
                self._connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY, vfs=self._vfs)
            else:
                os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
                path.chmod(0o600)
                self._connection = apsw.Connection(str(path), vfs=self._vfs)
        try:
            with self._explained():
                self._connection.set_busy_timeout(_BUSY_MS)
                if read_only:
                    self._current(migrations)
                    return
                self._keep_older(migrations)
                if self._vfs == checksums.NAME:
                    checksums.add(self._connection)
                self._connection.execute("PRAGMA journal_mode = WAL")
                self._connection.execute("PRAGMA synchronous = FULL")
                self._connection.execute("PRAGMA foreign_keys = ON")
                self._migrate(migrations)
                self._look_for_lost_writes()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the file; calls after this raise StorageError."""
        with self._lock:
            self._connection.close()
            if self._mark is not None:
                self._mark.close()

    def copy(self) -> Path:
        """Keep a copy of the store as it is now, in place of the one before; where it is.

        Nobody has to wait: it is read by a connection of its own.

        Raises:
            StorageError: It could not be written; the one before stands.
        """
        return self._copy_to(copy_of(self.path))

    def _copy_to(self, place: Path) -> Path:
        fresh = place.with_name(f".{place.name}.new")
        with self._explained():
            try:
                fresh.unlink(missing_ok=True)
                os.close(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
                reader = apsw.Connection(str(self.path), flags=apsw.SQLITE_OPEN_READONLY, vfs=self._vfs)
                try:
                    reader.set_busy_timeout(_BUSY_MS)
                    reader.execute("VACUUM INTO ?", (str(fresh),))
                finally:
                    reader.close()
                descriptor = os.open(fresh, os.O_RDONLY | os.O_CLOEXEC)
                try:
                    os.fsync(descriptor)
                finally:
                    os.close(descriptor)
                fresh.replace(place)
                sync_folder(place.parent)
            finally:
                fresh.unlink(missing_ok=True)
        return place

    def _keep_older(self, migrations: Sequence[str]) -> None:
        """Before a migration, keep the store of the older version as it is."""
        version, newest = self._newest(migrations)
        if 0 < version < newest:
            self._copy_to(self.path.with_name(f"{self.path.name}.version-{version}"))

    def _look_for_lost_writes(self) -> None:
        """Compare the count of transactions within the file with the one beside it."""
        self._mark = HighWater(mark_of(self.path))
        self._count = int(self._connection.execute("SELECT count FROM transactions").get)
        expected = self._mark.read()
        if expected > self._count:
            missing = expected - self._count
            raise StoreDamaged(
                f"The store {self.path} has lost its last {missing} write{'s' if missing != 1 else ''}: its "
                "journal was damaged or cut off, or an older file was put in its place.",
                mend=MEND,
            )
        self._mark.write(self._count)

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
        try:
            with self._explained():
                self._transact(tickets)
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

    def _transact(self, tickets: "list[_Ticket[Any]]") -> None:
        connection = self._connection
        before = connection.total_changes()
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
        changed = connection.total_changes() != before
        if changed:
            connection.execute("UPDATE transactions SET count = ?", (self._count + 1,))
        connection.execute("COMMIT")
        if changed:
            self._count += 1
            self._note_count()

    def _note_count(self) -> None:
        """After the commit, so a failure takes nothing back: the mark then lags, which it may."""
        try:
            if self._mark is not None:
                self._mark.write(self._count)
        except OSError as error:
            log.warning("the mark of %s could not be written: %s", self.path, error)

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
                connection.execute(
                    resources.files("pushtrain.plumbing.sqlite").joinpath("schema.sql").read_text()
                )
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
        elif isinstance(error, _DAMAGED) or getattr(error, "extendedresult", 0) == apsw.SQLITE_IOERR_DATA:
            return StoreDamaged(
                f"The store {self.path} cannot be used: the file is damaged or is not a store.", mend=MEND
            )
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


def copy_of(path: Path) -> Path:
    """Where the copy of a store is kept."""
    return path.with_name(f"{path.name}.copy")


def mark_of(path: Path) -> Path:
    """Where a store's count of transactions is kept."""
    return path.with_name(f"{path.name}-mark")


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
