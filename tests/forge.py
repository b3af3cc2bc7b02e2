"""Repositories that no honest git would make: raw trees, commits and packs in a bare repository."""

import os
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Final

FILE: Final = "100644"
FOLDER: Final = "40000"
LINK: Final = "120000"
MODULE: Final = "160000"
Entry = tuple[str, str | bytes, str]
"""Mode, name, object id."""


class Forge:
    """Writes into a bare repository whatever it is told, without a check.

    Args:
        origin: The repository; made when it is missing.
    """

    def __init__(self, origin: Path) -> None:
        self.origin = origin
        if not origin.exists():
            self.git("init", "-q", "--bare", "-b", "main", str(origin), inside=False)

    @property
    def url(self) -> str:
        """Its remote."""
        return f"file://{self.origin}"

    def git(self, *args: str, given: bytes = b"", inside: bool = True) -> str:
        """Run git, as an attacker's machine would."""
        where = (f"--git-dir={self.origin}",) if inside else ()
        out = subprocess.run(("git", *where, *args), input=given, check=True, capture_output=True)
        return out.stdout.decode().strip()

    def blob(self, content: bytes | str) -> str:
        """A file's content."""
        data = content.encode() if isinstance(content, str) else content
        return self.git("hash-object", "-w", "--stdin", given=data)

    def tree(self, entries: Iterable[Entry], *, sort: bool = True) -> str:
        """A folder with exactly these entries."""
        listed = [(mode, os.fsencode(name), oid) for mode, name, oid in entries]
        if sort:
            listed.sort(key=lambda entry: entry[1] + (b"/" if entry[0] == FOLDER else b""))
        raw = b"".join(b"%s %s\0%s" % (mode.encode(), name, bytes.fromhex(oid)) for mode, name, oid in listed)
        return self.git("hash-object", "-w", "-t", "tree", "--literally", "--stdin", given=raw)

    def nested(self, path: str | bytes, mode: str, oid: str) -> Entry:
        """The entry of the root that leads to a file at this path; nothing else is in its folders."""
        *folders, name = os.fsencode(path).split(b"/")
        entry: Entry = (mode, name, oid)
        for folder in reversed(folders):
            entry = (FOLDER, folder, self.tree([entry]))
        return entry

    def commit(self, tree: str, *, parents: Iterable[str] = (), message: str = "A commit") -> str:
        """A commit of a tree."""
        lines = [f"tree {tree}", *(f"parent {parent}" for parent in parents)]
        who = "Eve <eve@evil.example> 1790000000 +0000"
        raw = "\n".join([*lines, f"author {who}", f"committer {who}", "", message, ""]).encode()
        return self.git("hash-object", "-w", "-t", "commit", "--literally", "--stdin", given=raw)

    def push(self, entries: Iterable[Entry], *, ref: str = "refs/heads/main", message: str = "Evil") -> str:
        """A commit with these entries in its root, at the end of a branch."""
        commit = self.commit(self.tree(entries), message=message)
        self.git("update-ref", ref, commit)
        return commit
