"""Whose turn it is: one order, two kinds of room, shared cards, no starving."""

from collections import defaultdict
from collections.abc import Iterator, Sequence

from hypothesis import given
from hypothesis import strategies as st

from pushtrain.core.runs.fairness import DAY, MOST_BEHIND, Line, rank, weights
from pushtrain.core.runs.room import Needs
from pushtrain.core.runs.turns import UNBOUNDED, Active, Bounds, Queue, Room, Waiting, left, pick
from pushtrain.core.values.card import Gpu
from pushtrain.testing import a_gpu

GB = 1 << 30
NOW = 20_000.0 * DAY + DAY / 2
BIG, SMALL, OTHER = a_gpu(0, memory=80 * GB), a_gpu(1, memory=24 * GB), a_gpu(2, memory=24 * GB)
SLICES = tuple(a_gpu(3, memory=10 * GB, uuid=f"MIG-{n}", slice=n) for n in range(2))


def waiting(
    name: str,
    gpus: int = 0,
    memory: int = 0,
    group: str = "",
    most: int | None = None,
    *,
    share: bool = False,
    capability: int = 0,
    at: float = NOW,
) -> Waiting:
    needs = Needs(gpus, memory, capability, share)
    return Waiting(name, needs, (group or name,), most, at)


def in_line(runs: Sequence[Waiting], sender: str = "ada", repository: str = "host/one") -> list[Queue]:
    """One person's queues, in order."""
    numbered = [
        Waiting(run.id, run.needs, run.group, run.max_parallel, run.rank, number)
        for number, run in enumerate(runs)
    ]
    kinds = ([run for run in numbered if bool(run.needs.gpus) is gpus] for gpus in (False, True))
    return [a_queue(runs, sender, repository, gpus=bool(gpus)) for gpus, runs in enumerate(kinds) if runs]


def a_queue(
    runs: Sequence[Waiting], sender: str = "ada", repository: str = "host/one", *, gpus: bool = False
) -> Queue:
    return Queue(sender, repository, gpus, (runs[0].rank, runs[0].number), runs)


def turn_of(
    queues: Sequence[Queue],
    active: Sequence[Active] = (),
    *,
    slots: int = 1,
    gpus: Sequence[Gpu] = (),
    bounds: Bounds = UNBOUNDED,
    ledger: Sequence[Line] = (),
    now: float = NOW,
) -> tuple[Waiting, tuple[str, ...]] | None:
    return pick(queues, active, Room(slots, gpus, bounds), ledger=ledger, now=now)


def chosen(
    runs: list[Waiting], active: list[Active] | None = None, *, slots: int = 1, gpus: tuple[Gpu, ...] = ()
) -> str:
    turn = turn_of(in_line(runs), active or [], slots=slots, gpus=gpus)
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
    turn = turn_of(in_line(runs), busy, gpus=(BIG, SMALL))
    assert turn is not None
    assert (turn[0].id, turn[1]) == ("small", (SMALL.uuid,))


def test_a_run_that_could_never_fit_holds_up_nobody() -> None:
    assert chosen([waiting("eight", gpus=8), waiting("one", gpus=1)], gpus=(BIG,)) == "one"
    assert chosen([waiting("one", gpus=1), waiting("cpu")]) == "cpu"


def test_the_smallest_gpus_that_do_are_given() -> None:
    turn = turn_of(in_line([waiting("one", gpus=1)]), gpus=(BIG, SMALL))
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

    turn_of([Queue("ada", "host/one", gpus=False, first=(NOW, 0), runs=queue())])
    assert read == ["a"]
    turn_of([Queue("ada", "host/one", gpus=True, first=(NOW, 0), runs=queue())])
    assert read == ["a"], "there is no GPU, so nobody looks who wants one"


def test_a_queue_whose_first_runs_were_not_read_stands_where_its_next_one_does() -> None:
    """Whoever reads the queue may leave out what `max_parallel` holds back."""
    late, early = waiting("late", at=NOW + 7), waiting("early", at=NOW + 3)
    queues = [
        Queue("ada", "host/one", gpus=False, first=(NOW, 0), runs=[late]),
        Queue("bob", "host/one", gpus=False, first=(NOW + 3, 0), runs=[early]),
    ]
    turn = turn_of(queues)
    assert turn is not None
    assert turn[0].id == "early"


# --- sharing a card ---------------------------------------------------------------------------------------


def test_small_runs_share_a_card_as_far_as_its_memory_less_the_owners_reserve_goes() -> None:
    bounds = Bounds(reserve=2 * GB)
    runs = [waiting(str(n), gpus=1, memory=8 * GB, share=True) for n in range(4)]
    slots, places = left(in_line(runs[:2]), [], Room(1, [SMALL], bounds), ledger=(), now=NOW)
    assert [(place.whole, place.room) for place in places] == [(False, 6 * GB)]
    two = [Active((SMALL.uuid,), ("x",), 8 * GB, share=True)] * 2
    assert turn_of(in_line(runs), two, gpus=[SMALL], bounds=bounds) is None
    assert turn_of(in_line(runs), two, gpus=[SMALL]) is not None, "without a reserve the third fits, too"
    assert slots == 1


