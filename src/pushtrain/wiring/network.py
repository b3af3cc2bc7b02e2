"""What jobs may reach on this machine: the owner's rule, as far as the level of isolation can enforce it."""

from dataclasses import dataclass
from typing import Final

from pushtrain.core.owner.network import enforceable
from pushtrain.core.owner.rules import Rules
from pushtrain.core.values.isolation import Isolation
from pushtrain.executor.runs.access import Access
from pushtrain.plumbing.disk.state import StateFolder
from pushtrain.plumbing.isolation.uplink import Uplinks

FULL: Final = (
    'Give jobs whatever this machine reaches, with `network = "full"` in `[rules]` (docs/network.md).'
)


@dataclass(frozen=True, slots=True)
class WayOut:
    """Whether this machine can make uplinks."""

    uplinks: Uplinks | None
    """None: it cannot."""
    why: str = ""
    """Why not, as the end of a sentence."""
    mend: str = ""

    def close(self) -> None:
        """Let go of the uplink that is ready."""
        if self.uplinks is not None:
            self.uplinks.close()


def way_out(state: StateFolder) -> WayOut:
    """Make an uplink, to see whether it can be; it is ready for the first who wants one.

    Raises:
        StorageError: The state folder cannot be written.
    """
    state.isolation.mkdir(parents=True, exist_ok=True)
    uplinks = Uplinks(state.isolation)
    why, mend = uplinks.missing()
    return WayOut(None, why.rstrip("."), mend) if why else WayOut(uplinks)


def granted(rules: Rules, level: Isolation, way: WayOut) -> Access:
    """What jobs get at a level."""
    can = enforceable(level, uplinks=way.uplinks is not None)
    if rules.network in can:
        return Access(rules.network, can, way.uplinks)
    return Access(rules.network, can, way.uplinks, way.why, f"{way.mend} Or: {FULL}")
