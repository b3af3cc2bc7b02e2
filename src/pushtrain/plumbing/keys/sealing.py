"""Seal values to an executor's key, so that nobody else can read them, and open what was sealed to ours.

HPKE (RFC 9180) in base mode: DHKEM(X25519, HKDF-SHA256), HKDF-SHA256, ChaCha20-Poly1305, one message each:
the 32 bytes of the encapsulated key, then the ciphertext. What a seal is bound to is HPKE's `info`; with
another one it does not open. HPKE says nothing of who sealed: signatures do (`core/wire/secrets.py`).

A value is padded to a multiple of 64 bytes (0x80, then zeros), so that its length tells little.

The sealing key is a key of its own beside the executor's identity, so that a rotation of the identity leaves
what was sealed readable.
"""

import base64
from pathlib import Path
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite

from pushtrain.core.errors import UsageError
from pushtrain.core.wire.secrets import Sealed, sign
from pushtrain.core.wire.signing import public_text
from pushtrain.plumbing.keys import privatekey

PREFIX: Final = "x25519:"
_SUITE: Final = Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.CHACHA20_POLY1305)
_BLOCK: Final = 64
_MARK: Final = b"\x80"


class NotOurs(UsageError):
    """What is sealed does not open with this key, or not for this purpose."""


def sealing_key(path: Path) -> X25519PrivateKey:
    """The executor's sealing key at `path`; made if there is none.

    Raises:
        ConfigError: Others can read the file, or it holds no such key.
        StorageError: It cannot be read or written.
    """
    return privatekey.load_or_create(
        path,
        X25519PrivateKey,  # type: ignore[type-abstract]
        X25519PrivateKey.generate,
        title="X25519",
        lost="a new key is made, and secrets must be set anew for this executor",
    )


def sealing_text(key: X25519PublicKey) -> str:
    """A public sealing key as a card tells it: `x25519:` and the base64 of its 32 bytes."""
    return PREFIX + base64.b64encode(key.public_bytes_raw()).decode()


def parse_sealing(text: str) -> X25519PublicKey:
    """Read what `sealing_text` wrote.

    Raises:
        UsageError: It is not such a text.
    """
    try:
        return X25519PublicKey.from_public_bytes(base64.b64decode(text.removeprefix(PREFIX), validate=True))
    except ValueError as error:
        raise UsageError(f"`{text[:80]}` is not a sealing key.") from error


def seal(value: bytes, to: X25519PublicKey, *, bound: bytes) -> bytes:
    """Seal a value.

    Args:
        value: What only the key's owner shall read.
        to: Whose key.
        bound: What it is for; needed to open it.
    """
    room = -(len(value) + 1) % _BLOCK
    return _SUITE.encrypt(value + _MARK + bytes(room), to, info=bound)


def unseal(sealed: bytes, key: X25519PrivateKey, *, bound: bytes) -> bytes:
    """The value that was sealed.

    Raises:
        NotOurs: It was sealed to another key or for another purpose, or somebody has changed it.
    """
    try:
        padded = _SUITE.decrypt(sealed, key, info=bound)
    except (InvalidTag, ValueError) as error:
        raise NotOurs("A sealed value does not open with this executor's key.") from error
    value, mark, rest = padded.rpartition(_MARK)
    if not mark or rest.strip(b"\0"):
        raise NotOurs("A sealed value is not padded as it should be.")
    return value


def seal_secret(
    name: str,
    value: str,
    *,
    to: X25519PublicKey,
    key: Ed25519PrivateKey,
    repository: str,
    job: str,
    branch: str,
    sealed_at: int,
    expires: int = 0,
) -> Sealed:
    """A secret as it stands in the file: sealed, bound to what it is for, and signed.

    Args:
        name: The variable that it becomes.
        value: What only the executor shall read; empty: say that the secret was removed.
        to: The executor's sealing key.
        key: The sealer's identity.
        repository: The key of the repository whose jobs may have it.
        job: Pattern of those jobs.
        branch: Pattern of their branches.
        sealed_at: Milliseconds since the epoch, later than those of an entry that it takes the place of.
        expires: Seconds since the epoch; 0: never.
    """
    entry = Sealed(
        name=name,
        repository=repository,
        job=job,
        branch=branch,
        recipient=sealing_text(to),
        sealed_at=sealed_at,
        expires=expires,
        sealer=public_text(key.public_key()),
        sealed="",
    )
    if value:
        sealed = seal(value.encode(), to, bound=entry.bound)
        entry = entry.model_copy(update={"sealed": base64.b64encode(sealed).decode()})
    return sign(entry, key)


def open_secret(entry: Sealed, key: X25519PrivateKey) -> str:
    """The value in an entry.

    Raises:
        NotOurs: It was sealed to another key or for another purpose, or somebody has changed it.
    """
    try:
        return unseal(base64.b64decode(entry.sealed, validate=True), key, bound=entry.bound).decode()
    except ValueError as error:
        raise NotOurs("A sealed value is not text.") from error
