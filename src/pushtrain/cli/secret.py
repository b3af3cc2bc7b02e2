"""`pushtrain secret`: give jobs secrets, sealed so that only their executors can read them."""

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Final

from cyclopts import App, Parameter

from pushtrain.cli.connect import here
from pushtrain.cli.options import Json, State
from pushtrain.cli.screen import render
from pushtrain.core.errors import NotFound, UsageError
from pushtrain.core.settings import Repository
from pushtrain.core.text.forms import clean
from pushtrain.core.values.secretname import is_name, problem
from pushtrain.core.wire.grants import moment
from pushtrain.core.wire.secrets import (
    EVERY_BRANCH,
    EVERY_JOB,
    MAX_VALUE,
    Sealed,
    check_patterns,
    day,
    scope,
    value_problem,
)
from pushtrain.plumbing.git.remotes import key_of
from pushtrain.plumbing.keys.ownersecrets import tidied
from pushtrain.wiring.sealed import Binding, Recipient, SealedSecrets
from pushtrain.wiring.settings import load_settings, open_state

app = App(
    name="secret",
    help="Give jobs secrets: sealed to an executor's key, for the jobs and branches of one repository.",
)

Executors = Annotated[
    tuple[str, ...],
    Parameter(name="--executor", negative="", help="Name or fingerprint; may be given several times."),
]
Where = Annotated[
    str, Parameter(name="--repo", help="Remote of the repository; that of the clone you stand in without it.")
]
_MEND: Final = "Name the variable that your code reads, such as `WANDB_API_KEY`; the value is asked for."


@app.command(name="set")
def set_(
    name: str,
    /,
    *,
    executor: Executors = (),
    repo: Where = "",
    job: str = EVERY_JOB,
    branch: str = EVERY_BRANCH,
    expires: str = "",
    file: Path | None = None,
    json: Json = False,
    state: State = None,
) -> None:
    """Seal a value for executors, and keep it beside the roster, where only they can read it.

    The value is asked for without showing it, or read from a pipe: `… | pushtrain secret set NAME`. It is
    never an argument, which every user of this machine could see. A job gets it as an environment variable
    when pushtrain.toml names it: `secrets = ["NAME"]`. Setting it again for the same job and branch replaces
    it.

    Args:
        name: The environment variable that it becomes.
        job: Only for jobs of this name or pattern.
        branch: Only for this branch, or for those of a pattern such as `release/*`; for tags `refs/tags/v*`.
        expires: Until this date or time, such as 2027-01-31, or for this long, such as 90d.
        file: Read the value from this file.
    """
    _check_name(name)
    check_patterns(job, branch)
    sealed = _of(repo, state)
    until = _until(expires)
    recipients = sealed.choose(executor)
    value = _value(name, file)
    sealed.seal(Binding(name, job, branch, until), value, recipients)
    if json:
        render.emit_json(
            {
                "name": name,
                "repository": sealed.repository.key,
                "job": job,
                "branch": branch,
                "expires": until or None,
                "executors": [{"name": one.name, "fingerprint": one.fingerprint} for one in recipients],
            }
        )
        return
    names = ", ".join(one.name for one in recipients)
    ends = f", until {day(until)}" if until else ""
    render.tell(f"{name} is sealed for {names}: {scope(job, branch)} of {sealed.repository.key}{ends}.")
    render.tell(f'Jobs that name it get it: `secrets = ["{name}"]` in pushtrain.toml.')


@app.command(name="list")
def list_(*, repo: Where = "", json: Json = False, state: State = None) -> None:
    """List the secrets that are sealed for a repository: for whom, for what, by whom; never the values."""
    sealed = _of(repo, state)
    entries = [entry for entry in sealed.read() if not entry.removed]
    known = {one.key: one for one in sealed.recipients()}
    if json:
        render.emit_json([_document(entry, known, sealed.sealer) for entry in entries])
        return
    if not entries:
        render.tell(
            f"No secret is sealed for {sealed.repository.key}. `pushtrain secret set NAME` seals one."
        )
        return
    render.table(
        ("name", "executor", "for", "by", "since", "until", ""),
        [_row(entry, known, sealed.sealer) for entry in sorted(entries, key=lambda each: each.name)],
    )


