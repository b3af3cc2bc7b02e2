"""Which Python an environment gets, decided from files alone.

In this order: the job's `python`, the repository's `.python-version`, the executor's own Python where the
project allows it, else whatever `requires-python` allows. uv finds the interpreter, or downloads it
(`UV_PYTHON_DOWNLOADS`).
"""

import os
import re
import sys
from dataclasses import dataclass
from functools import cache
from itertools import zip_longest
from pathlib import Path
from typing import Final

from pushtrain.adapters.environments.site import read

_CLAUSE: Final = re.compile(r"\s*(~=|===|==|!=|<=|>=|<|>)\s*v?(\d+(?:\.\d+)*)(\.\*)?\s*")
_PINNED: Final = re.compile(r"\d+(\.\d+){0,2}")


@dataclass(frozen=True, slots=True)
class Interpreter:
    """A Python to be asked for."""

    request: str
    """What uv understands: a version, a range, or a path."""
    title: str
    """For people."""
    identity: str
    """What of it belongs into a key."""


def choose(tree: Path, folder: Path, *, asked: str, requires: str) -> Interpreter:
    """The Python for an environment.

    Args:
        tree: The checked-out commit.
        folder: Where the project's file is, in the tree.
        asked: The job's `python`.
        requires: The project's `requires-python`.
    """
    wanted = asked or _pinned(tree, folder)
    if wanted:
        return (
            own()
            if fits(f"=={wanted}.*") or fits(f"=={wanted}")
            else Interpreter(wanted, f"Python {wanted}", wanted)
        )
    if not requires or fits(requires):
        return own()
    return Interpreter(requires, f"Python {requires}", requires)


@cache
def own() -> Interpreter:
    """The interpreter that the executor itself runs on, outside of its virtual environment."""
    number = f"{sys.version_info[0]}.{sys.version_info[1]}"
    names = (f"python{number}", "python3", "python")
    found = next((path for name in names if (path := Path(sys.base_prefix, "bin", name)).exists()), None)
    path = found or Path(sys.executable)
    real = path.resolve()
    return Interpreter(str(path), f"Python {number}", f"{real} {sys.version} {real.stat().st_size}")


def fits(requires: str, version: tuple[int, ...] = tuple(sys.version_info[:3])) -> bool:
    """Whether a version of Python satisfies a specifier such as `>=3.11,<3.14` (PEP 440, releases only).

    What is not understood does not fit; uv then decides.
    """
    return all(_holds(clause, version) for clause in requires.split(",") if clause.strip())


def _holds(clause: str, version: tuple[int, ...]) -> bool:
    found = _CLAUSE.fullmatch(clause)
    if found is None:
        return False
    sign, numbers, star = found.groups()
    bound = tuple(map(int, numbers.split(".")))
    compared = _compare(version, bound)
    prefix = version[: len(bound)] == bound
    return {
        "==": prefix if star else compared == 0,
        "===": compared == 0,
        "!=": not prefix if star else compared != 0,
        "<=": compared <= 0,
        ">=": compared >= 0,
        "<": compared < 0,
        ">": compared > 0,
        "~=": compared >= 0 and version[: len(bound) - 1] == bound[:-1],
    }[sign]


def _compare(one: tuple[int, ...], other: tuple[int, ...]) -> int:
    for left, right in zip_longest(one, other, fillvalue=0):
        if left != right:
            return -1 if left < right else 1
    return 0


def _pinned(tree: Path, folder: Path) -> str:
    """The version in `.python-version`, beside the project's file or at the root; or nothing."""
    for place in dict.fromkeys((folder, tree)):
        content = read(tree, os.path.relpath(place / ".python-version", tree))
        for line in (content or b"").decode("utf-8", "replace").splitlines():
            if _PINNED.fullmatch(line.strip()):
                return line.strip()
    return ""
