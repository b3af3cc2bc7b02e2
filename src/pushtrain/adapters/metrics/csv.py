"""A table of metrics with a header and one row a step, as the CSVLoggers of Lightning and Keras write it.

The axis is the first of `step`, `global_step`, `iteration`, `epoch` (and their like) among the columns;
without one, the row's number. Empty and non-numeric cells are passed over.
"""

import csv
import io
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import IO, Final

from pushtrain.adapters.metrics import LARGEST, STEP_NAMES, Points
from pushtrain.ports import Series

_NAMES: Final = {"history", "progress", "training_log", "train_log", "log", "losses", "results"}
_WIDEST: Final = 500


class Csv:
    """Metrics as comma- or tab-separated values."""

    def fits(self, path: Path) -> bool:
        """`metrics.csv`, `history.csv` and names like them."""
        stem = path.stem.lower()
        return path.suffix.lower() in {".csv", ".tsv"} and ("metric" in stem or stem in _NAMES)

    def read(self, path: Path, content: IO[bytes]) -> list[Series]:
        """All numeric columns of the file, but the axis."""
        text = io.TextIOWrapper(content, encoding="utf-8-sig", errors="replace", newline="")
        try:
            return _series(
                csv.reader(_bounded(text), delimiter="\t" if path.suffix.lower() == ".tsv" else ",")
            )
        finally:
            text.detach()  # the file is the caller's


def _series(rows: Iterator[list[str]]) -> list[Series]:
    header = [name.strip() for name in _next(rows)][:_WIDEST]
    axis = next((header.index(name) for name in STEP_NAMES if name in header), None)
    columns = [(place, f"{place}\t{name}") for place, name in enumerate(header) if name and place != axis]
    points = Points()
    for number, row in enumerate(iter(lambda: _next(rows), [])):
        step = _number(row[axis]) if axis is not None and axis < len(row) else None
        for place, column in columns:
            value = _number(row[place]) if place < len(row) else None
            if value is not None:
                points.add(column, number if step is None else step, value)
    found = {one.name: one for one in points.series()}
    return [replace(found[column], name=header[place]) for place, column in columns if column in found]


def _bounded(text: IO[str]) -> Iterator[str]:
    read = 0
    while (line := text.readline(1 << 20)) and read < LARGEST:
        read += len(line)
        yield line.replace("\0", "")


def _next(rows: Iterator[list[str]]) -> list[str]:
    """The next row that is not empty; [] at the end, or where the rest is not a table."""
    try:
        return next((row for row in rows if row), [])
    except csv.Error:
        return []


def _number(cell: str) -> float | None:
    try:
        return float(cell)
    except ValueError:
        return None
