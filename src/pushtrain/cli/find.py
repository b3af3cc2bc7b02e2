"""From words on the command line to runs: on executors, in our own state folder, or on the results branch.

Where the executor of our own folder does not run, the folder tells of its runs; what waits at the folder's
sender, or was refused there, it tells always. What nobody answers for is looked for on the results branch of
the clone we stand in, which needs no executor and, once it was fetched, no network.
"""

import re
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pushtrain.cli.connect import Nobody, absences, ask_all, askable, everyone
from pushtrain.cli.screen import render
from pushtrain.core.errors import (
    NotFound,
    PushtrainError,
    StorageError,
    Unauthorized,
    Unreachable,
    UsageError,
)
from pushtrain.core.values.run import Run, RunView
from pushtrain.core.values.states import Outcome
from pushtrain.plumbing.http.client import ExecutorClient
from pushtrain.wiring.directory import Directory
from pushtrain.wiring.history import History, Unsent, came_of, open_history
from pushtrain.wiring.parts import own_id
from pushtrain.wiring.settings import open_state

if TYPE_CHECKING:
    from pushtrain.cli.archive import Archive
    from pushtrain.cli.published import Record

_SHOWN: Final = 5


@dataclass(frozen=True, slots=True)
class Found:
    """A run, and the executor that has it."""

    client: ExecutorClient
    view: RunView

    @property
    def run(self) -> Run:
        """The run itself."""
        return self.view.run


@dataclass(frozen=True, slots=True)
class Stored:
    """A run of our own folder's executor, which does not run now."""

    history: History
    view: RunView

    @property
    def run(self) -> Run:
        """The run itself."""
        return self.view.run


@dataclass(frozen=True, slots=True)
class Published:
    """A run on the results branch that no executor answers for."""

    archive: "Archive"
    record: "Record"

    @property
    def view(self) -> RunView:
        """What is told of it there."""
        return self.record.view

    @property
    def run(self) -> Run:
        """The run itself."""
        return self.view.run


@dataclass(frozen=True, slots=True)
class Heard:
    """What executors and our own folder told of runs, newest first, and who told nothing."""

    runs: tuple[tuple[ExecutorClient | None, Run], ...]
    """Each with the executor that has it; None: our own folder's, which does not run."""
    silent: tuple[str, ...]
    """A sentence for each executor that told nothing."""
    unsent: tuple[Unsent, ...] = ()
    """Commands of our own folder that no executor took."""
    trouble: PushtrainError | None = None
    """Why no executor told anything."""
    told: frozenset[str] = frozenset()
    """Executors that answered."""


def find_runs(text: str, state: Path | None, *, limit: int) -> Heard:
    """Runs by id, commit, branch or job, newest first; every run where `text` is empty.

    Raises:
        Nobody: No executor is known, and our own folder knows of nothing.
        Unreachable, Unauthorized: None of them tells anything, and neither does our own folder.
        StorageError: As `Nobody`, and our own folder's store cannot be read.
    """
    folder = open_state(state)
    history, damage = open_history(folder)
    commit = _local_commit(text) if text else ""
    # The outbox before the executors: what is delivered in between is told by them.
    unsent = history.unsent(text, commit=commit, limit=limit) if history else []
    try:
        heard = _asked(text, commit, state, limit)
    except (Nobody, Unreachable, Unauthorized) as error:
        if damage and isinstance(error, Nobody):
            raise StorageError(damage) from error
        heard = Heard((), (), trouble=error)
    runs = {run.id: (client, run) for client, run in heard.runs}
    silent = [*heard.silent, *([damage] if damage else [])]
    own = (
        []
        if history is None or own_id(folder) in heard.told
        else history.runs(text, commit=commit, limit=limit)
    )
    if own and history is not None:
        absent = history.server is None
        silence = "does not run" if absent else "does not answer"
        why = "" if absent or heard.trouble is None else f" {heard.trouble}"
        silent.append(
            f"The executor of this state folder {silence}: its runs are shown as it left them.{why}"
        )
    for run in own:
        if run.id not in runs or runs[run.id][1].outcome is Outcome.MOVED:
            runs[run.id] = (None, run)
    waits = {one.id for one in unsent if one.state == "waiting"}
    kept = [pair for pair in runs.values() if not (pair[1].outcome is Outcome.MOVED and pair[1].id in waits)]
    ids = {run.id for _, run in kept}
    left = tuple(one for one in unsent if one.id not in ids)
    if heard.trouble and not (kept or left):
        raise heard.trouble
    newest = sorted(kept, key=lambda pair: pair[1].accepted_at, reverse=True)[:limit]
    return Heard(tuple(newest), tuple(silent), left, heard.trouble, heard.told)


def _asked(text: str, commit: str, state: Path | None, limit: int) -> Heard:
    """What executors tell."""
    known = everyone(state)
    try:
        return _heard(known, text, commit, limit)
    except (Unreachable, Unauthorized):
        again = everyone(state, fresh=True)
        if [client.url for client in again.clients] == [client.url for client in known.clients]:
            raise
        return _heard(again, text, commit, limit)  # a tunnel has moved


