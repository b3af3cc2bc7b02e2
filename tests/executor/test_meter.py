"""What attempts used of their GPUs, what the GPUs did, and runs that leave them idle."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from executor_house import House, done, logged, story

from pushtrain.core.owner.verdict import MACHINE, NOTHING_SEEN, Finding, Stance, Verdict, Why
from pushtrain.core.runs.gpuhealth import GpuProcess, GpuSample
from pushtrain.core.runs.usage import DAY, Stood
from pushtrain.core.values.run import Attempt
from pushtrain.core.values.states import Reason
from pushtrain.executor.owner.books import Books
from pushtrain.executor.owner.cardwatch import Cards
from pushtrain.executor.owner.idle import Idle
from pushtrain.executor.owner.lending import Holder
from pushtrain.executor.owner.meter import Meter
from pushtrain.plumbing.attempts.rundir import RunDir
from pushtrain.plumbing.machine.energy import EnergyDay
from pushtrain.plumbing.machine.gpu import inventory
from pushtrain.plumbing.sqlite.store import Store
from pushtrain.testing import NOON, SENDER, Clock, an_attempt, eventually
from pushtrain.testing.nvml import FakeCard, FakeNvml

GB = 10**9
RUN = "ab" * 16
OURS = 4242


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def meter(tmp_path: Path, clock: Clock) -> Meter:
    return a_meter(tmp_path, clock)


def a_meter(folder: Path, clock: Clock) -> Meter:
    for run in (RUN, "cd" * 16):
        RunDir.of(folder, run, 1).root.mkdir(parents=True, exist_ok=True)
    return Meter(folder, EnergyDay(folder / "energy", clock=clock), clock=clock)


def a_sample(uuid: str = "GPU-0", **changed: object) -> GpuSample:
    processes = (GpuProcess(pid=OURS, memory=3 * GB), GpuProcess(pid=7, memory=GB))
    base = {"uuid": uuid, "at": 0.0, "memory": 24 * GB, "memory_used": 4 * GB, "processes": processes}
    return GpuSample.model_validate(base | changed)


def a_holder(*gpus: str, run: str = RUN, shim: int | None = 1) -> Holder:
    return Holder(run, 1, "train", gpus or ("GPU-0",), shim=shim)


def its_attempt(*gpus: str, run: str = RUN) -> Attempt:
    return an_attempt(run_id=run, number=1, claimed_at=NOON, ended_at=NOON + 100, gpus=gpus or ("GPU-0",))


def test_an_attempt_used_what_the_looks_saw_and_only_its_own_memory(meter: Meter, clock: Clock) -> None:
    for at in range(4):
        meter.look([a_sample(utilization=80, energy=1000.0 + 300 * at)], [a_holder()], {OURS})
        clock.advance(1)
    used = meter.used(its_attempt())
    assert used is not None
    assert (used.seconds, used.mean_utilization, used.joules) == (100, 80, 900)
    assert (used.peak_memory, used.mean_memory) == (3 * GB, 3 * GB)  # the owner's gigabyte is not ours
    assert meter.kwh() == 900 / 3_600_000


def test_asking_twice_gives_the_same(meter: Meter, clock: Clock) -> None:
    """Writing down how an attempt ended may have to be tried again."""
    meter.look([a_sample(utilization=80)], [a_holder()], {OURS})
    clock.advance(2)
    meter.look([a_sample(utilization=80)], [a_holder()], {OURS})
    assert meter.used(its_attempt()) == meter.used(its_attempt())


def test_an_executor_that_starts_again_goes_on_metering(tmp_path: Path, clock: Clock) -> None:
    first = a_meter(tmp_path, clock)
    first.look([a_sample(energy=0.0)], [a_holder()], {OURS})
    clock.advance(5)
    first.look([a_sample(energy=50.0)], [a_holder()], {OURS})
    first.settle()
    second = a_meter(tmp_path, clock)
    clock.advance(3600)
    second.look([a_sample(energy=9050.0)], [a_holder()], {OURS})
    used = second.used(its_attempt())
    assert used is not None
    assert used.joules == 9050
    assert second.kwh() == 9050 / 3_600_000


def test_a_card_that_two_runs_share_counts_once_in_the_days_energy(meter: Meter, clock: Clock) -> None:
    other = "cd" * 16
    for energy in (0.0, 360.0):
        meter.look([a_sample(energy=energy)], [a_holder(), a_holder(run=other)], {OURS})
        clock.advance(1)
    assert meter.kwh() == 360 / 3_600_000
    used = meter.used(its_attempt(run=other), share=0.25)
    assert used is not None
    assert (used.seconds, used.joules) == (25, 90)
    assert used.peak_memory is None  # whose memory is whose, nobody tells


def test_a_card_is_not_idle_before_the_command_runs(meter: Meter, clock: Clock) -> None:
    for _ in range(3):
        meter.look([a_sample(utilization=0)], [a_holder(shim=None)], set())
        clock.advance(5)
    assert meter.idle(a_holder()) == 0
    for _ in range(3):
        meter.look([a_sample(utilization=0)], [a_holder()], {OURS})
        clock.advance(5)
    assert meter.idle(a_holder()) == 10


def test_an_attempt_without_gpus_is_not_metered(meter: Meter) -> None:
    assert meter.used(an_attempt(run_id=RUN, gpus=())) is None


def test_a_folder_that_is_gone_costs_the_figures_not_the_end(tmp_path: Path, clock: Clock) -> None:
    meter = Meter(tmp_path / "nowhere", EnergyDay(tmp_path / "energy", clock=clock), clock=clock)
    meter.look([a_sample(utilization=5)], [a_holder()], {OURS})
    used = meter.used(its_attempt())
    assert used is not None
    assert used.seconds == 100


# --- what the cards did -----------------------------------------------------------------------------------


@pytest.fixture
def store(tmp_path: Path, clock: Clock) -> Iterator[Store]:
    opened = Store(tmp_path / "store.db", clock=clock)
    yield opened
    opened.close()


def kept(uuid: str, why: Why) -> Verdict:
    finding = Finding(why, Stance.YIELD, "…")
    return Verdict(at=0, findings={uuid: (finding,)}, seen={})


def test_each_second_of_each_card_is_lent_free_or_kept(store: Store, clock: Clock) -> None:
    waiting = [0]
    books = Books(store, ("GPU-0", "GPU-1"), waiting=lambda: waiting[0], clock=clock)
    books.look(NOTHING_SEEN, Cards(), ())
    clock.advance(10)
    books.look(NOTHING_SEEN, Cards(), [a_holder("GPU-0")])
    waiting[0] = 3
    clock.advance(20)
    books.look(kept("GPU-1", Why.INPUT), Cards(), [a_holder("GPU-0")])
    books.settle()
    assert store.stood(since=0) == [
        Stood(what="lent", seconds=30, wanted=20),
        Stood(what="input", seconds=20, wanted=20),
        Stood(what="free", seconds=10),
    ]


def test_a_machine_without_gpus_is_one_card(store: Store, clock: Clock) -> None:
    books = Books(store, (), waiting=lambda: 0, clock=clock)
    books.look(NOTHING_SEEN, Cards(), ())
    clock.advance(5)
    books.look(kept(MACHINE, Why.PAUSED), Cards(), ())
    clock.advance(5)
    books.look(NOTHING_SEEN, Cards(), [Holder(RUN, 1, "train")])
    books.settle()
    assert {one.what: one.seconds for one in store.stood(since=0)} == {"lent": 5, "paused": 5}


def test_whoever_asks_is_told_of_what_is_not_written_down_yet(store: Store, clock: Clock) -> None:
    books = Books(store, (), waiting=lambda: 1, clock=clock)
    books.look(NOTHING_SEEN, Cards(), ())
    clock.advance(5)
    books.look(NOTHING_SEEN, Cards(), ())
    books.settle()
    clock.advance(50)
    books.look(kept(MACHINE, Why.PAUSED), Cards(), ())
    clock.advance(5)
    books.look(NOTHING_SEEN, Cards(), ())
    assert [one.what for one in store.stood(since=0)] == ["free"], "a pause of a minute ago is not there yet"
    told = (Stood(what="paused", seconds=50, wanted=50), Stood(what="free", seconds=10, wanted=10))
    assert books.stood(since=0) == told
    books.settle()
    assert books.stood(since=0) == tuple(store.stood(since=0)) == told


def test_hours_in_which_the_machine_slept_belong_to_nobody(store: Store, clock: Clock) -> None:
    books = Books(store, (), waiting=lambda: 0, clock=clock)
    books.look(NOTHING_SEEN, Cards(), ())
    clock.advance(8 * 3600)
    books.look(NOTHING_SEEN, Cards(), ())
    books.settle()
    assert store.stood(since=0) == []


def test_it_is_written_down_now_and_then_and_on_its_own_day(store: Store, clock: Clock) -> None:
    books = Books(store, (), waiting=lambda: 0, clock=clock)
    midnight = (int(NOON) // DAY + 1) * DAY
    clock.advance(midnight - NOON - 60)
    for _ in range(61):
        books.look(NOTHING_SEEN, Cards(), ())
        clock.advance(30)
    assert sum(one.seconds for one in store.stood(since=midnight // DAY - 1)) >= 1200  # without `settle`
    books.settle()
    told = store.stood(since=midnight // DAY)
    assert sum(one.seconds for one in store.stood(since=0)) == 1800
    assert sum(one.seconds for one in told) == 1740


# --- runs that leave their GPU idle -----------------------------------------------------------------------


class Said:
    """What was said to runs."""

    def __init__(self) -> None:
        self.remarks: list[str] = []
        self.ended: list[tuple[str, Reason, str, float]] = []

    def remark(self, run_id: str, words: str) -> None:
        assert run_id == RUN
        self.remarks.append(words)

    def end(self, run_id: str, reason: Reason, detail: str, grace: float) -> None:
        self.ended.append((run_id, reason, detail, grace))


def idles(meter: Meter, idle: Idle, clock: Clock, minutes: float, utilization: int = 0) -> None:
    for _ in range(round(minutes * 12)):
        meter.look([a_sample(utilization=utilization)], [a_holder()], {OURS})
        idle.look(NOTHING_SEEN, Cards(), [a_holder()])
        clock.advance(5)


def test_a_run_that_leaves_its_gpu_idle_is_told_of_until_it_works(meter: Meter, clock: Clock) -> None:
    said = Said()
    idle = Idle(meter, 0, runs=lambda: said)
    idles(meter, idle, clock, 9)
    assert said.remarks == []
    idles(meter, idle, clock, 3)
    assert said.remarks[0] == "idle GPU for 10 min"
    idles(meter, idle, clock, 0.1, utilization=90)
    assert said.remarks[-1] == ""
    assert said.ended == []  # the owner set no limit


def test_the_owners_rule_ends_it_once_and_says_which_rule(meter: Meter, clock: Clock) -> None:
    said = Said()
    idle = Idle(meter, 900, runs=lambda: said)
    idles(meter, idle, clock, 20)
    [(run, reason, why, grace)] = said.ended
    assert (run, reason, grace) == (RUN, Reason.IDLE, 30)
    assert why == "It left a GPU idle for 15 min: the owner's rule `rules.limits.gpu_idle` ended it."


# --- a whole executor -------------------------------------------------------------------------------------


@story
async def test_what_a_run_used_stands_in_its_results_and_in_the_ledger(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = FakeNvml([FakeCard(memory=24 * GB, energy=0.0)])
    monkeypatch.setattr("pushtrain.plumbing.machine.gpu.pynvml", library)
    monkeypatch.setattr("pushtrain.executor.owner.cardwatch.numbers_are_the_machines", lambda: True)
    monkeypatch.setattr("pushtrain.executor.owner.landlord.BRISK", 0.02)
    monkeypatch.setattr("pushtrain.executor.owner.meter._EVERY", 0.0)
    house = House(tmp_path)
    house.gpus = inventory()
    async with house.running() as service:
        script = "echo ready; read line < go; dd if=/dev/zero of=x bs=1M count=2 conv=fsync"
        run = house.send(service, script, setup=["mkfifo go"], resources={"gpus": 1})
        await logged(service, run, "ready")
        folder = RunDir.of(house.state.runs, run.id, 1)
        library.cards[0].energy, library.cards[0].utilization = 7200.0, 70
        await eventually(lambda: b":7200.0" in _read(folder.usage), what="a look at the meter")
        (folder.tree / "go").write_text("\n")
        ended = await done(service, run)
        [attempt] = service.store.attempts(run.id)
        assert attempt.gpu is not None
        assert (attempt.gpu.joules, attempt.gpu.peak_utilization) == (7200, 70)
        assert attempt.disk_written >= 2 * 1024**2
        record = json.loads(house.result(ended, "run.json"))
        assert record["attempts"][0]["gpu"]["joules"] == 7200
        assert "2.0\xa0Wh" in house.result(ended, "README.md")
        [entry] = service.usage(1).entries
        assert (entry.sender, entry.used.attempts, entry.used.joules) == (SENDER, 1, 7200)


def _read(path: Path) -> bytes:
    return path.read_bytes() if path.exists() else b""
