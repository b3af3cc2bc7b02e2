"""`pushtrain send`: one push by hand, for a person or a CI step."""

import logging
import os
import re
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Final

from cyclopts import Parameter

from pushtrain.cli.clone import open_clone
from pushtrain.cli.connect import absences
from pushtrain.cli.find import Found
from pushtrain.cli.logs import follow_log
from pushtrain.cli.options import Json, State
from pushtrain.cli.screen import render
from pushtrain.core.errors import NotFound, PushtrainError, RunFailed, Unreachable, UsageError
from pushtrain.core.jobs.overrides import Overrides, overridden
from pushtrain.core.settings import Repository, Settings
from pushtrain.core.text.forms import did_you_mean
from pushtrain.core.values.command import TrainCommand
from pushtrain.core.values.run import Run
from pushtrain.core.values.states import Outcome
from pushtrain.plumbing.disk.state import StateFolder
from pushtrain.plumbing.git.mirror import Mirror
from pushtrain.plumbing.git.remotes import key_of
from pushtrain.plumbing.http.client import ExecutorClient
from pushtrain.sender.delivery import Delivered, Executors, Refused, Undelivered
from pushtrain.sender.kept import Entry, KeptCommands
from pushtrain.sender.planning import plan_by_hand
from pushtrain.wiring.directory import look_up
from pushtrain.wiring.history import open_history
from pushtrain.wiring.parts import mirror
from pushtrain.wiring.settings import load_settings, open_state
from pushtrain.wiring.trust import heirs

log = logging.getLogger(__name__)

_COMMIT: Final = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_MANY: Final = 1000


@dataclass(frozen=True, slots=True)
class Sent:
    """A command that an executor has taken on."""

    run: Run
    client: ExecutorClient
    known: bool
    """Whether the executor had it before."""


def send(
    ref: str = "",
    /,
    *,
    job: Annotated[tuple[str, ...], Parameter(negative="")] = (),
    command: str = "",
    data_url: str = "",
    param: Annotated[tuple[str, ...], Parameter(negative="")] = (),
    repo: str = "",
    wait: Annotated[bool, Parameter(negative="")] = False,
    json: Json = False,
    state: State = None,
) -> None:
    """Start the jobs of a commit by hand; filters on branches and paths are not asked.

    Stand in a clone. The commit must be on the remote: what is not pushed is not seen. Sending the same
    commit twice is harmless, it is the same run; with `--command`, `--data-url` or `--param` each sending is
    a run of its own. What no executor takes is kept, and delivered by the next `send` or the folder's sender.

    Args:
        ref: A branch, a tag or a commit; what is checked out when left out.
        job: Which job; may be given several times. All that may be started by hand when left out.
        command: Run this instead of the job's command.
        data_url: Fetch this instead of the job's data; `PATH=URL` where it has several.
        param: `NAME=VALUE`, in place of the matrix's values; may be given several times.
        repo: A remote, instead of the clone's `origin`.
        wait: Follow the logs; exit with 12 if a run does not succeed.
    """
    folder = open_state(state)
    settings = load_settings(folder, repositories=(repo,) if repo else ())
    served = {repository.key: repository for repository in settings.repositories}
    wanted = Overrides(command=command, data_url=data_url, params=param)
    if repo:
        mirrored = mirror(folder, served[key_of(repo)])
        where, commit = _on_remote(mirrored, ref)
    else:
        repository, where, commit = _in_clone(ref, served)
        mirrored = mirror(folder, repository)
    _fetch(mirrored, where, commit)
    plan = plan_by_hand(
        ref=where,
        commit=commit,
        mirror=mirrored,
        jobs=job,
        change=partial(overridden, names=job, wanted=wanted),
        request=secrets.token_hex(8) if wanted else "",
    )
    if not plan.commands:
        raise UsageError(f"Commit {commit[:7]} {plan.note}.", mend="`pushtrain check` explains it.")
    kept = KeptCommands(folder.outbox)
    kept.forget(time.time())
    executors = _executors(folder, settings, mirrored)
    sent = deliver_all(plan.commands, executors, kept, placed=partial(_placed, folder))
    _tell(sent, as_json=json)
    if wait:
        _wait(sent)


# --- what is meant ----------------------------------------------------------------------------------------


