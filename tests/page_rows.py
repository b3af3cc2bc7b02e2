"""Pages that promise: tables whose every row names the tests that show it."""

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Row:
    """What may happen, what comes of it, and the tests that try it."""

    part: str
    threat: str
    behaviour: str
    tests: tuple[tuple[str, str], ...]
    """File and function."""


def rows(text: str, head: tuple[str, str, str] = ("threat", "behaviour", "test")) -> Iterator[Row]:
    """The rows of every section; a table of another form fails."""
    part = ""
    for line in text.splitlines():
        if line.startswith("## "):
            part = line.removeprefix("## ")
        if not line.startswith("|"):
            continue
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        if tuple(cells) == head or set(line) <= set("|-"):
            continue
        assert len(cells) == len(head), f"a row of another form: {line}"
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
