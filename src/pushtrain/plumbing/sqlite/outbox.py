"""The sender's half of the store: pushes heard of, commands to deliver, tips last seen.

A push and a command are written down before anyone is told that they are taken care of; an executor is
written beside a command before the first byte goes there.

A command is `waiting` (for an executor, or for the answer of the one that stands beside it), `delivered`
(signed for; as far as we know it waits there), `recalling` (it was asked for back, and the answer is not here
yet), `started` (it began there, or was ended: it stays), `refused` (for good), or `cancelled` (before any
executor got it).
"""

# ruff: noqa: S608  what is put into SQL here are this module's own constants; values are bound

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType
from typing import Final

import apsw

from pushtrain.core.errors import NotFound
from pushtrain.core.values.command import TrainCommand
from pushtrain.core.values.push import Push
from pushtrain.plumbing.sqlite.database import Database


@dataclass(frozen=True, slots=True)
class HeardPush:
    """A push as the sender keeps it."""

    id: int
    push: Push
    source: str
    """`webhook`, `poll` or `person`."""
    received_at: float
    note: str = ""
    """What came of it; empty: not looked at yet."""


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A command that the sender delivers, or has delivered."""

    command: TrainCommand
    state: str
    """`waiting`, `delivered`, `recalling`, `started`, `refused` or `cancelled`."""
    executor: str
    """Fingerprint of the executor that was chosen; empty: none yet."""
    tries: int
    not_before: float
    created_at: float
    updated_at: float
    detail: str
    """Why it still waits, or was refused."""
    placed_at: float
    """When it was first sent to that executor; while it is recalled: when that began."""
    accepted_at: float
    """When the executor took it on, by the executor's clock."""

    @property
    def run_id(self) -> str:
        """The run that this command is."""
        return self.command.run_id


_OUT: Final = (
    "command, state, executor, tries, not_before, created_at, updated_at, detail, placed_at, accepted_at"
)
_HEARD: Final = "id, value, source, received_at, note"
_FAR: Final = 600.0
"""Seconds to the next try that no pause is as long as: the clock was set back since it was noted."""
_STEPPED: Final = 60.0
"""Seconds by which an executor's word cannot be older than its acceptance: its clock was set back."""
_DROP: Final = (
    "UPDATE outbox SET state = 'cancelled', detail = ?, updated_at = ? "
    "WHERE run_id = ? AND state = 'waiting' AND executor = '' RETURNING seq"
)
_LATELY: Final = 10_000
"""Commands among which refused and cancelled ones are looked for: each is read for that."""


