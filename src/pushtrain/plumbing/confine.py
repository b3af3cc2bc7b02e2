"""What a child does to itself before it becomes a command: the fields of `ports.Confinement`, applied.

Used by the shim, which has neither pydantic nor pathlib: only the standard library's cheap half is imported,
and what comes in is the JSON form.
"""

import os

TYPE_CHECKING = False  # typing's own costs 10 ms
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any


def apply(wanted: "Mapping[str, Any]", *, lock: int, status: int | None) -> None:
    """Confine this process and everything that it becomes or starts.

    Args:
        wanted: A `Confinement` as JSON.
        lock: The attempt's lock.
        status: The writing end of a pipe for what the prefix tells.

    Raises:
        OSError: A part of it cannot be done; the command must not be started then.
    """
    for given, number in ((lock, wanted["lock"]), (status, wanted["status"])):
        if number is not None and given is not None:
            os.dup2(given, number)
    for number, path in wanted["opened"].items():
        found = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        os.dup2(found, int(number))
