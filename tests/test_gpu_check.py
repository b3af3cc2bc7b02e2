"""`scripts/gpu_check.py`: it says so where there is no GPU, and its story holds without one."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from pushtrain.plumbing.machine import gpu
from pushtrain.plumbing.machine.gpu import inventory
from pushtrain.testing.nvml import FakeCard, FakeNvml

SCRIPT = Path(__file__).parents[1] / "scripts" / "gpu_check.py"
GB = 10**9


@pytest.fixture
def check() -> ModuleType:
    spec = importlib.util.spec_from_file_location("gpu_check", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.skipif(bool(inventory()), reason="this machine has a GPU: run the script itself")
def test_without_a_gpu_it_says_so_and_exits_with_77() -> None:
    done = subprocess.run((sys.executable, SCRIPT), capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 77
    assert "no GPU with a working NVIDIA driver, so nothing was checked" in done.stderr
    assert done.stdout == ""


def test_memory_counts_as_free_when_only_the_owners_program_is_left(
    check: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    card = FakeCard(memory=24 * GB, processes={1: 2 * GB, 2: 9 * GB}, drawing={3: GB})
    monkeypatch.setattr(gpu, "pynvml", FakeNvml([card]))
    story = check.Story(inventory()[0])
    assert story._ours_gone() is None
    del card.processes[2]
    assert story._ours_gone() is not None
    card.told = False
    card.reserved = 9 * GB
    assert story._ours_gone() is None, "where no processes are told the total counts"
    card.reserved = 0
    assert story._ours_gone() is not None
    story._sampler.close()


def test_a_job_that_sees_another_gpu_is_told_as_missed(
    check: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu, "pynvml", FakeNvml([FakeCard(), FakeCard()]))
    mine, other = inventory()
    story = check.Story(mine)
    good = {"visible": mine.uuid, "uuid": mine.uuid, "count": 1, "nodes": ["nvidia0"]}
    assert [one.reached for one in story._alone(good, "sandbox")] == [True, True]
    assert [one.reached for one in story._alone(good | {"uuid": other.uuid}, "sandbox")] == [False, True]
    assert [one.reached for one in story._alone(good | {"count": 2}, "sandbox")] == [False, True]
    both = good | {"nodes": ["nvidia0", "nvidia1"]}
    assert [one.reached for one in story._alone(both, "sandbox")] == [True, False]
    assert [one.reached for one in story._alone(both, "none")] == [True, True]
    used = SimpleNamespace(joules=5.0, estimated=False, seconds=9.0, peak_memory=GB)
    store = SimpleNamespace(attempts=lambda _: [SimpleNamespace(gpu=used), SimpleNamespace(gpu=None)])
    assert [one.value for one in story._energy(store, SimpleNamespace(id="x"))] == [5.0, 9.0]


@pytest.mark.slow
def test_the_whole_story_holds_in_a_rehearsal(
    check: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in (("STEPS", 40), ("_ENOUGH", 6), ("_QUIET", 0.2), ("SETTLE", 0.0), ("_MOST_CPU", 100)):
        monkeypatch.setattr(check, name, value)
    check.main(["--rehearse", "--json", str(tmp_path / "told.json")])
    said = capsys.readouterr()
    told = json.loads((tmp_path / "told.json").read_text())
    assert told["gpu"] == "a rehearsal without a GPU"
    assert "| steps lost by it |" in said.out
    reached = {one["what"]: one["reached"] for one in told["figures"]}
    assert "owner gone → trains again" in reached
    assert reached["steps lost by it"], (
        "how long things take is not asked of a machine that is busy with tests"
    )
    assert reached["attempts until it is done"]
