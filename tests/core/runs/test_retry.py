"""Whether a run is started again: every budget is counted alone, and every run ends."""

from hypothesis import given
from hypothesis import strategies as st

from pushtrain.core.runs import retry
from pushtrain.core.runs.retry import (
    LONGEST_PAUSE,
    MOST_ATTEMPTS,
    MOST_UNREADY,
    UNREADY,
    after,
    goes_on,
    worth_telling,
)
from pushtrain.core.values.jobspec import Retry
from pushtrain.core.values.run import Attempt
from pushtrain.core.values.states import RETRIED, TAKEN_BACK, Reason


def ended(reason: Reason, code: int | None = None, trained: float = 3600) -> Attempt:
    return Attempt(
        run_id="0" * 32,
        number=1,
        executor="lab",
        claimed_at=0,
        started_at=10,
        ended_at=10 + trained,
        exit_code=code,
        reason=reason,
    )


LOST = ended(Reason.LOST)
FAILED = ended(Reason.EXITED, 1)
CRASHED = ended(Reason.SIGNALLED)
ENDS = st.one_of(
    st.builds(ended, st.sampled_from(Reason), st.none()),
    st.builds(ended, st.just(Reason.EXITED), st.integers(0, 255), st.sampled_from([0.0, 5.0, 100.0])),
    st.builds(ended, st.just(Reason.CHECKPOINTED), st.just(85), st.sampled_from([0.0, 5.0, 100.0])),
)
POLICIES = st.builds(
    Retry,
    lost=st.integers(0, 4),
    failed=st.integers(0, 4),
    exit_codes=st.dictionaries(st.integers(1, 84) | st.integers(86, 255), st.integers(0, 4), max_size=3),
    also=st.lists(st.sampled_from(sorted(RETRIED)), unique=True).map(tuple),
    backoff=st.floats(0.01, 3600),
)


def starts(end: Attempt, policy: Retry, *, most: int = 20) -> int:
    """How many attempts a run has whose every attempt ends like this."""
    earlier: list[Attempt] = []
    while len(earlier) < most and after(end, earlier, policy) is not None:
        earlier.append(end)
    return len(earlier) + 1


def test_lost_machines_are_retried_twice_and_failed_commands_never_unless_asked() -> None:
    assert starts(LOST, Retry()) == 3
    assert starts(FAILED, Retry()) == 1
    assert starts(CRASHED, Retry()) == 1
    assert starts(LOST, Retry(lost=0)) == 1
    assert starts(FAILED, Retry(failed=2)) == 3
    assert starts(CRASHED, Retry(failed=2)) == 3


def test_each_budget_is_counted_alone() -> None:
    policy = Retry(lost=1, failed=1, exit_codes={75: 2})
    special = ended(Reason.EXITED, 75)
    assert after(FAILED, [LOST], policy) is not None
    assert after(LOST, [FAILED, special, special], policy) is not None
    assert after(special, [LOST, FAILED, special], policy) is not None
    assert after(special, [special, LOST, special], policy) is None
    assert after(FAILED, [FAILED, special], policy) is None


def test_a_chosen_exit_code_has_its_own_budget_even_when_it_is_nothing() -> None:
    assert starts(ended(Reason.EXITED, 2), Retry(failed=3, exit_codes={2: 0})) == 1


def test_what_would_fail_again_is_tried_only_when_asked() -> None:
    for reason in (Reason.OOM, Reason.ENVIRONMENT, Reason.CHECKOUT, Reason.DATA, Reason.SETUP):
        assert starts(ended(reason), Retry(failed=2)) == 1
        assert starts(ended(reason), Retry(failed=2, also=(reason,))) == 3


@given(POLICIES)
def test_what_somebody_decided_is_never_tried_again(policy: Retry) -> None:
    for reason in (Reason.CANCELLED, Reason.REFUSED, Reason.TIMEOUT, Reason.ISOLATION, Reason.RELEASED):
        assert after(ended(reason), [], policy) is None
    assert after(ended(Reason.EXITED, 0), [], policy) is None


@given(POLICIES, st.lists(ENDS, max_size=30))
def test_what_an_owner_takes_back_costs_no_budget(policy: Retry, earlier: list[Attempt]) -> None:
    for reason in TAKEN_BACK:
        again = after(ended(reason), earlier, policy)
        assert again == retry.Again(0.0)
        for other in (LOST, FAILED):
            told = after(other, earlier, policy)
            assert told == after(other, [*earlier, ended(reason)], policy)


