"""One file, one connection: durable, private, versioned, and clear about what is wrong."""

import stat
import subprocess
import sys
import threading
from functools import partial
from pathlib import Path

import apsw
import pytest

from pushtrain.core.errors import Busy, StorageError
from pushtrain.plumbing.sqlite.database import MIGRATIONS, Database


def insert(db: apsw.Connection, nonce: str) -> str:
    db.execute("INSERT INTO nonces VALUES (?, 0)", (nonce,))
    return nonce


def nonces(database: Database) -> set[str]:
    return database.read(lambda db: {row[0] for row in db.execute("SELECT nonce FROM nonces")})


def test_the_file_is_private_to_its_user(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    path.touch(mode=0o644)
    database = Database(path)
    database.write(lambda db: insert(db, "a"))
    modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in tmp_path.iterdir()}
    names = ("store.db", "store.db-wal", "store.db-shm", "store.db-mark")
    assert modes == dict.fromkeys(names, 0o600)
    database.close()


def test_writes_wait_for_the_disk(tmp_path: Path) -> None:
    database = Database(tmp_path / "store.db")
    assert database.read(lambda db: db.pragma("synchronous")) == 2
    assert database.read(lambda db: db.pragma("journal_mode")) == "wal"
    database.close()


def test_a_write_that_fails_takes_nothing_with_it(tmp_path: Path) -> None:
    database = Database(tmp_path / "store.db")

    def half(db: apsw.Connection) -> None:
        insert(db, "half")
        raise Busy("no room")

    with pytest.raises(Busy):
        database.write(half)
    database.write(lambda db: insert(db, "whole"))
    assert nonces(database) == {"whole"}
    database.close()


def test_writes_that_wait_for_each_other_share_one_flush_and_fail_alone(tmp_path: Path) -> None:
    database = Database(tmp_path / "store.db")
    commits: list[int] = []

    def committed() -> bool:
        commits.append(1)
        return False

    database._connection.set_commit_hook(committed)
    entered, gate = threading.Event(), threading.Event()
    outcomes: dict[str, str] = {}

    def slow(db: apsw.Connection) -> str:
        entered.set()
        gate.wait(20)
        return insert(db, "first")

    def attempt(name: str) -> None:
        try:
            outcomes[name] = database.write(lambda db: insert(db, name))
        except StorageError as error:
            outcomes[name] = error.message

    first = threading.Thread(target=database.write, args=(slow,))
    first.start()
    assert entered.wait(20)
    others = [threading.Thread(target=attempt, args=(name,)) for name in ("a", "b", "first", "c")]
    for other in others:
        other.start()
    while len(database._waiting) < 4:
        threading.Event().wait(0.001)
    gate.set()
    for thread in (first, *others):
        thread.join(20)
    assert nonces(database) == {"first", "a", "b", "c"}
    assert {name for name, said in outcomes.items() if said == name} == {"a", "b", "c"}
    assert "UNIQUE" in outcomes["first"]
    assert len(commits) == 2
    database.close()


def test_a_full_disk_says_so_and_loses_nothing(tmp_path: Path) -> None:
    database = Database(tmp_path / "store.db")
    database.write(lambda db: insert(db, "kept"))
    pages = database.read(lambda db: db.pragma("page_count"))
    database.read(lambda db: db.pragma("max_page_count", pages + 2))
    with pytest.raises(StorageError, match="the disk is full") as caught:
        database.write(lambda db: insert(db, "x" * 100_000))
    assert "Free some space" in caught.value.mend
    database.read(lambda db: db.pragma("max_page_count", 1 << 30))
    database.write(lambda db: insert(db, "later"))
    assert nonces(database) == {"kept", "later"}
    database.close()


