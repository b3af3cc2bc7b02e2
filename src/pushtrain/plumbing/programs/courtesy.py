"""Standing back for the owner: the niceness of an executor, and of all that it starts.

All of it, threads included: one that stood back further than the others of its process would hold them up
whenever it has the interpreter's lock. The kernel's schedulers of disks follow the niceness. Sessions are
weighed against each other first, where the kernel does so ("autogroup"), so a program that gets a session of
its own takes its niceness along to that.
"""

import contextlib
import os
from typing import Final

_MOST: Final = 19


def stand_back(nice: int) -> None:
    """Give this process at least this niceness; to be called before it has a second thread."""
    with contextlib.suppress(OSError):
        now = os.getpriority(os.PRIO_PROCESS, 0)
        if nice > now:
            os.setpriority(os.PRIO_PROCESS, 0, min(nice, _MOST))


def session_stands_back(pid: int) -> None:
    """Give the session that a program of ours has just got our niceness."""
    with contextlib.suppress(OSError):
        if (nice := os.getpriority(os.PRIO_PROCESS, 0)) > 0:
            with open(f"/proc/{pid}/autogroup", "wb", buffering=0) as file:  # noqa: PTH123  one write, as it is
                file.write(b"%d" % nice)
