"""This machine's identity, the keys that may command it, and the executors that it trusts.

The identity is a private key that only its user can read, made once and never overwritten. The other two are
`keyfile`s that people may edit.
"""

import contextlib
import os
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from enum import StrEnum
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from pushtrain.core.errors import ConfigError
from pushtrain.core.model import Value
from pushtrain.core.signing import fingerprint, public_text
from pushtrain.plumbing.files import replace, sync_folder
from pushtrain.plumbing.keyfile import KeyFile, told

_OTHERS: Final = 0o077
_MOST: Final = 65536


def load_or_create(path: Path) -> Ed25519PrivateKey:
    """The identity at `path`; made if there is none. Processes that come at once get the same one.

    Raises:
        ConfigError: Others can read the file, or it holds no Ed25519 key.
        StorageError: It cannot be read or written.
    """
    with told(path, "The private key"):
        if not path.exists():
            _create(path)
        return _load(path)


def _create(path: Path) -> None:
    """Write a new key beside `path` and link it there, which fails if somebody else was first."""
    text = Ed25519PrivateKey.generate().private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    fresh = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        replace(fresh, text)
        with contextlib.suppress(FileExistsError):
            path.hardlink_to(fresh)
    finally:
        fresh.unlink(missing_ok=True)
    sync_folder(path.parent)


def _load(path: Path) -> Ed25519PrivateKey:
    with path.open("rb") as file:
        mode = os.fstat(file.fileno()).st_mode & 0o777
        text = file.read(_MOST)
    if mode & _OTHERS:
        raise ConfigError(
            f"The private key {path} is open to other users (mode {mode:04o}).", mend=f"`chmod 600 {path}`"
        )
    try:
        key = serialization.load_pem_private_key(text, password=None)
    except (ValueError, TypeError):  # no key at all; one that asks for a password
        key = None
    if not isinstance(key, Ed25519PrivateKey):
        raise ConfigError(
            f"{path} holds no Ed25519 private key.",
            mend="Put the right file back; or remove it: a new identity is made, to be authorised anew.",
        )
    return key


class Scope(StrEnum):
    """What a key may do."""

    SEND = "send"
    READ = "read"
    CANCEL = "cancel"


class Grant(Value):
    """One key that may command this executor."""

    public_key: str
    scopes: tuple[Scope, ...] = tuple(Scope)
    repositories: tuple[str, ...] = ()
    """Patterns of repository keys such as `github.com/octo/*`; empty: every repository served here."""
    name: str = ""
    expires: float | None = None

    def allows(self, scope: Scope, repository: str = "") -> bool:
        """Whether it may do this at all; with a repository, whether it may do it there."""
        if scope not in self.scopes:
            return False
        if not self.repositories or not repository:
            return True
        return any(fnmatchcase(repository, pattern) for pattern in self.repositories)


class Authorized:
    """`authorized_keys`: whom this executor obeys.

    Args:
        path: The file.
        owner: The executor's own identity, which may do everything.
        clock: Seconds since the epoch.
    """

    def __init__(
        self, path: Path, *, owner: Ed25519PublicKey | None = None, clock: Callable[[], float] = time.time
    ) -> None:
        self._file = KeyFile(path, _grant)
        self._clock = clock
        self._owner = {} if owner is None else {fingerprint(owner): _grant(owner, {"name": "owner"})}

    def lookup(self, key_id: str) -> Grant | None:
        """What the key with this fingerprint may do; None when it is not authorised, or not any more."""
        grant = self._owner.get(key_id) or self._file.entries().get(key_id)
        if grant is None or (grant.expires is not None and self._clock() >= grant.expires):
            return None
        return grant

    def grants(self) -> list[Grant]:
        """Every key in the file, those that have expired too."""
        return list(self._file.entries().values())

    def add(
        self,
        key: Ed25519PublicKey,
        *,
        scopes: Sequence[Scope] = (),
        repositories: Sequence[str] = (),
        name: str = "",
        expires: str = "",
    ) -> Grant:
        """Authorise a key, or change what it may do.

        Args:
            key: Whose.
            scopes: What it may do; empty: everything.
            repositories: Patterns of repository keys; empty: every one served here.
            name: For people; one word.
            expires: A date or a time in ISO 8601, in UTC unless it says otherwise; empty: never.

        Raises:
            UsageError: A pattern, the name or the date cannot stand in the file.
            StorageError: The file cannot be written.
        """
        options = {
            "scopes": ",".join(dict.fromkeys(scopes)),
            "repo": ",".join(dict.fromkeys(repositories)),
            "name": name,
            "expires": expires,
        }
        return self._file.write(key, options)


class Trust(Value):
    """One executor that this sender believes."""

    public_key: str
    url: str = ""
    name: str = ""


class Trusted:
    """`trusted_keys`: the executors that this sender believes.

    Args:
        path: The file.
    """

    def __init__(self, path: Path) -> None:
        self._file = KeyFile(path, _trust)

    def entries(self) -> list[Trust]:
        """Every executor in the file."""
        return list(self._file.entries().values())

    def add(self, key: Ed25519PublicKey, *, url: str = "", name: str = "") -> Trust:
        """Trust an executor's key, or change its address.

        Raises:
            UsageError: The address or the name cannot stand in the file.
            StorageError: The file cannot be written.
        """
        return self._file.write(key, {"url": url, "name": name})


def _grant(key: Ed25519PublicKey, options: Mapping[str, str]) -> Grant:
    _only(options, "scopes", "repo", "name", "expires")
    scopes = options.get("scopes")
    return Grant(
        public_key=public_text(key),
        scopes=tuple(Scope) if scopes is None else tuple(Scope(word) for word in scopes.split(",")),
        repositories=tuple(options["repo"].split(",")) if "repo" in options else (),
        name=options.get("name", ""),
        expires=_moment(options["expires"]) if "expires" in options else None,
    )


def _trust(key: Ed25519PublicKey, options: Mapping[str, str]) -> Trust:
    _only(options, "url", "name")
    return Trust(public_key=public_text(key), url=options.get("url", ""), name=options.get("name", ""))


def _only(options: Mapping[str, str], *known: str) -> None:
    unknown = [name for name in options if name not in known]
    if unknown:
        raise ValueError(f"there is no `{unknown[0][:40]}`, only {', '.join(known)}")


def _moment(text: str) -> float:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(f"`{text[:40]}` is no date such as 2027-01-31") from None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
