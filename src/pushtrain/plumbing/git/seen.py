"""Remember which commits were seen on which ref, so that a branch may be pushed over while its runs wait.

A Git host gives out, under a repository's name, every commit of every fork of it. So a commit counts as a
ref's only where the ref's own history holds it; and once that was seen it stays true, whatever is pushed
over the branch later. One line a commit, appended; the oldest half goes when the file has grown large.
"""

import os
from pathlib import Path
from typing import Final

from pushtrain.plumbing.disk.files import replace

_LARGEST: Final = 4 * 1024 * 1024


class Seen:
    """The commits that were seen on the refs of one repository. Two processes may share it.

    Args:
        path: The file; need not exist.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def has(self, ref: str, commit: str) -> bool:
        """Whether the commit was seen on the ref (a short word that stands for it)."""
        return _line(ref, commit) in self._read()

    def add(self, ref: str, commit: str) -> None:
        """Note that it was. A full disk only costs the memory."""
        line = _line(ref, commit)
        known = self._read()
        if line in known:
            return
        try:
            if len(known) > _LARGEST:
                kept = known[known.index(b"\n", len(known) // 2) :]
                replace(self._path, kept + line[1:], mode=0o600, durable=False)
                return
            descriptor = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                os.write(descriptor, line if not known else line[1:])
            finally:
                os.close(descriptor)
        except OSError:
            return

    def _read(self) -> bytes:
        try:
            return self._path.read_bytes()
        except OSError:
            return b""


def _line(ref: str, commit: str) -> bytes:
    """With the line break before it too: a line is found whole or not at all."""
    return f"\n{ref} {commit}\n".encode()
