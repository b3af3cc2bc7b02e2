"""Git LFS by explicit calls: recognise pointers, fetch what they name, push what we add. No filter ever runs.

Contents of a remote that the owner serves or lends come from its own LFS server by git-lfs, with the owner's
way in. A server that a commit's `.lfsconfig` names, and that of a stranger's repository, git-lfs never hears
of: `plumbing.git.lfsbatch` asks there. Pushes never go there, and no other key of `.lfsconfig` counts.

The pointer format is https://github.com/git-lfs/git-lfs/blob/main/docs/spec.md. Contents live in the mirror's
own `lfs/objects`, named by their SHA-256, so that each is fetched once.
"""

import re
import resource
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pushtrain.core.errors import GitError, UsageError
from pushtrain.core.owner.outward import Outward
from pushtrain.core.wire.lfsapi import endpoint
from pushtrain.plumbing.git.command import LONGEST, Git
from pushtrain.plumbing.git.complaint import UnsafeContent
from pushtrain.plumbing.git.remotes import key_of, validate_remote
from pushtrain.plumbing.git.strangers import approach
from pushtrain.ports import Stop

if TYPE_CHECKING:
    from pushtrain.plumbing.data.ledger import Ledger

_POINTER: Final = re.compile(
    rb"version https://git-lfs\.github\.com/spec/v1\n(?:ext-[^\n]*\n)*"
    rb"oid sha256:([0-9a-f]{64})\nsize (\d{1,18})\n"
)
_POINTER_LIMIT: Final = 1024
_PUBLIC: Final = Outward()
_SPARE: Final = 1024 * 1024
"""Bytes beyond the largest file that git-lfs may write into one, such as its own log."""


@dataclass(frozen=True, slots=True)
class Pointer:
    """What stands in Git for a large file."""

    oid: str
    size: int

    def text(self) -> bytes:
        """The pointer file's content."""
        return b"version https://git-lfs.github.com/spec/v1\noid sha256:%s\nsize %d\n" % (
            self.oid.encode(),
            self.size,
        )


def parse(data: bytes) -> Pointer | None:
    """The pointer that a file's content is, or None."""
    if len(data) > _POINTER_LIMIT or not data.startswith(b"version https://git-lfs"):
        return None
    found = _POINTER.fullmatch(data)
    return Pointer(found[1].decode(), int(found[2])) if found else None


def installed() -> bool:
    """Whether git-lfs is on this machine."""
    return shutil.which("git-lfs") is not None


def content_path(git: Git, oid: str) -> Path:
    """Where the mirror keeps one object's content."""
    return _store(git) / "objects" / oid[:2] / oid[2:4] / oid


def fetch(
    git: Git,
    commit: str,
    pointers: Mapping[str, Pointer],
    *,
    stop: Stop | None,
    below: str = "",
    most: int = 1 << 50,
    outward: Outward = _PUBLIC,
    toll: "Ledger | None" = None,
) -> dict[str, Path]:
    """The contents of these pointers, fetched as far as they are missing: path → file to copy from.

    Args:
        git: The repository that keeps the contents.
        commit: Whose pointers are fetched.
        pointers: The ones that are wanted, by path.
        stop: Called now and then; what it raises ends the work.
        below: Only what lies in this folder of the commit is fetched; empty: everything.
        most: Bytes that all of them may come to.
        outward: Which addresses a server that the owner did not name may lead to.
        toll: Counts what comes.

    Raises:
        GitError: git-lfs is needed and not installed, or content is not to be had; names the first files.
        Exhausted, Quiet: `toll` lets no more in today, or nothing at this hour.
    """
    if missing := _missing(git, pointers):
        largest, total = 0, 0
        for pointer in pointers.values():
            largest, total = max(largest, pointer.size), total + pointer.size
        if total > most:
            raise UnsafeContent(
                f"The Git LFS files of commit {commit[:12]} come to {total:,} bytes; {most:,} are allowed.",
                mend="Bring data by `data`, set `lfs = false`, or ask the owner for a higher limit.",
            )
        sizes = {pointers[path].oid: pointers[path].size for path in missing}
        if toll is not None:
            toll.demand_noise()
            toll.demand(sum(sizes.values()))
        url = _lfs_url(git, commit)
        if git.stranger or (url and not _is_own(url, git.remote)):
            from pushtrain.plumbing.git.lfsbatch import LfsServer  # lazy: most repositories have none

            there = _server(url, git.remote, outward)
            LfsServer(there, _store(git), outward=outward, stop=stop, toll=toll).fetch(sizes)
        else:
            if not installed():
                raise GitError(
                    f"{_some(missing)} Git LFS pointers, and git-lfs is not installed on the executor.",
                    mend="Install it there (`apt install git-lfs`), or set `lfs = false` to do without them.",
                )
            only = ("-I", f"{below}/**") if below else ()
            try:
                git.run(
                    "lfs", "fetch", *only, "origin", commit,
                    config=[f"remote.origin.url={git.remote}", *([f"lfs.url={url}"] if url else [])],
                    stop=stop, doing="fetch LFS files", timeout=LONGEST,
                    caps={resource.RLIMIT_FSIZE: largest + _SPARE},
                )  # fmt: skip
            finally:
                if toll is not None:
                    toll.add(sum(size for oid, size in sizes.items() if content_path(git, oid).exists()))
                    toll.settle()
    absent = _missing(git, pointers)
    if absent:
        raise GitError(
            f"{_some(absent)} Git LFS pointers to content that the remote does not have.",
            mend="Push it with `git lfs push --all origin`, or set `lfs = false`.",
        )
    return {path: content_path(git, pointer.oid) for path, pointer in pointers.items()}


def _store(git: Git) -> Path:
    if git.folder is None:
        raise ValueError("LFS contents live in a repository")
    return git.folder / "lfs"


def _server(url: str, remote: str, outward: Outward) -> str:
    """The URL at which a stranger's LFS server is asked.

    Args:
        url: What `.lfsconfig` names; empty: nothing.
        remote: The repository's remote.
        outward: Which addresses may be reached.
    """
    if not url:
        return endpoint(remote)
    there, _ = approach(url, outward, what="The Git LFS server that .lfsconfig names")
    return there if url.startswith(("https://", "http://")) else endpoint(there)


def _missing(git: Git, pointers: Mapping[str, Pointer]) -> list[str]:
    absent = []
    for path, pointer in pointers.items():
        try:
            if content_path(git, pointer.oid).stat().st_size == pointer.size:
                continue
        except OSError:
            pass
        absent.append(path)
    return absent


def _some(paths: Iterable[str]) -> str:
    names = sorted(paths)
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""  # noqa: PLR2004  enough to recognise them
    return f"{', '.join(names[:3])}{more} {'is a' if len(names) == 1 else 'are'}".removesuffix(" a")


def _lfs_url(git: Git, commit: str) -> str:
    """Where `.lfsconfig` of this commit says that the contents are; empty: at the remote."""
    done = git.run("config", "--blob", f"{commit}:.lfsconfig", "--get", "lfs.url", ok=(0, 1, 128))
    url = done.text if done.code == 0 else ""
    if not url:
        return ""
    return validate_remote(url)


def _is_own(url: str, remote: str) -> bool:
    """Whether an LFS server is the remote's own, where git-lfs would have looked anyway.

    Not by http where the remote is asked otherwise: whoever is on the way could then answer in its place.
    """
    if url.startswith("http://") and not remote.startswith("http://"):
        return False
    try:
        return key_of(url.rstrip("/").removesuffix("/info/lfs")) == key_of(remote)
    except UsageError:
        return False
