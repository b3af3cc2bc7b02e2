"""An origin with one commit, and the clone that it was pushed from, as many tests begin with.

To make them takes seven processes of Git. The first test of a process makes them, the others get copies that
are theirs to do with as they like.
"""

import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from pushtrain.testing import WorkRepository


def origin_and_clone(
    origin: Path, clone: Path, files: Mapping[str, str], *, message: str = "A change", remote: str = ""
) -> WorkRepository:
    """Make both folders; `main` is pushed.

    Args:
        origin: A bare repository.
        clone: Whose `origin` it is.
        files: What the commit holds.
        message: The commit's.
        remote: What the clone calls the origin; empty: its path.
    """
    first = _first(tuple(sorted(files.items())), message)
    made = Path(first.name)
    shutil.copytree(made / "origin", origin, symlinks=True)
    shutil.copytree(made / "clone", clone, symlinks=True)
    config = clone / ".git" / "config"
    config.write_text(config.read_text().replace(str(made / "origin"), remote or str(origin)))
    return WorkRepository(clone)


@cache
def _first(files: tuple[tuple[str, str], ...], message: str) -> "tempfile.TemporaryDirectory[str]":
    folder = tempfile.TemporaryDirectory()
    origin, clone = Path(folder.name, "origin"), Path(folder.name, "clone")
    subprocess.run(["git", "init", "-q", "--bare", "-b", "main", str(origin)], check=True)
    work = WorkRepository(clone, str(origin))
    work.commit(dict(files), message)
    work.push()
    return folder