def _in_clone(revision: str, served: Mapping[str, Repository]) -> tuple[Repository, str, str]:
    """The repository of the clone we stand in, and the ref and the commit that are meant."""
    clone = open_clone(Path.cwd())
    remote = clone.ask("remote", "get-url", "origin")
    if not remote:
        raise UsageError(
            "This clone has no remote `origin`.",
            mend="Add it with `git remote add`, or name one with `--repo URL`.",
        )
    key = key_of(remote)
    commit = clone.commit(revision or "HEAD")
    if not commit:
        raise NotFound("This clone has no commit yet.", mend="Commit and push first.")
    # A CI step stands on a detached HEAD and is told the branch by its host.
    told = os.environ.get("GITHUB_REF", "") if os.environ.get("GITHUB_SHA") == commit else ""
    where = told if told.startswith("refs/") and not revision else clone.ref(revision or "HEAD")
    return served.get(key, Repository(key=key, remote=remote)), where, commit


def _on_remote(mirrored: Mirror, revision: str) -> tuple[str, str]:
    """The ref and the commit that are meant on a remote of which we have no clone."""
    refs = mirrored.ls_remote()
    default = mirrored.default_branch()
    if _COMMIT.fullmatch(revision):
        tips = (ref for ref, commit in refs.items() if commit == revision)
        return next(tips, "") or mirrored.ref_with(revision) or default, revision
    for ref in (revision, f"refs/heads/{revision}", f"refs/tags/{revision}") if revision else (default,):
        if ref in refs:
            return ref, refs[ref]
    names = [ref.removeprefix("refs/heads/").removeprefix("refs/tags/") for ref in refs]
    raise NotFound(
        f"{mirrored.remote.key} has no branch or tag `{revision or default}`.",
        mend=did_you_mean(revision, names) or "Name a branch, a tag, or a commit in full.",
    )


def _fetch(mirrored: Mirror, where: str, commit: str) -> None:
    try:
        mirrored.fetch(where, commit)
    except NotFound as error:
        raise NotFound(
            error.message, mend=f"What is not pushed is not seen: `git push` first. {error.mend}"
        ) from error


def _executors(folder: StateFolder, settings: Settings, mirrored: Mirror) -> Sequence[ExecutorClient]:
    """Whom the commands may go to; where that is nobody, why is told, and the commands wait."""
    known = look_up(folder, settings, lambda: mirrored.remote)
    KeptCommands(folder.outbox).inherited(heirs(folder))
    for sentence in absences(known, time.time()):
        log.warning("%s.", sentence)
    return known.executors


def _placed(folder: StateFolder, run_id: str) -> str:
    """Which executor has a run from this folder's sender, or is about to; empty: none that we know."""
    history, _ = open_history(folder)
    return history.placed(run_id) if history is not None else ""


# --- handing it over --------------------------------------------------------------------------------------


class _Elsewhere(Exception):
    """The folder's sender gives the run to another executor, and so do we: it is written down."""


def deliver_all(
    commands: Sequence[TrainCommand],
    clients: Sequence[ExecutorClient],
    kept: KeptCommands,
    *,
    placed: Callable[[str], str] = lambda _: "",
) -> list[Sent]:
    """Deliver what an earlier `send` left, then these; a run that an executor has goes to no other one.

    Args:
        commands: These.
        clients: The executors.
        kept: Where a command is until one has it.
        placed: Which executor has a run from the folder's sender, or is about to; empty: none.

    Raises:
        Unreachable: Something could not be delivered yet; it is kept.
        PushtrainError: Something was refused.
    """
    executors = Executors(lambda: clients)
    before = _Before(clients)
    for command in commands:
        before.has(command)  # asked now: later they have what is sent here
    for entry in kept.left():
        with entry:
            old = _deliver(entry, executors, before, kept, placed)
        if not isinstance(old, Undelivered):
            title = f"{entry.command.job.title} at {entry.command.commit[:7]}, kept from an earlier `send`"
            log.warning("%s: %s", title, old.error if isinstance(old, Refused) else "delivered")
    sent: list[Sent] = []
    refused: PushtrainError | None = None
    waiting: list[str] = []
    for command in commands:
        held = kept.keep(command)
        if held is None:
            waiting.append("another `pushtrain send` is delivering the same command")
            continue
        with held:
            result = _deliver(held, executors, before, kept, placed)
        if isinstance(result, Delivered):
            client = next(client for client in clients if client is result.executor)
            sent.append(Sent(result.run, client, known=bool(before.has(command))))
        elif isinstance(result, Refused):
            refused = result.error
        else:
            waiting.append(result.detail)
    if refused is not None:
        raise refused
    if waiting:
        count = (
            f"{len(waiting)} of {len(commands)} commands wait" if len(commands) > 1 else "The command waits"
        )
        raise Unreachable(
            f"{count}: {waiting[0]}{'' if waiting[0].endswith(('.', '?')) else '.'}",
            mend="It is kept; the next `pushtrain send`, or a sender on this state folder, delivers it.",
        )
    return sent


