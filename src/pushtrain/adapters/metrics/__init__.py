"""File formats that training leaves its metrics in; each fits `ports.MetricsFormat` and needs no library."""

import math
from array import array
from typing import Final

from pushtrain.ports import Series

FORMATS: Final = {
    "jsonl": "pushtrain.adapters.metrics.jsonl:JsonLines",
    "csv": "pushtrain.adapters.metrics.csv:Csv",
    "tensorboard": "pushtrain.adapters.metrics.tensorboard:TensorBoard",
}
"""Name → where it stands; `wiring` imports them when used."""

STEP_NAMES: Final = ("step", "global_step", "_step", "iteration", "iter", "epoch", "batch")
"""What the axis of a table of metrics is called; the first that is there counts."""

LARGEST: Final = 256 * 1024 * 1024
"""Bytes read of one file; a longer one is read to there."""

MOST_SERIES: Final = 300
"""Series of one file; more are passed over."""
MOST_POINTS: Final = 10_000
"""Points of one series that are held at once; then it is thinned, and goes on."""


class Points:
    """The series of one file, in the making: bounded memory, whatever the file holds.

    Of a series that grows too long every four points become their least and their greatest, so that no peak
    is lost; the first and the last point always stay.
    """

    def __init__(self) -> None:
        self._steps: dict[str, array[float]] = {}
        self._values: dict[str, array[float]] = {}
        self._counts: dict[str, int] = {}

    def count(self, name: str) -> int:
        """How many points a series has had."""
        return self._counts.get(name, 0)

    def add(self, name: str, step: float, value: float) -> None:
        """One more point."""
        steps = self._steps.get(name)
        if steps is None:
            if len(self._steps) >= MOST_SERIES:
                return
            steps = self._steps[name] = array("d")
            self._values[name] = array("d")
        values = self._values[name]
        if len(values) >= MOST_POINTS:
            kept = [0, *_peaks(values)]
            self._steps[name] = steps = array("d", [steps[at] for at in kept])
            self._values[name] = values = array("d", [values[at] for at in kept])
        steps.append(step)
        values.append(value)
        self._counts[name] = self.count(name) + 1

    def series(self) -> list[Series]:
        """All of them, in order of appearance."""
        return [
            Series(name, tuple(steps), tuple(values), 0 if len(values) == count else count)
            for (name, steps), values, count in zip(
                self._steps.items(), self._values.values(), self._counts.values(), strict=True
            )
        ]


def _peaks(values: "array[float]") -> list[int]:
    """The places of the least and the greatest of every four values, but for the first."""
    kept: list[int] = []
    for begin in range(1, len(values), 4):
        finite = [at for at in range(begin, min(begin + 4, len(values))) if math.isfinite(values[at])]
        if finite:
            kept += sorted({min(finite, key=values.__getitem__), max(finite, key=values.__getitem__)})
        else:
            kept.append(begin)
    return kept
