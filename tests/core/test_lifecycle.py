"""The run's transition table: every pair that is not in it is illegal and changes nothing."""

from pathlib import Path
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from pushtrain.core.errors import IllegalTransition
from pushtrain.core.lifecycle import (
    TABLE,
    Abandoned,
    Cancelled,
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
    Returned,
    advance,
    comes_back,
    diagram,
    next_attempt,
    unless_cancelled,
)
from pushtrain.core.values.command import Checkpoint, TrainCommand
from pushtrain.core.values.jobspec import JobSpec
from pushtrain.core.values.run import Run
from pushtrain.core.values.states import Outcome, Reason, State

DOCS = Path(__file__).parents[2] / "docs"


def a_command(attempt: int = 0) -> TrainCommand:
    return TrainCommand(
        run_id="0" * 32,
        repository="github.com/octo/hello",
        ref="refs/heads/main",
        commit="1" * 40,
        job=JobSpec(name="train", command="x"),
        attempt=attempt,
    )


REASONS = st.sampled_from(Reason)
EVENTS: st.SearchStrategy[Event] = st.one_of(
    st.builds(Claimed, token=st.text(min_size=1, max_size=3), gpus=st.sampled_from([(), ("GPU-1", "GPU-2")])),
    st.just(Prepared()),
    st.builds(PrepareFailed, reason=REASONS, detail=st.just("no")),
    st.builds(Cancelled, detail=st.just("by a person")),
    st.builds(Requeued, reason=REASONS, detail=st.just("later"), not_before=st.floats(0, 10)),
    st.builds(Exited, reason=REASONS, exit_code=st.none() | st.integers(0, 3), detail=st.just("")),
    st.builds(Lost, detail=st.just("gone")),
    st.builds(Published, commit=st.just("c" * 40), path=st.just("runs/x")),
    st.builds(PublishFailed, detail=st.just("offline"), not_before=st.floats(0, 10)),
    st.builds(Abandoned, detail=st.sampled_from(["", "given up"])),
    st.builds(Released, detail=st.just("to lab-2")),
    st.builds(Returned, command=st.integers(0, 3).map(a_command), sender=st.just("k")),
)


def a_run(state: State = State.QUEUED, **changes: object) -> Run:
    run = Run(id="0" * 32, command=a_command(), sender="SHA256:x", accepted_at=1, updated_at=1)
    return run.model_copy(update={"state": state, **changes})


def test_the_table_is_the_designs() -> None:
    told = {(before.value, event.__name__): after.value for (before, event), after in TABLE.items()}
    assert told == {
        ("queued", "Claimed"): "preparing",
        ("queued", "Cancelled"): "publishing",
        ("queued", "Released"): "done",
        ("preparing", "Prepared"): "running",
        ("preparing", "PrepareFailed"): "publishing",
        ("preparing", "Cancelled"): "publishing",
        ("preparing", "Requeued"): "queued",
        ("running", "Exited"): "publishing",
        ("running", "Lost"): "publishing",
        ("running", "Requeued"): "queued",
        ("publishing", "Published"): "done",
        ("publishing", "PublishFailed"): "publishing",
        ("publishing", "Abandoned"): "done",
        ("done", "Returned"): "queued",
    }


@given(st.sampled_from(State), EVENTS, st.booleans())
def test_an_event_leads_where_the_table_says_or_changes_nothing(
    state: State, event: Event, cancel: bool
) -> None:
    run = a_run(state, cancel_requested=cancel)
    before = run.model_dump_json()
    expected = TABLE.get((state, type(event)))
    never_moved = isinstance(event, Returned)  # the run's outcome is not `moved`
    if expected is None or (isinstance(event, Requeued) and cancel) or never_moved:
        with pytest.raises(IllegalTransition, match=type(event).__name__):
            advance(run, event, now=5)
    else:
        after = advance(run, event, now=5)
        assert (after.state, after.updated_at) == (expected, 5)
        assert Run.model_validate_json(after.model_dump_json()) == after
    assert run.model_dump_json() == before


@pytest.mark.parametrize("state", [State.PREPARING, State.RUNNING])
def test_a_cancelled_run_is_never_queued_again(state: State) -> None:
    event = Requeued(Reason.PREEMPTED)
    assert advance(a_run(state), event, now=2).state is State.QUEUED
    with pytest.raises(IllegalTransition, match=r"is .*, its cancellation requested; the event Requeued"):
        advance(a_run(state, cancel_requested=True), event, now=2)


