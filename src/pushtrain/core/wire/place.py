"""Where a roster lies: a repository, a branch, a path; and how the setting `roster` names them.

"pushtrain/config:config.json"     branch and path in the repository itself (the default)
"main:config.json"                 the same on a branch that people use too
"lab/gpus"                         a repository beside it on the same host, shared by many
"github.com/lab/gpus#main:x.json"  another one by its key, with branch and path
"git@example.org:lab/gpus.git"     another one by its remote
""                                 none
"""

import re
from typing import Final

from pushtrain.core.errors import ConfigError
from pushtrain.core.settings import Repository
from pushtrain.core.values.value import CONFIG_BRANCH, Value

PATH: Final = "config.json"
SECRETS: Final = "secrets.json"
_SAFE: Final = r"(?!-)(?!.*(?:\.\.|//|@\{|/\.|\.lock(?:/|$)))[^\x00-\x20\x7f~^:?*\[\\#]+(?<![/.])"
_BRANCH: Final = re.compile(_SAFE)
_INSIDE: Final = re.compile(
    r"(?:(?!\.\.?(?:/|:|$)|\.git(?:/|$))[^\x00-\x1f\x7f/:]+/)*(?!\.\.?$)[^\x00-\x1f\x7f/:]+"
)
_SCP: Final = re.compile(r"[^/:@]+@[^/:@]+:.+")
_MEND: Final = 'Write "BRANCH:PATH", "OWNER/NAME", or a repository\'s address with "#BRANCH:PATH" behind it.'


class Named(Value):
    """What a setting says: which repository (empty: the repository itself), which branch, which path."""

    repository: str
    branch: str
    path: str


class Place(Value):
    """One roster."""

    repository: Repository
    branch: str
    path: str

    @property
    def ref(self) -> str:
        """The branch's full name."""
        return f"refs/heads/{self.branch}"

    @property
    def own(self) -> bool:
        """Whether only executors write the branch; then it is one commit, replaced each time."""
        return self.branch == CONFIG_BRANCH

    @property
    def title(self) -> str:
        """For people: `github.com/octo/hello pushtrain/config:config.json`."""
        return f"{self.repository.key} {self.branch}:{self.path}"


def secrets_path(path: str) -> str:
    """Where sealed secrets lie, beside the roster at `path`."""
    folder, slash, _ = path.rpartition("/")
    return f"{folder}{slash}{SECRETS}"


def named(text: str) -> Named | None:
    """What the setting says; None for none.

    Raises:
        ConfigError: It is not of one of the forms above.
    """
    if not text:
        return None
    repository, hash_mark, inside = text.rpartition("#")
    if not hash_mark:
        outside = "://" in text or text.startswith("/") or ":" not in text or _SCP.fullmatch(text)
        repository, inside = (text, "") if outside else ("", text)
    branch, _, path = (inside or f"{CONFIG_BRANCH}:{PATH}").partition(":")
    path = path or PATH
    taken = path == secrets_path(path)
    if (
        not _BRANCH.fullmatch(branch)
        or not _INSIDE.fullmatch(path)
        or taken
        or (hash_mark and not repository)
    ):
        raise ConfigError(f"`roster` says {inside!r}, which names no place.", mend=_MEND)
    return Named(repository=repository, branch=branch, path=path)


def beside(remote: str, name: str) -> str:
    """The remote of the repository `OWNER/NAME` on the host of another; empty where that says nothing.

    Raises:
        ConfigError: The name is not of that form.
    """
    if not re.fullmatch(r"[A-Za-z0-9_~][A-Za-z0-9._~-]*(?:/[A-Za-z0-9_~][A-Za-z0-9._~-]*)+", name):
        raise ConfigError(f"`roster` names the repository {name!r}.", mend=_MEND)
    match = re.match(r"(?:https?|ssh)://[^/]+/|[^/:@]+@[^/:@]+:", remote)
    ending = ".git" if remote.endswith(".git") else ""
    return f"{match[0]}{name}{ending}" if match else ""