def test_a_run_that_wants_a_card_alone_never_gets_one_that_is_shared() -> None:
    sharing = [Active((SMALL.uuid,), ("x",), GB, share=True)]
    assert chosen([waiting("alone", gpus=1)], sharing, gpus=(SMALL,)) == ""
    assert chosen([waiting("part", gpus=1, memory=GB, share=True)], sharing, gpus=(SMALL,)) == "part"


def test_who_shares_joins_those_who_do_so_that_a_free_card_stays_whole() -> None:
    sharing = [Active((OTHER.uuid,), ("x",), GB, share=True)]
    turn = turn_of(in_line([waiting("part", gpus=1, memory=GB, share=True)]), sharing, gpus=(SMALL, OTHER))
    assert turn is not None
    assert turn[1] == (OTHER.uuid,)


def test_a_run_that_waits_for_a_whole_card_is_not_starved_by_those_who_share_it() -> None:
    sharing = [Active((SMALL.uuid,), ("x",), GB, share=True)]
    runs = [waiting("alone", gpus=1), waiting("part", gpus=1, memory=GB, share=True)]
    assert chosen(runs, sharing, gpus=(SMALL,)) == ""


def test_capability_and_slices_count() -> None:
    assert chosen([waiting("new", gpus=1, capability=900), waiting("any", gpus=1)], gpus=(SMALL,)) == "any"
    assert chosen([waiting("two", gpus=2)], gpus=SLICES) == "", "a program sees one slice at most"
    assert chosen([waiting("one", gpus=1)], gpus=SLICES) == "one"


# --- the order --------------------------------------------------------------------------------------------


def order(
    people: dict[str, list[Waiting]], *, ledger: Sequence[Line] = (), gpus: int = 1, rounds: int = 20
) -> list[str]:
    """Who starts, one after the other, each on one of so many cards that are free at once."""
    cards = [a_gpu(n, memory=24 * GB) for n in range(gpus)]
    queues = [queue for name, runs in people.items() for queue in in_line(runs, name, f"host/{name}")]
    active: list[Active] = []
    found = []
    for _ in range(rounds):
        turn = turn_of(queues, active, gpus=cards, ledger=ledger)
        if turn is None:
            break
        run, uuids = turn
        name = next(queue.sender for queue in queues if run in list(queue.runs))
        found.append(run.id)
        active.append(Active(uuids, (f"host/{name}",), sender=name, since=NOW))
        queues = [
            a_queue(rest, each.sender, each.repository, gpus=each.gpus)
            for each in queues
            if (rest := [one for one in each.runs if one.id != run.id])
        ]
    return found


def several(name: str, count: int, at: float = NOW) -> list[Waiting]:
    return [waiting(f"{name}{n}", gpus=1, at=at + n / 100) for n in range(count)]


def test_who_asks_for_everything_at_once_does_not_get_everything_before_the_next_person() -> None:
    started = order({"ada": several("a", 8), "bob": several("b", 8, NOW + 1)}, gpus=4)
    assert started == ["a0", "b0", "a1", "b1"]


def test_who_has_used_much_lately_waits_for_who_has_not() -> None:
    used = [Line("ada", "host/ada", 2 * 3600.0, 0)]
    later = {"ada": several("a", 1), "bob": several("b", 1, NOW + 3600)}
    assert order(later)[0] == "a0"
    assert order(later, ledger=used)[0] == "b0"


