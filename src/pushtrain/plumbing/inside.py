"""Run programs inside an enclosure from anywhere but the shim: builds, questions to torch, canaries."""

import sys
from collections.abc import Sequence
from pathlib import Path

from pushtrain.plumbing import confine
from pushtrain.plumbing.uplink import Uplink
from pushtrain.ports import Enclosure


def command(
    enclosure: Enclosure, argv: Sequence[str | Path], uplink: Uplink | None = None
) -> tuple[str, ...]:
    """The words that run a program inside an enclosure; the variables in `enclosure.env` are the caller's.

    Kill the tree to end it: a sandbox ends with its outermost process.

    Args:
        enclosure: What is put around it.
        argv: The program and its arguments.
        uplink: The attempt's, for an enclosure that needs one; its `descriptors` must be inherited.
    """
    words = tuple(map(str, argv))
    confinement = enclosure.confinement
    if not enclosure.prefix and confinement == type(confinement)():
        return words
    wanted = confinement.model_dump_json()
    given = ",".join(map(str, uplink.descriptors)) if uplink else ""
    return (sys.executable, "-I", "-S", str(confine.__file__), wanted, given, *enclosure.prefix, *words)
