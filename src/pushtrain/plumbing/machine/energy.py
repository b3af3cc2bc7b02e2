"""How much energy runs have used today on this machine's GPUs: one number, which outlives the process.

Days are those of UTC. It is written at most once a minute, so a crash loses a minute's count at most.
"""

import json
import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from pushtrain.plumbing.disk.files import replace

_log = logging.getLogger(__name__)

_DAY: Final = 86_400
_EVERY: Final = 60.0
_JOULES: Final = 3_600_000
"""In a kilowatt-hour."""


class EnergyDay:
    """The day's count.

    Args:
        path: Where it is kept.
        clock: Seconds since the epoch.
    """

    def __init__(self, path: Path, *, clock: Callable[[], float] = time.time) -> None:
        self._path = path
        self._clock = clock
        self._lock = threading.Lock()
        self._day, self._joules = _read(path)
        self._written_at = 0.0

    def add(self, joules: float) -> None:
        """Count what was used."""
        with self._lock:
            self._turn()
            self._joules += max(0.0, joules)
            if joules > 0 and self._clock() - self._written_at >= _EVERY:
                self._write()

    def kwh(self) -> float:
        """Kilowatt-hours of this day so far."""
        with self._lock:
            self._turn()
            return self._joules / _JOULES

    def settle(self) -> None:
        """Write the count down as it is."""
        with self._lock:
            if self._joules:
                self._write()

    def _turn(self) -> None:
        day = int(self._clock()) // _DAY
        if day > self._day:  # a clock that is set back does not make room
            self._day, self._joules = day, 0.0

    def _write(self) -> None:
        self._written_at = self._clock()
        try:
            document = {"day": self._day, "joules": round(self._joules)}
            replace(self._path, json.dumps(document).encode(), durable=False)
        except OSError as error:
            _log.warning("today's energy could not be written down: %s", error)


def _read(path: Path) -> tuple[int, float]:
    try:
        found = json.loads(path.read_bytes())
        return int(found["day"]), float(found["joules"])
    except (OSError, ValueError, KeyError, TypeError):
        return 0, 0.0
