"""JSON lines, one object a line: `{"step": 1, "loss": 0.3}`. What `PUSHTRAIN_METRICS` names is of this form.

Every number in a line is a point of the metric of its name; `{"train": {"loss": 0.3}}` is `train/loss`. The
axis is the first of `step`, `global_step`, `iteration`, `epoch` (and their like); without one, the number of
the metric's line. Lines that are not objects are passed over.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any, Final

from pushtrain.adapters.metrics import LARGEST, STEP_NAMES, Points
from pushtrain.ports import Series

_LONGEST_LINE: Final = 1024 * 1024


class JsonLines:
    """Metrics as JSON lines."""

    def fits(self, path: Path) -> bool:
        """`metrics.jsonl` and names like it."""
        return path.suffix in {".jsonl", ".ndjson"} and "metric" in path.name.lower()

    def read(self, path: Path, content: IO[bytes]) -> list[Series]:
        """All series of the file, in order of appearance."""
        points = Points()
        for line in _lines(content):
            for name, step, value in _points(line):
                points.add(name, points.count(name) if step is None else step, value)
        return points.series()


def _lines(content: IO[bytes]) -> Iterator[bytes]:
    """The lines up to the largest file; one that is too long is passed over."""
    read, whole = 0, True
    while read < LARGEST and (line := content.readline(_LONGEST_LINE)):
        read += len(line)
        if whole and (line.endswith(b"\n") or len(line) < _LONGEST_LINE):
            yield line
        whole = line.endswith(b"\n")


def _points(line: bytes) -> Iterator[tuple[str, float | None, float]]:
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError):
        return
    if not isinstance(entry, dict):
        return
    axis = next((name for name in STEP_NAMES if _number(entry.get(name)) is not None), "")
    step = _number(entry.get(axis))
    for name, value in _flat(entry):
        if name != axis:
            yield name, step, value


def _flat(entry: Mapping[str, Any], before: str = "", depth: int = 3) -> Iterator[tuple[str, float]]:
    for name, value in entry.items():
        number = _number(value)
        if number is not None:
            yield f"{before}{name}", number
        elif isinstance(value, dict) and depth:
            yield from _flat(value, f"{before}{name}/", depth - 1)


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    try:
        return float(value)
    except OverflowError:
        return None
