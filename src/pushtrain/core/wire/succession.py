"""A key that takes another one's place: what the old one says of it, and whether to believe that. Pure.

A statement is five words, the same in a card, in a header and in a key's own file: the old key, the new key,
when it was made, until when the old one counts beside the new, and the old key's signature over these four.
Statements follow each other: each one's new key is the next one's old key. Whoever knows one of them knows
by that the last, as long as the one that it knows still counts.
"""

import base64
import binascii
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from pushtrain.core.errors import UsageError
from pushtrain.core.wire.signing import fingerprint, parse_public, public_text

HEADER: Final = "pushtrain-succession"
"""Where a sender with a new key shows its statements, with commas between."""
OVERLAP: Final = 7 * 86_400.0
LONGEST_OVERLAP: Final = 90 * 86_400.0
MOST: Final = 8
"""Statements in a row; whoever has missed more must be enrolled anew."""
_PREFIX: Final = b"pushtrain-succession-1\n"
_FORM: Final = re.compile(
    r"(ed25519:[A-Za-z0-9+/]{43}=) (ed25519:[A-Za-z0-9+/]{43}=) ([1-9][0-9]{0,11}) ([1-9][0-9]{0,11}) "
    r"([A-Za-z0-9_-]{86})"
)


@dataclass(frozen=True, slots=True)
class Succession:
    """One statement, whether it holds or not."""

    old: str
    new: str
    at: int
    until: int
    """When the old key ceases to count."""
    signature: str

    def __str__(self) -> str:
        return f"{self.old} {self.new} {self.at} {self.until} {self.signature}"

    @property
    def holds(self) -> bool:
        """Whether the old key has signed it."""
        try:
            signature = base64.urlsafe_b64decode(self.signature + "==")
            said = f"{self.old} {self.new} {self.at} {self.until}"
            parse_public(self.new)
            parse_public(self.old).verify(signature, _PREFIX + said.encode())
        except (UsageError, InvalidSignature, binascii.Error, ValueError):
            return False
        return self.old != self.new and self.at < self.until <= self.at + LONGEST_OVERLAP

    @property
    def old_id(self) -> str:
        """The old key's fingerprint."""
        return fingerprint(parse_public(self.old))

    @property
    def new_id(self) -> str:
        """The new key's fingerprint."""
        return fingerprint(parse_public(self.new))


def succession(old: Ed25519PrivateKey, new: Ed25519PublicKey, *, at: float, overlap: float) -> Succession:
    """State that a key takes another one's place.

    Args:
        old: The key that has counted until now; signs.
        new: The one that takes its place.
        at: Now, in seconds since the epoch.
        overlap: Seconds for which the old one counts as well.
    """
    words = [public_text(old.public_key()), public_text(new), f"{int(at)}", f"{int(at + overlap)}"]
    signature = old.sign(_PREFIX + " ".join(words).encode())
    text = base64.urlsafe_b64encode(signature).decode().rstrip("=")
    return Succession(words[0], words[1], int(words[2]), int(words[3]), text)


def read(text: str) -> Succession | None:
    """Read a statement; None when it is none."""
    found = _FORM.fullmatch(text)
    return Succession(found[1], found[2], int(found[3]), int(found[4]), found[5]) if found else None


def chain(texts: Sequence[str], to: str) -> tuple[Succession, ...]:
    """The statements that lead to a key, the oldest first: those of the end that hold and follow each other.

    Every one is checked before anybody looks whom it names, so the time tells nothing of who is known.

    Args:
        texts: What somebody shows.
        to: The public key that they must lead to.
    """
    if not 0 < len(texts) <= MOST:
        return ()
    found = [statement for text in texts if (statement := read(text)) is not None and statement.holds]
    right: list[Succession] = []
    wanted = to
    for statement in reversed(found):
        if statement.new != wanted:
            break
        right.insert(0, statement)
        wanted = statement.old
    return tuple(right)


def known_from(statements: Sequence[Succession], knows: Callable[[str], bool]) -> tuple[Succession, ...]:
    """The statements from the newest key on that somebody knows; none when all are strangers.

    Args:
        statements: As `chain` gives them.
        knows: Whether the key with a fingerprint counts.
    """
    for place in reversed(range(len(statements))):
        if knows(statements[place].old_id):
            return tuple(statements[place:])
    return ()


def header(statements: Sequence[Succession]) -> str:
    """What stands in the header; empty: no header."""
    return ", ".join(map(str, statements[-MOST:]))


def of_header(text: str) -> list[str]:
    """The statements of the header, as texts."""
    return [each.strip(" ") for each in text.split(",")] if text else []
