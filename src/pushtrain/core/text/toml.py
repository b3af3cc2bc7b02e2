"""TOML that a stranger wrote, read without harm.

`tomllib` takes time and memory that grow with the square of a dotted key's length (a key of 100,000 parts,
200 kB of text, took 40 GB), recurses into what is nested, and gives numbers of any length that nothing can
print. What no honest file has is refused before or right after it is read. Pure.
"""

import re
import tomllib
from collections.abc import Iterable
from typing import Any, Final

_DEEPEST: Final = 64
_LONG_KEY: Final = re.compile(
    r"""(?<![\w-])(?:(?:[A-Za-z0-9_-]++|"[^"\n]*+"|'[^'\n]*+')[ \t]*+\.[ \t]*+){32}"""
)
_WIDEST: Final = 128
"""Bits of a whole number."""


def loads(text: str) -> dict[str, Any]:
    """The document.

    Raises:
        ValueError: It is not TOML, or holds what is refused here.
        RecursionError: It is nested too deeply.
    """
    if _LONG_KEY.search(text):
        raise RecursionError("a key of too many parts")
    document = tomllib.loads(text)
    level: list[object] = [document]
    for _ in range(_DEEPEST):
        level = [item for one in level for item in _below(one)]
        if any(isinstance(item, int) and item.bit_length() > _WIDEST for item in level):
            raise ValueError("a number has too many digits")
        if not level:
            return document
    raise RecursionError("nested too deeply")


def _below(value: object) -> Iterable[object]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()
