"""Run programs inside an enclosure from anywhere but the shim: builds, questions to torch, canaries."""

import sys
from collections.abc import Sequence
from pathlib import Path

from pushtrain.plumbing import confine
from pushtrain.ports import Enclosure


def command(enclosure: Enclosure, argv: Sequence[str | Path]) -> tuple[str, ...]:
    """The words that run a program inside an enclosure; the variables in `enclosure.env` are the caller's.

    Kill the tree to end it: a sandbox ends with its outermost process.
    """
    words = tuple(map(str, argv))
    confinement = enclosure.confinement
    if not enclosure.prefix and confinement == type(confinement)():
        return words
    wanted = confinement.model_dump_json()
    return (sys.executable, "-I", "-S", str(confine.__file__), wanted, *enclosure.prefix, *words)
