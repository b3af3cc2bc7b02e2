"""The store's memory of what a Git host was told: one row a run, written after the host has taken it."""

from collections.abc import Callable

import apsw

from pushtrain.core.values.command import run_id
from pushtrain.core.values.run import Run
from pushtrain.plumbing.sqlite.database import Database

_LOOK_BACK = 2000
"""Runs that are over are looked for among so many newest ones."""


class Statuses:
    """Methods of the store that whoever reports commit statuses uses."""

    _database: Database
    _clock: Callable[[], float]

    def status_told(self, run_id: str) -> tuple[str, bool]:
        """What the host was last told of a run, empty for nothing; and whether there is no more to tell."""
        row = self._database.read(
            lambda db: db.execute("SELECT told, settled FROM statuses WHERE run_id = ?", (run_id,)).fetchone()
        )
        return ("", False) if row is None else (row[0], bool(row[1]))

    def tell_status(self, run_id: str, told: str, *, settled: bool) -> None:
        """Keep what the host was told of a run."""

        def work(db: apsw.Connection) -> None:
            db.execute(
                "INSERT INTO statuses VALUES (?, ?, ?) "
                "ON CONFLICT DO UPDATE SET told = excluded.told, settled = excluded.settled",
                (run_id, told, int(settled)),
            )

        self._database.write(work)

    def unsettled(self, *, since: float) -> list[str]:
        """Runs of which there may be something to tell, oldest first: not over, or over since a time."""
        query = (
            "SELECT id FROM ("
            "SELECT seq, id FROM runs WHERE state IN ('queued', 'preparing', 'running', 'publishing') UNION "
            "SELECT seq, id FROM (SELECT seq, id, value FROM runs WHERE state = 'done' ORDER BY seq DESC "
            "LIMIT ?2) WHERE json_extract(value, '$.done_at') >= ?1) "
            "LEFT JOIN statuses ON run_id = id WHERE coalesce(settled, 0) = 0 ORDER BY seq"
        )
        return self._database.read(lambda db: [row[0] for row in db.execute(query, (since, _LOOK_BACK))])

    def run_again(self, run: Run) -> bool:
        """Whether the same job of the same commit was asked for once more after this run."""
        command = run.command
        job, cell = command.job.name, command.job.cell
        pushed = run_id(repository=command.repository, commit=command.commit, job=job, cell=cell)
        query = (
            "WITH mine AS (SELECT * FROM runs WHERE id = ?1) "
            "SELECT 1 FROM mine JOIN runs AS newer ON newer.id = ?2 AND newer.seq > mine.seq UNION ALL "
            "SELECT 1 FROM mine CROSS JOIN runs AS newer INDEXED BY runs_again "
            "WHERE newer.commit_id = mine.commit_id AND newer.seq > mine.seq AND newer.request <> '' "
            "AND newer.job = mine.job AND newer.repository = mine.repository "
            "AND json_extract(newer.command, '$.job.cell') = json_extract(mine.command, '$.job.cell') LIMIT 1"
        )
        return self._database.read(lambda db: db.execute(query, (run.id, pushed)).fetchone()) is not None
