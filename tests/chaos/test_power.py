"""Acknowledged means kept: whatever call the power fails at, and whatever the disk refuses."""

from itertools import count
from pathlib import Path

import apsw
import pytest
from forgetful import Layer, PowerCut, cut_at, failing

from pushtrain.core.errors import StorageError
from pushtrain.core.lifecycle import Exited, Prepared, Published
from pushtrain.core.values.run import Run
from pushtrain.core.values.states import Reason
from pushtrain.plumbing.sqlite.database import MIGRATIONS, Database
from pushtrain.plumbing.sqlite.store import Store
from pushtrain.testing import a_command

# SQLite goes on calling a while after the power is gone; those calls fail as well, unseen.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
_names = count()


class OnLayer(Store):
    """A store on a file layer of ours."""

    def __init__(self, path: Path, layer: str) -> None:
        self._database = Database(path, vfs=layer)
        self._clock = lambda: 1_790_000_000.0


@pytest.fixture
def name() -> str:
    return f"forgetful-{next(_names)}"


def accept(store: Store, number: int) -> Run:
    run, _ = store.accept(
        a_command(request=f"r{number}"),
        sender="SHA256:x",
        raw=b"{}",
        headers={},
        nonce=f"n{number}",
        nonce_expires=10**12,
        queue_limit=1000,
    )
    return run


def work(store: Store, kept: dict[str, str]) -> None:
    """Three runs, one of them to its end; what was acknowledged goes into `kept`, by id."""
    for number in range(3):
        run = accept(store, number)
        kept[run.id] = run.state
    run, _ = store.claim(slots=1, gpus=(), executor="lab") or pytest.fail("nothing to claim")
    kept[run.id] = run.state
    for event in (Prepared(), Exited(Reason.EXITED, 0), Published("c" * 40, "runs/x")):
        kept[run.id] = store.advance(run.id, event, token=run.token).state


def calls_of_a_whole_life(folder: Path, name: str) -> int:
    layer = Layer(name, lambda *_: None)
    store = OnLayer(folder / "store.db", name)
    work(store, {})
    store.close()
    return layer.calls


@pytest.mark.slow
def test_what_was_acknowledged_survives_a_power_cut_at_every_single_call(tmp_path: Path, name: str) -> None:
    (tmp_path / "whole").mkdir()
    total = calls_of_a_whole_life(tmp_path / "whole", name)
    assert total > 40
    for number in range(1, total + 1):
        before, after = tmp_path / f"{number}", tmp_path / f"{number}-after"
        before.mkdir()
        after.mkdir()
        layer = Layer(f"{name}-{number}", cut_at(number))
        kept: dict[str, str] = {}
        store: OnLayer | None = None
        try:
            store = OnLayer(before / "store.db", f"{name}-{number}")
            work(store, kept)
        except (PowerCut, StorageError):
            pass
        layer.leave_behind(after, number)
        if (before / "store.db-mark").exists() and kept:
            (after / "store.db-mark").write_bytes((before / "store.db-mark").read_bytes())
        layer.trouble = lambda *_: None
        if store is not None:
            store.close()
        if (after / "store.db").exists():
            found = Store(after / "store.db")
            ladder = ["queued", "preparing", "running", "publishing", "done"]
            for run_id, state in kept.items():
                there = found.run(run_id).state
                assert ladder.index(there) >= ladder.index(state), f"call {number}: {there} < {state}"
            assert len(found.runs()) <= 3
            found.close()
        else:
            assert not kept


@pytest.mark.parametrize("error", [apsw.FullError, apsw.IOError])
def test_a_disk_that_refuses_is_never_acknowledged_and_loses_nothing(
    tmp_path: Path, name: str, error: type[apsw.Error]
) -> None:
    layer = Layer(name, lambda *_: None)
    store = OnLayer(tmp_path / "store.db", name)
    kept = [accept(store, 0).id]
    refused = 0
    for number in range(1, 25):
        at = layer.calls
        layer.trouble = failing(range(at + 1 + number % 6, at + 10_000), error)
        try:
            kept.append(accept(store, 100 + number).id)
        except StorageError:
            refused += 1
        layer.trouble = lambda *_: None
        kept.append(accept(store, 200 + number).id)  # it works again at once
    assert refused > 10
    assert StorageError.status == 503
    assert {run.id for run in store.runs(limit=1000)} == set(kept)
    store.close()
    again = Store(tmp_path / "store.db")
    assert {run.id for run in again.runs(limit=1000)} == set(kept)
    again.close()


@pytest.mark.slow
def test_a_migration_that_dies_at_any_call_leaves_the_old_store_or_the_new_one(
    tmp_path: Path, name: str
) -> None:
    first = (Path(__file__).parents[1] / "fixtures" / "store" / "version-1.sql").read_text()
    old = tmp_path / "old.db"
    connection = apsw.Connection(str(old), vfs="unix")
    connection.execute(first)
    assert connection.pragma("user_version") == 1
    connection.close()
    number = 0
    while True:
        number += 1
        before, after = tmp_path / f"{number}", tmp_path / f"{number}-after"
        before.mkdir()
        after.mkdir()
        (before / "store.db").write_bytes(old.read_bytes())
        layer = Layer(f"{name}-{number}", cut_at(number))
        finished = False
        database: Database | None = None
        try:
            database = Database(before / "store.db", vfs=f"{name}-{number}")
            finished = True
        except (PowerCut, StorageError):
            pass
        layer.leave_behind(after, number)
        layer.trouble = lambda *_: None
        if database is not None:
            database.close()
        found = Database(after / "store.db")
        assert (
            found.read(lambda db: db.execute("SELECT count(*) FROM runs JOIN attempts ON id = run_id").get)
            == 4
        )
        assert found.read(lambda db: db.execute("SELECT state FROM outbox").get) == ["delivered", "waiting"]
        assert found.read(lambda db: db.pragma("user_version")) == 1 + len(MIGRATIONS)
        found.close()
        if finished:
            break
    assert number > 10
