"""What jobs of this executor reach over the network: the owner's rule, and what the machine can enforce."""

from dataclasses import dataclass

from pushtrain.core.owner.network import allows, settle
from pushtrain.core.values.isolation import JobNetwork
from pushtrain.plumbing.isolation.uplink import Uplink, Uplinks


@dataclass(frozen=True, slots=True)
class Access:
    """The same for all jobs."""

    rule: JobNetwork
    can: frozenset[JobNetwork]
    """What the level of isolation can hold a job to on this machine."""
    uplinks: Uplinks | None = None
    """Where `internet` comes from; None: it cannot be had."""
    why: str = ""
    """Why the rule cannot be enforced; empty: it can."""
    mend: str = ""

    @property
    def told(self) -> str:
        """What the card says: the rule, or nothing where it cannot be enforced."""
        return self.rule if self.rule in self.can else ""

    @property
    def shown(self) -> str:
        """For people, when the executor starts."""
        if not self.why:
            return self.rule
        can = [one for one in JobNetwork if one in self.can and allows(self.rule, one)]
        left = f"Only jobs that ask for `{can[0]}` run." if can else "No job can run."
        return f"NOT ENFORCED: `{self.rule}` cannot be had here: {self.why}. {self.mend} {left}"

    def settle(self, wish: JobNetwork | None) -> JobNetwork:
        """What a job gets.

        Raises:
            Forbidden: The owner's rule forbids what it asks for, or cannot be enforced.
        """
        return settle(self.rule, wish, self.can)

    def line(self) -> "Line":
        """One attempt's way to the internet, not taken yet."""
        return Line(self.uplinks)

    def close(self) -> None:
        """Let go of the uplink that is ready."""
        if self.uplinks is not None:
            self.uplinks.close()


class Line:
    """One attempt's uplink, taken when it is first needed; the builds and the commands share it.

    Args:
        uplinks: Where it comes from; None: it cannot be had.
    """

    def __init__(self, uplinks: Uplinks | None) -> None:
        self._uplinks = uplinks
        self.uplink: Uplink | None = None
        """None: it was not needed so far, or cannot be had."""

    def take(self) -> Uplink | None:
        """The uplink, from now on held; None where it cannot be had."""
        if self.uplink is None and self._uplinks is not None:
            self.uplink = self._uplinks.take()
        return self.uplink

    def received(self) -> int | None:
        """Bytes that came in through it; None: there is none."""
        return None if self.uplink is None else self.uplink.received()

    def close(self) -> None:
        """Let go of it; it goes on where somebody else holds it."""
        if self.uplink is not None:
            self.uplink.close()
            self.uplink = None
