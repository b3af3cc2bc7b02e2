"""The durable state of an executor and of a sender: runs, attempts, events, nonces; pushes, commands, tips.

What a method wrote is on the disk when it returns. A run moves only through `core.lifecycle.advance`, its
event in the same transaction; a late write with an old claim's token is refused. One process at a time opens
a store (`plumbing.disk.lock`); within it every method may be called from any thread. Others may read it
beside that one (`view`).
"""

import json
import secrets
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import cache
from pathlib import Path

import apsw

from pushtrain.core.errors import Busy, Conflict, Forbidden
from pushtrain.core.lifecycle import (
    GOES_FIRST,
    Cancelled,
    Claimed,
    Event,
    Released,
    Returned,
    advance,
    comes_back,
    is_another,
    serves,
)
from pushtrain.core.runs.fairness import rank
from pushtrain.core.runs.turns import UNBOUNDED, Bounds, Room, pick
from pushtrain.core.values.card import Gpu
from pushtrain.core.values.command import Checkpoint, TrainCommand
from pushtrain.core.values.jobspec import MOST_PRIORITY
from pushtrain.core.values.run import Artifact, Attempt, Run
from pushtrain.core.values.states import NEVER, Outcome, State
from pushtrain.plumbing.sqlite import rows, turns
from pushtrain.plumbing.sqlite.accounts import charge
from pushtrain.plumbing.sqlite.cards import Cards
from pushtrain.plumbing.sqlite.database import Database
from pushtrain.plumbing.sqlite.statuses import Statuses
from pushtrain.plumbing.sqlite.turns import Turns
from pushtrain.plumbing.sqlite.view import View