class Outbox:
    """Methods of the store that a sender uses."""

    _database: Database
    _clock: Callable[[], float]

    def record_push(self, push: Push, *, source: str) -> bool:
        """Keep a push until it is settled; False when this delivery was heard before."""
        now = self._clock()
        rows = self._database.write(
            lambda db: db.execute(
                "INSERT INTO pushes (host, delivery, source, repository, received_at, value) "
                "VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING RETURNING id",
                (push.host, push.delivery, source, push.key, now, push.model_dump_json()),
            ).fetchall()
        )
        return bool(rows)

    def pending_pushes(self, repository: str = "", *, limit: int = 1000) -> list[HeardPush]:
        """Pushes that nobody has looked at yet, of one repository or of all, oldest first."""
        query = (
            f"SELECT {_HEARD} FROM pushes WHERE settled_at IS NULL AND (?1 = '' OR repository = ?1) "
            "ORDER BY id LIMIT ?2"
        )
        return self._database.read(
            lambda db: [_heard(*row) for row in db.execute(query, (repository, limit))]
        )

    def pushes(self, *, limit: int = 50) -> list[HeardPush]:
        """Pushes heard of, newest first."""
        query = f"SELECT {_HEARD} FROM pushes ORDER BY id DESC LIMIT ?"
        return self._database.read(lambda db: [_heard(*row) for row in db.execute(query, (limit,))])

    def settle_push(
        self,
        push_id: int | None,
        commands: Sequence[TrainCommand],
        note: str,
        *,
        tip: tuple[str, str, str | None] | None = None,
        executor: str = "",
        dropped: Mapping[str, str] = MappingProxyType({}),
    ) -> int:
        """Put a push's commands into the outbox and note what came of it, in one transaction.

        A command that is in the outbox already stays as it is; but where it is not known there that an
        executor may have it, it is from now on.

        Args:
            push_id: Which push; None for commands that come from no push.
            commands: What it starts.
            note: For people; not empty.
            tip: Repository, ref and commit (None: deleted) that the reconciler need not look at again.
            executor: Fingerprint of the executor that may have the commands already.
            dropped: By run: commands whose place these take, unless an executor may have one, and why.

        Returns:
            How many commands are new.
        """
        now = self._clock()
        bodies = [(command.run_id, command.model_dump_json()) for command in commands]
        bind = (
            "UPDATE outbox SET executor = ?1, placed_at = ?2, updated_at = ?2 "
            "WHERE run_id = ?3 AND state IN ('waiting', 'refused', 'cancelled') AND executor = ''"
        )

        def work(db: apsw.Connection) -> int:
            new = 0
            for run_id, body in bodies:
                new += len(
                    db.execute(
                        "INSERT INTO outbox (run_id, push_id, state, executor, placed_at, created_at, "
                        "updated_at, command) VALUES (?1, ?2, 'waiting', ?3, iif(?3 = '', 0.0, ?4), ?4, ?4, "
                        "?5) ON CONFLICT DO NOTHING RETURNING seq",
                        (run_id, push_id, executor, now, body),
                    ).fetchall()
                )
                if executor:
                    db.execute(bind, (executor, now, run_id))
            for run_id, why in dropped.items():
                db.execute(_DROP, (why, now, run_id))
            db.execute("UPDATE pushes SET settled_at = ?, note = ? WHERE id = ?", (now, note, push_id))
            if tip is not None:
                _set_tip(db, *tip)
            return new

        return self._database.write(work)

    def outbox_due(self, now: float, *, limit: int = 1000) -> list[Outgoing]:
        """Commands that should be tried now, in the order they came."""
        query = (
            f"SELECT {_OUT} FROM outbox WHERE state = 'waiting' AND (not_before <= ?1 OR not_before > ?2) "
            "ORDER BY seq LIMIT ?3"
        )
        given = (now, now + _FAR, limit)
        return self._database.read(lambda db: [_outgoing(*row) for row in db.execute(query, given)])

    def outbox_next(self, *, after: float = -1) -> float | None:
        """When the next waiting command is due, looking only beyond `after`; None when none is."""
        query = "SELECT min(not_before) FROM outbox WHERE state = 'waiting' AND not_before > ?"
        due = self._database.read(lambda db: db.execute(query, (after,)).get)
        return None if due is None else float(due)

    def outbox(self, *, states: Sequence[str] = (), limit: int = 50) -> list[Outgoing]:
        """Commands, newest first."""
        condition = f"WHERE state IN ({', '.join('?' * len(states))}) " if states else ""
        query = f"SELECT {_OUT} FROM outbox {condition}ORDER BY seq DESC LIMIT ?"
        return self._database.read(
            lambda db: [_outgoing(*row) for row in db.execute(query, (*states, limit))]
        )

    def outbox_unsent(self, *, limit: int = 1000) -> list[Outgoing]:
        """Commands that no executor took on, newest first: waiting, or lately refused or cancelled."""
        query = (
            f"SELECT {_OUT} FROM (SELECT seq, {_OUT} FROM outbox WHERE state = 'waiting' UNION ALL "
            f"SELECT seq, {_OUT} FROM outbox WHERE seq > (SELECT max(seq) FROM outbox) - {_LATELY} "
            "AND state IN ('refused', 'cancelled')) ORDER BY seq DESC LIMIT ?"
        )
        return self._database.read(lambda db: [_outgoing(*row) for row in db.execute(query, (limit,))])

    def outgoing(self, run_id: str) -> Outgoing:
        """One command.

        Raises:
            NotFound: There is none for this run.
        """
        query = f"SELECT {_OUT} FROM outbox WHERE run_id = ?"
        row = self._database.read(lambda db: db.execute(query, (run_id,)).fetchone())
        if row is None:
            raise NotFound(
                f"There is no command for run {run_id[:32]} here.", mend="`pushtrain ps` lists the runs."
            )
        return _outgoing(*row)

    def outbox_place(self, run_id: str, executor: str) -> bool:
        """Write down who gets this command, before its first byte goes there; not if it waits no more."""
        return self._mark(
            run_id,
            "placed_at = iif(executor = ?1, placed_at, ?2), executor = ?1",
            (executor, self._clock()),
        )

    def outbox_delivered(self, run_id: str, *, accepted_at: float = 0) -> None:
        """An executor has taken the command on, in a signed answer; when, by its own clock."""
        self._mark(run_id, "state = 'delivered', detail = '', tries = 0, accepted_at = ?1", (accepted_at,))

    def outbox_retry(
        self,
        run_id: str,
        detail: str,
        not_before: float,
        *,
        executor: str | None = None,
        heard: bool = False,
    ) -> None:
        """The command could not be delivered, or not be recalled; try again at `not_before`.

        Args:
            run_id: Which one.
            detail: Why, for people.
            not_before: When.
            executor: Who is to get it then; empty: whoever fits; None: as before.
            heard: Whether its executor has answered, and has it: its silence is counted from now on.
        """
        place, values = "", list[str | float]()
        if heard:
            place, values = ", placed_at = ?3", [self._clock()]
        elif executor is not None:
            place, values = ", executor = ?3", [executor]
        self._mark(
            run_id,
            f"tries = tries + 1, detail = ?1, not_before = ?2{place}",
            (detail, not_before, *values),
            states=("waiting", "recalling"),
        )

    def outbox_refused(self, run_id: str, detail: str) -> None:
        """No executor will take the command; it stays, with the reason, for people to see."""
        self._mark(run_id, "state = 'refused', detail = ?1", (detail,))

    def outbox_cancelled(self, run_id: str, detail: str) -> bool:
        """Drop a command that no executor can have; False when one may have it, or it does not wait."""
        now = self._clock()
        return bool(self._database.write(lambda db: db.execute(_DROP, (detail, now, run_id)).fetchall()))

    def outbox_again(self, run_id: str) -> None:
        """A person sends a command once more that was refused or cancelled: it waits anew."""
        self._mark(run_id, "state = 'waiting', detail = '', tries = 0", (), states=("refused", "cancelled"))

    def outbox_waits(self, details: Mapping[str, str]) -> None:
        """Note what runs wait for, for people."""
        now = self._clock()
        query = "UPDATE outbox SET detail = ?, updated_at = ? WHERE run_id = ? AND state = 'waiting'"
        rows = [(detail, now, run_id) for run_id, detail in details.items()]
        self._database.write(lambda db: db.executemany(query, rows).fetchall())

    def outbox_recall(self, run_id: str) -> None:
        """A delivered command is wanted back; written before its executor is asked."""
        self._mark(
            run_id,
            "state = 'recalling', tries = 0, not_before = 0.0, placed_at = ?1",
            (self._clock(),),
            states=("delivered",),
        )

    def outbox_moved(self, command: TrainCommand, detail: str) -> None:
        """A command may go to another executor, as this attempt: its last one gave it back, or is lost."""
        self._mark(
            command.run_id,
            "state = 'waiting', executor = '', placed_at = 0.0, accepted_at = 0.0, tries = 0, "
            "not_before = 0.0, detail = ?1, command = ?2",
            (detail, command.model_dump_json()),
            states=("waiting", "recalling"),
        )

    def outbox_started(self, run_id: str) -> None:
        """A delivered command has begun where it is, or will never begin: it stays there."""
        self._mark(run_id, "state = 'started'", (), states=("delivered", "recalling"))

    def outbox_inherited(self, former: str, name: str) -> None:
        """An executor has a new key: what it may have, or has, it has under its new fingerprint."""
        there = "SELECT 1 FROM outbox WHERE executor = ? LIMIT 1"
        if self._database.read(lambda db: db.execute(there, (former,)).fetchone()):
            query = "UPDATE outbox SET executor = ? WHERE executor = ?"
            self._database.write(lambda db: db.execute(query, (name, former)).fetchall())

    def outbox_settled(self, executor: str, open_: Sequence[str], *, at: float) -> None:
        """What was delivered to an executor up to `at` and could not be taken back any more has begun.

        Args:
            executor: Whose word it is.
            open_: Every command of ours that waits there, or is prepared and may wait again.
            at: When that was so, by the executor's clock.
        """
        now = self._clock()
        query = (
            "UPDATE outbox SET state = 'started', updated_at = ? WHERE executor = ? AND state = 'delivered' "
            "AND (accepted_at <= ? OR accepted_at > ?) "
            f"AND run_id NOT IN ({', '.join('?' * len(open_))})"
        )
        given = (now, executor, at, at + _STEPPED, *open_)
        self._database.write(lambda db: db.execute(query, given).fetchall())

    def outbox_recalling(self) -> list[Outgoing]:
        """Commands whose recall has not been answered yet, in the order they came."""
        query = f"SELECT {_OUT} FROM outbox WHERE state = 'recalling' ORDER BY seq"
        return self._database.read(lambda db: [_outgoing(*row) for row in db.execute(query)])

    def outbox_there(self) -> dict[str, int]:
        """How many commands each executor has taken on that are not known to have begun."""
        query = "SELECT executor, count(*) FROM outbox WHERE state = 'delivered' GROUP BY executor"
        return self._database.read(lambda db: {str(name): int(count) for name, count in db.execute(query)})

    def outbox_movable(self, *, since: float) -> frozenset[str]:
        """Executors at which commands have begun that could go on elsewhere, and did so lately."""
        query = (
            "SELECT DISTINCT executor FROM outbox WHERE state = 'started' AND updated_at > ? "
            "AND json_extract(command, '$.job.checkpoint_to') <> ''"
        )
        return self._database.read(lambda db: frozenset(str(row[0]) for row in db.execute(query, (since,))))

    def outbox_waits_again(self, executor: str, waiting: Sequence[str]) -> None:
        """What had begun at an executor and waits there again may be recalled like any other."""
        marks = ", ".join("?" * len(waiting))
        query = (
            "UPDATE outbox SET state = 'delivered', updated_at = ? WHERE executor = ? AND state = 'started' "
            f"AND json_extract(command, '$.job.checkpoint_to') <> '' AND run_id IN ({marks})"
        )
        now = self._clock()
        self._database.write(lambda db: db.execute(query, (now, executor, *waiting)).fetchall())

    def outbox_of(self, run_ids: Sequence[str]) -> list[Outgoing]:
        """The commands for these runs, as far as there are any."""
        query = f"SELECT {_OUT} FROM outbox WHERE run_id IN ({', '.join('?' * len(run_ids))}) ORDER BY seq"
        return self._database.read(lambda db: [_outgoing(*row) for row in db.execute(query, tuple(run_ids))])

    def outbox_home(self, command: TrainCommand) -> str:
        """The executor that has other cells of this command's job, commit and request; empty: none."""
        query = (
            "SELECT executor FROM outbox WHERE executor <> '' AND state <> 'refused' AND run_id <> ?1 "
            "AND json_extract(command, '$.commit') = ?2 AND json_extract(command, '$.job.name') = ?3 "
            "AND json_extract(command, '$.request') = ?4 AND json_extract(command, '$.repository') = ?5 "
            "ORDER BY seq DESC LIMIT 1"
        )
        values = (command.run_id, command.commit, command.job.name, command.request, command.repository)
        return str(self._database.read(lambda db: db.execute(query, values).get) or "")

    def _mark(
        self,
        run_id: str,
        change: str,
        values: Sequence[str | float],
        *,
        states: Sequence[str] = ("waiting",),
    ) -> bool:
        """Change a command if it is in one of these states; `change` numbers its values from ?1."""
        now = self._clock()
        known = ", ".join(f"'{state}'" for state in states)
        end = f"updated_at = ?{len(values) + 1} WHERE run_id = ?{len(values) + 2} AND state IN ({known})"
        query = f"UPDATE outbox SET {change}, {end} RETURNING seq"
        return bool(self._database.write(lambda db: db.execute(query, (*values, now, run_id)).fetchall()))

    def tips(self, repository: str) -> dict[str, str]:
        """Each ref's commit as the reconciler last saw it."""
        query = "SELECT ref, commit_id FROM tips WHERE repository = ?"
        return self._database.read(
            lambda db: {str(ref): str(commit) for ref, commit in db.execute(query, (repository,))}
        )

    def set_tip(self, repository: str, ref: str, commit: str | None) -> None:
        """Note where a ref is; None forgets it."""
        self.set_tips(repository, {ref: commit})

    def set_tips(self, repository: str, tips: Mapping[str, str | None]) -> None:
        """Note where several refs are, in one transaction; None forgets one."""

        def work(db: apsw.Connection) -> None:
            for ref, commit in tips.items():
                _set_tip(db, repository, ref, commit)

        self._database.write(work)


