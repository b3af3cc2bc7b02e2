"""What is metered of a card, and what the ledger sums."""

from hypothesis import given
from hypothesis import strategies as st

from pushtrain.core.runs.gpuhealth import GpuSample
from pushtrain.core.runs.usage import GAP, Metered, Used, gpu_use, metered, summed

GB = 10**9


def a_sample(**changed: object) -> GpuSample:
    return GpuSample.model_validate({"uuid": "GPU-1", "at": 0.0, "memory": 24 * GB, **changed})


def after(*looks: tuple[float, GpuSample, int | None]) -> Metered:
    state: Metered | None = None
    for at, sample, memory in looks:
        state = metered(state, sample, at=at, memory=memory)
    assert state is not None
    return state


def test_utilisation_is_weighed_by_time() -> None:
    state = after(
        (0, a_sample(utilization=0), GB),
        (1, a_sample(utilization=100), 3 * GB),
        (4, a_sample(utilization=60), 2 * GB),
    )
    use = gpu_use({"GPU-1": state}, gpus=("GPU-1",), held=4)
    assert use is not None
    assert use.mean_utilization == 70.0  # 1 s at 100 and 3 s at 60
    assert use.peak_utilization == 100
    assert use.peak_memory == 3 * GB
    assert use.mean_memory == round((3 + 2 * 3) / 4 * GB)
    assert use.joules is None  # nothing told of it: not 0


def test_a_cards_counter_is_believed_over_its_power_also_across_a_gap() -> None:
    state = after(
        (0, a_sample(energy=100.0, power=300.0), None),
        (3600, a_sample(energy=90_100.0, power=300.0), None),
    )
    assert (state.joules, state.estimated) == (90_000.0, False)


def test_a_counter_that_begins_anew_takes_nothing_away() -> None:
    state = after(
        (0, a_sample(energy=500.0), None), (1, a_sample(energy=3.0), None), (2, a_sample(energy=10.0), None)
    )
    assert state.joules == 7.0


def test_without_a_counter_power_times_time_is_marked_as_estimated_and_a_gap_is_left_out() -> None:
    state = after(
        (0, a_sample(power=100.0), None),
        (2, a_sample(power=100.0), None),
        (2 + 10 * GAP, a_sample(power=100.0), None),
    )
    use = gpu_use({"GPU-1": state}, gpus=("GPU-1",), held=102)
    assert use is not None
    assert (use.joules, use.estimated) == (200.0, True)


def test_the_longest_idle_time_counts_and_work_ends_it() -> None:
    looks = [(float(at), a_sample(utilization=0 if at < 8 or at > 10 else 90), None) for at in range(20)]
    state = after(*looks)
    assert state.idle == 8.0
    assert state.idle_for == 8.0
    assert after(*looks, (20.0, a_sample(utilization=50), None)).idle_for == 0


def test_a_time_in_which_nobody_looked_is_not_called_idle() -> None:
    state = after((0, a_sample(utilization=0), None), (5 * GAP, a_sample(utilization=0), None))
    assert state.idle == 0
    assert state.idle_for == 0


def test_a_card_that_cannot_tell_is_not_called_idle() -> None:
    state = after(*((float(at), a_sample(utilization=None), None) for at in range(5)))
    assert (state.idle, state.weighed, state.peak) == (0, 0, None)


def test_a_lost_or_sleeping_card_tells_nothing_and_takes_nothing() -> None:
    state = after(
        (0, a_sample(energy=1.0, utilization=50), GB),
        (1, a_sample(energy=5.0, utilization=50), GB),
        (2, a_sample(lost=True), None),
        (3, a_sample(asleep=True), None),
    )
    assert (state.joules, state.weighed, state.at) == (4.0, 1.0, 3)


def test_an_attempt_without_gpus_used_none_and_a_share_counts_as_one() -> None:
    assert gpu_use({}, gpus=(), held=10) is None
    use = gpu_use({}, gpus=("a", "b"), held=10, share=0.25)
    assert use is not None
    assert use.seconds == 5.0


samples = st.builds(
    a_sample,
    utilization=st.none() | st.integers(0, 100),
    power=st.none() | st.floats(0, 700),
    energy=st.none() | st.floats(0, 1e9),
    lost=st.booleans(),
    asleep=st.booleans(),
)
looks = st.lists(st.tuples(st.floats(0, 1e6), samples, st.none() | st.integers(0, 80 * GB)), min_size=1)


@given(looks)
def test_whatever_the_looks_and_the_clock_say_no_figure_is_beyond_what_is_possible(
    seen: list[tuple[float, GpuSample, int | None]],
) -> None:
    state = after(*seen)
    use = gpu_use({"GPU-1": state}, gpus=("GPU-1",), held=5)
    assert use is not None
    assert state.at == max(at for at, _, _ in seen)
    assert use.joules is None or use.joules >= 0
    assert use.mean_utilization is None or 0 <= use.mean_utilization <= (use.peak_utilization or 0)
    assert use.mean_memory is None or use.mean_memory <= (use.peak_memory or 0)
    assert 0 <= use.idle <= state.at


@given(looks, st.integers(0, 20))
def test_a_state_that_was_written_down_and_read_again_goes_on_as_if_nothing_had_been(
    seen: list[tuple[float, GpuSample, int | None]], at: int
) -> None:
    state: Metered | None = None
    for number, (when, sample, memory) in enumerate(seen):
        if number == at and state is not None:
            state = Metered.model_validate_json(state.model_dump_json())
        state = metered(state, sample, at=when, memory=memory)
    assert state == after(*seen)


def test_lines_of_the_ledger_add_up() -> None:
    one = Used(attempts=1, seconds=2, gpu_seconds=4, cpu_seconds=1, joules=10, waited=3)
    assert summed([one, one]) == Used(
        attempts=2, seconds=4, gpu_seconds=8, cpu_seconds=2, joules=20, waited=6
    )
    assert summed([one, one.model_copy(update={"estimated": True})]).estimated
    assert summed([]) == Used()
