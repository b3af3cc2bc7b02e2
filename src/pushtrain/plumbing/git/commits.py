"""Read the commits of a bare repository that is here: their words, their files, how they stand to each other.

Nothing is fetched and nothing is written. Every commit that is read was named in full; a repository that
is not there holds none.
"""

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pushtrain.core.errors import ConfigError, NotFound
from pushtrain.core.values.push import NO_COMMIT
from pushtrain.plumbing.git.command import Git
from pushtrain.plumbing.git.complaint import BrokenRepository, PrintedTooMuch, explain
from pushtrain.plumbing.git.remotes import check_commit

_LARGEST_READ: Final = 8 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class CommitInfo:
    """A commit's own words."""

    commit: str
    message: str
    author: str
    """The name, without the address."""
    authored_at: int
    parents: tuple[str, ...]

    @property
    def subject(self) -> str:
        """The message's first line."""
        return self.message.strip().partition("\n")[0]


@dataclass(frozen=True, slots=True)
class Head:
    """What an object is, without its content."""

    id: str
    kind: str
    size: int


class Commits:
    """Those of one repository.

    Args:
        folder: The bare repository; it need not be there.
        git: Runs git in it.
        key: What it is called, for people.
    """

    def __init__(self, folder: Path, git: Git, key: str) -> None:
        self._folder = folder
        self._git = git
        self._key = key

    def has(self, commit: str) -> bool:
        """Whether the mirror holds this commit. Packs arrive whole, so a commit's files are there with it."""
        name = f"{check_commit(commit)}^{{commit}}"
        return self._folder.is_dir() and self._git.run("cat-file", "-e", name, ok=(0, 1, 128)).code == 0

    def read(self, commit: str, paths: Sequence[str] = ()) -> tuple[CommitInfo, dict[str, bytes | None]]:
        """The commit's own words and some of its files (None: there is no such file), by one git process.

        Raises:
            NotFound: The mirror does not hold the commit.
            ConfigError: All of it together is larger than anything that is read here.
        """
        names = [path for path in paths if "\n" not in path]
        asked = [f"{check_commit(commit)}^{{commit}}", *(f"{commit}:{path}" for path in names)]
        try:
            head, *files = self.objects(asked, limit=_LARGEST_READ)
        except PrintedTooMuch as error:
            what = " or ".join(names) or "The message"
            raise ConfigError(
                f"{what} at {commit[:7]} is larger than {_LARGEST_READ} bytes.",
                mend="Make it smaller; long scripts belong into files of their own.",
            ) from error
        if head is None:
            raise NotFound(f"The mirror of {self._key} holds no commit {commit[:12]}.")
        blobs = [None if found is None or found[0] != "blob" else found[1] for found in files]
        return _parse_commit(commit, head[1]), {
            **dict.fromkeys(paths),
            **dict(zip(names, blobs, strict=True)),
        }

    def objects(self, names: Sequence[str], *, limit: int = 1 << 26) -> list[tuple[str, bytes] | None]:
        """Several objects as (kind, content), None for what is missing, by one git process.

        Raises:
            PrintedTooMuch: They are larger than the limit, together.
        """
        if not self._folder.is_dir():
            return [None] * len(names)
        asked = "".join(f"{name}\n" for name in names).encode()
        out = self._git.run("cat-file", "--batch", input=asked, limit=limit).out
        return list(parse_batch(out, len(names)))

    def heads(self, names: Sequence[str]) -> list[Head | None]:
        """What several objects are, None for what is missing, by one git process that reads no content."""
        if not self._folder.is_dir():
            return [None] * len(names)
        asked = "".join(f"{name}\n" for name in names).encode()
        out = self._git.run("cat-file", "--batch-check", input=asked).out
        words = [line.rsplit(" ", 2) for line in os.fsdecode(out).split("\n")[:-1]]
        return [
            Head(each[0], each[1], int(each[2])) if len(each) == 3 and each[2].isdigit() else None  # noqa: PLR2004
            for each in words
        ]

    def blobs(self, commit: str, below: str) -> dict[str, str]:
        """The ids of all regular files below a folder, by their paths there; empty: too many to tell."""
        args = ("ls-tree", "-r", "-z", "--full-tree", check_commit(commit), "--", f"{below}/")
        try:
            out = self._git.run(*args, limit=_LARGEST_READ).out
        except PrintedTooMuch:
            return {}
        found = {}
        for entry in filter(None, os.fsdecode(out).split("\0")):
            head, _, path = entry.partition("\t")
            found[path.removeprefix(f"{below}/")] = head.split(" ")[2] if head.startswith("100644 ") else ""
        return found

    def show(self, commit: str, path: str) -> bytes | None:
        """One file at one commit; None: there is none."""
        return self.read(commit, [path])[1][path]

    def message(self, commit: str) -> str:
        """The commit's message."""
        return self.read(commit)[0].message

    def changed(self, before: str, after: str) -> list[str] | None:
        """The paths that differ between two commits; None: not known, or too many to tell."""
        if set(before) == {"0"} or before == NO_COMMIT or not self.has(before):
            return None
        args = (
            "diff-tree",
            "-r",
            "-z",
            "--name-only",
            "--no-renames",
            check_commit(before),
            check_commit(after),
        )
        try:
            out = self._git.run(*args, doing="compare two commits").out
        except PrintedTooMuch:
            return None
        return [os.fsdecode(path) for path in out.split(b"\0") if path]

    def is_ancestor(self, older: str, newer: str) -> bool:
        """Whether `older` is in the history of `newer` (or the same); False when one is not known here.

        Raises:
            BrokenRepository: What lies between them cannot be read.
        """
        if not self._folder.is_dir():
            return False
        args = ("merge-base", "--is-ancestor", check_commit(older), check_commit(newer))
        done = self._git.run(*args, ok=(0, 1, 128))
        error = explain(done, "read the history") if done.code > 1 else None
        if isinstance(error, BrokenRepository):
            raise error
        return done.code == 0

    def list(self, commit: str, below: str = "") -> list[str]:
        """The paths of all files at a commit, or of those below a folder."""
        args = ("ls-tree", "-r", "-z", "--name-only", "--full-tree", check_commit(commit), "--", below)
        out = self._git.run(*(args if below else args[:-2])).out
        return [os.fsdecode(path) for path in out.split(b"\0") if path]


