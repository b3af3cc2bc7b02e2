"""The ledger: each attempt is counted once, whatever becomes of its run."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from pushtrain.core.errors import Conflict
from pushtrain.core.lifecycle import Exited, Prepared, Published, PublishFailed, Requeued
from pushtrain.core.runs.usage import DAY, Stood, Used, summed
from pushtrain.core.values.run import Attempt, GpuUse, Run
from pushtrain.core.values.states import Reason
from pushtrain.plumbing.sqlite.store import Store
from pushtrain.testing import NOON, REPOSITORY, SENDER, Clock, a_command

TODAY = int(NOON) // DAY


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(tmp_path: Path, clock: Clock) -> Iterator[Store]:
    opened = Store(tmp_path / "store.db", clock=clock)
    yield opened
    opened.close()


def a_claim(store: Store) -> tuple[Run, Attempt]:
    command = a_command()
    store.accept(
        command, sender=SENDER, raw=b"", headers={}, nonce="n", nonce_expires=NOON + 60, queue_limit=10
    )
    return claimed_again(store)


def claimed_again(store: Store) -> tuple[Run, Attempt]:
    claimed = store.claim(slots=1, gpus=(), executor="lab-1")
    assert claimed is not None
    return claimed


def test_an_attempt_that_ends_is_in_the_ledger_with_its_run_in_one_write(store: Store, clock: Clock) -> None:
    run, attempt = a_claim(store)
    store.advance(run.id, Prepared(), token=run.token, attempt=attempt)
    assert store.used(since=0) == []  # it has not ended
    clock.advance(100)
    gpu = GpuUse(seconds=100, joules=5000, estimated=True)
    ended = attempt.model_copy(update={"ended_at": NOON + 90, "cpu_seconds": 42, "gpu": gpu})
    store.advance(run.id, Exited(Reason.EXITED, 0), token=run.token, attempt=ended)
    [entry] = store.used(since=0)
    assert (entry.sender, entry.repository) == (SENDER, REPOSITORY)
    assert entry.used == Used(
        attempts=1, seconds=90, gpu_seconds=100, cpu_seconds=42, joules=5000, estimated=True
    )


def test_what_happens_after_the_end_counts_nothing_twice(store: Store, clock: Clock) -> None:
    run, attempt = a_claim(store)
    ended = attempt.model_copy(update={"ended_at": NOON + 9})
    store.advance(run.id, Prepared(), token=run.token)
    store.advance(run.id, Exited(Reason.EXITED, 0), token=run.token, attempt=ended)
    store.advance(run.id, PublishFailed("no network", clock()), attempt=ended)
    store.advance(run.id, Published("c" * 40, "runs/x"), attempt=ended)
    assert summed(entry.used for entry in store.used(since=0)).attempts == 1


def test_each_attempt_of_a_run_counts_with_the_time_that_it_waited(store: Store, clock: Clock) -> None:
    run, first = a_claim(store)
    clock.advance(10)
    store.advance(run.id, Requeued(Reason.INTERRUPTED, "…", NOON + 40), token=run.token, attempt=first)
    clock.advance(60)
    again, second = claimed_again(store)
    assert second.waited == 30  # the pause that was wanted is no waiting
    clock.advance(5)
    store.advance(again.id, Prepared(), token=again.token)
    store.advance(again.id, Exited(Reason.EXITED, 1), token=again.token, attempt=second)
    assert store.used(since=0)[0].used == Used(attempts=2, seconds=15, waited=30)


def test_a_late_write_of_an_attempt_that_is_over_charges_nobody(store: Store) -> None:
    run, attempt = a_claim(store)
    store.advance(run.id, Requeued(Reason.INTERRUPTED), token=run.token, attempt=attempt)
    claimed_again(store)
    with pytest.raises(Conflict):
        store.advance(run.id, Exited(Reason.EXITED, 0), token=run.token, attempt=attempt)
    assert store.used(since=0)[0].used.attempts == 1


def test_only_the_days_that_are_asked_for_are_told(store: Store, clock: Clock) -> None:
    run, attempt = a_claim(store)
    clock.advance(3 * DAY)
    store.advance(run.id, Requeued(Reason.INTERRUPTED), token=run.token, attempt=attempt)
    assert len(store.used(since=TODAY + 3)) == 1  # the day of its end counts
    assert store.used(since=TODAY + 4) == []


def test_what_the_cards_did_adds_up_by_day_and_kind(store: Store) -> None:
    store.note_stood(1, [Stood(what="lent", seconds=60), Stood(what="input", seconds=5, wanted=5)])
    store.note_stood(1, [Stood(what="lent", seconds=30, wanted=2)])
    store.note_stood(2, [Stood(what="free", seconds=1), Stood(what="lent", seconds=1)])
    store.note_stood(2, [])
    assert store.stood(since=0) == [
        Stood(what="lent", seconds=91, wanted=2),
        Stood(what="input", seconds=5, wanted=5),
        Stood(what="free", seconds=1),
    ]
    assert store.stood(since=2) == [Stood(what="free", seconds=1), Stood(what="lent", seconds=1)]
