"""The keys that may command this executor, in a key file that people may edit."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from pushtrain.core.errors import UsageError
from pushtrain.core.wire.grants import (
    OWNER,
    Grant,
    Scope,
    Terms,
    Trust,
    Word,
    check_name,
    check_patterns,
    moment,
    word,
)
from pushtrain.core.wire.signing import fingerprint, parse_public, public_text
from pushtrain.core.wire.succession import LONGEST_OVERLAP, chain, known_from, read
from pushtrain.plumbing.keys.identity import Identity, load_or_create
from pushtrain.plumbing.keys.keyfile import KeyFile
from pushtrain.plumbing.keys.keyline import chosen, date_of, listed, only, when, with_kin
from pushtrain.plumbing.keys.trusted import Trusted

__all__ = ["Authorized", "Grant", "Scope", "Trust", "Trusted", "load_or_create"]


class Authorized:
    """`authorized_keys`: whom this executor obeys.

    Args:
        path: The file.
        owner: The executor's own identity, which may do everything.
        clock: Seconds since the epoch.
    """

    def __init__(
        self,
        path: Path,
        *,
        owner: Callable[[], Identity] | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._file = KeyFile(path, _grant, _grant_options)
        self._clock = clock
        self._owner = owner

    def lookup(self, key_id: str) -> Grant | None:
        """What the key with this fingerprint may do; None when it is not authorised, or not any more."""
        now = self._clock()
        if self._owner is not None:
            identity = self._owner()
            key = identity.counting(now).get(key_id)
            if key is not None:
                return Grant(public_key=public_text(key.public_key()), name=OWNER, was=identity.was)
        grant = self._file.entries().get(key_id)
        return grant if grant is not None and grant.live(now) else None

    # --- a key that takes another one's place -------------------------------------------------------------

    def heir(self, key_id: str, texts: Sequence[str]) -> Grant | None:
        """What an unknown key may do, because one that is authorised says that it takes its place.

        Args:
            key_id: The unknown key's fingerprint.
            texts: The statements that it shows (`core.wire.succession`).
        """
        return self._heir(self._file.entries(), key_id, texts)[0]

    def succeed(self, key_id: str, texts: Sequence[str]) -> Grant | None:
        """Write down that a key has taken another one's place, durably; the old one ends with the overlap.

        Raises:
            StorageError: The file cannot be written.
        """

        def decide(entries: Mapping[str, Grant]) -> list[Grant]:
            heir, old = self._heir(entries, key_id, texts)
            return [] if heir is None or old is None else [old, heir]

        written_down = self._file.change(decide)
        return written_down[1] if written_down else None

    def _heir(
        self, entries: Mapping[str, Grant], key_id: str, texts: Sequence[str]
    ) -> tuple[Grant, Grant] | tuple[None, None]:
        last = read(texts[-1]) if texts else None
        statements = chain(texts, last.new if last else "")
        if last is None or not statements or last.new_id != key_id or key_id in entries:
            return None, None
        now = self._clock()
        path = known_from(statements, lambda name: name in entries and entries[name].live(now))
        if not path:
            return None, None
        old, between = entries[path[0].old_id], tuple(each.old_id for each in path)
        if any(set(between) & set(other.was) for other in entries.values()):
            return None, None  # it has an heir already: somebody else has the old key, too
        until = min(path[0].until, now + LONGEST_OVERLAP)
        heir = old.model_copy(update={"public_key": last.new, "was": (*old.was, *between)})
        return heir, old.model_copy(
            update={"expires": until if old.expires is None else min(until, old.expires)}
        )

    def spokesman(self, key_id: str) -> Grant | None:
        """What speaks for runs that this key sent: its own grant, or that of the key which took its place."""
        found = self.lookup(key_id)
        if found is not None or self.word(key_id) is not Word.MAY:
            return found
        if self._owner is not None and key_id in self._owner().was:
            return self.lookup(self._owner().id)
        heirs = (grant for grant in self._file.entries().values() if key_id in grant.was)
        return next((grant for grant in heirs if grant.live(self._clock())), None)

    def called(self, key_id: str) -> str:
        """What people call whoever sent by this key, though it may count no more; empty: nobody named it."""
        if (speaks := self.spokesman(key_id)) is not None:
            return speaks.name
        entries = self._file.entries()
        kin = (each for name, each in entries.items() if name == key_id or key_id in each.was)
        return next((each.name for each in kin if each.name), "")

    def word(self, key_id: str) -> Word:
        """Whether waiting runs that this key sent may start, and if not, why."""
        if self._owner is not None:
            identity = self._owner()
            if key_id == identity.id or key_id in identity.was:
                return Word.MAY
        return word(self._file.entries(), key_id, self._clock())

    def ends_running(self, key_id: str) -> bool:
        """Whether the key was revoked in such a way that its running trainings are to end, too."""
        return any(
            grant.cancel_running and grant.revoked is not None
            for name, grant in self._file.entries().items()
            if name == key_id or key_id in grant.was
        )

    @property
    def sound(self) -> bool:
        """Whether the file says all that was meant: it can be read, and each of its lines is understood."""
        return self._file.sound

    @property
    def stamp(self) -> object:
        """Another value whenever the file has changed."""
        return self._file.stamp

    def next_end(self) -> float:
        """When the next key ceases to count by itself."""
        now = self._clock()
        ends = (grant.expires for grant in self._file.entries().values() if grant.expires is not None)
        return min((end for end in ends if end > now), default=math.inf)

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
            check_patterns(*repositories, *branches)
            check_name(name)
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

        It keeps the name that it has where they tell none, and the keys whose place it took: what those sent
        is its own, and nobody who has one of them takes its place.

        Raises:
            UsageError: The terms cannot stand in the file.
            StorageError: The file cannot be written.
        """

        def decide(entries: Mapping[str, Grant]) -> list[Grant]:
            before = entries.get(fingerprint(key))
            kept = {
                "name": terms.name or (before.name if before else ""),
                "was": before.was if before else (),
            }
            return [Grant(public_key=public_text(key), **{**dict(terms), **kept})]

        return self._file.change(decide)[0]

    def revoke(self, who: str, *, cancel_running: bool = False) -> list[Grant]:
        """Take all rights from a key, and from every key that it took the place of or that took its.

        A key that is not in the file is noted as well, so that nothing lets it in later but `allow`.

        Args:
            who: A public key, a fingerprint or its beginning, or a name.
            cancel_running: Whether what it sent and is being trained is to end, too.

        Returns:
            Every key that may do nothing from now on, the one that was meant first.

        Raises:
            NotFound: No such key is in the file.
            UsageError: Several are meant by that name.
            StorageError: The file cannot be written.
        """

        def decide(entries: Mapping[str, Grant]) -> list[Grant]:
            meant = chosen(entries, who)
            if meant is None:
                meant = Grant(public_key=public_text(parse_public(who)))
            since = self._clock()
            return [
                each.model_copy(
                    update={
                        "revoked": since if each.revoked is None else each.revoked,
                        "cancel_running": cancel_running or each.cancel_running,
                    }
                )
                for each in with_kin(entries, meant)
            ]

        return list(self._file.change(decide))