def _set_tip(db: apsw.Connection, repository: str, ref: str, commit: str | None) -> None:
    if commit is None:
        db.execute("DELETE FROM tips WHERE repository = ? AND ref = ?", (repository, ref))
    else:
        db.execute(
            "INSERT INTO tips VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET commit_id = excluded.commit_id",
            (repository, ref, commit),
        )


def _heard(push_id: int, value: str, source: str, received_at: float, note: str) -> HeardPush:
    return HeardPush(
        id=push_id, push=Push.model_validate_json(value), source=source, received_at=received_at, note=note
    )


@lru_cache(maxsize=4096)
def _command(body: str) -> TrainCommand:
    """Each is read again whenever placement looks at what waits, and parsing is most of that."""
    return TrainCommand.model_validate_json(body)


def _outgoing(  # noqa: PLR0917  one argument a column
    command: str,
    state: str,
    executor: str,
    tries: int,
    not_before: float,
    created_at: float,
    updated_at: float,
    detail: str,
    placed_at: float,
    accepted_at: float,
) -> Outgoing:
    return Outgoing(
        command=_command(command),
        state=state,
        executor=executor,
        tries=tries,
        not_before=not_before,
        created_at=created_at,
        updated_at=updated_at,
        detail=detail,
        placed_at=placed_at,
        accepted_at=accepted_at,
    )
