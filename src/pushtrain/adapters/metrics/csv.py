"""A table of metrics with a header and one row a step, as the CSVLoggers of Lightning and Keras write it.

The axis is the first of `step`, `global_step`, `iteration`, `epoch` (and their like) among the columns;
without one, the row's number. Empty and non-numeric cells are passed over.
"""

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Final

from pushtrain.adapters.metrics import LARGEST, STEP_NAMES
from pushtrain.ports import Series

_NAMES: Final = {"history", "progress", "training_log", "train_log", "log", "losses", "results"}
_WIDEST: Final = 500


class Csv:
    """Metrics as comma- or tab-separated values."""

    def fits(self, path: Path) -> bool:
        """`metrics.csv`, `history.csv` and names like them."""
        stem = path.stem.lower()
        return path.suffix.lower() in {".csv", ".tsv"} and ("metric" in stem or stem in _NAMES)

    def read(self, path: Path) -> list[Series]:
        """All numeric columns of the file, but the axis."""
        with path.open("r", encoding="utf-8-sig", errors="replace", newline="") as text:
            rows = csv.reader(_bounded(text), delimiter="\t" if path.suffix.lower() == ".tsv" else ",")
            header = [name.strip() for name in _next(rows)][:_WIDEST]
            axis = next((header.index(name) for name in STEP_NAMES if name in header), None)
            points: list[tuple[list[float], list[float]]] = [([], []) for _ in header]
            for number, row in enumerate(iter(lambda: _next(rows), [])):
                step = _number(row[axis]) if axis is not None and axis < len(row) else None
                for cell, (steps, values) in zip(row, points, strict=False):
                    value = _number(cell)
                    if value is not None:
                        steps.append(number if step is None else step)
                        values.append(value)
        return [
            Series(name, tuple(steps), tuple(values))
            for column, (name, (steps, values)) in enumerate(zip(header, points, strict=True))
            if column != axis and name and values
        ]


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
