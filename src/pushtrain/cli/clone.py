"""The clone that a person stands in: what `init` and `check` ask git about it. Nothing here writes."""

import os
from dataclasses import dataclass
from pathlib import Path

from pushtrain.core.errors import GitError, NotFound, UsageError
from pushtrain.core.text.forms import did_you_mean
from pushtrain.plumbing.git.command import Git
from pushtrain.plumbing.git.remotes import key_of

_HEADS = "refs/heads/"
_ORIGIN = "refs/remotes/origin/"


@dataclass(frozen=True, slots=True)
class Clone:
    """One work tree and its repository."""

    root: Path
    git: Git

    def ask(self, *args: str) -> str:
        """What git prints; empty when it has no answer."""
        done = self.git.run("-C", self.root, *args, ok=range(256))
        return done.text if done.code == 0 else ""

    def names(self, *args: str) -> list[str]:
        """The NUL-separated paths that git prints."""
        done = self.git.run("-C", self.root, *args, doing="list files")
        return [os.fsdecode(path) for path in done.out.split(b"\0") if path]

    def files(self) -> list[str]:
        """Paths in the work tree, ignored ones left out."""
        return self.names("ls-files", "--cached", "--others", "--exclude-standard", "--deduplicate", "-z")

    def branch(self) -> str:
        """The branch that is checked out; empty when it is none."""
        return self.ask("symbolic-ref", "--quiet", "--short", "HEAD")

    def default_branch(self) -> str:
        """The remote's default branch as this clone knows it; else `main`, `master`, or the current one."""
        told = self.ask("symbolic-ref", "--quiet", "--short", f"{_ORIGIN}HEAD").removeprefix("origin/")
        current = self.branch()
        there = [
            name
            for name in ("main", "master")
            if any(self.ask("rev-parse", "--quiet", "--verify", f"{ref}{name}") for ref in (_HEADS, _ORIGIN))
        ]
        return told or next(iter(there), "") or current or "main"

    def key(self) -> str:
        """The repository's key, by its remote `origin`; empty when there is none, or it has no key."""
        remote = self.ask("remote", "get-url", "origin")
        try:
            return key_of(remote) if remote else ""
        except UsageError:
            return ""

    def commit(self, revision: str) -> str:
        """The full id of a revision's commit; empty for HEAD of a repository without commits.

        Raises:
            NotFound: There is no such commit.
        """
        found = self.ask("rev-parse", "--quiet", "--verify", "--end-of-options", f"{revision}^{{commit}}")
        if not found and revision != "HEAD":
            branches = self.ask("for-each-ref", "--format=%(refname:short)", _HEADS, "refs/tags/").split()
            mend = (
                did_you_mean(revision, branches)
                or "`git log --oneline` lists commits, `git branch` branches."
            )
            raise NotFound(f"There is no commit `{revision}` in this clone.", mend=mend)
        return found

    def ref(self, revision: str) -> str:
        """The branch or tag that a push of this revision would move; for a bare commit one that holds it."""
        full = self.ask(
            "rev-parse", "--symbolic-full-name", "--verify", "--quiet", "--end-of-options", revision
        )
        if full.startswith(_ORIGIN):
            return _HEADS + full.removeprefix(_ORIGIN)
        if full.startswith((_HEADS, "refs/tags/")):
            return full
        here = _HEADS + (self.branch() or self.default_branch())
        holding = self._holding(revision)
        return here if here in holding else next(iter(holding), here)

    def _holding(self, revision: str) -> list[str]:
        """The branches of the remote that hold a revision, as far as this clone knows."""
        commit = self.commit(revision)
        out = self.ask("for-each-ref", "--contains", commit, "--format=%(refname)", _ORIGIN) if commit else ""
        return [_HEADS + name.removeprefix(_ORIGIN) for name in out.splitlines() if name != f"{_ORIGIN}HEAD"]

    def show(self, commit: str, path: str) -> bytes | None:
        """A file as it is in a commit; None when it is not there."""
        done = self.git.run("-C", self.root, "cat-file", "blob", f"{commit}:{path}", ok=range(256))
        return done.out if done.code == 0 else None

    def changed(self, commit: str, ref: str) -> tuple[list[str] | None, str]:
        """The paths that a push of this commit changes, and what it was compared with.

        That is `origin`'s branch as this clone knows it, else the commit's first parent; None without both.
        """
        known = self.ask("rev-parse", "--quiet", "--verify", f"{_ORIGIN}{ref.removeprefix(_HEADS)}")
        parent = self.ask("rev-parse", "--quiet", "--verify", f"{commit}^")
        before = known if known and known != commit else parent
        if not before:
            return None, ""
        paths = self.names("diff-tree", "-r", "-z", "--name-only", "--no-renames", before, commit)
        return paths, f"origin's {ref.removeprefix(_HEADS)}" if before == known else "its parent"


def open_clone(where: Path) -> Clone:
    """The clone that holds a folder.

    Raises:
        UsageError: It is in no clone, or in one without a work tree.
    """
    git = Git()
    try:
        root = git.run("-C", where, "rev-parse", "--show-toplevel", doing="find the repository").text
    except GitError as error:
        raise UsageError(
            f"{where} is not inside a Git work tree.",
            mend="Change into your repository, or begin one: `git init`.",
        ) from error
    return Clone(Path(root), git)
