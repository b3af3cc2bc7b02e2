"""The short storm: executor, sender and shims are killed at random; nothing is lost, doubled or untrue."""

import time
from pathlib import Path

import pytest
from storm import storm

from pushtrain.plumbing.attempts.rundir import RunDir

KILLS = 20


@pytest.mark.slow
def test_nothing_is_lost_doubled_or_untrue_whoever_is_killed_when(tmp_path: Path) -> None:
    """`make chaos` does the same a thousand times."""
    with storm(tmp_path, seed=time.time_ns() % 1_000_000) as raging:
        figures = raging.rage(KILLS, runs=6)
        assert not raging.faults(), f"{figures}\n{raging.house.logs()}"
        assert figures.lines >= 6 * 40

        # And the look afterwards does see what is wrong.
        [journal] = raging.house.executor_state.caches.glob("*/home/journal")
        run, attempt, _ = journal.read_text().split(maxsplit=2)
        with journal.open("a") as file:
            file.write(f"{run} {attempt} began\n{run} 77 began\n")
        log = RunDir.of(raging.house.executor_state.runs, run, int(attempt)).log
        log.write_text(log.read_text().replace(f"line 0 of attempt {attempt}\n", ""))
        assert raging.faults() == [
            f"attempt {attempt} of {run[:8]} began 2 times",
            f"attempt 77 of {run[:8]} began, and nobody wrote it down",
            f"the log of attempt {attempt} of {run[:8]} lacks ['line 0 of attempt {attempt}']",
        ]
