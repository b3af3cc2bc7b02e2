"""A card that fails: nobody gets it any more, everybody is told, and its run is tried again elsewhere."""

from pathlib import Path
from typing import Any

import pytest
from executor_house import House, done, story

from pushtrain.core.policy import fits
from pushtrain.core.values.jobspec import Resources
from pushtrain.core.values.states import Outcome, Reason
from pushtrain.executor.owner.cardwatch import CardWatch
from pushtrain.executor.owner.lending import Holder
from pushtrain.executor.owner.meter import Meter
from pushtrain.plumbing.machine import gpu
from pushtrain.plumbing.machine.energy import EnergyDay
from pushtrain.plumbing.machine.excluded import Excluded
from pushtrain.plumbing.machine.gpu import Sampler, inventory
from pushtrain.testing import Clock, a_spec
from pushtrain.testing.nvml import FakeCard, FakeNvml
from served import served

GB = 10**9


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> FakeNvml:
    made = FakeNvml([FakeCard(memory=24 * GB, memory_errors=3), FakeCard(memory=24 * GB)])
    monkeypatch.setattr(gpu, "pynvml", made)
    return made


def watch(tmp_path: Path, boot: str = "first") -> CardWatch:
    """What an executor that starts now looks with."""
    clock = Clock()
    meter = Meter(tmp_path / "runs", EnergyDay(tmp_path / "energy", clock=clock), clock=clock)
    excluded = Excluded(tmp_path / "excluded.json", clock=clock, boot=lambda: boot)
    return CardWatch(inventory(), Sampler(clock=clock), meter, excluded=excluded, clock=clock)


def troubles(cards: CardWatch, *holders: Holder) -> list[str]:
    return [card.trouble for card in cards.look(holders).seen]


def test_errors_of_its_memory_count_until_the_owner_says_that_it_is_mended(
    library: FakeNvml, tmp_path: Path
) -> None:
    cards = watch(tmp_path)
    assert troubles(cards) == ["", ""], "what was there before is no news"
    library.cards[0].memory_errors = 4
    assert troubles(cards) == ["memory-errors", ""]
    cards.close()
    again = watch(tmp_path)
    assert troubles(again) == ["memory-errors", ""], "also for an executor that starts anew"
    Excluded(tmp_path / "excluded.json", clock=Clock(), boot=lambda: "first").forgive("0")
    assert troubles(again) == ["", ""]
    library.cards[0].memory_errors = 5
    assert troubles(again) == ["memory-errors", ""], "what comes then is new"
    again.close()


def test_a_card_that_did_not_answer_when_the_executor_began_is_lent_once_it_is_mended(
    library: FakeNvml, tmp_path: Path
) -> None:
    """It was found by the inventory, and lost a moment later: only a restart of the executor helped."""
    for bus in ("0000:01:00.0", "0000:02:00.0"):
        (tmp_path / "pci" / bus).mkdir(parents=True)
        (tmp_path / "pci" / bus / "vendor").write_text("0x10de\n")
        (tmp_path / "pci" / bus / "class").write_text("0x030000\n")
    clock, gpus = Clock(), inventory()
    meter = Meter(tmp_path / "runs", EnergyDay(tmp_path / "energy", clock=clock), clock=clock)
    excluded = Excluded(tmp_path / "excluded.json", clock=clock, boot=lambda: "first")
    sampler = Sampler(pci=tmp_path / "pci", clock=clock)
    cards = CardWatch(gpus, sampler, meter, excluded=excluded, clock=clock)
    library.cards[1].lost = True
    assert troubles(cards) == ["", "fallen-off"]
    library.cards[1].lost = False
    excluded.forgive("1")
    clock.advance(60)
    assert troubles(cards) == ["", ""]
    cards.close()


@pytest.mark.parametrize("had", [0, 1])
def test_a_card_that_was_not_there_when_the_executor_began_is_told_of_once(
    library: FakeNvml, tmp_path: Path, caplog: pytest.LogCaptureFixture, had: int
) -> None:
    clock = Clock()
    meter = Meter(tmp_path / "runs", EnergyDay(tmp_path / "energy", clock=clock), clock=clock)
    cards = CardWatch(inventory()[:had], Sampler(clock=clock), meter, clock=clock)
    for _ in range(3):
        clock.advance(600)
        cards.look(())
    told = sorted(each.getMessage().split()[1] for each in caplog.records)
    assert told == [card.uuid for card in library.cards[had:]]
    cards.close()


def test_a_card_that_fell_off_comes_back_with_the_machines_next_boot(
    library: FakeNvml, tmp_path: Path
) -> None:
    cards = watch(tmp_path)
    assert troubles(cards) == ["", ""]
    library.cards[1].lost = True
    assert troubles(cards) == ["", "fallen-off"]
    library.cards[1].lost = False
    assert troubles(cards) == ["", "fallen-off"], "that it answers again does not make it good"
    cards.close()
    after = watch(tmp_path, boot="second")
    assert troubles(after) == ["", ""]
    after.close()


async def _ended(house: House, command: str, **spec: Any) -> tuple[Any, Any]:
    async with house.running() as service:
        run = await done(service, house.send(service, command, **spec))
        return run, service.store.attempts(run.id)


@story
async def test_a_run_whose_gpu_failed_is_tried_again_and_one_that_took_too_much_memory_is_not(
    tmp_path: Path,
) -> None:
    monkeypatch = pytest.MonkeyPatch()
    monkeypatch.setattr(gpu, "pynvml", FakeNvml([FakeCard(memory=24 * GB)]))
    try:
        house = House(tmp_path)
        house.gpus = inventory()
        asked = {"resources": Resources(gpus=1), "retry": {"backoff": 0.1}}
        mark = tmp_path / "second"
        job = f"test -e {mark} && exit 0; touch {mark}; echo uncorrectable ECC error encountered; exit 1"
        run, attempts = await _ended(house, job, **asked)
        assert run.outcome is Outcome.SUCCEEDED, run.detail
        assert [one.reason for one in attempts] == [Reason.GPU, Reason.EXITED]
        run, attempts = await _ended(house, "echo CUDA out of memory; exit 1", **asked)
        assert (run.outcome, run.reason, len(attempts)) == (Outcome.FAILED, Reason.GPU_MEMORY, 1)
        assert "gpu_memory" in run.detail
        run, attempts = await _ended(house, "echo CUDA out of memory; exit 1", retry={"backoff": 0.1})
        assert run.reason is Reason.EXITED, "it had no GPU that could have failed"
    finally:
        monkeypatch.undo()


def test_a_card_that_is_missing_when_it_is_looked_at_first_has_failed(
    library: FakeNvml, tmp_path: Path
) -> None:
    cards = watch(tmp_path)
    library.cards[0].lost = True
    assert troubles(cards) == ["fallen-off", ""]
    cards.close()


def test_a_card_in_trouble_is_told_and_nothing_is_placed_on_it(library: FakeNvml, tmp_path: Path) -> None:
    with served(tmp_path / "state", gpus=inventory()) as one:
        library.cards[0].lost = True
        assert [each.lent for each in one.service.machine_gpus().gpus] == [False, True]
        card = one.service.card()
        assert [each.trouble for each in card.gpus] == ["fallen-off", ""]
        two = a_spec(resources=Resources(gpus=2))
        assert fits(card, two) == "lab-1 has 1 GPUs in order; the job asks for 2"
        assert fits(card, a_spec(resources=Resources(gpus=1))) == ""
        assert [place.memory for place in one.service.capacity().free] == [24 * GB]
        one.service._landlord._cards.close()
