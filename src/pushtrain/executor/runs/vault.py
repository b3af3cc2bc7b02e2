"""The secrets that a run may have: what senders sealed to this executor, and what its owner keeps for jobs.

Nothing is given for being asked for. A sealed secret must be signed by a key that may send commands for that
repository, sealed to our key, for that job and branch, not expired, and not older than one seen before. What
the owner keeps has its own patterns. That a commit is of the branch which its command names was seen to when
it was fetched (`Mirror.fetch`). Where several fit, a sealed one comes before the owner's, the closest fit
before others, then the newest.
"""

import json
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from pushtrain.core.errors import SecretError, StorageError
from pushtrain.core.settings import OwnerSecret
from pushtrain.core.text.patterns import selects
from pushtrain.core.text.redact import Mask
from pushtrain.core.values.command import TrainCommand
from pushtrain.core.wire.secrets import (
    Sealed,
    Wanted,
    best,
    covers,
    day,
    hindrance,
    parse,
    scope,
    unsound,
    value_problem,
)
from pushtrain.plumbing.attempts import given
from pushtrain.plumbing.attempts.rundir import RunDir
from pushtrain.plumbing.disk.files import replace
from pushtrain.plumbing.keys import ownersecrets
from pushtrain.plumbing.keys.authorized import Grant, Scope
from pushtrain.plumbing.keys.sealing import NotOurs, open_secret, sealing_text
from pushtrain.ports import Stop

_MOST_NOTED: Final = 10_000
_MOST_REASONS: Final = 3

Reader = Callable[[Stop | None], str]
"""Reads the text of one repository's sealed secrets, as it is now."""


@dataclass(frozen=True, slots=True)
class Given:
    """One secret for one run."""

    value: str = field(repr=False)
    origin: str
    """For people: who it is from."""


