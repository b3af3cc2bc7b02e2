"""A run's checkpoint, packed to travel to another executor, and unpacked there.

One tar holds the files of the checkpoint folder and the metrics of the attempts so far. Only files go in, all
of them or none: what another executor could not unpack, or cannot be read, keeps the run where it is. What
comes out is believed by its SHA-256, which stands in the signed command, and is unpacked like any other
archive of a stranger's. It replaces what was there whole or not at all.
"""

import hashlib
import os
import stat
import tarfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final, cast

from pushtrain.core.errors import DataError, StorageError
from pushtrain.core.values.command import Checkpoint
from pushtrain.core.values.run import Artifact, Run
from pushtrain.executor.results import artifacts
from pushtrain.executor.results.hardlinks import Links
from pushtrain.executor.results.left import opened, regular
from pushtrain.plumbing.attempts.records import write_bytes
from pushtrain.plumbing.attempts.rundir import RunDir
from pushtrain.plumbing.data.ledger import Exhausted, Ledger
from pushtrain.plumbing.data.unpack import Limits, member_path, spelling, unpack
from pushtrain.plumbing.disk.files import THE_DISKS
from pushtrain.plumbing.disk.trees import remove_tree
from pushtrain.plumbing.git import lfs
from pushtrain.plumbing.git.checkout import clone
from pushtrain.plumbing.git.mirror import Mirror
from pushtrain.ports import Stop

NAME: Final = "checkpoint.tar"
_CHECKPOINT: Final = "checkpoint"
_FRESH: Final = "received.new"
_BLOCK: Final = 1024 * 1024
_ENTER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class Withheld(DataError):
    """A checkpoint cannot be had at this executor now; nothing is wrong with it."""


@dataclass(frozen=True, slots=True)
class Packed:
    """A checkpoint that lies ready."""

    path: Path
    sha256: str
    size: int


def pack(folder: RunDir, *, stop: Stop | None = None) -> Packed:
    """Pack what the attempt of this folder has left; nothing may be writing there.

    Args:
        folder: The attempt's.
        stop: Called now and then; what it raises ends the work.

    Raises:
        DataError: It has a file that does not travel.
        StorageError: It cannot be read or written.
    """
    target = folder.root.parent / NAME
    try:
        return _pack(folder, target, stop or _silent)
    except BaseException as error:
        target.unlink(missing_ok=True)  # half of it would only take room
        if isinstance(error, OSError):
            raise StorageError(f"The checkpoint in {folder.checkpoint} cannot be packed: {error}.") from error
        raise


def _pack(folder: RunDir, target: Path, stop: Stop) -> Packed:
    links = Links((folder.checkpoint, folder.before, *folder.root.parent.glob("[0-9]*/job")))
    target.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(target, "w", format=tarfile.PAX_FORMAT) as tar:
        tar.addfile(_folder())  # of nothing at all nobody could tell that it is a tar
        for at, name, path in _files(folder.checkpoint):
            with regular(name, at, links) as content:
                _add(tar, content, f"{_CHECKPOINT}/{path}", stop)
        for measured_ in _metrics(folder):
            with opened(measured_, folder.before, links) as content:
                _add(tar, content, measured_.name, stop)
    digest = hashlib.sha256()
    with target.open("rb") as packed:
        while piece := packed.read(_BLOCK):
            digest.update(piece)
            stop()
    return Packed(target, digest.hexdigest(), target.stat().st_size)


def _files(root: Path) -> Iterator[tuple[int, str, str]]:
    """Every file below a folder that a job has written: its open folder, its name there, and its path.

    Links and the like stay behind, and no link is followed. However deep it is nested, nothing recurses.

    Raises:
        DataError: A name that nobody would unpack.
    """
    known: dict[str, str] = {}
    waiting: list[tuple[str, ...]] = [()] if root.exists() else []
    while waiting:
        parts = waiting.pop()
        with _entered(root, parts) as at:
            for name, mode in _listed(at):
                if not (stat.S_ISDIR(mode) or stat.S_ISREG(mode)):
                    continue
                path = "/".join((*parts, name))
                _check_name(path, known)
                if stat.S_ISDIR(mode):
                    waiting.append((*parts, name))
                else:
                    yield at, name, path


def _listed(at: int) -> Iterator[tuple[str, int]]:
    for name in sorted(os.listdir(at)):
        yield name, os.stat(name, dir_fd=at, follow_symlinks=False).st_mode


