"""An executor is killed at each step of a run, and the next one brings the run to its end, once."""

import random
from pathlib import Path

import pytest
from crashpoints import count, killed_at

SOME = 8


@pytest.mark.slow
def test_wherever_the_executor_is_killed_the_run_ends_once(tmp_path: Path) -> None:
    """Some steps, others each time; `make chaos` kills at every one of them."""
    steps = count(tmp_path / "whole")
    kinds = {step.split()[1] for step in steps}
    assert {"fsync", "replace", "write", "run"} <= kinds
    assert len(steps) > 40
    for at in sorted(random.sample(range(1, len(steps) + 1), SOME)):
        faults = killed_at(tmp_path / str(at), at)
        assert not faults, f"killed at step {at}, {steps[at - 1]}: {faults}"
