"""The state folder: one place for everything that pushtrain keeps on a machine.

Every path below it is named here and nowhere else. The folder is private to its user (mode 0700).
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pushtrain.core.errors import StorageError

_OTHERS: Final = 0o076
"""What nobody else may do here. Jobs of the level `user` pass through, while they run (mode 0701)."""


def default_state() -> Path:
    """`PUSHTRAIN_STATE`, else the user's own state folder."""
    named = os.environ.get("PUSHTRAIN_STATE")
    return Path(named).expanduser().absolute() if named else users_own()


def users_own() -> Path:
    """The user's own state folder, `~/.local/state/pushtrain`; it need not be there."""
    from platformdirs import user_state_path

    return user_state_path("pushtrain")


@dataclass(frozen=True, slots=True)
class StateFolder:
    """Paths below one state folder."""

    root: Path

    def create(self) -> "StateFolder":
        """Make the folder and its rooms.

        Raises:
            StorageError: The folder cannot be made or written.
        """
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            if self.root.stat().st_mode & _OTHERS:
                self.root.chmod(0o700)
            for folder in (self.repositories, self.runs, self.data, self.environments, self.caches):
                folder.mkdir(exist_ok=True)
        except OSError as error:
            raise StorageError(
                f"The state folder {self.root} cannot be used: {error.strerror}.",
                mend="Choose another with `--state` or PUSHTRAIN_STATE.",
            ) from error
        return self

    @property
    def settings(self) -> Path:
        """`settings.toml`, written by a person or by `--repo`."""
        return self.root / "settings.toml"

    @property
    def key(self) -> Path:
        """This identity's private key, mode 0600."""
        return self.root / "identity.key"

    @property
    def sealing_key(self) -> Path:
        """The private key that secrets for this executor are sealed to, mode 0600."""
        return self.root / "sealing.key"

    @property
    def secret_times(self) -> Path:
        """When the newest sealed secrets that were believed had been sealed; these times never go back."""
        return self.root / "secrets.times"

    @property
    def authorized(self) -> Path:
        """Keys that may command this executor."""
        return self.root / "authorized_keys"

    @property
    def signers(self) -> Path:
        """GPG's own form of the owner's list of signers."""
        return self.root / "signers"

    @property
    def downloads(self) -> Path:
        """How many bytes were brought in today."""
        return self.root / "downloads.json"

    @property
    def pause(self) -> Path:
        """The owner's wish not to lend; there only while there is one."""
        return self.root / "pause.json"

    @property
    def energy(self) -> Path:
        """How much energy runs used today."""
        return self.root / "energy.json"

    @property
    def excluded(self) -> Path:
        """GPUs that have failed and are lent to nobody."""
        return self.root / "gpus-excluded.json"

    @property
    def standing(self) -> Path:
        """How the machine and its GPUs stand, for the owner's own screen: it names programs."""
        return self.root / "standing.json"

    @property
    def trusted(self) -> Path:
        """Executors' keys that this sender trusts."""
        return self.root / "trusted_keys"

    @property
    def invitations(self) -> Path:
        """Invitations that `pushtrain invite` made, and what became of them."""
        return self.root / "invitations"

    @property
    def webhook_secret(self) -> Path:
        """The secret shared with the Git host, mode 0600."""
        return self.root / "webhook.secret"

    @property
    def store(self) -> Path:
        """The database."""
        return self.root / "store.db"

    @property
    def isolation(self) -> Path:
        """What sandboxes are made with; no job writes there."""
        return self.root / "isolation"

    @property
    def reserve(self) -> Path:
        """Space that is put by for the moment when the disk is full."""
        return self.root / "reserve"

    @property
    def trash(self) -> Path:
        """What is being removed: whatever lies here is on its way out, also after a crash."""
        return self.root / "trash"

    @property
    def upkeep(self) -> Path:
        """Held by whoever clears the folder."""
        return self.root / "upkeep.lock"

    @property
    def lock(self) -> Path:
        """Held by the one executor or sender that serves this folder."""
        return self.root / "lock"

    @property
    def machine(self) -> Path:
        """Which machine the folder belongs to."""
        return self.root / "machine.json"

    @property
    def drain(self) -> Path:
        """The owner's order to drain; there only while it is carried out."""
        return self.root / "drain.json"

    @property
    def card(self) -> Path:
        """The running executor's card: how callers on this machine find it."""
        return self.root / "executor.json"

    @property
    def card_number(self) -> Path:
        """The number of the newest card that this executor published; it never goes back."""
        return self.root / "card.number"

    @property
    def roster_notes(self) -> Path:
        """What a verb read in rosters last, so that the next one need not."""
        return self.root / "rosters.json"

    @property
    def outbox(self) -> Path:
        """Commands that `pushtrain send` could not deliver yet."""
        return self.root / "outbox"

    @property
    def repositories(self) -> Path:
        """Mirrors and pristine trees."""
        return self.root / "repositories"

    @property
    def runs(self) -> Path:
        """One folder a run, below it one an attempt."""
        return self.root / "runs"

    @property
    def data(self) -> Path:
        """Data by digest."""
        return self.root / "data"

    @property
    def environments(self) -> Path:
        """Built environments by key."""
        return self.root / "environments"

    @property
    def tools(self) -> Path:
        """What uv shares between repositories: wheels, Pythons. Environments are hard links into it."""
        return self.environments / ".tools"

    @property
    def builds(self) -> Path:
        """What a repository's code was built with; one folder a repository, which only builds can write."""
        return self.root / "builds"

    @property
    def caches(self) -> Path:
        """HF_HOME and friends, one folder a repository."""
        return self.root / "caches"
