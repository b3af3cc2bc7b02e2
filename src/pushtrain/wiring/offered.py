"""The secrets that an executor could give to jobs, as its owner sees them; never a value."""

import time
from dataclasses import dataclass
from functools import partial

from pushtrain.core.errors import PushtrainError, SecretError
from pushtrain.core.settings import Settings
from pushtrain.core.wire.secrets import parse, scope
from pushtrain.executor.runs.vault import Vault
from pushtrain.plumbing.disk.state import StateFolder
from pushtrain.plumbing.keys import ownersecrets
from pushtrain.plumbing.keys.authorized import Authorized
from pushtrain.plumbing.keys.identity import Ring
from pushtrain.plumbing.keys.sealing import sealing_key
from pushtrain.wiring.parts import mirror
from pushtrain.wiring.rosters import sealed_secrets


@dataclass(frozen=True, slots=True)
class Offered:
    """One secret that is here for jobs."""

    name: str
    repository: str
    """A key, or patterns of keys."""
    scope: str
    """For people: which jobs on which branches."""
    origin: str
    """For people: from whom."""
    trouble: str = ""
    """Why no job gets it; empty: those that may get it."""


def offered(state: StateFolder, settings: Settings) -> list[Offered]:
    """All of them: what senders sealed to this executor, then what its owner keeps."""
    grants = Authorized(state.authorized, owner=Ring(state.key)).lookup
    readers = sealed_secrets(settings, partial(mirror, state))
    vault = Vault(sealing_key(state.sealing_key), grants=grants, memory=state.secret_times, clock=time.time)
    found: list[Offered] = []
    for repository in settings.repositories:
        reader = readers.get(repository.key)
        try:
            entries = parse(reader(None)).entries if reader else ()
        except PushtrainError as error:
            found.append(Offered("", repository.key, "", "sealed", str(error)))
            continue
        for entry in entries:
            if entry.recipient == vault.public and entry.repository == repository.key and not entry.removed:
                who = grants(entry.sealer_id)
                by = f"sealed by {who.name}" if who and who.name else f"sealed by {entry.sealer_id[:15]}…"
                why = vault.state(entry)
                where = scope(entry.job, entry.branch)
                found.append(Offered(entry.name, entry.repository, where, by, f"it {why}" if why else ""))
    for secret in settings.secrets:
        trouble = ""
        try:
            ownersecrets.read(secret)
        except SecretError as error:
            trouble = str(error)
        where = scope(", ".join(secret.jobs), ", ".join(secret.branches))
        found.append(Offered(secret.name, ", ".join(secret.repositories), where, "kept by you", trouble))
    return found
