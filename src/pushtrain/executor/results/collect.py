"""Take a run's result files out of the job's hands, and decide where each goes.

Rules:

- Results are everything in `PUSHTRAIN_RESULTS_DIR`, and what the job's `results` globs match in the work
  folder: `*` and `?` within a name (not a leading dot), `[…]`, `**` any folders; a folder means all below it.
- No symlink is followed, ever: folders are opened one component at a time with O_NOFOLLOW. Symlinks, FIFOs,
  sockets, devices, files with a name outside the run's own folders, names that Git, a Git host or a browser
  could trip over, and names that differ only in case are refused and listed with the reason.
- A file is opened, looked at, and that very file given a name in the run's own folder (copied when it has a
  second name, or lies on another disk): what has come under its old name meanwhile is never taken. It is
  hashed there: what was hashed is what is published. Cut short, it goes on where it stopped.
- Into Git go files up to `git_file_limit`, in the order of their paths, until `git_run_limit` or 1,000 files
  are reached; the rest goes where the job's `artifacts` says, else stays with the executor until a date.
"""

import hashlib
import os
import re
import shutil
import stat
import unicodedata
from collections.abc import Container, Iterator, Sequence
from contextlib import suppress
from fnmatch import fnmatchcase
from itertools import islice
from pathlib import Path
from typing import Final, Literal

from pushtrain.core.errors import StorageError
from pushtrain.core.values.run import Artifact
from pushtrain.executor.results.censor import Censor
from pushtrain.executor.results.hardlinks import Links
from pushtrain.executor.results.names import LONGEST, unfit
from pushtrain.executor.results.taking import (
    CHANGED,
    Unwanted,
    file_opened,
    folder_opened,
    linked,
    make_ours,
    shut,
    taken_before,
)
from pushtrain.ports import Stop

MOST_FILES: Final = 10_000
"""Result files of one run; the rest is refused, counted."""
MOST_IN_GIT: Final = 1000
"""GitHub lists a thousand entries of a folder."""
MOST_BYTES: Final = 100 * 1024**3
"""Bytes of all result files of one run, holes included: each of them is hashed."""
_ROOM: Final = 1024**3
"""Free bytes that a copy must leave."""
_MOST_LOOKED_AT: Final = 500_000
_MOST_REFUSED: Final = 100
_DEEPEST: Final = 50
_MAGIC: Final = re.compile(r"[*?\[]")


def collect(
    results: Path,
    work: Path,
    globs: Sequence[str],
    into: Path,
    *,
    censor: Censor | None = None,
    own: Sequence[Path] = (),
    stop: Stop | None = None,
) -> tuple[Artifact, ...]:
    """Move a run's result files into a folder of ours; the files with size and digest, then what was refused.

    Args:
        results: What the job knew as `PUSHTRAIN_RESULTS_DIR`; need not exist.
        work: The work folder; need not exist.
        globs: The job's `results`.
        into: Where the files go; what an earlier, interrupted call moved there counts.
        censor: Takes secrets out of the files before they are hashed.
        own: Other folders of the run's own, where a result may have a second name.
        stop: Called now and then; what it raises ends the work.

    Raises:
        StorageError: A file could not be moved: disk full, I/O error.
    """
    try:
        into.mkdir(parents=True, exist_ok=True)
        sweep = _Sweep(into, Links((results, work, *own)), stop)
        sweep.all_of(results)
        for glob in globs:
            sweep.matching(work, glob)
        if censor is not None:
            for path in sorted(_files_below(into)):
                _go_on(stop)
                censor.clean(into / path, path)
        taken = _hashed(into, stop)
        found = (*taken, *sweep.refusals({file.path for file in taken}))
        return found if censor is None else censor.told(found)
    except OSError as error:
        raise StorageError(
            f"The results could not be collected: {error.strerror or error}.",
            mend="Free some disk space, or look at the disk.",
        ) from error


def place(
    files: Sequence[Artifact], artifacts: str, *, file_limit: int, run_limit: int, until: float
) -> tuple[Artifact, ...]:
    """Where each file goes: `git`, else `lfs` or `url` as the job asks, else `executor` until a time.

    Args:
        files: Collected files; refused ones pass through.
        artifacts: The job's `artifacts`: empty, `lfs`, or a URL.
        file_limit: Bytes of one file in Git.
        run_limit: Bytes of all files in Git.
        until: How long the executor keeps what it keeps.
    """
    large: Literal["lfs", "url", "executor"] = "executor"
    if artifacts:
        large = "lfs" if artifacts == "lfs" else "url"
    placed = []
    left, room = run_limit, MOST_IN_GIT
    for file in files:
        if file.where == "refused":
            placed.append(file)
        elif file.size <= min(file_limit, left) and room:
            left -= file.size
            room -= 1
            placed.append(file.model_copy(update={"where": "git"}))
        else:
            kept = {"where": large, "until": until if large == "executor" else None}
            placed.append(file.model_copy(update=kept))
    return tuple(placed)


