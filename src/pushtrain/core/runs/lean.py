"""What leaves a disk that is too full: least recently used first, never what must stay, never more than need.

Everything that pushtrain keeps is a piece of some kind with a size, the time of its last use, and, where it
must stay, the reason why. Whoever looks at the disk says the reasons; here is decided what goes, in which
order. What is spent always goes, whether there is need or not.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

SHARE: Final = 0.5
"""The share of the file system that all pieces may take together where the owner names no size."""


class Kind(StrEnum):
    """What a piece is; of two that were used at the same time the one that is cheaper to have again goes."""

    LEFTOVER = "leftovers"
    TREE = "checkouts"
    UNFINISHED = "unfinished downloads"
    TOOLS = "packages"
    BUILDS = "builds"
    LFS = "LFS files"
    MIRROR = "mirrors"
    ENVIRONMENT = "environments"
    DATA = "data"
    CACHES = "caches"
    RUN = "runs"
    ASIDE = "older stores"
    SHARED = "shared files"
    STORE = "store"


_ORDER: Final = {kind: number for number, kind in enumerate(Kind)}


@dataclass(frozen=True, slots=True)
class Piece:
    """Something that lies on the disk and goes or stays as a whole."""

    kind: Kind
    name: str
    """Unique among its kind."""
    size: int
    """Bytes that come free when it goes."""
    used: float
    """When it was last of use, seconds since the epoch."""
    stays: str = ""
    """Why it must stay, for people; empty: it may go."""
    files: int = 0
    spent: bool = False
    """Whether it goes in any case: it was left behind, or has had its time."""


@dataclass(frozen=True, slots=True)
class Disk:
    """How full it is, and how full it may be; all in bytes."""

    total: int
    """Of all pieces."""
    free: int
    """Of the file system."""
    budget: int
    """What all pieces may take."""
    floor: int
    """What must stay free on the file system, whoever else fills it."""

    @property
    def excess(self) -> int:
        """What has to go."""
        return max(0, self.total - self.budget, self.floor - self.free)


def budget_of(setting: int, size: int) -> int:
    """The budget in bytes: the owner's, or a share of a file system of this size."""
    return setting or int(size * SHARE)


def choose(pieces: Iterable[Piece], excess: int) -> list[Piece]:
    """What goes, in the order in which it goes; where that is not enough, all that may."""
    going: list[Piece] = []
    waiting: list[Piece] = []
    for piece in pieces:
        if not piece.stays:
            (going if piece.spent else waiting).append(piece)
    going.sort(key=lambda piece: (piece.kind, piece.name))
    freed = sum(piece.size for piece in going)
    for piece in sorted(waiting, key=lambda one: (one.used, _ORDER[one.kind], -one.size, one.name)):
        if freed >= excess:
            break
        if piece.size:
            going.append(piece)
            freed += piece.size
    return going


def beyond_help(pieces: Iterable[Piece], disk: Disk) -> int:
    """Bytes of the excess that stay although everything goes that may."""
    can = sum(piece.size for piece in pieces if not piece.stays)
    return max(0, disk.excess - can)