@given(st.sampled_from([State.PREPARING, State.RUNNING]), EVENTS, st.booleans())
def test_what_is_cancelled_ends_as_cancelled_in_place_of_starting_again(
    state: State, event: Event, cancel: bool
) -> None:
    run = a_run(state, cancel_requested=cancel)
    ends = unless_cancelled(run, event)
    if cancel and isinstance(event, Requeued):
        after = advance(run, ends, now=5)
        assert (after.state, after.outcome) == (State.PUBLISHING, Outcome.CANCELLED)
        assert after.ended_at == (event.at or 5 if state is State.RUNNING else None)
    else:
        assert ends is event


def test_a_wish_to_preempt_ends_with_the_attempt_that_it_was_about() -> None:
    for event in (Requeued(Reason.PREEMPTED), Requeued(Reason.CHECKPOINTED, exit_code=85, at=3)):
        assert not advance(a_run(State.RUNNING, preempt_requested=True), event, now=2).preempt_requested
    assert not advance(a_run(preempt_requested=True), Claimed("t"), now=2).preempt_requested


def test_a_done_run_moves_no_more_unless_it_was_released_and_comes_back() -> None:
    assert [kind for kind in get_args(Event) if (State.DONE, kind) in TABLE] == [Returned]
    for outcome in (None, *Outcome):
        run = a_run(State.DONE, outcome=outcome)
        if outcome is Outcome.MOVED:
            assert advance(run, Returned(a_command(1), "k"), now=9).state is State.QUEUED
        else:
            with pytest.raises(IllegalTransition):
                advance(run, Returned(a_command(1), "k"), now=9)


@given(st.lists(st.integers(0, 3), max_size=6))
def test_a_run_that_is_moved_about_counts_on_and_no_late_command_brings_it_back(starts: list[int]) -> None:
    """Each number: how many attempts an executor makes before the run is taken from it again."""
    run = a_run()
    seen = {0}
    for count in starts:
        for _ in range(count):
            run = advance(run, Claimed("token"), now=2)
            run = advance(run, Requeued(Reason.PREEMPTED), now=2)
        run = advance(run, Released(), now=3)
        assert not any(comes_back(run, a_command(number)) for number in seen)
        command = a_command(next_attempt(run))
        assert comes_back(run, command)
        assert command.attempt >= run.attempt
        seen.add(command.attempt)
        run = advance(run, Returned(command, "k"), now=4)
        assert (run.state, run.outcome, run.done_at, run.command) == (State.QUEUED, None, None, command)
        assert not comes_back(run, command)


def test_a_run_that_comes_back_has_forgotten_the_checkpoint_that_it_went_away_with() -> None:
    """It was trained elsewhere since: taken away before it begins here, it goes with what it came with."""
    left = Checkpoint(attempt=1, where="lfs", sha256="0" * 64, size=1)
    run = advance(advance(a_run(), Claimed("token"), now=2), Requeued(Reason.PREEMPTED), now=2)
    run = advance(run.model_copy(update={"checkpoint": left}), Released(), now=3)
    assert run.checkpoint == left, "whoever asks again for it is told again"
    run = advance(run, Returned(a_command(2), "k"), now=4)
    assert run.checkpoint is None


def test_a_claim_counts_the_attempt_and_takes_token_and_gpus() -> None:
    run = advance(a_run(not_before=9, waiting_for="a GPU"), Claimed("token", ("GPU-1",)), now=2)
    assert (run.attempt, run.token, run.gpus, run.not_before, run.waiting_for) == (
        1,
        "token",
        ("GPU-1",),
        0,
        "",
    )


def test_a_run_knows_when_its_attempt_began_and_ended_though_it_is_written_down_later() -> None:
    claimed = advance(a_run(started_at=1.0, ended_at=2.0), Claimed("t"), now=10)
    assert (claimed.started_at, claimed.ended_at) == (None, None)
    running = advance(claimed, Prepared(), now=11)
    assert (running.started_at, running.ended_at) == (11, None)
    assert advance(claimed, Prepared(at=10.5), now=99).started_at == 10.5
    assert advance(running, Exited(Reason.EXITED, 0), now=12).ended_at == 12
    assert advance(running, Exited(Reason.EXITED, 0, at=11.5), now=99).ended_at == 11.5
    assert advance(running, Lost(), now=13).ended_at == 13


def test_a_requeued_run_gives_up_token_and_gpus() -> None:
    running = a_run(State.RUNNING, token="t", gpus=("GPU-1",), attempt=1)
    run = advance(running, Requeued(Reason.LOST, "again", 7), now=2)
    assert (run.token, run.gpus, run.attempt, run.not_before, run.outcome) == ("", (), 1, 7, None)


