"""Place submodules, each at exactly the commit that its parent records, from mirrors of their own.

Only https, http and ssh URLs are followed, and folders of this machine only when the parent is one itself: a
repository on a host must not read other repositories of the executor's disk. Nothing is configured or run;
`.gitmodules` is read as text at the commit.
"""

import os
import posixpath
import re
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from pushtrain.core.errors import GitError, UsageError
from pushtrain.core.settings import Repository
from pushtrain.plumbing.checkout import Checkout
from pushtrain.plumbing.remotes import is_local, key_of, validate_remote
from pushtrain.ports import Stop

if TYPE_CHECKING:
    from pushtrain.plumbing.git import Mirror

_DEEPEST: Final = 5
_MOST: Final = 200
_ENTRY: Final = re.compile(r"submodule\.(?P<name>.*)\.(?P<field>path|url)", re.DOTALL)


def place(
    parent: "Mirror", commit: str, into: Path, *, lfs: bool, stop: Stop | None, depth: int = 0
) -> Checkout:
    """Check out all submodules of a commit below `into`, and theirs.

    Raises:
        GitError: A submodule has no usable URL, or cannot be fetched.
    """
    links = _links(parent, commit)
    if not links:
        return Checkout()
    if depth >= _DEEPEST or len(links) > _MOST:
        raise GitError(
            f"Submodules of {parent.remote.key} are nested deeper than {_DEEPEST}, or over {_MOST}."
        )
    urls = _urls(parent, commit)
    total = Checkout()
    for path, child in links.items():
        if path not in urls:
            raise GitError(
                f"Submodule {path} of {parent.remote.key} has no URL.",
                mend="Mend .gitmodules, or set `submodules = false`.",
            )
        remote = resolve(parent.remote.remote, urls[path])
        token = parent.token if _origin(remote) == _origin(parent.remote.remote) else ""
        mirror = type(parent)(parent.home, Repository(key=key_of(remote), remote=remote), token=token)
        mirror.fetch_commit(child, stop=stop)
        target = into / path
        total += mirror.pristine.copy(child, target, lfs=lfs, stop=stop)
        total += place(mirror, child, target, lfs=lfs, stop=stop, depth=depth + 1)
    return total


def resolve(parent: str, url: str) -> str:
    """A submodule's URL as its parent's remote sees it; `../x` is relative to the parent.

    Raises:
        GitError: It is not one that we follow.
    """
    if url.startswith(("./", "../")):
        head, colon, path = parent, "", ""
        if "://" in parent:
            parts = urlsplit(parent)
            head, path = f"{parts.scheme}://{parts.netloc}", parts.path
        elif parent.startswith("/"):
            head, path = "", parent
        else:
            head, colon, path = parent.partition(":")
        joined = posixpath.normpath(posixpath.join("/", path, url))
        url = f"{head}{colon}{joined.lstrip('/') if colon and not path.startswith('/') else joined}"
    try:
        validate_remote(url)
    except UsageError as error:
        raise GitError(f"A submodule cannot be fetched: {error.message}", mend=error.mend) from error
    if is_local(url) and not is_local(parent):
        raise GitError(
            f"A submodule names {url!r}, a folder of the executor.", mend="Give it an https or ssh URL."
        )
    return url


def _origin(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"


def _links(mirror: "Mirror", commit: str) -> dict[str, str]:
    """Path → commit of each submodule in a commit's tree."""
    out = mirror.git.run("ls-tree", "-r", "-z", "--full-tree", commit).out
    links = {}
    for entry in out.split(b"\0"):
        head, _, path = entry.partition(b"\t")
        if head.startswith(b"160000 commit "):
            links[os.fsdecode(path)] = head.split()[2].decode()
    return links


def _urls(mirror: "Mirror", commit: str) -> dict[str, str]:
    """Path → URL, as `.gitmodules` of the commit says."""
    done = mirror.git.run("config", "--blob", f"{commit}:.gitmodules", "-z", "--list", ok=(0, 1, 128))
    found: dict[str, dict[str, str]] = {}
    for entry in os.fsdecode(done.out).split("\0"):
        key, _, value = entry.partition("\n")
        match = _ENTRY.fullmatch(key)
        if match:
            found.setdefault(match["name"], {})[match["field"]] = value
    return {fields["path"]: fields["url"] for fields in found.values() if fields.keys() >= {"path", "url"}}
