"""Bring result files that are too large for Git to where the job wants them: Git LFS, or an object store.

Uploads may be repeated: the same file goes to the same name. Object stores are s3://, gs:// and az:// by
the `cloud` extra (obstore); their credentials are the executor's own environment, as with the vendors'
tools. Which of them a job may name, the rule `artifact_urls` says, before it is accepted.
"""

import contextlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Final
from urllib.parse import quote

from pushtrain.core.errors import Cancelled, GitError, PushtrainError, StorageError, UsageError
from pushtrain.core.owner.lent import bucket
from pushtrain.core.text.weburl import shown
from pushtrain.core.values.run import Artifact
from pushtrain.plumbing.data.ledger import Exhausted
from pushtrain.plumbing.disk.files import THE_DISKS
from pushtrain.plumbing.git import lfs
from pushtrain.plumbing.git.checkout import clone
from pushtrain.plumbing.git.mirror import Mirror
from pushtrain.ports import Stop

if TYPE_CHECKING:
    from collections.abc import Sequence


_PIECE: Final = 256 * 1024
Spend = Callable[[int], None]
"""Told of the bytes of each piece; waits until they have been worth it."""


def at_once(_: int) -> None:
    """Wait for nothing."""


class UploadError(PushtrainError):
    """A result file could not be brought to where the job wants it."""

    code = "upload"
    exit_code = 10
    status = 502


def to_lfs(mirror: Mirror, files: "Sequence[Artifact]", folder: Path, *, stop: Stop | None) -> None:
    """Upload the content of `lfs` files to the remote's LFS store.

    Raises:
        UploadError: git-lfs is not installed, or the remote refused.
    """
    if not lfs.installed():
        raise UploadError(
            'The job wants large files in Git LFS (`artifacts = "lfs"`), and git-lfs is not installed here.',
            mend="Install it on the executor: `apt install git-lfs`.",
        )
    mirror.ensure(stop=stop)
    for file in files:
        target = lfs.content_path(mirror.git, file.sha256)
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            partial = target.with_suffix(".partial")
            partial.unlink(missing_ok=True)
            clone(folder / file.path, partial, 0o644)
            partial.rename(target)
    oids = sorted({file.sha256 for file in files})
    try:
        mirror.git.run(
            "lfs", "push", "--object-id", "origin", *oids,
            config=(f"remote.origin.url={mirror.remote.remote}", "lfs.locksverify=false"),
            stop=stop, doing="upload files to Git LFS",
        )  # fmt: skip
    except (GitError, StorageError) as error:
        raise UploadError(error.message, mend=error.mend) from error
    for oid in oids:  # the remote has them; our copy would only take room
        with contextlib.suppress(OSError):
            lfs.content_path(mirror.git, oid).unlink()


def attributes(files: "Sequence[Artifact]") -> bytes:
    """The `.gitattributes` of a run's folder that marks its LFS files."""
    return "".join(
        f'"{_pattern(f"files/{file.path}")}" filter=lfs diff=lfs merge=lfs -text\n' for file in files
    ).encode()


def _pattern(path: str) -> str:
    escaped = "".join(f"\\{character}" if character in "*?[]\\" else character for character in path)
    return escaped.replace("\\", "\\\\").replace('"', '\\"')


def to_url(
    base: str,
    path: str,
    files: "Sequence[Artifact]",
    folder: Path,
    *,
    stop: Stop | None,
    pace: Spend = at_once,
) -> list[Artifact]:
    """Upload files below `base/path`, each piece of them at the owner's pace; the files with their URLs.

    Raises:
        UploadError: The store refused, is not reachable, or is of a kind that we do not speak.
    """
    store, prefix = _store(base)
    prefix = prefix.strip("/")
    placed = []
    for file in files:
        if stop is not None:
            stop()
        key = "/".join(part for part in (prefix, path, file.path) if part)
        try:
            _put(store, key, folder / file.path, file.size, partial(_Paced, pace=pace, stop=stop))
        except Exception as error:
            if stop is not None:
                stop()
            words = str(error).strip().splitlines()
            raise UploadError(
                f"{file.path} could not be uploaded to {base}: {words[0] if words else type(error).__name__}",
                mend="Check the bucket's name and the executor's credentials for it.",
            ) from error
        placed.append(file.model_copy(update={"url": f"{base.rstrip('/')}/{quote(f'{path}/{file.path}')}"}))
    return placed


