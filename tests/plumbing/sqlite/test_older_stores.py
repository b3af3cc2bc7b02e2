"""What an earlier pushtrain left is read, and goes on. The code of those days wrote the fixtures."""

from pathlib import Path

import apsw
import pytest

from pushtrain.core.lifecycle import Exited, Published
from pushtrain.core.values.states import Outcome, Reason, State
from pushtrain.plumbing.sqlite.database import MIGRATIONS
from pushtrain.plumbing.sqlite.store import Store
from pushtrain.testing import NOON, Clock, a_gpu

STORES = Path(__file__).parents[2] / "fixtures" / "store"
LEFT = {
    "done": State.DONE,
    "pending": State.PUBLISHING,
    "running": State.RUNNING,
    "preparing": State.PREPARING,
}


def left_by(version: int, folder: Path) -> Path:
    path = folder / "store.db"
    old = apsw.Connection(str(path))
    old.execute((STORES / f"version-{version}.sql").read_text())
    assert old.pragma("user_version") == version
    old.close()
    return path


def versions() -> list[int]:
    return sorted(int(file.stem.removeprefix("version-")) for file in STORES.glob("version-*.sql"))


def test_a_store_of_the_version_before_this_one_stands_here() -> None:
    """Whoever adds a migration puts a store of the version before beside the others."""
    assert versions()[-1] == len(MIGRATIONS)


@pytest.mark.parametrize("version", versions())
def test_runs_of_every_state_that_an_earlier_pushtrain_left_go_on(version: int, tmp_path: Path) -> None:
    store = Store(left_by(version, tmp_path), clock=Clock(NOON + 1e6))
    runs = {run.command.job.name: run for run in store.runs(limit=9) if run.command.job.name != "queued"}
    assert {name: run.state for name, run in runs.items()} == LEFT
    assert runs["done"].outcome is Outcome.SUCCEEDED
    assert runs["done"].result_path == "runs/done/x"
    assert [run.id for run in store.publishable(NOON + 1e6)] == [runs["pending"].id]
    assert {run.id for run in store.active()} == {runs["running"].id, runs["preparing"].id}
    for run in runs.values():
        [attempt] = store.attempts(run.id)
        assert attempt.executor == "lab-3"
        assert [event.kind for event in store.events(run.id)][:2] == ["accepted", "claimed"]
    assert store.counts()[0] == 2

    # What runs is brought to its end, and what waits has its turn.
    running = runs["running"]
    ended = store.attempts(running.id)[0].model_copy(update={"exit_code": 0})
    store.advance(running.id, Exited(Reason.EXITED, 0), token=running.token, attempt=ended)
    assert store.advance(running.id, Published(commit="d" * 40, path="x")).outcome is Outcome.SUCCEEDED
    claimed = [store.claim(slots=9, gpus=(a_gpu(),), executor="lab-3") for _ in range(2)]
    assert {turn[0].command.job.resources.gpus for turn in claimed if turn is not None} == {0, 1}
    store.close()


@pytest.mark.parametrize("version", versions())
def test_what_an_earlier_sender_had_to_send_is_still_sent(version: int, tmp_path: Path) -> None:
    store = Store(left_by(version, tmp_path), clock=Clock(NOON + 1e6))
    assert {one.command.job.name: one.state for one in store.outbox()} == {
        "sent": "delivered",
        "waits": "waiting",
    }
    assert [one.command.job.name for one in store.outbox_due(NOON + 1e6)] == ["waits"]
    assert [heard.note for heard in store.pushes()] == ["2 runs"]
    assert not store.record_push(store.pushes()[0].push, source="webhook")
    assert store.tips("github.com/octo/hello") == {"refs/heads/main": "2" * 40}
    store.close()
