"""The executors that this sender trusts, in a key file that people may edit."""

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from pushtrain.core.wire.grants import Trust
from pushtrain.core.wire.signing import fingerprint, public_text
from pushtrain.core.wire.succession import Succession
from pushtrain.plumbing.keys.keyfile import KeyFile
from pushtrain.plumbing.keys.keyline import date_of, listed, only, when, with_kin


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
        return list(self.live().values())

    def live(self) -> dict[str, Trust]:
        """The same, by fingerprint."""
        now = self._clock()
        return {name: each for name, each in self._file.entries().items() if each.live(now)}

    def revoked(self) -> set[str]:
        """Fingerprints of the keys in the file that are not to be believed any more."""
        return {name for name, each in self._file.entries().items() if each.revoked is not None}

    def all(self) -> Mapping[str, Trust]:
        """Every line, by fingerprint."""
        return self._file.entries()

    def succeed(self, old_id: str, new: Succession, between: Sequence[str], *, name: str, url: str) -> bool:
        """Pin the key that has taken a trusted one's place, durably; the old one ends with the overlap.

        Args:
            old_id: Fingerprint of the key that is trusted now.
            new: The statement that names the new key.
            between: Fingerprints of all keys from the old one on that came before the new one.
            name: What the executor is called, where the old key has no name.
            url: Where it is, where no roster tells; empty: as it was.

        Returns:
            Whether it was; False: the old key is not trusted here, or another one has taken its place.

        Raises:
            StorageError: The file cannot be written.
        """

        def decide(entries: Mapping[str, Trust]) -> list[Trust]:
            old, now = entries.get(old_id), self._clock()
            taken = any(set(between) & set(other.was) for other in entries.values())
            if old is None or not old.live(now) or taken or new.new_id in entries:
                return []
            heir = Trust(
                public_key=new.new,
                name=old.name or name,
                url=url or old.url,
                was=(*old.was, *between),
            )
            return [old.model_copy(update={"until": float(new.until)}), heir]

        return bool(self._file.change(decide))

    def revoke(self, meant: Trust) -> list[Trust]:
        """Believe a key no more, nor any that it took the place of or that took its.

        Args:
            meant: Which; it need not be in the file.

        Returns:
            Every key that is not believed from now on, the one that was meant first.

        Raises:
            StorageError: The file cannot be written.
        """

        def decide(entries: Mapping[str, Trust]) -> list[Trust]:
            since = self._clock()
            return [
                each.model_copy(update={"revoked": since if each.revoked is None else each.revoked})
                for each in with_kin(entries, meant)
            ]

        return list(self._file.change(decide))

    def add(self, key: Ed25519PublicKey, *, url: str = "", name: str = "") -> Trust:
        """Trust an executor's key, or change its address; one that was revoked is so no more.

        It keeps the name that it has where none is given, and the keys whose place it took.

        Raises:
            UsageError: The address or the name cannot stand in the file.
            StorageError: The file cannot be written.
        """

        def decide(entries: Mapping[str, Trust]) -> list[Trust]:
            before = entries.get(fingerprint(key))
            called, was = (name or before.name, before.was) if before else (name, ())
            return [Trust(public_key=public_text(key), url=url, name=called, was=was)]

        return self._file.change(decide)[0]


def _trust(key: Ed25519PublicKey, options: Mapping[str, str]) -> Trust:
    only(options, "url", "name", "was", "until", "revoked")
    return Trust(
        public_key=public_text(key),
        url=options.get("url", ""),
        name=options.get("name", ""),
        was=listed(options, "was"),
        until=date_of(options, "until"),
        revoked=date_of(options, "revoked"),
    )


def _trust_options(trust: Trust) -> dict[str, str]:
    return {
        "url": trust.url,
        "name": trust.name,
        "was": ",".join(trust.was),
        "until": when(trust.until),
        "revoked": when(trust.revoked),
    }