def _heard(known: Directory, text: str, commit: str, limit: int) -> Heard:
    def question(client: ExecutorClient) -> list[Run]:
        runs = client.runs(find=text, limit=limit)
        return runs or (client.runs(find=commit, limit=limit) if commit else [])

    answers = ask_all(askable(known), question)
    told = {answer.client.id for answer in answers if answer.trouble is None}
    trouble = {one.client.id: one for one in answers if one.trouble and one.client.id not in told}
    sentences = [f"{known.name(one.client)}: {one.trouble}" for one in trouble.values()]
    if not told:
        raise _silence([one.trouble for one in trouble.values() if one.trouble], sentences)
    runs: dict[str, tuple[ExecutorClient, Run]] = {}
    for answer in answers:
        for run in answer.value or ():
            before = runs.get(run.id)
            if before is None or before[1].outcome is Outcome.MOVED:
                runs[run.id] = (answer.client, run)
    newest = sorted(runs.values(), key=lambda pair: pair[1].accepted_at, reverse=True)[:limit]
    silent = (*sentences, *absences(known, time.time()))
    return Heard(tuple(newest), silent, told=frozenset(told))


def _silence(troubles: Sequence[PushtrainError], sentences: Sequence[str]) -> PushtrainError:
    """One error for executors of whom none tells anything."""
    if len(troubles) == 1:
        return troubles[0]
    return Unreachable(f"No executor answers. {' '.join(sentences)}", mend="`pushtrain doctor` looks closer.")


def find_run(text: str, state: Path | None) -> Found | Stored | Unsent:
    """The newest run that `text` means: an id or its beginning, a commit, a branch, a job; empty: the newest.

    Raises:
        NotFound: There is none on the executors that answer, nor in our own folder.
        UsageError: It is the beginning of several ids.
        Nobody, Unreachable, Unauthorized, StorageError: As `find_runs`.
    """
    heard = find_runs(text, state, limit=_SHOWN)
    found: list[tuple[ExecutorClient | Unsent | None, Run]] = [*heard.runs]
    found += [(one, one.run) for one in heard.unsent]
    found.sort(key=lambda pair: pair[1].accepted_at, reverse=True)
    if not found:
        what = f"for `{text}`" if text else "yet"
        silent = "".join(f" {sentence.rstrip('.')}." for sentence in heard.silent)
        raise NotFound(f"There is no run {what}.{silent}", mend="`pushtrain ps` lists the runs.")
    by_id = [pair for pair in found if text and pair[1].id.startswith(text.lower())]
    if len(by_id) > 1:
        ids = ", ".join(run.short for _, run in by_id)
        raise UsageError(f"`{text}` is the beginning of several runs: {ids}.", mend="Give more digits.")
    where, run = (by_id or found)[0]
    if isinstance(where, Unsent):
        return where
    if where is not None:
        return Found(where, where.view(run.id))
    history = History(open_state(state))
    return Stored(history, history.view(run.id))


def find_anywhere(text: str, state: Path | None) -> Found | Stored | Unsent | Published:
    """As `find_run`; a run that nobody answers for is taken from the results branch, which is said.

    Raises:
        NotFound, Nobody, Unreachable, Unauthorized, StorageError: It is not there either; tells what the
            executors said, and what came of a push that started nothing.
        UsageError: As `find_run`.
    """
    try:
        return find_run(text, state)
    except (NotFound, Nobody, Unreachable) as error:
        archive = _archive()
        records = archive.find(text, limit=1) if archive else []
        if archive is None or not records:
            if came := what_came_of(text, state):
                what = f"for `{text}`" if text else "yet"
                raise NotFound(
                    f"There is no run {what}. {came}", mend="`pushtrain sender status` tells of pushes."
                ) from error
            raise
        if not isinstance(error, NotFound):
            from_the_branch(error)
        archive.only(records[0], text)
        return Published(archive, records[0])


def what_came_of(text: str, state: Path | None) -> str:
    """A sentence on the newest push that our own sender heard of; empty when it heard of none."""
    history, _ = open_history(open_state(state))
    commit = _local_commit(text) if text else ""
    return came_of(history.pushes(text, commit=commit, limit=1)) if history else ""


def published_runs(text: str, why: PushtrainError, *, limit: int) -> list[Run]:
    """Runs from the results branch, for when no executor tells of any, which is said.

    Raises:
        PushtrainError: There is no results branch here either: what was wrong with the executors.
    """
    archive = _archive()
    if archive is None:
        raise why
    records = archive.find(text, limit=limit)
    from_the_branch(why)
    return [record.view.run for record in records]


def from_the_branch(why: PushtrainError) -> None:
    """Say that what follows is read from the results branch, and why."""
    render.note(f"pushtrain: {why.message} What was published is shown.")


def _archive() -> "Archive | None":
    """The results branch of the clone we stand in, if there is one."""
    try:
        from pushtrain.cli.archive import open_archive  # only where nobody answers

        archive = open_archive()
    except PushtrainError:
        return None
    return archive if archive.runs.tip else None


def _local_commit(text: str) -> str:
    """What `text` means in the repository we stand in, such as HEAD or a tag; empty when nothing."""
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_./~^@{}-]*", text):
        return ""
    argv = ("git", "rev-parse", "--verify", "--quiet", "--end-of-options", f"{text}^{{commit}}")
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else ""
