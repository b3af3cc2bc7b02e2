"""What a job may reach over the network: the owner's rule, the job's wish, and what the machine can enforce.

A job may ask for less than the owner allows, never for more. What cannot be enforced is refused, not ignored.
"""

from collections.abc import Collection
from typing import Final

from pushtrain.core.errors import Forbidden
from pushtrain.core.text.addresses import METADATA, NOT_PUBLIC
from pushtrain.core.values.isolation import Isolation, JobNetwork

PRIVATE: Final = (
    *(str(network) for network, _ in NOT_PUBLIC if network.version == 4),  # noqa: PLR2004  IPv4
    *(f"{address}/32" for address in sorted(METADATA, key=str) if address.version == 4),  # noqa: PLR2004  IPv4
)
"""The IPv4 networks that are not the public internet, whatever a machine's routes say."""

RULE: Final = "rules.network"
_MOST_FIRST: Final = (JobNetwork.FULL, JobNetwork.INTERNET, JobNetwork.FETCH_ONLY, JobNetwork.NONE)


def allows(rule: JobNetwork, wish: JobNetwork) -> bool:
    """Whether a wish is no more than what is allowed."""
    return _MOST_FIRST.index(wish) >= _MOST_FIRST.index(rule)


def enforceable(level: Isolation, *, uplinks: bool) -> frozenset[JobNetwork]:
    """What a level can hold a job to.

    Args:
        level: The level of isolation.
        uplinks: Whether this machine can make uplinks (`plumbing/isolation/uplink.py`).
    """
    if level is Isolation.SANDBOX:
        public = {JobNetwork.INTERNET, JobNetwork.FETCH_ONLY} if uplinks else set()
        return frozenset({JobNetwork.FULL, JobNetwork.NONE} | public)
    if level is Isolation.CONTAINER:
        return frozenset({JobNetwork.FULL, JobNetwork.NONE})  # a bridge reaches the owner's network
    return frozenset({JobNetwork.FULL})


def unfit(told: str, wish: JobNetwork | None) -> str:
    """Why an executor cannot run a job, for its network; empty when it can, or when only it knows.

    Args:
        told: What its card says.
        wish: What the job asks for.
    """
    if not told and wish is not JobNetwork.NONE:
        return "cannot hold jobs to the network that its owner allows them"
    if wish is not None and told in set(JobNetwork) and not allows(JobNetwork(told), wish):
        return f"lets jobs reach `{told}` at most; the job asks for `{wish}`"
    return ""


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
        why = f"the job asks for `{wish}`, and `{rule}` is allowed at most"
        raise Forbidden(
            f"Refused by the owner's rule `{RULE}`: {why}.",
            mend="Ask for less with `network` in pushtrain.toml, or ask the executor's owner.",
        )
    wanted = rule if wish is None else wish
    if wanted not in can:
        mend = "`pushtrain doctor` tells its owner why."
        if JobNetwork.NONE in can:
            mend += ' A job with `network = "none"` can run meanwhile.'
        why = f"the job may reach `{wanted}`, and this executor cannot hold it to that"
        raise Forbidden(f"Refused by the owner's rule `{RULE}`: {why}.", mend=mend)
    return wanted
