"""The invitations of a state folder, one small private file each.

`pushtrain invite` writes them and the executor reads them; neither needs the other to run.
Every change is made under one lock and is whole on the disk before anybody is told of it. A key that joins is
noted in its invitation before it is authorised, and the invitation is settled after that: so a crash in
between lets the same key finish, and nobody else.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Final

from pydantic import ValidationError

from pushtrain.core.errors import NotFound
from pushtrain.core.wire.invitation import (
    Invitation,
    Standing,
    after_joining,
    after_wrong_proof,
    is_name,
)
from pushtrain.plumbing.disk.files import replace, sync_folder
from pushtrain.plumbing.keys.keyfile import alone, told

_SUFFIX: Final = ".json"
_REMEMBERED: Final = 86_400.0
"""Seconds after its end for which an invitation can still say what became of it."""


class Invitations:
    """A folder of invitations. Any process and any thread may use it.

    Args:
        folder: `StateFolder.invitations`; made when first written to.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def find(self, name: str) -> Invitation | None:
        """The invitation that is called so, wherever it stands.

        Raises:
            StorageError: It cannot be read.
        """
        if not is_name(name):
            return None
        path = self._path(name)
        with told(path, "The invitation"):
            try:
                return Invitation.model_validate_json(path.read_bytes())
            except (FileNotFoundError, ValidationError):
                return None

    def open(self, now: float) -> list[Invitation]:
        """Those that somebody may still join by, the oldest first."""
        found = [each for each in self._all() if each.standing(now) is Standing.OPEN]
        return sorted(found, key=lambda each: each.made_at)

    def keep(self, invitation: Invitation, now: float) -> None:
        """Write a new one down, and forget those that are over for long.

        Raises:
            StorageError: It cannot be written.
        """
        with told(self._folder, "The folder of invitations"):
            self._folder.mkdir(mode=0o700, exist_ok=True)
            with alone(self._folder):
                for old in self._all():
                    if now > old.expires_at + _REMEMBERED:
                        self._path(old.name).unlink(missing_ok=True)
                self._write(invitation)

    def withdraw(self, name: str, now: float) -> Invitation | None:
        """Take one back that nobody has joined by; what it is then, None when it is gone.

        Raises:
            StorageError: It cannot be taken away.
        """
        with told(self._folder, "The folder of invitations"), alone(self._folder):
            found = self.find(name)
            if found is not None and found.standing(now) is not Standing.JOINED:
                self._path(name).unlink(missing_ok=True)
                sync_folder(self._folder)
                return None
            return found

    def wrong(self, name: str, now: float) -> Invitation | None:
        """Note that a request named it and did not prove its code.

        Raises:
            StorageError: It cannot be written.
        """
        with told(self._folder, "The folder of invitations"), alone(self._folder):
            found = self.find(name)
            if found is None:
                return None
            after = after_wrong_proof(found, now)
            if after != found:
                self._write(after)
            return after

    def join(
        self, name: str, public_key: str, now: float, authorize: Callable[[Invitation], object]
    ) -> Invitation:
        """Let a key join whose request proved the code. Safe to be killed at any line, and to be asked again.

        Args:
            name: Which invitation.
            public_key: Whose.
            now: Seconds since the epoch.
            authorize: Writes the key's rights down; called once, or again after a crash.

        Raises:
            NotFound: It was withdrawn meanwhile.
            Conflict, Unauthorized: As `core.wire.invitation.after_joining`.
            StorageError: It cannot be written; nobody was told of anything.
        """
        with told(self._folder, "The folder of invitations"), alone(self._folder):
            before = self.find(name)
            if before is None:
                raise NotFound(
                    "This invitation was withdrawn.", mend="Ask the executor's owner for a new one."
                )
            joined = after_joining(before, public_key, now)
            if joined.settled:
                return joined
            if joined != before:
                self._write(joined)
            authorize(joined)
            settled = joined.model_copy(update={"settled": True})
            self._write(settled)
            return settled

    def forget(self, public_keys: set[str]) -> None:
        """Let no invitation finish for these keys, which were revoked.

        Raises:
            StorageError: It cannot be written.
        """
        if not self._folder.is_dir():
            return
        with told(self._folder, "The folder of invitations"), alone(self._folder):
            for each in self._all():
                if each.joined_by in public_keys and not each.settled:
                    self._path(each.name).unlink(missing_ok=True)

    def _all(self) -> list[Invitation]:
        if not self._folder.is_dir():
            return []
        names = sorted(path.name.removesuffix(_SUFFIX) for path in self._folder.glob(f"*{_SUFFIX}"))
        return [found for name in names if (found := self.find(name)) is not None]

    def _path(self, name: str) -> Path:
        return self._folder / f"{name}{_SUFFIX}"

    def _write(self, invitation: Invitation) -> None:
        replace(self._path(invitation.name), invitation.model_dump_json(indent=2).encode())
