"""A reader who goes away, a full disk behind `>`, no standard output at all: never a traceback."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

VERBS = (("schema",), ("--help",), ("doctor",), ("show", "--help"))


def call(verb: tuple[str, ...], state: Path, redirected: str) -> tuple[int, str]:
    words = [sys.executable, "-m", "pushtrain", *verb]
    done = subprocess.run(
        ["bash", "-c", f'"$@" {redirected}', "bash", *words],
        env={**os.environ, "PUSHTRAIN_STATE": str(state), "PYTHONUNBUFFERED": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    return done.returncode, done.stderr


@pytest.mark.parametrize("verb", VERBS)
def test_a_reader_that_goes_away_ends_the_verb_with_141_and_no_word(
    tmp_path: Path, verb: tuple[str, ...]
) -> None:
    code, said = call(verb, tmp_path, '| true; exit "${PIPESTATUS[0]}"')  # which is over before we have begun
    assert said == ""
    assert code == 141


@pytest.mark.parametrize("verb", VERBS)
def test_a_full_disk_behind_the_output_is_told_in_one_line(tmp_path: Path, verb: tuple[str, ...]) -> None:
    code, said = call(verb, tmp_path, ">/dev/full")
    assert code == 8
    assert said.count("\n") == 1
    assert "No space left on device" in said


@pytest.mark.parametrize("verb", VERBS)
def test_without_standard_output_a_verb_does_its_work(tmp_path: Path, verb: tuple[str, ...]) -> None:
    code, said = call(verb, tmp_path, ">&-")
    assert "Traceback" not in said
    assert code == 0


@pytest.mark.parametrize("verb", VERBS)
def test_a_terminal_that_knows_only_ascii_gets_marks_for_what_it_cannot_show(
    tmp_path: Path, verb: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    code, said = call(verb, tmp_path, "")
    assert said == ""
    assert code == 0
