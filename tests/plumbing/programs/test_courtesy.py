"""Standing back for the owner, and quiet hours."""

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pushtrain.core.text.hours import WEEK, closes_in
from pushtrain.plumbing.data.download import Ask, Stream, Version
from pushtrain.plumbing.data.ledger import Ledger, Quiet
from pushtrain.plumbing.data.throttle import Throttle
from pushtrain.plumbing.machine.localtime import minute_of_week, quiet_until
from pushtrain.testing import NOON, Clock

HOUR = 60
LESS = (
    "import os; from pushtrain.plumbing.programs.courtesy import stand_back; stand_back(5); print(os.nice(0))"
)
MORE = (
    "import sys; from pushtrain.plumbing.programs import process; "
    "from pushtrain.plumbing.programs.courtesy import stand_back; "
    "stand_back(12); print(process.run((sys.executable, '-c', sys.argv[1])).text)"
)
NICE = "import os; print(os.nice(0), open('/proc/self/autogroup').read())"


def test_a_process_stands_back_with_all_that_it_starts() -> None:
    done = subprocess.run((sys.executable, "-c", MORE, NICE), capture_output=True, text=True, check=True)
    words = done.stdout.split()
    assert words[0] == str(max(12, os.getpriority(os.PRIO_PROCESS, 0)))
    assert words[-1] in {words[0], "0"}  # the kernel takes this ten times a second at most


def test_nobody_stands_less_far_back_than_before() -> None:
    done = subprocess.run(
        ("nice", "-n", "15", sys.executable, "-c", LESS),
        capture_output=True,
        text=True,
        check=True,
    )
    assert int(done.stdout) >= 15


def test_windows_close_when_none_of_them_is_open() -> None:
    assert closes_in(("09:00-17:00",), 9 * HOUR) == 8 * HOUR
    assert closes_in(("09:00-17:00",), 17 * HOUR) == 0
    assert closes_in(("22:00-06:00",), 23 * HOUR) == 7 * HOUR
    assert closes_in(("Sun 22:00-06:00",), 1 * HOUR) == 5 * HOUR  # over the week's end
    assert closes_in(("09:00-12:00", "11:00-14:00"), 10 * HOUR) == 4 * HOUR
    assert closes_in(("Sat,Sun", "Mon-Fri"), 0) == WEEK
    assert closes_in((), 0) == 0


def test_quiet_hours_end_on_the_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    try:
        assert time.strftime("%a %H:%M", time.localtime(NOON)) == "Mon 14:13"
        assert minute_of_week(NOON) == 14 * HOUR + 13
        until = quiet_until(("09:00-17:00",), NOON)
        assert until is not None
        assert time.strftime("%a %H:%M:%S", time.localtime(until)) == "Mon 17:00:00"
        assert quiet_until(("09:00-12:00",), NOON) is None
        assert quiet_until((), NOON) is None
    finally:
        monkeypatch.undo()
        time.tzset()


def test_in_quiet_hours_nothing_is_brought_in_but_what_has_not_changed_may_be_asked_for(
    tmp_path: Path,
) -> None:
    unchanged = False

    @contextlib.contextmanager
    def opener(_: Ask) -> Iterator[Stream]:
        yield Stream(Version(), chunks=iter((b"data",)), size=4, unchanged=unchanged)

    quiet: list[float] = [NOON]
    ledger = Ledger(tmp_path / "day", 0, quiet=lambda: quiet[0] if quiet else None)
    opened = ledger.metered(opener)
    with pytest.raises(Quiet) as caught, opened(Ask()):
        pass
    assert caught.value.until == NOON
    with pytest.raises(Quiet), ledger.building(tmp_path, lambda: 0):
        pass
    unchanged = True
    with opened(Ask()) as stream:
        assert stream.unchanged
    unchanged = False
    quiet.clear()
    with opened(Ask()) as stream:
        assert b"".join(stream.chunks) == b"data"
    assert ledger.today() == 4


def test_an_executor_stands_back_with_all_its_threads(tmp_path: Path) -> None:
    origin = tmp_path / "origin.git"
    subprocess.run(("git", "init", "--quiet", "--bare", origin), check=True)
    flags = ("--state", tmp_path / "state", "--repo", f"file://{origin}", "--tunnel", "none", "--port", "0")
    child = subprocess.Popen(
        (sys.executable, "-m", "pushtrain", "executor", *flags, "--min-isolation", "none", "--json"),
        env={**os.environ, "PUSHTRAIN_RULES_OWNER_NICE": "11"},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    try:
        assert child.stdout is not None
        assert child.stdout.readline() == b"{\n"
        threads = [int(entry.name) for entry in Path(f"/proc/{child.pid}/task").iterdir()]
        assert len(threads) > 1
        assert {os.getpriority(os.PRIO_PROCESS, thread) for thread in threads} == {11}
    finally:
        child.terminate()
        child.communicate()


def test_data_comes_no_faster_than_the_owner_wants(tmp_path: Path) -> None:
    clock, waited = Clock(), []

    def sleep(seconds: float) -> None:
        waited.append(seconds)
        clock.advance(seconds)

    @contextlib.contextmanager
    def opener(_: Ask) -> Iterator[Stream]:
        yield Stream(Version(), chunks=iter((bytes(1000),) * 20), size=20_000)

    ledger = Ledger(tmp_path / "day", 0, throttle=Throttle(1000, clock=clock, sleep=sleep))
    begin = clock()
    for _ in range(2):  # both share the line
        with ledger.metered(opener)(Ask()) as stream:
            assert sum(map(len, stream.chunks)) == 20_000
    assert clock() - begin == pytest.approx(40, abs=1)
    assert max(waited) <= 1.01
