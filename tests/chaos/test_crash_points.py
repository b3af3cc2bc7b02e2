"""Executor and sender are killed at each step of theirs, and the next one brings all to its end, once."""

import random
from pathlib import Path

import crashpoints
import pytest
import senderpoints
import senderworld

SOME = 4
"""Steps of an executor at which it is killed."""
FAILING = 2
"""... at which its disk fails, and of a shim at which that is killed."""
WAYS = 3
"""Ways of a sender."""


@pytest.mark.slow
def test_wherever_the_executor_is_killed_the_run_ends_once(tmp_path: Path) -> None:
    """Some steps of one way, others each time; `make chaos` kills at every one of all of them."""
    (way,) = random.sample(crashpoints.WAYS, 1)
    with crashpoints.executors() as nurse:
        steps = crashpoints.count(way, tmp_path / "whole", nurse)
        kinds = {step.split()[1] for step in steps}
        assert {"fsync", "replace", "write", "run"} <= kinds
        assert len(steps) > 40
        for at in sorted(random.sample(range(1, len(steps) + 1), SOME)):
            faults = crashpoints.struck_at(way, tmp_path / str(at), at, nurse)
            assert not faults, f"{way.name}, killed at step {at}, {steps[at - 1]}: {faults}"


@pytest.mark.slow
@pytest.mark.parametrize("fault", [crashpoints.Fault.DISK, crashpoints.Fault.SHIM], ids=["disk", "shim"])
def test_wherever_the_disk_or_its_shim_fails_an_executor_the_run_ends_well(
    tmp_path: Path, fault: crashpoints.Fault
) -> None:
    """An I/O error at a flush, rename or removal, or a shim that is killed there; others each time."""
    (way,) = random.sample(crashpoints.WAYS, 1)
    with crashpoints.executors() as nurse:
        steps = crashpoints.count(way, tmp_path / "whole", nurse, fault)
        assert len(steps) > 15
        for at in sorted(random.sample(range(1, len(steps) + 1), FAILING)):
            faults = crashpoints.struck_at(way, tmp_path / str(at), at, nurse, fault)
            assert not faults, f"{way.name}, {fault} at step {at}, {steps[at - 1]}: {faults}"


@pytest.mark.slow
def test_wherever_the_sender_is_killed_every_command_is_where_it_belongs_once(tmp_path: Path) -> None:
    """One step of some ways, others each time; `make chaos` kills at every one of all of them."""
    with senderworld.worlds(tmp_path) as world:
        steps = senderpoints.count(senderpoints.WAYS[1], world("whole"))
        assert {step.split()[1] for step in steps} == {"rename", "unlink", "write", "run"}
        assert len(steps) > 15
        points = random.sample(range(1, len(steps) + 1), WAYS)
        for way, at in zip(random.sample(senderpoints.WAYS, WAYS), points, strict=True):
            faults = senderpoints.killed_at(way, world("killed"), at)
            assert not faults, f"{way.name}, killed at step {at}: {faults}"
