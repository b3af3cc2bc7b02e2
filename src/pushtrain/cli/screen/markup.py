"""Rich's console markup where nobody sees colours: escape it, take it off, and lay out a table, without rich.

To load rich and to have it lay out twenty rows takes a fifth of a short verb's time, so what goes into a pipe
or a file is written here: what rich would have written there, but that `:smile:` stays what it is.
"""

import re
from collections.abc import Iterable, Sequence
from typing import Final

_TAG: Final = re.compile(r"(\\*)(\[[a-z#/@][^[]*?])")
_GAP: Final = "   "


def escape(text: str) -> str:
    """Text in which no tag counts, as `rich.markup.escape` gives it."""
    text = _TAG.sub(lambda found: f"{found[1]}{found[1]}\\{found[2]}", text)
    return text + "\\" if text.endswith("\\") and not text.endswith("\\\\") else text


def bare(text: str) -> str:
    """What is left of markup when its tags have done their work."""
    if "[" not in text:
        return text
    parts, at = [], 0
    for found in _TAG.finditer(text):
        half, escaped = divmod(len(found[1]), 2)
        parts += [_plain(text[at : found.start()]), "\\" * half, _plain(found[2]) if escaped else ""]
        at = found.end()
    return "".join([*parts, _plain(text[at:])])


def _plain(text: str) -> str:
    """A bracket that begins no tag may have been escaped, too."""
    return text.replace("\\[", "[")


def lines(
    columns: Sequence[str], rows: Iterable[Sequence[str]], *, right: Sequence[str] = ()
) -> Iterable[str]:
    """A table as lines: a head, a rule, the rows; columns as wide as they need to be.

    Args:
        columns: Their titles.
        rows: Cells of one line each, bare.
        right: Titles of the columns whose cells stand at the right.
    """
    from rich.cells import cell_len  # lazy: only a table needs it

    filled = [list(row) for row in rows]
    widths = [max(map(cell_len, (title, *(row[at] for row in filled)))) for at, title in enumerate(columns)]

    def line(cells: Sequence[str]) -> str:
        parts = []
        for cell, width, title in zip(cells, widths, columns, strict=True):
            shown = cell.rstrip()
            space = " " * (width - cell_len(shown))
            parts.append(space + shown if title in right else shown + space)
        return _GAP.join(parts)

    yield line(columns)
    yield "─" * (sum(widths) + len(_GAP) * (len(widths) - 1))
    yield from map(line, filled)
