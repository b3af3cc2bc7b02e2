"""How this machine stands, for its owner's own screen: written by the executor, read by verbs.

It names programs, which borrowers never hear of, so it lies in the state folder, which is private, and leaves
the machine by no other way. It is written when something changed, and means something only while an executor
serves the folder.
"""

import logging
import math
from pathlib import Path

from pydantic import ValidationError

from pushtrain.core.values.value import Value
from pushtrain.plumbing.disk.files import replace
from pushtrain.plumbing.disk.lock import holder

_log = logging.getLogger(__name__)


class Program(Value):
    """A program of the owner's on a GPU."""

    pid: int
    name: str
    memory: int | None = None
    """Bytes; None: the driver does not tell."""


class CardStands(Value):
    """One GPU."""

    index: int
    name: str
    lent: bool
    """Whether something may start on it."""
    why: str = ""
    """Why not, as borrowers read it; empty: it is lent."""
    runs: tuple[str, ...] = ()
    """Titles of the jobs that have it."""
    programs: tuple[Program, ...] = ()


class Standing(Value):
    """The machine."""

    executor: str
    lent: bool
    """Whether anything may start at all."""
    why: tuple[str, ...] = ()
    """Why not; the weightiest first."""
    until: float | None = None
    """When the weightiest ends by itself."""
    runs: int = 0
    """Runs that hold something."""
    waiting: int = 0
    cards: tuple[CardStands, ...] = ()
    kwh_today: float = 0

    def line(self, paused_until: float | None, *, clock: str = "") -> str:
        """All of it in one line, for a status bar.

        Args:
            paused_until: What the owner's pause says now; the executor may not have looked yet.
            clock: When the pause ends, as a time of day.
        """
        runs = f"{self.runs} run{'s' if self.runs != 1 else ''}" if self.runs else ""
        waits = f"{self.waiting} wait{'s' if self.waiting == 1 else ''}" if self.waiting else ""
        if paused_until is not None:
            head = "paused" if math.isinf(paused_until) else f"paused until {clock}"
            runs = f"{runs} gives back" if self.runs == 1 else f"{runs} give back" if runs else ""
        elif not self.lent:
            head = f"not lent: {self.why[0]}" if self.why else "not lent"
        elif self.cards:
            head = f"lending {sum(1 for card in self.cards if card.lent)} of {_gpus(len(self.cards))}"
        else:
            head = "lending"
        return f"{self.executor}: {' · '.join(filter(None, (head, runs, waits)))}"


def _gpus(count: int) -> str:
    return f"{count} GPU{'s' if count != 1 else ''}"


def write(path: Path, standing: Standing) -> None:
    """Put it down; what cannot be written is only told."""
    try:
        replace(path, standing.model_dump_json(indent=1).encode(), durable=False)
    except OSError as error:
        _log.warning("how the machine stands could not be written down: %s", error)


def read(path: Path, lock: Path) -> Standing | None:
    """How the machine stands; None while no executor serves the folder, or none has looked yet.

    Args:
        path: The state folder's file.
        lock: The state folder's lock.
    """
    if holder(lock) is None:
        return None
    try:
        return Standing.model_validate_json(path.read_bytes())
    except (OSError, ValidationError):
        return None
