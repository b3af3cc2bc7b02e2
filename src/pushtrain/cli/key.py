"""`pushtrain key`: who may command whom."""

from pathlib import Path

from cyclopts import App

from pushtrain.cli import render
from pushtrain.cli.granting import (
    Branches,
    Expires,
    Name,
    Repos,
    Scopes,
    called,
    document,
    id_of,
    pattern,
    rights,
)
from pushtrain.cli.options import Json, State
from pushtrain.core.signing import fingerprint, parse_public, public_text
from pushtrain.plumbing.keys import Authorized, Trusted, load_or_create
from pushtrain.wiring.settings import open_state

app = App(
    name="key",
    help="Who may command whom: keys of this machine, of its senders, and of the executors that it trusts.",
)


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

    Authorising a key again replaces what it might do before. To take a key's rights away, remove its line
    from the file `authorized_keys` in the state folder.

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
    render.say(f"{called(grant.name, fingerprint(public))} may {rights(grant)}.")
    own = public_text(load_or_create(folder.key).public_key())
    render.say(f"[dim]The other side trusts this executor with: pushtrain key trust {own}[/]")
    render.say("[dim](and its URL behind that, where no roster tells it)[/]")


@app.command
def trust(key: str, url: str = "", /, *, name: Name = "", json: Json = False, state: State = None) -> None:
    """Trust an executor's key: what does not prove that key is not believed, wherever it answers.

    Args:
        key: What `pushtrain key show` prints on the executor's machine.
        url: Where the executor is, such as `http://127.0.0.1:8421`; commands go there from now on.
    """
    folder = open_state(state)
    public = parse_public(key)
    if url:
        _check_address(url, folder.key, key)
    entry = Trusted(folder.trusted).add(public, url=url.rstrip("/"), name=name)
    if json:
        render.emit_json(document(entry))
        return
    where = f" at {entry.url}" if entry.url else ""
    render.say(f"{called(entry.name, fingerprint(public))} is trusted as an executor{where}.")
    render.say("[dim]`pushtrain executor status` asks whether it answers and knows you.[/]")


@app.command(name="list")
def list_(*, json: Json = False, state: State = None) -> None:
    """List the keys that may command this executor, and the executors that are trusted here."""
    folder = open_state(state)
    grants = Authorized(folder.authorized).grants()
    trusted = Trusted(folder.trusted).entries()
    if json:
        found = {
            "authorized": [document(each) for each in grants],
            "trusted": [document(each) for each in trusted],
        }
        render.emit_json(found)
        return
    if not grants and not trusted:
        render.say(
            "No other key is authorised or trusted here; this state folder's own may do everything.\n"
            "[dim]`pushtrain key authorize KEY` lets somebody send commands, `pushtrain key trust KEY URL` "
            "names an executor.[/]"
        )
    from rich.markup import escape

    if grants:
        render.say("[bold]may command this executor[/]")
        rows = [(escape(each.name), id_of(each.public_key), escape(rights(each))) for each in grants]
        render.table(("name", "fingerprint", "may"), rows)
    if trusted:
        render.say("[bold]trusted as executors[/]")
        rows = [(escape(each.name), id_of(each.public_key), escape(each.url)) for each in trusted]
        render.table(("name", "fingerprint", "address"), rows)


def _check_address(url: str, identity: Path, key: str) -> None:
    from pushtrain.plumbing.client import ExecutorClient

    ExecutorClient(url, parse_public(key), load_or_create(identity)).close()
