"""Wait for a lock that others may hold for as long as a network takes, unless somebody wants to stop."""

import fcntl
import time

from pushtrain.ports import Stop


def wait_for_lock(descriptor: int, stop: Stop | None) -> bool:
    """Take an exclusive flock; while it is held elsewhere, `stop` is asked ten times a second.

    Returns:
        Whether it was held elsewhere.
    """
    waited = False
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            waited = True
            if stop is None:
                fcntl.flock(descriptor, fcntl.LOCK_EX)
                return waited
            stop()
            time.sleep(0.05)  # a lock cannot be waited for with a way to stop
        else:
            return waited
