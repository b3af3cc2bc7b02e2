"""Bring a run's file here in pieces: resumed where an earlier try stopped, verified, and only then there."""

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from pushtrain.core.errors import Busy, DataError, StorageError, Unreachable
from pushtrain.core.values.run import Artifact
from pushtrain.plumbing.disk.files import sync_folder
from pushtrain.plumbing.http.patience import Retry

if TYPE_CHECKING:
    from pushtrain.ports import Report


def fetch(
    file: Artifact,
    into: Path,
    *,
    piece: Callable[[int], bytes],
    retry: Retry,
    report: "Report",
    run: str,
) -> None:
    """Have a file; what is there before it is whole and right lies beside, under a hidden name.

    Args:
        file: Which one; its size and digest are what must come.
        into: Where to; its folder must exist.
        piece: What follows an offset, some bytes at most; none: there is no more.
        retry: How long a line that breaks is borne with.
        report: Told of the progress.
        run: Whose file it is, for people.

    Raises:
        DataError: What came is not what the run left.
        StorageError: It cannot be written here.
        Unreachable, Busy: `piece` raised it, for too long.
    """
    part = into.with_name(f".{into.name}.{file.sha256[:16]}.part")
    try:
        _download(file, part, piece=piece, retry=retry, report=report, run=run)
        if _sha256(part) != file.sha256:
            part.unlink()
            raise DataError(f"`{file.path}` of run {run} is damaged.", mend="Try again.")
        part.replace(into)
        sync_folder(into.parent)
    except OSError as error:
        raise StorageError(
            f"{into} cannot be written: {error.strerror}.", mend="Is the disk full?"
        ) from error


def _download(
    file: Artifact, part: Path, *, piece: Callable[[int], bytes], retry: Retry, report: "Report", run: str
) -> None:
    with part.open("ab") as out:
        if out.tell() > file.size:
            out.seek(0)
            out.truncate()
        while (done := out.tell()) < file.size:
            report(file.path, done, file.size)
            try:
                found = piece(done)
            except (Unreachable, Busy) as error:
                retry.after(error)
                continue
            if not found:
                raise DataError(f"`{file.path}` of run {run} ends too early.")
            retry.went_well()
            out.write(found[: file.size - done])
        out.flush()
        os.fsync(out.fileno())
    report(file.path, file.size, file.size)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
