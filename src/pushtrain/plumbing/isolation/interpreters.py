"""What lies outside of the system's own folders, and a program in some folder still needs: its Python.

A virtual environment's `python` is a link, often through several others, to an interpreter that somebody
installed somewhere: uv, pyenv, conda, a distribution. Only what looks like an installation of Python is
named, and never a folder with a home or with our state in it: a link that an environment's packages brought
along must not open more than that.
"""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

_NAMES: Final = ("python", "python3")
_MOST_LINKS: Final = 20


def needed(folders: Sequence[Path], *, never: Sequence[Path]) -> tuple[Path, ...]:
    """The installations that programs in these folders use, at the paths by which they are found.

    Args:
        folders: What a command finds programs in.
        never: Folders of which neither they nor anything above them may be named.
    """
    private = [*never, *(Path(os.path.realpath(one)) for one in never)]
    found: dict[Path, None] = {}
    for folder in folders:
        for root in (folder.parent, *_behind(folder)):
            if _installation(root) and not any(one.is_relative_to(root.resolve()) for one in private):
                found[root] = None
    return tuple(found)


def _behind(folder: Path) -> Iterator[Path]:
    """The prefix of every path that the folder's Pythons lead through."""
    for name in _NAMES:
        path = folder / name
        for _ in range(_MOST_LINKS):
            if not path.is_symlink():
                break
            path = Path(os.path.normpath(path.parent / path.readlink()))
            yield path.parent.parent
        if path.exists():
            yield path.resolve().parent.parent


def _installation(root: Path) -> bool:
    """Whether this is where a Python, or an environment of one, is installed."""
    if (root / "pyvenv.cfg").is_file() or (root / "conda-meta").is_dir():
        return True
    return any(root.glob("lib*/python3.*/os.py"))
