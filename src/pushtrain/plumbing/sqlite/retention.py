"""What the store says of whatever else lies on the disk, and what it lets go of itself after a time.

A run's row stays for good, so that a command or a push that is delivered again, however late, is still the
run that it was. What goes is what made it large: the signed bytes it came with, its attempts, its history.
"""

from dataclasses import dataclass
from typing import Final

import apsw

from pushtrain.core.values.states import State
from pushtrain.plumbing.sqlite.database import Database

_AT_ONCE: Final = 100
"""Rows of one kind that go in one transaction: it holds up whoever else writes."""


@dataclass(frozen=True, slots=True)
class Unended:
    """A run that needs what it has on the disk."""

    id: str
    repository: str
    results: str
    """The repository that its results go to."""
    ref: str
    commit: str
    state: State
    attempt: int


class Retention:
    """Methods of the store that whoever clears the disk uses."""

    _database: Database

    def unended_runs(self) -> list[Unended]:
        """Every run that is not over, oldest first."""
        query = (
            "SELECT id, repository, coalesce(json_extract(command, '$.job.results_to.repository'), ''), ref, "
            "commit_id, state, json_extract(value, '$.attempt') FROM runs "
            "WHERE state IN ('queued', 'preparing', 'running', 'publishing') ORDER BY seq"
        )
        return self._database.read(
            lambda db: [
                Unended(run_id, repository, results or repository, ref, commit, State(state), attempt)
                for run_id, repository, results, ref, commit, state, attempt in db.execute(query)
            ]
        )

    def oldest_unended(self) -> float | None:
        """When the oldest run came in that is not over; None: all are."""
        query = (
            "SELECT min(json_extract(value, '$.accepted_at')) FROM runs "
            "WHERE state IN ('queued', 'preparing', 'running', 'publishing')"
        )
        found = self._database.read(lambda db: db.execute(query).get)
        return None if found is None else float(found)

    def over_since(self, run_id: str) -> float | None:
        """When a run was over; None: it is not, or nothing is known of it."""
        query = "SELECT json_extract(value, '$.done_at') FROM runs WHERE id = ? AND state = 'done'"
        found = self._database.read(lambda db: db.execute(query, (run_id,)).fetchone())
        return None if found is None else float(found[0] or 0)

    def promised_until(self, run_id: str) -> float:
        """To what time somebody was told that files of this run are kept here; 0: nobody was."""
        query = (
            "SELECT max(json_extract(value, '$.until')) FROM artifacts "
            "WHERE run_id = ? AND json_extract(value, '$.where') = 'executor'"
        )
        return float(self._database.read(lambda db: db.execute(query, (run_id,)).get) or 0)

    def forget(self, before: float, *, now: float) -> int:
        """Let go of the details of runs and pushes that were over before this time; of how many.

        A run stays whole as long as somebody was told that its files are kept here.
        """
        count = 0

        def work(db: apsw.Connection) -> int:
            return _forget_runs(db, before, now) + _forget_pushes(db, before)

        while done := self._database.write(work):
            count += done
        return count


def _forget_runs(db: apsw.Connection, before: float, now: float) -> int:
    query = (
        "SELECT run_id FROM received JOIN runs ON id = run_id "
        "WHERE state = 'done' AND json_extract(value, '$.done_at') < ?1 AND NOT EXISTS "
        "(SELECT 1 FROM artifacts AS kept WHERE kept.run_id = id AND "
        "json_extract(kept.value, '$.until') > ?2) LIMIT ?3"
    )
    old = [(row[0],) for row in db.execute(query, (before, now, _AT_ONCE))]
    for table in ("artifacts", "statuses", "events", "attempts", "asked", "received"):
        db.executemany(f"DELETE FROM {table} WHERE run_id = ?", old)  # noqa: S608  our own table names
    return len(old)


def _forget_pushes(db: apsw.Connection, before: float) -> int:
    old = [
        (row[0],)
        for row in db.execute("SELECT id FROM pushes WHERE settled_at < ? LIMIT ?", (before, _AT_ONCE))
    ]
    db.executemany("UPDATE outbox SET push_id = NULL WHERE push_id = ?", old)
    db.executemany("DELETE FROM pushes WHERE id = ?", old)
    return len(old)
