"""Runs, attempts and events as rows: what the store's transactions are made of.

Nothing here begins or ends a transaction; each function works in the one that it is given.
"""

# ruff: noqa: S608  what is put into SQL here are this module's own constants; values are bound

from typing import Final

import apsw

from pushtrain.core.errors import Conflict, NotFound, Unauthorized
from pushtrain.core.values.command import TrainCommand
from pushtrain.core.values.run import Attempt, Run
from pushtrain.core.values.states import State

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
    from pushtrain.core.runs.room import needs_of  # lazy: whoever only reads needs none of that

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
