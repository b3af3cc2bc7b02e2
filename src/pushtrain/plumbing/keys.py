"""This machine's identity, the keys that may command it, and the executors that it trusts.

The identity is a private key that only its user can read, made once and never overwritten. The other two are
`keyfile`s that people may edit.
"""

import contextlib
import os
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from pushtrain.core.errors import ConfigError, UsageError
from pushtrain.core.grants import Grant, Scope, Terms, Trust, check_branches, date, moment, written
from pushtrain.core.signing import fingerprint, public_text
from pushtrain.plumbing.files import replace, sync_folder
from pushtrain.plumbing.keyfile import KeyFile, told

__all__ = ["Authorized", "Grant", "Scope", "Trust", "Trusted", "load_or_create"]

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
        self._file = KeyFile(path, _grant, _grant_options)
        self._clock = clock
        self._owner = {} if owner is None else {fingerprint(owner): _grant(owner, {"name": "owner"})}

    def lookup(self, key_id: str) -> Grant | None:
        """What the key with this fingerprint may do; None when it is not authorised, or not any more."""
        grant = self._owner.get(key_id) or self._file.entries().get(key_id)
        return grant if grant is not None and grant.live(self._clock()) else None

    def grants(self) -> list[Grant]:
        """Every key in the file, those that have expired or were revoked too."""
        return list(self._file.entries().values())

    def add(
        self,
        key: Ed25519PublicKey,
        *,
        scopes: Sequence[Scope] = (),
        repositories: Sequence[str] = (),
        branches: Sequence[str] = (),
        name: str = "",
        expires: str = "",
    ) -> Grant:
        """Authorise a key, or change what it may do; one that was revoked is so no more.

        Args:
            key: Whose.
            scopes: What it may do; empty: everything.
            repositories: Patterns of repository keys; empty: every one served here.
            branches: Patterns of branches that it may send; empty: every branch and tag.
            name: For people; one word.
            expires: A date or a time in ISO 8601, in UTC unless it says otherwise, or a time from now such as
                `90d`; empty: never.

        Raises:
            UsageError: A pattern, the name or the date cannot stand in the file.
            StorageError: The file cannot be written.
        """
        try:
            check_branches(branches)
            until = moment(expires, self._clock()) if expires else None
        except ValueError as error:
            raise UsageError(f"{str(error)[0].upper()}{str(error)[1:]}.") from error
        return self.allow(
            key,
            Terms(
                scopes=tuple(dict.fromkeys(scopes)) or tuple(Scope),
                repositories=tuple(dict.fromkeys(repositories)),
                branches=tuple(dict.fromkeys(branches)),
                name=name,
                expires=until,
            ),
        )

    def allow(self, key: Ed25519PublicKey, terms: Terms) -> Grant:
        """Authorise a key for these terms, in place of what it might do before.

        Raises:
            UsageError: The terms cannot stand in the file.
            StorageError: The file cannot be written.
        """
        grant = Grant(public_key=public_text(key), **dict(terms))
        self._file.change(lambda _: [grant])
        return grant


class Trusted:
    """`trusted_keys`: the executors that this sender believes.

    Args:
        path: The file.
        clock: Seconds since the epoch.
    """

    def __init__(self, path: Path, *, clock: Callable[[], float] = time.time) -> None:
        self._file = KeyFile(path, _trust, _trust_options)
        self._clock = clock

    def entries(self) -> list[Trust]:
        """Every executor in the file that is trusted now."""
        now = self._clock()
        return [each for each in self._file.entries().values() if each.live(now)]

    def add(self, key: Ed25519PublicKey, *, url: str = "", name: str = "") -> Trust:
        """Trust an executor's key, or change its address; one that was revoked is so no more.

        Raises:
            UsageError: The address or the name cannot stand in the file.
            StorageError: The file cannot be written.
        """
        trust = Trust(public_key=public_text(key), url=url, name=name)
        self._file.change(lambda _: [trust])
        return trust


def _grant(key: Ed25519PublicKey, options: Mapping[str, str]) -> Grant:
    _only(options, "scopes", "repo", "branch", "name", "expires", "was", "revoked", "running")
    scopes = options.get("scopes")
    branches = _listed(options, "branch")
    check_branches(branches)
    if options.get("running", "cancel") != "cancel":
        raise ValueError("`running` can only be `cancel`")
    return Grant(
        public_key=public_text(key),
        scopes=tuple(Scope) if scopes is None else tuple(Scope(word) for word in scopes.split(",")),
        repositories=_listed(options, "repo"),
        branches=branches,
        name=options.get("name", ""),
        expires=_date(options, "expires"),
        was=_listed(options, "was"),
        revoked=_date(options, "revoked"),
        cancel_running="running" in options,
    )


def _grant_options(grant: Grant) -> dict[str, str]:
    return {
        "scopes": "" if grant.scopes == tuple(Scope) else ",".join(grant.scopes),
        "repo": ",".join(grant.repositories),
        "branch": ",".join(grant.branches),
        "name": grant.name,
        "expires": _when(grant.expires),
        "was": ",".join(grant.was),
        "revoked": _when(grant.revoked),
        "running": "cancel" if grant.cancel_running else "",
    }


def _trust(key: Ed25519PublicKey, options: Mapping[str, str]) -> Trust:
    _only(options, "url", "name", "was", "until", "revoked")
    return Trust(
        public_key=public_text(key),
        url=options.get("url", ""),
        name=options.get("name", ""),
        was=_listed(options, "was"),
        until=_date(options, "until"),
        revoked=_date(options, "revoked"),
    )


def _trust_options(trust: Trust) -> dict[str, str]:
    return {
        "url": trust.url,
        "name": trust.name,
        "was": ",".join(trust.was),
        "until": _when(trust.until),
        "revoked": _when(trust.revoked),
    }


def _only(options: Mapping[str, str], *known: str) -> None:
    unknown = [name for name in options if name not in known]
    if unknown:
        raise ValueError(f"there is no `{unknown[0][:40]}`, only {', '.join(known)}")


def _listed(options: Mapping[str, str], name: str) -> tuple[str, ...]:
    return tuple(options[name].split(",")) if name in options else ()


def _date(options: Mapping[str, str], name: str) -> float | None:
    return date(options[name]) if name in options else None


def _when(moment: float | None) -> str:
    return "" if moment is None else written(moment)