def blob_id(content: bytes, *, like: str) -> str:
    """The id that git gives a file, in a repository whose ids are like this one."""
    made = (
        hashlib.sha256()
        if len(like) == hashlib.sha256().digest_size * 2
        else hashlib.sha1(usedforsecurity=False)
    )
    made.update(b"blob %d\0" % len(content))
    made.update(content)
    return made.hexdigest()


def parse_batch(out: bytes, count: int) -> Iterator[tuple[str, bytes] | None]:
    """The answers of `git cat-file --batch`: kind and content."""
    return (None if found is None else found[1:] for found in parse_heads(out, count))


def parse_heads(out: bytes, count: int) -> Iterator[tuple[str, str, bytes] | None]:
    """The answers of `git cat-file --batch`: id, kind and content."""
    at = 0
    for _ in range(count):
        end = out.index(b"\n", at)
        words = out[at:end].rsplit(b" ", 2)
        at = end + 1
        if len(words) == 3 and words[2].isdigit():  # noqa: PLR2004  OID KIND SIZE
            size = int(words[2])
            yield words[0].decode(), words[1].decode(), out[at : at + size]
            at += size + 1
        else:
            yield None


def _parse_commit(commit: str, raw: bytes) -> CommitInfo:
    """A commit object's header and message."""
    head, _, message = raw.decode("utf-8", "replace").partition("\n\n")
    fields: Mapping[str, str] = dict(line.partition(" ")[::2] for line in reversed(head.splitlines()))
    name, _, rest = fields.get("author", "").rpartition(" <")
    when = rest.rpartition("> ")[2].split(" ")[0]
    parents = tuple(line.split()[1] for line in head.splitlines() if line.startswith("parent "))
    return CommitInfo(commit, message, name, int(when) if when.lstrip("-").isdigit() else 0, parents)
