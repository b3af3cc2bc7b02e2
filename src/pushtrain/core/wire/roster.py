"""The roster, `config.json`: read it, believe its cards or say why not, edit one's own card. No I/O.

- A card is signed by its executor: Ed25519 over `pushtrain-card-1`, a line feed, and the RFC 8785 bytes of
  the card without `signature`. Fields that we do not know are covered too, so a neighbour may re-serialise
  the file and a newer pushtrain may add to it.
- A card that cannot be read is passed over with the reason; it never takes the roster with it.
- Editing changes one card. The text of every other, readable or not, stays as it is.

docs/config-json.md describes the file for people, docs/config.schema.json for editors.
"""

import base64
import json
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final
from urllib.parse import urlsplit

import rfc8785
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pydantic import ValidationError

from pushtrain.core.errors import ConfigError, UsageError
from pushtrain.core.text.strictjson import loads
from pushtrain.core.values.card import ExecutorCard, Gpu
from pushtrain.core.values.value import Value
from pushtrain.core.wire.address import is_loopback
from pushtrain.core.wire.register import Register, unfit
from pushtrain.core.wire.signing import fingerprint, parse_public, public_text

VERSION: Final = 1
PREFIX: Final = b"pushtrain-card-1\n"
"""Before what is signed: a card's signature can be taken for nothing else."""
LIFETIME: Final = 36 * 3600.0
"""Seconds that a card is believed on the roster's own branch, where it is renewed twice a day."""
MAX_ROSTER: Final = 4 * 1024 * 1024
"""Characters of the file."""
MAX_CARD: Final = 64 * 1024
"""Characters of one card."""

MAX_CARDS: Final = 10_000

_FINGERPRINT: Final = re.compile(r"SHA256:[A-Za-z0-9_-]{43}")
_NESTED: Final = {"gpus": Gpu}


class BrokenRoster(ConfigError):
    """The file is no roster: not JSON, or not of its shape."""


_REGISTER: Final = Register(
    kind="roster",
    table="executors",
    entry="cards",
    version=VERSION,
    most_text=MAX_ROSTER,
    most=MAX_CARDS,
    mend="Mend the file or delete it: every executor writes its card anew at its next start.",
    broken=BrokenRoster,
)


@dataclass(frozen=True, slots=True)
class Listed:
    """A card as it stands in a roster."""

    fingerprint: str
    """Under which it stands."""
    card: ExecutorCard
    signed: bytes
    """What its signature must cover; fields that we do not know included."""

    @property
    def genuine(self) -> bool:
        """Whether the key under whose fingerprint it stands has signed it."""
        try:
            key = parse_public(self.card.public_key)
            signature = base64.b64decode(self.card.signature, validate=True)
            if fingerprint(key) != self.fingerprint:
                return False
            key.verify(signature, self.signed)
        except (UsageError, ValueError, InvalidSignature):
            return False
        return True


class Unread(Value):
    """A card that could not be read, and why."""

    fingerprint: str
    why: str


@dataclass(frozen=True, slots=True)
class Roster:
    """What a roster lists."""

    cards: tuple[Listed, ...] = ()
    unread: tuple[Unread, ...] = ()

    def find(self, name: str) -> Listed | None:
        """The card under this fingerprint."""
        return next((listed for listed in self.cards if listed.fingerprint == name), None)


# --- reading ----------------------------------------------------------------------------------------------


def parse(text: str, *, source: str = "config.json") -> Roster:
    """Read a roster; an empty text is one without cards.

    Args:
        text: The file. Bytes that are not UTF-8 may come as lone surrogates; they spoil only their card.
        source: For messages: where it stands.

    Raises:
        BrokenRoster: It is no roster at all.
        ConfigError: A newer pushtrain wrote it.
    """
    cards, unread = _REGISTER.read(text, source, _listed)
    return Roster(cards, tuple(Unread(fingerprint=name, why=why) for name, why in unread))


def _listed(name: str, text: str) -> Listed:
    if not _FINGERPRINT.fullmatch(name):
        raise UsageError("it does not stand under a key's fingerprint")
    if len(text) > MAX_CARD:
        raise UsageError(f"it has more than {MAX_CARD} characters")
    document = loads(text.encode("utf-8", "surrogateescape"))
    if not isinstance(document, dict):
        raise UsageError("it is no object")
    try:
        card = ExecutorCard.model_validate_json(json.dumps(_known(document)), strict=True)
        return Listed(name, card, canonical(document))
    except ValidationError as error:
        raise unfit(error) from error


def _known(document: Mapping[str, Any]) -> dict[str, Any]:
    """The document without the fields that this pushtrain does not know."""
    found = {name: value for name, value in document.items() if name in ExecutorCard.model_fields}
    for name, model in _NESTED.items():
        if isinstance(found.get(name), list):
            found[name] = [
                {key: value for key, value in each.items() if key in model.model_fields}
                if isinstance(each, dict)
                else each
                for each in found[name]
            ]
    return found