class Vault:
    """The secrets of one executor. Any thread may call any method.

    Args:
        key: What secrets are sealed to.
        kept: What the owner keeps.
        sealed: Where the sealed secrets of a repository are, by its key.
        grants: What the key with a fingerprint may do here; None when it is not authorised.
        memory: File that holds the times of the newest entries that were believed.
        clock: Seconds since the epoch.
    """

    def __init__(
        self,
        key: X25519PrivateKey,
        *,
        kept: Sequence[OwnerSecret] = (),
        sealed: Mapping[str, Reader] | None = None,
        grants: Callable[[str], Grant | None] = lambda _: None,
        memory: Path | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.key = key
        self.public = sealing_text(key.public_key())
        """What a card tells of it."""
        self._kept = tuple(kept)
        self._sealed = dict(sealed or {})
        self._grants = grants
        self._memory = memory
        self._clock = clock
        self._lock = threading.Lock()

    def of(self, command: TrainCommand, *, stop: Stop | None = None) -> dict[str, Given]:
        """The secrets that a job names, by name.

        Args:
            command: Whose; its commit is known to be of its branch.
            stop: Called now and then; what it raises ends the work.

        Raises:
            SecretError: One is not here, or not for this run: says which, why and the mend.
            GitError: The sealed secrets cannot be read now.
        """
        names = command.job.secrets
        if not names:
            return {}
        wanted = Wanted(repository=command.repository, job=command.job.name, ref=command.ref)
        reader = self._sealed.get(command.repository)
        entries = () if reader is None else parse(reader(stop)).entries
        usable, hindrances = self.sort(entries, wanted)
        return {
            name: self._one(name, wanted, usable.get(name, ()), hindrances.get(name, ())) for name in names
        }

    def sort(
        self, entries: Sequence[Sealed], wanted: Wanted
    ) -> tuple[dict[str, list[Sealed]], dict[str, list[str]]]:
        """By name, the entries that a run may have, and why it may not have the others."""
        may_seal = {entry.sealer_id: self._may_seal(entry.sealer_id, wanted) for entry in entries}
        newest = self._remember([entry for entry in entries if not may_seal[entry.sealer_id]])
        usable: dict[str, list[Sealed]] = {}
        hindrances: dict[str, list[str]] = {}
        for entry in entries:
            why = hindrance(
                entry, wanted, recipient=self.public, may_seal=may_seal, newest=newest, now=self._clock()
            )
            if why:
                hindrances.setdefault(entry.name, []).append(why)
            else:
                usable.setdefault(entry.name, []).append(entry)
        return usable, hindrances

    def state(self, entry: Sealed) -> str:
        """Why an entry that is sealed to us is given to nobody, to follow `it `; empty when it is given."""
        wanted = Wanted(repository=entry.repository, job="", ref="")
        may_seal = {entry.sealer_id: self._may_seal(entry.sealer_id, wanted)}
        with self._lock:
            newest = self._noted()
        if why := unsound(entry, may_seal=may_seal, newest=newest, now=self._clock()):
            return why
        try:
            self._opened(entry)
        except SecretError as error:
            return error.message
        return ""

    def mask(self, folder: RunDir) -> Mask:
        """What to hide of an attempt's output."""
        return given.mask_of(folder, self.key)

    def note(self, folder: RunDir, secrets: Mapping[str, Given]) -> None:
        """Write down, sealed, what an attempt is about to get. Raises StorageError."""
        given.note(folder, {name: one.value for name, one in secrets.items()}, self.key)

    def _one(self, name: str, wanted: Wanted, usable: Sequence[Sealed], hindrances: Sequence[str]) -> Given:
        entry = best(usable)
        if entry is not None:
            return self._opened(entry)
        for secret in self._kept:
            if secret.name == name and _is_for(secret, wanted):
                return Given(ownersecrets.read(secret), "kept by the executor's owner")
        reasons = list(dict.fromkeys(hindrances))[:_MOST_REASONS]
        why = f": {'; '.join(f'one {reason}' for reason in reasons)}" if reasons else ""
        raise SecretError(
            f"The job needs the secret {name}, which this executor does not have for it{why}.",
            mend=f"`pushtrain secret set {name}` in a clone of the repository, "
            "or the executor's owner keeps it for you (docs/secrets.md).",
        )

    def _opened(self, entry: Sealed) -> Given:
        who = self._grants(entry.sealer_id)
        origin = " ".join(
            part
            for part in (
                "sealed by",
                who.name if who else "",
                f"({entry.sealer_id[:15]}…)",
                f"on {day(entry.sealed_at / 1000)} for {scope(entry.job, entry.branch)}",
            )
            if part
        )
        try:
            value = open_secret(entry, self.key)
        except NotOurs as error:
            raise SecretError(
                f"The secret {entry.name}, {origin}, does not open: it was sealed for another purpose.",
                mend=f"Set it anew: `pushtrain secret set {entry.name}`.",
            ) from error
        if why := value_problem(value):
            raise SecretError(
                f"The secret {entry.name}, {origin}, cannot be used: it {why}.",
                mend=f"Set it anew: `pushtrain secret set {entry.name}`.",
            )
        return Given(value, origin)

    def _may_seal(self, sealer: str, wanted: Wanted) -> str:
        """Why a key may not seal secrets for a run; empty when it may: whoever may send the run."""
        grant = self._grants(sealer) if sealer else None
        if grant is None:
            return "its key is not authorised here (any more)"
        allowed = grant.allows(Scope.SEND, wanted.repository) and (not wanted.ref or grant.sends(wanted.ref))
        if not allowed:
            return "its key may not send commands for this repository and branch"
        return ""

    def _remember(self, believed: Sequence[Sealed]) -> dict[str, int]:
        """The time of the newest entry of each place that was ever believed, these included."""
        with self._lock:
            noted = self._noted()
            fresh = {
                entry.slot: entry.sealed_at
                for entry in believed
                if entry.recipient == self.public
                and entry.sealed_at > noted.get(entry.slot, -1)
                and entry.genuine
            }
            if fresh and self._memory is not None:
                noted |= fresh
                kept = dict(sorted(noted.items(), key=lambda one: one[1])[-_MOST_NOTED:])
                try:
                    replace(self._memory, json.dumps(kept).encode())
                except OSError as error:
                    raise StorageError(
                        f"{self._memory} cannot be written: {error.strerror}.", mend="Free some space."
                    ) from error
            return noted | fresh

    def _noted(self) -> dict[str, int]:
        if self._memory is None:
            return {}
        try:
            found = json.loads(self._memory.read_bytes())
            return {str(slot): int(moment) for slot, moment in found.items()}
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, AttributeError) as error:
            raise StorageError(
                f"{self._memory} cannot be read: {error}.",
                mend="Remove it: what it remembers guards against old secrets that somebody puts back.",
            ) from error


def _is_for(secret: OwnerSecret, wanted: Wanted) -> bool:
    return selects(secret.repositories, wanted.repository) and covers(secret.jobs, secret.branches, wanted)
