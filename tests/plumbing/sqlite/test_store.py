"""The store: what it says it kept is kept, and no two claims get the same run."""

import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import apsw
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from stored import accept, cell, claim

from pushtrain.core.errors import Busy, Conflict, IllegalTransition, NotFound, Unauthorized
from pushtrain.core.lifecycle import (
    Abandoned,
    Claimed,
    Event,
    Exited,
    Lost,
    Prepared,
    PrepareFailed,
    Published,
    PublishFailed,
    Released,
    Requeued,
    advance,
)
from pushtrain.core.runs.turns import Bounds, Queue
from pushtrain.core.values.run import GpuUse, Run
from pushtrain.core.values.states import Outcome, Reason, State
from pushtrain.plumbing.sqlite import turns
from pushtrain.plumbing.sqlite.database import Database
from pushtrain.plumbing.sqlite.store import Store
from pushtrain.testing import NOON, Clock, a_command, a_gpu

if TYPE_CHECKING:
    from pushtrain.core.values.jobspec import Resources


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(tmp_path: Path, clock: Clock) -> Iterator[Store]:
    opened = Store(tmp_path / "store.db", clock=clock)
    yield opened
    opened.close()


def kinds(store: Store, run_id: str) -> list[str]:
    return [event.kind for event in store.events(run_id)]


def test_an_accepted_run_waits_with_its_command_as_received(store: Store) -> None:
    run, new = accept(store, a_command())
    assert new
    assert store.run(run.id) == run
    assert run.state is State.QUEUED
    assert run.accepted_at == NOON
    assert store.command_as_received(run.id) == (b"the bytes", {"signature": "s"})
    assert kinds(store, run.id) == ["accepted"]


def test_a_redelivered_command_is_the_same_run(store: Store) -> None:
    first, _ = accept(store, a_command())
    claim(store)
    again, new = accept(store, a_command(ref="refs/heads/other"))
    assert not new
    assert again.id == first.id
    assert again.state is State.PREPARING
    assert again.command.ref == "refs/heads/main"
    assert len(store.runs()) == 1


def test_a_nonce_counts_once_and_a_replay_changes_nothing(store: Store) -> None:
    accept(store, cell(1), nonce="once")
    with pytest.raises(Unauthorized, match="used before"):
        accept(store, cell(2), nonce="once")
    with pytest.raises(Unauthorized):
        store.use_nonce("once", NOON + 60)
    assert len(store.runs()) == 1


def test_nonces_are_forgotten_once_their_signature_has_expired(store: Store, clock: Clock) -> None:
    store.use_nonce("old", NOON + 60)
    clock.advance(61)
    store.use_nonce("new", NOON + 120)
    assert store._database.read(lambda db: db.execute("SELECT nonce FROM nonces").fetchall()) == [("new",)]


def test_a_full_queue_refuses_and_the_nonce_may_be_used_again(store: Store) -> None:
    accept(store, cell(1), limit=1)
    with pytest.raises(Busy, match="1 runs wait already"):
        accept(store, cell(2), nonce="again", limit=1)
    assert accept(store, cell(1), limit=1)[1] is False
    claim(store)
    assert accept(store, cell(2), nonce="again", limit=1)[1] is True


def test_a_run_that_nobody_knows_is_not_found(store: Store) -> None:
    unknown = "0" * 32
    for look in (store.run, store.command_as_received):
        with pytest.raises(NotFound, match=unknown):
            look(unknown)
    with pytest.raises(NotFound):
        store.advance(unknown, Prepared())


def test_runs_are_claimed_in_the_order_they_were_accepted(store: Store) -> None:
    ids = [accept(store, cell(number))[0].id for number in range(5)]
    assert [claim(store)[0].id for _ in ids] == ids
    assert store.claim(slots=100, gpus=(), executor="lab-1") is None


def test_a_claim_takes_a_slot_until_the_tree_is_dead(store: Store) -> None:
    first, second = accept(store, cell(1))[0], accept(store, cell(2))[0]
    run, attempt = claim(store, slots=1)
    assert (run.id, run.attempt, attempt.number) == (first.id, 1, 1)
    assert store.claim(slots=1, gpus=(), executor="lab-1") is None
    store.advance(run.id, Prepared(), token=run.token)
    assert store.claim(slots=1, gpus=(), executor="lab-1") is None
    store.advance(run.id, Exited(Reason.EXITED, 0), token=run.token)
    assert claim(store, slots=1)[0].id == second.id