def canonical(document: Mapping[str, Any]) -> bytes:
    """What a card's signature covers.

    Raises:
        UsageError: It holds a number that JSON readers do not agree on.
    """
    unsigned = {name: value for name, value in document.items() if name != "signature"}
    try:
        return PREFIX + rfc8785.dumps(unsigned)
    except rfc8785.CanonicalizationError as error:
        raise UsageError(f"it has no canonical form: {error}") from error


# --- believing --------------------------------------------------------------------------------------------


class Standing(StrEnum):
    """What a card is worth here."""

    TRUSTED = "trusted"
    """Its executor may be asked."""
    OFFLINE = "offline"
    """Its executor was stopped."""
    EXPIRED = "expired"
    OLDER = "older"
    """A newer card of the same executor was seen."""
    UNKNOWN = "unknown key"
    """Genuine, but nobody here trusts the key."""
    NO_ADDRESS = "no address"
    """The executor takes no calls, or its address is not one that we dial."""
    FORGED = "bad signature"
    UNREADABLE = "unreadable"


class Verdict(Value):
    """A card, what it is worth here, and why."""

    fingerprint: str
    standing: Standing
    why: str = ""
    """One sentence without a full stop; empty when it is trusted."""
    mend: str = ""
    card: ExecutorCard | None = None
    """None when it could not be read."""


def judge(
    listed: Listed,
    *,
    genuine: bool,
    trusted: Collection[str],
    newest: int,
    now: float,
    allow_http: bool = False,
) -> Verdict:
    """What a card is worth.

    Args:
        listed: The card.
        genuine: Its `genuine`, which costs a signature's check and never changes.
        trusted: Fingerprints of the keys that are trusted here.
        newest: The highest sequence ever seen on a genuine card of this key.
        now: Seconds since the epoch.
        allow_http: Whether executors beyond this machine may be reached without TLS.
    """
    card = listed.card
    mend = ""
    if not genuine:
        standing, why = Standing.FORGED, "its signature is not by the key under which it stands"
    elif listed.fingerprint not in trusted:
        standing, why = Standing.UNKNOWN, "its key is not trusted here"
        mend = f"If `pushtrain key show` there prints the same: `pushtrain key trust {card.public_key}`"
    elif card.sequence < newest:
        standing, why = Standing.OLDER, f"it is number {card.sequence}, and number {newest} was seen"
    elif not card.online:
        standing, why = Standing.OFFLINE, "its executor was stopped"
        mend = "Start it there: `pushtrain executor`"
    elif now >= card.expires:
        standing, why = Standing.EXPIRED, "it has not been renewed in time"
        mend = "Start the executor there, and look whether it can push; check both clocks"
    elif not card.public_url:
        standing, why = Standing.NO_ADDRESS, "its executor takes no calls: it has no tunnel"
    elif wrong := wrong_address(card.public_url, allow_http=allow_http):
        standing, why = Standing.NO_ADDRESS, wrong
        if not allow_http and not wrong_address(card.public_url, allow_http=True):
            mend = "Use a tunnel with TLS, or set `allow_http` under [sender]"
    else:
        standing = Standing.TRUSTED
        why = "it is draining: it finishes what runs and takes nothing new" if card.draining else ""
    return Verdict(fingerprint=listed.fingerprint, standing=standing, why=why, mend=mend, card=card)


def wrong_address(url: str, *, allow_http: bool = False) -> str:
    """Why a card's address is not dialled; empty when it may be. Plain http only leads to this machine."""
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname or "", parts.port
    except ValueError:
        return "its address is not a URL"
    if parts.scheme not in {"https", "http"} or not host or not re.fullmatch(r"[!-~]+", url):
        return "its address is not an http or https URL"
    if parts.username is not None or parts.path.strip("/") or parts.query or parts.fragment:
        return "its address is more than scheme, host and port"
    if parts.scheme == "http" and not allow_http and not is_loopback(host):
        return "its address is plain http, which anybody on the way can read"
    return ""


# --- writing ----------------------------------------------------------------------------------------------


def sign_card(card: ExecutorCard, key: Ed25519PrivateKey) -> ExecutorCard:
    """The card with its signature.

    Raises:
        ValueError: It names another public key.
    """
    if card.public_key != public_text(key.public_key()):
        raise ValueError("a card is signed by the key that it names")
    signature = key.sign(canonical(_document(card)))
    return card.model_copy(update={"signature": base64.b64encode(signature).decode()})


def with_card(
    text: str, card: ExecutorCard, *, source: str = "config.json", replaces: Collection[str] = ()
) -> str:
    """The roster with this card in the place of the one with the same key; everything else stays.

    Args:
        text: The roster.
        card: Whose signature is right.
        source: For messages: where it stands.
        replaces: Fingerprints of the executor's former keys, whose cards go.

    Raises:
        BrokenRoster: The text is no roster.
        ConfigError: A newer pushtrain wrote it.
    """
    name = fingerprint(parse_public(card.public_key))
    return _REGISTER.with_entry(_REGISTER.without(text, replaces, source), name, _document(card), source)


def _document(card: ExecutorCard) -> dict[str, Any]:
    """The card as JSON; times of whole seconds without a fraction, as people write them."""
    document = card.model_dump(mode="json")
    return {
        name: int(value) if isinstance(value, float) and value.is_integer() else value
        for name, value in document.items()
    }
