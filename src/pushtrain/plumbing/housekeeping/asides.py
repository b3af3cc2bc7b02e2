"""Stores that were put aside beside the one in use: damaged ones, and those of an older version.

Each is kept for a month, so that somebody may still look into it. A damaged one is kept for longer while it
may hold what nothing else does: a run of its time is not over, or lies here and is not known to the store.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

KEPT: Final = 30 * 86_400.0
"""Seconds for which any of them is kept."""

_NAME: Final = re.compile(r"(?P<store>.+\.(?:(?P<damaged>damaged-[^.]*?)|version-\d+))(?:-wal|-shm)?")


@dataclass(frozen=True, slots=True)
class Aside:
    """One of them, with its journal."""

    name: str
    paths: tuple[Path, ...]
    since: float
    """When it was put there."""
    damaged: bool

    def stays(self, now: float, *, oldest: float | None, unknown: bool) -> str:
        """Why it must stay; empty: it may go.

        Args:
            now: Seconds since the epoch.
            oldest: When the oldest run came in that is not over; None: all are.
            unknown: Whether there are folders of runs that the store does not know.
        """
        if now < self.since + KEPT:
            return f"a store that was put aside is kept until {_day(self.since + KEPT)}"
        if self.damaged and unknown:
            return "it may know of a run that the store does not know"
        if self.damaged and oldest is not None and oldest < self.since:
            return "a run of its time is not over"
        return ""


def asides(store: Path) -> Iterator[Aside]:
    """Those beside a store."""
    found: dict[str, list[Path]] = {}
    damaged: set[str] = set()
    for path in sorted(store.parent.glob(f"{store.name}.*")):
        if named := _NAME.fullmatch(path.name):
            found.setdefault(named["store"], []).append(path)
            if named["damaged"]:
                damaged.add(named["store"])
    for name, paths in found.items():
        yield Aside(name, tuple(paths), _since(name, paths), name in damaged)


def _since(name: str, paths: list[Path]) -> float:
    """When it was put aside: as its name says, else when it was written last."""
    try:
        moment = datetime.strptime(name.rpartition("-")[2], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    except ValueError:
        return max((path.stat().st_mtime for path in paths if path.exists()), default=0.0)
    return moment.timestamp()


def _day(moment: float) -> str:
    return f"{datetime.fromtimestamp(moment, UTC):%Y-%m-%d}"