def test_gpus_are_held_by_one_run_at_a_time(store: Store) -> None:
    gpus = (a_gpu(0), a_gpu(1))
    for number in range(3):
        accept(store, cell(number, gpus=1))
    accept(store, cell(3))
    held = [claim(store, slots=1, gpus=gpus)[0] for _ in range(3)]
    assert {uuid for run in held for uuid in run.gpus} == {gpu.uuid for gpu in gpus}
    assert held[2].gpus == ()
    assert store.claim(slots=1, gpus=gpus, executor="lab-1") is None
    assert store.counts() == (1, 3, {gpu.uuid for gpu in gpus})
    store.advance(held[0].id, Requeued(Reason.INTERRUPTED), token=held[0].token)
    again, attempt = claim(store, slots=1, gpus=gpus)
    assert again.gpus == attempt.gpus == held[0].gpus


def test_small_runs_share_a_gpu_as_far_as_its_memory_less_the_reserve_goes(store: Store) -> None:
    gpus, bounds = (a_gpu(0),), Bounds(reserve=2 << 30)
    for number in range(3):
        accept(store, cell(number, gpus=1, part=11))
    accept(store, cell(3, gpus=1))
    first = store.claim(slots=1, gpus=gpus, executor="lab-1", bounds=bounds)
    second = store.claim(slots=1, gpus=gpus, executor="lab-1", bounds=bounds)
    assert first is not None
    assert second is not None
    assert first[0].gpus == second[0].gpus == (gpus[0].uuid,)
    assert store.claim(slots=1, gpus=gpus, executor="lab-1", bounds=bounds) is None
    store.advance(first[0].id, Requeued(Reason.DATA, not_before=NOON + 9), token=first[0].token)
    assert [place.room for place in store.room(slots=1, gpus=gpus, bounds=bounds)[1]] == [0]
    third = store.claim(slots=1, gpus=gpus, executor="lab-1", bounds=bounds)
    assert third is not None
    assert third[0].command.job.cell == {"n": 2}


def test_a_priority_and_what_was_used_lately_decide_who_comes_first(store: Store, clock: Clock) -> None:
    accept(store, cell(1, gpus=1))
    urgent, _ = accept(store, cell(2, gpus=1, priority=3))
    first, attempt = claim(store, gpus=(a_gpu(0),))
    assert first.id == urgent.id
    other, _ = accept(store, cell(3, gpus=1, job="other"), sender="SHA256:bob")
    store.advance(first.id, Prepared(), token=first.token)
    clock.advance(3600)
    used = attempt.model_copy(update={"gpu": GpuUse(seconds=3600)})
    store.advance(first.id, Exited(Reason.EXITED, 0), token=first.token, attempt=used)
    assert claim(store, gpus=(a_gpu(0),))[0].id == other.id, "bob has used nothing yet"


def test_ten_thousand_waiting_runs_do_not_make_a_claim_slow(tmp_path: Path) -> None:
    path = tmp_path / "many.db"
    many = Store(path, clock=Clock())
    run, _ = accept(many, cell(0, gpus=1))
    many.close()
    file = Database(path)
    file.write(
        lambda db: db.execute(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 10000) INSERT INTO "
            "runs (id, repository, commit_id, ref, job, request, gpus, gpu_memory, state, not_before, "
            "command, value, sender, rank) SELECT i, repository, commit_id, ref, job, i, 1, 0, state, 0, "
            "command, value, 'key' || (i % 20), rank + i FROM runs, n"
        )
    )
    file.close()
    many = Store(path, clock=Clock())
    read = 0

    def may(_: str) -> bool:
        nonlocal read
        read += 1
        return True

    claimed = many.claim(slots=1, gpus=(a_gpu(0),), executor="lab-1", may_start=may)
    many.close()
    assert claimed is not None
    assert claimed[0].id == run.id
    assert read == 21, "one look at each person's queue"