@app.command
def remove(
    name: str,
    /,
    *,
    executor: Executors = (),
    repo: Where = "",
    job: str = "",
    branch: str = "",
    json: Json = False,
    state: State = None,
) -> None:
    """Take a secret back: the next run that names it does not get it, and says so.

    What you sealed yourself is marked as removed under your signature, so that nobody can put it back. What
    was given out before is known to whoever got it: make a new value where it comes from.

    Args:
        name: The secret.
        job: Only what was set with this `--job`.
        branch: Only what was set with this `--branch`.
    """
    _check_name(name)
    sealed = _of(repo, state)
    entries = [entry for entry in sealed.read() if not entry.removed]
    keys = {one.key for one in sealed.choose(executor)} if executor else None
    gone = [
        entry
        for entry in entries
        if entry.name == name
        and job in {"", entry.job}
        and branch in {"", entry.branch}
        and (keys is None or entry.recipient in keys)
    ]
    if not gone:
        there = ", ".join(sorted({entry.name for entry in entries})) or "none"
        raise NotFound(f"No such secret is sealed for {sealed.repository.key}.", mend=f"There are: {there}.")
    sealed.remove(gone)
    if json:
        render.emit_json([_document(entry, {}, sealed.sealer) for entry in gone])
        return
    render.tell(f"{name} is removed ({len(gone)} sealed value{'s' if len(gone) > 1 else ''}).")


def _of(repo: str, state: Path | None) -> SealedSecrets:
    folder = open_state(state)
    settings = load_settings(folder)
    if repo:
        meant = Repository(key=key_of(repo), remote=repo)
    elif (clone := here()) is not None:
        meant = clone
    elif len(settings.repositories) == 1:
        meant = settings.repositories[0]
    else:
        raise UsageError(
            "It is not clear whose secrets are meant.", mend="Stand in a clone, or name it: `--repo URL`."
        )
    return SealedSecrets(folder, settings, meant)


def _check_name(name: str) -> None:
    if why := problem(name):
        shown = f"`{name}`" if is_name(name) else "What was given"  # it may be the value itself
        raise UsageError(f"{shown} {why}.", mend=_MEND)


def _until(expires: str) -> int:
    if not expires:
        return 0
    try:
        until = int(moment(expires, time.time()))
    except ValueError as error:
        raise UsageError(f"{str(error)[0].upper()}{str(error)[1:]}.") from error
    if until <= time.time():
        raise UsageError(f"`{clean(expires)}` is over.", mend="Name a time to come, such as 90d.")
    return until


def _value(name: str, file: Path | None) -> str:
    """The value, from wherever it is to come.

    Raises:
        UsageError: It cannot be read, or cannot be a secret; tells nothing of it.
    """
    mend = "Give it on standard input, with `--file`, or at the prompt."
    try:
        if file is not None:
            with file.expanduser().open("rb") as reading:
                text = tidied(reading.read(MAX_VALUE + 2).decode())
        elif sys.stdin.isatty():
            from getpass import getpass

            text = getpass(f"Value of {name} (it is not shown): ", stream=sys.stderr)
        else:
            text = tidied(sys.stdin.buffer.read(MAX_VALUE + 2).decode())
    except UnicodeDecodeError:
        raise UsageError(f"The value of {name} is not text in UTF-8.", mend="Encode it, as base64.") from None
    except OSError as error:
        raise UsageError(f"{file} cannot be read: {error.strerror}.", mend=mend) from error
    except EOFError:
        raise UsageError(f"No value was given for {name}.", mend=mend) from None
    if not text:
        raise UsageError(f"No value was given for {name}.", mend=mend)
    if why := value_problem(text):
        raise UsageError(f"The value of {name} cannot be a secret: it {why}.")
    return text


def _document(entry: Sealed, known: dict[str, Recipient], sealer: str) -> dict[str, Any]:
    one = known.get(entry.recipient)
    return {
        **entry.model_dump(mode="json", include={"name", "repository", "job", "branch", "recipient"}),
        "executor": one.name if one else "",
        "fingerprint": one.fingerprint if one else "",
        "sealer": entry.sealer_id,
        "mine": entry.sealer == sealer,
        "sealed_at": entry.sealed_at / 1000,
        "expires": entry.expires or None,
        "genuine": entry.genuine,
    }


def _row(entry: Sealed, known: dict[str, Recipient], sealer: str) -> Sequence[str]:
    one = known.get(entry.recipient)
    by = "you" if entry.sealer == sealer else f"{entry.sealer_id[:15]}…"
    trouble = ""
    if not entry.genuine:
        trouble = "[red]not signed by that key[/]"
    elif entry.expires and entry.expires <= time.time():
        trouble = "[yellow]expired[/]"
    elif one is None:
        trouble = "[yellow]no executor known here has that key[/]"
    return (
        entry.name,
        render.literal(one.name) if one else "?",
        render.literal(scope(entry.job, entry.branch)),
        by,
        day(entry.sealed_at / 1000),
        day(entry.expires) if entry.expires else "",
        trouble,
    )