class Store(View, Turns, Statuses, Cards):
    """One state folder's store, open for writing, too.

    Args:
        path: The file; made when it is not there.
        clock: Seconds since the epoch.

    Raises:
        StorageError: The file cannot be used: damaged, of a newer pushtrain, not writable.
    """

    def __init__(self, path: Path, *, clock: Callable[[], float] = time.time) -> None:
        self._database = Database(path)
        self._clock = clock

    # --- what came in ---------------------------------------------------------------------------------

    def accept(
        self,
        command: TrainCommand,
        *,
        sender: str,
        raw: bytes,
        headers: Mapping[str, str],
        nonce: str,
        nonce_expires: float,
        queue_limit: int,
        most_priority: int = MOST_PRIORITY,
        formerly: Collection[str] = (),
        speaks: Callable[[str], bool] = lambda _: False,
    ) -> tuple[Run, bool]:
        """Keep a command as a queued run, together with the nonce it came with.

        Args:
            command: What was sent.
            sender: The fingerprint of the key that signed it.
            raw: Its bytes.
            headers: Those that its signature covers, and the signature.
            nonce: Of that signature.
            nonce_expires: When that is certainly too old to be used again.
            queue_limit: How many runs may wait.
            most_priority: The highest priority that counts.
            formerly: The keys whose place the sender's has taken.
            speaks: Whether a key may send this command, too.

        Returns:
            The run, and whether it is new; a command that is known already is the run that it made. A run
            that was released from here and comes back as a later attempt, or that another key asks for, is
            queued anew, in its old place. While it is not over it is kept who else asks for it: see
            `hand_over`.

        Raises:
            Unauthorized: The nonce was used before.
            Conflict: The run is there as something else: whoever sent it had other ideas of this commit.
            Busy: `queue_limit` runs wait already.
        """
        now = self._clock()
        run = Run(
            id=command.run_id,
            command=command,
            sender=sender,
            attempt=command.attempt,
            accepted_at=now,
            updated_at=now,
        )
        command_json, value = command.model_dump_json(), rows.dump(run)
        signed_headers = json.dumps(dict(headers))

        def work(db: apsw.Connection) -> tuple[Run, bool]:
            rows.use_nonce(db, nonce, nonce_expires, now)
            known = rows.get(db, command.run_id)
            mine = {sender, *formerly}
            if known is not None and is_another(known, command, mine, speaks):
                raise _taken(known)
            strange = known is not None and known.sender not in mine
            anew = known is not None and strange and known.outcome is Outcome.MOVED
            if known is not None and not anew and not comes_back(known, command):
                if strange and serves(known):
                    rows.ask(db, sender, command, raw, signed_headers)
                return known, False
            queued = rows.queued(db)
            if queued >= queue_limit:
                raise Busy(
                    f"{queued} runs wait already, which is this executor's limit.",
                    mend="A sender tries again by itself; the owner may raise `queue_limit`.",
                )
            if known is not None:
                back = advance(known, Returned(command, sender, anew=anew), now=now)
                place = rank(back.accepted_at, command.job.priority, most_priority)
                rows.recommand(db, back, raw, signed_headers, rank=place, before=State.DONE)
                rows.tell(db, back, "returned", f"as attempt {back.attempt + 1}", now)
                return back, True
            place = rank(now, command.job.priority, most_priority)
            rows.insert(db, run, command_json, value, rank=place)
            db.execute("INSERT INTO received VALUES (?, ?, ?)", (run.id, raw, signed_headers))
            rows.tell(db, run, "accepted", "", now)
            return run, True

        return self._database.write(work)

    def use_nonce(self, nonce: str, expires: float) -> None:
        """Keep the nonce of a signed write that is not a command.

        Raises:
            Unauthorized: It was used before.
        """
        self._database.write(lambda db: rows.use_nonce(db, nonce, expires, self._clock()))

    def command_as_received(self, run_id: str) -> tuple[bytes, dict[str, str]]:
        """The signed command's bytes and headers."""
        row = self._database.read(
            lambda db: db.execute("SELECT raw, headers FROM received WHERE run_id = ?", (run_id,)).fetchone()
        )
        if row is None:
            raise rows.no_run(run_id)
        return bytes(row[0]), json.loads(row[1])

    # --- what moves -----------------------------------------------------------------------------------

    def claim(
        self,
        *,
        slots: int,
        gpus: Sequence[Gpu],
        executor: str,
        may_start: Callable[[str], bool] = lambda _: True,
        bounds: Bounds = UNBOUNDED,
    ) -> tuple[Run, Attempt] | None:
        """Start the next attempt of the run whose turn it is (`core.runs.turns`), or return None.

        Args:
            slots: How many runs that ask for no GPU may be active at once.
            gpus: The GPUs that are lent, free or not.
            executor: Who claims; goes into the attempt.
            may_start: Whether runs may start that the key with this fingerprint sent; others only wait.
            bounds: What the owner keeps of shared cards, and allows a person.
        """
        now, may = self._clock(), cache(may_start)

        def work(db: apsw.Connection) -> tuple[Run, Attempt] | None:
            ledger = turns.used_lately(db, now)
            active = turns.active(db)
            queues = turns.queues(db, now, may, active)
            turn = pick(queues, active, Room(slots, gpus, bounds), ledger=ledger, now=now)
            if turn is None:
                return None
            chosen, uuids = turn
            before = rows.get(db, chosen.id)
            if before is None:
                return None
            run = advance(before, Claimed(token=secrets.token_hex(16), gpus=uuids), now=now)
            if not rows.put(db, run, before=State.QUEUED):
                return None
            attempt = Attempt(
                run_id=run.id,
                number=run.attempt,
                executor=executor,
                claimed_at=now,
                gpus=uuids,
                waited=max(0.0, now - max(before.updated_at, before.not_before)),
            )
            rows.put_attempt(db, attempt)
            rows.tell(db, run, "claimed", f"attempt {run.attempt}", now)
            return run, attempt

        return self._database.write(work)

    def advance(
        self, run_id: str, event: Event, *, token: str | None = None, attempt: Attempt | None = None
    ) -> Run:
        """Move a run by one lifecycle event, its history and its attempt in the same transaction.

        Args:
            run_id: Which run.
            event: What happened.
            token: The claim that this write belongs to; None for what needs no claim.
            attempt: What is known of the attempt now; when the event ends it, it goes into the ledger.

        Raises:
            Conflict: The claim is not the current one any more.
            IllegalTransition: The event does not fit the run's state.
            NotFound: There is no such run.
        """
        now = self._clock()

        def work(db: apsw.Connection) -> Run:
            before = rows.claimed_by(db, run_id, token)
            run = advance(before, event, now=now)
            rows.put(db, run, before=before.state)
            if attempt is not None:
                rows.put_attempt(db, attempt)
                if before.state in rows.HOLDING and run.state not in rows.HOLDING:
                    charge(db, run, attempt, now=now)
            rows.tell(db, run, type(event).__name__.lower(), getattr(event, "detail", ""), now)
            return run

        return self._database.write(work)

    def save_attempt(self, attempt: Attempt, *, token: str) -> None:
        """Keep what is known of the current attempt.

        Raises:
            Conflict: The claim is not the current one any more.
        """

        def work(db: apsw.Connection) -> None:
            rows.claimed_by(db, attempt.run_id, token)
            rows.put_attempt(db, attempt)

        self._database.write(work)

    def request_cancel(self, run_id: str, *, by: str) -> Run:
        """Cancel a queued run at once; for one that is active, write the wish down.

        A second wish is the first one. Returns the run as it is then.

        Raises:
            Conflict: The command has ended already.
        """
        now = self._clock()

        def work(db: apsw.Connection) -> Run:
            before = rows.require(db, run_id)
            if before.state is State.QUEUED:
                when = "while it waited to go on" if before.attempt else "before it started"
                run = advance(before, Cancelled(f"cancelled by {by} {when}"), now=now)
                kind = "cancelled"
            elif before.state in {State.PREPARING, State.RUNNING}:
                if before.cancel_requested:
                    return before
                run = before.model_copy(update={"cancel_requested": True, "updated_at": now})
                kind = "cancel-requested"
            elif before.outcome is Outcome.CANCELLED:
                return before
            else:
                raise Conflict(
                    f"Run {before.short} has ended already ({before.outcome}).",
                    mend="There is nothing to cancel.",
                )
            rows.put(db, run, before=before.state)
            rows.tell(db, run, kind, f"by {by}", now)
            return run

        return self._database.write(work)

    def hand_over(
        self,
        run_id: str,
        *,
        why: str,
        may: Callable[[str], bool] = lambda _: True,
        other_than: str = "",
    ) -> str:
        """Let a run that is not over become that of another key that asked for it.

        So nobody takes a run from whoever else has asked for it, by letting go of it or losing a key.

        Args:
            run_id: Which run.
            why: Goes into its history.
            may: Whether runs of this key may start.
            other_than: Only to a key that asked for another ref than this one; empty: to any.

        Returns:
            For which ref it runs now; empty: nobody else has asked for it, and all is as it was.
        """
        now = self._clock()

        def work(db: apsw.Connection) -> str:
            before = rows.require(db, run_id)
            if not serves(before):
                return ""
            for sender, command, raw, headers in rows.asked(db, run_id):
                if sender == before.sender or not may(sender) or command.ref == other_than:
                    continue
                kept = command.model_copy(update={"checkpoint": before.command.checkpoint})
                run = before.model_copy(update={"sender": sender, "command": kept, "updated_at": now})
                place = float(db.execute("SELECT rank FROM runs WHERE id = ?", (run_id,)).get)
                rows.recommand(db, run, raw, headers, rank=place, before=before.state)
                rows.tell(db, run, "handed-over", f"to another key that asked for it: {why}", now)
                return command.ref
            return ""

        return self._database.write(work)

    def give_way(self, run_id: str, *, to: str) -> None:
        """Have a run wait until another one has ended; one that is active does so from its next attempt on.

        Raises:
            Conflict: It has ended.
        """
        now = self._clock()

        def work(db: apsw.Connection) -> None:
            before = rows.require(db, run_id)
            if before.state not in {State.QUEUED, State.PREPARING, State.RUNNING}:
                raise Conflict(f"Run {before.short} has ended already.", mend="Nothing needs to be done.")
            change: dict[str, object] = {"gives_way_to": to, "updated_at": now}
            if before.state is State.QUEUED:
                change |= {"not_before": NEVER, "waiting_for": GOES_FIRST}
            run = before.model_copy(update=change)
            rows.put(db, run, before=before.state)
            rows.tell(db, run, "gives-way", f"to run {to[:8]}", now)

        self._database.write(work)

    def save_checkpoint(self, run_id: str, checkpoint: Checkpoint) -> bool:
        """Keep where a waiting run's checkpoint is; False when the run has gone on meanwhile."""
        now = self._clock()

        def work(db: apsw.Connection) -> bool:
            before = rows.require(db, run_id)
            if before.state is not State.QUEUED or before.attempt != checkpoint.attempt:
                return False
            run = before.model_copy(update={"checkpoint": checkpoint, "updated_at": now})
            rows.put(db, run, before=State.QUEUED)
            rows.tell(db, run, "checkpoint-away", checkpoint.where, now)
            return True

        return self._database.write(work)

    def clock_set_back(self, by: float) -> int:
        """Bring forward, by so many seconds, every time of day that a run waits for; of how many runs."""
        now = self._clock()
        waiting = self._select(
            "WHERE state IN ('queued', 'publishing') AND not_before > ? AND not_before < ?", (now, NEVER)
        )

        def work(db: apsw.Connection) -> int:
            moved = 0
            for one in waiting:
                before = rows.require(db, one.id)
                if (before.state, before.not_before) == (one.state, one.not_before):
                    change = {"not_before": max(now, one.not_before - by)}
                    moved += rows.put(db, before.model_copy(update=change), before=one.state)
            return moved

        return self._database.write(work) if waiting else 0

    def free_ways(self) -> list[str]:
        """Let runs go on whose way is free: the run that went first has ended. Their ids."""
        waiting = self._select("WHERE state = 'queued' AND not_before >= ?", (NEVER,))
        free = [run for run in waiting if not run.gives_way_to or self._ended(run.gives_way_to)]
        if not free:
            return []
        now = self._clock()

        def work(db: apsw.Connection) -> list[str]:
            freed = []
            for one in free:
                before = rows.require(db, one.id)
                if before.state is not State.QUEUED or before.gives_way_to != one.gives_way_to:
                    continue
                change = {"gives_way_to": "", "not_before": 0.0, "waiting_for": "", "updated_at": now}
                rows.put(db, before.model_copy(update=change), before=State.QUEUED)
                freed.append(one.id)
            return freed

        return self._database.write(work)

    def _ended(self, run_id: str) -> bool:
        found = self._database.read(lambda db: rows.get(db, run_id))
        return found is None or found.state not in {State.QUEUED, State.PREPARING, State.RUNNING}

    def request_preempt(self, run_id: str, *, token: str, detail: str) -> None:
        """Write down that an active run's machine is taken back; a second wish is the first one.

        Raises:
            Conflict: The claim is not the current one any more.
        """
        now = self._clock()

        def work(db: apsw.Connection) -> None:
            before = rows.claimed_by(db, run_id, token)
            if before.preempt_requested or before.state not in {State.PREPARING, State.RUNNING}:
                return
            run = before.model_copy(update={"preempt_requested": True, "updated_at": now})
            rows.put(db, run, before=before.state)
            rows.tell(db, run, "preempt-requested", detail, now)

        self._database.write(work)

    def release(
        self,
        run_id: str,
        *,
        by: Collection[str],
        attempt: int,
        nonce: str,
        nonce_expires: float,
        seen: int | None = None,
        may: Callable[[str], bool] = lambda _: True,
    ) -> Run:
        """Let a queued run go to another executor; it never starts here again unless it is sent again.

        A second release of the same is the first one. Returns the run as it is then.

        Args:
            run_id: Which run.
            by: Fingerprints of whoever asks: its key, and those whose place this took.
            attempt: The `attempt` of the command that is taken back: a release that arrives late must not
                take a run that has come back meanwhile.
            nonce: What the request came with; used up in the same transaction.
            nonce_expires: When the nonce may be forgotten.
            seen: After which attempt it was found to leave nothing behind; None: nobody looked.
            may: Whether runs of a key may start: what another one has asked for does not count.

        Raises:
            Forbidden: Somebody else sent it.
            Conflict: It has started, has ended, or was placed here anew.
            Busy: It is being prepared, or was since it was looked at, which may have left something.
        """
        now = self._clock()

        def work(db: apsw.Connection) -> Run:
            rows.use_nonce(db, nonce, nonce_expires, now)
            before = rows.require(db, run_id)
            if before.sender not in by:
                raise Forbidden(
                    f"Run {before.short} was sent by another key.", mend="Who sent it can release it."
                )
            if before.command.attempt != attempt:
                raise Conflict(
                    f"Run {before.short} is here as attempt {before.command.attempt + 1}, not {attempt + 1}.",
                    mend="It was placed here anew; nothing needs to be done.",
                )
            if before.outcome is Outcome.MOVED:
                return before
            if before.state is State.PREPARING:
                raise Busy(
                    f"Run {before.short} is being prepared, and may wait again.", mend="Try again soon."
                )
            if before.state is not State.QUEUED:
                raise Conflict(
                    f"Run {before.short} is {before.state}; only one that waits can be released.",
                    mend="It stays where it is.",
                )
            if any(sender not in by and may(sender) for sender, *_ in rows.asked(db, run_id)):
                raise Conflict(
                    f"Another key has asked for run {before.short}, too.",
                    mend="It stays where it is, and runs for both.",
                )
            if seen is not None and before.attempt != seen:
                raise Busy(f"Run {before.short} has been started meanwhile.", mend="Try again soon.")
            run = advance(before, Released("released to another executor"), now=now)
            rows.put(db, run, before=State.QUEUED)
            rows.tell(db, run, "released", "", now)
            return run

        return self._database.write(work)

    def save_artifacts(self, run_id: str, artifacts: Sequence[Artifact]) -> None:
        """Keep where a run's files are, in place of what was known before."""

        def work(db: apsw.Connection) -> None:
            rows.require(db, run_id)
            db.execute("DELETE FROM artifacts WHERE run_id = ?", (run_id,))
            db.executemany(
                "INSERT INTO artifacts VALUES (?, ?, ?)",
                [(run_id, artifact.path, artifact.model_dump_json()) for artifact in artifacts],
            )

        self._database.write(work)


def _taken(known: Run) -> Conflict:
    """The answer to a command whose run is there as something else, instead of that run."""
    return Conflict(
        f"Run {known.short} of the job {known.command.job.name} is here as another one: it was sent before, "
        f"for {known.command.ref}, and not as you send it.",
        mend="Make a commit of your own (`git commit --amend`) and push that; the executor's owner sees with "
        "`pushtrain show` who sent the other one.",
    )
