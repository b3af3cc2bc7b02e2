import contextlib
from pathlib import Path

import pynvml
import pytest

from pushtrain.core.values.card import Gpu
from pushtrain.plumbing.machine import gpu
from pushtrain.plumbing.machine.gpu import Sampler, inventory
from pushtrain.testing import Clock
from pushtrain.testing.nvml import FakeCard, FakeNvml

GB = 10**9


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> FakeNvml:
    """Two cards, one with a display."""
    library = FakeNvml([FakeCard(memory=24 * GB, display=True), FakeCard(memory=80 * GB, name="NVIDIA H100")])
    monkeypatch.setattr(gpu, "pynvml", library)
    return library


def asleep(pci: Path, bus: str, *, status: str = "suspended", control: str = "auto") -> None:
    """What the kernel says of a card's power."""
    power = pci / bus / "power"
    power.mkdir(parents=True, exist_ok=True)
    (power / "runtime_status").write_text(f"{status}\n")
    (power / "control").write_text(f"{control}\n")


def test_the_real_library_answers_with_or_without_a_driver() -> None:
    found = inventory()
    assert all(one.uuid.startswith(("GPU-", "MIG-")) and one.memory > 0 for one in found)
    sampler = Sampler()
    assert len(sampler.sample()) == len(found)
    sampler.close()


def test_the_fake_has_every_name_of_the_real_library() -> None:
    ours = [name for name in vars(FakeNvml) if name.startswith("nvml")]
    assert ours
    assert [name for name in ours if not hasattr(pynvml, name)] == []


def test_a_machine_without_a_driver_has_no_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "pynvml", FakeNvml(driver=""))
    assert inventory() == ()
    assert Sampler().sample() == ()


def test_every_card_is_told_and_the_library_is_let_go(machine: FakeNvml) -> None:
    assert inventory() == (
        Gpu(
            uuid=machine.cards[0].uuid,
            index=0,
            name="NVIDIA GeForce RTX 4090",
            memory=24 * GB,
            driver="580.95.05",
            capability="8.9",
            display=True,
        ),
        Gpu(
            uuid=machine.cards[1].uuid,
            index=1,
            name="NVIDIA H100",
            memory=80 * GB,
            driver="580.95.05",
            capability="8.9",
        ),
    )
    assert machine.sessions == 0


@pytest.mark.parametrize("what", ["nvmlDeviceGetCount", "nvmlInitWithFlags"])
def test_a_driver_that_cannot_tell_is_asked_again(
    machine: FakeNvml, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, what: str
) -> None:
    """Else no card would be watched any more, and nobody see that its owner needs it. It is told once."""
    sampler = Sampler()

    def fails(*_: object) -> int:
        raise pynvml.NVMLError(pynvml.NVML_ERROR_UNINITIALIZED)

    with monkeypatch.context() as once:
        once.setattr(machine, what, fails)
        assert [sampler.sample() for _ in range(3)] == [(), (), ()]
    assert [sample.uuid for sample in sampler.sample()] == [card.uuid for card in machine.cards]
    assert len(caplog.records) == (what == "nvmlDeviceGetCount")
    sampler.close()


def test_a_lost_card_is_not_offered_and_the_others_are(machine: FakeNvml) -> None:
    machine.cards[0].lost = True
    assert [one.name for one in inventory()] == ["NVIDIA H100"]
    assert machine.sessions == 0


