"""Who is known here: executors that may be asked, and those that a roster lists but nobody can ask.

For verbs that a person calls, with or without a server on the same folder: nothing here opens the store.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Final

from pushtrain.core.settings import ExecutorAddress, Repository, Settings
from pushtrain.core.text.forms import clean
from pushtrain.core.wire.signing import fingerprint, parse_public
from pushtrain.plumbing.disk.state import StateFolder
from pushtrain.plumbing.http.client import ExecutorClient
from pushtrain.wiring.parts import client_maker, executor_addresses, mirror, running_card
from pushtrain.wiring.trust import names as named
from pushtrain.wiring.trust import trusted_here

if TYPE_CHECKING:
    from pushtrain.sender.known import Found

_FRESH: Final = 60.0
_NOW: Final = -1.0


@dataclass(frozen=True, slots=True)
class Directory:
    """Who is known."""

    clients: tuple[ExecutorClient, ...]
    """Each address of each executor that may be asked, the likeliest first."""
    listed: "tuple[Found, ...]" = ()
    """Every card on the rosters, and what it is worth here."""
    trouble: Mapping[str, str] = field(default_factory=dict)
    """Rosters that could not be read, by their places, and why."""
    names: Mapping[str, str] = field(default_factory=dict)
    """What people call an executor, by its key's fingerprint."""

    @property
    def executors(self) -> tuple[ExecutorClient, ...]:
        """Each executor that may be asked, at its likeliest address."""
        found: dict[str, ExecutorClient] = {}
        for client in self.clients:
            found.setdefault(client.id, client)
        return tuple(found.values())

    def name(self, client: ExecutorClient) -> str:
        """What people call it; its address where nobody told."""
        return self.names.get(client.id) or client.url


def look_up(
    state: StateFolder,
    settings: Settings,
    here: Callable[[], Repository | None] = lambda: None,
    *,
    fresh: bool = False,
) -> Directory:
    """Look up who is known.

    The rosters are those of the repository that is meant, else of all in the settings. Where no other key is
    trusted and an executor is known without them they are not looked at: they could tell of nobody else. What
    was read less than a minute ago counts, unless it tells of nobody who may be asked.

    Args:
        state: Whose keys and settings count.
        settings: Of this state folder.
        here: Tells which repository is meant, if any; asked where rosters are looked at.
        fresh: Whether to read the rosters again in any case.

    Raises:
        ConfigError: A setting names no roster's place.
    """
    direct = executor_addresses(state, settings)
    names = _names(state)
    make = client_maker(state, settings)
    if direct and len(trusted_here(state, settings)) == 1:
        return Directory(tuple(make(address) for address in direct), names=names)
    from pushtrain.core.wire.roster import Standing  # lazy, both: where there is no roster we are done by now
    from pushtrain.wiring.rosters import look

    meant = settings.repositories
    one = here()
    if one is not None:
        meant = tuple(each for each in meant if each.key == one.key) or (one,)
    meaning = settings.model_copy(update={"repositories": meant})
    rosters = look(state, meaning, partial(mirror, state), max_age=_NOW if fresh else _FRESH)
    listed = rosters.verdicts()
    if not fresh and not direct and not any(each.verdict.standing is Standing.TRUSTED for each in listed):
        return look_up(state, settings, lambda: one, fresh=True)
    cards = [each.verdict.card for each in listed if each.verdict.standing is Standing.TRUSTED]
    believed = [card for card in cards if card is not None]
    found = [ExecutorAddress(url=card.public_url, public_key=card.public_key) for card in believed]
    told = {
        each.verdict.fingerprint: clean(each.verdict.card.name[:60]) for each in listed if each.verdict.card
    }
    own = direct[:1] if running_card(state) else []
    clients = tuple(make(address) for address in dict.fromkeys((*own, *found, *direct)))
    for card in believed:
        for client in clients:
            if client.id == fingerprint(parse_public(card.public_key)):
                client.expect(card.sequence)
    return Directory(clients, tuple(listed), rosters.trouble(), {**told, **names})


def _names(state: StateFolder) -> dict[str, str]:
    """What the keys that are trusted here are called."""
    found = {name: entry.name for name, entry in named(state).items()}
    card = running_card(state)
    if card is not None:
        found[fingerprint(parse_public(card.public_key))] = card.name
    return {name: called for name, called in found.items() if called}
