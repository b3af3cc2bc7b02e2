"""An invitation: a one-time code, what it proves to each side, and what may become of it.

The code is 64 random bits, said as four words that can be pronounced; an address may stand before it. Three
things are derived from it, slowly (scrypt): the name under which the executor finds the invitation, and a key
for each direction. Whoever joins proves with the one that its request, and with it its public key, came from
somebody who knows the code; the executor proves the same of its answer with the other. A machine in between
that swaps a key can make neither proof, and has no time to search 64 bits before the code is worthless. The
code itself never travels, and is not kept by the executor.

docs/keys.md tells it to people, docs/wire-protocol.md each byte, docs/decisions/0013-invitations.md why.
"""

import base64
import hashlib
import hmac
import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Literal
from urllib.parse import urlsplit

from pushtrain.core.errors import Conflict, PushtrainError, Unauthorized, UsageError
from pushtrain.core.values.card import ExecutorCard
from pushtrain.core.values.value import Value
from pushtrain.core.wire.address import is_loopback
from pushtrain.core.wire.grants import Terms
from pushtrain.core.wire.roster import wrong_address
from pushtrain.core.wire.signing import fingerprint, parse_public

SECRET_BYTES: Final = 8
LIFETIME: Final = 600.0
"""Seconds for which a code is good, unless its maker says otherwise."""
LONGEST: Final = 86_400.0
"""Seconds for which one may be good: a code lies around in a chat."""
TRIES: Final = 3
"""Requests that name an invitation and do not prove its code, after which it is worthless."""
PATH: Final = "/v1/join"
NAME: Final = "pushtrain-invitation"
PROOF: Final = "pushtrain-proof"
"""Headers: which invitation, and the proof of the sender of a message that it knows the code."""

_CONSONANTS: Final = "bdfghjklmnprstvz"
_VOWELS: Final = "aiou"
_SOUND: Final = f"[{_CONSONANTS}][{_VOWELS}][{_CONSONANTS}][{_VOWELS}][{_CONSONANTS}]"
_WORDS: Final = re.compile(rf"{_SOUND}(?:-{_SOUND}){{3}}")
_GAP: Final = re.compile(r"[\s_.-]+")
_NAME: Final = re.compile(r"[A-Za-z0-9_-]{21}[AQgw]")
_PROOF: Final = re.compile(r"[A-Za-z0-9_-]{42}[AEIMQUYcgkosw048]")
_SALT: Final = b"pushtrain-invitation-1"
_COST: Final = {"n": 2**15, "r": 8, "p": 1, "maxmem": 64 * 1024 * 1024}
"""32 MiB and about 0.1 s for a guess; the code has 64 bits, so this only adds to what is enough."""


# --- the code ---------------------------------------------------------------------------------------------


def spell(secret: bytes) -> str:
    """A secret as four words, 16 bits each (proquints: Wilkerson, arXiv:0901.4016)."""
    words = []
    for at in range(0, SECRET_BYTES, 2):
        number = int.from_bytes(secret[at : at + 2], "big")
        letters = (
            _CONSONANTS[number >> 12],
            _VOWELS[number >> 10 & 3],
            _CONSONANTS[number >> 6 & 15],
            _VOWELS[number >> 4 & 3],
            _CONSONANTS[number & 15],
        )
        words.append("".join(letters))
    return "-".join(words)


def _unspell(words: str) -> bytes:
    secret = b""
    for word in words.split("-"):
        number = 0
        for letter, table in zip(
            word, (_CONSONANTS, _VOWELS, _CONSONANTS, _VOWELS, _CONSONANTS), strict=True
        ):
            number = number << (4 if table is _CONSONANTS else 2) | table.index(letter)
        secret += number.to_bytes(2, "big")
    return secret


@dataclass(frozen=True, slots=True)
class Code:
    """What one person gives to another."""

    secret: bytes
    url: str = ""
    """Where the executor is; empty: the one who joins finds it on a roster."""

    def __str__(self) -> str:
        """As it is written and said."""
        return f"{_short(self.url)}/{spell(self.secret)}" if self.url else spell(self.secret)

    def __repr__(self) -> str:
        """Without the secret: a code must not end up in a log by accident."""
        return f"Code(url={self.url!r})"


def parse_code(text: str) -> Code:
    """Read a code as somebody typed it: in any case, with spaces or hyphens between its words.

    Raises:
        UsageError: It is none.
    """
    address, _, words = text.strip().rpartition("/")
    said = _GAP.sub("-", words.strip().lower())
    if not _WORDS.fullmatch(said):
        raise UsageError(
            "That is no invitation's code.",
            mend="One looks like lab-3.example.org/lusab-babad-gutih-tugad, or like its last part alone; "
            "`pushtrain invite` prints it on the executor's machine.",
        )
    return Code(_unspell(said), _long(address.strip()) if address.strip() else "")


def _short(url: str) -> str:
    """An address without the scheme that `_long` gives it back."""
    scheme, _, rest = url.partition("://")
    return rest if _long(rest) == f"{scheme}://{rest}" else url


def _long(address: str) -> str:
    url = address
    if "://" not in address:
        try:
            host = urlsplit(f"//{address}").hostname or ""
        except ValueError:
            host = ""
        url = f"{'http' if is_loopback(host) else 'https'}://{address}"
    if wrong_address(url, allow_http=True):
        raise UsageError(
            f"The code's address {address[:80]!r} is no executor's.", mend="Copy the whole code once more."
        )
    return url


# --- what it proves ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Keys:
    """What is derived from a code."""

    name: str
    """Under which the executor finds the invitation; tells nothing about the code."""
    asks: bytes
    """Of whoever joins."""
    answers: bytes
    """Of the executor."""


