"""Put a damaged store together again from what can be read and the kept copy, and list what is missing.

Every table is read from both ends up to the damage. Rows that are not there are taken from the copy, and what
neither has, but an unchecked read still shows as a whole value, is taken last and named. The damaged file is
kept aside. Nothing starts twice because of it: a run whose folder holds an attempt that its row does not know
of is put down as being prepared, and the executor's start-up finds out from the folder what became of it.
"""

# ruff: noqa: S608  names of tables and columns come from our own schema; values are bound

import contextlib
import secrets
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import apsw
from pydantic import ValidationError

from pushtrain.core.errors import StorageError
from pushtrain.core.values.command import TrainCommand
from pushtrain.core.values.run import Artifact, Attempt, Run
from pushtrain.core.values.states import State
from pushtrain.plumbing.disk.files import sync_folder
from pushtrain.plumbing.sqlite import rows
from pushtrain.plumbing.sqlite.database import Database, copy_of, mark_of

Row = dict[str, Any]

_ACTIVE: Final = (State.QUEUED, State.PREPARING, State.RUNNING)
_COUNTED: Final = frozenset({"tally", "transactions"})
"""Tables that follow from the others."""


@dataclass(slots=True)
class Salvage:
    """What came of it."""

    aside: Path
    """The damaged file."""
    kept: dict[str, int] = field(default_factory=dict)
    """Rows by table that were read whole."""
    copied: dict[str, int] = field(default_factory=dict)
    """Rows by table that were taken from the copy."""
    unchecked: list[str] = field(default_factory=list)
    """Runs whose row could be read, but not checked against its checksum."""
    restarted: list[str] = field(default_factory=list)
    """Runs whose folder has an attempt that their row does not know: the next start looks after it."""
    lost: list[str] = field(default_factory=list)
    """Runs that have a folder and no row any more."""


def recover(path: Path, runs: Path, *, moment: str) -> Salvage:
    """Replace a damaged store by one that can be used. Nobody may serve it meanwhile.

    Args:
        path: The store's file.
        runs: The folder of the runs, which the store is compared with.
        moment: What the damaged file is called by, behind its name.

    Raises:
        StorageError: The new store could not be written; the damaged one stands as it was.
    """
    fresh = path.with_name(f".{path.name}.salvage")
    _remove(fresh)
    try:
        found = Salvage(aside=path.with_name(f"{path.name}.damaged-{moment}"))
        database = Database(fresh)
        try:
            sources = _Sources(path, copy_of(path))
            with contextlib.closing(sources):
                database.write(lambda db: _fill(db, sources, found))
            database.write(lambda db: _compare(db, runs, found))
        finally:
            database.close()
        _put_in_place(fresh, path, found.aside)
    except OSError as error:
        raise StorageError(
            f"The store {path} could not be put together again: {error.strerror}.", mend="Free some space."
        ) from error
    finally:
        _remove(fresh)
    return found


def _remove(store: Path) -> None:
    for ending in ("", "-wal", "-shm", "-mark", ".copy"):
        store.with_name(store.name + ending).unlink(missing_ok=True)


def _put_in_place(fresh: Path, path: Path, aside: Path) -> None:
    """The damaged file goes first, with its journal: a new store must never meet an old journal."""
    for ending in ("-wal", "-shm", ""):
        part = path.with_name(path.name + ending)
        if part.exists():
            part.replace(aside.with_name(aside.name + ending))
    mark_of(path).unlink(missing_ok=True)
    sync_folder(path.parent)
    fresh.replace(path)
    sync_folder(path.parent)


class _Sources:
    """The damaged file, read with and without its checksums, and the copy; None for what cannot be opened."""

    def __init__(self, path: Path, copy: Path) -> None:
        self.whole = _open(path)
        self.unchecked = _open(path, verify=False)
        self.copy = _open(copy) if copy.exists() else None

    def close(self) -> None:
        for each in (self.whole, self.unchecked, self.copy):
            if each is not None:
                each.close()


def _open(path: Path, *, verify: bool = True) -> apsw.Connection | None:
    try:
        connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
        if not verify:
            connection.execute("PRAGMA checksum_verification = OFF")
        connection.execute("SELECT count(*) FROM sqlite_master")
    except apsw.Error:
        return None
    return connection


