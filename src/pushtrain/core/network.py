"""What a job may reach over the network: the owner's rule, the job's wish, and what the machine can enforce.

A job may ask for less than the owner allows, never for more. What cannot be enforced is refused, not ignored.
"""

from collections.abc import Collection
from typing import Final

from pushtrain.core.addresses import NOT_PUBLIC
from pushtrain.core.errors import Forbidden
from pushtrain.core.model import Isolation, JobNetwork

PRIVATE: Final = tuple(str(network) for network, _ in NOT_PUBLIC if network.version == 4)  # noqa: PLR2004  IPv4
"""What is not the public internet, whatever a machine's routes say."""

_MOST_FIRST: Final = (JobNetwork.FULL, JobNetwork.INTERNET, JobNetwork.FETCH_ONLY, JobNetwork.NONE)


def allows(rule: JobNetwork, wish: JobNetwork) -> bool:
    """Whether a wish is no more than what is allowed."""
    return _MOST_FIRST.index(wish) >= _MOST_FIRST.index(rule)


def enforceable(level: Isolation, *, uplinks: bool) -> frozenset[JobNetwork]:
    """What a level can hold a job to.

    Args:
        level: The level of isolation.
        uplinks: Whether this machine can make uplinks (`plumbing/uplink.py`).
    """
    if level is Isolation.SANDBOX:
        public = {JobNetwork.INTERNET, JobNetwork.FETCH_ONLY} if uplinks else set()
        return frozenset({JobNetwork.FULL, JobNetwork.NONE} | public)
    if level is Isolation.CONTAINER:
        return frozenset({JobNetwork.FULL, JobNetwork.NONE})  # a bridge reaches the owner's network
    return frozenset({JobNetwork.FULL})


def offered(rule: JobNetwork, can: Collection[JobNetwork]) -> JobNetwork | None:
    """The most that a job gets here: the rule, or what is less and can be enforced; None: no job may run."""
    return next((one for one in _MOST_FIRST if allows(rule, one) and one in can), None)


def settle(rule: JobNetwork, wish: JobNetwork | None, can: Collection[JobNetwork]) -> JobNetwork:
    """What a job gets.

    Args:
        rule: The owner's `rules.network`.
        wish: The job's `network`; None: whatever is allowed.
        can: What the machine can enforce.

    Raises:
        Forbidden: The job asks for more than the owner allows, or this machine cannot enforce it.
    """
    if wish is not None and not allows(rule, wish):
        raise Forbidden(
            f"The job asks for the network {wish.value!r}; the rule `network` allows {rule.value!r} at most.",
            mend="Ask for less in pushtrain.toml, or ask the executor's owner.",
        )
    wanted = rule if wish is None else wish
    if wanted not in can:
        raise Forbidden(
            f"This executor cannot hold a job to {wanted.value!r}, which the rule `network` allows it.",
            mend="`pushtrain doctor` tells its owner why."
            + (' A job with `network = "none"` can run meanwhile.' if JobNetwork.NONE in can else ""),
        )
    return wanted
