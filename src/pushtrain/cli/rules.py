"""`pushtrain executor rules`: what the owner allows, in plain language, and what would become of a push."""

import contextlib
import textwrap
from dataclasses import asdict, dataclass
from typing import Annotated, Final

from cyclopts import Parameter

from pushtrain.cli.options import Json, State
from pushtrain.cli.screen import render
from pushtrain.core.errors import Forbidden, UsageError
from pushtrain.core.owner.explain import DEFAULT, Row, explain
from pushtrain.core.owner.ruling import (
    ALLOW,
    COMMITTED,
    KEYS,
    SIGNED,
    Allowed,
    Question,
    RefKind,
    Refusal,
    Sender,
    amount,
    kind_of,
    permit,
)
from pushtrain.core.settings import Settings
from pushtrain.core.wire.grants import OWNER, Grant, Scope
from pushtrain.core.wire.signing import fingerprint, parse_public
from pushtrain.plumbing.data.ledger import read_today
from pushtrain.plumbing.disk.lock import holder
from pushtrain.plumbing.disk.state import StateFolder
from pushtrain.plumbing.git.remotes import check_ref, key_of
from pushtrain.plumbing.keys.authorized import Authorized
from pushtrain.plumbing.keys.identity import Ring
from pushtrain.wiring.parts import identity, running_card
from pushtrain.wiring.settings import Loaded, load, open_state

_WIDEST: Final = 80
_LATE: Final = (
    "The file was changed after the executor had started, which goes by what stood there then: start it "
    "anew, and it goes by this. Trainings go on meanwhile."
)


def rules(
    *,
    repo: Annotated[str, Parameter(help="Ask of this repository: its address, or host/path.")] = "",
    ref: Annotated[str, Parameter(help="Ask of this branch, or full ref.")] = "",
    sender: Annotated[str, Parameter(help="Ask of this sender: name, fingerprint or public key.")] = "",
    json: Json = False,
    state: State = None,
) -> int:
    """Explain the rules in force here: each one's value, where it came from, and what it means.

    With `--repo`, `--ref` or `--sender` it tells instead whether such a push would be let in, and by which
    rule it is allowed or refused; then it exits with 0 or 4. What is left out is the first repository that
    is served, the branch main, and this executor's own key.

    It tells what a start from this shell would have in force: variables and flags of an executor that runs
    elsewhere, as a service perhaps, are not known here, and rules count from an executor's start on; it says
    so where the file was changed since. docs/rules.md is the page for owners.
    """
    folder = open_state(state)
    found = load(folder)
    if repo or ref or sender:
        return _answer(_judged(folder, found.settings, repo, ref, sender), as_json=json)
    rows = explain(found.settings.rules, found.origins)
    if json:
        told = {"settings": str(folder.settings), "changed_since_start": _changed_since_start(folder)}
        render.emit_json({**told, "rules": [asdict(row) for row in rows]})
        return 0
    _tell(folder, found, rows)
    return 0


# --- what is in force -------------------------------------------------------------------------------------


def _tell(folder: StateFolder, found: Loaded, rows: tuple[Row, ...]) -> None:
    name = found.settings.executor.name
    there = "" if folder.settings.exists() else " (there is none yet)"
    render.say(f"[bold]The owner's rules of {render.literal(name)}[/]")
    render.say(f"[dim]{render.literal(str(folder.settings))}{there}[/]")
    if _changed_since_start(folder):
        for line in _wrapped(_LATE, _width(), ""):
            render.say(f"[yellow]{line}[/]")
    group = ""
    for row in rows:
        if row.group != group:
            group = row.group
            render.say(f"\n[bold]{group}[/]")
        _tell_row(row, _now(folder, found.settings, row))


def _changed_since_start(folder: StateFolder) -> bool:
    """Whether the file says something else, perhaps, than the executor goes by that runs now."""
    with contextlib.suppress(OSError):  # either of them is not there
        return (
            folder.settings.stat().st_mtime > folder.lock.stat().st_mtime and holder(folder.lock) is not None
        )
    return False


def _tell_row(row: Row, now: str) -> None:
    width = _width()
    name, value = row.rule.removeprefix("rules."), render.literal(row.value)
    colour = "dim" if row.origin == DEFAULT else "cyan"
    gap = (width or _WIDEST) - 28 - len(row.value) - len(row.origin)
    beside = gap > 1 or width is None
    shown = f"[bold]{value}[/]{' ' * max(gap, 2)}" if beside else " " * (gap + len(row.value))
    render.say(f"  {name:<26}{shown}[{colour}]{render.literal(row.origin)}[/]")
    for line in _wrapped(row.value, width, "    ") if not beside else ():
        render.say(f"[bold]{render.literal(line)}[/]")
    for line in _wrapped(f"{row.means}{now}", width, "    "):
        render.say(f"[dim]{render.literal(line)}[/]")
    for number, entry in enumerate(row.entries, 1):
        for line in _wrapped(entry, width, "       ", f"    {number}. "):
            render.say(render.literal(line))


def _width() -> int | None:
    """Columns for what is told; None: a pipe or a file, where a line stays whole."""
    width = render.width()
    return None if width is None else min(width, _WIDEST)


def _wrapped(text: str, width: int | None, indent: str, first: str = "") -> list[str]:
    if width is None:
        return [f"{first or indent}{text}"] if text else []
    return textwrap.wrap(text, width, initial_indent=first or indent, subsequent_indent=indent)


