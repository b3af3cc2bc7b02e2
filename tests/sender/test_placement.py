"""Where runs go: decided from what is known, without a network and without a clock."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pushtrain.core.policy import fits, pace_key, starts_now
from pushtrain.core.runs.room import less, needs_of
from pushtrain.core.values.card import Capacity, FreeGpu
from pushtrain.core.values.command import Checkpoint, Segment
from pushtrain.core.values.jobspec import JobSpec, Resources
from pushtrain.core.values.states import Reason
from pushtrain.plumbing.sqlite.outbox import Outgoing
from pushtrain.sender.placement import FIRST_ASKED, RECALL_AFTER, Given, Plan, Queued, Seen, decide
from pushtrain.testing import NOON, REPOSITORY, a_card, a_command, a_gpu, a_spec

GIB = 1 << 30
HOUR = 3600.0


def gpu_job(count: int = 1, memory: int = 0, **changes: object) -> JobSpec:
    return a_spec(resources=Resources(gpus=count, gpu_memory=memory * GIB), **changes)


def out(name: str = "r", job: JobSpec | None = None, **changes: object) -> Outgoing:
    known: dict[str, object] = {
        "state": "waiting",
        "executor": "",
        "tries": 0,
        "not_before": 0.0,
        "created_at": NOON,
        "updated_at": NOON,
        "detail": "",
        "placed_at": 0.0,
        "accepted_at": 0.0,
    }
    return Outgoing(command=a_command(job=job, request=name), **{**known, **changes})  # type: ignore[arg-type]


def room(slots: int = 0, memory: tuple[int, ...] = (), **changes: int) -> Capacity:
    sizes = tuple(size * GIB for size in memory)
    return Capacity(
        slots=4,
        free_slots=slots,
        free_gpus=len(sizes),
        free=tuple(FreeGpu(memory=size, room=size) for size in sizes),
        **{"queued": 0, "running": 0, **changes},
    )


def seen(
    name: str, capacity: Capacity | None = None, *, gpus: tuple[int, ...] = (), **changes: object
) -> Seen:
    card = a_card(name=name, gpus=tuple(a_gpu(index, memory=size * GIB) for index, size in enumerate(gpus)))
    known: dict[str, object] = {"card": card, "proven": capacity is not None}
    return Seen(id=name, name=name, capacity=capacity, **{**known, **changes})  # type: ignore[arg-type]


def planned(*waiting: Outgoing, at: tuple[Seen, ...], **more: object) -> Plan:
    return decide(Given(waiting, at, **more), now=NOON, lost_after=HOUR)  # type: ignore[arg-type]


# --- where there is a choice ------------------------------------------------------------------------------


def test_a_run_goes_to_the_smallest_executor_that_can_start_it_and_takes_its_part() -> None:
    labs = (
        seen("large", room(memory=(80,)), gpus=(80,)),
        seen("right", room(memory=(24,)), gpus=(24,)),
        seen("busy", room(), gpus=(24,)),
    )
    plan = planned(*(out(name, gpu_job(1, 16)) for name in "abc"), at=labs)
    a, b, c = (out(name, gpu_job(1, 16)).run_id for name in "abc")
    assert plan.deliver == [(a, "right"), (b, "large")]
    assert plan.why == {c: "large, right and busy are busy"}
    assert plan.watch == {"large", "right", "busy"}


def test_a_run_that_nobody_can_start_waits_and_says_for_what() -> None:
    labs = (
        seen("lab-3", room(), gpus=(24,)),
        seen("lab-7", room(), gpus=(24,)),
        seen("lab-2", room(memory=(8,)), gpus=(8,)),
        seen("lab-9", trouble="lab-9 does not answer.", ask_in=3.0, gpus=(24,)),
    )
    plan = planned(out("r", gpu_job(1, 16)), at=labs)
    (why,) = plan.why.values()
    assert why == (
        "lab-3 and lab-7 are busy; lab-9 does not answer; "
        "lab-2 has 0 GPUs of at least 17.1799 GB; the job asks for 1"
    )
    assert (plan.deliver, dict(plan.ask), plan.watch) == ([], {}, {"lab-3", "lab-7"})
    assert plan.again_in == 3.0


def test_an_executor_that_its_owner_uses_says_so_in_its_own_words() -> None:
    words = "the owner is using GPU 0 (9 GB)\x1b[2J" + "x" * 99
    owned = seen("lab-3", room().model_copy(update={"waits": words}), gpus=(24,))
    (why,) = planned(out(job=gpu_job()), at=(owned, seen("lab-7", room(), gpus=(24,)))).why.values()
    assert why.startswith("lab-7 is busy; lab-3 waits: the owner is using GPU 0 (9 GB)")
    assert "\x1b" not in why
    assert len(why) < 130


def test_executors_that_were_not_asked_are_asked_a_few_at_a_time() -> None:
    labs = tuple(seen(f"lab-{number:02d}") for number in range(50))
    first = planned(out(), at=labs)
    assert list(first.ask) == ["lab-00", "lab-01", "lab-02"]
    assert len(first.ask) == FIRST_ASKED
    busy = tuple(seen(lab.name, room()) if number < 8 else lab for number, lab in enumerate(labs))
    assert len(planned(out(), at=busy).ask) == 8
    assert len(planned(*(out(str(number)) for number in range(30)), at=labs).ask) == 30


def test_an_answer_is_waited_for_a_moment_only() -> None:
    free = seen("free", room(1))
    assert planned(out(), at=(free, seen("slow", asking=True))).deliver == []
    late = seen("slow", trouble="slow has not answered yet", ask_in=1.0)
    assert planned(out(), at=(free, late)).deliver == [(out().run_id, "free")]


def test_an_executor_that_does_not_answer_is_asked_again_when_its_time_has_come() -> None:
    busy = seen("busy", room())
    dead = seen("dead", trouble="dead does not answer.", ask_in=7.0)
    assert not planned(out(), at=(busy, dead)).ask
    again = seen("dead", trouble="dead does not answer.")
    assert list(planned(out(), at=(busy, again)).ask) == ["dead"]


def test_an_executor_of_which_nothing_is_known_is_asked_before_it_is_passed_over() -> None:
    plan = planned(out("r", gpu_job()), at=(seen("cpu"), seen("new", card=None), seen("gpu", gpus=(8,))))
    assert list(plan.ask) == ["new", "gpu"]


def test_a_repository_that_an_executor_does_not_serve_does_not_go_there() -> None:
    other = a_card(name="other", repositories=("github.com/octo/other",))
    mine = a_card(name="mine", repositories=(REPOSITORY,))
    labs = (seen("other", room(4), card=other), seen("mine", room(1), card=mine))
    assert planned(out(), at=labs).deliver == [(out().run_id, "mine")]
    plan = planned(out(), at=labs[:1])
    assert list(plan.why.values()) == [f"no executor fits: other does not serve {REPOSITORY}"]


def test_without_executors_a_run_waits() -> None:
    assert list(planned(out(), at=()).why.values()) == ["no executor is known"]


def test_a_run_that_everybody_has_refused_is_refused() -> None:
    labs = (seen("a", room(1)), seen("b", room(1)))
    run_id = out().run_id
    assert planned(out(), at=labs, refused={run_id: frozenset("a")}).deliver == [(run_id, "b")]
    assert planned(out(), at=labs, refused={run_id: frozenset("ab")}).refuse == [run_id]
    down = (labs[0], seen("b", trouble="b does not answer."))
    assert planned(out(), at=down, refused={run_id: frozenset("a")}).refuse == []


def test_many_that_do_not_fit_are_counted() -> None:
    labs = tuple(seen(f"lab-{number}") for number in range(9))
    (why,) = planned(out("r", gpu_job()), at=labs).why.values()
    assert why == (
        "no executor fits: lab-0 has 0 GPUs; the job asks for 1; lab-1 has 0 GPUs; the job asks for 1; "
        "7 more do not fit either"
    )


def test_smaller_runs_do_not_starve_one_that_waits_for_several_gpus() -> None:
    labs = (seen("two", room(memory=(24,)), gpus=(24, 24)), seen("also", room(), gpus=(24, 24)))
    large, small = out("large", gpu_job(2)), out("small", gpu_job(1))
    plan = planned(large, small, at=labs)
    assert plan.deliver == []
    assert set(plan.why) == {large.run_id, small.run_id}
    assert planned(small, large, at=labs).deliver == [(small.run_id, "two")]


def test_cells_that_only_one_executor_can_count_stay_together() -> None:
    labs = (seen("a", room(1)), seen("b", room(1)))
    cells = [out(str(number), a_spec(max_parallel=1, cell={"n": number})) for number in range(3)]
    cells = [
        Outgoing(a_command(job=cell.command.job), "waiting", "", 0, 0, NOON, NOON, "", 0, 0) for cell in cells
    ]
    plan = planned(*cells, at=labs)
    assert {name for _, name in plan.deliver} == {"a"}
    assert len(plan.deliver) == 3
    later = planned(cells[2], at=labs, homes={cells[2].run_id: "b"})
    assert later.deliver == [(cells[2].run_id, "b")]
    gone = planned(cells[2], at=(labs[0], seen("b", trouble="gone")), homes={cells[2].run_id: "b"})
    assert gone.deliver == [(cells[2].run_id, "a")]


# --- where there is none ----------------------------------------------------------------------------------


def test_where_only_one_executor_can_take_them_all_runs_go_there_at_once() -> None:
    labs = (seen("busy", room(), gpus=(24,)), seen("cpu", room(4)))
    plan = planned(*(out(str(number), gpu_job()) for number in range(9)), at=labs)
    assert [name for _, name in plan.deliver] == ["busy"] * 9
    assert (plan.watch, dict(plan.ask)) == (set(), {})


def test_even_the_only_executor_is_asked_who_it_is_first() -> None:
    plan = planned(out(), at=(seen("lab-1"),))
    assert (plan.deliver, list(plan.ask)) == ([], ["lab-1"])
    assert list(plan.why.values()) == ["lab-1 is being asked"]
    silent = planned(out(), at=(seen("lab-1", trouble="lab-1 does not answer.", ask_in=2.0),))
    assert (silent.deliver, dict(silent.ask), silent.again_in) == ([], {}, 2.0)
    assert list(silent.why.values()) == ["lab-1 does not answer"]


# --- what somebody may have -------------------------------------------------------------------------------


def test_a_run_whose_answer_was_lost_goes_to_nobody_else() -> None:
    bound = out("r", executor="first", placed_at=NOON - 10)
    first, second = seen("first", room()), seen("second", room(4))
    assert planned(bound, at=(first, second)).deliver == [(bound.run_id, "first")]
    down = seen("first", trouble="first does not answer.", ask_in=4.0)
    plan = planned(bound, at=(down, second))
    assert (plan.deliver, plan.lost, plan.again_in) == ([], [], 4.0)
    assert plan.why == {bound.run_id: "first may have it: first does not answer"}


def test_after_an_hour_of_silence_it_may_go_elsewhere_but_only_once_it_was_asked_in_vain() -> None:
    bound = out("r", executor="first", placed_at=NOON - HOUR)
    second = seen("second", room(4))
    unasked = planned(bound, at=(seen("first"), second))
    assert (unasked.lost, list(unasked.ask)) == ([], ["first"])
    long_ago = planned(bound, at=(seen("first", trouble="no"), second))
    assert (long_ago.lost, list(long_ago.ask)) == ([], ["first"])
    assert planned(bound, at=(seen("first", trouble="no", ask_in=9.0), second)).lost == [bound.run_id]
    back = planned(bound, at=(seen("first", room()), second))
    assert (back.lost, back.deliver) == ([], [(bound.run_id, "first")])


def test_a_sender_that_slept_or_whose_clock_jumped_asks_for_minutes_before_it_gives_up() -> None:
    bound = out("r", executor="first", placed_at=NOON - 8 * HOUR)
    labs = (seen("first", trouble="no", ask_in=9.0), seen("second", room(4)))
    woken = planned(bound, at=labs, awake=NOON - 10)
    assert (woken.lost, woken.again_in) == ([], 9.0)
    assert planned(bound, at=labs, awake=NOON - 300).lost == [bound.run_id]


def test_an_executor_that_is_not_known_any_more_keeps_its_run_for_as_long() -> None:
    bound = out("r", executor="gone", placed_at=NOON - 2 * HOUR)
    labs = (seen("second", room(4)),)
    started = planned(bound, at=labs, began=NOON - 10)
    assert (started.lost, started.deliver, started.again_in) == ([], [], HOUR - 10)
    assert planned(bound, at=labs, began=NOON - HOUR).lost == [bound.run_id]


def test_a_recall_without_an_answer_is_repeated_and_nothing_else_is_done() -> None:
    recalled = out("r", state="recalling", executor="first", placed_at=NOON - 10)
    labs = (seen("first", room()), seen("second", room(4)))
    assert planned(at=labs, recalling=[recalled]).recall == [(recalled.run_id, "first")]
    later = out("r", state="recalling", executor="first", placed_at=NOON - 10, not_before=NOON + 2)
    plan = planned(at=labs, recalling=[later])
    assert (plan.recall, plan.deliver, plan.lost, plan.again_in) == ([], [], [], 2)
    never = out("r", state="recalling", executor="first", placed_at=NOON - HOUR, not_before=NOON + 2)
    assert planned(at=labs, recalling=[never]).lost == [never.run_id]


# --- recall -----------------------------------------------------------------------------------------------


def queued(name: str, where: str, seconds: float = RECALL_AFTER, job: JobSpec | None = None) -> Queued:
    return Queued(out(name, job, state="delivered", executor=where), seconds)


def test_a_run_that_waits_at_a_busy_executor_is_recalled_for_an_idle_one() -> None:
    busy, idle = seen("busy", room()), seen("idle", room(1))
    first, second = queued("first", "busy", 9), queued("second", "busy", 8)
    plan = planned(at=(busy, idle), queued=[second, first])
    assert plan.recall == [(second.out.run_id, "busy")]
    assert plan.watch == {"busy", "idle"}


@pytest.mark.parametrize(
    ("job", "idle"),
    [
        (None, seen("idle", room())),
        (gpu_job(), seen("idle", room(4))),
        (a_spec(max_parallel=2), seen("idle", room(4))),
        (None, seen("idle", trouble="idle does not answer.", ask_in=2)),
    ],
)
def test_a_run_stays_where_it_waits_when_no_other_executor_can_start_it(job: JobSpec, idle: Seen) -> None:
    busy = seen("busy", room(), gpus=(24,))
    assert planned(at=(busy, idle), queued=[queued("r", "busy", job=job)]).recall == []


def test_a_run_that_has_just_arrived_is_not_recalled() -> None:
    labs = (seen("busy", room()), seen("idle", room(1)))
    plan = planned(at=labs, queued=[queued("r", "busy", 1)])
    assert (plan.recall, plan.again_in) == ([], RECALL_AFTER - 1)


def unready(*names: str, ago: float = 60, reason: Reason = Reason.UNREACHABLE, **changes: object) -> Outgoing:
    """A run that these executors could not prepare, one after the other."""
    tried = tuple(
        Segment(attempt=number, executor=name, began_at=NOON - ago, reason=reason)
        for number, name in enumerate(names, 1)
    )
    one = out(**changes)  # type: ignore[arg-type]
    checkpoint = Checkpoint(attempt=len(names), where="none", segments=tried)
    return replace(one, command=one.command.model_copy(update={"checkpoint": checkpoint}))


def test_a_run_does_not_come_back_at_once_to_an_executor_that_was_not_ready_for_it() -> None:
    """That one is free, and would get it again and again."""
    free, busy = seen("free", room(1), card=a_card(name="free", prefer=9)), seen("busy", room())
    plan = planned(unready("free"), at=(free, busy))
    assert plan.deliver == []
    assert list(plan.why.values()) == ["busy is busy; free was not ready for it"]
    other = seen("other", room(1))
    assert [where for _, where in planned(unready("free"), at=(free, other)).deliver] == ["other"]
    assert [where for _, where in planned(out(), at=(free, other)).deliver] == ["free"]
    put_off = unready("free", ago=3600, reason=Reason.DEFERRED)
    assert [where for _, where in planned(put_off, at=(free, other)).deliver] == ["other"]
    for again in (
        unready("free", ago=601),
        unready("free", ago=10_801, reason=Reason.DEFERRED),
        unready("free", reason=Reason.PREEMPTED),
        unready("free", "other"),  # nobody is ready: anybody may be so again
    ):
        assert [where for _, where in planned(again, at=(free, other)).deliver] == ["free"]
    assert [where for _, where in planned(unready("free"), at=(free,)).deliver] == ["free"]


@pytest.mark.parametrize("reason", [Reason.UNREACHABLE, Reason.DEFERRED])
def test_who_was_not_ready_is_not_passed_over_for_those_that_do_not_answer(reason: Reason) -> None:
    """A laptop that is at home for a week fits, too: the run waited for it, for three hours at a time."""
    free, away = seen("free", room(1)), seen("away", trouble="away does not answer.", ask_in=20)
    plan = planned(unready("free", reason=reason), at=(free, away))
    assert [where for _, where in plan.deliver] == ["free"]


def test_a_run_is_not_called_back_for_an_executor_that_was_not_ready_for_it() -> None:
    here, free = seen("here", room(1)), seen("free", room(1))
    waits = Queued(unready("free", state="delivered", executor="here"), 60)
    assert planned(at=(here, free), queued=[waits]).recall == []
    alike = (seen("1", room(1), card=a_card(name="free")), seen("2", room(1), card=a_card(name="free")))
    namesakes = tuple(replace(one, name="free") for one in alike)
    there = Queued(unready("free", state="delivered", executor="1"), 60)
    assert planned(at=namesakes, queued=[there]).recall == [], "to and fro between namesakes"
    later = Queued(unready("free", ago=700, state="delivered", executor="here"), 60)
    assert planned(at=(here, free), queued=[later]).recall == [(later.out.run_id, "here")]


def test_a_run_that_waits_is_looked_at_again_when_those_that_are_passed_over_are_not_so_any_more() -> None:
    """Nothing happens then that would wake anybody: it waited where it was, whoever else was free."""
    here, free = seen("here", room()), seen("free", room(1))
    put_off = Queued(unready("free", state="delivered", executor="here"), 60)
    plan = planned(at=(here, free), queued=[put_off])
    assert (plan.recall, plan.watch) == ([], set()), "no line is held open for nothing"
    assert plan.again_in is not None
    assert plan.again_in <= 540
    waits = queued("r", "here", 60)
    plan = planned(at=(here, free), queued=[waits], refused={waits.out.run_id: frozenset({"free"})})
    assert plan.again_in is not None
    assert plan.again_in <= 3600
    assert planned(at=(here,), queued=[waits]).again_in is None


def test_an_executor_whose_runs_may_have_begun_is_listened_to_where_there_is_a_choice() -> None:
    labs = (seen("busy", room()), seen("other", room(1)))
    assert planned(at=labs, unsettled=frozenset({"busy"})).watch == {"busy"}
    assert planned(at=labs[:1], unsettled=frozenset({"busy"})).watch == set()


# --- whatever is known ------------------------------------------------------------------------------------

JOBS = st.builds(
    gpu_job, st.integers(0, 3), st.sampled_from([0, 8, 24]), max_parallel=st.sampled_from([None, 1])
)
SIZES = st.lists(st.sampled_from([8, 24, 80]), max_size=4).map(tuple)


@st.composite
def executors(draw: st.DrawFn) -> Seen:
    gpus = draw(SIZES)
    name = draw(st.sampled_from("abcdef"))
    free = tuple(size for size in gpus if draw(st.booleans()))
    trouble = draw(st.sampled_from(["", "", "it does not answer."]))
    capacity = None if trouble else draw(st.none() | st.just(room(draw(st.integers(0, 3)), free)))
    return seen(
        name,
        capacity,
        gpus=gpus,
        trouble=trouble,
        ask_in=draw(st.sampled_from([0.0, 5.0])),
        asking=draw(st.booleans()) and not trouble,
        proven=draw(st.booleans()),
    )


@st.composite
def worlds(draw: st.DrawFn) -> Given:
    labs = draw(st.lists(executors(), max_size=5, unique_by=lambda lab: lab.id))
    names = st.sampled_from(["", "a", "b", "z"])
    waiting = [
        out(f"w{number}", draw(JOBS), executor=draw(names), placed_at=NOON - draw(st.sampled_from([0, 9e9])))
        for number in range(draw(st.integers(0, 6)))
    ]
    there = [
        queued(f"q{number}", draw(st.sampled_from("abz")), draw(st.sampled_from([0, 60])), draw(JOBS))
        for number in range(draw(st.integers(0, 4)))
    ]
    return Given(waiting, labs, queued=there)


@given(worlds())
def test_every_run_is_sent_recalled_given_up_or_told_why_and_never_two_of_them(world: Given) -> None:
    plan = decide(world, now=NOON, lost_after=HOUR)
    sent, recalled = dict(plan.deliver), dict(plan.recall)
    assert len(sent) == len(plan.deliver)
    assert len(recalled) == len(plan.recall)
    assert not sent.keys() & recalled.keys()
    assert not set(plan.lost) & (sent.keys() | recalled.keys())
    for run in world.waiting:
        fates = [run.run_id in sent, run.run_id in plan.why or run.run_id in plan.lost]
        assert sum(fates) == 1
        if run.executor:
            assert sent.get(run.run_id, run.executor) == run.executor
    for one in world.queued:
        assert recalled.get(one.out.run_id, one.out.executor) == one.out.executor


@given(worlds())
def test_an_executor_gets_what_it_fits_and_among_several_no_more_than_it_can_start(world: Given) -> None:
    plan = decide(world, now=NOON, lost_after=HOUR)
    by_id = {lab.id: lab for lab in world.seen}
    left = {lab.id: lab.capacity for lab in world.seen}
    runs = {run.run_id: run for run in world.waiting}
    for run_id, name in plan.deliver:
        run, lab = runs[run_id], by_id[name]
        assert lab.proven or lab.capacity
        if run.executor:
            continue
        job = run.command.job
        assert lab.card is not None
        assert not fits(lab.card, job)
        could = [other for other in world.seen if other.card and not fits(other.card, job)]
        if len(could) > 1 and job.max_parallel is None:
            free = left[name]
            assert free is not None
            assert starts_now(free, job)
        if (free := left[name]) is not None:
            left[name] = less(free, needs_of(job.resources))


@given(worlds())
def test_what_is_asked_or_watched_is_known_and_its_time_has_come(world: Given) -> None:
    plan = decide(world, now=NOON, lost_after=HOUR)
    by_id: dict[str, Seen] = {lab.id: lab for lab in world.seen}
    for name in (*plan.ask, *plan.watch):
        assert by_id[name].ask_in <= 0 or not by_id[name].trouble
    assert not any(by_id[name].asking for name in plan.ask)
    if plan.ask:
        assert plan.again_in is not None


@given(st.lists(executors(), max_size=5, unique_by=lambda lab: lab.id))
def test_where_nothing_waits_nobody_is_asked_and_no_stream_is_open(labs: list[Seen]) -> None:
    plan = decide(Given([], labs), now=NOON, lost_after=HOUR)
    assert (plan.deliver, plan.recall, dict(plan.ask), plan.watch) == ([], [], {}, set())


# --- how fast it is there ---------------------------------------------------------------------------------


def test_a_run_goes_where_its_job_was_fastest() -> None:
    job = gpu_job()
    key = pace_key(REPOSITORY, job.name)

    def lab(name: str, seconds: float) -> Seen:
        card = a_card(name=name, gpus=(a_gpu(memory=24 * GIB),), public_key=name)
        return seen(name, room(1, (24,)), card=card, paces={key: seconds})

    labs = (lab("a", 900.0), lab("b", 300.0))
    assert planned(out("x", job), at=labs).deliver == [(out("x", job).run_id, "b")]
    other = gpu_job(name="other")
    assert planned(out("x", other), at=labs).deliver == [(out("x", other).run_id, "a")]
