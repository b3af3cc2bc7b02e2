"""Let work wait for everybody else's: the lowest priority at the processor, the idle class at the disk.

For programs; for threads of ours at the disk alone: one that is rarely given the processor would hold up all
others of its process whenever it has the interpreter's lock.
"""

import contextlib
import os
import threading
from typing import Final

_IOPRIO_SET: Final = {"x86_64": 251, "aarch64": 30}
_PROCESS: Final = 1
_IDLE: Final = 3 << 13
_LAST: Final = 19


def lower(pid: int) -> None:
    """Put a program, and what it will start, behind everybody else; without a word where it has ended."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.setpriority(os.PRIO_PROCESS, pid, _LAST)
    _idle_at_disk(pid)


def lower_disk() -> None:
    """Put this thread behind everybody else at the disk; it stays there."""
    _idle_at_disk(threading.get_native_id())


def _idle_at_disk(pid: int) -> None:
    number = _IOPRIO_SET.get(os.uname().machine)
    if number is not None:
        import ctypes  # lazy: every verb loads this module, and few lower anything

        ctypes.CDLL(None, use_errno=True).syscall(number, _PROCESS, pid, _IDLE)
