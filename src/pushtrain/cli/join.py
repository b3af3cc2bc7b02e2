"""`pushtrain join`: use the code that an executor's owner gave to you."""

import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from pushtrain.cli.connect import ask_all, here
from pushtrain.cli.granting import Name, called, id_of, rights
from pushtrain.cli.options import Json, State
from pushtrain.cli.screen import render
from pushtrain.core.errors import Unreachable, UsageError
from pushtrain.core.wire.invitation import Keys, derived, parse_code
from pushtrain.core.wire.roster import wrong_address
from pushtrain.plumbing.keys.authorized import Trusted, load_or_create
from pushtrain.plumbing.keys.enrol import Joined, NotProven
from pushtrain.plumbing.keys.enrol import join as ask
from pushtrain.wiring.directory import look_up
from pushtrain.wiring.parts import local_url, running_card
from pushtrain.wiring.settings import load_settings, open_state
from pushtrain.wiring.trust import word

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from pushtrain.core.values.card import ExecutorCard
    from pushtrain.plumbing.disk.state import StateFolder

_MOST: Final = 16
"""Executors of a roster that are asked for an invitation."""


def join(code: str = "", /, *, name: Name = "", json: Json = False, state: State = None) -> None:
    """Join an executor whose owner has invited you: both sides know each other's key afterwards.

    The code proves to each side that the other one's key is the true one. It is asked for when it is left
    out, so that it stands in no shell's history. Without an address before it, stand in a clone of the
    repository that you will push to: its roster tells where executors are.

    Args:
        code: What `pushtrain invite` printed, such as `lab-3.example.org/lusab-babad-gutih-tugad`.
    """
    said = parse_code(code or _asked())
    folder = open_state(state)
    identity = load_or_create(folder.key)
    own = running_card(folder)
    if said.url and own is not None and said.url in {own.public_url, local_url(own)}:
        raise UsageError(
            "That is the executor of this state folder; it obeys its own key already.",
            mend="Say it on the other machine, or with another `--state`.",
        )
    joined = _joined([said.url] if said.url else _listed(folder), derived(said.secret), identity)
    entry_name = name or word(joined.card.name)
    trusted = Trusted(folder.trusted)
    entry = trusted.add(joined.key, name=entry_name)
    on_roster = _on_roster(folder, id_of(entry.public_key))
    if not on_roster:
        entry = trusted.add(joined.key, url=joined.url, name=entry_name)
    if json:
        render.emit_json({"executor": entry, "fingerprint": id_of(entry.public_key), "terms": joined.terms})
        return
    everywhere = ", ".join(joined.card.repositories) or "what it serves"
    render.say(f"[bold]{called(entry.name, id_of(entry.public_key))}[/] is trusted as an executor.")
    render.say(f"You may {render.literal(rights(joined.terms, everywhere=everywhere))} there.")
    render.say(
        "[dim]Its address comes from the roster of this repository.[/]"
        if on_roster
        else f"[dim]It is asked at {render.literal(joined.url)}; no roster here tells its address.[/]"
    )


def _asked() -> str:
    """The code, from the terminal or from whoever writes to us."""
    if sys.stdin.isatty():
        sys.stderr.write("Code: ")
        sys.stderr.flush()
    return sys.stdin.readline(400)


def _listed(folder: "StateFolder") -> list[str]:
    """Addresses of the executors that the roster lists, newest card first, trusted or not."""
    known = look_up(folder, load_settings(folder), here, fresh=True)
    now = time.time()
    cards = [each.verdict.card for each in known.listed if each.verdict.card is not None]
    there = [card for card in cards if _answers(card, now)]
    urls = [card.public_url for card in sorted(there, key=lambda card: -card.timestamp)]
    urls += [client.url for client in known.clients]
    if not urls:
        raise UsageError(
            "The code names no address, and no roster here lists an executor that takes calls.",
            mend="Use the whole code, with the address before it; or stand in a clone of the repository.",
        )
    return list(dict.fromkeys(urls))[:_MOST]


def _answers(card: "ExecutorCard", now: float) -> bool:
    wrong = wrong_address(card.public_url, allow_http=True) if card.public_url else "it has none"
    return card.online and now < card.expires and not wrong


def _joined(urls: Sequence[str], keys: Keys, identity: "Ed25519PrivateKey") -> Joined:
    """The executor that knows the invitation; of several the error that says most, when none does."""
    answers = ask_all(urls, lambda url: ask(url, keys, identity))
    for answer in answers:
        if answer.value is not None:
            return answer.value
    errors = [answer.trouble for answer in answers if answer.trouble is not None]
    raise min(errors, key=lambda error: (isinstance(error, Unreachable), isinstance(error, NotProven)))


def _on_roster(folder: "StateFolder", key_id: str) -> bool:
    """Whether a roster of this folder, or of the clone we stand in, tells where the executor is.

    One without a tunnel is listed without an address: then the one at which it was joined is all there is.
    """
    known = look_up(folder, load_settings(folder), here, fresh=True)
    cards = [each.verdict.card for each in known.listed if each.verdict.fingerprint == key_id]
    return any(card is not None and card.public_url for card in cards)
