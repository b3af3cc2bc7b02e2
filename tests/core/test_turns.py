"""Whose turn it is: order of acceptance, two kinds of room, no starving."""

from collections.abc import Iterator

from hypothesis import given
from hypothesis import strategies as st

from pushtrain.core.model import Gpu
from pushtrain.core.turns import Active, Waiting, pick
from pushtrain.testing import a_gpu

GB = 1 << 30
BIG, SMALL, OTHER = a_gpu(0, memory=80 * GB), a_gpu(1, memory=24 * GB), a_gpu(2, memory=24 * GB)


def waiting(name: str, gpus: int = 0, memory: int = 0, group: str = "", most: int | None = None) -> Waiting:
    return Waiting(id=name, gpus=gpus, gpu_memory=memory, group=(group or name,), max_parallel=most)


def chosen(
    runs: list[Waiting], active: list[Active] | None = None, *, slots: int = 1, gpus: tuple[Gpu, ...] = ()
) -> str:
    turn = pick(runs, active or [], slots=slots, gpus=gpus)
    return turn[0].id if turn else ""


def test_the_run_that_was_accepted_first_starts_first() -> None:
    assert chosen([waiting("a"), waiting("b")]) == "a"


def test_a_gpu_kept_for_a_larger_run_starts_nothing_smaller() -> None:
    busy = [Active(gpus=(BIG.uuid,), group=("x",)), Active(gpus=(), group=("y",))]
    assert chosen([waiting("two", gpus=2), waiting("one", gpus=1)], busy, gpus=(BIG, SMALL)) == ""


def test_nothing_starts_when_every_slot_is_taken() -> None:
    assert chosen([waiting("a")], [Active(gpus=(), group=("x",))]) == ""


def test_a_run_without_gpus_passes_one_that_waits_for_a_gpu() -> None:
    busy = [Active(gpus=(BIG.uuid,), group=("x",))]
    assert chosen([waiting("gpu", gpus=1), waiting("cpu")], busy, gpus=(BIG,)) == "cpu"


def test_a_run_with_gpus_passes_one_that_waits_for_a_slot() -> None:
    busy = [Active(gpus=(), group=("x",))]
    assert chosen([waiting("cpu"), waiting("gpu", gpus=1)], busy, gpus=(BIG,)) == "gpu"


def test_a_run_that_needs_two_gpus_is_not_starved_by_later_ones_that_need_one() -> None:
    busy = [Active(gpus=(SMALL.uuid,), group=("x",))]
    assert chosen([waiting("two", gpus=2), waiting("one", gpus=1)], busy, gpus=(SMALL, OTHER)) == ""


def test_a_run_passes_a_blocked_one_on_gpus_that_the_blocked_one_cannot_use() -> None:
    busy = [Active(gpus=(BIG.uuid,), group=("x",))]
    runs = [waiting("big", gpus=1, memory=40 * GB), waiting("small", gpus=1)]
    turn = pick(runs, busy, slots=1, gpus=(BIG, SMALL))
    assert turn is not None
    assert (turn[0].id, turn[1]) == ("small", (SMALL.uuid,))


def test_a_run_that_could_never_fit_holds_up_nobody() -> None:
    assert chosen([waiting("eight", gpus=8), waiting("one", gpus=1)], gpus=(BIG,)) == "one"
    assert chosen([waiting("one", gpus=1), waiting("cpu")]) == "cpu"


def test_the_smallest_gpus_that_do_are_given() -> None:
    turn = pick([waiting("one", gpus=1)], [], slots=1, gpus=(BIG, SMALL))
    assert turn is not None
    assert turn[1] == (SMALL.uuid,)


def test_a_run_held_back_by_max_parallel_holds_up_nobody() -> None:
    busy = [Active(gpus=(), group=("sweep",))]
    runs = [waiting("cell", group="sweep", most=1), waiting("other")]
    assert chosen(runs, busy, slots=2) == "other"


def test_the_queue_is_read_no_further_than_needed() -> None:
    read: list[str] = []

    def queue() -> Iterator[Waiting]:
        for name in ("a", "b"):
            read.append(name)
            yield waiting(name)

    pick(queue(), [], slots=1, gpus=())
    assert read == ["a"]


@given(
    st.lists(st.tuples(st.integers(0, 3), st.sampled_from([0, 24, 80]), st.sampled_from([None, 1, 2]))),
    st.integers(0, 3),
    st.sets(st.sampled_from([BIG, SMALL, OTHER])),
)
def test_a_full_round_of_turns_never_gives_more_than_there_is(
    asked: list[tuple[int, int, int | None]], slots: int, gpus: set[Gpu]
) -> None:
    queue = [
        waiting(str(i), gpus=n, memory=memory * GB, group=str(i % 2), most=most)
        for i, (n, memory, most) in enumerate(asked)
    ]
    active: list[Active] = []
    lent = sorted(gpus, key=lambda gpu: gpu.index)
    while turn := pick(queue, active, slots=slots, gpus=lent):
        run, uuids = turn
        assert len(uuids) == run.gpus
        assert all(gpu.memory >= run.gpu_memory for gpu in lent if gpu.uuid in uuids)
        queue.remove(run)
        active.append(Active(gpus=uuids, group=run.group))
        same = sum(1 for other in active if other.group == run.group)
        assert run.max_parallel is None or same <= run.max_parallel
    held = [uuid for run in active for uuid in run.gpus]
    assert len(held) == len(set(held))
    assert sum(1 for run in active if not run.gpus) <= slots
    used = sum(1 for run in active if not run.gpus)
    left = [run for run in queue if run.gpus == 0 and run.max_parallel is None]
    assert used == slots or not left
