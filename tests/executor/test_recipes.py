"""The recipes of docs/recipes: preempted half-way, a training's curve is the one of a training left alone.

They need a Python with torch, lightning and transformers, some 2 GB that no other test needs: the variable
PUSHTRAIN_TEST_TORCH names it (CONTRIBUTING.md). Without it they are skipped.
"""

import json
import os
import subprocess
from functools import cache
from pathlib import Path

import pytest
from executor_house import House, done, story

from pushtrain.core.values.run import Run
from pushtrain.core.values.states import Outcome, Reason
from pushtrain.executor.service import ExecutorService
from pushtrain.plumbing.attempts.rundir import RunDir
from pushtrain.testing import eventually

RECIPES = Path(__file__).parents[2] / "docs" / "recipes"
TORCH = os.environ.get("PUSHTRAIN_TEST_TORCH", "")
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")


@cache
def has(package: str) -> bool:
    done = subprocess.run((TORCH, "-c", f"import {package}"), capture_output=True, check=False)
    return done.returncode == 0


def needs(package: str) -> None:
    if not TORCH:
        pytest.skip("PUSHTRAIN_TEST_TORCH names no Python with torch")
    if not has(package):
        pytest.skip(f"{TORCH}, which PUSHTRAIN_TEST_TORCH names, has no {package}")


def send(house: House, service: ExecutorService, how: tuple[str, ...], signal: str) -> Run:
    return house.send(
        service,
        (TORCH, *how, "train.py"),
        env={"OMP_NUM_THREADS": "1", "EPOCHS": "3", "SAVE_EVERY": "50", "PYTHONWARNINGS": "ignore"},
        preempt_signal=signal,
    )


def curve(house: House, run: Run) -> list[tuple[float, float]]:
    series = json.loads(house.result(run, "metrics.json"))["series"]
    (loss,) = [one for one in series if one["name"] == "loss"]
    return list(zip(loss["steps"], loss["values"], strict=True))


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("recipe", "package", "how", "signal"),
    [
        ("train_torch.py", "torch", (), "SIGTERM"),
        ("train_torch.py", "torch", TORCHRUN, "none"),
        ("train_torch.py", "torch", TORCHRUN, "SIGTERM"),
        ("train_lightning.py", "lightning", (), "SIGTERM"),
        ("train_huggingface.py", "transformers", (), "SIGTERM"),
    ],
    ids=["torch", "torchrun-file", "torchrun-signal", "lightning", "huggingface"],
)
@story
async def test_a_training_preempted_half_way_has_the_curve_of_one_left_alone(
    tmp_path: Path, recipe: str, package: str, how: tuple[str, ...], signal: str
) -> None:
    needs(package)
    house = House(tmp_path)
    house.commit({"train.py": (RECIPES / recipe).read_text()})
    async with house.running() as service:
        alone = await done(service, send(house, service, how, signal), 120)
        assert alone.outcome is Outcome.SUCCEEDED, house.result(alone, "log.txt")
        whole = curve(house, alone)
        run = send(house, service, how, signal)
        metrics = RunDir.of(house.state.runs, run.id, 1).metrics

        def half_way() -> bool:
            return metrics.exists() and metrics.read_bytes().count(b"\n") >= len(whole) // 4

        await eventually(half_way, 60)
        service.preempt(run.id, reason=Reason.PREEMPTED, detail="the owner is back", grace=60)
        run = await done(service, run, 120)
        assert run.outcome is Outcome.SUCCEEDED, house.result(run, "log.txt")
        first, second = service.store.attempts(run.id)
        asked = next(one.time for one in service.store.events(run.id) if one.kind == "preempt-requested")
        again = curve(house, run)
    assert first.reason in {Reason.CHECKPOINTED, Reason.PREEMPTED}
    assert second.exit_code == 0
    assert again == whole
    assert first.ended_at is not None
    print(f"{recipe}, {signal}: {len(whole)} steps, yielded within {first.ended_at - asked:.2f} s")  # noqa: T201
