"""docs/security.md keeps its word: each part of the defence has rows, each row a test that exists."""

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PARTS = {
    1: "Keys and enrolment",
    2: "Requests",
    3: "The roster cannot redirect",
    4: "The owner's rules",
    5: "Isolation",
    6: "Hostile repositories",
    7: "Data URLs",
    8: "Secrets",
}
HEAD = ["threat", "behaviour", "test"]


@dataclass(frozen=True)
class Row:
    """A threat, what happens, and the tests that try it."""

    part: str
    threat: str
    behaviour: str
    tests: tuple[tuple[str, str], ...]
    """File and function."""


def rows(text: str) -> Iterator[Row]:
    """The rows of every section; a table of another form fails."""
    part = ""
    for line in text.splitlines():
        if line.startswith("## "):
            part = line.removeprefix("## ")
        if not line.startswith("|"):
            continue
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        if cells == HEAD or set(line) <= set("|-"):
            continue
        assert len(cells) == len(HEAD), f"a row of another form: {line}"
        names = cells[2].split("<br>")
        found = [re.fullmatch(r"`(tests/[\w/]+\.py)::(test_\w+)`", name) for name in names]
        assert all(found), f"no `tests/…/test_x.py::test_y`: {cells[2]}"
        yield Row(part, cells[0], cells[1], tuple((name[1], name[2]) for name in found if name))


@cache
def functions_of(file: str) -> frozenset[str]:
    """The test functions of a file that pytest collects."""
    path = ROOT / file
    if not path.is_file() or not path.name.startswith("test_"):
        return frozenset()
    tree = ast.parse(path.read_text())
    found = [tree.body, *(each.body for each in tree.body if isinstance(each, ast.ClassDef))]
    return frozenset(
        each.name
        for body in found
        for each in body
        if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef)
    )


ROWS = list(rows((ROOT / "docs/security.md").read_text()))


def test_every_part_of_the_defence_has_a_section_with_rows() -> None:
    wanted = [f"{number}. {title}" for number, title in PARTS.items()]
    assert list(dict.fromkeys(row.part for row in ROWS)) == wanted


def test_every_row_says_what_is_tried_and_what_happens() -> None:
    assert [row for row in ROWS if not row.threat or not row.behaviour] == []
    threats = [row.threat for row in ROWS]
    assert [threat for threat in threats if threats.count(threat) > 1] == []


def test_every_test_that_is_named_exists() -> None:
    named = {test for row in ROWS for test in row.tests}
    assert sorted(f"{file}::{name}" for file, name in named if name not in functions_of(file)) == []


@pytest.mark.parametrize(
    "row",
    [
        "| a threat | what happens | |",
        "| a threat | what happens | `test_x` |",
        "| a threat | what happens |",
        "| a threat | what happens | `tests/core/test_x.py::test_y` and more |",
    ],
)
def test_a_row_without_a_test_is_seen(row: str) -> None:
    with pytest.raises(AssertionError):
        list(rows(f"## 1. Keys\n\n{row}\n"))


def test_a_test_that_is_not_there_is_seen() -> None:
    assert "test_that_nobody_wrote" not in functions_of("tests/core/test_signing.py")
    assert functions_of("tests/core/test_that_is_not_there.py") == frozenset()
