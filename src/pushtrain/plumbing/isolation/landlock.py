"""Landlock: what a process asks the kernel to refuse it from then on; the values that a `Confinement` holds.

The rules follow the kernel's UAPI header `linux/landlock.h`; the system calls themselves are in
`plumbing/isolation/confine.py`. Each version (ABI) of Landlock knows more rights than the one before, and
only what it knows may be asked for.
"""

import ctypes
import os
import stat
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Final

_CREATE_RULESET: Final = 444
_VERSION: Final = 1

EXECUTE: Final = 1 << 0
_WRITE_FILE: Final = 1 << 1
_READ_FILE: Final = 1 << 2
_READ_DIR: Final = 1 << 3
_MAKE_CHAR: Final = 1 << 6
_MAKE_BLOCK: Final = 1 << 11
_TRUNCATE: Final = 1 << 14
_IOCTL_DEV: Final = 1 << 15

_KNOWN: Final = {1: 13, 2: 14, 3: 15, 4: 15, 5: 16}
"""How many rights on files each ABI knows; later ones know no more."""
_ON_FILES: Final = EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE | _IOCTL_DEV
"""Rights that a rule about a single file may name."""

SCOPED: Final = 6
"""The first ABI that keeps abstract sockets and signals within the confined processes."""
ABSTRACT_SOCKETS: Final = 1 << 0
SIGNALS: Final = 1 << 1

READ: Final = EXECUTE | _READ_FILE | _READ_DIR
_EVERYTHING: Final = (1 << 16) - 1
WRITE: Final = _EVERYTHING & ~_MAKE_CHAR & ~_MAKE_BLOCK & ~_IOCTL_DEV
DEVICE: Final = _READ_FILE | _WRITE_FILE | _TRUNCATE | _IOCTL_DEV


@cache
def abi() -> int:
    """Which version this kernel has; 0: none, or it is switched off."""
    libc = ctypes.CDLL(None, use_errno=True)
    return max(0, int(libc.syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), _VERSION)))


def handled(version: int) -> int:
    """Every right on files that this version can refuse."""
    return int((1 << _KNOWN[min(version, max(_KNOWN))]) - 1)


def rules(wanted: Iterable[tuple[Path, int]], version: int) -> tuple[tuple[str, int], ...]:
    """Paths and rights as the kernel takes them; what is not there is left out.

    Args:
        wanted: What may be done below each path.
        version: The kernel's ABI.
    """
    found: dict[str, int] = {}
    for path, rights in wanted:
        try:
            mode = os.stat(path).st_mode  # noqa: PTH116  a link counts as what it leads to
        except OSError:
            continue
        allowed = rights & handled(version) & (_EVERYTHING if stat.S_ISDIR(mode) else _ON_FILES)
        found[str(path)] = found.get(str(path), 0) | allowed
    return tuple(found.items())
