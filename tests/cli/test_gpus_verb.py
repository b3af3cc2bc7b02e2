"""`pushtrain gpus`: each card's figures and how it stands, within 80 columns, without waking one."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console

from pushtrain.cli import gpus
from pushtrain.cli.connect import Answer
from pushtrain.cli.screen import render
from pushtrain.core.errors import NotFound, Unreachable, UsageError
from pushtrain.core.runs.gpuhealth import Trouble
from pushtrain.core.runs.gpustate import GpuRun, GpuState, MachineGpus
from pushtrain.plumbing.disk.state import StateFolder
from pushtrain.plumbing.machine import gpu
from pushtrain.plumbing.machine.excluded import Excluded
from pushtrain.testing import Clock, a_card, a_gpu
from pushtrain.testing.nvml import FakeCard, FakeNvml

GB = 10**9


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    render.console.cache_clear()


@pytest.fixture
def lab(monkeypatch: pytest.MonkeyPatch) -> MachineGpus:
    """An executor with a card that is at work, one that its owner uses, one that sleeps, and one lost."""
    states = (
        GpuState(
            gpu=a_gpu(0, memory=24 * GB, name="NVIDIA GeForce RTX 4090"),
            memory_used=19 * GB,
            memory_ours=18 * GB,
            memory_foreign=GB,
            utilization=97,
            temperature=86,
            power=412.4,
            throttled=("heat",),
            runs=(GpuRun(id="a1b2c3d4e5", title="train (lr=0.1)", repository="h/r"), GpuRun()),
        ),
        GpuState(
            gpu=a_gpu(1, memory=141 * GB, slice=2, name="NVIDIA H200 NVL MIG 1g.18gb and then some"),
            memory_used=9 * GB,
            memory_ours=0,
            memory_foreign=9 * GB,
            lent=False,
            stands="the owner is using GPU 1 (9 GB)",
        ),
        GpuState(gpu=a_gpu(2, memory=0, uuid="", name="NVIDIA GPU"), asleep=True),
        GpuState(gpu=a_gpu(3), lost=True, lent=False, stands="GPU 3 is out of order (fallen-off)"),
    )
    told = MachineGpus(executor="lab-3", gpus=states)
    monkeypatch.setattr(gpus, "_asked", lambda *_: [told])
    return told


def test_two_lines_a_card_tell_it_all_within_80_columns(lab: MachineGpus) -> None:
    screen = Console(width=80, highlight=False)
    with screen.capture() as seen:
        for part in gpus._page([lab]):
            screen.print(part)
    lines = seen.get().splitlines()
    assert all(len(line) <= 80 for line in lines)
    assert lines[0] == "lab-3 · driver 580.65 · 2 of 4 GPUs lent"
    assert lines[1].split() == [
        "0",
        "RTX",
        "4090",
        "████████░░",
        "19.0/24.0",
        "GB",
        "97",
        "%",
        "86",
        "°C",
        "412",
        "W",
    ]
    assert lines[2].strip() == "train (lr=0.1) (a1b2c3d4), a run; slowed down by heat"
    assert lines[3].startswith(" 1.2  H200 NVL MIG 1g.18gb …  ▓░░░")
    assert [line.strip() for line in lines[4::2]] == [
        "the owner is using GPU 1 (9 GB)",
        "asleep",
        "GPU 3 is out of order (fallen-off)",
    ]


@pytest.mark.usefixtures("lab")
def test_what_is_piped_has_a_line_for_each_card(capsys: pytest.CaptureFixture[str]) -> None:
    gpus.gpus("lab-3")
    lines = capsys.readouterr().out.splitlines()
    assert lines[2].split()[:2] == ["lab-3", "0"]
    assert "18.0 GB" in lines[2]
    assert "the owner is using GPU 1 (9 GB)" in lines[3]
    with pytest.raises(UsageError, match="terminal"):
        gpus.gpus("lab-3", watch=True)


def test_this_machine_is_told_without_an_executor(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(gpu, "pynvml", FakeNvml([FakeCard(memory=24 * GB, reserved=6 * GB, utilization=3)]))
    gpus.gpus(state=tmp_path, json=True)
    (told,) = json.loads(capsys.readouterr().out)
    (card,) = told["gpus"]
    assert not told["served"]
    assert (card["memory_used"], card["memory_ours"], card["utilization"]) == (6 * GB, None, 3)
    gpus.gpus(state=tmp_path)
    assert "RTX 4090" in capsys.readouterr().out


def test_the_executor_that_runs_here_is_asked_and_no_roster_is_read(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told = MachineGpus(executor="here", gpus=())
    monkeypatch.setattr(gpus, "running_card", lambda _: a_card())
    monkeypatch.setattr(gpus, "executor_addresses", lambda *_: ["its address"])
    monkeypatch.setattr(gpus, "client_maker", lambda *_: lambda _: SimpleNamespace(gpus=lambda: told))
    monkeypatch.setattr(gpus, "everyone", lambda _: pytest.fail("a roster was read"))
    gpus.gpus(state=tmp_path, json=True)
    assert json.loads(capsys.readouterr().out)[0]["executor"] == "here"

    def dead(*_: object) -> None:
        raise Unreachable("It has just ended.")

    monkeypatch.setattr(gpus, "client_maker", lambda *_: dead)
    monkeypatch.setattr(gpu, "pynvml", FakeNvml(driver=""))
    gpus.gpus(state=tmp_path, json=True)
    assert not json.loads(capsys.readouterr().out)[0]["served"]


def test_a_gpu_that_is_mended_is_lent_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = StateFolder(tmp_path).create()
    Excluded(folder.excluded, clock=Clock()).add(a_gpu(1), Trouble.FALLEN_OFF)
    gpus.gpus(mended="1", state=tmp_path)
    assert "GPU 1 (NVIDIA RTX 4090) is lent again" in capsys.readouterr().out
    with pytest.raises(NotFound, match="does not count as failed"):
        gpus.gpus(mended="1", state=tmp_path)


def test_a_machine_without_a_driver_is_a_cpu_executor(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(gpu, "pynvml", FakeNvml(driver=""))
    gpus.gpus(state=tmp_path)
    said = "executor: no GPU with a working NVIDIA driver, so it is a CPU executor.\n"
    assert capsys.readouterr().out == said


def test_only_who_is_named_is_shown_and_a_name_that_nobody_has_is_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    class Asked:
        def __init__(self, name: str) -> None:
            self.id = self.url = name

    answers = [
        Answer(Asked("one"), MachineGpus(executor="lab-1")),
        Answer(Asked("two"), MachineGpus(executor="lab-2")),
        Answer(Asked("three"), None, Unreachable("The line is dead.")),
    ]
    known = SimpleNamespace(clients=[each.client for each in answers], name=lambda client: client.url)
    monkeypatch.setattr(gpus, "everyone", lambda _: known)
    monkeypatch.setattr(gpus, "ask_all", lambda *_: answers)
    gpus.gpus("lab-2", state=tmp_path, json=True)
    assert [one["executor"] for one in json.loads(capsys.readouterr().out)] == ["lab-2"]
    gpus.gpus("all", state=tmp_path, json=True)
    assert [one["executor"] for one in json.loads(capsys.readouterr().out)] == ["lab-1", "lab-2"]
    with pytest.raises(NotFound, match="lab-9"):
        gpus.gpus("lab-9", state=tmp_path)
    with pytest.raises(Unreachable, match="The line is dead"):
        gpus.gpus("three", state=tmp_path)
