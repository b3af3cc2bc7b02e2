"""Which names a result may have: none that Git, a Git host or a browser could trip over."""

import re
import unicodedata
from typing import Final

LONGEST: Final = 700
"""Bytes of a path."""
_GIT_NAMES: Final = re.compile(r"\.git(?!ignore$|keep$).*|git~\d+|gi[0-9a-f]{4}~\d+|\.lfsconfig|\.mailmap")
"""What Git acts on, also by the short names of Windows; `.gitignore` and `.gitkeep` do nothing here."""
_HOST_NAMES: Final = re.compile(r"\.(forgejo|circleci|woodpecker.*|travis.*|drone.*|buildkite|azuredevops)")


def unfit(path: str) -> str:
    """Why a result cannot have this name; empty when it can."""
    try:
        size = len(path.encode())
    except UnicodeEncodeError:
        return "its name is not UTF-8"
    if size > LONGEST:
        return "its path is too long"
    for part in path.split("/"):
        if any(unicodedata.category(character) in {"Cc", "Cf", "Zl", "Zp", "Co", "Cn"} for character in part):
            return "its name has characters that cannot be shown"
        plain = part.casefold().partition(":")[0].rstrip(". ")
        if _GIT_NAMES.fullmatch(plain):
            return "its name is one of Git's own"
        if _HOST_NAMES.fullmatch(plain):
            return "its name means something to Git hosts"
        if part in {"", ".", ".."} or "\\" in part:
            return "its name is not safe everywhere"
    return ""
