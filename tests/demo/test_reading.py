"""What a terminal makes of a report that was written for GitHub."""

import json
from io import StringIO

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from pushtrain.demo.curve import curve
from pushtrain.demo.reading import last_value, readable
from pushtrain.demo.screen import Screen
from pushtrain.executor.results import markdown as md
from pushtrain.executor.results.wording import duration

METRICS = json.dumps(
    {
        "version": 1,
        "series": [
            {"name": "loss", "steps": [1, 2, 3], "values": [2.0, None, 0.5], "points": 3},
            {"name": "accuracy", "steps": [1], "values": [0.25], "points": 1},
        ],
    }
)


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=200), st.integers(1, 90), st.integers(1, 12))
def test_a_curve_has_its_size_whatever_it_shows(values: list[float], width: int, height: int) -> None:
    title, *rows = curve("x", values, width=width, height=height).splitlines()
    assert "x: " in title
    assert len(rows) == height
    drawn = [row.split("┤" if "┤" in row else "│", 1)[1] for row in rows]
    assert max(map(len, drawn)) <= width
    assert all(0x2800 <= ord(sign) <= 0x28FF or sign == " " for row in drawn for sign in row)
    assert any(row.strip() for row in drawn)


def test_a_curve_begins_and_ends_where_its_values_do() -> None:
    title, first, *_, last = curve("loss", [4, 1], width=4, height=3).splitlines()
    assert title.strip() == "loss: 4 → 1"
    assert first == "4 ┤⠱⡀"
    assert last.startswith("1 ┤")
    assert last.rstrip()[-1] != "┤"


def test_html_becomes_markdown_and_pictures_become_curves() -> None:
    report = "\n".join(
        [
            "# ✅ succeeded · train",
            '<p>\n<img src="plots/loss.svg" alt="loss" width="410">\n</p>',
            md.table(("Command", md.code("a | b *c*")), [("x", md.link("`y`", "files/y"))]),
            md.details("Last 2 lines of 20 B", md.block("folded </details> away\n", "text")),
            md.details("Last 9 lines", md.block("<p>\nplain <code> stays\n", "text"), opened=True),
            "<sub>Run `1` · [here](https://example.org)</sub>",
        ]
    )
    shown = readable(report, METRICS)
    assert "loss: 2 → 0.5" in shown
    assert "accuracy" not in shown
    assert "▸ Last 2 lines of 20 B" in shown
    assert "away" not in shown
    assert "**Last 9 lines**" in shown
    assert "<p>\nplain <code> stays" in shown
    assert "`a \\| b *c*`" in shown
    assert "| x | `y` |" in shown
    assert "Run `1` · here" in shown
    assert not {"<img", "<details", "<sub", "summary>"} & {word.split(">")[0] for word in shown.split()}


def test_a_report_without_metrics_has_no_curves() -> None:
    assert readable("<p>\n<img src='x'>\n</p>\nafter").strip() == "after"


@pytest.mark.parametrize(("name", "value"), [("loss", 0.5), ("accuracy", 0.25), ("other", None)])
def test_the_last_value_is_the_last_finite_one(name: str, value: float | None) -> None:
    assert last_value(METRICS, name) == value


def _told(**options: bool) -> str:
    out = StringIO()
    screen = Screen(file=out, **options)
    screen.title("pushtrain demo", "below")
    screen.chapter("A part")
    screen.fact("host", "http://127.0.0.1")
    with screen.watching():
        screen.working("git push")
        screen.stage("push", 0.25, "a note [not markup]")
        for number in range(20):
            screen.output(f"epoch {number} [bold]")
        screen.output_ended("`pushtrain logs 1`")
    screen.change("a = 1", "a = 2")
    screen.table(("", "first"), [("push", "1 s")])
    screen.report("# Title\n\n| a | b |\n|---|---|\n| 1 | 2 |\n")
    screen.say("[bold]the end[/]")
    return out.getvalue()


def test_without_a_terminal_every_line_is_plain_and_complete() -> None:
    told = _told()
    assert "\x1b" not in told
    assert "\r" not in told
    assert "✓ push" in told
    assert duration(0.25) in told
    assert "a note [not markup]" in told
    assert [line for line in told.splitlines() if "epoch" in line] == [
        f"  │ epoch {number} [bold]" for number in range(20)
    ]
    assert told.endswith("the end\n")


def test_a_quiet_screen_shows_nothing() -> None:
    assert _told(quiet=True) == ""


def test_on_a_terminal_the_end_of_the_output_stays_and_the_rest_is_pointed_at(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    told = _told()
    plain = Console(file=StringIO(), force_terminal=False)
    assert plain.is_terminal is False
    assert "17 lines before" in told
    assert "epoch 19 [bold]" in told
    assert told.endswith("the end\x1b[0m\n")
