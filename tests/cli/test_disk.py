"""`pushtrain executor disk` and what the doctor says of the disk."""

import json
import os
from pathlib import Path

import pytest

from pushtrain.cli.app import run as pushtrain
from pushtrain.plumbing.disk.cache import Cache
from pushtrain.plumbing.disk.state import StateFolder
from pushtrain.plumbing.sqlite.store import Store
from pushtrain.testing import SENDER, a_command

MB = 1_000_000


@pytest.fixture
def state(tmp_path: Path) -> StateFolder:
    """A state folder with a data set, and with a run that waits."""
    made = StateFolder(tmp_path / "state").create()
    made.settings.write_text("[executor]\ndisk_floor = 0\n")

    def fill(into: Path) -> None:
        (into / "file").write_bytes(os.urandom(MB))

    Cache(made.data).build("abc", fill)
    store = Store(made.store)
    run, _ = store.accept(
        a_command(), sender=SENDER, raw=b"{}", headers={}, nonce="n", nonce_expires=2e9, queue_limit=9
    )
    store.close()
    (made.runs / run.id / "checkpoint").mkdir(parents=True)
    (made.runs / run.id / "checkpoint" / "epoch").write_bytes(os.urandom(MB))
    return made


def told(state: StateFolder, capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert pushtrain(["executor", "disk", *words, "--state", str(state.root)]) == 0
    return capsys.readouterr().out


def test_it_tells_what_lies_there_and_why_it_stays(
    state: StateFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    text = told(state, capsys)
    assert "data" in text
    assert "the run is not over" in text
    found = json.loads(told(state, capsys, "--json"))
    (data,) = [piece for piece in found["pieces"] if piece["kind"] == "data"]
    assert data["size"] >= MB
    assert not data["stays"]
    assert found["disk"]["total"] == sum(piece["size"] for piece in found["pieces"])


def test_collected_by_hand_what_may_go_is_gone(
    state: StateFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "0 pieces" in told(state, capsys, "--collect")
    found = json.loads(told(state, capsys, "--down-to", "0GB", "--json"))
    assert [piece["name"] for piece in found["collected"]] == ["data/abc"]
    assert list(state.runs.glob("*/checkpoint/epoch"))
    assert not (state.data / "abc").exists()
    assert pushtrain(["executor", "disk", "--down-to", "1kB", "--state", str(state.root)]) == 0
    assert "1.0 kB cannot be reached" in capsys.readouterr().err


def test_the_doctor_tells_when_it_is_too_full_by_what_must_stay(
    state: StateFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    def disk() -> dict[str, str]:
        pushtrain(["doctor", "--json", "--state", str(state.root)])
        (found,) = [one for one in json.loads(capsys.readouterr().out) if one["what"] == "disk"]
        return dict(found)

    assert disk()["verdict"] == "ok"
    total = json.loads(told(state, capsys, "--json"))["disk"]["total"]
    state.settings.write_text(f"[executor]\ndisk_floor = 0\ndisk_budget = {total - MB // 2}\n")
    found = disk()
    assert found["verdict"] == "note", found["text"]
    state.settings.write_text('[executor]\ndisk_floor = 0\ndisk_budget = "500kB"\n')
    found = disk()
    assert found["verdict"] == "wrong"
    assert "cannot be collected" in found["text"]


def test_a_size_that_is_none_and_a_folder_without_runs_are_told(
    tmp_path: Path, state: StateFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    assert pushtrain(["executor", "disk", "--down-to", "much", "--state", str(state.root)]) == 2
    assert "--down-to much" in capsys.readouterr().err
    assert pushtrain(["executor", "disk", "--state", str(tmp_path / "new")]) != 0
