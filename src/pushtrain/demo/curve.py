"""A curve in a terminal: one metric over steps, drawn with braille dots. Pure."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Final

_LEFT: Final = (0x01, 0x02, 0x04, 0x40)
_RIGHT: Final = (0x08, 0x10, 0x20, 0x80)
"""The bits of a braille character's two columns, from the top (Unicode, block 2800)."""
_BLANK: Final = 0x2800


def curve(title: str, values: Sequence[float], *, width: int = 60, height: int = 5) -> str:
    """The values as a line, with the greatest and the least beside it.

    Args:
        title: Stands above.
        values: At equal distances; at least one.
        width: Characters of the drawing, without the numbers at its left.
        height: Rows of the drawing.
    """
    least, greatest = min(values), max(values)
    across, down = 2 * width - 1, 4 * height - 1
    span = (greatest - least) or 1.0
    last = max(1, len(values) - 1)
    points = [
        (round(across * number / last), round(down * (greatest - value) / span))
        for number, value in enumerate(values)
    ]
    cells = [[0] * width for _ in range(height)]
    for (left, start), (right, end) in pairwise([*points, points[-1]]):
        for column in range(left, right + 1):
            row = start if right == left else start + (end - start) * (column - left) / (right - left)
            _dot(cells, column, round(row))
        for row in range(min(start, end), max(start, end) + 1):  # a steep line has no gaps
            part = (row - start) / (end - start) if end != start else 0
            _dot(cells, round(left + (right - left) * part), row)
    marks = {0: _short(greatest), height - 1: _short(least)}
    room = max(map(len, marks.values()))
    lines = [
        f"{marks.get(number, ''):>{room}} {'┤' if number in marks else '│'}"
        + "".join(chr(_BLANK + bits) if bits else " " for bits in row).rstrip()
        for number, row in enumerate(cells)
    ]
    return "\n".join([f"{'':{room}} {title}: {_short(values[0])} → {_short(values[-1])}", *lines])


def _dot(cells: list[list[int]], column: int, row: int) -> None:
    side = _RIGHT if column % 2 else _LEFT
    cells[row // 4][column // 2] |= side[row % 4]


def _short(value: float) -> str:
    return f"{value:.3g}"
