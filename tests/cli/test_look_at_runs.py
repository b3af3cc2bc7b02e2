"""`pushtrain ps` and `show` print what a job is named, whatever that is: it comes from outside."""

import time
from typing import Any

import pytest

from pushtrain.cli import logs, ps, show
from pushtrain.cli.find import Found, Heard
from pushtrain.cli.ps import standing
from pushtrain.cli.screen import render
from pushtrain.core.errors import NotFound
from pushtrain.core.values.run import Artifact, Progress, RunView
from pushtrain.core.values.states import Outcome, Reason, Stage, State
from pushtrain.executor.results import segments
from pushtrain.executor.results.wording import headline
from pushtrain.plumbing.http.client import ExecutorClient
from pushtrain.testing import NOON, a_command, a_run, a_spec, an_attempt

HOSTILE = "[/b] [red]x \x1b[31m"


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    render.console.cache_clear()


def view() -> RunView:
    run = a_run(a_command(job=a_spec(cell={"n": HOSTILE})), waiting_for=HOSTILE, state=State.PUBLISHING)
    files = (
        Artifact(path="out/[/b].bin", size=1, sha256="0" * 64, where="git"),
        Artifact(path="kept.pt", size=1, sha256="0" * 64, where="executor", until=NOON),
        Artifact(path="[x]", size=1, sha256="0" * 64, where="refused", why="[/why]"),
    )
    return RunView(run=run, artifacts=files, progress=Progress(stage=Stage.DATA, text="[/data]"))


def test_a_run_whose_name_looks_like_markup_is_listed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    nobody: ExecutorClient = object.__new__(ExecutorClient)
    monkeypatch.setattr(ps, "find_runs", lambda *_, **__: Heard(((nobody, view().run),), ()))
    ps.ps()
    said = capsys.readouterr().out
    assert "[/b] [red]x" in said
    assert "\x1b" not in said


def test_runs_that_are_not_listed_are_not_passed_over_in_silence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    nobody: ExecutorClient = object.__new__(ExecutorClient)
    there = [a_run(a_command(request=str(number)), accepted_at=NOON + number) for number in range(4)]

    def found(*_: object, limit: int) -> Heard:
        return Heard(tuple((nobody, run) for run in reversed(there))[:limit], ())

    monkeypatch.setattr(ps, "find_runs", found)
    ps.ps(limit=3)
    said = capsys.readouterr()
    assert [run.short in said.out for run in there] == [False, True, True, True]
    assert said.err == "pushtrain: There are more: `--limit 30` lists up to 30.\n"
    ps.ps(limit=4)
    said = capsys.readouterr()
    assert all(run.short in said.out for run in there)
    assert not said.err


def test_a_run_whose_files_look_like_markup_is_shown(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Found:
        view = view()

    monkeypatch.setattr(show, "find_anywhere", lambda *_: Found)
    show.show()
    said = capsys.readouterr().out
    assert "out/[/b].bin  1 B  in Git" in said
    assert "kept.pt  1 B  on the executor until 2026-" in said
    assert "[x]  1 B  refused: [/why]" in said
    assert "[/data]" in said
    assert "waits      [/b]" in said
    assert "\x1b" not in said


def test_a_run_that_waits_to_go_on_says_how_its_first_attempt_ended(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = a_run(state=State.QUEUED, attempt=1)
    ended = an_attempt(run, reason=Reason.CHECKPOINTED, exit_code=85, detail="The owner needs it.")

    class Found:
        view = RunView(run=run, attempts=(ended,))

    monkeypatch.setattr(show, "find_anywhere", lambda *_: Found)
    show.show()
    assert "ended       checkpointed: The owner needs it." in capsys.readouterr().out


def test_a_night_of_tries_without_a_network_is_told_in_a_few_lines(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = a_run(state=State.QUEUED, attempt=40, not_before=time.time() + 300)
    lost = an_attempt(run, number=1, reason=Reason.LOST)
    vain = [an_attempt(run, number=number, reason=Reason.UNREACHABLE) for number in range(2, 41)]

    class Found:
        view = RunView(run=run, attempts=(lost, *vain))

    monkeypatch.setattr(show, "find_anywhere", lambda *_: Found)
    show.show()
    said = capsys.readouterr().out
    assert "… 37 more like it" in said
    assert ("attempt 2" in said, "attempt 3" in said, "attempt 40" in said) == (True, False, True)
    assert "next try   in " in said
    report = segments.told([segments.segment(one) for one in (lost, *vain)])
    assert "37 more like it" in report
    assert len(report.splitlines()) == 8


@pytest.mark.parametrize(
    ("times", "took"),
    [
        ({"state": State.QUEUED}, ""),
        ({"state": State.RUNNING, "started_at": NOON + 100}, "50.0 s"),
        (
            {"state": State.DONE, "started_at": NOON + 100, "ended_at": NOON + 102, "done_at": NOON + 110},
            "2.0 s",
        ),
    ],
)
def test_a_run_took_the_time_of_its_attempt_without_the_queue(times: dict[str, Any], took: str) -> None:
    assert ps.row(a_run(accepted_at=NOON, **times), NOON + 150)[-1] == took


@pytest.mark.parametrize("attempt", [-1, 9])
def test_the_log_of_an_attempt_that_never_was_is_an_error(
    monkeypatch: pytest.MonkeyPatch, attempt: int
) -> None:
    nobody: ExecutorClient = object.__new__(ExecutorClient)
    found = Found(nobody, RunView(run=a_run(state=State.RUNNING, attempt=1)))
    monkeypatch.setattr(logs, "find_anywhere", lambda *_: found)
    with pytest.raises(NotFound, match=f"has no attempt {attempt}"):
        logs.logs(attempt=attempt)


def test_a_timeout_is_worded_as_in_the_report() -> None:
    run = a_run(state=State.DONE, outcome=Outcome.FAILED, reason=Reason.TIMEOUT)
    assert standing(run) == "[red]failed (timeout)[/]"
    assert headline(run).endswith(" failed (timeout)")


def test_a_possible_duplicate_is_named_so() -> None:
    command = a_command().model_copy(update={"possible_duplicate": True})
    assert standing(a_run(command)).endswith(", possible duplicate")
    done = a_run(command, state=State.DONE, outcome=Outcome.SUCCEEDED)
    assert standing(done).endswith(", possible duplicate")
    assert "duplicate" not in standing(a_run())


def test_what_is_no_letter_is_shown_as_a_mark() -> None:
    assert render.literal("a\x9bb\rc") == "a\ufffdb\ufffdc"
    assert render.ago(NOON, NOON) == "0 s ago"


def test_an_id_stays_whole_on_a_narrow_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    render.console.cache_clear()
    row = ("0123abcd", "train (lr=0.1)", "1234567", "main", "succeeded", "12 min ago", "4 m 05 s")
    render.table(("run", "job", "commit", "branch", "state", "age", "took"), [row])
    assert "0123abcd" in capsys.readouterr().out


def test_a_table_that_is_piped_has_one_line_a_row(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("COLUMNS")
    render.console.cache_clear()
    render.table(("run", "job"), [("x", "word " * 60)])
    assert len(capsys.readouterr().out.splitlines()) == 3


@pytest.mark.usefixtures("capsys")
def test_colours_that_are_asked_for_in_a_pipe_are_no_terminal_whose_width_counts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("COLUMNS")
    monkeypatch.setenv("FORCE_COLOR", "1")
    render.console.cache_clear()
    assert render.console().is_terminal
    assert render.width() is None
    monkeypatch.setenv("COLUMNS", "60")
    render.console.cache_clear()
    assert render.width() == 60
    render.console.cache_clear()