@given(POLICIES, st.lists(ENDS, max_size=40))
def test_every_run_ends_within_its_budgets(policy: Retry, ends: list[Attempt]) -> None:
    earlier: list[Attempt] = []
    for end in (one for one in ends if one.reason not in UNREADY):
        again = after(end, earlier, policy)
        if again is None:
            break
        assert 0 <= again.pause <= max(LONGEST_PAUSE, policy.backoff)
        assert not (end.reason is Reason.EXITED and end.exit_code == 0)
        earlier.append(end)
    counted = sum(not goes_on(one) for one in earlier)
    assert counted <= policy.lost + policy.failed + sum(policy.exit_codes.values())


def test_a_preparation_that_reaches_nobody_is_tried_again_for_about_a_day_and_costs_no_budget() -> None:
    nobody, no_room = ended(Reason.UNREACHABLE), ended(Reason.STORAGE)
    pauses: list[float] = []
    while again := after(nobody, [LOST, *[nobody] * len(pauses)], Retry(lost=1)):
        pauses.append(again.pause)
        assert again.note == ""
    assert pauses[:3] == [15, 30, 60]
    assert max(pauses) <= LONGEST_PAUSE
    assert 23 * 3600 < sum(pauses) < 25 * 3600
    assert after(nobody, [nobody] * MOST_UNREADY + [LOST], Retry()) is not None, "only those in a row count"
    assert after(no_room, [nobody, no_room] * (MOST_UNREADY // 2), Retry()) is None, (
        "whichever of them it was"
    )
    assert after(LOST, [nobody] * 9, Retry(lost=1)) is not None


@given(st.lists(ENDS | st.just(ended(Reason.UNREACHABLE)) | st.just(ended(Reason.STORAGE)), max_size=30))
def test_every_attempt_is_told_or_counted_and_only_such_are_left_out_that_were_not_ready(
    ends: list[Attempt],
) -> None:
    numbered = [one.model_copy(update={"number": number}) for number, one in enumerate(ends, 1)]
    told = worth_telling(numbered)
    shown = {one.number for _, one in told}
    assert len(told) + sum(left for left, _ in told) == len(ends)
    assert all(one.reason in UNREADY for one in numbered if one.number not in shown)
    at = 0
    for left, one in told:
        at += left + 1
        assert one.number == at


def test_a_run_that_is_always_taken_back_ends_some_day() -> None:
    back = ended(Reason.PREEMPTED)
    assert after(back, [back] * (MOST_ATTEMPTS - 2), Retry()) is not None
    assert after(back, [back] * (MOST_ATTEMPTS - 1), Retry()) is None


def test_nights_without_a_network_are_no_starts_of_a_run_that_goes_on_for_a_month() -> None:
    back, nobody = ended(Reason.PREEMPTED), ended(Reason.UNREACHABLE)
    month = [*[nobody] * (MOST_UNREADY - 1), back] * 30
    assert len(month) > MOST_ATTEMPTS
    for what in (back, nobody, LOST):
        assert after(what, month, Retry()) is not None


def test_the_hours_in_which_a_run_must_wait_anyway_begin_the_day_of_tries_in_vain_not_anew() -> None:
    nobody, quiet = ended(Reason.UNREACHABLE), ended(Reason.DEFERRED)
    nights = [*[nobody] * (MOST_UNREADY // 2), quiet] * 2
    assert after(nobody, nights[:-2], Retry()) is not None
    assert after(nobody, nights, Retry()) is None


def test_each_further_try_waits_twice_as_long() -> None:
    policy = Retry(failed=20, backoff=10)
    pauses = [told.pause for number in range(9) if (told := after(FAILED, [FAILED] * number, policy))]
    assert pauses == [10, 20, 40, 80, 160, 320, 600, 600, 600]
    told = after(FAILED, [FAILED], policy)
    assert told is not None
    assert told.note == "retry 2 of 20"


def test_who_saves_without_training_waits_longer_and_longer() -> None:
    hasty, busy = ended(Reason.CHECKPOINTED, 85, 1), ended(Reason.CHECKPOINTED, 85, 3600)
    pauses = [told.pause for number in range(6) if (told := after(hasty, [hasty] * number, Retry()))]
    assert pauses == [0, 1, 2, 4, 8, 16]
    assert after(busy, [hasty] * 9, Retry()) == retry.Again(0.0)
    assert after(hasty, [hasty] * 9 + [busy], Retry()) == retry.Again(0.0)
