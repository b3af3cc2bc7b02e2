"""The store's ledger: who used how much of this machine, day by day, and what its cards did meanwhile.

A line of use is written in the transaction that ends an attempt, so it counts each attempt once, and it
outlives the run itself. Days are those of UTC.
"""

from collections.abc import Iterable
from typing import Final

import apsw

from pushtrain.core.runs.usage import DAY, Entry, Stood, Used
from pushtrain.core.values.run import Attempt, Run
from pushtrain.plumbing.sqlite.database import Database

_SUMS: Final = ("attempts", "seconds", "gpu_seconds", "cpu_seconds", "joules", "estimated", "waited")


def charge(db: apsw.Connection, run: Run, attempt: Attempt, *, now: float) -> None:
    """Write an attempt that ends down in the ledger, in the transaction that ends it."""
    used = used_by(attempt, now=now)
    sums = ", ".join(f"{name} = {name} + excluded.{name}" for name in _SUMS)
    db.execute(
        f"INSERT INTO usage VALUES (?, ?, ?, {', '.join('?' * len(_SUMS))}) "  # noqa: S608  our own constants
        f"ON CONFLICT DO UPDATE SET {sums}",
        (int(now) // DAY, run.sender, run.command.repository, *(getattr(used, name) for name in _SUMS)),
    )


def used_by(attempt: Attempt, *, now: float) -> Used:
    """What one attempt used that ends now."""
    gpu = attempt.gpu
    return Used(
        attempts=1,
        seconds=max(0.0, (attempt.ended_at or now) - attempt.claimed_at),
        gpu_seconds=gpu.seconds if gpu else 0,
        cpu_seconds=attempt.cpu_seconds,
        joules=(gpu.joules or 0) if gpu else 0,
        estimated=bool(gpu and gpu.estimated),
        waited=attempt.waited,
    )


class Accounts:
    """Methods of the store that tell of its ledger."""

    _database: Database

    def used(self, *, since: int) -> list[Entry]:
        """The ledger's sums from a day on (days since the epoch, UTC), by sender and repository."""
        sums = ", ".join(f"sum({name})" for name in _SUMS)
        query = (
            f"SELECT sender, repository, {sums} FROM usage WHERE day >= ? "  # noqa: S608  our own constants
            "GROUP BY sender, repository "
            "ORDER BY sum(gpu_seconds) DESC, sum(seconds) DESC, sender, repository"
        )
        return self._database.read(
            lambda db: [
                Entry(sender=sender, repository=repository, used=Used.model_validate(_named(sums)))
                for sender, repository, *sums in db.execute(query, (since,))
            ]
        )

    def note_stood(self, day: int, lines: Iterable[Stood]) -> None:
        """Add to what the cards did on a day."""
        values = [(day, line.what, line.seconds, line.wanted) for line in lines]

        def work(db: apsw.Connection) -> None:
            db.executemany(
                "INSERT INTO stood VALUES (?, ?, ?, ?) ON CONFLICT DO UPDATE "
                "SET seconds = seconds + excluded.seconds, wanted = wanted + excluded.wanted",
                values,
            )

        if values:
            self._database.write(work)

    def stood(self, *, since: int) -> list[Stood]:
        """What the cards did from a day on, what they did most first."""
        query = (
            "SELECT what, sum(seconds), sum(wanted) FROM stood WHERE day >= ? "
            "GROUP BY what ORDER BY sum(seconds) DESC, what"
        )
        return self._database.read(
            lambda db: [
                Stood(what=what, seconds=seconds, wanted=wanted)
                for what, seconds, wanted in db.execute(query, (since,))
            ]
        )


def _named(sums: Iterable[object]) -> dict[str, object]:
    found = dict(zip(_SUMS, sums, strict=True))
    return found | {"estimated": bool(found["estimated"])}
