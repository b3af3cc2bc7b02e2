"""What the demo's host reads of its own repositories, with git and none of anybody's settings."""

import os
import subprocess
from functools import cache
from pathlib import Path
from typing import Final

from pushtrain.core.errors import GitError
from pushtrain.core.values.push import NO_COMMIT
from pushtrain.demo.webhook import Author, PushedCommit, Update

ENVIRONMENT: Final = {
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_CONFIG_GLOBAL": os.devnull,
    "LC_ALL": "C.UTF-8",
    "HOME": "/nonexistent",
    "PATH": os.environ.get("PATH", os.defpath),
}
"""The whole environment of every git process of the host."""

_COMMITS_TOLD: Final = 20
_FORM: Final = "%x1e%H%x1f%T%x1f%an%x1f%ae%x1f%aI%x1f%cn%x1f%ce%x1f%cI%x1f%B%x1f"


def git(folder: Path | None, *arguments: str) -> str:
    """Run git, and give what it printed.

    Raises:
        GitError: It failed.
    """
    argv = ("git", *(("-C", str(folder)) if folder else ()), *arguments)
    try:
        done = subprocess.run(
            argv, env=ENVIRONMENT, stdin=subprocess.DEVNULL, capture_output=True, check=False
        )
    except FileNotFoundError as error:
        raise GitError("git is not installed.", mend="Install it: `apt install git`.") from error
    if done.returncode:
        complaint = done.stderr.decode(errors="replace").strip()
        raise GitError(f"`git {arguments[0]}` failed in the demo's host: {complaint}")
    return done.stdout.decode("utf-8", "replace")


@cache
def exec_path() -> str:
    """Where git keeps its own programs.

    Raises:
        GitError: `git http-backend` is not among them.
    """
    folder = git(None, "--exec-path").strip()
    if not Path(folder, "git-http-backend").exists():
        raise GitError(
            "This git cannot serve HTTP: `git http-backend` is missing.",
            mend="Install it; some systems have it in a package of its own, such as git-daemon.",
        )
    return folder


def commits(folder: Path, update: Update) -> tuple[PushedCommit, ...]:
    """The newest commits of an update, oldest first."""
    if update.after == NO_COMMIT:
        return ()
    new = (update.after,) if update.before == NO_COMMIT else (update.after, f"^{update.before}")
    told = git(
        folder,
        "-c",
        "core.quotePath=false",
        "log",
        f"--max-count={_COMMITS_TOLD}",
        "--name-status",
        "--no-renames",
        f"--format={_FORM}",
        *new,
        "--",
    )
    return tuple(_parsed(text) for text in reversed(told.split("\x1e")[1:]))


def _parsed(text: str) -> PushedCommit:
    commit, tree, name, email, date, *by, message, changes = text.split("\x1f", 9)
    files: dict[str, list[str]] = {"A": [], "D": [], "M": []}
    for line in changes.strip().splitlines():
        kind, _, path = line.partition("\t")
        files.get(kind, files["M"]).append(path)
    return PushedCommit(
        id=commit,
        tree=tree,
        message=message.rstrip("\n"),
        author=Author(name, email, date),
        committer=Author(*by),
        added=tuple(files["A"]),
        removed=tuple(files["D"]),
        modified=tuple(files["M"]),
    )


def forced(folder: Path, update: Update) -> bool:
    """Whether commits that the ref had are not in it any more."""
    if NO_COMMIT in {update.before, update.after}:
        return False
    return git(folder, "rev-list", "--max-count=1", update.before, f"^{update.after}") != ""
