"""Ask a small program of this machine something: quickly, without waking anything, and never for long."""

import logging
import os
import shutil
from collections.abc import Mapping
from typing import Final

from pushtrain.plumbing.programs import process

_log = logging.getLogger(__name__)

PATIENCE: Final = 1.0
"""Seconds; all of these programs answer in hundredths."""
_LIMIT: Final = 256 * 1024


def said(*argv: str, env: Mapping[str, str] | None = None) -> str | None:
    """What a program printed; None where it is not there, failed, or took too long.

    Args:
        argv: The program and its arguments.
        env: Variables beside ours.
    """
    found = answer(*argv, env=env)
    return found[1] if found is not None and found[0] == 0 else None


def answer(*argv: str, env: Mapping[str, str] | None = None) -> tuple[int, str, str] | None:
    """Exit code, output and complaint of a program; None where it is not there or took too long."""
    if shutil.which(argv[0]) is None:
        return None
    try:
        done = process.run(
            argv,
            env={**os.environ, "LC_ALL": "C", **(env or {})},
            timeout=PATIENCE,
            limit=_LIMIT,
            patience=0.1,
        )
    except (OSError, TimeoutError) as error:
        _log.debug("%s does not answer: %s", argv[0], error)
        return None
    return done.code, done.text, done.complaint
