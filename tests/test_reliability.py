"""docs/reliability.md keeps its word: each promise has rows, each row a test that exists."""

from page_rows import ROOT, functions_of, rows

PAGE = (ROOT / "docs/reliability.md").read_text()
ROWS = list(rows(PAGE, ("what happens to the machine", "what comes of it", "test")))


def test_every_promise_has_rows() -> None:
    promises = [line.removeprefix("## ") for line in PAGE.splitlines() if line.startswith("## ")]
    assert list(dict.fromkeys(row.part for row in ROWS)) == promises


def test_every_test_that_is_named_exists() -> None:
    named = {test for row in ROWS for test in row.tests}
    assert sorted(f"{file}::{name}" for file, name in named if name not in functions_of(file)) == []