def _now(folder: StateFolder, settings: Settings, row: Row) -> str:
    """What is so at this moment, to follow what a rule means."""
    if row.rule == "rules.limits.downloads_per_day":
        used = read_today(folder.downloads)
        return f" Today so far: {amount(used)}." if used or settings.rules.limits.downloads_per_day else ""
    if row.rule == "rules.min_isolation" and (card := running_card(folder)):
        return f" The executor that runs now has `{card.isolation}`."
    return ""


# --- what would become of a push --------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Judged:
    """A question, and the answer of each gate up to the one that refuses."""

    repository: str
    ref: str
    sender: str
    steps: tuple[tuple[str, str], ...]
    """Gate, and what it says."""
    refusal: Refusal | None = None
    later: tuple[str, ...] = ()
    """What only a run can prove."""


def _judged(folder: StateFolder, settings: Settings, repo: str, ref: str, who: str) -> _Judged:
    served = [one.key for one in settings.repositories]
    repository = _key(repo) if repo else next(iter(served), "")
    if not repository:
        raise UsageError("No repository is served here.", mend="Name one with `--repo`.")
    full = check_ref(ref if ref.startswith("refs/") else f"refs/heads/{ref or 'main'}")
    sender, grant = _sender(folder, who)
    steps: list[tuple[str, str]] = []

    def said(refusal: Refusal | None = None, later: tuple[str, ...] = ()) -> _Judged:
        return _Judged(repository, full, str(sender), tuple(steps), refusal, later)

    if repository not in served:
        return said(
            Refusal("repositories", f"{repository} is not served here", "Add it, or start with `--repo`.")
        )
    steps.append(("repositories", "it is served here"))
    if grant is None:
        return said(Refusal(KEYS, f"there is no key of `{sender}` in it", "`pushtrain key authorize KEY`"))
    if not (grant.allows(Scope.SEND, repository) and grant.sends(full)):
        return said(Refusal(KEYS, f"the key of `{sender}` may not send that", "Widen its line there."))
    steps.append((KEYS, f"the key of `{sender}` may send it"))
    answer = permit(settings.rules, Question(repository, full, sender))
    if isinstance(answer, Refusal):
        return said(answer)
    steps.append((ALLOW, _by(settings, answer)))
    return said(later=_later(settings, answer, full))


def _key(text: str) -> str:
    """A repository's key, from the key itself or from an address."""
    return key_of(text) if "://" in text or "@" in text or text.startswith("/") else text


def _sender(folder: StateFolder, who: str) -> tuple[Sender, Grant | None]:
    own = identity(folder).public_key()
    authorized = Authorized(folder.authorized, owner=Ring(folder.key))
    if who in {"", OWNER}:
        return Sender(fingerprint(own), OWNER), authorized.lookup(fingerprint(own))
    wanted = fingerprint(parse_public(who)) if who.startswith("ed25519:") else who
    for grant in authorized.grants():
        key = fingerprint(parse_public(grant.public_key))
        if wanted in {key, grant.name}:
            return Sender(key, grant.name, grant.was), authorized.lookup(key)
    return Sender(wanted), None


def _by(settings: Settings, answer: Allowed) -> str:
    entries = settings.rules.allow
    if not entries:
        return "no entry is written, and without one it is allowed"
    numbers = ", ".join(str(entries.index(entry) + 1) for entry in answer.by)
    return f"entry {numbers} allows it"


def _later(settings: Settings, answer: Allowed, ref: str) -> tuple[str, ...]:
    """What is seen to when it runs, in words."""
    rules, found = settings.rules, ["the ref must hold the commit"]
    if all(entry.id for entry in answer.by):
        numbers = ", ".join(dict.fromkeys(entry.id for entry in answer.by))
        found.append(f"its host must say that the repository's number is {numbers} ({ALLOW})")
    if kind_of(ref) is RefKind.PULL and not any(entry.forks for entry in answer.by):
        found.append(f"a branch or tag of the repository must hold the commit ({ALLOW})")
    if rules.require_signed_commits:
        found.append(f"a listed signer must have signed the commit ({SIGNED})")
    if rules.committed_jobs or rules.require_signed_commits:
        found.append(f"the job must be the commit's own ({COMMITTED})")
    if rules.hooks.before:
        found.append("your program must let it pass (rules.hooks.before)")
    return tuple(found)


def _answer(found: _Judged, *, as_json: bool) -> int:
    refused = found.refusal
    if as_json:
        told = asdict(found) | {"allowed": refused is None, "steps": dict(found.steps)}
        render.emit_json(told)
        return Forbidden.exit_code if refused else 0
    mark = f"[red]✗[/] [bold]refused by {refused.rule}[/]" if refused else "[green]✓[/] [bold]allowed[/]"
    asked = f"{found.repository}, {found.ref.removeprefix('refs/heads/')}, sent by {found.sender}"
    render.say(f"{mark}: {render.literal(asked)}")
    for gate, words in found.steps:
        render.say(f"  [green]✓[/] {gate:<17}{render.literal(words)}")
    if refused:
        first, *rest = _wrapped(refused.why, _width(), " " * 21)
        render.say(f"  [red]✗[/] {refused.rule:<17}{render.literal(first.strip())}")
        for line in rest:
            render.say(render.literal(line))
    elif found.later:
        render.say("[dim]Before anything of it is run:[/]")
        for words in found.later:
            render.say(f"  · {render.literal(words)}")
    return Forbidden.exit_code if refused else 0
