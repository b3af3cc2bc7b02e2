"""Where the owner's own credentials may go: object stores and Hugging Face repositories, by their URL.

The executor's environment may hold keys that open more than a borrower should see. So a job's URL is
asked for without them, unless the owner lists where it lies: `s3://lab-data`, `s3://lab-data/public`,
`hf://datasets/lab`, `hf://lab/model`; `s3://` lists all of a kind. An entry covers whole parts of a path,
never the half of a name, and no URL with a dot segment in it.
"""

import re
from collections.abc import Iterable
from typing import Final
from urllib.parse import unquote

from pushtrain.core.text.forms import Wrong

STORES: Final = frozenset({"s3", "gs", "az"})
_KINDS: Final = STORES | {"hf"}
_PART: Final = re.compile(r"[A-Za-z0-9._=+@!,$ -]+")
_BUCKET: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,221}")


def check_entry(entry: str) -> str:
    """The entry without a slash at its end.

    Raises:
        Wrong: It is none.
    """
    scheme, mark, rest = entry.partition("://")
    parts = rest.rstrip("/").split("/") if rest else []
    if (
        not mark
        or scheme not in _KINDS
        or not all(_PART.fullmatch(p) and p not in {".", ".."} for p in parts)
    ):
        raise Wrong("is no place that credentials may go to", "Write `s3://lab-data` or `hf://datasets/lab`.")
    return entry.rstrip("/") if parts else f"{scheme}://"


def covers(entries: Iterable[str], url: str) -> bool:
    """Whether one of the entries covers this URL."""
    place = _place(url)
    return place is not None and any(place[: len(own)] == own for entry in entries if (own := _place(entry)))


def bucket(url: str) -> tuple[str, str]:
    """The bucket and the path in it of an object store's URL, the path not quoted any more.

    A bucket's name becomes a part of a host's name or of a path, so it is nothing but a name.

    Raises:
        ValueError: It names none, or could smuggle a host or another path.
    """
    scheme, _, rest = url.partition("://")
    name, _, path = rest.partition("/")
    if scheme not in STORES or not _BUCKET.fullmatch(name) or ".." in name:
        raise ValueError("names no bucket")
    if "?" in path or "#" in path or _place(url) is None:
        raise ValueError("has a query, an empty part or a dot segment in it")
    return name, unquote(path)


def _place(url: str) -> tuple[str, ...] | None:
    """The parts of a URL without a revision of Hugging Face; None: one of them could lead elsewhere."""
    scheme, _, rest = url.partition("://")
    parts = (
        [unquote(part) for part in re.split(r"[?#]", rest, maxsplit=1)[0].rstrip("/").split("/")]
        if rest
        else []
    )
    if any(part in {"", ".", ".."} or not part.isprintable() or set(part) & set("/\\") for part in parts):
        return None
    if scheme == "hf":
        name = 2 if parts[:1] in (["datasets"], ["spaces"]) else 1
        parts[name : name + 1] = [part.partition("@")[0] for part in parts[name : name + 1]]
    return (scheme, *parts)