def derived(secret: bytes) -> Keys:
    """The name and the keys of a code; takes about 0.1 s on purpose."""
    whole = hashlib.scrypt(secret, salt=_SALT, dklen=32, **_COST)
    name, asks, answers = (
        hmac.digest(whole, purpose, "sha256") for purpose in (b"name", b"asks", b"answers")
    )
    return Keys(_text(name[:16]), asks, answers)


def is_name(text: str) -> bool:
    """Whether an invitation may be called so."""
    return bool(_NAME.fullmatch(text))


def asking_proof(asks: bytes, *, signature: str, body: bytes) -> str:
    """That a request to join comes from somebody who knows the code.

    Args:
        asks: `Keys.asks`.
        signature: The request's `signature` header, by the key that is to be authorised.
        body: The request's body, which names that key.
    """
    return _text(_mac(asks, b"pushtrain-join-1", signature.encode(), body))


def answering_proof(answers: bytes, *, signature: str, status: int, body: bytes) -> str:
    """That an answer comes from whoever made the invitation, and answers exactly this request."""
    return _text(_mac(answers, b"pushtrain-welcome-1", signature.encode(), str(status).encode(), body))


def proves(given: str, expected: str) -> bool:
    """Whether a proof is the right one; takes the same time wherever they differ."""
    return bool(_PROOF.fullmatch(given)) and hmac.compare_digest(given, expected)


def _mac(key: bytes, *parts: bytes) -> bytes:
    whole = b"".join(len(part).to_bytes(8, "big") + part for part in parts)
    return hmac.digest(key, whole, "sha256")


def _text(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def _raw(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


# --- what is said -----------------------------------------------------------------------------------------


class Introduction(Value):
    """The body of a request to join."""

    version: Literal[1] = 1
    public_key: str
    """Whose the request's signature is."""


class Welcome(Value):
    """The answer to it."""

    version: Literal[1] = 1
    card: ExecutorCard
    terms: Terms
    """What the new key may do."""


# --- what becomes of it -----------------------------------------------------------------------------------


class Standing(StrEnum):
    """Where an invitation is."""

    OPEN = "open"
    JOINED = "joined"
    BURNT = "burnt"
    """Too many requests named it without proving its code: somebody stands between."""
    EXPIRED = "expired"


class Invitation(Value):
    """An invitation as the executor keeps it; its code does not follow from it."""

    name: str
    asks: str
    answers: str
    made_at: float
    expires_at: float
    terms: Terms = Terms()
    wrong: int = 0
    """Requests that named it and did not prove its code."""
    joined_by: str = ""
    """The public key that joined; empty: none yet."""
    settled: bool = False
    """Whether that key is in `authorized_keys`."""

    def standing(self, now: float) -> Standing:
        """Where it is at this moment."""
        if self.joined_by:
            return Standing.JOINED
        if self.wrong >= TRIES:
            return Standing.BURNT
        return Standing.OPEN if now < self.expires_at else Standing.EXPIRED

    def proven(self, proof: str, *, signature: str, body: bytes) -> bool:
        """Whether a request proves the code."""
        return proves(proof, asking_proof(_raw(self.asks), signature=signature, body=body))

    def answer(self, *, signature: str, status: int, body: bytes) -> str:
        """The proof that goes with an answer."""
        return answering_proof(_raw(self.answers), signature=signature, status=status, body=body)


def invitation(keys: Keys, *, terms: Terms, now: float, lifetime: float) -> Invitation:
    """A new one."""
    return Invitation(
        name=keys.name,
        asks=_text(keys.asks),
        answers=_text(keys.answers),
        made_at=now,
        expires_at=now + lifetime,
        terms=terms,
    )


def nobodys(asks: bytes) -> Invitation:
    """Stands in for one that there is not, so that the answer takes the same time."""
    return invitation(Keys("", asks, asks), terms=Terms(), now=0, lifetime=0)


def unproven() -> PushtrainError:
    """The one answer to whoever does not prove a code, whatever the reason."""
    return Unauthorized(
        "There is no such invitation here, or the request does not prove that it knows its code.",
        mend="Ask the executor's owner for a new code: `pushtrain invite`.",
    )


def after_wrong_proof(before: Invitation, now: float) -> Invitation:
    """The invitation after a request that named it and did not prove its code."""
    if before.standing(now) is not Standing.OPEN:
        return before
    return before.model_copy(update={"wrong": before.wrong + 1})


def after_joining(before: Invitation, public_key: str, now: float) -> Invitation:
    """The invitation once this key has joined; the same again for a key that asks again.

    Raises:
        Conflict: Another key was quicker.
        Unauthorized: It is good for nothing any more.
    """
    match before.standing(now):
        case Standing.OPEN:
            return before.model_copy(update={"joined_by": public_key})
        case Standing.JOINED if before.joined_by == public_key:
            return before
        case Standing.JOINED:
            other = fingerprint(parse_public(before.joined_by))
            raise Conflict(
                f"This invitation was used by another key, {other}.",
                mend="If that was none of you, somebody overheard the code: the owner says "
                f"`pushtrain key revoke {other}` and invites anew.",
            )
        case Standing.BURNT:
            raise Unauthorized(
                "This invitation is withdrawn: requests came that named it and did not know its code. "
                "A machine between you and the executor changes what you send.",
                mend="Try another network, or exchange the keys by hand (`pushtrain key show`).",
            )
        case Standing.EXPIRED:
            raise Unauthorized(
                f"This invitation expired {now - before.expires_at:.0f} s ago.",
                mend="Ask the executor's owner for a new code: `pushtrain invite`.",
            )
