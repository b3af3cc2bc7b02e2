"""The owner's wish not to lend."""

import math
from pathlib import Path

import pytest

from pushtrain.core.errors import StorageError
from pushtrain.plumbing.machine.energy import EnergyDay
from pushtrain.plumbing.owner.pause import PauseFile
from pushtrain.testing import NOON, Clock


def test_a_pause_holds_for_its_time_and_over_restarts(tmp_path: Path) -> None:
    clock = Clock()
    assert PauseFile(tmp_path / "pause", clock=clock).until() is None
    assert PauseFile(tmp_path / "pause", clock=clock).pause(7200) == NOON + 7200
    again = PauseFile(tmp_path / "pause", clock=clock)
    assert again.until() == NOON + 7200
    clock.advance(7201)
    assert again.until() is None


def test_a_pause_without_a_time_ends_when_it_is_resumed(tmp_path: Path) -> None:
    clock, other = Clock(), PauseFile(tmp_path / "pause")
    reader = PauseFile(tmp_path / "pause", clock=clock)
    assert reader.pause(None) == math.inf
    clock.advance(10**9)
    assert reader.until() == math.inf
    assert other.resume() is True
    assert reader.until() is None
    assert other.resume() is False


def test_a_later_pause_takes_the_place_of_the_first(tmp_path: Path) -> None:
    clock = Clock()
    reader, writer = (PauseFile(tmp_path / "pause", clock=clock) for _ in range(2))
    writer.pause(None)
    assert reader.until() == math.inf
    writer.pause(60)
    assert reader.until() == NOON + 60


@pytest.mark.parametrize("content", ["", "{", "[]", '{"until": "soon"}', '{"since": 1}'])
def test_a_pause_that_cannot_be_read_is_one(tmp_path: Path, content: str) -> None:
    (tmp_path / "pause").write_text(content)
    assert PauseFile(tmp_path / "pause").until() == math.inf


def test_a_pause_that_cannot_be_written_says_what_else_helps(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="could not be written") as caught:
        PauseFile(tmp_path / "nowhere" / "pause").pause(None)
    assert "Stop the executor" in caught.value.mend


def test_energy_is_counted_by_the_day_and_kept(tmp_path: Path) -> None:
    clock = Clock()
    day = EnergyDay(tmp_path / "energy", clock=clock)
    day.add(1_800_000)
    assert day.kwh() == 0.5
    day.settle()
    assert EnergyDay(tmp_path / "energy", clock=clock).kwh() == 0.5
    clock.advance(86_400)
    assert EnergyDay(tmp_path / "energy", clock=clock).kwh() == 0
    assert day.kwh() == 0


def test_a_crash_loses_a_minute_of_energy_at_most(tmp_path: Path) -> None:
    clock = Clock()
    day = EnergyDay(tmp_path / "energy", clock=clock)
    for _ in range(600):
        clock.advance(1)
        day.add(3_600)
    kept = EnergyDay(tmp_path / "energy", clock=clock).kwh()
    assert 0.54 - 1e-9 <= kept <= 0.6 + 1e-9