def begun(target: Path) -> int:
    """Bytes of a file that an earlier try of `from_url` has left, to be gone on from."""
    try:
        return _partial(target).stat().st_size
    except OSError:
        return 0


def from_url(file: Artifact, target: Path, *, pace: Spend = at_once, resume: bool = False) -> None:
    """Download a file that an earlier upload placed; the caller verifies it.

    Who can push can write what a results branch tells: no more is taken than it announces.

    Args:
        file: It.
        target: Where it comes.
        pace: Told of each piece, waits until the next may; what it raises ends the work.
        resume: Whether what has come stays when that breaks off, and the next try goes on from there.

    Raises:
        UploadError: The store refused, is not reachable, or brings more than was published.
    """
    store, key = _store(file.url)
    partial = _partial(target)
    there = begun(target) if resume else 0
    if there >= file.size:  # whole, or another one's
        there = 0
    try:
        import obstore

        left = file.size - there
        got = obstore.get(store, key, options={"range": {"offset": there}} if there else None)
        with partial.open("r+b" if there else "wb") as writing:
            writing.seek(there)
            for chunk in got.stream():
                left -= len(chunk)
                if left < 0:
                    raise ValueError(f"it has more than the {file.size} bytes that were published")  # noqa: TRY301
                whole = memoryview(chunk)
                for at in range(0, len(whole), _PIECE):
                    pace(len(whole[at : at + _PIECE]))
                    writing.write(whole[at : at + _PIECE])
        partial.replace(target)
    except (Cancelled, Exhausted):
        if not resume:
            partial.unlink(missing_ok=True)
        raise
    except Exception as error:
        wrong = isinstance(error, FileNotFoundError | ValueError)
        if not resume or wrong or (isinstance(error, OSError) and error.errno in THE_DISKS):
            partial.unlink(missing_ok=True)
        words = str(error).strip().splitlines()
        raise UploadError(
            f"{file.url} could not be downloaded: {words[0] if words else type(error).__name__}",
            mend="Check your credentials for that store.",
        ) from error


def _partial(target: Path) -> Path:
    return target.with_name(f".{target.name[:100]}.partial")


def _store(url: str) -> tuple[Any, str]:
    """The store of a bucket, and the path in it."""
    try:
        name, path = bucket(url)
    except ValueError as error:
        raise UsageError(
            f"artifacts = {shown(url)!r} names no store that we can write: it {error}.",
            mend="Use lfs, s3://, gs:// or az://.",
        ) from None
    scheme = url.partition("://")[0]
    try:
        from obstore.store import from_url
    except ImportError as error:
        raise UploadError(
            f"Uploads to {scheme}:// need the `cloud` extra on the executor.",
            mend="Install it: `pip install 'pushtrain[cloud]'`.",
        ) from error
    return from_url(f"{scheme}://{name}"), path


class _Paced:
    """A file that is read at a pace, and no further once somebody wants to stop."""

    def __init__(self, file: BinaryIO, pace: Spend, stop: Stop | None) -> None:
        self._file = file
        self._pace = pace
        self._stop = stop

    def read(self, size: int = -1) -> bytes:
        """The next bytes."""
        found = bytearray()
        while size < 0 or len(found) < size:
            piece = self._file.read(_PIECE if size < 0 else min(_PIECE, size - len(found)))
            if not piece:
                break
            found += piece
            self._pace(len(piece))
            if self._stop is not None:
                self._stop()
        return bytes(found)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


def _put(store: Any, key: str, path: Path, size: int, paced: Callable[[BinaryIO], _Paced]) -> None:
    """Upload one file, unless an earlier try has brought it there whole."""
    import obstore

    try:
        if obstore.head(store, key)["size"] == size and size:
            return
    except FileNotFoundError:
        pass
    with path.open("rb") as file:
        obstore.put(store, key, paced(file))
    if obstore.head(store, key)["size"] != size:
        raise OSError("the store holds another number of bytes than was sent")
