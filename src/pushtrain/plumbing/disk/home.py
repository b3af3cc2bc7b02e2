"""Which machine a state folder belongs to: a copy of it that is started on another one does nothing there.

Two machines with one state folder would have one key, take the same waiting runs and push each other's card
off the roster. So the folder remembers the machine that served it first, by a digest of the machine's own
`machine-id` (systemd's and D-Bus's; machine-id(5) asks not to show it). Where a machine has none, as in most
containers, nothing is compared here. Copies that this cannot tell apart, such as cloned virtual machines,
betray themselves on a roster (`executor.announce`); that is remembered here as well.
"""

import hashlib
import re
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from pydantic import ValidationError

from pushtrain.core.errors import Cloned, StorageError
from pushtrain.core.values.value import Value
from pushtrain.plumbing.disk.files import replace

MACHINE_IDS: Final = (Path("/etc/machine-id"), Path("/var/lib/dbus/machine-id"))
MOVED: Final = "pushtrain store moved"
_ID: Final = re.compile(r"[0-9a-f]{32}")


class _Home(Value):
    """What a state folder remembers of its machine."""

    machine: str
    host: str
    twin: str = ""
    """What was seen of another machine with the same key; empty: nothing."""


def machine_id(places: Sequence[Path] = MACHINE_IDS) -> str:
    """A name for this machine that tells nothing of it and stays while its system does; empty: none."""
    for place in places:
        try:
            text = place.read_text("ascii").strip()
        except (OSError, UnicodeError):
            continue
        if _ID.fullmatch(text):
            return hashlib.sha256(b"pushtrain machine\0" + text.encode()).hexdigest()[:32]
    return ""


def settle(path: Path, *, here: str | None = None) -> None:
    """Check that a state folder belongs to this machine; a folder that belongs to none does from now on.

    Args:
        path: `StateFolder.machine`. Its folder's lock is held.
        here: This machine's name; as `machine_id` says, without a word.

    Raises:
        Cloned: It belongs to another one, or a copy of it was seen at work.
        StorageError: It cannot be read or written.
    """
    here = machine_id() if here is None else here
    home = _read(path)
    if home is not None and home.twin:
        raise Cloned(home.twin, mend=f"Stop one of the two for good; where the other stays, run `{MOVED}`.")
    if home is not None and home.machine and here and home.machine != here:
        raise Cloned(
            f"The state folder {path.parent} belongs to another machine, {home.host or 'name unknown'}: with "
            "a copy of it, two machines would run the same runs under the same key.",
            mend=f"If that machine does not serve it any more, run `{MOVED}`; else choose a folder of this "
            "machine's own with `--state`.",
        )
    if home is None or (here and not home.machine):
        move_in(path, here=here)


def move_in(path: Path, *, here: str | None = None) -> None:
    """Let the state folder belong to this machine from now on.

    Raises:
        StorageError: It cannot be written.
    """
    _write(path, _Home(machine=machine_id() if here is None else here, host=socket.gethostname()))


def saw_twin(path: Path, told: str) -> None:
    """Remember that another machine uses this folder's key, until a person has looked.

    Raises:
        StorageError: It cannot be written.
    """
    home = _read(path) or _Home(machine=machine_id(), host=socket.gethostname())
    _write(path, home.model_copy(update={"twin": told}))


def _read(path: Path) -> _Home | None:
    try:
        return _Home.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValidationError) as error:
        raise StorageError(
            f"{path} cannot be read: it does not say which machine the folder belongs to.",
            mend=f"If no other machine serves it, run `{MOVED}`.",
        ) from error


def _write(path: Path, home: _Home) -> None:
    try:
        replace(path, home.model_dump_json().encode())
    except OSError as error:
        raise StorageError(f"{path} could not be written: {error.strerror}.") from error
