"""Give each attempt its own copy of a commit's files, from a tree that is kept and only updated.

Rules:

- The kept (pristine) tree has its own index; one git process turns it from the last commit to the next, so
  that only what changed is written. A job never sees it and git never runs where a job can write.
- An update that was cut short leaves a mark; the tree is then made anew, as after a restart of the machine.
- What an attempt gets is a copy: a reflink where the file system can, never a hard link, never a `.git`.
  Modes and symlinks are kept as they are in the commit.
"""

import fcntl
import os
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pushtrain.core.errors import GitError, StorageError
from pushtrain.core.owner.outward import Outward
from pushtrain.plumbing.git import lfs as lfs_store
from pushtrain.plumbing.git.command import GUARDED, LONGEST, Git
from pushtrain.plumbing.git.complaint import UnsafeContent
from pushtrain.plumbing.git.locks import wait_for_lock
from pushtrain.plumbing.git.survey import Bounds, check_room, survey
from pushtrain.plumbing.programs.proc import boot_id
from pushtrain.ports import Stop

if TYPE_CHECKING:
    from pushtrain.plumbing.data.ledger import Ledger

_FICLONE: Final = 0x40049409
_SMALL: Final = 128 * 1024
_BOUNDS: Final = Bounds()
_PUBLIC: Final = Outward()
_WORKERS: Final = min(4, max(2, os.cpu_count() or 2))
"""Processes that git writes a large update with."""


@dataclass(frozen=True, slots=True)
class Checkout:
    """What was put into an attempt's tree."""

    files: int = 0
    size: int = 0
    """Bytes."""
    lfs_files: int = 0

    def __add__(self, other: "Checkout") -> "Checkout":
        return Checkout(self.files + other.files, self.size + other.size, self.lfs_files + other.lfs_files)


class PristineTree:
    """One repository's kept tree.

    Args:
        folder: Where it lives: `work`, `index`, `commit`, and `changing` while it is updated.
        git: The mirror's git.
        bounds: How much is taken of a commit.
        outward: Which addresses an LFS server may lead to that the owner did not name.
        toll: Counts what LFS brings.
    """

    def __init__(
        self,
        folder: Path,
        git: Git,
        bounds: Bounds = _BOUNDS,
        outward: Outward = _PUBLIC,
        toll: "Ledger | None" = None,
    ) -> None:
        self.folder = folder
        self._git = git
        self._bounds = bounds
        self._outward = outward
        self._toll = toll

    def copy(self, commit: str, into: Path, *, lfs: bool, stop: Stop | None) -> Checkout:
        """Copy the commit's files into a folder that is empty or does not exist.

        Raises:
            GitError: The commit is not in the mirror, or LFS pointers cannot be resolved.
            StorageError: The disk is full or cannot be written.
        """
        try:
            with self._locked(stop):
                self._update(commit, stop)
                return self._copy(commit, into, lfs=lfs, stop=stop)
        except OSError as error:
            raise StorageError(
                f"The files of commit {commit[:12]} could not be written: {error.strerror or error}.",
                mend="Free some disk space, or look at the disk.",
            ) from error

    def forget(self, *, stop: Stop | None = None) -> None:
        """Remove the kept tree; the next copy makes it anew."""
        with suppress(FileNotFoundError), self._locked(stop):
            self._clear()

    def _update(self, commit: str, stop: Stop | None) -> None:
        current, changing = self.folder / "commit", self.folder / "changing"
        if not changing.exists():
            with suppress(FileNotFoundError):
                made, _, boot = current.read_text().partition(" ")
                if boot != boot_id():
                    self._clear()  # nothing here is flushed: a power failure may have emptied any file
                elif made == commit:
                    return
        else:
            self._clear()
        found = survey(self._git, commit, self._bounds, stop=stop)
        check_room(self.folder, found.size, shutil.disk_usage(self.folder).free)
        work = self.folder / "work"
        work.mkdir(exist_ok=True)
        changing.touch()
        try:
            self._git.run(
                f"--work-tree={work}", "read-tree", "--reset", "-u", commit,
                env={"GIT_INDEX_FILE": str(self.folder / "index")},
                config=(f"checkout.workers={_WORKERS}", "core.checkStat=minimal"),
                stop=stop, doing=f"check out {commit[:12]}", caps=GUARDED, timeout=LONGEST,
            )  # fmt: skip
        except GitError:
            self._clear()
            raise
        current.write_text(f"{commit} {boot_id()}")
        changing.unlink()

    def _clear(self) -> None:
        for name in ("commit", "index", "index.lock"):
            (self.folder / name).unlink(missing_ok=True)
        shutil.rmtree(self.folder / "work", ignore_errors=True)
        (self.folder / "changing").unlink(missing_ok=True)

    def _copy(self, commit: str, into: Path, *, lfs: bool, stop: Stop | None) -> Checkout:
        copier = _Copier(self.folder / "work", into, self._bounds.files, stop)
        copier.all()
        resolved = 0
        if lfs and copier.pointers:
            contents = lfs_store.fetch(
                self._git,
                commit,
                copier.pointers,
                stop=stop,
                most=self._bounds.lfs,
                outward=self._outward,
                toll=self._toll,
            )
            for path, content in contents.items():
                target = into / path
                mode = target.stat().st_mode
                target.unlink()
                clone(content, target, stat.S_IMODE(mode))
            resolved = len(contents)
        return Checkout(copier.files, copier.size, resolved)

    @contextmanager
    def _locked(self, stop: Stop | None) -> Iterator[None]:
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / "lock").open("ab") as handle:
            wait_for_lock(handle.fileno(), stop)  # who has it may be fetching large files
            yield


