"""What one look of `pushtrain doctor` found."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Finding:
    """What one look found."""

    what: str
    """What was looked at, in a word or two."""
    verdict: Literal["ok", "note", "wrong"]
    """`note`: worth knowing, nothing need be done."""
    text: str
    mend: str = ""
    """What to do about it, when something is wrong."""
    matrix: Mapping[str, Mapping[str, str]] | None = None
    """What came of each act (rows) inside each level of isolation (columns): `denied`, `done`, `absent`, or
    `known` for what was done and is known not to be stopped."""