def _grant(key: Ed25519PublicKey, options: Mapping[str, str]) -> Grant:
    only(options, "scopes", "repo", "branch", "name", "expires", "was", "revoked", "running")
    scopes = options.get("scopes")
    repositories, branches = listed(options, "repo"), listed(options, "branch")
    check_patterns(*repositories, *branches)
    check_name(options.get("name", ""))
    if options.get("running", "cancel") != "cancel":
        raise ValueError("`running` can only be `cancel`")
    return Grant(
        public_key=public_text(key),
        scopes=tuple(Scope) if scopes is None else tuple(Scope(word) for word in scopes.split(",")),
        repositories=repositories,
        branches=branches,
        name=options.get("name", ""),
        expires=date_of(options, "expires"),
        was=listed(options, "was"),
        revoked=date_of(options, "revoked"),
        cancel_running="running" in options,
    )


def _grant_options(grant: Grant) -> dict[str, str]:
    return {
        "scopes": "" if grant.scopes == tuple(Scope) else ",".join(grant.scopes),
        "repo": ",".join(grant.repositories),
        "branch": ",".join(grant.branches),
        "name": grant.name,
        "expires": when(grant.expires),
        "was": ",".join(grant.was),
        "revoked": when(grant.revoked),
        "running": "cancel" if grant.cancel_running else "",
    }