class _Sweep:
    """One collection in progress."""

    def __init__(self, into: Path, links: Links, stop: Stop | None) -> None:
        self._into = into
        self._links = links
        self._half = into.with_name(f".{into.name}.partial")  # beside it, where no result has a name
        self._half.unlink(missing_ok=True)
        self._stop = stop
        self._refused: dict[str, str] = {}
        self._more = 0
        self._taken = 0
        self._bytes = 0
        self._names: dict[str, str] = {}
        for path in _files_below(into):
            self._taken += 1
            self._bytes += (into / path).lstat().st_size
            self._clashes(path)
        self._looked_at = 0

    def refusals(self, taken: Container[str]) -> list[Artifact]:
        """What was not taken, and why; each under a name that nothing else has."""
        told = sorted(self._refused.items())
        if self._more:
            told.append(("…", f"{self._more} more were refused"))
        names: set[str] = set()
        refused = []
        for path, why in told:
            name, number = path, 2
            while name in names or name in taken:
                name, number = f"{path} ({number})", number + 1
            names.add(name)
            refused.append(Artifact(path=name, size=0, sha256="", where="refused", why=why))
        return refused

    def all_of(self, folder: Path) -> None:
        """Take everything below a folder."""
        with folder_opened(folder) as at:
            if at is not None:
                self._below(at, "", 0)
            elif why := shut(folder):
                self._refuse(f"{folder.name}/", f"the folder for results {why}")

    def matching(self, folder: Path, glob: str) -> None:
        """Take what a glob matches."""
        parts = [part for part in glob.split("/") if part not in {"", "."}]
        with folder_opened(folder) as at:
            if at is not None and parts and ".." not in parts:
                self._match(at, "", parts, 0)
            elif at is None and (why := shut(folder)):
                self._refuse(glob, f"the work folder {why}")

    def _match(self, at: int, prefix: str, parts: Sequence[str], depth: int) -> None:
        head, *rest = parts
        if head == "**":
            if not rest:
                self._below(at, prefix, depth)
                return
            self._match(at, prefix, rest, depth)
        for name, mode in self._entries(at, head):
            if head == "**":
                if stat.S_ISDIR(mode) and not name.startswith("."):
                    self._into_folder(at, prefix, name, parts, depth)
            elif not rest:
                self._one(at, prefix, name, mode, depth)
            elif stat.S_ISDIR(mode):
                self._into_folder(at, prefix, name, rest, depth)
            elif stat.S_ISLNK(mode):
                self._refuse(prefix + name, "it is a symbolic link")

    def _into_folder(self, at: int, prefix: str, name: str, parts: Sequence[str], depth: int) -> None:
        if depth >= _DEEPEST:
            self._refuse(f"{prefix}{name}", "it lies too deep")
            return
        with folder_opened(name, at) as below:
            if below is not None:
                self._match(below, f"{prefix}{name}/", parts, depth + 1)
            elif why := shut(name, at):
                self._refuse(f"{prefix}{name}/", f"it {why}")

    def _below(self, at: int, prefix: str, depth: int) -> None:
        for name, mode in self._entries(at, "**"):
            self._one(at, prefix, name, mode, depth)

    def _one(self, at: int, prefix: str, name: str, mode: int, depth: int) -> None:
        """Take one entry: a file, or all below a folder."""
        path = prefix + name
        why = unfit(path)
        if why:
            self._refuse(path, why)
        elif stat.S_ISREG(mode):
            self._take(at, name, path)
        elif stat.S_ISDIR(mode):
            if depth >= _DEEPEST:
                self._refuse(path, "it lies too deep")
                return
            with folder_opened(name, at) as below:
                if below is None:
                    self._refuse(path, f"it {shut(name, at) or 'is gone'}")
                else:
                    self._below(below, f"{path}/", depth + 1)
        else:
            kinds = {stat.S_IFLNK: "a symbolic link", stat.S_IFIFO: "a FIFO", stat.S_IFSOCK: "a socket"}
            self._refuse(path, f"it is {kinds.get(stat.S_IFMT(mode), 'a device')}")

    def _entries(self, at: int, pattern: str) -> Iterator[tuple[str, int]]:
        """Names and modes in a folder that fit a pattern, in order."""
        if pattern != "**" and not _MAGIC.search(pattern):
            names = [pattern]
        else:
            with os.scandir(at) as found:
                names = sorted(entry.name for entry in islice(found, _MOST_LOOKED_AT + 1))
            if pattern != "**":
                names = [name for name in names if _fits(name, pattern)]
        for name in names:
            self._looked_at += 1
            if self._stop is not None and not self._looked_at % 256:
                self._stop()
            if self._looked_at > _MOST_LOOKED_AT:
                self._refuse("…", f"there are more than {_MOST_LOOKED_AT} files to look at")
                return
            try:
                yield name, os.stat(name, dir_fd=at, follow_symlinks=False).st_mode
            except OSError:
                continue

    def _take(self, at: int, name: str, path: str) -> None:
        if self._taken >= MOST_FILES:
            self._refuse(path, f"a run may leave {MOST_FILES} files")
            return
        if clash := self._clashes(path):
            self._refuse(path, clash)
            return
        target = self._into / path
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            if target.exists():
                if taken_before(at, name, target):
                    return
                self._refuse(path, "another result has the same name")
                return
        except (FileExistsError, NotADirectoryError):
            self._refuse(path, "another result has the name of its folder")
            return
        try:
            self._bytes += self._move(at, name, target)
        except Unwanted as why:
            self._refuse(path, str(why))
            return
        except (PermissionError, FileNotFoundError):
            self._refuse(path, "it cannot be read")
            return
        self._taken += 1

    def _clashes(self, path: str) -> str:
        """Note a path; why it cannot stand beside those before, where case or composition does not count."""
        parts = path.split("/")
        for number in range(1, len(parts) + 1):
            part = "/".join(parts[:number])
            known = self._names.setdefault(unicodedata.normalize("NFC", part).casefold(), part)
            if known != part:
                return f"its name differs from that of {known} only in case or composition"
        return ""

    def _move(self, at: int, name: str, target: Path) -> int:
        """Make a job's file ours: moved when this is its only name, else copied; its size."""
        with file_opened(at, name) as source:
            found = os.fstat(source)
            if not stat.S_ISREG(found.st_mode):
                raise Unwanted(CHANGED)
            if self._bytes + found.st_size > MOST_BYTES:
                raise Unwanted(f"a run may leave {MOST_BYTES} bytes")
            if found.st_nlink > 1 and not self._links.all_ours(found):
                raise Unwanted("it is a hard link to a file outside the run's folders")
            if found.st_nlink == 1 and linked(source, target):
                make_ours(source)
            else:
                if found.st_size > shutil.disk_usage(self._half.parent).free - _ROOM:
                    raise Unwanted("there is no room for a copy of it")
                self._copy(source, found.st_size)
                self._half.rename(target)
                target.chmod(0o600)
        with suppress(OSError):  # whatever has this name by now, it is the job's
            os.unlink(name, dir_fd=at)
        return found.st_size

    def _copy(self, source: int, size: int) -> None:
        """Copy a file as long as it was when it was looked at: one that grows meanwhile would never end."""
        with self._half.open("wb") as writing:
            while size and (part := os.read(source, min(size, 1 << 20))):
                writing.write(part)
                size -= len(part)

    def _refuse(self, path: str, why: str) -> None:
        shown = path.encode("utf-8", "replace").decode()[:LONGEST]
        if len(self._refused) < _MOST_REFUSED:
            self._refused.setdefault(shown, why)
        elif shown not in self._refused:
            self._more += 1


def _fits(name: str, pattern: str) -> bool:
    return fnmatchcase(name, pattern) and (not name.startswith(".") or pattern.startswith("."))


def _files_below(folder: Path) -> Iterator[str]:
    """Relative paths of the files in a folder of ours, in order."""
    for root, folders, files in os.walk(folder):
        folders.sort()
        below = Path(root).relative_to(folder)
        for name in sorted(files):
            yield str(below / name)


def _go_on(stop: Stop | None) -> None:
    if stop is not None:
        stop()


def _hashed(folder: Path, stop: Stop | None) -> list[Artifact]:
    found = []
    for path in sorted(_files_below(folder)):
        _go_on(stop)
        with (folder / path).open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            size = file.seek(0, os.SEEK_END)
        found.append(Artifact(path=path, size=size, sha256=digest, where="executor"))
    return found