def test_a_file_that_is_no_store_says_so(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    path.write_bytes(b"not a database at all, but long enough to have a header" * 100)
    with pytest.raises(StorageError, match="damaged or is not a store") as caught:
        Database(path)
    assert "pushtrain store recover" in caught.value.mend
    assert caught.value.exit_code == 8


def test_damage_found_later_says_so(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    database = Database(path)
    for number in range(200):
        database.write(partial(insert, nonce=f"{number}" * 50))
    database.close()
    whole = path.read_bytes()
    path.write_bytes(whole[:4096] + b"\xff" * (len(whole) - 4096))
    with pytest.raises(StorageError, match="damaged or is not a store"):
        nonces(Database(path))


def test_a_store_of_a_newer_pushtrain_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    newer = Database(path, migrations=(*MIGRATIONS, "CREATE TABLE later (x TEXT) STRICT"))
    newer.close()
    with pytest.raises(StorageError, match="written by a newer pushtrain") as caught:
        Database(path)
    assert "Upgrade" in caught.value.mend


def test_an_older_store_is_brought_forward_with_what_it_holds(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    old = Database(path)
    old.write(lambda db: insert(db, "kept"))
    old.close()
    steps = ("ALTER TABLE nonces ADD COLUMN note TEXT", "UPDATE nonces SET note = 'seen'")
    new = Database(path, migrations=(*MIGRATIONS, *steps))
    assert new.read(lambda db: db.execute("SELECT nonce, note FROM nonces").fetchall()) == [("kept", "seen")]
    assert new.read(lambda db: db.pragma("user_version")) == 3 + len(MIGRATIONS)
    new.close()


def test_a_store_of_the_first_version_becomes_what_a_new_one_is(tmp_path: Path) -> None:
    first = (Path(__file__).parents[2] / "fixtures" / "store" / "version-1.sql").read_text()
    old = apsw.Connection(str(tmp_path / "old.db"))
    old.execute(first)
    old.close()

    def tables(database: Database) -> dict[str, set[str]]:
        names = "SELECT name FROM sqlite_master WHERE type = 'table'"
        columns = "SELECT name || ' ' || type FROM pragma_table_info(?)"
        return database.read(
            lambda db: {
                str(name): {str(column) for (column,) in db.execute(columns, (name,))}
                for (name,) in db.execute(names).fetchall()
            }
        )

    brought, fresh = Database(tmp_path / "old.db"), Database(tmp_path / "new.db")
    assert tables(brought) == tables(fresh)
    brought.close()
    fresh.close()


def test_a_migration_that_fails_leaves_the_old_store(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    Database(path).close()
    with pytest.raises(StorageError):
        Database(
            path, migrations=(*MIGRATIONS, "ALTER TABLE nonces ADD COLUMN note TEXT; SELECT * FROM nowhere")
        )
    again = Database(path)
    columns = again.read(lambda db: [row[1] for row in db.execute("PRAGMA table_info(nonces)")])
    assert columns == ["nonce", "expires"]
    again.close()


def test_a_folder_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="cannot be used"):
        Database(tmp_path / "absent" / "store.db")
    (tmp_path / "folder.db").mkdir()
    with pytest.raises(StorageError, match="cannot be used"):
        Database(tmp_path / "folder.db")


def test_a_closed_store_says_so(tmp_path: Path) -> None:
    database = Database(tmp_path / "store.db")
    database.close()
    with pytest.raises(StorageError, match="has been closed"):
        nonces(database)
    with pytest.raises(StorageError, match="has been closed"):
        database.write(lambda db: insert(db, "late"))


def test_another_process_that_keeps_writing_is_named_as_the_cause(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    database, other = Database(path), apsw.Connection(str(path))
    other.execute("BEGIN IMMEDIATE")
    database._connection.set_busy_timeout(10)
    with pytest.raises(StorageError, match="another process has been writing"):
        database.write(lambda db: insert(db, "late"))
    other.execute("ROLLBACK")
    database.write(lambda db: insert(db, "on time"))
    assert nonces(database) == {"on time"}
    other.close()
    database.close()


def test_an_interrupted_write_is_undone_and_the_next_one_works(tmp_path: Path) -> None:
    database = Database(tmp_path / "store.db")

    def interrupted(db: apsw.Connection) -> None:
        insert(db, "half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        database.write(interrupted)
    database.write(lambda db: insert(db, "whole"))
    assert nonces(database) == {"whole"}
    database.close()


# --- read beside its writer -------------------------------------------------------------------------------

_WRITER = """
import sys
from pathlib import Path
from pushtrain.plumbing.sqlite.database import Database
database = Database(Path(sys.argv[1]))
for line in sys.stdin:
    database.write(lambda db: db.execute("INSERT INTO nonces VALUES (?, 0)", (line.strip(),)))
    print("written", flush=True)
"""


def test_another_process_reads_what_is_being_written_and_what_a_killed_writer_left(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    argv = (sys.executable, "-c", _WRITER, str(path))
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdin is not None
        assert child.stdout is not None

        def write(nonce: bytes) -> None:
            child.stdin.write(nonce + b"\n")  # type: ignore[union-attr]  # it is piped
            child.stdin.flush()  # type: ignore[union-attr]
            assert child.stdout.readline() == b"written\n"  # type: ignore[union-attr]

        write(b"first")
        reader = Database(path, read_only=True)
        assert nonces(reader) == {"first"}
        write(b"second")
        assert nonces(reader) == {"first", "second"}
        child.kill()
        child.wait()
    assert nonces(reader) == {"first", "second"}
    reader.close()
    after = Database(path, read_only=True)
    assert nonces(after) == {"first", "second"}
    after.close()


def test_a_reader_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    database = Database(path)
    database.write(lambda db: insert(db, "a"))
    database.close()
    before = path.read_bytes()
    reader = Database(path, read_only=True)
    with pytest.raises(StorageError, match="opened for reading"):
        reader.write(lambda db: insert(db, "b"))
    assert nonces(reader) == {"a"}
    reader.close()
    assert path.read_bytes() == before


def test_a_reader_makes_and_migrates_nothing(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    with pytest.raises(StorageError, match="opened for reading"):
        Database(path, read_only=True)
    assert not path.exists()
    Database(path, migrations=MIGRATIONS[:-1]).close()
    with pytest.raises(StorageError, match="written by an older pushtrain") as caught:
        Database(path, read_only=True)
    assert "pushtrain up" in caught.value.mend
    path.unlink()
    Database(path, migrations=(*MIGRATIONS, "SELECT 1")).close()
    with pytest.raises(StorageError, match="written by a newer pushtrain"):
        Database(path, read_only=True)
    path.write_bytes(b"no store " * 1000)
    with pytest.raises(StorageError, match="damaged or is not a store"):
        Database(path, read_only=True)
