"""The owner's order to drain: a small file, so that an executor which is killed meanwhile goes on draining.

Written by `pushtrain executor drain`, read by the executor, gone once it was carried out or taken back. An
order from before a restart of the machine is void: what the machine was to be free for has happened. A file
that cannot be read counts as an order: somebody gave one.
"""

from pathlib import Path

from pydantic import ValidationError

from pushtrain.core.errors import StorageError
from pushtrain.core.values.value import Value
from pushtrain.plumbing.disk.files import replace
from pushtrain.plumbing.programs.proc import boot_id


class DrainOrder(Value):
    """Finish what runs, take nothing new, then stop."""

    since: float
    until: float | None = None
    """When to stop although something still runs; None: when nothing does."""
    boot: str


def order(path: Path, *, since: float, timeout: float | None) -> DrainOrder:
    """Write an order down durably.

    Args:
        path: `StateFolder.drain`.
        since: Now, in seconds since the epoch.
        timeout: Seconds after which the executor stops at all events; None: never.

    Raises:
        StorageError: It cannot be written.
    """
    given = DrainOrder(since=since, until=None if timeout is None else since + timeout, boot=boot_id())
    try:
        replace(path, given.model_dump_json().encode())
    except OSError as error:
        raise StorageError(
            f"The order could not be written to {path}: {error.strerror}.",
            mend="Stop the executor instead: its trainings go on, nothing new starts.",
        ) from error
    return given


def ordered(path: Path) -> DrainOrder | None:
    """The order that holds now; None: there is none."""
    try:
        found = DrainOrder.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValidationError):
        return DrainOrder(since=0, boot=boot_id())
    return found if found.boot == boot_id() else None


def done(path: Path) -> bool:
    """Take an order away, carried out or taken back; whether there was one.

    Raises:
        StorageError: It cannot be removed.
    """
    before = ordered(path)
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise StorageError(f"{path} could not be removed: {error.strerror}.") from error
    return before is not None