@given(
    st.lists(
        st.tuples(
            st.sampled_from("abc"),
            st.sampled_from("xyz"),
            st.integers(0, 2),
            st.integers(0, 3),
            st.booleans(),
        ),
        max_size=12,
    )
)
@settings(max_examples=40, deadline=None)
def test_each_queue_begins_with_the_first_of_its_runs_that_may_start_now(
    waiting: list[tuple[str, str, int, int, bool]],
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        file = Database(Path(folder) / "store.db")

        def heads(db: apsw.Connection) -> list[Queue]:
            db.executemany(
                "INSERT INTO runs (id, repository, commit_id, ref, job, request, gpus, gpu_memory, state, "
                "not_before, command, value, sender, rank) "
                "VALUES (?, ?, '', '', '', '', ?, 0, 'queued', ?, '', '', ?, ?)",
                [
                    (str(number), repository, gpus, NOON + 1 if later else NOON, sender, rank)
                    for number, (sender, repository, gpus, rank, later) in enumerate(waiting)
                ],
            )
            return turns.queues(db, NOON, lambda _: True)

        found = file.write(heads)
        file.close()
    expected: dict[tuple[str, str, bool], tuple[float, int]] = {}
    for seq, (sender, repository, gpus, rank, later) in enumerate(waiting, start=1):
        if not later:
            key = (sender, repository, gpus > 0)
            expected[key] = min(expected.get(key, (rank, seq)), (rank, seq))
    assert {(queue.sender, queue.repository, queue.gpus): queue.first for queue in found} == expected
    assert len(found) == len(expected)


def test_no_queue_is_sorted_to_find_its_first_run(tmp_path: Path) -> None:
    file = Database(tmp_path / "store.db")
    explained = f"EXPLAIN QUERY PLAN {turns.QUEUES}"
    plan = file.read(lambda db: [str(step[3]) for step in db.execute(explained, (NOON,))])
    file.close()
    assert any("runs_queued (sender=? AND repository=? AND <expr>=?)" in step for step in plan)
    assert not [step for step in plan if "TEMP B-TREE" in step]


def test_no_more_cells_of_a_group_run_at_once_than_it_allows(store: Store) -> None:
    for number in range(3):
        accept(store, cell(number, most=1))
    other, _ = accept(store, cell(9, job="other"))
    first = claim(store)[0]
    assert claim(store)[0].id == other.id
    assert store.claim(slots=100, gpus=(), executor="lab-1") is None
    store.advance(first.id, PrepareFailed(Reason.DATA, "gone"), token=first.token)
    assert claim(store)[0].command.job.cell == {"n": 1}


def test_a_requeued_run_waits_for_its_time(store: Store, clock: Clock) -> None:
    accept(store, cell(1))
    run, _ = claim(store)
    store.advance(run.id, Requeued(Reason.DATA, "host down", not_before=NOON + 30), token=run.token)
    assert store.claim(slots=1, gpus=(), executor="lab-1") is None
    assert store.next_due(clock()) == NOON + 30
    looked = clock()
    clock.advance(30)
    assert store.next_due(clock()) is None
    assert store.next_due(looked) == NOON + 30, "its time has come since, and nobody has looked"
    assert claim(store)[0].attempt == 2


def test_a_late_write_of_an_earlier_claim_is_refused(store: Store) -> None:
    accept(store, cell(1))
    old, attempt = claim(store)
    store.advance(old.id, Requeued(Reason.INTERRUPTED), token=old.token)
    for late in (
        lambda: store.advance(old.id, Exited(Reason.EXITED, 0), token=old.token),
        lambda: store.save_attempt(attempt, token=old.token),
    ):
        with pytest.raises(Conflict, match="claimed anew"):
            late()
    claim(store)
    with pytest.raises(Conflict, match="claimed anew"):
        store.advance(old.id, Prepared(), token=old.token)
    assert store.run(old.id).state is State.PREPARING


def test_a_move_that_the_table_does_not_know_changes_nothing(store: Store) -> None:
    run, _ = accept(store, cell(1))
    with pytest.raises(IllegalTransition):
        store.advance(run.id, Published("c" * 40, "runs"))
    assert store.run(run.id) == run
    assert kinds(store, run.id) == ["accepted"]


def test_what_is_known_of_an_attempt_is_kept_with_the_move(store: Store) -> None:
    accept(store, cell(1))
    run, attempt = claim(store)
    started = attempt.model_copy(update={"started_at": NOON + 1})
    store.save_attempt(started, token=run.token)
    assert store.attempts(run.id) == [started]
    ended = started.model_copy(update={"exit_code": 3, "reason": Reason.EXITED, "log_size": 42})
    store.advance(run.id, Prepared(), token=run.token)
    after = store.advance(run.id, Exited(Reason.EXITED, 3, "exit 3"), token=run.token, attempt=ended)
    assert after.outcome is Outcome.FAILED
    assert store.attempts(run.id) == [ended]
    events = store.events(run.id)
    assert [event.kind for event in events] == ["accepted", "claimed", "prepared", "exited"]
    assert events[-1].detail == "exit 3"
    assert store.events(run.id, after=3) == events[3:]


def test_a_queued_run_is_cancelled_at_once(store: Store) -> None:
    run, _ = accept(store, cell(1))
    cancelled = store.request_cancel(run.id, by="ada")
    assert (cancelled.state, cancelled.outcome) == (State.PUBLISHING, Outcome.CANCELLED)
    assert store.request_cancel(run.id, by="ada") == cancelled
    assert kinds(store, run.id) == ["accepted", "cancelled"]


def test_cancelling_an_active_run_is_a_wish_that_is_kept_once(store: Store) -> None:
    accept(store, cell(1))
    run, _ = claim(store)
    wished = store.request_cancel(run.id, by="ada")
    assert wished.cancel_requested
    assert wished.state is State.PREPARING
    assert store.request_cancel(run.id, by="ada") == wished
    assert kinds(store, run.id) == ["accepted", "claimed", "cancel-requested"]
    with pytest.raises(IllegalTransition, match="cancellation requested"):
        store.advance(run.id, Requeued(Reason.PREEMPTED), token=run.token)


def test_cancelling_after_the_end_is_a_conflict(store: Store) -> None:
    accept(store, cell(1))
    run, _ = claim(store)
    store.advance(run.id, Prepared(), token=run.token)
    store.advance(run.id, Exited(Reason.EXITED, 0), token=run.token)
    with pytest.raises(Conflict, match="ended already"):
        store.request_cancel(run.id, by="ada")


def test_a_publication_that_failed_waits_and_then_ends(store: Store, clock: Clock) -> None:
    run, _ = accept(store, cell(1))
    store.request_cancel(run.id, by="ada")
    assert [due.id for due in store.publishable(clock())] == [run.id]
    store.advance(run.id, PublishFailed("remote is down", NOON + 5))
    assert store.publishable(clock()) == []
    assert store.next_due(clock()) == NOON + 5
    assert [due.id for due in store.publishable(clock.advance(5))] == [run.id]
    done = store.advance(run.id, Published("c" * 40, "runs/train/x"))
    assert done.final
    assert store.publishable(clock()) == []


_CLAIMER = """
import sys, threading
from pathlib import Path
from pushtrain.plumbing.sqlite.store import Store
store = Store(Path(sys.argv[1]))
print("ready", flush=True)
sys.stdin.readline()
mine = []
def work():
    while (claimed := store.claim(slots=1000, gpus=(), executor=sys.argv[2])) is not None:
        mine.append(claimed[0].id)
threads = [threading.Thread(target=work) for _ in range(2)]
for thread in threads: thread.start()
for thread in threads: thread.join()
print(*mine)
store.close()
"""


@pytest.mark.slow
def test_eight_claimers_in_four_processes_never_get_the_same_run(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    store = Store(path)
    for command in [cell(number) for number in range(400)] * 2:
        accept(store, command)
    children = [
        subprocess.Popen(
            (sys.executable, "-c", _CLAIMER, str(path), str(number)),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for number in range(4)
    ]
    for child in children:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
    for child in children:
        assert child.stdin is not None
        child.stdin.write("go\n")
        child.stdin.flush()
    claimed = [line for child in children for line in child.communicate(timeout=60)[0].split()]
    assert [child.returncode for child in children] == [0] * 4
    assert len(claimed) == 400
    assert set(claimed) == {cell(number).run_id for number in range(400)}
    assert store.counts() == (0, 400, set())
    store.close()


_WRITER = """
import sys
from pathlib import Path
from pushtrain.plumbing.sqlite.store import Store
from pushtrain.testing import a_command, a_spec
store = Store(Path(sys.argv[1]))
number = 0
while True:
    command = a_command(job=a_spec(cell={"n": number}))
    run, _ = store.accept(command, sender="s", raw=b"r", headers={}, nonce=str(number), nonce_expires=9e9,
                          queue_limit=10_000)
    print(run.id, flush=True)
    number += 1
"""


def test_a_run_is_there_when_its_writer_is_killed_right_after_accepting(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    with subprocess.Popen(
        (sys.executable, "-c", _WRITER, str(path)), stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        promised = [child.stdout.readline().strip() for _ in range(50)]
        child.send_signal(signal.SIGKILL)
        promised += [line.strip() for line in child.stdout if line.endswith("\n")]
        child.wait()
    store = Store(path)
    for run_id in promised:
        assert store.run(run_id).state is State.QUEUED
        assert store.command_as_received(run_id) == (b"r", {})
    store.close()


def test_threads_that_accept_at_once_each_get_their_own_answer(store: Store) -> None:
    answers: dict[int, tuple[Run, bool]] = {}
    commands = [cell(number % 40) for number in range(80)]

    def work(start: int) -> None:
        for number in range(start, 80, 8):
            answers[number] = accept(store, commands[number])

    threads = [threading.Thread(target=work, args=(start,)) for start in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert all(answers[number][0].id == commands[number].run_id for number in range(80))
    assert sum(new for _, new in answers.values()) == 40
    assert store.counts()[0] == store.waiting() == 40


GPUS = (a_gpu(0), a_gpu(1, memory=48 << 30))
SLOTS = 2
BOUNDS = Bounds(reserve=1 << 30)


class AnyOrder(RuleBasedStateMachine):
    """Accept, claim, move, cancel and restart in any order, beside the plainest model there is."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.clock = Clock()
        self.store = Store(Path(self.folder.name) / "store.db", clock=self.clock)
        self.model: dict[str, Run] = {}
        self.moves: dict[str, int] = {}

    def teardown(self) -> None:
        self.store.close()
        self.folder.cleanup()

    @rule(
        number=st.integers(0, 12),
        gpus=st.integers(0, 3),
        most=st.sampled_from([None, 1, 2]),
        part=st.sampled_from([0, 0, 6, 20]),
    )
    def accepts(self, number: int, gpus: int, most: int | None, part: int) -> None:
        command = cell(number, gpus=gpus, most=most, part=part if gpus == 1 else 0)
        known = self.model.get(command.run_id)
        if known is not None and known.command.job != command.job:
            with pytest.raises(Conflict):
                accept(self.store, command)
            return
        run, new = accept(self.store, command)
        assert new == (known is None)
        if new:
            self.model[run.id] = run
            self.moves[run.id] = 1
        assert run == self.model[run.id]

    @rule()
    def claims(self) -> None:
        claimed = self.store.claim(slots=SLOTS, gpus=GPUS, executor="lab-1", bounds=BOUNDS)
        due = [
            run for run in self.model.values() if run.state is State.QUEUED and run.not_before <= self.clock()
        ]
        plain = [
            run for run in due if run.command.job.resources.gpus == 0 and run.command.job.max_parallel is None
        ]
        if claimed is None:
            assert not plain or self.active(gpu=False) == SLOTS
            return
        run, attempt = claimed
        before = self.model[run.id]
        assert before in due
        assert run == advance(before, Claimed(run.token, run.gpus), now=self.clock())
        assert len(run.gpus) == run.command.job.resources.gpus
        assert (attempt.number, attempt.gpus) == (run.attempt, run.gpus)
        if before in plain:
            assert before == plain[0]
        self.model[run.id] = run
        self.moves[run.id] += 1

    @precondition(lambda self: self.model)
    @rule(
        data=st.data(),
        event=st.sampled_from(
            [
                Prepared(),
                PrepareFailed(Reason.DATA, "gone"),
                Exited(Reason.EXITED, 0),
                Exited(Reason.TIMEOUT, None, "too long"),
                Lost("no verdict"),
                Requeued(Reason.PREEMPTED),
                Requeued(Reason.DATA, not_before=NOON + 60),
                Published("c" * 40, "runs/x"),
                PublishFailed("down", NOON + 30),
                Abandoned(),
                Released(),
            ]
        ),
        stale=st.booleans(),
    )
    def moves_on(self, data: st.DataObject, event: Event, stale: bool) -> None:
        run = data.draw(st.sampled_from(sorted(self.model.values(), key=lambda run: run.id)))
        if stale:
            with pytest.raises(Conflict):
                self.store.advance(run.id, event, token="somebody else's")
            return
        try:
            expected = advance(run, event, now=self.clock())
        except IllegalTransition:
            with pytest.raises(IllegalTransition):
                self.store.advance(run.id, event, token=run.token)
            return
        assert self.store.advance(run.id, event, token=run.token) == expected
        self.model[run.id] = expected
        self.moves[run.id] += 1

    @precondition(lambda self: self.model)
    @rule(data=st.data())
    def cancels(self, data: st.DataObject) -> None:
        run = data.draw(st.sampled_from(sorted(self.model.values(), key=lambda run: run.id)))
        ended = run.state in {State.PUBLISHING, State.DONE}
        if ended and run.outcome is not Outcome.CANCELLED:
            with pytest.raises(Conflict):
                self.store.request_cancel(run.id, by="ada")
            return
        after = self.store.request_cancel(run.id, by="ada")
        self.moves[run.id] += after != run
        self.model[run.id] = after
        assert after.cancel_requested or after.outcome is Outcome.CANCELLED

    @rule(seconds=st.sampled_from([1, 40]))
    def waits(self, seconds: int) -> None:
        self.clock.advance(seconds)

    @rule()
    def restarts(self) -> None:
        self.store.close()
        self.store = Store(Path(self.folder.name) / "store.db", clock=self.clock)

    def active(self, *, gpu: bool) -> int:
        return sum(
            1
            for run in self.model.values()
            if run.state in {State.PREPARING, State.RUNNING} and bool(run.gpus) == gpu
        )

    @invariant()
    def what_is_stored_is_what_happened(self) -> None:
        assert {run.id: run for run in self.store.runs(limit=1000)} == self.model
        for run_id, moves in self.moves.items():
            assert [event.sequence for event in self.store.events(run_id)] == list(range(1, moves + 1))

    @invariant()
    def nothing_is_given_twice(self) -> None:
        held: dict[str, list[Resources]] = {}
        for run in self.model.values():
            for uuid in run.gpus:
                held.setdefault(uuid, []).append(run.command.job.resources)
        for gpu in GPUS:
            users = held.get(gpu.uuid, [])
            assert len(users) <= 1 or all(one.gpu_share for one in users)
            assert sum(one.gpu_memory for one in users if one.gpu_share) <= gpu.memory - BOUNDS.reserve
        assert self.active(gpu=False) <= SLOTS
        queued = sum(1 for run in self.model.values() if run.state is State.QUEUED)
        active = self.active(gpu=True) + self.active(gpu=False)
        assert self.store.counts() == (queued, active, set(held))

    @invariant()
    def what_is_due_is_known(self) -> None:
        now = self.clock()
        publishing = {run.id for run in self.model.values() if run.state is State.PUBLISHING}
        due = {run.id for run in self.store.publishable(now)}
        assert due == {run_id for run_id in publishing if self.model[run_id].not_before <= now}
        waiting = [
            run.not_before
            for run in self.model.values()
            if run.state in {State.QUEUED, State.PUBLISHING} and run.not_before > now
        ]
        assert self.store.next_due(now) == min(waiting, default=None)


TestAnyOrder = AnyOrder.TestCase
TestAnyOrder.settings = settings(
    max_examples=30, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
)
