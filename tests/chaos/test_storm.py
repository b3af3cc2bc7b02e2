"""The short storm: executors, sender and shims are killed at random; nothing is lost, doubled or untrue."""

import time
from dataclasses import replace
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
        assert not raging.faults(figures), f"{figures}\n{raging.house.logs()}"
        assert figures.lines >= 6 * 40

        # And the look afterwards does see what is wrong.
        journal = raging.left().journal
        (run, attempt), lines = next(one for one in journal.said.items() if one[1])
        state = raging.house.executors[journal.at[run, attempt]]
        [file] = state.caches.glob("*/home/journal")
        with file.open("a") as more:
            more.write(f"{run} {attempt} began\n{run} 77 began\n{run} 77 from 3\n")
        log, gone = RunDir.of(state.runs, run, attempt).log, f"line {lines[0]} of attempt {attempt}"
        log.write_text(log.read_text().replace(f"{gone}\n", ""))
        assert raging.left().faults() == [
            f"attempt {attempt} of {run[:8]} began 2 times",
            f"attempt 77 of {run[:8]} began, and nobody wrote it down",
            f"attempt 77 of {run[:8]} began with line 3, not 40",
            f"the log of attempt {attempt} of {run[:8]} lacks ['{gone}']",
        ]
        raging.strikes["executor"] += 100  # a long storm, in which nothing has moved
        assert raging.faults(replace(figures, carried=0))[4:] == [
            "no run went on elsewhere with its checkpoint"
        ]
