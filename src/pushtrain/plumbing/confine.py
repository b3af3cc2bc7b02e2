"""What a child does to itself before it becomes a command: the fields of `ports.Confinement`, applied.

The shim uses it, which has neither pydantic nor pathlib: only the standard library's cheap half is imported,
and what comes in is the JSON form. For everybody else it is a program, `python -I -S confine.py JSON WORDS…`
(`plumbing/inside.py`), because a process with threads must not do all this between fork and exec.
"""

import os
import sys

TYPE_CHECKING = False  # typing's own costs 10 ms
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any


def apply(wanted: "Mapping[str, Any]", *, lock: int, status: int) -> None:
    """Confine this process and everything that it becomes or starts.

    Args:
        wanted: A `Confinement` as JSON.
        lock: The attempt's lock, for the prefix.
        status: Where the prefix tells that it got inside.

    Raises:
        OSError: A part of it cannot be done; the command must not be started then.
    """
    for given, number in ((lock, wanted["lock"]), (status, wanted["status"])):
        if number is not None:
            os.dup2(given, number)
    for number, path in wanted["opened"].items():
        found = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        os.dup2(found, int(number))


def main() -> None:
    """Confine ourselves and become the command; there is no lock, and nobody asks how it goes inside."""
    import json

    nothing = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    try:
        apply(json.loads(sys.argv[1]), lock=nothing, status=nothing)
        os.execvp(sys.argv[2], sys.argv[2:])  # noqa: S606  no shell is the point
    except OSError as error:
        sys.stderr.write(f"pushtrain: the sandbox could not be made: {error}\n")
        sys.exit(126)


if __name__ == "__main__":
    main()