def test_what_was_used_long_ago_is_forgotten() -> None:
    counts = weights(NOW)
    assert [round(counts[int(NOW) // DAY - ago], 3) for ago in range(4)] == [1, 0.707, 0.354, 0.177]
    assert len(counts) == 14
    last_week = [Line("ada", "host/ada", 10 * 3600.0 * counts[int(NOW) // DAY - 7], 0)]
    assert order({"ada": several("a", 1), "bob": several("b", 1, NOW + 1200)}, ledger=last_week)[0] == "a0"


def test_a_step_of_priority_is_an_hour_and_the_owner_says_how_many_count() -> None:
    assert rank(NOW, 2, most=10) == NOW - 7200
    assert rank(NOW, 50, most=10) == rank(NOW, 10, most=10)
    assert rank(NOW, -5, most=0) == NOW + 5 * 3600
    early, urgent = waiting("early", at=rank(NOW, 0, 10)), waiting("urgent", at=rank(NOW + 60, 1, 10))
    assert turn_of([a_queue([urgent, early])]) == (urgent, ())


def test_who_has_used_the_days_hours_starts_nothing_on_a_gpu_until_tomorrow() -> None:
    bounds = Bounds(hours_a_day=2)
    used = [Line("ada", "host/x", 2 * 3600.0, 2 * 3600.0)]
    runs = in_line([waiting("gpu", gpus=1), waiting("cpu")])
    turn = turn_of(runs, gpus=[SMALL], bounds=bounds, ledger=used)
    assert turn is not None
    assert turn[0].id == "cpu"
    yesterday = [Line("ada", "host/x", 1.4 * 3600.0, 0)]
    assert turn_of(runs[1:], gpus=[SMALL], bounds=bounds, ledger=yesterday) is not None
    running = [Active((SMALL.uuid,), ("host/x",), sender="ada", since=NOW - 2.5 * 3600)]
    assert turn_of(runs[1:], running, gpus=[SMALL, OTHER], bounds=bounds) is None, "what runs counts, too"


@given(
    st.lists(st.tuples(st.floats(0, 400 * 3600), st.floats(0, 400 * 3600)), min_size=1, max_size=20),
    st.integers(-10, 10),
)
def test_nobody_starves_whatever_was_used_and_whatever_the_priorities(
    used: list[tuple[float, float]], priority: int
) -> None:
    """Whatever comes three days later is behind: there is no way to be passed for ever."""
    ledger = [
        Line(who, f"host/{who}", seconds, seconds)
        for both in used
        for who, seconds in zip(("ada", "bob"), both, strict=True)
    ]
    most = 10
    old = waiting("old", gpus=1, at=rank(NOW, priority, most))
    behind = 2 * MOST_BEHIND + 2 * most * 3600
    young = waiting("young", gpus=1, at=rank(NOW + behind + 1, most, most))
    queues = [*in_line([old], "ada", "host/ada"), *in_line([young], "bob", "host/bob")]
    turn = turn_of(queues, gpus=[SMALL], ledger=ledger)
    assert turn is not None
    assert turn[0].id == "old"


# --- all of it together -----------------------------------------------------------------------------------

ASKED = st.tuples(
    st.integers(0, 3),
    st.sampled_from([0, 6, 24, 80]),
    st.booleans(),
    st.sampled_from([None, 1, 2]),
    st.sampled_from(["ada", "bob"]),
    st.booleans(),
)


@given(
    st.lists(ASKED, max_size=25),
    st.integers(0, 3),
    st.sets(st.sampled_from([BIG, SMALL, OTHER, *SLICES])),
    st.sampled_from([0, GB, 30 * GB]),
)
def test_no_card_is_ever_given_twice_and_shares_never_exceed_its_memory(
    asked: list[tuple[int, int, bool, int | None, str, bool]], slots: int, gpus: set[Gpu], reserve: int
) -> None:
    queues: dict[str, list[Waiting]] = {"ada": [], "bob": []}
    ends = {}
    for i, (n, memory, shares, most, who, quick) in enumerate(asked):
        share = shares and n == 1 and memory > 0
        queues[who].append(
            waiting(str(i), gpus=n, memory=memory * GB, group=f"{who}{i % 2}", most=most, share=share)
        )
        ends[str(i)] = quick
    active: dict[str, Active] = {}
    lent = sorted(gpus, key=lambda gpu: gpu.index)
    size = {gpu.uuid: gpu for gpu in lent}
    bounds = Bounds(reserve=reserve)
    while turn := turn_of(
        [queue for who, runs in queues.items() for queue in in_line(runs, who, f"host/{who}")],
        list(active.values()),
        slots=slots,
        gpus=lent,
        bounds=bounds,
    ):
        run, uuids = turn
        needs = run.needs
        assert len(set(uuids)) == needs.gpus
        assert all(size[uuid].memory >= needs.memory for uuid in uuids)
        assert needs.gpus <= 1 or all(size[uuid].slice is None for uuid in uuids)
        queues = {who: [one for one in runs if one.id != run.id] for who, runs in queues.items()}
        active[run.id] = Active(uuids, run.group, needs.memory, share=needs.share)
        held: dict[str, list[Active]] = defaultdict(list)
        for one in active.values():
            for uuid in one.gpus:
                held[uuid].append(one)
        for uuid, users in held.items():
            assert len(users) == 1 or all(one.share for one in users)
            together = sum(one.memory for one in users if one.share)
            assert not together or together <= size[uuid].memory - reserve
        same = sum(1 for other in active.values() if other.group == run.group)
        assert run.max_parallel is None or same <= run.max_parallel
        assert sum(1 for one in active.values() if not one.gpus) <= slots
        if ends[run.id]:
            del active[run.id]
    if active:
        return
    for run in (run for runs in queues.values() for run in runs):  # what is left can never run here
        needs = run.needs
        able = [
            gpu
            for gpu in lent
            if (gpu.memory - reserve if needs.share else gpu.memory) >= needs.memory
            and (needs.gpus <= 1 or gpu.slice is None)
        ]
        assert len(able) < needs.gpus if needs.gpus else not slots
