"""A remote folder by its manifest: a file of `DIGEST  PATH` lines, as `sha256sum` writes them.

The manifest is the folder's content: what it does not list is not fetched, and what it lists must be exactly
that. Files are fetched several at a time; each that is whole and verified stays, so that an interrupted fetch
goes on from there.
"""

import hashlib
import re
import shutil
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from threading import Event
from typing import Final, Protocol
from urllib.parse import quote

from pushtrain.core.errors import Cancelled, DataError
from pushtrain.core.text.weburl import shown
from pushtrain.plumbing.data.download import Got
from pushtrain.plumbing.data.unpack import member_path
from pushtrain.plumbing.programs.proc import boot_id
from pushtrain.ports import Report, Stop

MAX_SIZE: Final = 256 * 1024 * 1024
"""Bytes of a manifest at most."""
WORKERS: Final = 8
"""Files fetched at once."""

_LINE: Final = re.compile(r"(\\?)([0-9a-fA-F]{64}) [ *](.+)")
_ESCAPES: Final = {r"\\": "\\", r"\n": "\n", r"\r": "\r"}


class Fetch(Protocol):
    """Brings one URL into a file, verified."""

    def __call__(self, url: str, part: Path, sha256: str | None, report: Report, stop: Stop) -> Got | None:
        """Bring it."""


def parse(manifest: Path, title: str, most: int = 2_000_000) -> Mapping[str, str]:
    """The digest of each path.

    Args:
        manifest: The file.
        title: How it is called in messages.
        most: Files that it may list.

    Raises:
        DataError: It is too large, a line is not of the form, or a path leads out or is there twice.
    """
    size = manifest.stat().st_size
    if size > MAX_SIZE:
        raise DataError(f"{title} has {size} bytes; a manifest has at most {MAX_SIZE}.")
    files: dict[str, str] = {}
    folders: set[str] = set()
    text = manifest.read_bytes().decode("utf-8", "surrogateescape")
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        path, digest = _entry(line.removesuffix("\r"), number, title)
        if files.setdefault(path, digest) != digest:
            raise _bad(title, number, f"{path!r} is listed twice with different digests")
        if len(files) > most:
            raise DataError(f"The manifest {title} lists more than {most} files.")
        parts = path.split("/")
        folders.update("/".join(parts[:depth]) for depth in range(1, len(parts)))
    both = folders & files.keys()
    if both:
        raise DataError(f"{title} lists {min(both)!r} as a file and as a folder.", mend="Write it anew.")
    if not files:
        raise DataError(f"{title} lists no files.", mend="Write it with `sha256sum`.")
    return files


def below(base: str, path: str) -> str:
    """The URL of a path below a folder's URL."""
    return base + quote(path.encode("utf-8", "surrogateescape"))


def _entry(line: str, number: int, title: str) -> tuple[str, str]:
    found = _LINE.fullmatch(line)
    if found is None:
        raise _bad(title, number, "it is not `DIGEST  PATH` with a SHA-256")
    name = found[3]
    if found[1]:  # sha256sum marks a line with escapes by a backslash in front
        name = re.sub(r"\\[\\nr]", lambda match: _ESCAPES[match[0]], name)
    try:
        parts = member_path(name)
    except ValueError as error:
        raise _bad(title, number, f"{name!r} {error}") from error
    if not parts:
        raise _bad(title, number, f"{name!r} names no file")
    return "/".join(parts), found[2].lower()


def _bad(title: str, number: int, why: str) -> DataError:
    return DataError(
        f"Line {number} of the manifest {title} is wrong: {why}.", mend="Write it with `sha256sum`."
    )


@dataclass(frozen=True, slots=True)
class FolderFetch:
    """The fetching of one folder."""

    base: str
    """Its URL, with the slash at the end."""
    files: Mapping[str, str]
    """Digest by path."""
    fetch: Fetch

    def run(self, scratch: Path, tree: Path, *, report: Report, stop: Stop) -> int:
        """Fetch all files and put them below `tree`; their bytes.

        Args:
            scratch: Where files wait until all are there; survives an interruption.
            tree: The folder to make.
            report: Told how many files are there, of how many.
            stop: Called often, from several threads.

        Raises:
            DataError: A file cannot be had, or is not what the manifest says.
        """
        wanted = {digest: path for path, digest in self.files.items()}
        halted = Event()

        def halt() -> None:
            stop()
            if halted.is_set():
                raise Cancelled("Another file of the folder failed.")

        one = partial(self._one, scratch, halt, settled=_same_boot(scratch))
        with ThreadPoolExecutor(WORKERS, thread_name_prefix="pushtrain-data") as pool:
            tasks = [pool.submit(one, digest, path) for digest, path in wanted.items()]
            try:
                for done, task in enumerate(as_completed(tasks), start=1):
                    task.result()
                    report(shown(self.base), done, len(tasks))
            except BaseException:
                halted.set()
                pool.shutdown(cancel_futures=True)
                raise
        return _arrange(self.files, scratch, tree)

    def _one(self, scratch: Path, stop: Stop, digest: str, path: str, *, settled: bool) -> None:
        whole = scratch / digest
        if not (whole.exists() and (settled or _digest(whole) == digest)):
            part = scratch / f"{digest}.part"
            self.fetch(below(self.base, path), part, digest, lambda *_: None, stop)
            part.rename(whole)


def _same_boot(scratch: Path) -> bool:
    """Whether what stands here was written since the machine started: no power loss has eaten at it."""
    note = scratch / "boot"
    same = note.exists() and note.read_text() == boot_id()
    note.write_text(boot_id())
    return same


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _arrange(files: Mapping[str, str], scratch: Path, tree: Path) -> int:
    """Give every path its file, the same bytes only once on the disk."""
    size = 0
    tree.mkdir()
    for path, digest in files.items():
        target = tree / path
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            target.hardlink_to(scratch / digest)
        except OSError:  # the file system allows only so many links to a file
            shutil.copyfile(scratch / digest, target)
        size += target.stat().st_size
    return size
