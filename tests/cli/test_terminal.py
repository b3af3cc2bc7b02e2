"""A terminal obeys what it is shown; what comes from jobs, repositories and machines must steer none."""

import json
import logging
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pushtrain.cli.screen import render
from pushtrain.cli.screen.safelog import SafeFormatter
from pushtrain.cli.screen.terminal import LogFilter, clean
from pushtrain.core.errors import GitError, fit

OBEYED = re.compile(
    r"\x1b(?!\[[0-9;:]*m|\[[0-2]?K)|[\x00-\x07\x0b\x0c\x0e-\x1a\x1c-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]"
)
ATTACKS = [
    "\x1b]0;new title\x07",
    "\x1b]52;c;ZXZpbA==\x07",
    "\x1b]8;;https://evil.example\x1b\\click\x1b]8;;\x1b\\",
    "\x1b[2J\x1b[H$ rm -rf ~",
    "\x1b[100A\x1b[2Kforged line",
    "\x1b[6n",
    "\x1b[c",
    "\x1bP+q544e\x1b\\",
    "\x1b[?1049h",
    "\x1b[5i",
    "\x1bc",
    "\x1b[201~",
    "\x9b2J",
    "\x9d0;title\x9c",
    "\u202egnp.exe",
    "\x0e\x0f",
]


def through(*pieces: bytes) -> str:
    passing = LogFilter()
    return "".join([*(passing.feed(piece) for piece in pieces), passing.end()])


@pytest.mark.parametrize("attack", ATTACKS, ids=ascii)
def test_a_log_on_a_terminal_colours_and_rewrites_its_own_line_and_does_no_more(attack: str) -> None:
    shown = through(f"before {attack} after\n".encode())
    assert not OBEYED.search(shown)
    assert shown.startswith("before ")
    assert "after\n" in shown
    for at in range(1, len(attack.encode())):  # wherever the pieces are cut
        raw = attack.encode()
        assert not OBEYED.search(through(raw[:at], raw[at:]))


def test_colours_and_progress_bars_come_through_and_colours_end_with_the_log() -> None:
    bar = b"\x1b[32mtrain\x1b[0m  10%|#   |\r\x1b[Ktrain  20%|##  |\b\b\ttab\n"
    assert through(bar) == bar.decode() + "\x1b[0m"
    assert through(b"plain\n") == "plain\n"


@given(st.lists(st.one_of(st.binary(max_size=30), st.sampled_from(ATTACKS).map(str.encode)), max_size=8))
def test_whatever_a_job_writes_and_however_it_is_cut_nothing_steers_the_terminal(pieces: list[bytes]) -> None:
    assert not OBEYED.search(through(*pieces))


def test_a_sequence_without_end_holds_back_no_more_than_a_screen() -> None:
    passing = LogFilter()
    shown = "".join(passing.feed(piece) for piece in (b"\x1b]0;", b"x" * 10_000, b"visible"))
    assert shown.endswith("visible")


@given(st.text())
def test_an_error_can_be_shown_sent_and_stored_whatever_it_repeats(text: str) -> None:
    error = GitError(f"remote: {text}", mend=text)
    for part in (error.message, error.mend, str(error)):
        part.encode()
        assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", part)
    assert fit("plain ü\n\t") == "plain ü\n\t"


@pytest.mark.parametrize("attack", ATTACKS, ids=ascii)
def test_nothing_that_a_verb_prints_steers_the_terminal(
    attack: str, capsys: pytest.CaptureFixture[str]
) -> None:
    render.plain(f"plain {attack}")
    render.say(f"said {render.literal(attack)}")
    render.note(f"noted {attack}")
    render.error(f"wrong {attack}", f"mend {attack}")
    render.error(f"wrong {attack}", as_json=True)
    render.emit_json({"name": attack})
    out, err = capsys.readouterr()
    for text in (out, err):
        assert "\x1b" not in text
        assert not OBEYED.search(text)
    assert json.loads(out[out.index("{") :])["name"] == attack
    line = SafeFormatter("%(message)s").format(logging.makeLogRecord({"msg": f"run {attack}"}))
    assert line == clean(f"run {attack}")
    assert "\x1b" not in line
