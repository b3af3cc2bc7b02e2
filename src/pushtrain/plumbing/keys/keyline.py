"""What the two key files have in common: how their options read, and whom a person means by a word."""

from collections.abc import Mapping
from typing import Final, TypeVar

from pushtrain.core.errors import NotFound, UsageError
from pushtrain.core.wire.grants import Grant, Trust, date, kin, written
from pushtrain.core.wire.signing import fingerprint, parse_public

_ENOUGH: Final = len("SHA256:") + 6
"""Characters of a fingerprint that may stand for the whole."""
EntryT = TypeVar("EntryT", Grant, Trust)


def with_kin(entries: Mapping[str, EntryT], meant: EntryT) -> list[EntryT]:
    """An entry, and those of all keys that took each other's place."""
    first = fingerprint(parse_public(meant.public_key))
    found = [meant]
    found += [
        entries[name]
        for name in sorted(kin(entries, {first, *meant.was}))
        if name in entries.keys() - {first}
    ]
    return found


def chosen(entries: Mapping[str, EntryT], who: str) -> EntryT | None:
    """The entry that somebody means by a key, a fingerprint or its beginning, or a name.

    Args:
        entries: By fingerprint.
        who: What was said.

    Returns:
        The entry; None when it is a whole public key that is not among them.

    Raises:
        NotFound: None is meant.
        UsageError: Several are; it names their fingerprints.
    """
    if who.startswith("ed25519:"):
        return entries.get(fingerprint(parse_public(who)))
    start = who if who.startswith("SHA256:") else f"SHA256:{who}"
    found = {name for name, entry in entries.items() if who and entry.name == who}
    if not found and len(start) >= _ENOUGH:
        found = {name for name in entries if name.startswith(start)}
    if len(found) > 1:
        found = {name for name in found if entries[name].revoked is None} or found
    if not found:
        raise NotFound(
            f"No key here is called `{who[:60]}`, nor begins its fingerprint so.",
            mend="`pushtrain key list` shows names and fingerprints.",
        )
    if len(found) > 1 and found <= kin(entries, {min(found)}):  # keys of one machine: its newest
        return entries[max(found, key=lambda name: len(entries[name].was))]
    if len(found) > 1:
        raise UsageError(
            f"Several keys are meant by {who[:60]!r}: {', '.join(sorted(found))}.",
            mend="Say which fingerprint.",
        )
    return entries[found.pop()]


def only(options: Mapping[str, str], *known: str) -> None:
    """Raise ValueError for an option that is none of these."""
    unknown = [name for name in options if name not in known]
    if unknown:
        raise ValueError(f"there is no `{unknown[0][:40]}`, only {', '.join(known)}")


def listed(options: Mapping[str, str], name: str) -> tuple[str, ...]:
    """The words of an option with commas between; none where it is not there."""
    return tuple(options[name].split(",")) if name in options else ()


def date_of(options: Mapping[str, str], name: str) -> float | None:
    """The moment that an option names; None where it is not there."""
    return date(options[name]) if name in options else None


def when(moment: float | None) -> str:
    """A moment as an option's value; empty for none."""
    return "" if moment is None else written(moment)
