"""Find the members of a JSON object in its text, without understanding their values.

Whoever edits one member of a shared file must leave the bytes of all others as they are, also of those that
he cannot read: numbers that no float holds, names that stand twice, things that are no JSON at all. Only
brackets and strings must be in balance.
"""

import json
import re
from dataclasses import dataclass
from typing import Final

_TOKEN: Final = re.compile(
    r'[ \t\r\n]*("[^"\\]*+(?:\\.[^"\\]*+)*+"|[{}\[\],:]|[^ \t\r\n{}\[\],:"]+)', re.DOTALL
)


class NoObject(ValueError):
    """The text is not an object, or its brackets and strings are not in balance."""


@dataclass(frozen=True, slots=True)
class Member:
    """One member: `text[name_at:]` begins with its name, `text[at:end]` is its value."""

    name: str
    name_at: int
    at: int
    end: int


def members(text: str, at: int = 0) -> tuple[Member, ...]:
    """The members of the object that begins at `at` (white space before it is passed over), in their order.

    Where it begins at 0, nothing but white space may follow it.

    Raises:
        NoObject: There is no such object.
    """
    word, place = _token(text, at)
    if word != "{":
        raise NoObject("it does not begin with `{`")
    found: list[Member] = []
    word, after = _token(text, place)
    while word != "}":
        if found:
            if word != ",":
                raise NoObject(f"`,` or `}}` is missing before {word[:20]!r}")
            word, after = _token(text, after)
        if not word.startswith('"'):
            raise NoObject(f"a name is missing before {word[:20]!r}")
        name_at = after - len(word)
        colon, place = _token(text, after)
        if colon != ":":
            raise NoObject(f"`:` is missing after {word[:20]}")
        first, end = _token(text, place)
        value_at = end - len(first)
        found.append(Member(_decoded(word), name_at, value_at, _end(text, first, end)))
        word, after = _token(text, found[-1].end)
    if at == 0 and text[after:].strip(" \t\r\n"):
        raise NoObject("something follows its end")
    return tuple(found)


def _token(text: str, at: int) -> tuple[str, int]:
    """The next token, and where it ends."""
    match = _TOKEN.match(text, at)
    if match is None:
        raise NoObject("it ends too early")
    return match[1], match.end()


def _end(text: str, first: str, at: int) -> int:
    """Where the value ends whose first token ends at `at`."""
    opened = first in {"{", "["}
    if not opened and first in {"}", "]", ",", ":"}:
        raise NoObject(f"a value is missing before {first!r}")
    depth = int(opened)
    while depth:
        word, at = _token(text, at)
        depth += (word in {"{", "["}) - (word in {"}", "]"})
    return at


def _decoded(token: str) -> str:
    try:
        return str(json.loads(token))
    except ValueError as error:
        raise NoObject(f"{token[:20]} is not a name") from error