@dataclass(frozen=True, slots=True)
class _Table:
    """A table of the new store, and what can be put into it."""

    name: str
    columns: tuple[str, ...]
    keys: tuple[str, ...]

    @classmethod
    def of(cls, db: apsw.Connection, name: str) -> "_Table":
        """As the schema has it."""
        found = db.execute(f"PRAGMA table_info({name})").fetchall()
        keys = tuple(str(column) for _, column, _, _, _, place in found if place) or ("rowid",)
        return cls(name, tuple(str(row[1]) for row in found), keys)

    def put(self, db: apsw.Connection, row: Row) -> bool:
        """Add a row; False when one with its key is there."""
        before = db.total_changes()
        db.execute(
            f"INSERT OR IGNORE INTO {self.name} ({', '.join(row)}) VALUES ({', '.join('?' * len(row))})",
            tuple(row.values()),
        )
        return db.total_changes() != before

    def rows(self, db: apsw.Connection | None) -> Iterator[Row]:
        """Every row that can be read, from the first key on up to the damage, then from the last one down.

        A source of an older version may lack columns, or the table.
        """
        if db is None:
            return
        try:
            there = {str(row[1]) for row in db.execute(f"PRAGMA table_info({self.name})")}
        except apsw.Error:
            return
        names = [name for name in self.columns if name in there]
        for direction in ("ASC", "DESC") if names else ():
            order = ", ".join(f"{key} {direction}" for key in self.keys)
            query = f"SELECT {', '.join(names)} FROM {self.name} NOT INDEXED ORDER BY {order}"
            try:
                for row in db.execute(query):
                    yield dict(zip(names, row, strict=True))
            except apsw.Error:
                continue
            return


def _fill(db: apsw.Connection, sources: _Sources, found: Salvage) -> None:
    db.execute("PRAGMA defer_foreign_keys = ON")
    names = [
        str(name)
        for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY rowid")
        if name not in _COUNTED and not str(name).startswith("sqlite_")
    ]
    for table in [_Table.of(db, name) for name in names]:
        found.kept[table.name] = sum(table.put(db, row) for row in table.rows(sources.whole))
        found.copied[table.name] = sum(table.put(db, row) for row in table.rows(sources.copy))
        for row in table.rows(sources.unchecked):
            if _sound(table, row) and table.put(db, row) and table.name == "runs":
                found.unchecked.append(str(row["id"]))
    for name, rowid, *_ in db.execute("PRAGMA foreign_key_check").fetchall():
        if rowid is not None:
            db.execute(f"DELETE FROM {name} WHERE rowid = ?", (rowid,))
    for name in names:
        if "run_id" in _Table.of(db, name).keys:  # these have no rowid
            db.execute(f"DELETE FROM {name} WHERE run_id NOT IN (SELECT id FROM runs)")


def _sound(table: _Table, row: Row) -> bool:
    """Whether a row that could not be checked is whole values at least."""
    try:
        match table.name:
            case "runs":
                run = rows.read(row["command"], row["value"])
                return (run.id, run.state.value) == (row["id"], row["state"])
            case "attempts":
                Attempt.model_validate_json(row["value"])
            case "artifacts":
                Artifact.model_validate_json(row["value"])
            case "outbox":
                TrainCommand.model_validate_json(row["command"])
            case _:
                return True
    except (ValidationError, TypeError, KeyError):
        return False
    return True


def _compare(db: apsw.Connection, runs: Path, found: Salvage) -> None:
    """Bring the rows in line with the folders, which are written by others."""
    for folder in sorted(runs.iterdir()) if runs.is_dir() else ():
        numbers = [int(each.name) for each in folder.iterdir() if each.name.isdigit()]
        try:
            run = rows.get(db, folder.name)
        except ValidationError:
            run = None
        if run is None:
            found.lost.append(folder.name)
        elif run.state in _ACTIVE and (newest := max(numbers, default=0)) > run.attempt:
            found.restarted.append(run.id)
            _as_claimed(db, run, newest)


def _as_claimed(db: apsw.Connection, run: Run, number: int) -> None:
    """Put a run down as being prepared in an attempt that its folder has; the next start looks closer."""
    token = secrets.token_hex(16)
    known = run.model_copy(update={"state": State.PREPARING, "attempt": number, "token": token})
    rows.put(db, known, before=run.state)
    rows.put_attempt(db, Attempt(run_id=run.id, number=number, executor="", claimed_at=run.updated_at))
    rows.tell(db, known, "recovered", "its record was restored after damage to the store", run.updated_at)
