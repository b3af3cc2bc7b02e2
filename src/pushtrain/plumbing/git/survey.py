"""Look at a commit's files before any of them is written: how many, how large, how they are called.

A few kilobytes of a pack can stand for billions of files (a folder that holds itself ten times, ten folders
deep) or for terabytes of zeros. So git lists the commit and is stopped at the first entry beyond the limits;
nothing is on the disk by then. The names that Git itself must never write (`.git` in any spelling) are
refused by git when it reads the tree.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pushtrain.plumbing.git.command import GUARDED, Git
from pushtrain.plumbing.git.complaint import UnsafeContent
from pushtrain.ports import Stop

_GIB: Final = 1024**3
_DEEPEST: Final = 128
"""Folders above a file."""
_LONGEST: Final = 2048
"""Bytes of a path: with an attempt's folder before it, it stays below the system's 4096."""
_LONGEST_NAME: Final = 255
_ENTRY: Final = re.compile(rb"[0-7]{6} \w+ [0-9a-f]+ +(\d+|-)\t([^\0]*)\0")


@dataclass(frozen=True, slots=True)
class Bounds:
    """How much is taken of one repository; a rule of the owner's (`rules.limits`)."""

    files: int = 1_000_000
    """Files of one commit, those of its submodules included."""
    size: int = 10 * _GIB
    """Bytes of one commit's files, and of what one fetch brings."""
    lfs: int = 100 * _GIB
    """Bytes that the Git LFS files of one commit may come to."""


@dataclass(frozen=True, slots=True)
class Survey:
    """What a commit would come to on the disk."""

    files: int = 0
    size: int = 0
    """Bytes, as Git has them: pointers, not what they point to."""


def survey(git: Git, commit: str, bounds: Bounds, *, stop: Stop | None = None) -> Survey:
    """Count a commit's files and bytes.

    Raises:
        UnsafeContent: There are more than the bounds allow, or a path cannot be written anywhere.
        GitError: The commit is not in the mirror.
    """
    count = _Count(commit, bounds)
    git.run(
        "ls-tree", "-r", "-l", "-z", "--full-tree", commit,
        take=count.take, stop=stop, caps=GUARDED, doing=f"look at {commit[:12]}",
    )  # fmt: skip
    return Survey(count.files, count.size)


class _Count:
    """A listing that is being read."""

    def __init__(self, commit: str, bounds: Bounds) -> None:
        self.files = 0
        self.size = 0
        self._commit = commit
        self._bounds = bounds
        self._rest = b""

    def take(self, piece: bytes) -> None:
        """Read on."""
        text = self._rest + piece
        end = 0
        for entry in _ENTRY.finditer(text):
            end = entry.end()
            size, path = entry.groups()
            self.files += 1
            self.size += int(size) if size != b"-" else 0
            if len(path) > _LONGEST_NAME or path.count(b"/") > _DEEPEST:
                self._check(path)
        self._rest = text[end:]
        bounds = self._bounds
        if self.files > bounds.files:
            raise self._refused(f"holds more than {bounds.files:,} files", "files")
        if self.size > bounds.size:
            raise self._refused(f"comes to more than {bounds.size:,} bytes", "repository")
        if len(self._rest) > _LONGEST + 200:
            raise self._unwritable(self._rest)

    def _check(self, path: bytes) -> None:
        names = path.split(b"/")
        if len(path) > _LONGEST or len(names) > _DEEPEST + 1 or max(map(len, names)) > _LONGEST_NAME:
            raise self._unwritable(path)

    def _unwritable(self, path: bytes) -> UnsafeContent:
        shown = path.decode("utf-8", "replace")[-60:]
        return UnsafeContent(
            f"Commit {self._commit[:12]} has a path that is too long or too deep to be written: …{shown!r}.",
            mend="Shorten it, or take it out of the repository.",
        )

    def _refused(self, what: str, limit: str) -> UnsafeContent:
        return UnsafeContent(
            f"Commit {self._commit[:12]} {what}, which is the limit here.",
            mend=f"Bring data by `data` or Git LFS; the owner's limit is `rules.limits.{limit}`.",
        )


def check_room(folder: Path, size: int, free: int) -> None:
    """See that files fit on the disk.

    Raises:
        UnsafeContent: They do not.
    """
    if size > free:
        raise UnsafeContent(
            f"The files come to {size:,} bytes, and {folder} has {free:,} left.",
            mend="Free some disk space there, or bring data by `data`.",
        )
