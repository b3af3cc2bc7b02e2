"""Which commits with a run's results went to the remote, written down before they go: so ours are known.

Whoever knows a commit and its job can tell the run's id in advance, and whoever can push to the results
branch can put a folder with that id there before its run has begun. It must not be taken for the run's.
"""

import re
from collections.abc import Mapping
from typing import Final

from pydantic import Field, ValidationError

from pushtrain.core.errors import PushtrainError
from pushtrain.core.text import strictjson
from pushtrain.core.values.value import Value
from pushtrain.executor.results.parcel import Parcel
from pushtrain.plumbing.attempts.records import write_record
from pushtrain.plumbing.attempts.rundir import RunDir
from pushtrain.plumbing.git.commits import blob_id

_NOTE: Final = "offered.json"
_KEPT: Final = 100
_TELLING: Final = ("id", "outcome", "attempt", "accepted_at")
_RETOLD: Final = re.compile(r"run\.json$|README\.md$|plots/")


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


def is_same(one: Parcel, record: bytes, blobs: Mapping[str, str]) -> bool:
    """Whether a folder holds what this run would bring, so that nothing is lost by taking it for the run's.

    That is how results are known that were pushed without a note: of a run that never had an attempt, or by
    an executor that made none yet. The report and its charts do not count: they tell when they were made.

    Args:
        one: The run.
        record: The folder's `run.json`.
        blobs: The id of each file in the folder, by its path there.
    """
    try:
        told = strictjson.loads(record, any_text=True)
        run = {name: told["run"].get(name) for name in _TELLING}
        files = sorted((file["path"], file["sha256"], file["size"]) for file in told["files"])
    except (PushtrainError, KeyError, TypeError, AttributeError):
        return False
    wanted = one.run.model_dump(mode="json", include=set(_TELLING))
    placed = sorted((file.path, file.sha256, file.size) for file in one.placed)
    left = {path: blob for path, blob in blobs.items() if not _RETOLD.match(path)}
    brought = {path: content for path, content in one.files.items() if not _RETOLD.match(path)}
    return (
        run == wanted
        and files == placed
        and left.keys() == brought.keys()
        and all(blob_id(content, like=left[path]) == left[path] for path, content in brought.items())
    )
