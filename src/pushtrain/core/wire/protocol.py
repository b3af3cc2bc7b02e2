"""Which version of the protocol is spoken here, and who is to be upgraded where it is another one. Pure.

An executor says its number in the answer to a challenge, which a caller has heard before it asks for anything
else. The number is read before the rest, since of another version's answer nothing else can be relied on.
docs/decisions/0030-versions-of-the-protocol.md tells when it grows.
"""

import json
from typing import Final

PROTOCOL: Final = 1
"""Grows with every change after which an older side misunderstands a newer one, or cannot read it."""


def misfit(body: bytes) -> tuple[str, str] | None:
    """Why an executor that answers a challenge like this is not understood, and the mend; None: it is.

    Args:
        body: The answer, its signature verified. One that is no JSON object is left to whoever parses it.
    """
    try:
        said = json.loads(body)
    except (ValueError, RecursionError):
        return None
    if not isinstance(said, dict):
        return None
    number = said.get("protocol")
    theirs = number if type(number) is int else 0  # an answer without it is older than the number
    if theirs == PROTOCOL:
        return None
    late = "that machine" if theirs < PROTOCOL else "this machine"
    return (
        f"it speaks version {theirs} of the protocol, and this pushtrain version {PROTOCOL}",
        f"Upgrade pushtrain on {late}. Nothing was sent or taken back.",
    )
