"""`pushtrain key`: who may command whom."""

import time
from typing import Annotated, Final

from cyclopts import App, Parameter

from pushtrain.cli.granting import (
    Branches,
    Expires,
    Name,
    Repos,
    Scopes,
    called,
    day,
    document,
    id_of,
    pattern,
    rights,
)
from pushtrain.cli.options import Json, State
from pushtrain.cli.screen import render
from pushtrain.core.values.states import State as RunState
from pushtrain.core.wire.grants import Grant
from pushtrain.core.wire.signing import fingerprint, parse_public, public_text
from pushtrain.plumbing.disk.lock import holder
from pushtrain.plumbing.disk.state import StateFolder
from pushtrain.plumbing.keys.authorized import Authorized, load_or_create
from pushtrain.plumbing.keys.invitations import Invitations
from pushtrain.wiring.history import open_history
from pushtrain.wiring.settings import open_state
from pushtrain.wiring.trust import names as trusted_names

app = App(
    name="key",
    help="Who may command whom: keys of this machine, of its senders, and of the executors that it trusts.",
)
for name, target, line in (
    ("rotate", "rotate:rotate", "Make a new key, and have the old one say that it takes its place."),
    ("trust", "trust:trust", "Trust an executor's key, so that commands may go to it."),
    ("distrust", "trust:distrust", "Trust an executor's key no more: nothing is sent to it from now on."),
):
    app.command(f"pushtrain.cli.{target}", name=name, help=line)

_PATIENCE: Final = 5.0
"""Seconds that `revoke` waits for the running executor to cancel what waits."""


@app.command
def show(*, json: Json = False, state: State = None) -> None:
    """Print this state folder's public key: what you give to the owner of an executor, or to its senders.

    It is made on the first call. The private key stays in the state folder and never leaves it.
    """
    folder = open_state(state)
    key = load_or_create(folder.key).public_key()
    if json:
        found = {"public_key": public_text(key), "fingerprint": fingerprint(key), "file": str(folder.key)}
        render.emit_json(found)
        return
    render.plain(public_text(key))
    render.say(f"[dim]fingerprint {fingerprint(key)}[/]")


@app.command
def authorize(
    key: str,
    /,
    *,
    repo: Repos = (),
    branch: Branches = (),
    scope: Scopes = (),
    name: Name = "",
    expires: Expires = "",
    json: Json = False,
    state: State = None,
) -> None:
    """Let a key command the executor of this state folder; a running executor obeys it at once.

    `pushtrain invite` does this for a machine that you do not sit at. Authorising a key again replaces what
    it might do before; `pushtrain key revoke` takes its rights away.

    Args:
        key: What `pushtrain key show` prints on the other machine.
    """
    folder = open_state(state)
    public = parse_public(key)
    patterns = [pattern(each) for each in repo]
    grant = Authorized(folder.authorized).add(
        public, scopes=scope, repositories=patterns, branches=branch, name=name, expires=expires
    )
    if json:
        render.emit_json(document(grant))
        return
    render.say(f"{called(grant.name, fingerprint(public))} may {render.literal(rights(grant))}.")
    own = public_text(load_or_create(folder.key).public_key())
    render.say(f"[dim]The other side trusts this executor with: pushtrain key trust {own}[/]")
    render.say("[dim](and its URL behind that, where no roster tells it)[/]")


@app.command
def revoke(
    who: str,
    /,
    *,
    cancel_running: Annotated[bool, Parameter(negative="")] = False,
    json: Json = False,
    state: State = None,
) -> None:
    """Take all rights from a key: its next request is refused, and its runs that wait are cancelled.

    With it go the keys that took its place, or whose place it took (`pushtrain key rotate`). This works
    whether the executor runs or not: what waits is cancelled now, or at its next start. `key authorize` gives
    a key its rights back.

    Args:
        who: A name, a fingerprint or its beginning, or a public key, as `pushtrain key list` shows them.
        cancel_running: End what is being trained for that key, too.
    """
    folder = open_state(state)
    revoked = Authorized(folder.authorized).revoke(who, cancel_running=cancel_running)
    Invitations(folder.invitations).forget({each.public_key for each in revoked})
    serves = holder(folder.lock) is not None
    waiting, active = _seen_to(folder, revoked, patience=_PATIENCE if serves else 0)
    if json:
        found = {"revoked": [document(each) for each in revoked], "waiting": waiting, "running": active}
        render.emit_json(found)
        return
    for each in revoked:
        render.say(f"{called(each.name, id_of(each.public_key))} may do nothing here any more.")
    when = "are being cancelled" if serves else "are cancelled when the executor starts"
    if waiting:
        render.say(f"Its runs that wait {when}: {waiting}.")
    if active and cancel_running:
        render.say(f"Its runs that are being trained {when}: {active}.")
    elif active:
        render.say(f"Its runs that are being trained go on: {active}. `--cancel-running` ends them, too.")


@app.command(name="list")
def list_(*, json: Json = False, state: State = None) -> None:
    """List the keys that may command this executor, and the executors that are trusted here."""
    folder = open_state(state)
    grants = Authorized(folder.authorized).grants()
    trusted = trusted_names(folder)
    if json:
        found = {
            "authorized": [document(each) for each in grants],
            "trusted": [document(each) for each in trusted.values()],
        }
        render.emit_json(found)
        return
    if not grants and not trusted:
        render.say(
            "No other key is authorised or trusted here; this state folder's own may do everything.\n"
            "[dim]`pushtrain invite` lets somebody send commands (by hand: `pushtrain key authorize KEY`), "
            "`pushtrain join` names an executor (`pushtrain key trust KEY`).[/]"
        )
    now = time.time()
    if grants:
        render.say("[bold]may command this executor[/]")
        rows = [(each.name, id_of(each.public_key), _standing(each, now)) for each in grants]
        render.table(("name", "fingerprint", "may"), [tuple(map(render.literal, row)) for row in rows])
    if trusted:
        render.say("[bold]trusted as executors[/]")
        known = [
            (each.name, name, each.url if each.live(now) else _ended(each.revoked or each.until))
            for name, each in trusted.items()
        ]
        render.table(("name", "fingerprint", "address"), [tuple(map(render.literal, row)) for row in known])


def _standing(grant: Grant, now: float) -> str:
    if grant.revoked is not None:
        return f"nothing: revoked {day(grant.revoked)}"
    return rights(grant) if grant.live(now) else f"nothing: {_ended(grant.expires)}"


def _ended(moment: float | None) -> str:
    return f"not any more, since {day(moment or 0)}"


def _seen_to(folder: StateFolder, revoked: list[Grant], *, patience: float) -> tuple[int, int]:
    """How many runs of these keys still wait, and are being trained, after giving the executor a moment."""
    ids = {id_of(each.public_key) for each in revoked} | {name for each in revoked for name in each.was}
    history, _ = open_history(folder)
    if history is None:
        return 0, 0
    deadline = time.monotonic() + patience
    while True:
        states = [state for sender, runs in history.unended().items() if sender in ids for _, state in runs]
        waiting = states.count(RunState.QUEUED)
        if not waiting or time.monotonic() >= deadline:
            return waiting, len(states) - waiting
        time.sleep(0.1)  # the executor, another process, cancels and writes it down
