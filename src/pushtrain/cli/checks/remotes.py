"""What `pushtrain doctor` looks at elsewhere: remotes, the Git host's statuses, executors, clocks.

Nothing is written there: the push is a rehearsal, and of the token is only asked what it sees.
"""

import os
import re
from collections.abc import Iterator
from typing import Final, Literal
from urllib.parse import urlsplit

from pushtrain.cli.checks.finding import Finding
from pushtrain.cli.connect import ask_all
from pushtrain.core.errors import PushtrainError
from pushtrain.core.settings import Repository, Settings
from pushtrain.core.text.forms import clean
from pushtrain.core.wire.signing import MAX_SKEW
from pushtrain.plumbing.disk.state import StateFolder
from pushtrain.plumbing.git.branch import Branch
from pushtrain.plumbing.http.client import ExecutorClient
from pushtrain.plumbing.http.clocks import ahead
from pushtrain.wiring.directory import Directory, look_up
from pushtrain.wiring.parts import executor_clients, mirror, running_card
from pushtrain.wiring.statuses import TOKEN, statuses

_PROBE: Final = "refs/heads/pushtrain/doctor"
"""A branch that nobody has: on the results branch itself the rehearsal could fail for being behind."""
_CREDENTIALS: Final = "Give git a credential that may (docs/settings.md, Credentials)."
_DIGITS: Final = 2


def repositories(folder: StateFolder, settings: Settings) -> Iterator[Finding]:
    """Every repository that is served or watched here: can it be read, can results be pushed."""
    if not settings.repositories:
        yield Finding("repositories", "note", "none in settings.toml; `pushtrain up` uses the clone's origin")
    for repository in settings.repositories:
        one = mirror(folder, repository, os.environ)
        try:
            refs = len(one.ls_remote())
        except PushtrainError as error:
            yield Finding("repository", "wrong", error.message, error.mend)
            continue
        yield Finding("repository", "ok", f"{repository.key}: {refs} ref{'s' if refs != 1 else ''} readable")
        try:
            Branch(one, _PROBE).rehearse()
        except PushtrainError as error:
            yield _no_push(folder, repository, error)
        else:
            yield Finding("results", "ok", f"{repository.key}: may be pushed")


def _no_push(folder: StateFolder, repository: Repository, error: PushtrainError) -> Finding:
    """An executor must push; a sender need not."""
    if running_card(folder) or any(folder.runs.iterdir()):
        return Finding("results", "wrong", error.message, error.mend or _CREDENTIALS)
    text = f"{repository.key}: may not be pushed; enough for a sender, not for an executor"
    return Finding("results", "note", text, _CREDENTIALS)


def commit_statuses(_folder: StateFolder, settings: Settings) -> Iterator[Finding]:
    """The token for commit statuses, where one could be used."""
    try:
        found = statuses(settings)
    except PushtrainError as error:
        yield Finding("commit status", "wrong", error.message, error.mend)
        return
    if not found.repositories:
        return
    if found.client is None:
        mend = f"To see runs beside commits, set {TOKEN} (docs/commit-status.md)."
        yield Finding("commit status", "note", f"off: there is no token for {found.host}", mend)
        return
    for key in found.repositories:
        try:
            said = found.client.probe(key)
        except PushtrainError as error:
            yield Finding("commit status", "wrong", f"{error.message} ({found.variable})", error.mend)
        else:
            yield Finding("commit status", "ok", f"{key}: {said} ({found.variable})")


def executors(folder: StateFolder, settings: Settings) -> Iterator[Finding]:
    """Every executor that is known here."""
    known = _known(folder, settings)
    if not known.clients:
        yield Finding(
            "executor", "note", "none is known here", "`pushtrain up` or `pushtrain executor` starts one."
        )
    reached: set[str] = set()
    for one in sorted(ask_all(known.clients, ExecutorClient.challenge), key=lambda one: one.value is None):
        if one.value is not None:
            free = f"{one.value.capacity.free_slots} of {one.value.capacity.slots} slots free"
            yield Finding("executor", "ok", f"{clean(one.value.card.name)} at {one.client.url}: {free}")
            reached.add(one.client.id)
        elif one.trouble is not None:
            verdict: Literal["note", "wrong"] = "note" if one.client.id in reached else "wrong"
            text = f"{known.name(one.client)}: {one.trouble.message}"
            yield Finding("executor", verdict, text, one.trouble.mend)


def _known(folder: StateFolder, settings: Settings) -> Directory:
    try:
        return look_up(folder, settings)
    except PushtrainError:  # the check of rosters tells of it
        return Directory(tuple(executor_clients(folder, settings)))


def clocks(folder: StateFolder, settings: Settings) -> Iterator[Finding]:
    """Our clock against those of the Git hosts and the executors; a signature is good for seconds."""
    places = {host: address for repository in settings.repositories for host, address in _web(repository)}
    places |= {client.url: f"{client.url}/healthz" for client in _known(folder, settings).executors}
    for name, address in places.items():
        seconds = ahead(address)
        if seconds is None:
            continue
        away = f"{abs(seconds):.0f} s {'ahead of' if seconds > 0 else 'behind'} {name}"
        if abs(seconds) > MAX_SKEW:
            mend = "Set both by the network: `timedatectl set-ntp true`."
            yield Finding("clock", "wrong", f"ours is {away}", mend)
        else:
            yield Finding(
                "clock", "ok", f"ours is {away}" if abs(seconds) >= _DIGITS else f"as that of {name}"
            )


def _web(repository: Repository) -> Iterator[tuple[str, str]]:
    """The web server of a remote's host, when it has one: its name and address."""
    parts = urlsplit(repository.remote)
    host = repository.key.partition("/")[0]
    if parts.scheme in {"http", "https"}:
        yield parts.netloc.rpartition("@")[2], f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}/"
    elif not repository.remote.startswith(("/", "file:")) and re.fullmatch(
        r"[a-z0-9-]+(\.[a-z0-9-]+)+", host
    ):
        yield host, f"https://{host}/"
