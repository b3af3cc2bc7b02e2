"""The day's count of what was brought in: exact while it lives, never too low after a crash."""

import contextlib
import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pushtrain.plumbing.data.download import Ask, Stream, Version
from pushtrain.plumbing.data.ledger import AHEAD, Exhausted, Ledger, read_today
from pushtrain.testing import NOON, Clock

DAY = 86_400


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "downloads.json"


def test_what_was_counted_is_known_after_a_restart(path: Path) -> None:
    ledger = Ledger(path, 0, clock=Clock())
    ledger.take(700)
    ledger.settle()
    assert Ledger(path, 0, clock=Clock()).today() == 700
    assert read_today(path, clock=Clock()) == 700


def test_after_a_crash_the_count_is_rather_too_high_than_too_low(path: Path) -> None:
    ledger = Ledger(path, 0, clock=Clock())
    ledger.take(700)
    assert 700 <= Ledger(path, 0, clock=Clock()).today() <= 700 + AHEAD


def test_a_limit_is_reached_exactly_and_what_would_exceed_it_is_not_counted(path: Path) -> None:
    ledger = Ledger(path, 1000, clock=Clock())
    ledger.take(999)
    with pytest.raises(Exhausted):
        ledger.take(2)
    ledger.take(1)
    assert ledger.today() == 1000
    with pytest.raises(Exhausted) as caught:
        ledger.demand(1)
    assert caught.value.needed is None


def test_a_new_day_begins_at_midnight_utc_and_a_clock_that_goes_back_makes_no_room(path: Path) -> None:
    clock = Clock()
    ledger = Ledger(path, 1000, clock=clock)
    ledger.take(1000)
    assert (ledger.tomorrow() % DAY, 0 < ledger.tomorrow() - NOON <= DAY) == (0, True)
    clock.advance(-2 * DAY)
    with pytest.raises(Exhausted):
        ledger.take(1)
    clock.advance(3 * DAY)
    ledger.take(1000)
    assert ledger.today() == 1000


def test_a_file_that_no_day_would_let_in_is_told_apart(path: Path) -> None:
    ledger = Ledger(path, 1000, clock=Clock())
    with pytest.raises(Exhausted) as caught:
        ledger.demand(1001)
    assert caught.value.needed == 1001
    ledger.take(500)
    ledger.demand(900, there=400)
    with pytest.raises(Exhausted):
        ledger.demand(900, there=399)


def test_threads_count_together(path: Path) -> None:
    ledger = Ledger(path, 0, clock=Clock())

    def take() -> None:
        for _ in range(500):
            ledger.take(7)

    threads = [threading.Thread(target=take) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert ledger.today() == 4 * 500 * 7


@given(st.lists(st.integers(0, 400), max_size=20), st.integers(1, 2000))
def test_no_more_than_the_limit_is_ever_counted(
    tmp_path_factory: pytest.TempPathFactory, takes: list[int], most: int
) -> None:
    ledger = Ledger(tmp_path_factory.mktemp("ledger") / "x", most, clock=Clock())
    taken = 0
    for count in takes:
        with contextlib.suppress(Exhausted):
            ledger.take(count)
            taken += count
        assert ledger.today() == taken <= most


def test_a_damaged_file_counts_from_nothing(path: Path) -> None:
    path.write_text('{"day": "x"}')
    assert Ledger(path, 0, clock=Clock()).today() == 0


def test_a_file_that_cannot_be_written_stops_no_download(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ledger = Ledger(tmp_path / "gone" / "x", 0, clock=Clock())
    ledger.take(5)
    assert ledger.today() == 5
    assert "could not be written down" in caplog.text


@contextlib.contextmanager
def four_chunks(ask: Ask) -> Iterator[Stream]:
    yield Stream(Version(), iter([b"x" * 100] * 4), start=ask.offset, size=None)


def test_every_chunk_that_comes_by_an_opener_is_counted_until_the_limit(path: Path) -> None:
    ledger = Ledger(path, 250, clock=Clock())
    got: list[bytes] = []
    with pytest.raises(Exhausted), ledger.metered(four_chunks)(Ask()) as stream:
        got.extend(stream.chunks)
    assert (len(b"".join(got)), ledger.today()) == (200, 200)
    assert json.loads(path.read_bytes())["bytes"] == 200


def test_an_environment_counts_by_what_it_comes_to_and_none_is_built_when_the_day_is_used_up(
    tmp_path: Path, path: Path
) -> None:
    ledger = Ledger(path, 1000, clock=Clock())
    built = tmp_path / "built"
    with ledger.building(built, lambda: None):
        (built / "lib").mkdir(parents=True)
        (built / "lib" / "a").write_bytes(b"x" * 900)
        (built / "b").write_bytes(b"x" * 300)
        (built / "link").symlink_to(built / "b")
    assert ledger.today() == 1200
    with pytest.raises(Exhausted), ledger.building(built, lambda: None):
        raise AssertionError("it was begun")


def test_without_a_limit_an_environment_is_not_measured(tmp_path: Path, path: Path) -> None:
    ledger = Ledger(path, 0, clock=Clock())
    with ledger.building(tmp_path / "not-there", lambda: None):
        pass
    assert ledger.today() == 0


def test_what_a_build_brings_in_counts_by_the_kernels_word_where_there_is_one(
    tmp_path: Path, path: Path
) -> None:
    ledger = Ledger(path, 1000, clock=Clock())
    said: Iterator[int | None] = iter([None, 300, 300, 450])
    for _ in range(2):
        with ledger.building(tmp_path, lambda: next(said)):
            (tmp_path / "large").write_bytes(b"x" * 5000)
    assert ledger.today() == 450
