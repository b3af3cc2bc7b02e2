"""docs/security.md keeps its word: each part of the defence has rows, each row a test that exists."""

import re
import tomllib

import pytest

from page_rows import ROOT, functions_of, rows

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


DEFENCES = tomllib.loads((ROOT / "tests/defences.toml").read_text())["defence"]
UNSEEN: dict[str, str] = {
    "two jobs meet over the network": "each has namespaces of its own: there is no one thing to remove",
    "`.gitmodules` with `ext::`, options, `update = !command`, `include`, paths that lead out": (
        "git's list of protocols stands behind the check of the URL's form, and `.gitmodules` is only read"
    ),
}
"""Threats of which no test was seen to fail without its defence, and why."""


def test_every_defence_of_the_list_stands_where_it_is_said_to_and_has_a_test() -> None:
    for each in DEFENCES:
        assert set(each) == {"test", "file", "before", "after"}
        assert (ROOT / each["file"]).read_text().count(each["before"]) == 1, each
        assert each["before"] != each["after"]
        file, _, name = each["test"].partition("::")
        assert name in functions_of(file), each["test"]


def test_a_test_of_every_row_was_seen_to_fail_without_its_defence() -> None:
    """Whoever adds a row adds to `tests/defences.toml`, or says here why not."""
    listed = {each["test"] for each in DEFENCES}
    unseen = {row.threat for row in ROWS if not listed & {f"{file}::{name}" for file, name in row.tests}}
    assert unseen == UNSEEN.keys()


def test_the_page_says_of_how_many_tests_it_was_seen() -> None:
    """In round numbers, downwards: they grow with every row."""
    listed = {each["test"] for each in DEFENCES}
    named = {f"{file}::{name}" for row in ROWS for file, name in row.tests}
    said = re.search(r"(\d+) of every hundred", (ROOT / "docs/security.md").read_text())
    assert said
    assert int(said[1]) <= 100 * len(named & listed) // len(named)


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
    assert "test_that_nobody_wrote" not in functions_of("tests/core/wire/test_signing.py")
    assert functions_of("tests/core/test_that_is_not_there.py") == frozenset()
