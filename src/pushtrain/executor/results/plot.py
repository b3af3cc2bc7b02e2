"""Draw line charts as small SVG files that read well on GitHub in light and in dark mode.

An SVG shown as an image knows the reader's colour scheme by `prefers-color-scheme`; it carries its own
background, so that it is legible even where page and scheme disagree. No script, no font, no outside link.
Pure: the same metrics give the same bytes.
"""

import math
import re
from collections.abc import Iterable, Sequence
from html import escape
from typing import Final

from pushtrain.executor.results.metrics import Metric

WIDTH, HEIGHT = 480, 270
_LEFT, _RIGHT, _TOP, _BOTTOM = 58, 18, 60, 40
_MOST_DRAWN: Final = 400
_MOST_LINES: Final = 6
_FARTHEST: Final = 1e300
"""Values beyond are drawn here: their differences would not be numbers."""
_LIGHT: Final = ("#0969da", "#cf222e", "#1a7f37", "#9a6700", "#8250df", "#bf3989")
_DARK: Final = ("#4493f8", "#ff7b72", "#3fb950", "#d29922", "#ab7df8", "#db61a2")
_SPLIT: Final = re.compile(r"^(train(?:ing)?|val(?:id(?:ation)?)?|eval|test|dev)[/_.-](.+)$", re.IGNORECASE)
_SPLIT_END: Final = re.compile(
    r"^(.+)[/_.-](train(?:ing)?|val(?:id(?:ation)?)?|eval|test|dev)$", re.IGNORECASE
)

_STYLE: Final = """
.bg{fill:#fff;stroke:#d1d9e0}.t{fill:#1f2328}.m{fill:#59636e}.g{stroke:#d1d9e0;stroke-opacity:.6}
text{font:11px -apple-system,BlinkMacSystemFont,"Segoe UI","Noto Sans",Helvetica,Arial,sans-serif}
.h{font-size:13px;font-weight:600}.l{fill:none;stroke-width:1.8;stroke-linejoin:round;stroke-linecap:round}
"""


def charts(metrics: Sequence[Metric]) -> list[tuple[str, list[Metric]]]:
    """Which metrics share a chart: `train/loss` and `val/loss` do, as `loss`. In order of appearance."""
    groups: dict[str, list[Metric]] = {}
    for metric in metrics:
        if any(value is not None for value in metric.values):
            groups.setdefault(_base(metric.name), []).append(metric)
    found = []
    for base, members in groups.items():
        found += [
            (base if len(members) > 1 else members[0].name, members[start : start + _MOST_LINES])
            for start in range(0, len(members), _MOST_LINES)
        ]
    return found


def _base(name: str) -> str:
    split = _SPLIT.match(name)
    if split:
        return split[2]
    split = _SPLIT_END.match(name)
    return split[1] if split else name


def draw(title: str, metrics: Sequence[Metric]) -> bytes:
    """One chart of one or several metrics over their steps.

    A logarithmic axis is used only for positive values that span more than three decades.
    """
    lines = [_points(metric) for metric in metrics]
    everything = [value for line in lines for _, value in line]
    steps = [step for line in lines for step, _ in line]
    log = min(everything) > 0 and max(everything) / min(everything) > 1000  # noqa: PLR2004  three decades
    ticks_y = (
        _log_ticks(min(everything), max(everything)) if log else _ticks(min(everything), max(everything))
    )
    ticks_x = _ticks(min(steps), max(steps), most=6, whole=all(step == int(step) for step in steps))
    low_y = min(ticks_y[0], *everything)
    high_y = max(ticks_y[-1], *everything)
    x = _Scale(min(steps), max(steps), _LEFT, WIDTH - _RIGHT)
    y = _Scale(low_y, high_y, HEIGHT - _BOTTOM, _TOP, log=log)
    ticks_x = [tick for tick in ticks_x if min(steps) <= tick <= max(steps)]
    middle = (_LEFT + WIDTH - _RIGHT) / 2
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" '
        f'height="{HEIGHT}" role="img"><title>{_text(title)}</title><style>{_style(len(lines))}</style>'
    )
    parts = [
        head,
        f'<rect class="bg" x=".5" y=".5" width="{WIDTH - 1}" height="{HEIGHT - 1}" rx="6"/>',
        f'<text class="t h" x="14" y="22">{_text(_cut(title, 50))}{" (log)" if log else ""}</text>',
        *_legend(metrics, title),
        *(_grid(y(tick), show(tick)) for tick in ticks_y),
        *(_label(x(tick), HEIGHT - 22, show(tick)) for tick in ticks_x),
        _label(middle, HEIGHT - 8, "step"),
        *(_line(number, line, x, y) for number, line in enumerate(lines)),
        "</svg>\n",
    ]
    return "".join(parts).encode()