def _check_name(path: str, known: dict[str, str]) -> None:
    why = ""
    try:
        member_path(f"{_CHECKPOINT}/{path}")
    except ValueError as error:
        why = str(error)
    other = known.setdefault(spelling(path), path)
    if other != path:
        why = f"differs from {other!r} only in case or accents' form"
    if why:
        raise DataError(
            f"The checkpoint does not travel: {path[:200]!r} in it {why}.",
            mend="Have the job name it otherwise.",
        )


@contextmanager
def _entered(root: Path, parts: Sequence[str]) -> Iterator[int]:
    """A folder below one of ours, open."""
    at = os.open(root, _ENTER)
    try:
        for name in parts:
            below = os.open(name, _ENTER, dir_fd=at)
            os.close(at)
            at = below
        yield at
    finally:
        os.close(at)


def measured(folder: RunDir) -> bool:
    """Whether an attempt has left metrics that belong to the run's curve."""
    return next(_metrics(folder), None) is not None


def _metrics(folder: RunDir) -> Iterator[Path]:
    for path in sorted(folder.before.glob("metrics-*.jsonl")):
        if stat.S_ISREG(path.lstat().st_mode):
            yield path


def _folder() -> tarfile.TarInfo:
    entry = tarfile.TarInfo(_CHECKPOINT)
    entry.type, entry.mode = tarfile.DIRTYPE, 0o755
    return entry


class _Stoppable:
    """What is read of a file until somebody wants to stop."""

    def __init__(self, file: IO[bytes], stop: Stop) -> None:
        self._file = file
        self._stop = stop

    def read(self, size: int = -1, /) -> bytes:
        """The next bytes."""
        self._stop()
        return self._file.read(size)


def _add(tar: tarfile.TarFile, content: IO[bytes], name: str, stop: Stop) -> None:
    found = os.fstat(content.fileno())
    entry = tarfile.TarInfo(name)
    entry.size, entry.mtime, entry.mode = found.st_size, int(found.st_mtime), 0o644
    tar.addfile(entry, cast("IO[bytes]", _Stoppable(content, stop)))


def bring(
    packed: Packed,
    to: str,
    run: Run,
    mirror: Mirror,
    *,
    stop: Stop | None = None,
    pace: artifacts.Spend = artifacts.at_once,
) -> tuple[str, str]:
    """Bring it to where the job wants it; what that is, and its URL where it has one.

    Args:
        packed: It.
        to: `lfs`, or the URL of a store.
        run: Whose it is.
        mirror: The repository's.
        stop: Called now and then; what it raises ends the work.
        pace: Told of each piece that goes to a store; waits until the next may.

    Raises:
        UploadError: It is not there yet; try again.
    """
    where = "lfs" if to == "lfs" else "url"
    file = Artifact(path=NAME, size=packed.size, sha256=packed.sha256, where=where)
    if to == "lfs":
        artifacts.to_lfs(mirror, [file], packed.path.parent, stop=stop)
        return "lfs", ""
    (placed,) = artifacts.to_url(
        to, f"checkpoints/{run.id}/{run.attempt}", [file], packed.path.parent, stop=stop, pace=pace
    )
    return "url", placed.url


def received(checkpoint: Checkpoint, folder: RunDir) -> bool:
    """Whether a checkpoint that came with the command has been unpacked whole in the run's folder."""
    try:
        return folder.received.read_text() == checkpoint.sha256
    except FileNotFoundError:
        return False


def fetch(
    checkpoint: Checkpoint,
    folder: RunDir,
    mirror: Mirror,
    *,
    limit: int,
    stop: Stop,
    toll: Ledger | None = None,
) -> bool:
    """Have a checkpoint that came with the command in the run's folder; False: nothing had to be fetched.

    One without a file leaves the folder as empty as it is.

    Args:
        checkpoint: What the command names.
        folder: The attempt's.
        mirror: The repository's.
        limit: Bytes that it may come to; 0: no limit.
        stop: Called now and then.
        toll: Counts what comes, and holds it to its pace.

    Raises:
        Withheld: It cannot be had here now.
        StorageError: There is no room for it.
        Exhausted, Quiet: `toll` lets no more in today, or nothing at this hour.
        DataError: It is not what the command names.
        PushtrainError: It is not to be had.
    """
    if received(checkpoint, folder):
        return False
    if not checkpoint.has_file:
        for old in (folder.checkpoint, folder.before):
            remove_tree(old)
        folder.checkpoint.mkdir()
        write_bytes(folder.received, b"")
        return False
    if limit and checkpoint.size > limit:
        raise Withheld(
            f"The run's checkpoint has {checkpoint.size:,} bytes; {limit:,} are allowed here.",
            mend="Ask the executor's owner for a higher `rules.limits.disk`.",
        )
    try:
        with _told_apart(checkpoint):
            _fetch(checkpoint, folder, mirror, limit=limit, stop=stop, toll=toll)
    finally:
        (folder.root.parent / NAME).unlink(missing_ok=True)
        remove_tree(folder.root.parent / _FRESH)
    return True


