"""How often a test tries what it tries: often enough with `make test`, many times more with `make chaos`.

What a test claims is the same at any depth. Chance is met anew in each run, so what many tries would find,
many runs do.
"""

import os
from typing import Final

DEEP: Final = bool(os.environ.get("PUSHTRAIN_TEST_DEEP"))


def tries(usual: int, deep: int) -> int:
    """How many times. A test that asks is marked `deep`, so that `make chaos` finds it."""
    return deep if DEEP else usual
