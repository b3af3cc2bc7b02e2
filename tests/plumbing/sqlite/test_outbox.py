"""What a sender keeps: pushes, commands and tips."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from stored import cell

from pushtrain.core.errors import NotFound
from pushtrain.plumbing.sqlite.store import Store
from pushtrain.testing import NOON, Clock, a_push


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(tmp_path: Path, clock: Clock) -> Iterator[Store]:
    opened = Store(tmp_path / "store.db", clock=clock)
    yield opened
    opened.close()


def test_a_redelivered_push_is_heard_once(store: Store) -> None:
    push = a_push()
    assert store.record_push(push, source="webhook")
    assert not store.record_push(push, source="webhook")
    assert [heard.push for heard in store.pending_pushes()] == [push]


def test_settling_a_push_and_its_commands_is_one_step(store: Store) -> None:
    store.record_push(a_push(), source="webhook")
    (heard,) = store.pending_pushes()
    assert store.settle_push(heard.id, [cell(1), cell(2)], "starts 2 runs") == 2
    assert store.pending_pushes() == []
    assert [(past.source, past.note) for past in store.pushes()] == [("webhook", "starts 2 runs")]
    assert [out.command for out in store.outbox_due(NOON)] == [cell(1), cell(2)]
    store.record_push(a_push(), source="poll")
    (other,) = store.pending_pushes()
    assert store.settle_push(other.id, [cell(2), cell(3)], "starts 1 run") == 1
    assert len(store.outbox()) == 3


def test_a_command_waits_until_it_is_delivered_or_refused(store: Store, clock: Clock) -> None:
    store.settle_push(None, [cell(1), cell(2)], "by hand")
    first, second = (out.run_id for out in store.outbox_due(clock()))
    store.outbox_place(first, "http://127.0.0.1:1")
    store.outbox_retry(first, "no connection", NOON + 2)
    waiting = store.outgoing(first)
    assert (waiting.executor, waiting.tries, waiting.detail) == ("http://127.0.0.1:1", 1, "no connection")
    assert [out.run_id for out in store.outbox_due(clock())] == [second]
    store.outbox_refused(second, "no such repository")
    assert store.outbox_next() == NOON + 2
    store.outbox_retry(first, "challenge failed", NOON + 2, executor="")
    assert store.outgoing(first).executor == ""
    assert [out.run_id for out in store.outbox_due(clock.advance(2))] == [first]
    store.outbox_delivered(first)
    assert store.outbox_next() is None
    assert [out.run_id for out in store.outbox(states=("refused",))] == [second]
    store.outbox_retry(second, "too late to matter", NOON + 9)
    assert store.outgoing(second).state == "refused"
    with pytest.raises(NotFound):
        store.outgoing("0" * 32)


def test_tips_are_kept_moved_and_forgotten(store: Store) -> None:
    store.set_tips("h/a", {"refs/heads/main": "1" * 40, "refs/heads/old": "2" * 40})
    store.set_tip("h/b", "refs/heads/main", "3" * 40)
    store.set_tips("h/a", {"refs/heads/main": "4" * 40, "refs/heads/old": None})
    assert store.tips("h/a") == {"refs/heads/main": "4" * 40}
    assert store.tips("h/b") == {"refs/heads/main": "3" * 40}