@contextmanager
def _told_apart(checkpoint: Checkpoint) -> Iterator[None]:
    """Say what is wrong with a checkpoint, and what only with this executor."""
    try:
        yield
    except artifacts.UploadError as error:
        cause = error.__cause__
        if isinstance(cause, OSError) and cause.errno in THE_DISKS:
            raise _unwritten(cause) from error
        if isinstance(cause, FileNotFoundError | ValueError):
            raise  # it is gone, or is not what was brought there
        raise Withheld(error.message, mend=error.mend) from error
    except Exhausted as error:
        if error.needed is None:
            raise  # tomorrow it may come
        raise Withheld(
            f"The run's checkpoint has {checkpoint.size:,} bytes; {error.limit:,} may come in a day here.",
            mend="Ask the executor's owner for a higher `rules.limits.downloads_per_day`.",
        ) from error
    except OSError as error:
        raise _unwritten(error) from error


def _unwritten(error: OSError) -> StorageError:
    return StorageError(f"The run's checkpoint cannot be written: {error.strerror}.", mend="Free some space.")


def _fetch(
    checkpoint: Checkpoint, folder: RunDir, mirror: Mirror, *, limit: int, stop: Stop, toll: Ledger | None
) -> None:
    root = folder.root.parent
    packed, fresh = root / NAME, root / _FRESH
    packed.unlink(missing_ok=True)  # whoever was killed has left it
    if checkpoint.where == "lfs":
        clone(_from_lfs(mirror, checkpoint, stop, toll), packed, 0o600)
    else:
        went_on = artifacts.begun(packed) > 0
        _from_url(checkpoint, packed, stop, toll)
        if went_on and _digest(packed) != checkpoint.sha256:  # a power loss may have eaten what was there
            _from_url(checkpoint, packed, stop, toll)
    if _digest(packed) != checkpoint.sha256:
        raise DataError(
            "The run's checkpoint is not the one that its command names.",
            mend="Start the run anew: `pushtrain rerun`.",
        )
    remove_tree(fresh)
    fresh.mkdir()
    bounds = Limits(size=limit) if limit else Limits()
    tree = unpack(packed, fresh, title="the checkpoint", report=_silent, stop=stop, limits=bounds)
    (tree / _CHECKPOINT).mkdir(exist_ok=True)
    for old in (folder.checkpoint, folder.before):
        remove_tree(old)
    (tree / _CHECKPOINT).rename(folder.checkpoint)
    tree.rename(folder.before)
    write_bytes(folder.received, checkpoint.sha256.encode())


def _from_url(checkpoint: Checkpoint, packed: Path, stop: Stop, toll: Ledger | None) -> None:
    """Bring it from a store; what an earlier try has left is gone on from."""
    file = Artifact(
        path=NAME, size=checkpoint.size, sha256=checkpoint.sha256, where="url", url=checkpoint.url
    )
    if toll is not None:
        toll.demand_noise()
        toll.demand(checkpoint.size, there=artifacts.begun(packed))

    def came(count: int) -> None:
        stop()
        if toll is not None:
            toll.came(count)

    artifacts.from_url(file, packed, pace=came, resume=True)


def _digest(packed: Path) -> str:
    with packed.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def _silent(*_: object) -> None:
    """Nobody watches."""


def _from_lfs(mirror: Mirror, checkpoint: Checkpoint, stop: Stop, toll: Ledger | None) -> Path:
    """git-lfs brings what a commit points to: we make one, which no branch has, and no remote gets."""
    mirror.ensure(stop=stop)
    git = mirror.git
    if not (lfs.installed() or lfs.content_path(git, checkpoint.sha256).exists()):
        raise Withheld(
            "The run's checkpoint lies in Git LFS, and git-lfs is not installed on this executor.",
            mend="Install it there: `apt install git-lfs`.",
        )
    pointer = lfs.Pointer(checkpoint.sha256, checkpoint.size)
    blob = git.run("hash-object", "-w", "--stdin", input=pointer.text()).text.strip()
    tree = git.run("mktree", input=f"100644 blob {blob}\t{NAME}\n".encode()).text.strip()
    commit = git.run("commit-tree", tree, "-m", "checkpoint", config=_WHO).text.strip()
    found = lfs.fetch(git, commit, {NAME: pointer}, stop=stop, most=max(checkpoint.size, 1), toll=toll)
    return found[NAME]


_WHO: Final = ("user.name=pushtrain", "user.email=pushtrain@localhost")
