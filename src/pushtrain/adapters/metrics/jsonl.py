"""JSON lines, one object a line: `{"step": 1, "loss": 0.3}`. What `PUSHTRAIN_METRICS` names is of this form.

Every number in a line is a point of the metric of its name; `{"train": {"loss": 0.3}}` is `train/loss`. The
axis is the first of `step`, `global_step`, `iteration`, `epoch` (and their like); without one, the number of
the metric's line. Lines that are not objects are passed over.
"""

import json
from collections.abc import Iterator, Mapping
from itertools import takewhile
from pathlib import Path
from typing import Any

from pushtrain.adapters.metrics import LARGEST, STEP_NAMES
from pushtrain.ports import Series


class JsonLines:
    """Metrics as JSON lines."""

    def fits(self, path: Path) -> bool:
        """`metrics.jsonl` and names like it."""
        return path.suffix in {".jsonl", ".ndjson"} and "metric" in path.name.lower()

    def read(self, path: Path) -> list[Series]:
        """All series of the file, in order of appearance."""
        points: dict[str, tuple[list[float], list[float]]] = {}
        with path.open("rb") as lines:
            for line in takewhile(lambda _: lines.tell() <= LARGEST, iter(lines.readline, b"")):
                for name, step, value in _points(line):
                    steps, values = points.setdefault(name, ([], []))
                    steps.append(len(steps) if step is None else step)
                    values.append(value)
        return [Series(name, tuple(steps), tuple(values)) for name, (steps, values) in points.items()]


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
