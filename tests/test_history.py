"""A state folder read beside its server: what waits, was refused or cancelled, and what pushes became."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from pushtrain.cli.find import find_anywhere, find_runs
from pushtrain.core.errors import Conflict, NotFound, StorageError
from pushtrain.core.lifecycle import Released
from pushtrain.plumbing.disk.lock import FolderLock
from pushtrain.plumbing.disk.state import StateFolder
from pushtrain.plumbing.sqlite.database import MIGRATIONS, Database
from pushtrain.plumbing.sqlite.store import Store
from pushtrain.sender.kept import KeptCommands
from pushtrain.testing import COMMIT, NOON, SENDER, a_command, a_push, a_spec
from pushtrain.wiring.history import KEPT, History, Unsent, came_of, open_history


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StateFolder:
    monkeypatch.chdir(tmp_path)
    return StateFolder(tmp_path / "state").create()


@pytest.fixture
def store(state: StateFolder) -> Iterator[Store]:
    made = Store(state.store, clock=lambda: NOON)
    yield made
    made.close()


def test_what_no_executor_took_is_told_with_the_reason(state: StateFolder, store: Store) -> None:
    waits, refused, taken = (a_command(request=word) for word in ("waits", "refused", "taken"))
    store.settle_push(None, [waits, refused, taken], "starts 3 runs")
    store.outbox_waits({waits.run_id: "lab-1 is busy"})
    store.outbox_refused(refused.run_id, "It was not allowed.")
    store.outbox_delivered(taken.run_id)
    with FolderLock(state.lock):
        found = {one.id: one for one in History(state).unsent()}
    assert found.keys() == {waits.run_id, refused.run_id}
    assert (found[waits.run_id].state, found[waits.run_id].detail) == ("waiting", "lab-1 is busy")
    assert (found[refused.run_id].state, found[refused.run_id].detail) == ("refused", "It was not allowed.")
    document = found[refused.run_id].document()
    assert (document["state"], document["done_at"]) == ("refused", NOON)


def test_it_is_found_by_id_commit_branch_and_job(state: StateFolder, store: Store) -> None:
    command = a_command(ref="refs/heads/side", job=a_spec(name="gpu"))
    store.settle_push(None, [command], "starts 1 run")
    history = History(state)
    for text in ("", command.run_id[:6], COMMIT[:9].upper(), "side", "refs/heads/side", "gpu"):
        assert [one.id for one in history.unsent(text)] == [command.run_id], text
    assert [one.id for one in history.unsent("HEAD", commit=COMMIT)] == [command.run_id]
    assert history.unsent("main") == []


def test_a_wish_to_cancel_counts_at_once_where_nobody_serves_the_folder(
    state: StateFolder, store: Store
) -> None:
    free, bound = a_command(request="free"), a_command(request="bound")
    store.settle_push(None, [free], "")
    store.settle_push(None, [bound], "", executor=SENDER)
    history = History(state)
    dropped = history.cancel(free.run_id)
    assert dropped is not None
    assert (dropped.state, KeptCommands(state.outbox).wishes()) == ("cancelled", [free.run_id])
    open_one = history.cancel(bound.run_id)
    assert open_one is not None
    assert (open_one.state, open_one.cancelling, open_one.executor) == ("waiting", True, SENDER)


def test_cancelling_waits_for_the_sender_and_hears_that_an_executor_was_quicker(
    state: StateFolder, store: Store
) -> None:
    one, two = a_command(request="one"), a_command(request="two")
    store.settle_push(None, [one, two], "")
    with FolderLock(state.lock):
        dropped = History(state).cancel(
            one.run_id, pause=lambda _: store.outbox_cancelled(one.run_id, "cancelled")
        )
        assert dropped is not None
        assert (dropped.state, dropped.run.outcome) == ("cancelled", "cancelled")
        assert History(state).cancel(two.run_id, pause=lambda _: store.outbox_delivered(two.run_id)) is None
        three = a_command(request="three")
        store.settle_push(None, [three], "")
        late = History(state).cancel(three.run_id, patience=0.1)
        assert late is not None
        assert (late.state, late.cancelling) == ("waiting", True)


def test_what_send_left_is_listed_and_dropped(state: StateFolder) -> None:
    kept = KeptCommands(state.outbox)
    entry = kept.keep(a_command())
    assert entry is not None
    entry.close()
    (one,) = find_runs("", state.root, limit=9).unsent
    assert (one.state, one.detail) == ("waiting", KEPT)
    dropped = History(state).cancel(one.id)
    assert dropped is not None
    assert dropped.state == "cancelled"
    assert (kept.peek(), kept.wishes()) == ([], [])
    placed = kept.keep(a_command())
    assert placed is not None
    placed.place(SENDER)
    placed.close()
    with pytest.raises(Conflict, match="may have run"):
        History(state).cancel(one.id)


def test_what_is_a_run_here_is_listed_once_and_what_came_back_as_what_it_is_now(
    state: StateFolder, store: Store
) -> None:
    command = a_command()
    store.settle_push(None, [command], "")
    store.accept(
        command, sender=SENDER, raw=b"", headers={}, nonce="n", nonce_expires=NOON + 9, queue_limit=9
    )
    heard = find_runs("", state.root, limit=9)
    assert ([run.id for _, run in heard.runs], heard.unsent) == ([command.run_id], ())
    store.advance(command.run_id, Released())
    heard = find_runs("", state.root, limit=9)
    assert ([run.id for _, run in heard.runs], [one.id for one in heard.unsent]) == ([], [command.run_id])
    assert isinstance(find_anywhere(command.run_id[:5], state.root), Unsent)


def test_a_push_that_started_nothing_is_the_answer_to_what_became_of_it(
    state: StateFolder, store: Store
) -> None:
    assert came_of(History(state).pushes()) == ""
    store.record_push(a_push(), source="poll")
    assert "not been looked at" in came_of(History(state).pushes("main"))
    store.settle_push(store.pushes()[0].id, [], "starts nothing: no job matches")
    assert History(state).pushes("side") == []
    with pytest.raises(NotFound, match=f"push of {COMMIT[:7]} to main was heard: starts nothing: no job"):
        find_anywhere(COMMIT[:10], state.root)


@pytest.mark.parametrize("how", ["older", "newer", "damaged"])
def test_a_store_that_cannot_be_read_is_told_in_one_sentence(state: StateFolder, how: str) -> None:
    match how:
        case "older":
            Database(state.store, migrations=MIGRATIONS[:-1]).close()
        case "newer":
            Database(state.store, migrations=(*MIGRATIONS, "SELECT 1")).close()
        case _:
            state.store.write_bytes(b"no store " * 1000)
    before = state.store.read_bytes()
    with pytest.raises(StorageError, match=how):
        find_runs("", state.root, limit=9)
    assert open_history(state)[0] is None
    assert state.store.read_bytes() == before


def test_a_folder_without_a_store_tells_of_nothing_and_gets_none(state: StateFolder) -> None:
    history = History(state)
    assert (history.runs(), history.unsent(), history.pushes(), history.server) == ([], [], [], None)
    with pytest.raises(NotFound):
        history.view("0" * 32)
    assert not state.store.exists()
