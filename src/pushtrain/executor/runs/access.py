"""What jobs of this executor reach over the network: the owner's rule, and what the machine can enforce."""

from dataclasses import dataclass

from pushtrain.core.isolation import JobNetwork
from pushtrain.core.network import allows, settle
from pushtrain.plumbing.isolation.uplink import Uplinks


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

    def close(self) -> None:
        """Let go of the uplink that is ready."""
        if self.uplinks is not None:
            self.uplinks.close()
