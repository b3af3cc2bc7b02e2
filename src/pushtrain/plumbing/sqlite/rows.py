"""Runs, attempts and events as rows: what the store's transactions are made of.

Nothing here begins or ends a transaction; each function works in the one that it is given.
"""

# ruff: noqa: S608  what is put into SQL here are this module's own constants; values are bound

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Final

import apsw

from pushtrain.core.errors import Conflict, NotFound, Unauthorized
from pushtrain.core.runs.fairness import Line, weights
from pushtrain.core.runs.room import Needs, needs_of
from pushtrain.core.runs.turns import Active, Queue, Waiting
from pushtrain.core.values.command import TrainCommand
from pushtrain.core.values.run import Attempt, Run
from pushtrain.core.values.states import State

_GROUPS: Final = 32
"""Groups that the query passes over; of more, the runs are read and passed over one by one."""
RUN: Final = "command, value"
"""Columns that `read` takes."""
GROUP: Final = "repository, commit_id, job, request"
HOLDING: Final = frozenset({State.PREPARING, State.RUNNING})
"""States in which a run holds a slot or GPUs."""


def dump(run: Run) -> str:
    """The run as JSON, without its command."""
    return run.model_dump_json(exclude={"command"})


def read(command: str, value: str) -> Run:
    """The run whose columns these are."""
    return Run.model_validate_json(f'{{"command":{command},{value[1:]}')


def get(db: apsw.Connection, run_id: str) -> Run | None:
    """The run with this id, if there is one."""
    row = db.execute(f"SELECT {RUN} FROM runs WHERE id = ?", (run_id,)).fetchone()
    return None if row is None else read(*row)


def require(db: apsw.Connection, run_id: str) -> Run:
    """The run with this id. Raises NotFound."""
    run = get(db, run_id)
    if run is None:
        raise no_run(run_id)
    return run


def no_run(run_id: str) -> NotFound:
    """The error that says so."""
    return NotFound(f"There is no run {run_id[:32]} here.", mend="`pushtrain ps` lists the runs.")


def queued(db: apsw.Connection) -> int:
    """How many runs wait."""
    return int(db.execute("SELECT runs FROM tally WHERE state = 'queued'").get or 0)


def claimed_by(db: apsw.Connection, run_id: str, token: str | None) -> Run:
    """The run, if this is its current claim, or None is given. Raises NotFound, Conflict."""
    run = require(db, run_id)
    if token is not None and token != run.token:
        raise Conflict(
            f"Run {run.short} has been claimed anew; what an earlier attempt says does not count any more.",
            mend="Nothing needs to be done.",
        )
    return run


def put(db: apsw.Connection, run: Run, *, before: State) -> bool:
    """Write a run that was in state `before`; False when it is not any more."""
    rows = db.execute(
        "UPDATE runs SET state = ?, not_before = ?, value = ? WHERE id = ? AND state = ? RETURNING seq",
        (run.state.value, run.not_before, dump(run), run.id, before.value),
    ).fetchall()
    return bool(rows)


def insert(db: apsw.Connection, run: Run, command: str, value: str, *, rank: float) -> None:
    """Write a run that was not here before; `command` and `value` are its two halves as JSON."""
    names = ("id", *GROUP.split(", "), "ref", *_ASKED, "state", "not_before", *RUN.split(", "))
    job = run.command.job
    db.execute(
        f"INSERT INTO runs ({', '.join(names)}) VALUES ({', '.join('?' * len(names))})",
        (
            run.id,
            run.command.repository,
            run.command.commit,
            job.name,
            run.command.request,
            run.command.ref,
            *_asked(run, rank),
            run.state.value,
            0.0,
            command,
            value,
        ),
    )


def recommand(db: apsw.Connection, run: Run, raw: bytes, headers: str, *, rank: float, before: State) -> None:
    """Write a run that has another command from now on, and another sender perhaps."""
    put(db, run, before=before)
    db.execute(
        f"UPDATE runs SET command = ?, ref = ?, {', '.join(f'{name} = ?' for name in _ASKED)} WHERE id = ?",
        (run.command.model_dump_json(), run.command.ref, *_asked(run, rank), run.id),
    )
    db.execute(
        "INSERT INTO received VALUES (?, ?, ?) "
        "ON CONFLICT DO UPDATE SET raw = excluded.raw, headers = excluded.headers",
        (run.id, raw, headers),
    )
    db.execute("DELETE FROM asked WHERE run_id = ? AND sender = ?", (run.id, run.sender))


def ask(db: apsw.Connection, sender: str, command: TrainCommand, raw: bytes, headers: str) -> None:
    """Keep that another key asks for a run, too."""
    db.execute(
        "INSERT INTO asked VALUES (?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET "
        "command = excluded.command, raw = excluded.raw, headers = excluded.headers",
        (command.run_id, sender, command.model_dump_json(), raw, headers),
    )


def asked(db: apsw.Connection, run_id: str) -> list[tuple[str, TrainCommand, bytes, str]]:
    """The other keys that ask for a run: key, command, and that as it was received."""
    query = "SELECT sender, command, raw, headers FROM asked WHERE run_id = ? ORDER BY sender"
    return [
        (sender, TrainCommand.model_validate_json(command), bytes(raw), headers)
        for sender, command, raw, headers in db.execute(query, (run_id,))
    ]


_ASKED: Final = ("gpus", "gpu_memory", "gpu_capability", "gpu_share", "max_parallel", "sender", "rank")


def _asked(run: Run, rank: float) -> tuple[int | float | str | None, ...]:
    """What a run asks for, and its place among those that wait: the columns `_ASKED`."""
    needs = needs_of(run.command.job.resources)
    most = run.command.job.max_parallel
    return needs.gpus, needs.memory, needs.capability, int(needs.share), most, run.sender, rank


def put_attempt(db: apsw.Connection, attempt: Attempt) -> None:
    """Write what is known of an attempt."""
    db.execute(
        "INSERT INTO attempts VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET value = excluded.value",
        (attempt.run_id, attempt.number, attempt.model_dump_json()),
    )


def tell(db: apsw.Connection, run: Run, kind: str, detail: str, now: float) -> None:
    """Add a line to a run's history."""
    db.execute(
        "INSERT INTO events SELECT ?1, coalesce(max(sequence), 0) + 1, ?2, ?3, ?4, ?5 FROM events "
        "WHERE run_id = ?1",
        (run.id, now, kind, run.state.value, detail),
    )


def use_nonce(db: apsw.Connection, nonce: str, expires: float, now: float) -> None:
    """Keep a nonce. Raises Unauthorized when it was used before."""
    db.execute("DELETE FROM nonces WHERE expires < ?", (now,))
    if not db.execute(
        "INSERT INTO nonces VALUES (?, ?) ON CONFLICT DO NOTHING RETURNING 1", (nonce, expires)
    ).fetchall():
        raise Unauthorized("The signature has been used before.", mend="Sign the request afresh.")


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


def unended(db: apsw.Connection) -> dict[str, list[tuple[str, State]]]:
    """Runs that wait or are active, oldest first, by the key that sent them."""
    query = (
        "SELECT json_extract(value, '$.sender'), id, state FROM runs "
        "WHERE state IN ('queued', 'preparing', 'running') ORDER BY seq"
    )
    found: dict[str, list[tuple[str, State]]] = {}
    for sender, run_id, state in db.execute(query):
        found.setdefault(sender, []).append((run_id, State(state)))
    return found


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
