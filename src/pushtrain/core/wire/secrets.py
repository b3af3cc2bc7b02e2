"""Sealed secrets, `secrets.json` beside the roster: read them, tell which of them a run may have. No I/O.

An entry is one value, sealed to one executor's key (`plumbing/keys/sealing.py`), for one repository and for
the jobs and branches that two patterns select. Anybody who can push may write the file, so nothing in it is
believed for standing there:

- All but the sealed value and the signature is bound into the seal: with another job, branch or name it does
  not open.
- The whole entry is signed by whoever sealed it: Ed25519 over `pushtrain-secret-1`, a line feed, and the RFC
  8785 bytes of the entry without `signature`. An executor believes those who may send it commands for that
  repository, and nobody else.
- Its time only grows: an older entry in the place of a newer one that this executor has seen is not believed.
  What was removed by its sealer stays there as an entry without a value, for the same reason.

docs/secrets.md describes the file for people.
"""

import base64
import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

import rfc8785
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pydantic import Field, ValidationError

from pushtrain.core.errors import ConfigError, UsageError
from pushtrain.core.text.forms import clean
from pushtrain.core.text.patterns import PatternError, selects
from pushtrain.core.text.redact import LEAST
from pushtrain.core.text.strictjson import loads
from pushtrain.core.values.secretname import SecretName
from pushtrain.core.values.value import RepositoryKey, Value
from pushtrain.core.wire.register import Register, unfit
from pushtrain.core.wire.signing import fingerprint, parse_public, public_text

VERSION: Final = 1
MAX_FILE: Final = 4 * 1024 * 1024
"""Characters of the file."""
MAX_ENTRY: Final = 128 * 1024
"""Characters of one entry."""
MAX_VALUE: Final = 48 * 1024
"""Bytes of one value, as at GitHub."""
MAX_ENTRIES: Final = 2000
EVERY_JOB: Final = "*"
EVERY_BRANCH: Final = "**"

SIGNED: Final = b"pushtrain-secret-1\n"
"""Before what is signed: an entry's signature can be taken for nothing else."""
BOUND: Final = b"pushtrain-secret-seal-1\n"
"""Before what is bound into the seal."""
_LONGEST_PATTERN: Final = 512
_MILLISECONDS: Final = 1000
_FEWEST_KINDS: Final = 4


class BrokenSecrets(ConfigError):
    """The file holds no secrets: it is not JSON, or not of its shape."""


_REGISTER: Final = Register(
    kind="file of sealed secrets",
    table="secrets",
    entry="secrets",
    version=VERSION,
    most_text=MAX_FILE,
    most=MAX_ENTRIES,
    mend="Mend the file or delete it, and set the secrets anew: `pushtrain secret set NAME`.",
    broken=BrokenSecrets,
)


class Sealed(Value):
    """One secret as it stands in the file."""

    name: SecretName
    repository: RepositoryKey
    job: str = Field(max_length=_LONGEST_PATTERN)
    """Pattern of the jobs that may have it."""
    branch: str = Field(max_length=_LONGEST_PATTERN)
    """Pattern of the branches that may have it; of a tag the full name, `refs/tags/v1`, is matched."""
    recipient: str = Field(pattern=r"^x25519:[A-Za-z0-9+/]{42}[AEIMQUYcgkosw048]=$")
    """The executor's sealing key, as its card tells it."""
    sealed_at: int = Field(ge=0, le=2**53)
    """When, in milliseconds since the epoch; grows with each new value."""
    expires: int = Field(default=0, ge=0, le=2**53)
    """Seconds since the epoch; 0: never."""
    sealer: str
    """Public key of whoever sealed it."""
    sealed: str
    """Base64 of the sealed value; empty: it was removed."""
    signature: str = ""

    @property
    def slot(self) -> str:
        """What it stands under: one for each executor, sealer, repository, name, job and branch."""
        parts = (self.recipient, self.sealer, self.repository, self.name, self.job, self.branch)
        return hashlib.sha256(rfc8785.dumps(["pushtrain-slot-1", *parts])).hexdigest()[:32]

    @property
    def bound(self) -> bytes:
        """What its seal is bound to."""
        return BOUND + rfc8785.dumps(self._without("sealed", "signature"))

    @property
    def genuine(self) -> bool:
        """Whether its sealer has signed all of it."""
        try:
            key = parse_public(self.sealer)
            key.verify(base64.b64decode(self.signature, validate=True), self.to_sign)
        except (UsageError, ValueError, InvalidSignature):
            return False
        return True

    @property
    def sealer_id(self) -> str:
        """Fingerprint of its sealer's key; empty where that is no key."""
        try:
            return fingerprint(parse_public(self.sealer))
        except UsageError:
            return ""

    @property
    def removed(self) -> bool:
        """Whether it only says that there was one."""
        return not self.sealed

    @property
    def to_sign(self) -> bytes:
        """What its signature covers."""
        return SIGNED + rfc8785.dumps(self._without("signature"))

    def _without(self, *names: str) -> dict[str, Any]:
        return self.model_dump(mode="json", exclude=set(names))


