"""A work tree as a person has it: write files, commit, push, fetch; with an identity of its own.

None of the developer's git settings are read. The remote's password goes to git by a credential helper and
its environment, never in an address or an argument.
"""

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

from pushtrain.core.errors import GitError


class WorkRepository:
    """A work tree as a person has it: write files, commit, push.

    Args:
        folder: Made with `git init` unless it is a repository already.
        remote: Address of `origin`, when there is one.
        token: Password that the remote asks for; given to git by askpass, never in the address.
    """

    def __init__(self, folder: Path, remote: str = "", *, token: str = "") -> None:
        self.folder = folder
        self._token = token
        if not (folder / ".git").exists():
            folder.mkdir(parents=True, exist_ok=True)
            self.git("init", "--quiet", "--initial-branch=main")
        if remote:
            self.git("remote", "add", "origin", remote)

    def git(self, *arguments: str, check: bool = True) -> str:
        """Run git in the folder, and give what it printed, stripped.

        Raises:
            GitError: It failed and `check` is set; the message holds git's own.
        """
        done = subprocess.run(
            ("git", *arguments),
            cwd=self.folder,
            env=self._environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="surrogateescape",
            check=False,
        )
        if check and done.returncode:
            said = done.stderr.strip() or done.stdout.strip()
            raise GitError(f"`git {' '.join(arguments)}` failed: {said}")
        return done.stdout.strip()

    def write(self, files: Mapping[str, str | bytes]) -> None:
        """Write files, folders included; text as UTF-8."""
        for name, content in files.items():
            path = self.folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content.encode() if isinstance(content, str) else content)

    def commit(self, files: Mapping[str, str | bytes] | None = None, message: str = "A change") -> str:
        """Write `files`, commit everything, and give the commit's id."""
        self.write(files or {})
        self.git("add", "--all")
        self.git("commit", "--quiet", "--allow-empty", "--message", message)
        return self.head()

    def head(self) -> str:
        """The id of the commit that is checked out."""
        return self.git("rev-parse", "HEAD")

    def push(self, ref: str = "main", *options: str) -> None:
        """Push a branch, or any refspec, to `origin`."""
        self.git("push", "--quiet", *options, "origin", ref)

    def fetch(self, branch: str) -> str:
        """Fetch a branch of `origin`, and give the commit at its tip; empty when there is no such branch."""
        self.git(
            "fetch", "--quiet", "origin", f"+refs/heads/{branch}:refs/remotes/origin/{branch}", check=False
        )
        return self.git("rev-parse", "--quiet", "--verify", f"refs/remotes/origin/{branch}", check=False)

    def show(self, revision: str, path: str) -> str:
        """A file as it is in a commit."""
        return self.git("show", f"{revision}:{path}")

    def files(self, revision: str) -> list[str]:
        """Every path in a commit."""
        return self.git("ls-tree", "-r", "--name-only", revision).splitlines()

    def _environment(self) -> dict[str, str]:
        base = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TMPDIR") if name in os.environ}
        base |= {
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_CONFIG_GLOBAL": os.devnull,
            "GIT_TERMINAL_PROMPT": "0",
            "GIT_AUTHOR_NAME": "Ada",
            "GIT_AUTHOR_EMAIL": "ada@example.org",
            "GIT_COMMITTER_NAME": "Ada",
            "GIT_COMMITTER_EMAIL": "ada@example.org",
        }
        if self._token:
            # A credential helper of one line: git's own way to be told a password by its environment.
            base |= {
                "PUSHTRAIN_GIT_TOKEN": self._token,
                "GIT_CONFIG_COUNT": "1",
                "GIT_CONFIG_KEY_0": "credential.helper",
                "GIT_CONFIG_VALUE_0": '!f() { echo username=x; echo "password=$PUSHTRAIN_GIT_TOKEN"; }; f',
            }
        return base
