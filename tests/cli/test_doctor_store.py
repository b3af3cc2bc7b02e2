"""`pushtrain doctor` looks at the store, also while a server uses it."""

import json
from pathlib import Path

import pytest

from pushtrain.cli.app import run as pushtrain
from pushtrain.plumbing.state import StateFolder
from pushtrain.plumbing.store import Store


def verdict(state: StateFolder, capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    """The exit status, and what is said of the store."""
    status = pushtrain(["doctor", "--json", "--state", str(state.root)])
    (found,) = [one for one in json.loads(capsys.readouterr().out) if one["what"] == "store"]
    return status, found["verdict"], found["text"]


def test_a_damaged_store_is_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state = StateFolder(tmp_path).create()
    state.store.write_bytes(b"no store at all, but long enough to be taken for one" * 100)
    status, kind, text = verdict(state, capsys)
    assert (status, kind) == (14, "wrong")
    assert "damaged" in text


def test_a_sound_store_and_none_yet_are_well(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state = StateFolder(tmp_path).create()
    assert verdict(state, capsys)[1] == "note"
    Store(state.store).close()
    assert verdict(state, capsys)[1] == "ok"
