"""This machine's own state folder, read beside whoever serves it, or when nobody does.

It tells of the executor's runs as they were last written down, of commands that wait at the folder's sender
or were refused there, and of the pushes that it heard. Nothing is written here but a person's wish to cancel
what waits: the server has the only connection that writes.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final, Literal

from pushtrain.core.errors import NotFound, StorageError
from pushtrain.core.text.queries import shown_run
from pushtrain.core.values.command import TrainCommand
from pushtrain.core.values.run import LogChunk, Run, RunView
from pushtrain.core.values.states import Outcome, State
from pushtrain.plumbing.disk.lock import holder
from pushtrain.plumbing.disk.state import StateFolder
from pushtrain.plumbing.sqlite.outbox import HeardPush, Outgoing
from pushtrain.plumbing.sqlite.view import View
from pushtrain.sender.kept import KeptCommands

if TYPE_CHECKING:
    from pushtrain.core.runs.usage import Usage
    from pushtrain.plumbing.attempts.records import Verdict

_FEW: Final = 50
_AT_MOST: Final = 1000
"""Pushes among which those of a commit or branch are looked for."""
_PATIENCE: Final = 5.0
_PAUSE: Final = 0.05

KEPT: Final = (
    "nobody took it when it was sent: the next `pushtrain send`, or a sender on this folder, delivers it"
)


@dataclass(frozen=True, slots=True)
class Unsent:
    """A command that no executor has told us it took."""

    command: TrainCommand
    state: Literal["waiting", "refused", "cancelled"]
    detail: str
    """What it waits for, why it was refused, or by what it was cancelled; for people."""
    since: float
    updated_at: float
    executor: str = ""
    """Fingerprint of the executor that may have it, its answer lost; empty: none."""
    cancelling: bool = False
    """Whether somebody wishes it dropped, and the sender has not done so yet."""

    @property
    def id(self) -> str:
        """The run that it would be."""
        return self.command.run_id

    @property
    def short(self) -> str:
        """The first eight digits of the id, enough for people."""
        return self.id[:8]

    @property
    def run(self) -> Run:
        """As a run that no executor has, so that both can be listed alike."""
        waits = self.state == "waiting"
        return Run(
            id=self.id,
            command=self.command,
            sender="",
            outcome=Outcome.CANCELLED if self.state == "cancelled" else None,
            detail="" if waits else self.detail,
            cancel_requested=self.cancelling,
            waiting_for=self.detail if waits else "",
            accepted_at=self.since,
            updated_at=self.updated_at,
            done_at=None if waits else self.updated_at,
        )

    def document(self) -> dict[str, Any]:
        """For scripts: the run, with its state here in place of a run's."""
        return {**shown_run(self.run).model_dump(mode="json"), "state": self.state, "executor": self.executor}