@pytest.mark.parametrize(
    ("reason", "code", "outcome"),
    [
        (Reason.EXITED, 0, Outcome.SUCCEEDED),
        (Reason.EXITED, 1, Outcome.FAILED),
        (Reason.SIGNALLED, None, Outcome.FAILED),
        (Reason.TIMEOUT, None, Outcome.FAILED),
        (Reason.TIMEOUT, 0, Outcome.FAILED),
        (Reason.CANCELLED, 0, Outcome.CANCELLED),
        (Reason.CANCELLED, 130, Outcome.CANCELLED),
        (Reason.SETUP, 2, Outcome.FAILED),
    ],
)
def test_an_exit_decides_the_outcome(reason: Reason, code: int | None, outcome: Outcome) -> None:
    run = advance(a_run(State.RUNNING, gpus=("GPU-1",)), Exited(reason, code, "why"), now=2)
    assert (run.outcome, run.reason, run.detail, run.gpus) == (outcome, reason, "why", ())


@given(EVENTS)
def test_no_run_succeeds_without_an_exit_code_of_0(event: Event) -> None:
    ends = [Exited(reason, code, "") for reason in Reason for code in (None, 0, 1, 85)]
    for one in (event, *ends):
        for state in State:
            if (state, type(one)) in TABLE and not isinstance(one, Returned):
                after = advance(a_run(state), one, now=2)
                proven = isinstance(one, Exited) and one.exit_code == 0 and one.reason is Reason.EXITED
                assert (after.outcome is Outcome.SUCCEEDED) is proven


def test_publishing_is_tried_again_and_tells_what_it_waits_for() -> None:
    run = a_run(State.PUBLISHING, outcome=Outcome.SUCCEEDED)
    for tries in (1, 2):
        run = advance(run, PublishFailed("offline", 60), now=2)
        assert (run.publish_tries, run.waiting_for, run.not_before) == (tries, "offline", 60)
    run = advance(run, Published("c" * 40, "runs/x"), now=3)
    assert (run.result_commit, run.result_path, run.done_at, run.waiting_for) == ("c" * 40, "runs/x", 3, "")
    assert run.outcome is Outcome.SUCCEEDED


def test_giving_up_publishing_keeps_the_outcome() -> None:
    run = a_run(State.PUBLISHING, outcome=Outcome.FAILED, detail="exit code 1")
    assert advance(run, Abandoned(), now=2).detail == "exit code 1"
    assert advance(run, Abandoned("the branch is gone"), now=2).detail == "the branch is gone"
    assert advance(run, Abandoned(), now=2).outcome is Outcome.FAILED


def test_a_released_run_is_done_here_and_moved() -> None:
    run = advance(a_run(), Released("to lab-2"), now=2)
    assert (run.outcome, run.reason, run.done_at) == (Outcome.MOVED, Reason.RELEASED, 2)


class Life(RuleBasedStateMachine):
    """Any sequence of events: whatever is legal keeps the run whole, whatever is not leaves it alone."""

    def __init__(self) -> None:
        super().__init__()
        self.run = a_run()
        self.clock = 1.0

    @rule(event=EVENTS)
    def happen(self, event: Event) -> None:
        self.clock += 1
        before = self.run
        try:
            self.run = advance(before, event, now=self.clock)
        except IllegalTransition:
            assert self.run is before

    @rule()
    def wish_to_cancel(self) -> None:
        self.run = self.run.model_copy(update={"cancel_requested": True})

    @rule()
    def wish_to_preempt(self) -> None:
        if self.run.state in {State.PREPARING, State.RUNNING}:
            self.run = self.run.model_copy(update={"preempt_requested": True})

    @invariant()
    def no_waiting_run_is_still_to_be_preempted(self) -> None:
        assert not (self.run.preempt_requested and self.run.state is State.QUEUED)

    @invariant()
    def holds_gpus_only_while_an_attempt_lives(self) -> None:
        assert not self.run.gpus or self.run.state in (State.PREPARING, State.RUNNING)

    @invariant()
    def has_a_verdict_exactly_from_publishing_on(self) -> None:
        assert (self.run.outcome is not None) is (self.run.state in (State.PUBLISHING, State.DONE))

    @invariant()
    def is_done_at_a_time_exactly_when_done(self) -> None:
        assert (self.run.done_at is not None) is self.run.final

    @invariant()
    def has_a_token_while_an_attempt_lives(self) -> None:
        assert self.run.token or self.run.state not in (State.PREPARING, State.RUNNING)


TestLife = Life.TestCase


def test_the_docs_show_the_generated_diagram() -> None:
    assert f"```mermaid\n{diagram()}\n```" in (DOCS / "concepts.md").read_text(encoding="utf-8")


def test_every_state_and_outcome_is_explained_in_the_docs() -> None:
    text = (DOCS / "concepts.md").read_text(encoding="utf-8")
    assert [word for word in (*State, *Outcome) if f"| {word} |" not in text] == []
