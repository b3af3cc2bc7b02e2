"""Run programs inside an enclosure from anywhere but the shim: builds, questions to torch, canaries."""

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from pushtrain.plumbing.isolation import confine
from pushtrain.plumbing.isolation.uplink import Uplink
from pushtrain.ports import Enclosure


def command(
    enclosure: Enclosure,
    argv: Sequence[str | Path],
    env: Mapping[str, str],
    uplink: Uplink | None = None,
) -> tuple[tuple[str, ...], dict[str, str]]:
    """The words that run a program inside an enclosure, and the variables to start them with.

    Those hold the program's own in one of ours: what a repository sets must not steer what runs outside. Kill
    the tree to end it: a sandbox ends with its outermost process.

    Args:
        enclosure: What is put around it.
        argv: The program and its arguments.
        env: All its variables.
        uplink: The attempt's, for an enclosure that needs one; its `descriptors` must be inherited.
    """
    words = tuple(map(str, argv))
    if enclosure == Enclosure():
        return words, dict(env)
    given = ",".join(map(str, uplink.descriptors)) if uplink else ""
    started = (sys.executable, "-I", "-S", str(confine.__file__), enclosure.model_dump_json(), given, *words)
    return started, {confine.GIVEN: json.dumps(dict(env))}
