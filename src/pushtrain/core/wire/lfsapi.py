"""Git LFS's batch API as we speak it: what is asked of a server, and what of its answer counts.

Downloads by the basic transfer alone: https://github.com/git-lfs/git-lfs/blob/main/docs/api/batch.md and
basic-transfers.md. An answer is a stranger's word: only what was asked for counts, and of the headers that a
server wants to be sent only those that cannot change what a request is or to whom it goes.
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Final

from pushtrain.core.errors import GitError, UsageError
from pushtrain.core.text import strictjson

MEDIA: Final = "application/vnd.git-lfs+json"
BATCH: Final = 100
"""Objects of one request; GitHub takes no more."""
LARGEST_ANSWER: Final = 4 * 1024 * 1024
"""Bytes of an answer to one request: 40 KiB for each object."""

_LONGEST_URL: Final = 16 * 1024
_HEADERS: Final = 20
_NAME: Final = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,100}")
_VALUE: Final = re.compile(r"[\x20-\x7e]{0,8192}")
_OURS: Final = re.compile(
    r"(?i)host|connection|keep-alive|content-.*|transfer-encoding|te|trailer|upgrade|expect|range|if-.*"
    r"|accept-encoding|proxy-.*|cookie|user-agent"
)
"""Headers that say what a request is; these are ours to write."""


@dataclass(frozen=True, slots=True)
class Source:
    """Where one object is to be had."""

    href: str
    header: Mapping[str, str] = field(default_factory=dict[str, str])
    """What the server at that URL, and no other, is to be sent."""
    expires: bool = False
    """Whether it is there for a time only."""


def endpoint(remote: str) -> str:
    """The LFS server of a repository at an http(s) URL that names none."""
    bare = remote.rstrip("/")
    return f"{bare}/info/lfs" if bare.endswith(".git") else f"{bare}.git/info/lfs"


def batches(sizes: Mapping[str, int]) -> Iterator[dict[str, int]]:
    """Objects (digest → size) in portions, each for one request."""
    left = iter(sizes.items())
    while portion := dict(islice(left, BATCH)):
        yield portion


def request(sizes: Mapping[str, int]) -> bytes:
    """The request for a portion's download."""
    objects = [{"oid": oid, "size": size} for oid, size in sizes.items()]
    asked = {"operation": "download", "transfers": ["basic"], "objects": objects, "hash_algo": "sha256"}
    return json.dumps(asked).encode()


def answer(raw: bytes, sizes: Mapping[str, int]) -> dict[str, Source]:
    """Where the objects of a portion are.

    Args:
        raw: The server's answer.
        sizes: The portion that was asked for.

    Raises:
        GitError: It is no answer to that, or the server does not have one of them.
    """
    try:
        found = strictjson.loads(raw, any_text=True)
    except UsageError as error:
        raise _odd(error.message) from error
    listed = found.get("objects") if isinstance(found, dict) else None
    if not isinstance(listed, list) or found.get("transfer", "basic") != "basic":
        raise _odd("it lists no objects for the basic transfer")
    sources: dict[str, Source] = {}
    for one in listed:
        oid = one.get("oid") if isinstance(one, dict) else None
        if isinstance(oid, str) and oid in sizes:
            sources[oid] = _source(one, oid)
    missing = next((oid for oid in sizes if oid not in sources), "")
    if missing:
        raise _odd(f"it does not speak of {missing[:12]}")
    return sources


def _source(one: Mapping[str, Any], oid: str) -> Source:
    """What the server says of one object."""
    actions = one.get("actions")
    download = actions.get("download") if isinstance(actions, dict) else None
    if not isinstance(download, dict):
        error = one.get("error")
        code = error.get("code") if isinstance(error, dict) else None
        why = f" (it says {code})" if isinstance(code, int) and 0 < code < 1000 else ""  # noqa: PLR2004  a status
        raise GitError(
            f"The Git LFS server does not have the content {oid[:12]}{why}.",
            mend="Push it with `git lfs push --all origin`, or set `lfs = false`.",
        )
    href, header = download.get("href"), download.get("header") or {}
    if not isinstance(href, str) or not 0 < len(href) <= _LONGEST_URL:
        raise _odd(f"it has no URL for {oid[:12]}")
    if not isinstance(header, dict) or len(header) > _HEADERS:
        raise _odd(f"it has no usable headers for {oid[:12]}")
    expires = "expires_at" in download or "expires_in" in download
    return Source(href, dict(_usable(header, oid)), expires)


def _usable(header: Mapping[str, object], oid: str) -> Iterator[tuple[str, str]]:
    for name, value in header.items():
        if not _NAME.fullmatch(name) or not isinstance(value, str) or not _VALUE.fullmatch(value):
            raise _odd(f"it has a header for {oid[:12]} that cannot be sent")
        if not _OURS.fullmatch(name):
            yield name, value


def _odd(why: str) -> GitError:
    return GitError(f"The Git LFS server gave no usable answer: {why}.", mend="Ask whoever runs it.")