class Unread(Value):
    """An entry that could not be read, and why."""

    slot: str
    why: str


@dataclass(frozen=True, slots=True)
class SecretsFile:
    """What a file holds."""

    entries: tuple[Sealed, ...] = ()
    unread: tuple[Unread, ...] = ()


# --- the file ---------------------------------------------------------------------------------------------


def parse(text: str, *, source: str = "secrets.json") -> SecretsFile:
    """Read a file; an empty text is one without secrets. An entry that cannot be read spoils no other.

    Raises:
        BrokenSecrets: It is no such file at all.
        ConfigError: A newer pushtrain wrote it.
    """
    entries, unread = _REGISTER.read(text, source, _entry)
    return SecretsFile(entries, tuple(Unread(slot=slot, why=why) for slot, why in unread))


def _entry(slot: str, text: str) -> Sealed:
    if len(text) > MAX_ENTRY:
        raise UsageError(f"it has more than {MAX_ENTRY} characters")
    loads(text.encode("utf-8", "surrogateescape"))
    try:
        entry = Sealed.model_validate_json(text.encode("utf-8", "surrogateescape"), strict=True)
    except ValidationError as error:
        raise unfit(error) from error
    if entry.slot != slot:
        raise UsageError("it does not stand in its place")
    return entry


def with_entry(text: str, entry: Sealed, *, source: str = "secrets.json") -> str:
    """The file with this entry in its place; everything else stays.

    Raises:
        BrokenSecrets: The text is no such file.
        ConfigError: A newer pushtrain wrote it.
    """
    return _REGISTER.with_entry(text, entry.slot, entry.model_dump(mode="json"), source)


def without(text: str, slots: Collection[str], *, source: str = "secrets.json") -> str:
    """The file without these entries; everything else stays. Raises as `with_entry`."""
    return _REGISTER.without(text, slots, source)


def sign(entry: Sealed, key: Ed25519PrivateKey) -> Sealed:
    """The entry with its sealer's signature.

    Raises:
        ValueError: It names another sealer.
    """
    if entry.sealer != public_text(key.public_key()):
        raise ValueError("an entry is signed by the sealer that it names")
    return entry.model_copy(update={"signature": base64.b64encode(key.sign(entry.to_sign)).decode()})


# --- which of them a run may have -------------------------------------------------------------------------


class Wanted(Value):
    """For what a secret is wanted."""

    repository: str
    job: str
    ref: str


def check_patterns(job: str, branch: str) -> None:
    """Raise UsageError unless both are patterns."""
    for what, pattern in (("job", job), ("branch", branch)):
        try:
            if not pattern or pattern.startswith("!"):
                raise PatternError("selects nothing")  # noqa: TRY301  one way to say why
            selects((pattern,), "main")
        except PatternError as error:
            raise UsageError(
                f"The {what} pattern {pattern[:80]!r} {error}.",
                mend="Write a name, or a pattern such as `release/*`; `**` stands for every branch.",
            ) from error


