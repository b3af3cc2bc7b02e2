"""`pushtrain key trust` and `key distrust`: which executors this machine believes."""

import re
from typing import Final

from pushtrain.cli.connect import here
from pushtrain.cli.granting import Name, called, document, id_of
from pushtrain.cli.options import Json, State
from pushtrain.cli.screen import render
from pushtrain.core.errors import NotFound
from pushtrain.core.wire.grants import Trust
from pushtrain.core.wire.roster import Standing
from pushtrain.core.wire.signing import fingerprint, parse_public
from pushtrain.plumbing.disk.state import StateFolder
from pushtrain.plumbing.http.connection import pool
from pushtrain.plumbing.keys.authorized import Trusted
from pushtrain.plumbing.keys.keyline import chosen
from pushtrain.wiring.directory import look_up
from pushtrain.wiring.settings import load_settings, open_state
from pushtrain.wiring.trust import by_environment, distrusted, word
from pushtrain.wiring.trust import names as trusted_names

_FINGERPRINT: Final = re.compile(r"SHA256:[A-Za-z0-9_-]{43}")


def trust(key: str, url: str = "", /, *, name: Name = "", json: Json = False, state: State = None) -> None:
    """Trust an executor's key: what does not prove that key is not believed, wherever it answers.

    `pushtrain join` does this with a code from the executor's owner. A fingerprint will do where a roster
    lists an executor with that key: stand in a clone of the repository.

    Args:
        key: What `pushtrain key show` prints on the executor's machine: the key, or its fingerprint.
        url: Where the executor is, such as `http://127.0.0.1:8421`, where no roster tells it.
    """
    folder = open_state(state)
    listed = ""
    if _FINGERPRINT.fullmatch(key):
        key, listed = _on_roster(folder, key)
    public = parse_public(key)
    if url:
        pool(url.rstrip("/")).clear()
    entry = Trusted(folder.trusted).add(public, url=url.rstrip("/"), name=name or listed)
    if json:
        render.emit_json(document(entry))
        return
    where = f" at {render.literal(entry.url)}" if entry.url else ""
    render.say(f"{called(entry.name, fingerprint(public))} is trusted as an executor{where}.")
    if fingerprint(public) in distrusted(folder):
        render.say(
            "Your own state folder distrusts it, so it is not believed: say the same without `--state`."
        )
        return
    render.say("[dim]`pushtrain executor status` asks whether it answers and knows you.[/]")


def distrust(who: str, /, *, json: Json = False, state: State = None) -> None:
    """Believe an executor's key no more, whoever else names it; nothing is sent to it from now on.

    With it go the keys that took its place, or whose place it took. `key trust` makes it believed again.

    Args:
        who: A name, a fingerprint or its beginning, or a public key, as `pushtrain key list` shows them.
    """
    folder = open_state(state)
    known = trusted_names(folder)
    try:
        meant = chosen(known, who)
    except NotFound:
        if not _FINGERPRINT.fullmatch(who):
            raise
        meant = Trust(public_key=_on_roster(folder, who)[0])
    if meant is None:
        meant = Trust(public_key=who)
    told = Trusted(folder.trusted).revoke(meant)
    if json:
        render.emit_json({"distrusted": [document(each) for each in told]})
        return
    for each in told:
        render.say(f"{called(each.name, id_of(each.public_key))} is not believed here any more.")
    if by_environment() & {id_of(each.public_key) for each in told}:
        render.say("PUSHTRAIN_TRUST names it as well; this folder does not believe it all the same.")


def _on_roster(folder: StateFolder, name: str) -> tuple[str, str]:
    """The public key with this fingerprint, as a roster tells it, and the name that stands on its card.

    Raises:
        NotFound: No roster here lists it.
    """
    known = look_up(folder, load_settings(folder), here, fresh=True)
    for found in known.listed:
        card = found.verdict.card
        if card is None or found.verdict.standing is Standing.FORGED or found.verdict.fingerprint != name:
            continue
        if id_of(card.public_key) == name:
            return card.public_key, word(card.name)
    raise NotFound(
        f"No roster here lists an executor with the key {name[:20]}….",
        mend="Stand in a clone of its repository, or name the whole key that `pushtrain key show` prints.",
    )
