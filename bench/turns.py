"""Whose turn it is among ten thousand waiting runs on eight GPUs: the decision alone, in its transaction."""

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from bench.measures import Figure
from bench.world import spread

if TYPE_CHECKING:
    import apsw

    from pushtrain.plumbing.sqlite.database import Database

WAITING = 10_000
_COPIES = (
    "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?1) INSERT INTO runs "
    "(id, repository, commit_id, ref, job, request, gpus, gpu_memory, state, not_before, command, value, "
    "sender, rank) SELECT printf('%032x', i), repository, commit_id, ref, job, i, gpus, gpu_memory, state, 0, "
    "command, value, 'key' || (i % ?2), rank + i FROM runs, n"
)
_LEDGER = (
    "WITH RECURSIVE d(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM d WHERE i < 13), "
    "p(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM p WHERE i + 1 < ?2) INSERT INTO usage "
    "SELECT ?1 - d.i, 'key' || p.i, 'github.com/octo/hello', 1, 60, 60 * p.i, 60, 0, 0, 0 FROM d, p"
)


def turns(quick: bool) -> Iterator[Figure]:
    """Deciding who starts next, with people who have all used the machine in the last two weeks."""
    for people in (1, 20, 100):
        with tempfile.TemporaryDirectory() as folder:
            times = _decisions(_made(Path(folder) / "store.db", people), 20 if quick else 200)
        median, high = spread(times)
        who = "one person" if people == 1 else f"{people} people"
        what = f"whose turn it is among {WAITING} waiting runs of {who}"
        yield Figure(what, median * 1e3, "ms", "≤ 1 ms", median <= 0.001, f"p90 {high * 1e3:.2f}")


def _made(path: Path, people: int) -> "Database":
    from pushtrain.core.values.jobspec import Resources
    from pushtrain.plumbing.sqlite.database import Database
    from pushtrain.plumbing.sqlite.store import Store
    from pushtrain.testing import NOON, Clock, a_command, a_spec

    store = Store(path, clock=Clock())
    command = a_command(job=a_spec(resources=Resources(gpus=1)))
    first = {"raw": b"", "headers": {}, "nonce": "n", "nonce_expires": NOON + 9, "queue_limit": 9}
    store.accept(command, sender="key0", **first)  # type: ignore[arg-type]
    store.close()
    database = Database(path)
    database.write(lambda db: db.execute(_COPIES, (WAITING, people)))
    database.write(lambda db: db.execute(_LEDGER, (int(NOON) // 86_400, people)))
    return database


def _decisions(database: "Database", rounds: int) -> list[float]:
    from pushtrain.core.runs.turns import Room, pick
    from pushtrain.plumbing.sqlite import turns
    from pushtrain.testing import NOON, a_gpu

    room = Room(8, tuple(a_gpu(index) for index in range(8)))

    def work(db: "apsw.Connection") -> list[float]:
        found = []
        for _ in range(rounds):
            begun = time.perf_counter()
            queues = turns.queues(db, NOON, lambda _: True)
            turn = pick(queues, turns.active(db), room, ledger=turns.used_lately(db, NOON), now=NOON)
            found.append(time.perf_counter() - begun)
            assert turn is not None
        return found

    try:
        return database.write(work)
    finally:
        database.close()
