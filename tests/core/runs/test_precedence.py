"""Which run gives way to which: by the order of commits, and never the newer to the older."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from pushtrain.core.runs.precedence import GivesWay, Order, dropped, giving_way, group_of
from pushtrain.core.values.jobspec import Concurrency
from pushtrain.core.values.run import Run
from pushtrain.core.values.states import State
from pushtrain.testing import a_command, a_run, a_spec

UNENDED = (State.QUEUED, State.PREPARING, State.RUNNING)


def run(number: int, how: Concurrency = Concurrency.CANCEL, **changes: object) -> Run:
    more: dict[str, Any] = {name: changes.pop(name) for name in ("ref", "request") if name in changes}
    cell = changes.pop("cell", {})
    job = a_spec(concurrency=how, cell=cell)
    return a_run(a_command(commit=f"{number:040x}", job=job, **more), **changes)


def order(this: str, that: str) -> Order:
    """Commits are numbers here."""
    one, other = int(this, 16), int(that, 16)
    return Order.UNKNOWN if one == other else Order.NEWER if one > other else Order.OLDER


def test_the_older_gives_way_whichever_is_delivered_last() -> None:
    older, newer = run(1), run(2)
    expected = [GivesWay(older, newer, Concurrency.CANCEL)]
    assert giving_way(newer, [older, newer], order) == expected
    assert giving_way(older, [older, newer], order) == expected


def test_a_late_push_gives_way_to_a_newer_one_that_has_ended() -> None:
    late, ended = run(1), run(2, state=State.DONE)
    assert [one.older for one in giving_way(late, [ended], order)] == [late]
    saves = run(2, Concurrency.CHECKPOINT, state=State.DONE)
    assert giving_way(late, [saves], order) == [], "there is nothing to wait for"


def test_other_refs_jobs_cells_and_reruns_stand_alone() -> None:
    newer = run(2)
    others = [run(1, ref="refs/heads/other"), run(1, request="again"), run(1, cell={"lr": 1})]
    assert giving_way(newer, others, order) == []
    assert group_of(run(1, request="again").command) is None
    assert giving_way(run(2, request="again"), [run(1)], order) == []
    assert group_of(run(1, cell={"a": 1}).command) != group_of(run(1, cell={"a": "1"}).command)


@given(
    st.lists(
        st.tuples(st.integers(1, 5), st.sampled_from(Concurrency), st.sampled_from(State), st.booleans()),
        min_size=1,
        max_size=6,
    )
)
def test_nobody_gives_way_to_an_older_push_and_the_newest_to_nobody(
    given_runs: list[tuple[int, Concurrency, State, bool]],
) -> None:
    runs = [
        run(number, how, state=state, cancel_requested=cancel) for number, how, state, cancel in given_runs
    ]
    for one in runs:
        for way in giving_way(one, runs, order):
            assert int(way.older.command.commit, 16) < int(way.newer.command.commit, 16)
            assert way.older.state in UNENDED
            assert way.how is way.newer.command.job.concurrency is not Concurrency.QUEUE


@given(st.permutations([1, 2, 3, 4]))
def test_whatever_the_order_of_deliveries_the_newest_alone_is_left(deliveries: list[int]) -> None:
    here: list[Run] = []
    for number in deliveries:
        here.append(run(number))
        gone = {way.older.id for way in giving_way(here[-1], here, order)}
        here = [one.model_copy(update={"state": State.DONE}) if one.id in gone else one for one in here]
    left = [int(one.command.commit, 16) for one in here if one.state is State.QUEUED]
    assert left == [4]


def test_a_sender_drops_the_older_of_two_commands_that_nobody_has_whichever_came_first() -> None:
    older, newer = run(1).command, run(2).command
    assert dropped([newer], [older], order) == [(older, newer)]
    assert dropped([older], [newer], order) == [(older, newer)]
    assert dropped([newer], [newer, run(1, ref="refs/heads/other").command], order) == []
    for how in (Concurrency.QUEUE, Concurrency.CHECKPOINT):
        assert dropped([run(2, how).command], [older], order) == [], how
