"""Gather a run's metrics from the files it left, thin them for people, and tell last and best.

Pure but for reading the files that the formats are given. A value that is not finite is kept as a gap: a loss
that became NaN is worth seeing.
"""

import json
import logging
import math
import os
import re
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from pushtrain.core.values.value import MOST, Value
from pushtrain.executor.results.hardlinks import Links
from pushtrain.executor.results.left import opened
from pushtrain.ports import MetricsFormat, Series

MOST_SERIES: Final = 200
MOST_POINTS: Final = 2000
"""Kept of each series; a longer one is thinned, its first, last, least and greatest points kept."""
MOST_FILES: Final = 1000
"""Files that are looked into."""
MOST_READ: Final = 1024**3
"""Bytes of all of them."""
_LONGEST_LINE: Final = 64 * 1024
_DEEPEST: Final = 6
_MOST_LOOKED_AT: Final = 20_000
_LOWER: Final = re.compile(r"loss|err(or)?\b|perplexity|ppl|mse|mae|rmse|wer\b|cer\b|fid\b|nll|divergence")
_HIGHER: Final = re.compile(
    r"acc|f1|auc|score|precision|recall|r2\b|iou|map\b|bleu|rouge|ssim|psnr|reward|return|correct|exact"
)

_log = logging.getLogger(__name__)


class Metric(Value):
    """One metric over steps."""

    name: str
    steps: tuple[float, ...]
    values: tuple[float | None, ...]
    """None: not a finite number."""
    points: int
    """How many there were before thinning."""

    @property
    def last(self) -> float | None:
        """The last value."""
        return self.values[-1] if self.values else None

    def best(self) -> tuple[float, float] | None:
        """Value and step of the best point; None when the name does not tell which way is better."""
        way = direction(self.name)
        finite = [
            (value, step) for value, step in zip(self.values, self.steps, strict=True) if value is not None
        ]
        if not way or not finite:
            return None
        return (min if way == "lower" else max)(finite, key=lambda point: point[0])


def direction(name: str) -> str:
    """`lower` or `higher`, which is better for a metric of this name; empty when it does not tell."""
    plain = name.lower()
    if _LOWER.search(plain):
        return "lower"
    return "higher" if _HIGHER.search(plain) else ""


def gather(
    files: Sequence[Path],
    formats: Sequence[MetricsFormat],
    *,
    root: Path,
    trusted: Path | None = None,
    links: Links | None = None,
) -> tuple[Metric, ...]:
    """The metrics in these files; of series that share a name, the second is told apart by its folder.

    Args:
        files: Files that a format may fit; the first that fits reads.
        formats: The known formats.
        root: What the files' folders are named relative to.
        trusted: A folder of ours that holds all of them; None: `root`.
        links: Tells whether all names of a file are the run's; None: they must lie in `root`.
    """
    links = links or Links((root,))
    found: dict[str, Metric] = {}
    left = MOST_READ
    for path in files[:MOST_FILES]:
        reader = next((one for one in formats if one.fits(path)), None)
        if reader is None:
            continue
        try:
            with opened(path, trusted or root, links) as content:
                left -= os.fstat(content.fileno()).st_size
                if left < 0:
                    _log.warning("metrics files beyond %d bytes were passed over", MOST_READ)
                    break
                series = reader.read(path, content)
        except FileNotFoundError:
            continue
        except (OSError, ValueError) as error:
            _log.warning("metrics file %s was passed over: %s", path.name, error)
            continue
        for one in series:
            name = _name(one.name)
            if name in found:
                name = f"{name} ({_name(os.path.relpath(path.parent, root))})"
            if one.values and name not in found and len(found) < MOST_SERIES:
                found[name] = _metric(name, one)
    return tuple(found.values())


def steps_in(path: Path, trusted: Path) -> int:
    """How many steps a file of JSON lines tells of, by its first line and its last; 0: it does not tell."""
    try:
        with opened(path, trusted, Links((path.parent,))) as content:
            first = content.readline(_LONGEST_LINE)
            content.seek(max(0, content.seek(0, os.SEEK_END) - _LONGEST_LINE))
            last = content.read().splitlines()[-1:] or [b""]
        begin, end = (json.loads(line)["step"] for line in (first, last[0]))
        return min(MOST, max(0, int(end - begin) + 1))
    except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return 0


def joined(earlier: Sequence[Metric], later: Sequence[Metric]) -> tuple[Metric, ...]:
    """The metrics of a run whose next attempt went on: of what was trained again, the later values."""
    went_on = {metric.name: metric for metric in later}
    found = [_joined(metric, went_on.get(metric.name)) for metric in earlier]
    names = {metric.name for metric in found}
    return (*found, *(metric for metric in later if metric.name not in names))[:MOST_SERIES]


def _joined(metric: Metric, after: Metric | None) -> Metric:
    if after is None or not after.steps:
        return metric
    begin = min(after.steps)
    before = [pair for pair in zip(metric.steps, metric.values, strict=True) if pair[0] < begin]
    steps = (*(step for step, _ in before), *after.steps)
    values = (*(value for _, value in before), *after.values)
    thinned = len(before) < len(metric.steps) or metric.points == len(metric.steps)
    points = (len(before) if thinned else metric.points) + after.points
    kept = _kept(values)
    return Metric(
        name=metric.name,
        steps=tuple(steps[at] for at in kept),
        values=tuple(values[at] for at in kept),
        points=points,
    )


def candidates(folder: Path, formats: Sequence[MetricsFormat], *, since: float = 0) -> Iterator[Path]:
    """Files below a folder that a format fits, written since then; a bounded look, no symlinks."""
    looked_at = 0
    for root, folders, files in os.walk(folder):
        depth = len(Path(root).relative_to(folder).parts)
        folders[:] = sorted(name for name in folders if not name.startswith(".") and depth < _DEEPEST)
        looked_at += len(files) + len(folders)
        if looked_at > _MOST_LOOKED_AT:
            return
        for name in sorted(files):
            path = Path(root, name)
            if any(one.fits(path) for one in formats) and _written_since(path, since):
                yield path


def _written_since(path: Path, since: float) -> bool:
    try:
        found = path.lstat()
    except OSError:
        return False
    return stat.S_ISREG(found.st_mode) and found.st_mtime >= since


def _name(text: str) -> str:
    return "".join(character if character.isprintable() else " " for character in text).strip()[:120] or "?"


def _metric(name: str, series: Series) -> Metric:
    values = tuple(value if math.isfinite(value) else None for value in series.values)
    steps = tuple(step if math.isfinite(step) else float(at) for at, step in enumerate(series.steps))
    kept = _kept(values)
    return Metric(
        name=name,
        steps=tuple(steps[at] for at in kept),
        values=tuple(values[at] for at in kept),
        points=series.points or len(values),
    )


def _kept(values: Sequence[float | None]) -> Sequence[int]:
    """Which points stay: all, or of each of many stretches the least and the greatest."""
    if len(values) <= MOST_POINTS:
        return range(len(values))
    kept = {0, len(values) - 1}
    stretches = (MOST_POINTS - 2) // 2
    for number in range(stretches):
        stretch = range(number * len(values) // stretches, (number + 1) * len(values) // stretches)
        finite = [at for at in stretch if values[at] is not None]
        if finite:
            kept |= {min(finite, key=lambda at: values[at] or 0), max(finite, key=lambda at: values[at] or 0)}
        else:
            kept.add(stretch[0])
    return sorted(kept)
