"""`pushtrain doctor` looks at the store, also while a server uses it."""

import json
import re
import time
from pathlib import Path

import pytest

from pushtrain.cli.app import run as pushtrain
from pushtrain.cli.screen import render
from pushtrain.core.lifecycle import Exited, Prepared, PublishFailed
from pushtrain.core.values.run import Run
from pushtrain.core.values.states import Reason
from pushtrain.plumbing.disk.state import StateFolder
from pushtrain.plumbing.sqlite.store import Store
from pushtrain.testing import SENDER, a_command


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


def test_damage_in_a_page_that_opening_the_store_does_not_read_is_found(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state = StateFolder(tmp_path).create()
    Store(state.store).close()
    whole = bytearray(state.store.read_bytes())
    last = len(whole) - 4096  # the page of an index or a table that no run is in yet
    whole[last : last + 16] = b"\xff" * 16
    state.store.write_bytes(whole)
    status, kind, text = verdict(state, capsys)
    assert (status, kind) == (14, "wrong")
    assert "damaged" in text
    assert "\n" not in text


def test_a_sound_store_and_none_yet_are_well(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state = StateFolder(tmp_path).create()
    assert verdict(state, capsys)[1] == "note"
    Store(state.store).close()
    assert verdict(state, capsys)[1] == "ok"


def pending(state: StateFolder, why: str) -> Run:
    """A run whose results could not be published."""
    store, command = Store(state.store), a_command()
    raw = command.model_dump_json().encode()
    store.accept(command, sender=SENDER, raw=raw, headers={}, nonce="n", nonce_expires=2e9, queue_limit=1)
    claimed = store.claim(slots=1, gpus=(), executor="lab")
    assert claimed
    run = claimed[0]
    store.advance(run.id, Prepared(), token=run.token)
    store.advance(run.id, Exited(Reason.EXITED, 0), token=run.token)
    kept = store.advance(run.id, PublishFailed(why, time.time() + 300))
    store.close()
    return kept


def test_results_that_could_not_be_published_are_told_by_ps_show_and_doctor(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    render.console.cache_clear()
    state = StateFolder(tmp_path).create()
    run = pending(state, "git could not push: The requested URL returned error: 403.")
    assert pushtrain(["ps", "--state", str(tmp_path)]) == 0
    assert "succeeded, publish pending" in capsys.readouterr().out
    assert pushtrain(["show", run.short, "--state", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert re.search("waits .*returned error: 403", said)
    assert re.search("next try .*in 5 min, after 1 that failed; what is there is kept", said)
    assert pushtrain(["doctor", "--json", "--state", str(tmp_path)]) == 14
    (found,) = [one for one in json.loads(capsys.readouterr().out) if one["what"] == "publishing"]
    assert found["verdict"] == "wrong"
    assert re.match("pending for 1 run, kept and tried again: .*403", found["text"])