def covers(jobs: Sequence[str], branches: Sequence[str], wanted: Wanted) -> bool:
    """Whether patterns select that job and that branch; malformed ones select nothing."""
    short = wanted.ref.removeprefix("refs/heads/")
    # A branch may be called `refs/tags/v1`; it must not pass for the tag.
    where = wanted.ref if short.startswith("refs/") else short
    try:
        return selects(jobs, wanted.job) and selects(branches, where)
    except PatternError:
        return False


def hindrance(
    entry: Sealed,
    wanted: Wanted,
    *,
    recipient: str,
    may_seal: Mapping[str, str],
    newest: Mapping[str, int],
    now: float,
) -> str:
    """Why a run may not have an entry, to follow `it `; empty when it may.

    Args:
        entry: Of the right name.
        wanted: The run.
        recipient: This executor's sealing key.
        may_seal: Fingerprints of sealers, and why each may not seal for that repository; empty when it may.
        newest: By slot, the time of the newest entry that this executor has believed.
        now: Seconds since the epoch.
    """
    if entry.repository != wanted.repository:
        return f"is for the repository {clean(entry.repository)}"
    if entry.recipient != recipient:
        return "is sealed for another executor, or for an earlier key of this one"
    if not covers((entry.job,), (entry.branch,), wanted):
        return f"is for {scope(entry.job, entry.branch)}"
    return unsound(entry, may_seal=may_seal, newest=newest, now=now)


def unsound(entry: Sealed, *, may_seal: Mapping[str, str], newest: Mapping[str, int], now: float) -> str:
    """Why an entry is good for no run at all, to follow `it `; empty when it is. Arguments as `hindrance`."""
    if not entry.genuine:
        return "is not signed by the key that it names"
    if why := may_seal.get(entry.sealer_id, "its key is not authorised here"):
        return f"was sealed by {entry.sealer_id}: {why}"
    if entry.sealed_at < newest.get(entry.slot, 0):
        return "is older than one that this executor has seen: somebody put an old value back"
    if entry.removed:
        return "was removed"
    if entry.expires and now >= entry.expires:
        return f"expired on {day(entry.expires)}"
    return ""


def best(entries: Sequence[Sealed]) -> Sealed | None:
    """Of entries that a run may all have, the one that it gets: the closest fit, then the newest."""

    def rank(entry: Sealed) -> tuple[bool, bool, int, str]:
        plain = [not set(pattern) & set("*?+[\\") for pattern in (entry.job, entry.branch)]
        return plain[0], plain[1], entry.sealed_at, entry.slot

    return max(entries, key=rank, default=None)


def scope(job: str, branch: str) -> str:
    """For people: `every job on every branch`, `the job train on release/*`."""
    which = "every job" if job == EVERY_JOB else f"the job {clean(job)}"
    return f"{which} on {'every branch' if branch == EVERY_BRANCH else clean(branch)}"


def day(seconds: float) -> str:
    """A date in UTC."""
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d}"


def value_problem(value: str) -> str:
    """Why this cannot be a secret's value, to follow `it `; empty when it can. Tells nothing of the value."""
    size = len(value.encode("utf-8", "surrogateescape"))
    if "\0" in value:
        return "holds a NUL, which no environment variable can"
    if size > MAX_VALUE:
        return f"has {size} bytes; at most {MAX_VALUE}"
    if len(value.strip()) < LEAST:
        return f"has fewer than {LEAST} characters, too few to be hidden in logs"
    if len(set(value.strip())) < _FEWEST_KINDS:
        return "is made of three characters at most, and could not be told from a ruler line in logs"
    return ""


def next_time(text: str, now: float, slots: Collection[str]) -> int:
    """A `sealed_at` that is later than those of the entries whose places are taken."""
    taken = [entry.sealed_at for entry in parse(text).entries if entry.slot in slots]
    return max(int(now * _MILLISECONDS), *(moment + 1 for moment in taken), 0)
