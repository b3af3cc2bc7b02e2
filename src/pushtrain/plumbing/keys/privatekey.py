"""A private key in a file of its own: made once, readable by its user alone, never overwritten."""

import contextlib
import os
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Final, Protocol, TypeVar

from cryptography.exceptions import InternalError, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization

from pushtrain.core.errors import ConfigError
from pushtrain.plumbing.disk.files import replace, sync_folder
from pushtrain.plumbing.keys.keyfile import told

_OTHERS: Final = 0o077
_MOST: Final = 65536


class _Private(Protocol):
    def private_bytes(
        self,
        encoding: serialization.Encoding,
        format: serialization.PrivateFormat,  # noqa: A002  the library's name
        encryption_algorithm: serialization.KeySerializationEncryption,
    ) -> bytes: ...


KeyT = TypeVar("KeyT", bound=_Private)


def load_or_create(path: Path, kind: type[KeyT], make: Callable[[], KeyT], *, title: str, lost: str) -> KeyT:
    """The key at `path`; made if there is none. Processes that come at once get the same one.

    Args:
        path: The file.
        kind: The key's class.
        make: Makes a new one.
        title: For messages: `Ed25519`.
        lost: For messages: what follows when the file is removed and a new key is made.

    Raises:
        ConfigError: Others can read the file, or it holds no such key.
        StorageError: It cannot be read or written.
    """
    with told(path, "The private key"):
        if not path.exists():
            create(path, pem(make()))
        found = parse(text_of(path), kind)
    if found is None:
        raise ConfigError(
            f"{path} holds no {title} private key.", mend=f"Put the right file back; or remove it: {lost}."
        )
    return found


def pem(key: _Private) -> bytes:
    """The key as text, without a password."""
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def parse(text: bytes, kind: type[KeyT]) -> KeyT | None:
    """The key in this text; None when it holds none of this kind, or asks for a password."""
    try:
        found: object = serialization.load_pem_private_key(text, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm, InternalError):
        return None
    return found if isinstance(found, kind) else None


def create(path: Path, text: bytes) -> None:
    """Write a new key beside `path` and link it there, which fails if somebody else was first."""
    fresh = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        replace(fresh, text)
        with contextlib.suppress(FileExistsError):
            path.hardlink_to(fresh)
    finally:
        fresh.unlink(missing_ok=True)
    sync_folder(path.parent)


def text_of(path: Path) -> bytes:
    """What a file of private keys holds.

    Raises:
        ConfigError: Others can read it.
    """
    with path.open("rb") as file:
        mode = os.fstat(file.fileno()).st_mode & 0o777
        text = file.read(_MOST)
    if mode & _OTHERS:
        raise ConfigError(
            f"The private key {path} is open to other users (mode {mode:04o}).", mend=f"`chmod 600 {path}`"
        )
    return text