def test_who_only_wants_to_show_the_cards_wakes_none_that_sleeps(machine: FakeNvml, tmp_path: Path) -> None:
    for bus, status in (("0000:01:00.0", "suspended"), ("0000:02:00.0", "active")):
        asleep(tmp_path, bus, status=status)
        (tmp_path / bus / "vendor").write_text("0x10de\n")
        (tmp_path / bus / "class").write_text("0x030000\n")
    asleep(tmp_path, "0000:00:02.0")
    (tmp_path / "0000:00:02.0" / "vendor").write_text("0x8086\n")
    (tmp_path / "0000:00:02.0" / "class").write_text("0x030000\n")
    found = inventory(wake=False, pci=tmp_path)
    assert [(one.index, one.uuid, one.name) for one in found] == [
        (0, "", "NVIDIA GPU"),
        (1, machine.cards[1].uuid, "NVIDIA H100"),
    ]
    sampler = Sampler(pci=tmp_path, wake=False)
    assert [one.uuid for one in sampler.sample()] == [machine.cards[1].uuid]
    sampler.close()
    assert set(machine.attached) == {machine.cards[1].bus}
    asleep(tmp_path, "0000:02:00.0")
    machine.attached.clear()
    assert [one.uuid for one in inventory(wake=False, pci=tmp_path)] == ["", ""]
    assert Sampler(pci=tmp_path, wake=False).sample() == ()
    assert machine.attached == []


def test_a_card_that_is_cut_into_slices_offers_its_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    slices = [FakeCard(name=f"NVIDIA H100 MIG {name}", memory=size * GB) for name, size in
              (("3g.40gb", 40), ("1g.10gb", 10))]  # fmt: skip
    library = FakeNvml([FakeCard(memory=80 * GB, power=300.0, slices=slices), FakeCard()])
    monkeypatch.setattr(gpu, "pynvml", library)
    found = inventory()
    assert [(one.index, one.name, one.memory) for one in found[:2]] == [
        (0, "NVIDIA H100 MIG 3g.40gb", 40 * GB),
        (0, "NVIDIA H100 MIG 1g.10gb", 10 * GB),
    ]
    assert all(one.uuid.startswith("MIG-") for one in found[:2])
    slices[1].processes[77] = 2 * GB
    samples = Sampler().sample()
    assert [one.uuid for one in samples] == [one.uuid for one in found]
    assert [one.memory_used for one in samples] == [0, 2 * GB, 0]
    assert samples[0].power == 300.0


def test_a_sample_tells_who_uses_what(machine: FakeNvml) -> None:
    card = machine.cards[0]
    card.processes[100] = 9 * GB
    card.drawing |= {100: 9 * GB, 200: 1 * GB}
    card.utilization, card.power, card.energy, card.temperature = 97, 412.5, 1234.5, 81
    card.throttle = pynvml.nvmlClocksThrottleReasonHwThermalSlowdown
    sampler = Sampler(clock=lambda: 5.0)
    one, other = sampler.sample()
    assert one.at == 5.0
    assert (one.memory_used, one.memory_free, one.utilization) == (10 * GB, 14 * GB, 97)
    assert (one.power, one.energy, one.temperature, one.throttled) == (412.5, 1234.5, 81, ("heat",))
    assert one.processes is not None
    assert {process.pid: process.memory for process in one.processes} == {100: 9 * GB, 200: 1 * GB}
    assert other.processes == ()
    sampler.close()


def test_a_sample_tells_how_much_each_process_uses_where_the_driver_does(machine: FakeNvml) -> None:
    card = machine.cards[0]
    card.processes |= {100: 9 * GB, 200: 1 * GB}

    def told() -> dict[int, int | None]:
        with contextlib.closing(Sampler()) as sampler:
            return {one.pid: one.utilization for one in sampler.sample()[0].processes or ()}

    assert told() == {100: None, 200: None}, "an old card does not know"
    card.busy = {}
    assert told() == {100: 0, 200: 0}, "nobody had anything computed lately"
    card.busy = {200: 35, 300: 7}
    assert told() == {100: 0, 200: 35}


def test_what_a_card_does_not_know_is_none_not_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    card = FakeCard(utilization=None, power=None, energy=None, temperature=None, told=False)
    monkeypatch.setattr(gpu, "pynvml", FakeNvml([card]))
    (found,) = Sampler().sample()
    assert (found.utilization, found.power, found.energy, found.temperature) == (None,) * 4
    assert found.memory_errors is None
    assert found.processes is None


