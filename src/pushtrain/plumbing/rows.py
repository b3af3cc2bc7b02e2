"""Runs, attempts and events as rows: what the store's transactions are made of.

Nothing here begins or ends a transaction; each function works in the one that it is given.
"""

# ruff: noqa: S608  what is put into SQL here are this module's own constants; values are bound

import json
from collections.abc import Iterator
from typing import Final

import apsw

from pushtrain.core.errors import Conflict, NotFound, Unauthorized
from pushtrain.core.model import Attempt, Run, State
from pushtrain.core.turns import Active, Waiting

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


def insert(db: apsw.Connection, run: Run, command: str, value: str) -> None:
    """Write a run that was not here before; `command` and `value` are its two halves as JSON."""
    job = run.command.job
    db.execute(
        f"INSERT INTO runs (id, {GROUP}, ref, gpus, gpu_memory, max_parallel, state, not_before, {RUN}) "
        "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 0.0, ?, ?)",
        (
            run.id,
            run.command.repository,
            run.command.commit,
            job.name,
            run.command.request,
            run.command.ref,
            job.resources.gpus,
            job.resources.gpu_memory,
            job.max_parallel,
            run.state.value,
            command,
            value,
        ),
    )


def take_back(db: apsw.Connection, run: Run, command: str, raw: bytes, headers: str) -> None:
    """Write a run that was released from here and is queued anew, with the command it comes back with."""
    put(db, run, before=State.DONE)
    job = run.command.job
    db.execute(
        "UPDATE runs SET command = ?, ref = ?, gpus = ?, gpu_memory = ?, max_parallel = ? WHERE id = ?",
        (command, run.command.ref, job.resources.gpus, job.resources.gpu_memory, job.max_parallel, run.id),
    )
    db.execute(
        "INSERT INTO received VALUES (?, ?, ?) "
        "ON CONFLICT DO UPDATE SET raw = excluded.raw, headers = excluded.headers",
        (run.id, raw, headers),
    )
    tell(db, run, "returned", f"as attempt {run.command.attempt + 1} or later", run.updated_at)


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


def waiting(db: apsw.Connection, now: float) -> Iterator[Waiting]:
    """Queued runs that may start now, in order of acceptance; read as they are asked for."""
    query = (
        f"SELECT id, json_extract(value, '$.sender'), gpus, gpu_memory, max_parallel, {GROUP} FROM runs "
        "WHERE state = 'queued' AND not_before <= ? ORDER BY seq"
    )
    for run_id, sender, gpus, gpu_memory, max_parallel, *group in db.execute(query, (now,)):
        yield Waiting(
            id=run_id,
            gpus=gpus,
            gpu_memory=gpu_memory,
            group=tuple(group),
            max_parallel=max_parallel,
            sender=sender,
        )


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
        f"SELECT json_extract(value, '$.gpus'), {GROUP} FROM runs "
        "WHERE state IN ('preparing', 'running') ORDER BY seq"
    )
    return [Active(gpus=tuple(json.loads(gpus)), group=tuple(group)) for gpus, *group in db.execute(query)]
