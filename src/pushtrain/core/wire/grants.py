"""What a key may do at an executor, and which executors' keys a sender believes. No I/O."""

from collections.abc import Collection, Mapping
from datetime import UTC, datetime
from enum import StrEnum
from typing import Final

from pushtrain.core.text.forms import Wrong, duration
from pushtrain.core.text.patterns import PatternError, compiled, selects
from pushtrain.core.values.value import Value

_HEADS: Final = "refs/heads/"
OWNER: Final = "owner"
"""What rules call the executor's own key."""


class Scope(StrEnum):
    """What a key may do."""

    SEND = "send"
    READ = "read"
    CANCEL = "cancel"


class Terms(Value):
    """What is granted, whoever gets it."""

    scopes: tuple[Scope, ...] = tuple(Scope)
    repositories: tuple[str, ...] = ()
    """Patterns of repository keys such as `github.com/octo/*`, as in `on.push.branches`; empty: every
    repository served here."""
    branches: tuple[str, ...] = ()
    """Patterns of branches that may be sent, as in `on.push.branches`; empty: every branch and tag."""
    name: str = ""
    expires: float | None = None

    def allows(self, scope: Scope, repository: str = "") -> bool:
        """Whether it may do this at all; with a repository, whether it may do it there."""
        if scope not in self.scopes:
            return False
        if not self.repositories or not repository:
            return True
        return selects(self.repositories, repository)

    def sends(self, ref: str) -> bool:
        """Whether it may send commits of this ref; where branches are named, a tag is none of them."""
        if not self.branches:
            return True
        return ref.startswith(_HEADS) and selects(self.branches, ref.removeprefix(_HEADS))


class Grant(Terms):
    """One key that may command this executor, or might once."""

    public_key: str
    was: tuple[str, ...] = ()
    """Fingerprints of the keys that this one has taken the place of, by their own signature."""
    revoked: float | None = None
    """Since when it, and what comes after it, may do nothing."""
    cancel_running: bool = False
    """Whether its runs are to end, too, where they are being trained already."""

    def live(self, now: float) -> bool:
        """Whether it counts at this moment."""
        return self.revoked is None and (self.expires is None or now < self.expires)


class Trust(Value):
    """One executor that this sender believes, or did once."""

    public_key: str
    url: str = ""
    name: str = ""
    was: tuple[str, ...] = ()
    """Fingerprints of the keys that this one has taken the place of, by their own signature."""
    until: float | None = None
    """When it ceases to count, because another key has taken its place."""
    revoked: float | None = None
    """Since when it, and what comes after it, is not believed."""

    def live(self, now: float) -> bool:
        """Whether it counts at this moment."""
        return self.revoked is None and (self.until is None or now < self.until)


class Word(StrEnum):
    """What is to become of runs that a key sent and that wait."""

    MAY = "may"
    """They may start: the key counts, or the one that took its place."""
    REVOKED = "revoked"
    EXPIRED = "expired"
    UNKNOWN = "unknown"
    """Nobody says anything of the key, any more."""


def word(grants: Mapping[str, Grant], key_id: str, now: float) -> Word:
    """What is said of the key with this fingerprint.

    Args:
        grants: By fingerprint.
        key_id: Whose.
        now: Seconds since the epoch.
    """
    own = grants.get(key_id)
    if own is not None and own.revoked is not None:
        return Word.REVOKED
    kin = [grant for name, grant in grants.items() if name == key_id or key_id in grant.was]
    if any(grant.live(now) for grant in kin):
        return Word.MAY
    if any(grant.revoked is not None for grant in kin):
        return Word.REVOKED
    return Word.EXPIRED if kin else Word.UNKNOWN


def kin(entries: Mapping[str, Grant] | Mapping[str, Trust], start: Collection[str]) -> set[str]:
    """The fingerprints of all keys that took each other's place, from these on, before and after."""
    found = set(start)
    circles = [{name, *entry.was} for name, entry in entries.items()]
    while more := [circle for circle in circles if circle & found and not circle <= found]:
        found = found.union(*more)
    return found


def check_patterns(*patterns: str) -> None:
    """See that patterns of repositories or branches can be understood.

    Raises:
        ValueError: One cannot; the text says why.
    """
    for pattern in patterns:
        try:
            compiled(pattern)
        except PatternError as error:
            raise ValueError(f"`{pattern[:40]}` is no pattern: {error}") from None


def check_name(name: str) -> None:
    """See that a key's name cannot be taken for another key where rules list senders.

    Raises:
        ValueError: It can; the text says how.
    """
    if name == OWNER or name.startswith("SHA256:"):
        meant = "the executor's own key" if name == OWNER else "the key with that fingerprint"
        raise ValueError(f"the name `{name[:60]}` would stand for {meant} in the owner's rules")


def moment(text: str, now: float) -> float:
    """Seconds since the epoch, from a date or a time in ISO 8601, or from a duration that begins now.

    Raises:
        ValueError: It is neither.
    """
    try:
        return now + duration(text)
    except Wrong:
        pass
    try:
        return date(text)
    except ValueError:
        raise ValueError(f"`{text[:40]}` is no date such as 2027-01-31 and no time such as 90d") from None


def date(text: str) -> float:
    """Seconds since the epoch, from a date or a time in ISO 8601, in UTC unless it says otherwise.

    Raises:
        ValueError: It is none.
    """
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(f"`{text[:40]}` is no date such as 2027-01-31") from None
    return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()


def written(moment: float) -> str:
    """A moment as it stands in a key file, to the second."""
    return f"{datetime.fromtimestamp(int(moment), UTC):%Y-%m-%dT%H:%M:%SZ}"