def _deliver(
    entry: Entry,
    executors: Executors,
    before: "_Before",
    kept: KeptCommands,
    placed: Callable[[str], str],
) -> Delivered | Refused | Undelivered:
    run_id = entry.command.run_id

    def place(executor: str) -> None:
        with kept.alone(run_id, wait=True):
            theirs = placed(run_id)
            entry.place(theirs or executor)
        if theirs not in {"", executor}:
            raise _Elsewhere

    if not entry.executor and (there := before.has(entry.command, kept.executor_of(run_id))):
        entry.place(there)
    while True:
        try:
            result = executors.deliver(entry.command, entry.executor, place)
            break
        except _Elsewhere:  # where the sender has gone meanwhile; from now on it goes where we are
            continue
    if isinstance(result, Undelivered):
        if not result.stays:
            entry.place("")
    elif isinstance(result, Delivered) and not entry.command.request:  # else no sender will ever hear of it
        entry.delivered()
    else:
        entry.remove()
    return result


class _Before:
    """Which executors have which runs already. Whoever does not answer is asked again on delivery."""

    def __init__(self, clients: Sequence[ExecutorClient]) -> None:
        self._clients = clients
        self._found: dict[str, dict[str, str]] = {}
        self._answered: dict[str, set[str]] = {}

    def has(self, command: TrainCommand, noted: str = "") -> str:
        """The executor that has a run, and has not given it back; empty: none that we know.

        Args:
            command: The run's.
            noted: The executor that took it from an earlier `send`; believed as long as it does not answer.
        """
        if command.request:
            return ""
        if command.commit not in self._found:
            self._found[command.commit] = self._ask(command.commit)
        found = self._found[command.commit].get(command.run_id, "")
        return found or ("" if noted in self._answered[command.commit] else noted)

    def _ask(self, commit: str) -> dict[str, str]:
        found: dict[str, str] = {}
        answered = self._answered.setdefault(commit, set())
        for client in self._clients:
            with suppress(PushtrainError):
                runs = client.runs(find=commit, limit=_MANY)
                found |= {run.id: client.id for run in runs if run.outcome is not Outcome.MOVED}
                answered.add(client.id)
        return found


# --- telling ----------------------------------------------------------------------------------------------


def _tell(sent: Sequence[Sent], *, as_json: bool) -> None:
    if as_json:
        render.emit_json([{"run": one.run, "executor": one.client.url, "new": not one.known} for one in sent])
        return
    for one in sent:
        run = one.run
        title = f"{render.literal(run.command.job.title)} at {run.command.commit[:7]}"
        if one.known:
            state = render.coloured(run.ending or run.state)
            render.say(f"Run {run.short} exists already: {title}, {state}.")
            render.say(f"[dim]`pushtrain rerun {run.short}` runs it once more.[/]")
        else:
            render.say(f"Run {run.short} is {run.state}: {title}.")


def _wait(sent: Sequence[Sent]) -> None:
    """Follow every run to its end.

    Raises:
        RunFailed: One of them did not succeed.
    """
    failed: list[RunFailed] = []
    for one in sent:
        if len(sent) > 1:
            render.say(f"[bold]{render.literal(one.run.command.job.title)}[/] [dim]{one.run.short}[/]")
        try:
            follow_log(Found(one.client, one.client.view(one.run.id)))
        except RunFailed as error:
            failed.append(error)
    if len(failed) > 1:
        raise RunFailed(
            f"{len(failed)} of {len(sent)} runs did not succeed. {' '.join(one.message for one in failed)}",
            mend="`pushtrain show RUN` tells more.",
        )
    if failed:
        raise failed[0]
