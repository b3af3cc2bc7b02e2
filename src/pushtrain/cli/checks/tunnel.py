"""What `pushtrain doctor` looks at between this machine's executor and its callers elsewhere."""

import time
from collections.abc import Iterator

from pushtrain.adapters.tunnels.authtoken import find
from pushtrain.cli.checks.finding import Finding
from pushtrain.core.errors import PushtrainError
from pushtrain.core.settings import ExecutorAddress, Settings
from pushtrain.plumbing.disk.state import StateFolder
from pushtrain.wiring.parts import client_maker, local_url, running_card
from pushtrain.wiring.tunnels import NONE, chosen, make


def tunnel(folder: StateFolder, settings: Settings) -> Iterator[Finding]:
    """The tunnel that `pushtrain executor` would open, and the running one from end to end: one request."""
    name = chosen(settings.executor, lends=True)
    if name == NONE:
        yield Finding(
            "tunnel",
            "note",
            "none: only this machine reaches its executor",
            "docs/tunnels.md has three ways.",
        )
    else:
        try:
            make(name, settings.executor)
        except PushtrainError as error:
            yield Finding("tunnel", "wrong", error.message, error.mend)
            return
        found = find() if name == "ngrok" else None
        yield Finding("tunnel", "ok", f"{name}, authtoken in {found.where}" if found else name)
    yield from _through(folder, settings)


def _through(folder: StateFolder, settings: Settings) -> Iterator[Finding]:
    """Call the running executor by its public URL."""
    card = running_card(folder)
    if card is None or card.public_url == local_url(card):
        return
    address = ExecutorAddress(url=card.public_url, public_key=card.public_key)
    began = time.monotonic()
    try:
        client_maker(folder, settings)(address).challenge()
    except PushtrainError as error:
        mend = "Its log says what became of the tunnel; it is opened again by itself."
        yield Finding("public address", "wrong", error.message, mend)
    else:
        took = round((time.monotonic() - began) * 1000)
        yield Finding("public address", "ok", f"{card.public_url} leads here, {took} ms there and back")
