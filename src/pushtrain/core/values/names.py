"""Names in a command that become refs, folders and URLs somewhere else: which forms they may have.

They are checked twice, with the same words: when a person's `pushtrain.toml` is read, and when a signed
command arrives, whoever made it. Pure.
"""

import re
import unicodedata
from typing import Final

_LONGEST_REF: Final = 1000
_LONGEST_BRANCH: Final = 200
_LONGEST_FOLDER: Final = 300
_REF_NAME: Final = r"(?!.*(\.\.|//|@\{|/\.|\.lock(/|$)))[^\x00-\x20\x7f~^:?*\[\\\ud800-\udfff]+(?<![/.])"
_REF: Final = re.compile(rf"refs/{_REF_NAME}")
BRANCH: Final = re.compile(rf"(?!-|/|\.|@$|refs/){_REF_NAME}")
REPOSITORY: Final = re.compile(r"[A-Za-z0-9._~:-]+(/[A-Za-z0-9._~-]+)+")
STORE: Final = re.compile(r"(s3|gs|az)://[A-Za-z0-9][A-Za-z0-9._-]{1,254}(/[!-\"$-.0->@-~]+)*/?")
VARIABLE: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
LONGEST_TEXT: Final = 100_000
"""Bytes of one argument or variable; Linux takes 128 KiB."""
UNSEEN: Final = frozenset({"Cc", "Cf", "Zl", "Zp", "Co", "Cn", "Cs"})
"""Unicode categories of what cannot be seen, or turns the writing round."""


def ref_problem(name: str) -> str:
    """Why this is not a full ref; empty: it is one."""
    return "" if len(name) <= _LONGEST_REF and _REF.fullmatch(name) else "is not a full ref name"


def branch_problem(name: str) -> str:
    """Why results cannot go to a branch of this name; empty: they can."""
    if len(name) > _LONGEST_BRANCH or not BRANCH.fullmatch(name) or unseen(name):
        return "is not a branch's name"
    return ""


def folder_problem(path: str) -> str:
    """Why results cannot lie in this folder of a branch; empty: they can. Empty and `.` are the root."""
    parts = path.split("/")
    if path in {"", "."}:
        return ""
    if len(path) > _LONGEST_FOLDER or unseen(path) or "\\" in path or ":" in path:
        return "is not a folder's name"
    if any(part in {"", ".."} for part in parts) or path.startswith(("/", "~")):
        return "is not a relative path"
    if any(part.startswith((".", "-")) or part.endswith((".", " ")) for part in parts):
        return "has a part that begins with a dot or a dash: hosts and Git give such folders a meaning"
    return "has Git's own name" if any(re.fullmatch(r"git~\d+", part.casefold()) for part in parts) else ""


def repository_problem(key: str) -> str:
    """Why this is not a repository's key; empty: it is one."""
    parts = key.split("/")
    fits = len(key) <= 400 and REPOSITORY.fullmatch(key) and not {".", ".."} & set(parts)  # noqa: PLR2004  the key's limit
    return "" if fits else "is not a repository's key"


def store_problem(url: str) -> str:
    """Why large files cannot go to this URL; empty: they can."""
    if not STORE.fullmatch(url) or {".", ".."} & set(url.split("/")):
        return "is no place for large files"
    return ""


def below_store(url: str, prefix: str) -> bool:
    """Whether a store's URL is this one or lies below it, whole names compared."""
    return f"{url.rstrip('/')}/".startswith(f"{prefix.rstrip('/')}/")


def variable_problem(name: str) -> str:
    """Why a job cannot set a variable of this name; empty: it can."""
    if not VARIABLE.fullmatch(name):
        return "is not a variable's name"
    ours = name == "PUSHTRAIN" or name.startswith("PUSHTRAIN_")
    return "is a name that pushtrain sets itself" if ours else ""


def argument_problem(text: str) -> str:
    """Why no program can be given this as one argument or as a variable's value; empty: one can."""
    if len(text.encode("utf-8", "surrogatepass")) > LONGEST_TEXT:
        return f"is longer than {LONGEST_TEXT} bytes; put it into a file of its own"
    return "holds a NUL character" if "\0" in text else ""


def unseen(text: str) -> bool:
    """Whether a text holds characters that cannot be seen."""
    return any(unicodedata.category(character) in UNSEEN for character in text)
