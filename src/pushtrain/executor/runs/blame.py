"""Whose fault it is that an attempt could not be prepared: the run's, the machine's, or nobody's for now.

docs/decisions/0031-what-is-not-the-runs-fault.md tells why, and what follows.
"""

from typing import Final

from pushtrain.core.errors import (
    BuildKilled,
    CredentialError,
    DataAway,
    IndexAway,
    NotFound,
    PushtrainError,
    StorageError,
    fit,
)
from pushtrain.core.values.states import Reason
from pushtrain.executor.moving import luggage
from pushtrain.plumbing.disk.files import THE_DISKS
from pushtrain.plumbing.git.complaint import Killed, RateLimited, ShutOut, Unanswered
from pushtrain.plumbing.git.mirror import Mirror
from pushtrain.plumbing.programs import process
from pushtrain.ports import Stop

_AWAY: Final = (Unanswered, RateLimited, luggage.Withheld, DataAway, IndexAway)
_SHUT_OUT: Final = "The host has let this executor in before; it is tried again."
_NOBODY: Final = "The repository's host does not answer either; it is tried again."


class PreparationError(Exception):
    """An attempt could not be started.

    Args:
        reason: The stage that failed.
        detail: What went wrong and the mend, for people.
        again_at: When it is tried again by itself; None: never.
        least: Seconds that pass at least before it is tried again because it counts as nobody's fault.
    """

    def __init__(
        self, reason: Reason, detail: str, again_at: float | None = None, *, least: float = 0
    ) -> None:
        super().__init__(fit(detail))
        self.reason = reason
        self.detail = fit(detail)
        self.again_at = again_at
        self.least = least


def blamed(error: PushtrainError, usual: Reason, mirror: Mirror | None, *, stop: Stop) -> PreparationError:
    """Why a stage failed: the run is not to blame where nobody can be reached, or a tool was killed.

    Args:
        error: What it failed of.
        usual: The reason where it is the run's own fault.
        mirror: The run's repository, once it is open: its host tells whether there is a network.
        stop: Called now and then; what it raises ends the asking.
    """
    if isinstance(error, Killed | BuildKilled):
        return PreparationError(Reason.LOST, str(error))
    if isinstance(error, ShutOut):
        return PreparationError(Reason.UNREACHABLE, f"{error} {_SHUT_OUT}")
    if isinstance(error, _AWAY):
        least = error.patience if isinstance(error, RateLimited) else 0
        return PreparationError(Reason.UNREACHABLE, str(error), least=least)
    if isinstance(error, StorageError):
        return PreparationError(Reason.STORAGE, str(error))
    refused = isinstance(error, CredentialError | NotFound)
    try:
        if refused and mirror is not None and mirror.shuts_out(stop=stop):
            return PreparationError(Reason.UNREACHABLE, f"{error} {_SHUT_OUT}")
        if mirror is not None and not mirror.answers(stop=stop):
            return PreparationError(Reason.UNREACHABLE, f"{error} {_NOBODY}")
    except OSError as unable:
        return PreparationError(fault_of(unable, usual), f"{error} The host could not be asked: {unable}.")
    return PreparationError(usual, str(error))


def fault_of(error: Exception, usual: Reason) -> Reason:
    """Why something failed: what the machine has no means for now is not the run's fault."""
    number = error.errno if isinstance(error, OSError) else None
    if isinstance(error, StorageError) or number in THE_DISKS:
        return Reason.STORAGE
    return Reason.LOST if number in process.NO_MEANS else usual
