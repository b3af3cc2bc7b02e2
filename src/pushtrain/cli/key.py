"""`pushtrain key`: who may command whom."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

from pushtrain.cli import render
from pushtrain.cli.options import Json, State
from pushtrain.core.errors import UsageError
from pushtrain.core.signing import fingerprint, parse_public, public_text
from pushtrain.plumbing.keys import Authorized, Grant, Scope, Trust, Trusted, load_or_create
from pushtrain.wiring.settings import open_state

app = App(
    name="key",
    help="Who may command whom: keys of this machine, of its senders, and of the executors that it trusts.",
)

Name = Annotated[str, Parameter(help="For people; one word.")]


@app.command
def show(*, json: Json = False, state: State = None) -> None:
    """Print this state folder's public key: what you give to the owner of an executor, or to its senders.

    It is made on the first call. The private key stays in the state folder and never leaves it.
    """
    folder = open_state(state)
    key = load_or_create(folder.key).public_key()
    if json:
        document = {"public_key": public_text(key), "fingerprint": fingerprint(key), "file": str(folder.key)}
        render.emit_json(document)
        return
    render.plain(public_text(key))
    render.say(f"[dim]fingerprint {fingerprint(key)}[/]")


@app.command
def authorize(
    key: str,
    /,
    *,
    repo: Annotated[tuple[str, ...], Parameter(negative="")] = (),
    scope: Annotated[tuple[Scope, ...], Parameter(negative="")] = (),
    name: Name = "",
    expires: str = "",
    json: Json = False,
    state: State = None,
) -> None:
    """Let a key command the executor of this state folder; a running executor obeys it at once.

    Authorising a key again replaces what it might do before. To take a key's rights away, remove its line
    from the file `authorized_keys` in the state folder.

    Args:
        key: What `pushtrain key show` prints on the other machine.
        repo: Only for this repository, such as `github.com/octo/hello`, or for those of a pattern such as
            `github.com/octo/*`; may be given several times. Every one that is served when left out.
        scope: Only this; may be given several times. All three when left out.
        expires: Until this date or time, such as 2027-01-31.
    """
    folder = open_state(state)
    public = parse_public(key)
    patterns = [_pattern(each) for each in repo]
    grant = Authorized(folder.authorized).add(
        public, scopes=scope, repositories=patterns, name=name, expires=expires
    )
    if json:
        render.emit_json(_grant(grant))
        return
    render.say(f"{_called(grant.name, fingerprint(public))} may {_rights(grant)}.")
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
        render.emit_json(_trust(entry))
        return
    where = f" at {entry.url}" if entry.url else ""
    render.say(f"{_called(entry.name, fingerprint(public))} is trusted as an executor{where}.")
    render.say("[dim]`pushtrain executor status` asks whether it answers and knows you.[/]")


@app.command(name="list")
def list_(*, json: Json = False, state: State = None) -> None:
    """List the keys that may command this executor, and the executors that are trusted here."""
    folder = open_state(state)
    grants = Authorized(folder.authorized).grants()
    trusted = Trusted(folder.trusted).entries()
    if json:
        document = {
            "authorized": [_grant(each) for each in grants],
            "trusted": [_trust(each) for each in trusted],
        }
        render.emit_json(document)
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
        rows = [(escape(each.name), _short(each.public_key), escape(_rights(each))) for each in grants]
        render.table(("name", "fingerprint", "may"), rows)
    if trusted:
        render.say("[bold]trusted as executors[/]")
        rows = [(escape(each.name), _short(each.public_key), escape(each.url)) for each in trusted]
        render.table(("name", "fingerprint", "address"), rows)


def _pattern(repo: str) -> str:
    """A repository's key or a pattern of keys; a remote is understood, too."""
    if "://" in repo or "@" in repo:
        from pushtrain.plumbing.git import key_of

        return key_of(repo)
    if "/" not in repo and repo != "*":
        raise UsageError(
            f"`{repo}` is no repository.", mend="Write it like github.com/octo/hello or github.com/octo/*."
        )
    return repo


def _check_address(url: str, identity: Path, key: str) -> None:
    from pushtrain.plumbing.client import ExecutorClient

    ExecutorClient(url, parse_public(key), load_or_create(identity)).close()


def _short(public: str) -> str:
    return fingerprint(parse_public(public))


def _called(name: str, key_id: str) -> str:
    from rich.markup import escape

    return f"{escape(name)} ({key_id})" if name else key_id


def _rights(grant: Grant) -> str:
    where = ", ".join(grant.repositories) or "every repository served here"
    until = (
        f", until {datetime.fromtimestamp(grant.expires, UTC):%Y-%m-%d %H:%M} UTC" if grant.expires else ""
    )
    return f"{', '.join(grant.scopes)} for {where}{until}"


def _grant(grant: Grant) -> dict[str, object]:
    return {"fingerprint": _short(grant.public_key), **grant.model_dump(mode="json")}


def _trust(entry: Trust) -> dict[str, object]:
    return {"fingerprint": _short(entry.public_key), **entry.model_dump(mode="json")}
