"""A store that is damaged says so, and can be put together again; nothing starts twice because of it."""

import shutil
from contextlib import closing
from pathlib import Path

import apsw
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pushtrain.cli.app import run
from pushtrain.core.errors import StorageError, StoreDamaged
from pushtrain.core.lifecycle import Exited, Prepared
from pushtrain.core.values.run import Run
from pushtrain.core.values.states import Reason, State
from pushtrain.plumbing.sqlite import checksums
from pushtrain.plumbing.sqlite.database import MIGRATIONS, Database, copy_of, mark_of
from pushtrain.plumbing.sqlite.salvage import recover
from pushtrain.plumbing.sqlite.soundness import damage, looked_through
from pushtrain.plumbing.sqlite.store import Store
from pushtrain.plumbing.sqlite.view import View
from pushtrain.testing import a_command, wait_until

PAGE = 4096


def fill(store: Store, count: int, start: int = 0) -> list[Run]:
    """Accept some runs."""
    return [
        store.accept(
            a_command(request=f"r{number}"),
            sender="SHA256:x",
            raw=b"{}",
            headers={},
            nonce=f"n{number}",
            nonce_expires=10**12,
            queue_limit=10_000,
        )[0]
        for number in range(start, start + count)
    ]


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of 60 runs with its copy, closed."""
    path = tmp_path_factory.mktemp("sound") / "store.db"
    store = Store(path)
    fill(store, 60)
    store.copy()
    store.close()
    return path


def another(path: Path, folder: Path) -> Path:
    """The store and what belongs to it, in another folder."""
    for file in path.parent.glob(f"{path.name}*"):
        shutil.copy(file, folder / file.name)
    return folder / path.name


def told(path: Path) -> str:
    """What is said when all of a store is read."""
    try:
        return damage(path)
    except StorageError as error:  # a version that cannot be, say
        return error.message


def test_pages_have_checksums_where_the_library_brings_them(sound: Path) -> None:
    assert checksums.vfs() == checksums.NAME  # apsw's wheel does
    connection = apsw.Connection(str(sound), vfs=checksums.NAME)
    assert checksums.checked(connection)
    connection.close()


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.integers(0, 10**9), bit=st.integers(0, 7))
def test_any_flipped_bit_is_told_and_never_answered_from(
    sound: Path, tmp_path_factory: pytest.TempPathFactory, place: int, bit: int
) -> None:
    path = another(sound, tmp_path_factory.mktemp("flipped"))
    data = bytearray(path.read_bytes())
    place %= len(data)
    data[place] ^= 1 << bit
    path.write_bytes(data)
    assert told(path)


def test_a_flip_that_plain_sqlite_does_not_see_is_found(sound: Path, tmp_path: Path) -> None:
    path = another(sound, tmp_path)
    flip(path)
    plain = apsw.Connection(str(path), vfs="unix")
    assert plain.execute("SELECT count(*) FROM runs").get == 60  # and it answers as if nothing had happened
    plain.close()
    assert "damaged" in damage(path)


def flip(path: Path) -> None:
    """Change one letter of a row that nobody asks for at a start."""
    data = bytearray(path.read_bytes())
    place = data.rindex(b"github.com/octo/hello")
    data[place] ^= 1
    path.write_bytes(data)


def test_a_start_refuses_a_store_of_which_any_page_is_damaged(sound: Path, tmp_path: Path) -> None:
    path = another(sound, tmp_path)
    with closing(Store(path)), looked_through(path):
        pass
    flip(path)
    with (
        closing(Store(path)),  # which alone sees nothing
        pytest.raises(StoreDamaged, match="damaged") as caught,
        looked_through(path),
    ):
        pytest.fail("it was served")
    assert "store recover" in caught.value.mend


def test_what_of_a_large_store_a_start_has_no_time_for_is_read_behind_it(
    sound: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = another(sound, tmp_path)
    flip(path)
    with closing(Store(path)), looked_through(path, at_once=-1):
        wait_until(lambda: "store recover" in caplog.text)
    assert [record.levelname for record in caplog.records] == ["ERROR"]


def test_a_room_does_not_open_on_a_damaged_store(
    sound: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flip(another(sound, tmp_path))
    assert (
        run(("sender", "--state", str(tmp_path), "--repo", "https://h.invalid/r")) == StoreDamaged.exit_code
    )
    assert "`pushtrain store recover`" in capsys.readouterr().err


def test_a_journal_that_was_cut_off_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    store = Store(path)
    fill(store, 5)
    crashed = tmp_path / "crashed"
    crashed.mkdir()
    fill(store, 5, start=5)
    another(path, crashed)
    store.close()
    wal = crashed / "store.db-wal"
    wal.write_bytes(wal.read_bytes()[: wal.stat().st_size // 2])
    with pytest.raises(StoreDamaged, match=r"has lost its last \d+ writes?") as caught:
        Store(crashed / "store.db")
    assert "store recover" in caught.value.mend


def test_a_journal_that_is_whole_after_a_kill_is_not_called_damaged(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    store = Store(path)
    fill(store, 5)
    killed = tmp_path / "killed"
    killed.mkdir()
    again = Store(another(path, killed))
    assert len(again.runs()) == 5
    again.close()
    store.close()


def test_a_mark_that_lags_after_a_power_cut_is_no_damage(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    store = Store(path)
    fill(store, 1)
    lagging = mark_of(path).read_bytes()
    fill(store, 3, start=1)
    store.close()
    for content in (lagging, b"", b"torn"):
        mark_of(path).write_bytes(content)
        Store(path).close()


def test_an_older_store_gets_its_checksums_and_keeps_what_it_holds(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    old = Database(path, vfs="unix", migrations=MIGRATIONS)
    old.write(lambda db: db.execute("INSERT INTO nonces VALUES ('kept', 0)"))
    old.close()
    store = Database(path)
    assert store.read(lambda db: db.execute("SELECT nonce FROM nonces").get) == "kept"
    assert store.read(checksums.checked)
    assert store.read(lambda db: db.pragma("journal_mode")) == "wal"
    store.close()


def test_before_a_migration_the_older_store_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    Database(path).close()
    Database(path, migrations=(*MIGRATIONS, "ALTER TABLE nonces ADD COLUMN note TEXT")).close()
    kept = Database(path.with_name(f"store.db.version-{1 + len(MIGRATIONS)}"), read_only=True)
    assert kept.read(lambda db: len(db.execute("PRAGMA table_info(nonces)").fetchall())) == 2
    kept.close()


def test_a_copy_is_whole_private_and_made_while_others_write(tmp_path: Path) -> None:
    store = Store(tmp_path / "store.db")
    fill(store, 3)
    place = store.copy()
    fill(store, 1, start=3)
    assert place.stat().st_mode & 0o777 == 0o600
    copy = View(place)
    assert len(copy.runs()) == 3
    copy.close()
    assert damage(place) == ""
    store.close()


@pytest.mark.parametrize("blow", ["page", "half", "head", "everything"])
def test_a_damaged_store_is_put_together_again(sound: Path, tmp_path: Path, blow: str) -> None:
    path = another(sound, tmp_path)
    data = bytearray(path.read_bytes())
    match blow:
        case "page":
            data[10 * PAGE : 11 * PAGE] = b"\xff" * PAGE
        case "half":
            del data[len(data) // 2 :]
        case "head":
            data[:PAGE] = bytes(PAGE)
        case "everything":
            data[:] = b"\xaa" * len(data)
    path.write_bytes(data)
    before = path.read_bytes()
    found = recover(path, tmp_path / "runs", moment="now")
    assert found.aside.read_bytes() == before
    store = Store(path)
    assert len(store.runs(limit=100)) == 60
    assert found.kept["runs"] + found.copied["runs"] + len(found.unchecked) == 60
    assert store.counts()[0] == 60  # the tally, which is made of the rows
    fill(store, 1, start=60)
    store.close()
    assert damage(path) == ""


def test_what_neither_file_nor_copy_has_is_told_by_its_folder(sound: Path, tmp_path: Path) -> None:
    path = another(sound, tmp_path)
    path.write_bytes(b"\xaa" * 10_000)
    copy_of(path).unlink()
    gone = "ab" * 16
    (tmp_path / "runs" / gone / "1").mkdir(parents=True)
    found = recover(path, tmp_path / "runs", moment="now")
    assert found.lost == [gone]
    store = Store(path)
    assert store.runs() == []
    store.close()


def test_a_run_that_had_begun_since_the_copy_is_looked_after_and_not_begun_again(tmp_path: Path) -> None:
    path, runs = tmp_path / "store.db", tmp_path / "runs"
    store = Store(path)
    (one, other) = fill(store, 2)
    store.copy()
    claimed = store.claim(slots=1, gpus=(), executor="lab")
    assert claimed is not None
    assert claimed[0].id == one.id
    (runs / one.id / "1").mkdir(parents=True)
    store.close()
    path.write_bytes(b"\xaa" * 10_000)
    found = recover(path, runs, moment="now")
    assert found.restarted == [one.id]
    store = Store(path)
    assert store.run(one.id).state is State.PREPARING
    assert store.run(one.id).attempt == 1
    assert [run.id for run in store.active()] == [one.id]
    assert store.run(other.id).state is State.QUEUED
    assert store.claim(slots=1, gpus=(), executor="lab") is None  # its slot is taken
    store.close()


def test_a_store_that_was_requeued_by_itself_stays_queued(tmp_path: Path) -> None:
    path, runs = tmp_path / "store.db", tmp_path / "runs"
    store = Store(path)
    (one,) = fill(store, 1)
    run, _ = store.claim(slots=1, gpus=(), executor="lab") or pytest.fail("nothing to claim")
    store.advance(one.id, Prepared(), token=run.token)
    store.advance(one.id, Exited(Reason.EXITED, 0), token=run.token)
    (runs / one.id / "1").mkdir(parents=True)
    store.copy()
    store.close()
    path.write_bytes(b"\xaa" * 10_000)
    found = recover(path, runs, moment="now")
    assert found.restarted == []
    store = Store(path)
    assert store.run(one.id).state is State.PUBLISHING
    store.close()
