"""What turns are decided from (`core.runs.turns`): the queues, what is held, what was used lately.

The functions work in the transaction that they are given, as those of `rows` do.
"""

# ruff: noqa: S608  what is put into SQL here are this module's own constants; values are bound

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Final

import apsw

from pushtrain.core.runs.fairness import Line, used_up, weights
from pushtrain.core.runs.room import Needs, Place
from pushtrain.core.runs.turns import UNBOUNDED, Active, Bounds, Queue, Room, Waiting, lately, left
from pushtrain.core.values.card import Gpu
from pushtrain.plumbing.sqlite import rows
from pushtrain.plumbing.sqlite.database import Database
from pushtrain.plumbing.sqlite.rows import GROUP

_GROUPS: Final = 32
"""Groups that the query passes over; of more, the runs are read and passed over one by one."""
_WAITING: Final = f"id, gpus, gpu_memory, gpu_capability, gpu_share, max_parallel, rank, seq, {GROUP}"


_WAITS: Final = "SELECT seq FROM runs INDEXED BY runs_queued WHERE state = 'queued'"
_FIRST: Final = "ORDER BY sender, repository, gpus > 0, rank, seq LIMIT 1"
_OF_KIND: Final = f"{_WAITS} AND sender = queue.sender AND repository = queue.repository AND (gpus > 0) ="
QUEUES: Final = (
    "WITH RECURSIVE queue (sender, repository, gpus, seq, not_before) AS ("
    f"SELECT sender, repository, gpus > 0, seq, not_before FROM runs WHERE seq = ({_WAITS} {_FIRST}) "
    "UNION ALL SELECT next.sender, next.repository, next.gpus > 0, next.seq, next.not_before "
    "FROM queue JOIN runs AS next ON next.seq = coalesce("
    f"({_OF_KIND} 1 AND queue.gpus = 0 ORDER BY rank, seq LIMIT 1), "
    f"({_WAITS} AND sender = queue.sender AND repository > queue.repository {_FIRST}), "
    f"({_WAITS} AND sender > queue.sender {_FIRST}))) "
    "SELECT queue.sender, queue.repository, queue.gpus, head.rank, head.seq "
    "FROM queue JOIN runs AS head ON head.seq = iif(queue.not_before <= ?1, queue.seq, "
    f"({_OF_KIND} queue.gpus AND not_before <= ?1 ORDER BY rank, seq LIMIT 1))"
)
"""The head of each queue, found by jumping in the index from the first run of one to that of the next."""


def queues(
    db: apsw.Connection, now: float, may_start: Callable[[str], bool], active: Sequence[Active] = ()
) -> list[Queue]:
    """The queued runs that may start now, by who sent them, the repository and the kind of room they want.

    Only where each begins is read here; the rest as it is asked for, but those that their `max_parallel`
    holds back: of a matrix of ten thousand cells they would be read for each acceptance.
    """
    full = tuple(Counter(run.group for run in active).items())[:_GROUPS]
    return [
        Queue(
            sender, repository, bool(gpus), (rank, seq), _waiting(db, (sender, repository, gpus), now, full)
        )
        for sender, repository, gpus, rank, seq in db.execute(QUEUES, (now,))
        if may_start(sender)
    ]


def _waiting(
    db: apsw.Connection, key: tuple[str, str, int], now: float, full: Sequence[tuple[tuple[str, ...], int]]
) -> Iterator[Waiting]:
    held = f"AND NOT (max_parallel IS NOT NULL AND max_parallel <= ? AND ({GROUP}) = (?, ?, ?, ?)) "
    query = (
        f"SELECT {_WAITING} FROM runs INDEXED BY runs_queued WHERE state = 'queued' AND sender = ? "
        f"AND repository = ? AND (gpus > 0) = ? AND not_before <= ? {held * len(full)}ORDER BY rank, seq"
    )
    values = (*key, now, *(value for group, count in full for value in (count, *group)))
    for run_id, gpus, memory, capability, share, most, rank, seq, *group in db.execute(query, values):
        needs = Needs(gpus, memory, capability, bool(share))
        yield Waiting(run_id, needs, tuple(group), most, rank, seq)


def active(db: apsw.Connection) -> list[Active]:
    """What the active runs hold."""
    query = (
        "SELECT json_extract(value, '$.gpus'), gpu_memory, gpu_share, sender, "
        f"coalesce(json_extract(value, '$.started_at'), json_extract(value, '$.updated_at')), {GROUP} "
        "FROM runs WHERE state IN ('preparing', 'running') ORDER BY seq"
    )
    return [
        Active(tuple(json.loads(gpus)), tuple(group), memory, bool(share), sender, since)
        for gpus, memory, share, sender, since, *group in db.execute(query)
    ]


def used_lately(db: apsw.Connection, now: float) -> list[Line]:
    """What people have used of GPUs lately, by the ledger, each day as `core.runs.fairness` weighs it."""
    days = weights(now)
    values = ", ".join(["(?, ?)"] * len(days))
    query = (
        f"WITH days (day, weight) AS (VALUES {values}) SELECT sender, repository, sum(gpu_seconds * weight), "
        "total(gpu_seconds) FILTER (WHERE usage.day = ?) FROM days JOIN usage USING (day) "
        "WHERE gpu_seconds > 0 GROUP BY sender, repository"
    )
    given = [each for pair in days.items() for each in pair]
    return [Line._make(line) for line in db.execute(query, (*given, max(days)))]


class Turns:
    """Methods of the store that tell what there is to give, and who has had theirs."""

    _database: Database
    _clock: Callable[[], float]

    def used_up(self, sender: str, gpus: Sequence[Gpu], bounds: Bounds) -> bool:
        """Whether a person's GPU-hours of today are used up, what runs counted."""
        if not bounds.hours_a_day:
            return False
        now = self._clock()
        used = self._database.read(lambda db: lately(active(db), gpus, used_lately(db, now), now=now))
        return used_up(used, sender, bounds.hours_a_day)

    def counts(self) -> tuple[int, int, set[str]]:
        """How many runs are queued, how many are active, and the GPUs that those hold."""

        def work(db: apsw.Connection) -> tuple[int, int, set[str]]:
            held = active(db)
            return rows.queued(db), len(held), {uuid for run in held for uuid in run.gpus}

        return self._database.read(work)

    def room(
        self, *, slots: int, gpus: Sequence[Gpu], bounds: Bounds = UNBOUNDED
    ) -> tuple[int, tuple[Place, ...]]:
        """The slots and GPUs that a run which came now would find (`core.runs.turns.left`); as `claim`'s."""
        now = self._clock()

        def work(db: apsw.Connection) -> tuple[int, tuple[Place, ...]]:
            held = active(db)
            waiting = queues(db, now, lambda _: True, held)
            ledger = used_lately(db, now)
            return left(waiting, held, Room(slots, gpus, bounds), ledger=ledger, now=now)

        return self._database.read(work)