def show(value: float | None) -> str:
    """A number for people: four significant digits, no needless zeros."""
    if value is None:
        return "NaN"
    if value == 0:
        return "0"
    size = abs(value)
    if size < 10_000_000 and value == int(value):  # noqa: PLR2004  still read at a glance
        return f"{int(value):,}".replace(",", "\u202f") if size >= 10_000 else str(int(value))  # noqa: PLR2004
    if 1e-3 <= size < 99_995:  # noqa: PLR2004  neither many zeros nor many digits
        text = f"{value:.4g}"
        return text.rstrip("0").rstrip(".") if "." in text and "e" not in text else text
    mantissa, _, exponent = f"{value:.3g}".partition("e")
    return f"{mantissa}e{int(exponent)}" if exponent else mantissa


class _Scale:
    """From values to pixels."""

    def __init__(self, low: float, high: float, start: float, end: float, *, log: bool = False) -> None:
        self._log = log
        self._low, self._high = self._of(low), self._of(high)
        self._start, self._end = start, end

    def __call__(self, value: float) -> float:
        span = self._high - self._low
        part = (self._of(value) - self._low) / span if span else 0.5
        return self._start + part * (self._end - self._start)

    def _of(self, value: float) -> float:
        return math.log10(value) if self._log else value


def _points(metric: Metric) -> list[tuple[float, float]]:
    pairs = zip(metric.steps, metric.values, strict=True)
    points = [(step, max(-_FARTHEST, min(value, _FARTHEST))) for step, value in pairs if value is not None]
    if len(points) <= _MOST_DRAWN:
        return points
    drawn = [points[at * (len(points) - 1) // (_MOST_DRAWN - 1)] for at in range(_MOST_DRAWN)]
    ends = {min(points, key=lambda point: point[1]), max(points, key=lambda point: point[1])}
    return sorted({*drawn, *ends}, key=lambda point: point[0])


def _style(lines: int) -> str:
    light = "".join(f".c{n}{{stroke:{_LIGHT[n]}}}.f{n}{{fill:{_LIGHT[n]}}}" for n in range(lines))
    dark = "".join(f".c{n}{{stroke:{_DARK[n]}}}.f{n}{{fill:{_DARK[n]}}}" for n in range(lines))
    return (
        f"{_STYLE}{light}\n@media(prefers-color-scheme:dark){{.bg{{fill:#0d1117;stroke:#3d444d}}.t{{fill:#f0f6fc}}"
        f".m{{fill:#9198a1}}.g{{stroke:#3d444d}}{dark}}}\n"
    )


def _legend(metrics: Sequence[Metric], title: str) -> Iterable[str]:
    """Under the title: what each line is, and its last value."""
    room = (WIDTH - 28) / len(metrics)
    for number, metric in enumerate(metrics):
        label = "last" if metric.name == title else metric.name
        at = 14 + number * room
        shown = f"{_cut(label, max(4, int(room / 6.5) - 9))} {show(metric.last)}"
        yield f'<circle class="f{number}" cx="{at + 4:.1f}" cy="37" r="4"/>'
        yield f'<text class="m" x="{at + 13:.1f}" y="41">{_text(shown)}</text>'


def _label(x: float, y: float, text: str) -> str:
    return f'<text class="m" x="{x:.1f}" y="{y}" text-anchor="middle">{text}</text>'


def _grid(at: float, label: str) -> str:
    return (
        f'<line class="g" x1="{_LEFT}" y1="{at:.1f}" x2="{WIDTH - _RIGHT}" y2="{at:.1f}"/>'
        f'<text class="m" x="{_LEFT - 8}" y="{at + 4:.1f}" text-anchor="end">{label}</text>'
    )


def _line(number: int, points: Sequence[tuple[float, float]], x: _Scale, y: _Scale) -> str:
    places = " ".join(f"{x(step):.1f},{y(value):.1f}" for step, value in points)
    step, value = points[-1]
    end = f'<circle class="f{number}" cx="{x(step):.1f}" cy="{y(value):.1f}" r="3"/>'
    return f'<polyline class="l c{number}" points="{places}"/>{end}'


def _ticks(low: float, high: float, *, most: int = 5, whole: bool = False) -> list[float]:
    """Round numbers from at or below `low` to at or above `high`."""
    if low == high:
        pad = abs(low) * 0.1 or 1.0
        if whole or not math.isfinite(low - pad) or not math.isfinite(high + pad):
            return [low]
        low, high = low - pad, high + pad
    raw = (high - low) / most
    if not math.isfinite(raw) or raw <= 0:
        return [low, high]
    power = 10.0 ** math.floor(math.log10(raw))
    size = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= raw * 0.999)
    if whole:
        size = max(1.0, math.ceil(size))
    first = math.floor(low / size + 1e-9)
    last = math.ceil(high / size - 1e-9)
    ticks = [round(at * size, 12) if size > 1e-9 else at * size for at in range(first, last + 1)]  # noqa: PLR2004
    return [tick for tick in ticks if math.isfinite(tick)] or [low]


def _log_ticks(low: float, high: float) -> list[float]:
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    every = max(1, math.ceil((last - first) / 6))
    return [10.0**power for power in range(first, last + every, every) if -300 < power < 300]  # noqa: PLR2004


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"


def _text(text: str) -> str:
    return escape("".join(character if character.isprintable() else " " for character in text))
