"""How well a job is kept apart: from the machine that it runs on, and from the network.

The words alone; what they mean for a job stands in docs/isolation.md and docs/network.md.
"""

from enum import StrEnum


class Isolation(StrEnum):
    """How well a job is kept away from the machine that it runs on, strongest first (docs/isolation.md)."""

    CONTAINER = "container"
    SANDBOX = "sandbox"
    CONFINED = "confined"
    USER = "user"
    NONE = "none"

    def reaches(self, least: "Isolation") -> bool:
        """Whether this level protects at least as well as another."""
        ladder = list(Isolation)
        return ladder.index(self) <= ladder.index(least)

    @classmethod
    def told(cls, word: str) -> "Isolation":
        """The level that a card names; a word that is not known here promises nothing."""
        return cls(word) if word in set(cls) else cls.NONE


class JobNetwork(StrEnum):
    """What a job may reach over the network (docs/network.md)."""

    INTERNET = "internet"
    """Public addresses only: neither the owner's network nor this machine."""
    FULL = "full"
    """Whatever the machine reaches."""
    FETCH_ONLY = "fetch-only"
    """As `internet` while the environment is built and `setup` runs; nothing while the command runs."""
    NONE = "none"
    """Nothing, not even while the environment is built."""
