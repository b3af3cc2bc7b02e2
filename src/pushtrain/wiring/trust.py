"""Whose answers are believed here: the executors' keys that this folder, its user, its settings or CI trust.

- `trusted_keys` of the state folder: what `pushtrain join` and `pushtrain key trust` write.
- The same file of the user's own state folder (`~/.local/state/pushtrain`), for every other folder of his:
  its keys count there, its addresses do not.
- `PUSHTRAIN_TRUST`: keys or fingerprints, for a machine that keeps nothing.
- Executors that the settings name, and this folder's own.

Whatever was distrusted in one of the files is not believed, whoever else names it.
"""

import contextlib
import os
import re
from collections.abc import Mapping
from typing import Final

from pushtrain.core.errors import ConfigError, PushtrainError, UsageError
from pushtrain.core.settings import Settings
from pushtrain.core.values.card import ExecutorCard
from pushtrain.core.wire.grants import Trust
from pushtrain.core.wire.signing import fingerprint, parse_public
from pushtrain.core.wire.succession import chain, known_from
from pushtrain.plumbing.disk.state import StateFolder, users_own
from pushtrain.plumbing.keys.authorized import Trusted, load_or_create

VARIABLE: Final = "PUSHTRAIN_TRUST"
_FINGERPRINT: Final = re.compile(r"SHA256:[A-Za-z0-9_-]{43}")


def files(state: StateFolder) -> tuple[Trusted, ...]:
    """The files that name trusted keys: the folder's, then the user's where it is another."""
    paths = dict.fromkeys((state.trusted, StateFolder(users_own()).trusted))
    return tuple(Trusted(path) for path in paths)


def trusted_here(state: StateFolder, settings: Settings, environ: Mapping[str, str] = os.environ) -> set[str]:
    """Fingerprints of the executors' keys that are trusted here; this folder's own is one of them.

    Raises:
        ConfigError: `PUSHTRAIN_TRUST` holds something else.
    """
    found = {fingerprint(load_or_create(state.key).public_key()), *by_environment(environ)}
    for address in settings.sender.executors:
        with contextlib.suppress(PushtrainError):  # whoever uses the address says what is wrong with it
            found.add(fingerprint(parse_public(address.public_key)))
    for file in files(state):
        found |= file.live().keys()
    return found - distrusted(state)


def distrusted(state: StateFolder) -> set[str]:
    """Fingerprints of keys that are not to be believed, whoever else names them."""
    return {name for file in files(state) for name in file.revoked()}


def by_environment(environ: Mapping[str, str] = os.environ) -> set[str]:
    """The fingerprints that `PUSHTRAIN_TRUST` names.

    Raises:
        ConfigError: It holds what is neither a key nor a fingerprint.
    """
    words = re.split(r"[\s,]+", environ.get(VARIABLE, "").strip())
    return {_named(word) for word in words if word}


def _named(word: str) -> str:
    if _FINGERPRINT.fullmatch(word):
        return word
    try:
        return fingerprint(parse_public(word))
    except UsageError as error:
        raise ConfigError(
            f"`{VARIABLE}` holds {word[:60]!r}, which is no key.",
            mend="Write keys (`ed25519:…`) or fingerprints (`SHA256:…`) with spaces between them.",
        ) from error


def follow(state: StateFolder, settings: Settings, card: ExecutorCard, *, url: str = "") -> bool:
    """Pin the key on a card, if a key that is trusted here says that it takes its place; whether it did.

    Args:
        state: Where it is pinned.
        settings: Name further keys that are trusted.
        card: Proven to be its key's.
        url: Where the executor is, when no roster tells.
    """
    statements = chain(card.succession, card.public_key)
    trusted = trusted_here(state, settings)
    path = known_from(statements, lambda name: name in trusted)
    if not path or path[-1].new_id in distrusted(state):
        return False
    old, between = path[0], [statement.old_id for statement in path]
    given = {"name": word(card.name), "url": url}
    knowing = [file for file in files(state) if old.old_id in file.live()]
    if sum(file.succeed(old.old_id, path[-1], between, **given) for file in knowing):
        return True
    if any(set(between) & set(entry.was) for entry in names(state).values()):
        return False  # another key has taken its place already
    own = Trusted(state.trusted)  # trusted by settings or by CI, which nobody can write
    own.add(parse_public(old.old), name=given["name"])
    return own.succeed(old.old_id, path[-1], between, **given)


def heirs(state: StateFolder) -> dict[str, str]:
    """The fingerprint of the key that counts now, for each that it took the place of."""
    found: dict[str, str] = {}
    for file in files(state):
        for name, entry in file.live().items():
            if entry.until is None:
                found |= dict.fromkeys(entry.was, name)
    return found


def word(name: str) -> str:
    """A name from outside as one word that a key file takes; empty when nothing is left of it."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name)[:60].strip("-")


def names(state: StateFolder) -> dict[str, Trust]:
    """Every key in the files, by fingerprint, also those that count no more; the folder's own word first."""
    found: dict[str, Trust] = {}
    for file in files(state):
        for name, entry in file.all().items():
            found.setdefault(name, entry)
    return found
