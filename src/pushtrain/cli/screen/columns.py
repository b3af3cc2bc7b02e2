"""How a table that is too wide for the terminal is told all the same, without a word being broken.

First the columns with nothing in them go; then the last column is wrapped, where a few lines do; then columns
leave the table, each row's below the row, under their names. What fits is left as it is. Pure.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

_WIDE: Final = 3
_NARROW: Final = 2
_LEAST: Final = 16
"""Columns that a wrapped column has at least."""
_MOST_LINES: Final = 3


@dataclass(frozen=True, slots=True)
class Layout:
    """What stands where."""

    kept: tuple[int, ...]
    """Columns of the table."""
    widths: tuple[int, ...]
    """How wide each of them is."""
    below: tuple[int, ...] = ()
    """Columns that stand below each row."""
    wrapped: int | None = None
    """The one that may be wrapped."""
    gap: int = _WIDE
    """Blanks between two columns."""


def layout(titles: Sequence[str], rows: Sequence[Sequence[str]], width: int | None) -> Layout:
    """Where the columns of a table go.

    Args:
        titles: What stands above each column.
        rows: What is in them, as it is shown.
        width: Columns of the terminal; None: there is none, and all are kept.
    """
    every = tuple(range(len(titles)))
    widths = [max(len(titles[at]), *(len(row[at]) for row in rows), 0) for at in every]

    def needed(kept: Sequence[int], gap: int) -> int:
        return sum(widths[at] for at in kept) + gap * (len(kept) - 1)

    def made(kept: Sequence[int], below: Sequence[int] = (), **more: int) -> Layout:
        return Layout(tuple(kept), tuple(widths[at] for at in kept), tuple(below), **more)

    if width is None or needed(every, _WIDE) <= width:
        return made(every)
    kept = tuple(at for at in every if at == 0 or any(row[at] for row in rows))
    for gap in (_WIDE, _NARROW):
        if needed(kept, gap) <= width:
            return made(kept, gap=gap)
    below: tuple[int, ...] = ()
    while needed(kept, _NARROW) > width and len(kept) > 1:
        last = kept[-1]
        room = width - needed(kept, _NARROW) + widths[last]
        if room >= _LEAST and _lines([row[last] for row in rows], room) <= _MOST_LINES:
            widths[last] = room
            return made(kept, below, wrapped=last, gap=_NARROW)
        gone = _goes(kept, widths, needed(kept, _NARROW) - width)
        kept = tuple(at for at in kept if at != gone)
        below = tuple(sorted((*below, gone)))
    return made(kept, below, gap=_NARROW)


def _goes(kept: Sequence[int], widths: Sequence[int], over: int) -> int:
    """Which column leaves: the last that is enough, else the widest; never the first, which names the row."""
    others = kept[1:]
    enough = [at for at in others if widths[at] + _NARROW >= over]
    return enough[-1] if enough else max(others, key=lambda at: widths[at])


def _lines(texts: Sequence[str], room: int) -> int:
    """The most lines that one of these takes; more than are allowed where a word does not fit."""
    most = 1
    for text in texts:
        lines, used = 1, 0
        for word in text.split():
            if len(word) > room:
                return _MOST_LINES + 1
            if used and used + 1 + len(word) > room:
                lines, used = lines + 1, 0
            used += len(word) + (1 if used else 0)
        most = max(most, lines)
    return most
