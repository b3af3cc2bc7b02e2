"""What an attempt was given: its secrets, sealed to this executor itself, for as long as they must be hidden.

The values of a running attempt are in the job's memory, and here, so that a later life of the executor still
knows what to hide in the log and in the results, whatever became of the secrets meanwhile. In clear they are
never on the disk. The record goes when the run is published: its log has been cleaned for good by then
(`plumbing/attempts/cleanlog.py`).
"""

import json
import logging
from collections.abc import Mapping

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from pushtrain.core.text.redact import NOTHING, Mask
from pushtrain.plumbing.attempts.records import write_bytes
from pushtrain.plumbing.attempts.rundir import RunDir
from pushtrain.plumbing.keys.sealing import NotOurs, seal, unseal

_log = logging.getLogger(__name__)


def note(folder: RunDir, values: Mapping[str, str], key: X25519PrivateKey) -> None:
    """Write down what an attempt is about to get; nothing where it gets nothing.

    Raises:
        StorageError: It could not be written; the attempt must not start.
    """
    if values:
        plain = json.dumps(dict(values)).encode()
        write_bytes(folder.given, seal(plain, key.public_key(), bound=_bound(folder)))


def mask_of(folder: RunDir, key: X25519PrivateKey) -> Mask:
    """What to hide of an attempt; everything, where there were secrets and we cannot tell any more which."""
    try:
        sealed = folder.given.read_bytes()
    except FileNotFoundError:
        return NOTHING
    except OSError as error:
        _log.error("the secrets of the attempt in %s cannot be read: %s", folder.root, error)
        return Mask(everything=True)
    try:
        return Mask(json.loads(unseal(sealed, key, bound=_bound(folder))))
    except (NotOurs, ValueError):
        _log.error("the secrets of the attempt in %s do not open; all of its output is hidden", folder.root)
        return Mask(everything=True)


def hide_all(folder: RunDir) -> Mask:
    """What to hide for whoever has no key: everything of an attempt that got secrets."""
    return Mask(everything=True) if folder.given.exists() else NOTHING


def _bound(folder: RunDir) -> bytes:
    """A record is good for its own attempt alone."""
    return f"pushtrain-given-1\n{folder.root.parent.name}\n{folder.root.name}\n".encode()