class History:
    """What a state folder tells.

    Args:
        state: The folder.

    Raises:
        StorageError: Its store is damaged, or of another pushtrain's version; one sentence says which.
    """

    def __init__(self, state: StateFolder) -> None:
        self._state = state
        self._kept = KeptCommands(state.outbox)
        self._store = View(state.store) if state.store.is_file() else None

    @cached_property
    def server(self) -> int | None:
        """The process that serves the folder; None: nobody does."""
        return holder(self._state.lock)

    # --- the executor's half ------------------------------------------------------------------------------

    def runs(self, text: str = "", *, commit: str = "", limit: int = _FEW) -> list[Run]:
        """Runs of the folder's executor, newest first, by id, commit, branch or job; all without `text`.

        Args:
            text: What a person wrote.
            commit: The full commit that it means in the clone we stand in, if any.
            limit: How many at most.
        """
        if self._store is None:
            return []
        if not text:
            return self._store.runs(limit=limit)
        return self._store.find(text, limit=limit) or (
            self._store.find(commit, limit=limit) if commit else []
        )

    def unended(self) -> dict[str, list[tuple[str, State]]]:
        """Runs of the folder's executor that wait or are active, by the key that sent them."""
        return self._store.unended() if self._store is not None else {}

    def usage(self, days: int, *, executor: str) -> "Usage | None":
        """What the ledger tells of the last days; None where there is no store."""
        from pushtrain.core.runs.usage import DAY, Usage  # lazy: only `pushtrain usage` asks
        from pushtrain.plumbing.keys.authorized import Authorized

        if self._store is None:
            return None
        since = int(time.time()) // DAY - days + 1
        named = Authorized(self._state.authorized)
        entries = tuple(self._store.used(since=since))
        names = {each.sender: named.called(each.sender) for each in entries}
        return Usage(
            executor=executor,
            days=days,
            entries=entries,
            stood=tuple(self._store.stood(since=since)),
            names={key: name for key, name in names.items() if name},
        )

    def view(self, run_id: str) -> RunView:
        """A run as its executor would show it. Raises NotFound."""
        from pushtrain.wiring import remains  # lazy, likewise

        store = self._opened()
        run = store.run(run_id)
        return RunView(
            run=run,
            attempts=tuple(store.attempts(run_id)),
            events=tuple(store.events(run_id)),
            log_size=remains.size_of_log(self._state, run),
            artifacts=tuple(store.artifacts(run_id)),
        )

    def log_chunk(self, run: Run, attempt: int, offset: int, limit: int) -> LogChunk:
        """At most `limit` bytes of an attempt's log, from its folder; a living attempt still adds to it."""
        from pushtrain.wiring import remains  # lazy: whoever lists runs looks into no folder

        return remains.log_chunk(self._state, run, attempt, offset, limit)

    def verdict(self, run: Run) -> "Verdict | None":
        """How its last attempt ended, though nobody has noted it yet; None: it has not, or is lost."""
        from pushtrain.wiring import remains  # lazy, likewise

        return remains.verdict(self._state, run)

    # --- the sender's half --------------------------------------------------------------------------------

    def unsent(self, text: str = "", *, commit: str = "", limit: int = _FEW) -> list[Unsent]:
        """Commands of this folder that no executor took, newest first; chosen as `runs` are."""
        wishes = frozenset(self._kept.wishes())
        found = {
            command.run_id: Unsent(command, "waiting", KEPT, at, at, executor)
            for command, executor, at in self._kept.peek()
        }
        for out in self._store.outbox_unsent() if self._store else ():
            found[out.run_id] = self._unsent(out, wish=out.run_id in wishes)
        meant = [one for one in found.values() if means(one.command, text, commit)]
        return sorted(meant, key=lambda one: one.since, reverse=True)[:limit]

    def _unsent(self, out: Outgoing, *, wish: bool) -> Unsent:
        state: Literal["waiting", "refused", "cancelled"] = "waiting"
        detail = out.detail or "the sender has just begun to look for an executor"
        if out.state == "refused":
            state = "refused"
        elif out.state == "cancelled":
            state = "cancelled"
        elif self.server is None and wish and not out.executor:
            state, detail = "cancelled", "the next sender of this folder drops it"
        elif self.server is None:
            before = f"; before, {out.detail}" if out.detail else ""
            detail = f"nobody serves this state folder: start `pushtrain up` or `pushtrain sender`{before}"
        return Unsent(
            command=out.command,
            state=state,
            detail=detail,
            since=out.created_at,
            updated_at=out.updated_at,
            executor=out.executor,
            cancelling=wish and state == "waiting",
        )

    def cancel(
        self, run_id: str, *, patience: float = _PATIENCE, pause: Callable[[float], object] = time.sleep
    ) -> Unsent | None:
        """Have a command dropped before an executor gets it.

        Returns:
            What is known of it then: `cancelled`, or `waiting` where an executor may have it, which is found
            out first. None: an executor has taken it meanwhile; it can be cancelled there.

        Raises:
            Conflict: It is one that `pushtrain send` left, and an executor may have it.
        """
        before = next((one for one in self.unsent(limit=_AT_MOST) if one.id == run_id), None)
        if self._kept.drop(run_id) and before is not None and self._outgoing(run_id) is None:
            now = time.time()
            return Unsent(before.command, "cancelled", "cancelled before it was sent", before.since, now)
        self._kept.wish_cancel(run_id)
        out = self._outgoing(run_id)
        deadline = time.monotonic() + patience
        while self.server is not None and time.monotonic() < deadline:
            if out is not None and out.state != "waiting":
                break
            pause(_PAUSE)
            out = self._outgoing(run_id)
        if out is None or out.state in {"delivered", "started"}:
            return None
        return self._unsent(out, wish=True)

    def placed(self, run_id: str) -> str:
        """The executor (its fingerprint) that has a run from the sender, or is about to; empty: none."""
        out = self._outgoing(run_id)
        return out.executor if out is not None else ""

    def _outgoing(self, run_id: str) -> Outgoing | None:
        found = self._store.outbox_of([run_id]) if self._store else ()
        return next(iter(found), None)

    def pushes(self, text: str = "", *, commit: str = "", limit: int = _FEW) -> list[HeardPush]:
        """Pushes that the folder's sender heard of, newest first, by commit or branch; all without `text`."""
        if self._store is None:
            return []
        heard = self._store.pushes(limit=_AT_MOST if text else limit)
        return [one for one in heard if not text or _pushed(one, text, commit)][:limit]

    def _opened(self) -> View:
        if self._store is None:
            raise NotFound("There is no store in this state folder.", mend="`pushtrain ps` lists the runs.")
        return self._store


def open_history(state: StateFolder) -> tuple[History | None, str]:
    """A folder's history; None, and why, where its store cannot be read."""
    try:
        return History(state), ""
    except StorageError as error:
        return None, str(error)


def came_of(pushes: Sequence[HeardPush]) -> str:
    """A sentence for the newest of some pushes: what came of it; empty without any."""
    if not pushes:
        return ""
    heard = pushes[0]
    where = heard.push.ref.removeprefix("refs/heads/").removeprefix("refs/")
    note = heard.note or "it has not been looked at yet"
    return f"The push of {heard.push.after[:7]} to {where} was heard: {note.rstrip('.')}."


def means(command: TrainCommand, text: str, commit: str = "") -> bool:
    """Whether a person who writes this may mean that command: its id, commit, branch or job."""
    ref = command.ref
    names = (command.job.name, ref, ref.removeprefix("refs/heads/").removeprefix("refs/tags/"))
    starts = (command.run_id, command.commit)
    return (
        not text
        or text in names
        or command.commit == commit
        or any(one.startswith(text.lower()) for one in starts)
    )


def _pushed(heard: HeardPush, text: str, commit: str) -> bool:
    push = heard.push
    names = (push.ref, push.ref.removeprefix("refs/heads/").removeprefix("refs/tags/"))
    return text in names or push.after == commit or push.after.startswith(text.lower())
