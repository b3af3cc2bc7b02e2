"""No isolation: a job is an ordinary child of the executor and may do what its user may."""

from pushtrain.adapters.sandboxes import Ground, demand_network
from pushtrain.core.values.isolation import Isolation, JobNetwork
from pushtrain.plumbing.disk import shortcut
from pushtrain.ports import Cage, Enclosure


class Unconfined:
    """The lowest rung: for code that is the owner's own."""

    level = Isolation.NONE

    def __init__(self, ground: Ground) -> None:
        """Nothing is needed."""

    def missing(self) -> tuple[str, str]:
        """Every machine can."""
        return "", ""

    def explain(self, complaint: str) -> tuple[str, str]:
        """There is nothing to be explained."""
        return complaint, ""

    def enclose(self, cage: Cage) -> Enclosure:
        """The command as it is; only its folder for temporary files gets a name short enough for sockets.

        Raises:
            ConfigError: The cage restricts the network.
        """
        demand_network(self.level, cage, JobNetwork.FULL)
        return Enclosure(env={"TMPDIR": str(shortcut.to(cage.tmp))} if cage.tmp else {})