def test_a_card_that_falls_off_is_told_and_hides_no_other(machine: FakeNvml) -> None:
    sampler = Sampler()
    sampler.sample()
    machine.cards[0].lost = True
    assert [one.lost for one in sampler.sample()] == [True, False]
    machine.cards[0].lost = False
    assert [one.lost for one in sampler.sample()] == [False, False]
    sampler.close()


def on_the_bus(pci: Path, *buses: str, status: str = "active") -> None:
    """What the kernel says of NVIDIA's cards."""
    for bus in buses:
        asleep(pci, bus, status=status)
        (pci / bus / "vendor").write_text("0x10de\n")
        (pci / bus / "class").write_text("0x030200\n")


def test_a_card_that_did_not_answer_at_first_is_seen_once_it_does(
    machine: FakeNvml, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It stayed out of order until somebody restarted the executor, also when its owner had mended it."""
    on_the_bus(tmp_path, "0000:01:00.0", "0000:02:00.0", "0000:03:00.0")  # the last one has another driver
    clock = Clock()
    sampler = Sampler(pci=tmp_path, clock=clock)
    machine.cards[0].lost = True
    first, second = (card.uuid for card in machine.cards)
    for _ in range(3):
        assert [one.uuid for one in sampler.sample()] == [second]
        clock.advance(60)
    assert len(caplog.records) == 1, "it is told once"
    machine.cards[0].lost = False
    assert [one.uuid for one in sampler.sample()] == [first, second], "in the driver's order"
    machine.attached.clear()
    clock.advance(30)
    sampler.sample()
    assert set(machine.attached) == {card.bus for card in machine.cards}
    sampler.close()
    assert machine.sessions == 0


def test_a_card_that_comes_later_or_sleeps_at_first_is_seen_once_it_is_awake(
    machine: FakeNvml, tmp_path: Path
) -> None:
    late = machine.cards.pop()
    on_the_bus(tmp_path, "0000:01:00.0")
    clock = Clock()
    sampler = Sampler(pci=tmp_path, clock=clock)
    assert len(sampler.sample()) == 1
    machine.cards.append(late)
    on_the_bus(tmp_path, "0000:02:00.0", status="suspended")
    clock.advance(60)
    assert len(sampler.sample()) == 1
    assert late.bus not in machine.attached, "a sleeping card is never woken"
    on_the_bus(tmp_path, "0000:02:00.0")
    assert len(sampler.sample()) == 1, "it is looked for once a minute"
    clock.advance(60)
    assert [one.uuid for one in sampler.sample()] == [machine.cards[0].uuid, late.uuid]
    sampler.close()


def test_a_sleeping_card_is_never_woken(machine: FakeNvml, tmp_path: Path) -> None:
    sampler = Sampler(pci=tmp_path)
    sampler.sample()
    asleep(tmp_path, "0000:01:00.0")
    machine.attached.clear()
    for _ in range(20):
        one, other = sampler.sample()
        assert one.asleep
        assert not other.asleep
    assert "00000000:01:00.0" not in machine.attached
    sampler.close()


def test_a_card_that_may_sleep_is_let_go_after_each_look(machine: FakeNvml, tmp_path: Path) -> None:
    sampler = Sampler(pci=tmp_path)
    sampler.sample()
    assert machine.sessions == 1  # kept open: it costs less
    asleep(tmp_path, "0000:01:00.0", status="active")
    assert len(sampler.sample()) == 2
    assert machine.sessions == 0
    sampler.sample(held={machine.cards[0].uuid})
    assert machine.sessions == 1  # a run of ours keeps it awake anyway
    sampler.sample(held={machine.cards[1].uuid})
    assert machine.sessions == 0
    asleep(tmp_path, "0000:01:00.0", status="active", control="on")
    sampler.sample()
    assert machine.sessions == 1
    sampler.close()
    assert machine.sessions == 0


def test_a_driver_that_is_taken_away_leaves_lost_cards(machine: FakeNvml, tmp_path: Path) -> None:
    sampler = Sampler(pci=tmp_path)
    sampler.sample()
    sampler.close()
    machine.driver = ""
    assert [one.lost for one in sampler.sample()] == [True, True]
