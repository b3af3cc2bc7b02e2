"""Let a mirror forget what no branch of late and no run needs, and join its packs.

`git.Mirror` only ever adds to its repository. Here is what takes away: done by git itself, under the mirror's
lock, in a folder that no job ever sees. What nothing names any more stays for two weeks all the same, so
nobody who is reading loses what it reads. Cut short at any line nothing is lost.
"""

import fcntl
import time
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path
from typing import Final

from pushtrain.plumbing.git.command import LONGEST, Git
from pushtrain.ports import Stop

_WEEK: Final = 7 * 86_400.0
_GRACE: Final = 14 * 86_400.0
_LATELY: Final = 30 * 86_400.0
_MANY: Final = 50
"""So many branches stay however old their newest commits are."""
_STAMP: Final = "collected"


def collect_mirror(
    folder: Path, kept: Collection[str], *, grace: float = _GRACE, stop: Stop | None = None
) -> bool:
    """Collect what a mirror holds needlessly; False: it is not due, or somebody fetches into it.

    Due is it once a week, where something has come since.

    Args:
        folder: The bare repository, `NAME.git`.
        kept: Commits that runs need which have not ended, whatever became of their branch.
        grace: Seconds that what nothing names any more stays.
        stop: Called now and then; what it raises ends the work.

    Raises:
        GitError: git could not do it; the mirror is as it was.
    """
    stamp, packs = folder / _STAMP, folder / "objects" / "pack"
    with suppress(FileNotFoundError):
        last = stamp.stat().st_mtime
        if time.time() < last + _WEEK or packs.stat().st_mtime <= last:
            return False
    with folder.with_suffix(".lock").open("ab") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        if not folder.is_dir():
            return False
        git = Git(folder)
        _name_only(git, kept)
        git.run(
            "gc", "--quiet", f"--prune={max(0, int(grace))}.seconds.ago",
            config=("gc.cruftPacks=true", "gc.writeCommitGraph=false", "pack.threads=1"),
            stop=stop, doing="collect what no run needs", timeout=LONGEST, lowly=True,
        )  # fmt: skip
        for report in folder.glob("fast_import_crash_*"):
            report.unlink(missing_ok=True)
        stamp.touch()
    return True


def _name_only(git: Git, kept: Collection[str]) -> None:
    """Have private refs to the commits that runs need and to the branches of late, and to no others."""
    known = git.run(
        "for-each-ref", "--sort=-committerdate", "--format=%(refname) %(objectname) %(committerdate:unix)"
    ).text
    young, changes, number = time.time() - _LATELY, [], 0
    for line in known.splitlines():
        ref, commit, when = line.split(" ")
        if ref.startswith("refs/needed/") and commit not in kept:
            changes.append(f"delete {ref}")
        elif ref.startswith("refs/fetched/"):
            number += 1
            if number > _MANY and not (when.isdigit() and int(when) > young):
                changes.append(f"delete {ref}")
    asked = "".join(f"{commit}^{{commit}}\n" for commit in kept).encode()
    there = git.run("cat-file", "--batch-check=%(objectname)", input=asked).text.split("\n")
    changes += [f"update refs/needed/{line} {line}" for line in there if " " not in line and line]
    if changes:
        git.run("update-ref", "--stdin", input="".join(f"{each}\n" for each in changes).encode())
