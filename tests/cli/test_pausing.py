"""`pushtrain pause`, `resume` and the line for status bars: at once, without executor and network."""

import json
import re
from pathlib import Path

import pytest

from pushtrain.cli.app import run
from pushtrain.plumbing.disk.lock import FolderLock
from pushtrain.plumbing.disk.state import StateFolder
from pushtrain.plumbing.owner import standing
from pushtrain.plumbing.owner.standing import CardStands, Program, Standing

STANDS = Standing(
    executor="lab-3",
    lent=True,
    runs=1,
    waiting=2,
    cards=(
        CardStands(
            index=0,
            name="RTX 4090",
            lent=False,
            why="the owner is using GPU 0 (9 GB)",
            programs=(Program(pid=4242, name="blender", memory=9 * 10**9),),
        ),
        CardStands(index=1, name="RTX 4090", lent=True, runs=("train",)),
    ),
)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StateFolder:
    monkeypatch.setenv("PUSHTRAIN_STATE", str(tmp_path / "state"))
    monkeypatch.chdir(tmp_path)
    return StateFolder(tmp_path / "state").create()


def said(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    assert run(argv) == 0
    return " ".join(capsys.readouterr().out.split())


def test_a_pause_is_answered_at_once_and_ended_by_resume(
    folder: StateFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "Paused until `pushtrain resume`. No executor runs here now" in said(capsys, "pause")
    assert folder.pause.exists()
    assert said(capsys, "executor", "status", "--line") == "pushtrain: paused, no executor runs here"
    assert said(capsys, "resume") == "Lent again, as your rules say."
    assert said(capsys, "resume") == "It was not paused."
    assert said(capsys, "executor", "status", "--line") == "pushtrain: no executor runs here"


def test_a_pause_with_a_time_says_until_when(folder: StateFolder, capsys: pytest.CaptureFixture[str]) -> None:
    assert re.match(r"Paused until (\w+ )?\d\d:\d\d\.", said(capsys, "pause", "2h"))
    assert re.match(r"Paused until \d{4}-\d\d-\d\d \d\d:\d\d\.", said(capsys, "pause", "30d"))
    told = json.loads(said(capsys, "pause", "30m", "--json"))
    assert told["paused"] is True
    assert told["until"] == json.loads(folder.pause.read_text())["until"]


def test_a_time_that_is_none_is_named_with_the_mend(
    folder: StateFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(("pause", "tomorrow")) == 2
    err = " ".join(capsys.readouterr().err.split())
    assert "`tomorrow` is not a duration. Write `30m`, `2h`, `1h30m` or `2d`; without it" in err
    assert not folder.pause.exists()


def test_a_pause_holds_although_the_settings_are_wrong(
    folder: StateFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    folder.settings.write_text("[rules.owner]\ngrace = 'soon'\n")
    standing.write(folder.standing, STANDS)
    with FolderLock(folder.lock):
        assert "1 run gives back what it holds." in said(capsys, "pause")
    assert folder.pause.exists()


def test_one_line_says_how_the_machine_stands(
    folder: StateFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    standing.write(folder.standing, STANDS)
    with FolderLock(folder.lock):
        line = said(capsys, "executor", "status", "--line")
        assert line == "lab-3: lending 1 of 2 GPUs · 1 run · 2 wait"
        said(capsys, "pause")
        assert said(capsys, "executor", "status", "--line") == "lab-3: paused · 1 run gives back · 2 wait"
        told = json.loads(said(capsys, "executor", "status", "--line", "--json"))
    assert told["paused"] is True
    assert told["standing"]["cards"][0]["programs"][0]["name"] == "blender"


def test_the_owner_reads_which_programs_use_a_card(
    folder: StateFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    from pushtrain.cli.screen.ownerlines import tell

    standing.write(folder.standing, STANDS)
    with FolderLock(folder.lock):
        tell(folder)
    told = " ".join(capsys.readouterr().out.split())
    assert "GPU 0 (RTX 4090): the owner is using GPU 0 (9 GB); your programs: blender (4242, 9.0 GB)" in told
    assert "GPU 1 (RTX 4090): lent; train" in told


@pytest.mark.parametrize(
    ("changed", "line"),
    [
        ({"cards": ()}, "lab-3: lending · 1 run · 2 wait"),
        ({"runs": 0, "waiting": 0}, "lab-3: lending 1 of 2 GPUs"),
        (
            {"lent": False, "why": ("it runs on its battery",), "runs": 3, "waiting": 1},
            "lab-3: not lent: it runs on its battery · 3 runs · 1 waits",
        ),
    ],
)
def test_the_line_has_only_what_there_is(changed: dict[str, object], line: str) -> None:
    assert STANDS.model_copy(update=changed).line(None) == line
