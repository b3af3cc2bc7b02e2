"""Whose turn comes first: one order, made of when runs came, their priority and recent use. Pure.

A run's turn is the time at which it was accepted, put off by what its person and its repository have used of
GPUs lately, and brought forward by its priority. One GPU-hour puts off by an hour, one step of priority
brings forward by an hour. Both are bounded, so nobody starves: whatever comes a few days later is behind.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final, NamedTuple

DAY: Final = 86_400
STEP: Final = 3600.0
"""Seconds by which one step of priority brings a run forward."""
HALF_LIFE: Final = float(DAY)
"""Seconds after which a use counts half."""
MOST_BEHIND: Final = float(DAY)
"""Seconds by which a person's use puts off at most, and again a repository's."""
REMEMBERED: Final = 14
"""Days after which a use is forgotten: it counts less than a hundredth of a percent."""
PRESUMED: Final = 600.0
"""Seconds that a run counts for when it starts: who asks for ten at once is not given ten before the next."""


class Line(NamedTuple):
    """What a person used of GPUs in a repository, by the ledger (a tuple: each decision reads all)."""

    sender: str
    repository: str
    weighed: float
    """GPU-seconds, each day's by its weight."""
    today: float
    """GPU-seconds of the present day alone."""


@dataclass(frozen=True, slots=True)
class Holding:
    """What an active run has of the GPUs, which stands in no ledger yet."""

    sender: str
    repository: str
    gpus: float
    """Cards; of a shared one the part that is its own."""
    since: float
    """Seconds since the epoch."""


@dataclass(slots=True)
class Recent:
    """GPU-seconds that count against people and repositories at this moment."""

    people: dict[str, float] = field(default_factory=dict)
    repositories: dict[str, float] = field(default_factory=dict)
    today: dict[str, float] = field(default_factory=dict)
    """By person, since midnight UTC and not decayed: what a quota counts."""

    def add(self, sender: str, repository: str, seconds: float) -> None:
        """Count some more."""
        self.people[sender] = self.people.get(sender, 0.0) + seconds
        self.repositories[repository] = self.repositories.get(repository, 0.0) + seconds

    def behind(self, sender: str, repository: str) -> float:
        """Seconds by which a run of theirs is put off."""
        return min(self.people.get(sender, 0.0), MOST_BEHIND) + min(
            self.repositories.get(repository, 0.0), MOST_BEHIND
        )


def rank(accepted_at: float, priority: int, most: int) -> float:
    """A run's place as far as it does not change: when it came, brought forward by its priority.

    Args:
        accepted_at: Seconds since the epoch.
        priority: What the job asks for.
        most: The highest that the owner allows.
    """
    return accepted_at - STEP * min(priority, most)


def weights(now: float) -> dict[int, float]:
    """How much a GPU-second of each day counts, in full today, then half after each half-life.

    Days are those since the epoch, UTC, the latest last; what is older does not count.
    """
    today = int(now) // DAY
    return {
        day: math.pow(0.5, max(0.0, now - (day + 1) * DAY) / HALF_LIFE)
        for day in range(today - REMEMBERED + 1, today + 1)
    }


def recent(lines: Iterable[Line], held: Iterable[Holding], *, now: float) -> Recent:
    """What counts now, by the ledger and by what runs."""
    found = Recent()
    for line in lines:
        found.add(line.sender, line.repository, line.weighed)
        found.today[line.sender] = found.today.get(line.sender, 0.0) + line.today
    for one in held:
        seconds = max(0.0, now - one.since)
        found.add(one.sender, one.repository, one.gpus * max(seconds, PRESUMED))
        found.today[one.sender] = found.today.get(one.sender, 0.0) + one.gpus * seconds
    return found


def used_up(found: Recent, sender: str, hours_a_day: float) -> bool:
    """Whether a person has used their GPU-hours of today; `hours_a_day` 0: there is no limit."""
    return bool(hours_a_day) and found.today.get(sender, 0.0) >= 3600 * hours_a_day