class _Copier:
    """Copy a tree that only we write."""

    def __init__(self, source: Path, target: Path, most: int, stop: Stop | None) -> None:
        self.files = 0
        self.size = 0
        self.pointers: dict[str, lfs_store.Pointer] = {}
        self._source = str(source)
        self._target = str(target)
        self._most = most
        self._stop = stop

    def all(self) -> None:
        """Make every folder, symlink and file. One thread: more were no faster (10,000 files in 0.9 s)."""
        Path(self._target).mkdir(parents=True, exist_ok=True)
        for number, name in enumerate(self._walk("")):
            if self._stop is not None and not number % 256:
                self._stop()
            self._one(name)
            self.files += 1
            if self.files > self._most:
                raise UnsafeContent(
                    f"There are more than {self._most:,} files, submodules included.",
                    mend="Bring data by `data`; the owner's limit is `rules.limits.files`.",
                )

    def _walk(self, below: str) -> Iterator[str]:
        with os.scandir(f"{self._source}/{below}") as entries:
            for entry in entries:
                path = f"{below}{entry.name}"
                if entry.is_symlink():
                    Path(self._target, path).symlink_to(Path(entry.path).readlink())
                    self.files += 1
                elif entry.is_dir(follow_symlinks=False):
                    Path(self._target, path).mkdir()
                    yield from self._walk(f"{path}/")
                else:
                    yield path

    def _one(self, name: str) -> None:
        source = os.open(f"{self._source}/{name}", os.O_RDONLY | os.O_CLOEXEC)
        try:
            found = os.fstat(source)
            mode = stat.S_IMODE(found.st_mode)
            target = os.open(
                f"{self._target}/{name}", os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode
            )
            try:
                if found.st_size <= _SMALL:
                    data = os.read(source, _SMALL + 1)
                    os.write(target, data)
                    pointer = lfs_store.parse(data)
                    if pointer is not None:
                        self.pointers[name] = pointer
                else:
                    _pour(source, target, found.st_size)
            finally:
                os.close(target)
        finally:
            os.close(source)
        self.size += found.st_size


def clone(source: Path, target: Path, mode: int) -> None:
    """Copy one file to a new name; a reflink where the file system can."""
    with source.open("rb") as reading:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
        writing = os.open(target, flags, mode)
        try:
            _pour(reading.fileno(), writing, os.fstat(reading.fileno()).st_size)
        finally:
            os.close(writing)


def _reflink(source: int, target: int) -> bool:
    try:
        fcntl.ioctl(target, _FICLONE, source)
    except OSError:
        return False
    return True


def _pour(source: int, target: int, size: int) -> None:
    """The whole of one open file into another."""
    if _reflink(source, target):
        return
    left = size
    copy: Callable[[int, int, int], int] = os.copy_file_range
    while left > 0:
        try:
            done = copy(source, target, left)
        except OSError:
            if copy is os.copy_file_range:
                copy = _by_hand
                continue
            raise
        if not done:
            return
        left -= done


def _by_hand(source: int, target: int, count: int) -> int:
    data = os.read(source, min(count, 1 << 20))
    view = memoryview(data)
    while view:
        view = view[os.write(target, view) :]
    return len(data)
