"""What the store knows of runs: how they stand, what happened to them, what is free and when the next is due.

Nothing is written here, so all of it may also be asked beside the process that serves the folder.
"""

# ruff: noqa: S608  what is put into SQL here are this module's own constants; values are bound

from collections.abc import Callable, Collection, Sequence
from typing import Final

import apsw

from pushtrain.core.runs.retry import SOON, UNREADY
from pushtrain.core.runs.usage import DAY
from pushtrain.core.values.jobspec import Concurrency
from pushtrain.core.values.run import Artifact, Attempt, Run, RunEvent
from pushtrain.core.values.states import NEVER, Reason, State
from pushtrain.plumbing.sqlite import rows
from pushtrain.plumbing.sqlite.database import Database

_HEX: Final = frozenset("0123456789abcdef")
_FAR: Final = 3600.0
"""Seconds to the next try of publishing that no pause is longer than: the clock was set back since."""
_TRAINED: Final = (
    "SELECT 1 FROM attempts WHERE run_id = runs.id AND number > json_extract(runs.command, '$.attempt') "
    "AND json_extract(attempts.value, '$.started_at') IS NOT NULL"
)
"""Attempts of a run that began to train since it came here."""


class Runs:
    """Methods of the store that tell of runs."""

    _database: Database
    _clock: Callable[[], float]

    def run(self, run_id: str) -> Run:
        """The run with this id.

        Raises:
            NotFound: There is none.
        """
        return self._database.read(lambda db: rows.require(db, run_id))

    def find(self, text: str, *, limit: int = 50) -> list[Run]:
        """Runs that a person may mean, newest first: by the start of an id or a commit, by branch, by job."""
        refs = (text, f"refs/heads/{text}", f"refs/tags/{text}")
        parts = ["SELECT seq FROM runs WHERE ref IN (?, ?, ?)", "SELECT seq FROM runs WHERE job = ?"]
        values: list[str] = [*refs, text]
        start = text.lower()
        if start and _HEX.issuperset(start):
            parts += [
                f"SELECT seq FROM runs WHERE {column} BETWEEN ? AND ?" for column in ("id", "commit_id")
            ]
            values += [start, start + "g"] * 2
        return self._select(
            f"WHERE seq IN ({' UNION '.join(parts)}) ORDER BY seq DESC LIMIT ?", (*values, limit)
        )

    def runs(
        self,
        *,
        states: Sequence[State] = (),
        repository: str = "",
        commit: str = "",
        ref: str = "",
        job: str = "",
        limit: int = 50,
    ) -> list[Run]:
        """Runs that fit every filter given, newest first."""
        given = {"repository": repository, "commit_id": commit, "ref": ref, "job": job}
        where = [f"{column} = ?" for column, value in given.items() if value]
        values: list[str | int] = [value for value in given.values() if value]
        if states:
            where.append(f"state IN ({', '.join('?' * len(states))})")
            values += [state.value for state in states]
        condition = f"WHERE {' AND '.join(where)} " if where else ""
        return self._select(f"{condition}ORDER BY seq DESC LIMIT ?", (*values, limit))

    def _select(self, condition: str, values: Sequence[str | float] = ()) -> list[Run]:
        query = f"SELECT {rows.RUN} FROM runs {condition}"
        return self._database.read(lambda db: [rows.read(*row) for row in db.execute(query, values)])

    def active(self) -> list[Run]:
        """Runs that hold a slot or GPUs, oldest first; what a starting executor must look after."""
        return self._select("WHERE state IN ('preparing', 'running') ORDER BY seq")

    def unended(self) -> dict[str, list[tuple[str, State]]]:
        """Runs that wait or are active, oldest first, by the key that sent them."""
        return self._database.read(rows.unended)

    def may_supersede(self) -> list[str]:
        """Ids of the runs that wait or are active and whose job does not just queue behind older ones.

        Only these are taken for it: a start that read ten thousand runs would hold everybody up.
        """
        query = (
            "SELECT id FROM runs WHERE state IN ('queued', 'preparing', 'running') AND request = '' "
            "AND json_extract(command, '$.job.concurrency') <> ? ORDER BY seq"
        )
        return self._ids(query, Concurrency.QUEUE.value)

    def may_travel(self) -> list[str]:
        """Ids of the runs that wait for a further attempt and whose job names a place for checkpoints."""
        query = (
            "SELECT id FROM runs WHERE state = 'queued' AND json_extract(value, '$.attempt') > 0 "
            "AND json_extract(command, '$.job.checkpoint_to') <> ? ORDER BY seq"
        )
        return self._ids(query, "")

    def _ids(self, query: str, *values: str) -> list[str]:
        return self._database.read(lambda db: [str(row[0]) for row in db.execute(query, values)])

    def publishable(self, now: float, *, limit: int = 100) -> list[Run]:
        """Runs whose results should be published now, oldest first."""
        return self._select(
            "WHERE state = 'publishing' AND (not_before <= ? OR not_before > ?) "
            "ORDER BY not_before, seq LIMIT ?",
            (now, now + _FAR, limit),
        )

    def next_due(self, since: float, *, daily: bool = False) -> float | None:
        """When the next run that waits for a time may go on: the earliest `not_before` after a moment.

        Args:
            since: That moment: when it was last looked for runs that may go on. What has come since was not
                found then, and is due at once.
            daily: Whether a run may also wait for the next day (UTC), its person's GPU-hours being used up.
        """
        query = (
            "SELECT min(due) FROM (SELECT min(not_before) AS due FROM runs INDEXED BY runs_later "
            "WHERE state = 'queued' AND not_before > 0 AND not_before > ?1 UNION ALL "
            "SELECT min(not_before) FROM runs INDEXED BY runs_publishing "
            "WHERE state = 'publishing' AND not_before > ?1)"
        )
        due = self._database.read(lambda db: db.execute(query, (since,)).get)
        found = [] if due is None else [float(due)]
        if daily and self.waiting():
            found.append((since // DAY + 1) * DAY)
        return min(found, default=None)

    def waiting(self) -> int:
        """How many runs are queued: one row, for whoever looks again and again."""
        return self._database.read(rows.queued)

    def unfinished(self) -> tuple[int, int]:
        """How many runs are active, and how many have ended and were not tried to be published yet."""

        def work(db: apsw.Connection) -> tuple[int, int]:
            active = db.execute("SELECT count(*) FROM runs WHERE state IN ('preparing', 'running')").get
            untried = db.execute(
                "SELECT count(*) FROM runs WHERE state = 'publishing' "
                "AND json_extract(value, '$.publish_tries') = 0"
            ).get
            return int(active), int(untried or 0)

        return self._database.read(work)

    def took(self, *, limit: int = 300) -> list[tuple[str, str, float]]:
        """Repository, job and seconds of runs that succeeded at their first attempt, the last first."""
        query = (
            "SELECT repository, job, json_extract(value, '$.ended_at') - json_extract(value, '$.started_at') "
            "FROM (SELECT seq, repository, job, value FROM runs WHERE state IN ('publishing', 'done') "
            "ORDER BY seq DESC LIMIT ?) WHERE json_extract(value, '$.outcome') = 'succeeded' "
            "AND json_extract(value, '$.attempt') = 1 AND json_extract(value, '$.started_at') IS NOT NULL "
            "AND json_extract(value, '$.ended_at') IS NOT NULL ORDER BY seq DESC"
        )
        return self._database.read(lambda db: [(a, b, float(c)) for a, b, c in db.execute(query, (limit,))])

    def unbegun_of(self, senders: Collection[str], *, limit: int) -> tuple[list[str], list[str]]:
        """Ids of the runs that these keys sent and may take back now, and of those that may yet be so.

        The last first, so many of both together. What was begun here stays, unless its job names a place for
        checkpoints; or the machine was not ready, or its owner's rules put it off for long, and nothing of it
        was trained here. Until something is, whatever is prepared, or goes on soon, may come to that.
        """
        marks, unready = ", ".join("?" * len(senders)), ", ".join("?" * len(UNREADY))
        query = (
            "SELECT id, state = 'queued' AND (travels OR (untrained AND "
            f"(reason IN ({unready}) OR (reason = ? AND not_before BETWEEN ? AND ?)))) FROM ("
            "SELECT id, seq, state, not_before, json_extract(value, '$.reason') AS reason, "
            "json_extract(value, '$.attempt') <= json_extract(command, '$.attempt') "
            "OR json_extract(command, '$.job.checkpoint_to') <> '' AS travels, "
            f"NOT EXISTS ({_TRAINED}) AS untrained FROM runs WHERE state IN ('queued', 'preparing') "
            f"AND json_extract(value, '$.sender') IN ({marks})) "
            "WHERE state = 'preparing' OR travels OR untrained ORDER BY seq DESC LIMIT ?"
        )
        put_off = (Reason.DEFERRED.value, self._clock() + SOON, NEVER - 1)
        given = (*UNREADY, *put_off, *senders, limit)
        found = self._database.read(lambda db: db.execute(query, given).fetchall())
        now, yet = ([str(run_id) for run_id, may in found if bool(may) is wanted] for wanted in (True, False))
        return now, yet

    def attempts(self, run_id: str) -> list[Attempt]:
        """A run's attempts, in order."""
        query = "SELECT value FROM attempts WHERE run_id = ? ORDER BY number"
        return self._database.read(
            lambda db: [Attempt.model_validate_json(row[0]) for row in db.execute(query, (run_id,))]
        )

    def events(self, run_id: str, *, after: int = 0) -> list[RunEvent]:
        """A run's history, in order, from the event that follows number `after`."""
        query = (
            "SELECT sequence, time, kind, state, detail FROM events "
            "WHERE run_id = ? AND sequence > ? ORDER BY sequence"
        )
        return self._database.read(
            lambda db: [
                RunEvent(
                    run_id=run_id, sequence=number, time=at, kind=kind, state=State(state), detail=detail
                )
                for number, at, kind, state, detail in db.execute(query, (run_id, after))
            ]
        )

    def artifacts(self, run_id: str) -> list[Artifact]:
        """Where a run's files are, by path."""
        query = "SELECT value FROM artifacts WHERE run_id = ? ORDER BY path"
        return self._database.read(
            lambda db: [Artifact.model_validate_json(row[0]) for row in db.execute(query, (run_id,))]
        )
