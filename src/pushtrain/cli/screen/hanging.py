"""Wrap a line for people under its own beginning, so that a column of words stays a column.

What stands between backticks is a command or a name, and is never broken: somebody copies it. One that is too
long for a line gets a line of its own, from the margin on and without the backticks; the terminal breaks it,
which copying undoes.
"""

import re
from collections.abc import Iterator
from typing import Final

MARGIN: Final = 2
_LEAST: Final = 24
"""Columns beside which nothing can be told well; then nothing is wrapped."""
_PIECES: Final = re.compile(r"[^\s`]*`[^`]*`[^\s`]*|\S+")
"""A word, or a span between backticks with what clings to it."""
_NAME: Final = re.compile(r"(?: *[^\s`]{1,20}(?: [^\s`]{1,20}){0,2} {2,}| +|)")
"""A name of a few words with a gap behind it, or an indent."""
_COMMAND: Final = re.compile(r"`([^`]*)`[.,;]?")


def hang(head: str, text: str, *, width: int | None) -> list[str]:
    """The lines of `head` and then `text`, each under the text's first.

    Args:
        head: What stands before the text, once.
        text: Words; white space between them counts as one blank, but not between backticks.
        width: Columns of the terminal; None: there is none, and one line is made.
    """
    indent = len(head)
    if width is None or width - indent < _LEAST:
        return [f"{head}{text}"]
    lines = [_placed(line, indent, width) for line in _lines(text, width - indent)]
    if lines and len(lines[0]) <= width and lines[0].startswith(" " * indent):
        return [head + lines[0][indent:], *lines[1:]]
    return [head.rstrip(), *lines]


def broken(text: str, width: int) -> list[tuple[int, int, int]]:
    """Where a line is broken so that no word is: the indent, the beginning and the end of each part.

    What follows a name and a gap stays beside the name, if there is room for it. A piece that is too long for
    a line is left whole: the terminal breaks it, which copying undoes.
    """
    beside = len(_NAME.match(text)[0])  # type: ignore[index]  # it matches nothing, too
    indent = beside if width - beside >= _LEAST else MARGIN
    parts: list[tuple[int, int, int]] = []
    start = end = 0
    for piece in _PIECES.finditer(text, beside):
        room = width - (indent if parts else 0)
        if end > start and piece.end() - start > room and end > beside:
            parts.append((indent if parts else 0, start, end))
            start = piece.start()
        end = piece.end()
    return [*parts, (indent if parts else 0, start, len(text))]


def _placed(line: str, indent: int, width: int) -> str:
    """A line under the first one; a command that does not fit there begins at the margin."""
    if len(line) <= width - indent:
        return " " * indent + line
    command = _COMMAND.fullmatch(line)
    return " " * MARGIN + (command[1] if command else line)


def _lines(text: str, room: int) -> Iterator[str]:
    line = ""
    for piece in _PIECES.findall(text):
        if line and len(line) + 1 + len(piece) > room:
            yield line
            line = ""
        line = f"{line} {piece}" if line else piece
    if line:
        yield line
