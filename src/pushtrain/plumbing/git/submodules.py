"""Place submodules, each at exactly the commit that its parent records, from mirrors of their own.

Only repositories that the owner lends (`rules.submodules`) are asked for with the owner's credentials, over
https, http or ssh, and in folders of this machine where the parent is in one, too. All others are asked for
as a stranger would (`strangers`). Nothing is configured or run: `.gitmodules` is read as text at the commit.
"""

import os
import posixpath
import re
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from pushtrain.core.errors import CredentialError, GitError, NotFound, UsageError
from pushtrain.core.settings import Repository
from pushtrain.plumbing.git.checkout import Checkout
from pushtrain.plumbing.git.complaint import UnsafeContent
from pushtrain.plumbing.git.remotes import is_local, key_of, validate_remote
from pushtrain.plumbing.git.strangers import approach, not_lent
from pushtrain.ports import Stop

if TYPE_CHECKING:
    from pushtrain.plumbing.git.mirror import Mirror

_DEEPEST: Final = 5
_MOST: Final = 200
_ENTRY: Final = re.compile(r"submodule\.(?P<name>.*)\.(?P<field>path|url)", re.DOTALL)


def place(
    parent: "Mirror", commit: str, into: Path, *, lfs: bool, stop: Stop | None, there: Checkout
) -> Checkout:
    """Check out all submodules of a commit below `into`, and theirs.

    Args:
        parent: Where the commit is.
        commit: Whose submodules they are.
        into: The folder with the commit's files.
        lfs: Whether LFS pointers must be replaced by their content.
        stop: Called now and then; what it raises ends the work.
        there: What lies in the tree already; it counts towards the parent's bounds.

    Raises:
        GitError: A submodule has no usable URL, or cannot be fetched.
        UnsafeContent: All of it together is beyond the bounds.
    """
    placing = _Placing(parent, there, lfs=lfs, stop=stop)
    placing.below(parent, commit, into, 0)
    return placing.total


class _Placing:
    """One tree's submodules on their way."""

    def __init__(self, parent: "Mirror", there: Checkout, *, lfs: bool, stop: Stop | None) -> None:
        self.total = Checkout()
        self._top = parent
        self._there = there
        self._lfs = lfs
        self._stop = stop
        self._count = 0

    def below(self, parent: "Mirror", commit: str, into: Path, depth: int) -> None:
        """Place the submodules of one repository's commit."""
        links = _links(parent, commit)
        self._count += len(links)
        if links and (depth >= _DEEPEST or self._count > _MOST):
            raise GitError(
                f"Submodules of {self._top.remote.key} are nested deeper than {_DEEPEST}, or over {_MOST}."
            )
        urls = _urls(parent, commit) if links else {}
        for path, child in links.items():
            if path not in urls:
                raise GitError(
                    f"Submodule {path} of {parent.remote.key} has no URL.",
                    mend="Mend .gitmodules, or set `submodules = false`.",
                )
            remote = resolve(parent.remote.remote, urls[path])
            mirror = self._mirror(remote)
            try:
                mirror.fetch_commit(child, stop=self._stop)
            except (CredentialError, NotFound) as error:
                if not mirror.git.stranger:
                    raise
                raise not_lent(error, remote) from error
            with mirror.using():
                self.total += mirror.pristine.copy(child, into / path, lfs=self._lfs, stop=self._stop)
                self.below(mirror, child, into / path, depth + 1)

    def _mirror(self, remote: str) -> "Mirror":
        """The mirror of a submodule's repository; as much may come as is left."""
        top, so_far = self._top, self._there + self.total
        files, size = top.bounds.files - so_far.files, top.bounds.size - so_far.size
        if files <= 0 or size <= 0:
            raise UnsafeContent(
                f"{top.remote.key} and its submodules come to more files or bytes than are taken here.",
                mend="Set `submodules = false`, or ask the owner for higher `rules.limits`.",
            )
        bounds = replace(top.bounds, files=files, size=size)
        make = partial(type(top), top.home, bounds=bounds, lent=top.lent, outward=top.outward, toll=top.toll)
        key = key_of(remote)
        if top.lent(key):
            token = top.token if _origin(remote) == _origin(top.remote.remote) else ""
            return make(Repository(key=key, remote=remote), token=token)
        url, fixed = approach(remote, top.outward)
        return make(Repository(key=key, remote=url), stranger=fixed)


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
