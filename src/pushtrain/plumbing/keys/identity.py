"""This machine's identity: its private key, the keys whose place this one took, and what these said of it.

All of it is one file that only its user can read, `identity.key`: the current key first, as PEM; then the
statements (`core.wire.succession`), a line each; then the former keys that still count. A rotation is one
rename: whoever is killed leaves the old identity or the new one, and never half of either. A file without
statements is what any other program would write.

On a machine that keeps nothing (CI), `PUSHTRAIN_KEY` holds the same text.
"""

import logging
import os
import re
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from pushtrain.core.errors import ConfigError, PushtrainError
from pushtrain.core.wire.signing import fingerprint, public_text
from pushtrain.core.wire.succession import MOST, Succession, chain, read, succession
from pushtrain.plumbing.disk.files import replace
from pushtrain.plumbing.keys.keyfile import alone, told
from pushtrain.plumbing.keys.privatekey import create, parse, pem, text_of

log = logging.getLogger(__name__)

VARIABLE: Final = "PUSHTRAIN_KEY"
_BLOCK: Final = re.compile(rb"-----BEGIN [A-Z ]+-----[^-]*-----END [A-Z ]+-----\n?")
_LOST: Final = "Put the right file back; or remove it: a new identity is made, to be authorised anew."


@dataclass(frozen=True, slots=True)
class Identity:
    """Who this machine is, and was."""

    key: Ed25519PrivateKey
    chain: tuple[Succession, ...] = ()
    """What former keys said of the next one, the oldest first; the last one's new key is `key`."""
    former: tuple[Ed25519PrivateKey, ...] = ()
    """Former keys that may count still, the newest first."""

    @property
    def id(self) -> str:
        """The fingerprint of the current key."""
        return fingerprint(self.key.public_key())

    @property
    def was(self) -> tuple[str, ...]:
        """The fingerprints of all former keys that are known."""
        return tuple(statement.old_id for statement in self.chain)

    def counting(self, now: float) -> dict[str, Ed25519PrivateKey]:
        """The keys that count at this moment, by fingerprint, the current one first."""
        ends = {statement.old_id: statement.until for statement in self.chain}
        found = {self.id: self.key}
        for key in self.former:
            name = fingerprint(key.public_key())
            if now < ends.get(name, 0):
                found[name] = key
        return found

    def text(self, now: float) -> bytes:
        """What stands in its file; former keys that do not count any more are gone from it."""
        old = [key for name, key in self.counting(now).items() if name != self.id]
        lines = "".join(f"succession {statement}\n" for statement in self.chain)
        return pem(self.key) + lines.encode() + b"".join(map(pem, old))


def load(path: Path, environ: Mapping[str, str] = os.environ) -> Identity:
    """The identity in `PUSHTRAIN_KEY`, else at `path`; made if there is none.

    Raises:
        ConfigError: Others can read the file, or it holds no Ed25519 key; nor does the variable.
        StorageError: It cannot be read or written.
    """
    if given := environ.get(VARIABLE, "").strip():
        return _understood(given.encode(), f"`{VARIABLE}`", "Give it the content of an `identity.key`.")
    with told(path, "The private key"):
        if not path.exists():
            create(path, pem(Ed25519PrivateKey.generate()))
        text = text_of(path)
    return _understood(text, str(path), _LOST)


def load_or_create(path: Path) -> Ed25519PrivateKey:
    """The current key of `load`."""
    return load(path).key


def rotate(
    path: Path,
    *,
    overlap: float,
    clock: Callable[[], float] = time.time,
    environ: Mapping[str, str] = os.environ,
) -> Identity:
    """Make a new key take the current one's place; durable when it returns, and nothing before.

    Args:
        path: The file.
        overlap: Seconds for which the old key counts as well.
        clock: Seconds since the epoch.
        environ: Where a key would win over the file.

    Raises:
        ConfigError: The key is not in the file.
        StorageError: It cannot be written; the old key stays.
    """
    if environ.get(VARIABLE, "").strip():
        raise ConfigError(
            f"The key is in `{VARIABLE}`, which cannot be written.",
            mend="Rotate where its file is, and give the variable the file's new content.",
        )
    with told(path, "The private key"), alone(path):
        before, now = load(path, environ), clock()
        fresh = Ed25519PrivateKey.generate()
        said = succession(before.key, fresh.public_key(), at=now, overlap=overlap)
        after = Identity(fresh, (*before.chain, said)[-MOST:], (before.key, *before.former))
        replace(path, after.text(now))
    return after


def forget_former(path: Path, *, clock: Callable[[], float] = time.time) -> None:
    """Take former keys out of the file that do not count any more; a file without them stays as it is.

    Raises:
        StorageError: It cannot be written.
    """
    with told(path, "The private key"):
        if not path.exists():
            return
        with alone(path):
            here, now = load(path, {}), clock()
            if len(here.counting(now)) < 1 + len(here.former):
                replace(path, here.text(now))


class Ring:
    """An identity that is read again when its file has changed. Any thread may ask.

    Args:
        path: The file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._guard = threading.Lock()
        self._seen: tuple[int, int] | None = None
        self._identity = load(path)

    def __call__(self) -> Identity:
        """The identity now; the one from before while the file cannot be read."""
        with self._guard:
            try:
                state = self._path.stat()
            except OSError:
                return self._identity
            seen = (state.st_mtime_ns, state.st_ino)
            if seen != self._seen:
                self._seen = seen
                try:
                    self._identity = load(self._path)
                except PushtrainError as error:
                    log.warning("The identity stays as it was: %s", error)
            return self._identity


def _understood(text: bytes, where: str, mend: str) -> Identity:
    kind = Ed25519PrivateKey
    found = [parse(block, kind) for block in _BLOCK.findall(text)]  # type: ignore[type-abstract]
    keys = [key for key in found if key is not None]
    if not keys:
        raise ConfigError(f"{where} holds no Ed25519 private key.", mend=mend)
    lines = text.decode("utf-8", "replace").splitlines()
    said = [line.removeprefix("succession ") for line in lines if line.startswith("succession ")]
    statements = [each for each in map(read, said) if each is not None]
    right = chain([str(each) for each in statements[-MOST:]], public_text(keys[0].public_key()))
    return Identity(keys[0], right, tuple(keys[1:]))
