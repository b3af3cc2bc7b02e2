"""What the store tells of runs: found, listed, due, and what they left."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from stored import accept, cell, claim

from pushtrain.core.errors import NotFound
from pushtrain.core.lifecycle import (
    Exited,
    Prepared,
    Requeued,
)
from pushtrain.core.runs.turns import Bounds
from pushtrain.core.values.jobspec import Concurrency
from pushtrain.core.values.run import Artifact, GpuUse
from pushtrain.core.values.states import Reason, State
from pushtrain.plumbing.sqlite.store import Store
from pushtrain.testing import NOON, REPOSITORY, SENDER, Clock, a_command, a_gpu, a_spec


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(tmp_path: Path, clock: Clock) -> Iterator[Store]:
    opened = Store(tmp_path / "store.db", clock=clock)
    yield opened
    opened.close()


def test_a_run_whose_person_has_used_the_days_hours_is_due_at_midnight(store: Store, clock: Clock) -> None:
    gpus, bounds = (a_gpu(0),), Bounds(hours_a_day=1)
    for number in range(2):
        accept(store, cell(number, gpus=1))
    first, attempt = claim(store, gpus=gpus)
    store.advance(first.id, Prepared(), token=first.token)
    clock.advance(3600)
    assert store.used_up(SENDER, gpus, bounds), "what runs counts, too"
    used = attempt.model_copy(update={"gpu": GpuUse(seconds=3600)})
    store.advance(first.id, Exited(Reason.EXITED, 0), token=first.token, attempt=used)
    assert store.claim(slots=1, gpus=gpus, executor="lab-1", bounds=bounds) is None
    due = store.next_due(clock(), daily=True)
    assert due is not None
    assert store.next_due(clock()) is None
    assert (due % 86_400, 0 < due - clock() <= 86_400) == (0, True)
    clock.advance(due - clock())
    assert not store.used_up(SENDER, gpus, bounds)
    assert store.claim(slots=1, gpus=gpus, executor="lab-1", bounds=bounds) is not None
    assert store.next_due(clock(), daily=True) is None


def test_what_runs_took_is_known_of_those_that_succeeded_at_once(store: Store, clock: Clock) -> None:
    for number, code in enumerate((0, 1, 0)):
        accept(store, cell(number))
        run, _ = claim(store)
        store.advance(run.id, Prepared(), token=run.token)
        clock.advance(10 + number)
        store.advance(run.id, Exited(Reason.EXITED, code), token=run.token)
    assert store.took() == [(REPOSITORY, "train", 12.0), (REPOSITORY, "train", 10.0)]


def test_active_runs_are_what_a_starting_executor_must_look_after(tmp_path: Path, clock: Clock) -> None:
    path = tmp_path / "store.db"
    before = Store(path, clock=clock)
    for number in range(3):
        accept(before, cell(number))
    run, attempt = claim(before)
    before.close()
    after = Store(path, clock=clock)
    assert after.active() == [run]
    assert after.attempts(run.id) == [attempt]
    assert after.counts() == (2, 1, set())
    after.close()


def test_a_start_takes_only_those_runs_for_which_something_may_be_left_to_do(store: Store) -> None:
    plain, _ = accept(store, cell(1))
    cancels, _ = accept(store, a_command(job=a_spec(concurrency=Concurrency.CANCEL, checkpoint_to="lfs")))
    asked, _ = accept(
        store, a_command(job=a_spec(concurrency=Concurrency.CANCEL, name="other"), request="again")
    )
    assert store.may_supersede() == [cancels.id]
    assert store.may_travel() == [], "what has not begun yet has no checkpoint"
    for run in (plain, cancels, asked):
        claimed = store.claim(slots=9, gpus=(), executor="lab")
        assert claimed is not None
        assert claimed[0].id == run.id
        assert store.may_travel() == []
        store.advance(run.id, Prepared(), token=claimed[0].token)
    assert store.may_supersede() == [cancels.id], "also while it runs"
    for run in (plain, cancels, asked):
        token = store.run(run.id).token
        store.advance(run.id, Requeued(Reason.PREEMPTED, not_before=NOON), token=token)
    assert store.may_travel() == [cancels.id]
    store.request_cancel(cancels.id, by="ada")
    assert (store.may_supersede(), store.may_travel()) == ([], [])


def test_runs_are_found_by_the_start_of_an_id_or_commit_and_by_branch_and_job(store: Store) -> None:
    first, _ = accept(store, a_command(commit="a" * 40, ref="refs/heads/topic/x"))
    second, _ = accept(store, a_command(commit="b" * 40, ref="refs/tags/v1", job=a_spec(name="evaluate")))
    for text in (
        first.id,
        first.id[:6],
        first.id[:6].upper(),
        "aaaa",
        "topic/x",
        "refs/heads/topic/x",
        "train",
    ):
        assert [run.id for run in store.find(text)] == [first.id], text
    for text in ("bbbbbbb", "v1", "evaluate"):
        assert [run.id for run in store.find(text)] == [second.id], text
    assert store.find("nothing") == store.find("") == store.find("%") == []


def test_runs_are_listed_newest_first_by_every_filter_together(store: Store) -> None:
    runs = [accept(store, cell(number, job="a" if number % 2 else "b"))[0] for number in range(4)]
    claim(store)
    ids = [run.id for run in reversed(runs)]
    assert [run.id for run in store.runs()] == ids
    assert [run.id for run in store.runs(limit=2)] == ids[:2]
    assert [run.id for run in store.runs(job="b")] == [runs[2].id, runs[0].id]
    assert [run.id for run in store.runs(job="b", states=(State.QUEUED,))] == [runs[2].id]
    command = runs[0].command
    everything = store.runs(
        repository=command.repository, commit=command.commit, ref=command.ref, states=tuple(State)
    )
    assert [run.id for run in everything] == ids
    assert store.runs(repository="github.com/octo/other") == []


def test_where_a_runs_files_are_is_kept_anew_each_time(store: Store) -> None:
    run, _ = accept(store, cell(1))
    files = [
        Artifact(path=name, size=1, sha256="0" * 64, where="executor", until=NOON)
        for name in ("b.bin", "a.bin")
    ]
    store.save_artifacts(run.id, files)
    assert store.artifacts(run.id) == files[::-1]
    store.save_artifacts(run.id, files[:1])
    assert store.artifacts(run.id) == files[:1]
    with pytest.raises(NotFound):
        store.save_artifacts("0" * 32, files)
