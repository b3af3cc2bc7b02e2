"""Which commits with a run's results went to the remote, written down before they go: so ours are known.

Whoever knows a commit and its job can tell the run's id in advance, and whoever can push to the results
branch can put a folder with that id there before its run has begun. It must not be taken for the run's.
"""

import json
from collections.abc import Mapping
from typing import Final

from pydantic import Field, ValidationError

from pushtrain.core.values.run import Run
from pushtrain.core.values.value import Value
from pushtrain.plumbing.attempts.records import write_record
from pushtrain.plumbing.attempts.rundir import RunDir

_NOTE: Final = "offered.json"
_KEPT: Final = 100


class _Offers(Value):
    folders: dict[str, str] = Field(default_factory=dict)
    """The run's folder by the commit that brings it."""


def offers(attempt: RunDir | None) -> Mapping[str, str]:
    """What was offered of a run: its folder by each commit; a note that cannot be read says nothing."""
    if attempt is None:
        return {}
    try:
        return _Offers.model_validate_json((attempt.root / _NOTE).read_bytes()).folders
    except (OSError, ValidationError):
        return {}


def offer(attempt: RunDir | None, commit: str, folder: str) -> None:
    """Write down durably that a commit is about to go. Raises StorageError."""
    if attempt is None:
        return
    known = dict([*offers(attempt).items(), (commit, folder)][-_KEPT:])
    write_record(attempt.root / _NOTE, _Offers(folders=known))


def is_ours(run: Run, attempt: RunDir | None, commit: str, record: bytes) -> bool:
    """Whether a folder with a run's id was put there by this executor.

    Args:
        run: The run.
        attempt: Its last attempt; None: it never had one, nothing is noted of it, and nothing can be lost.
        commit: The commit that brought the folder's record, or changed it last.
        record: The record, whose id is the run's.
    """
    if attempt is not None:
        return commit in offers(attempt)
    told = json.loads(record)["run"]
    return (told.get("outcome"), told.get("attempt")) == (run.outcome, run.attempt)
