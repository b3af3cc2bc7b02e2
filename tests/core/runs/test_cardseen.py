"""Which part of a GPU's use is the owner's."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from pushtrain.core.owner.verdict import CardSeen
from pushtrain.core.runs.cardseen import Lent, card_seen, coming_back
from pushtrain.core.runs.gpuhealth import GpuProcess, GpuSample

GB = 10**9


def a_sample(*processes: GpuProcess, **changed: Any) -> GpuSample:
    used = sum(one.memory or 0 for one in processes)
    given = {"uuid": "GPU-0", "at": 0.0, "memory": 24 * GB, "memory_used": used, "processes": processes}
    return GpuSample(**{**given, **changed})


def a_process(pid: int, memory: int | None) -> GpuProcess:
    return GpuProcess(pid=pid, memory=memory)


def seen(sample: GpuSample, **how: Any) -> CardSeen:
    return card_seen(sample, 0, **{"ours": (), **how})


def test_what_is_not_ours_is_the_owners() -> None:
    found = seen(a_sample(a_process(1, 9 * GB), a_process(2, 3 * GB)), ours={1}, lent=Lent())
    assert (found.foreign_memory, found.free_memory, found.lent) == (3 * GB, 12 * GB, True)


def test_a_process_that_has_just_died_is_nobodys() -> None:
    assert seen(a_sample(a_process(1, 9 * GB)), dead={1}).foreign_memory == 0


def test_the_utilisation_of_a_card_that_a_run_has_or_had_a_moment_ago_is_not_the_owners() -> None:
    busy = a_sample(utilization=100)
    assert seen(busy).foreign_utilization == 100
    assert seen(busy, lent=Lent()).foreign_utilization == 0
    assert seen(busy, cooling=True).foreign_utilization == 0


def test_where_the_driver_tells_processes_apart_the_owners_use_counts_beside_a_run() -> None:
    train = GpuProcess(pid=1, memory=9 * GB, utilization=60)
    game = GpuProcess(pid=2, memory=GB // 4, utilization=35)
    found = seen(a_sample(train, game, utilization=97), ours={1}, lent=Lent())
    assert (found.foreign_utilization, found.foreign_memory) == (35, GB // 4)
    assert seen(a_sample(train, game, utilization=97), ours={1, 2}, lent=Lent()).foreign_utilization == 0
    assert seen(a_sample(train, game), dead={1}, cooling=True).foreign_utilization == 35
    silent = GpuProcess(pid=3, memory=GB)
    assert seen(a_sample(train, game, silent), ours={1}, lent=Lent()).foreign_utilization == 0, "half of it"


def test_without_processes_all_beyond_what_ours_were_given_is_the_owners() -> None:
    blind = a_sample(memory_used=10 * GB, processes=None)
    assert seen(blind).foreign_memory == 10 * GB
    assert seen(blind, lent=Lent(whole=False, given=8 * GB)).foreign_memory == 2 * GB
    assert seen(blind, lent=Lent(whole=True)).foreign_memory == 0
    assert seen(blind, cooling=True).foreign_memory == 0


def test_pids_of_another_namespace_mean_nothing() -> None:
    assert seen(a_sample(a_process(7, 9 * GB)), blind=True, lent=Lent()).foreign_memory == 0
    assert seen(a_sample(a_process(7, 9 * GB)), blind=True).foreign_memory == 9 * GB


def test_a_process_of_the_owners_whose_memory_is_not_told_counts_with_all_that_is_used() -> None:
    assert seen(a_sample(a_process(7, None), memory_used=5 * GB)).foreign_memory == 5 * GB
    beside = a_sample(a_process(7, None), a_process(8, 3 * GB), memory_used=5 * GB)
    assert seen(beside, ours={8}, lent=Lent()).foreign_memory == 2 * GB
    assert seen(beside, ours={8}, lent=Lent(), before={7}).foreign_memory == 0, "it was there all along"


def test_a_sleeping_card_says_nothing_else() -> None:
    found = seen(GpuSample(uuid="GPU-0", at=0, asleep=True))
    assert (found.asleep, found.foreign_memory, found.free_memory) == (True, 0, None)


def test_memory_that_only_the_dead_hold_is_coming_back() -> None:
    assert coming_back(a_sample(a_process(1, 9 * GB)), dead={1})
    assert not coming_back(a_sample(a_process(1, 9 * GB)), dead=())
    assert coming_back(a_sample(memory_used=9 * GB), dead=())
    assert not coming_back(GpuSample(uuid="GPU-0", at=0, asleep=True), dead=())


@given(
    memories=st.lists(st.integers(0, 30 * GB), max_size=6),
    which=st.sets(st.integers(0, 5)),
    blind=st.booleans(),
)
def test_ours_alone_never_counts_as_the_owners_and_theirs_always_does(
    memories: list[int], which: set[int], *, blind: bool
) -> None:
    sample = a_sample(*(a_process(pid, memory) for pid, memory in enumerate(memories)))
    ours = {pid for pid in which if pid < len(memories)}
    theirs = sum(memory for pid, memory in enumerate(memories) if pid not in ours)
    found = seen(sample, ours=ours, lent=Lent() if ours else None, blind=blind)
    if not blind:
        assert found.foreign_memory == theirs
    elif not ours:
        assert found.foreign_memory == sum(memories)
