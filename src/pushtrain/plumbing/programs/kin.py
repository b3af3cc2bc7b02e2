"""Which processes belong to our runs: below their shims, or marked as one of their attempts.

A job may fork as it likes, its shim is the subreaper above all of it, also where it has process numbers of
its own. What a container's engine started is not below the shim, but carries the attempt's mark. A handful of
pids is asked about, once a second, so their parents are walked up rather than the whole table read; what is
known of a process is kept as long as it lives.
"""

import os
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Final

from pushtrain.plumbing.programs.proc import ATTEMPT_MARK, stat

_INIT_NAMESPACE: Final = "pid:[4026531836]"
"""The machine's own process numbers; the kernel's constant."""
_DEPTH: Final = 64


def numbers_are_the_machines() -> bool:
    """Whether the pids that we see are the machine's: the driver tells those, also to a container."""
    try:
        return os.readlink("/proc/self/ns/pid") == _INIT_NAMESPACE  # noqa: PTH115  it names no file
    except OSError:
        return True


class Kin:
    """What is known of processes."""

    def __init__(self) -> None:
        self._ours: dict[tuple[int, int], bool] = {}
        self._signs: tuple[frozenset[int], frozenset[bytes]] = (frozenset(), frozenset())

    def sort(
        self, pids: Iterable[int], roots: Collection[int], marks: Collection[str] = ()
    ) -> tuple[set[int], set[int]]:
        """Those that are ours, and those that are gone.

        Args:
            pids: Whom to look at.
            roots: Our shims.
            marks: Our attempts'; those of another executor are strangers.
        """
        signs = (frozenset(roots), frozenset(_variable(mark) for mark in marks if mark))
        if signs != self._signs:  # a stranger may be the child of a shim that was just found again
            self._signs = signs
            self._ours = {who: ours for who, ours in self._ours.items() if ours}
        kept: dict[tuple[int, int], bool] = {}
        ours, dead = set(), set()
        for pid in pids:
            found = stat(pid)
            if found is None or found.state in "ZX":
                dead.add(pid)
                continue
            who = (pid, found.start)
            known = self._ours.get(who)
            if known is None:
                known = self._is_ours(pid, found.parent)
            if known is not None:
                kept[who] = known
            if known:
                ours.add(pid)
        self._ours = kept
        return ours, dead

    def _is_ours(self, pid: int, parent: int) -> bool | None:
        """Whether a process is; None: it has no environment yet, so it is a stranger for now."""
        at = parent
        for _ in range(_DEPTH):
            if at in self._signs[0]:
                return True
            above = stat(at) if at > 1 else None
            if above is None:
                break
            at = above.parent
        try:
            variables = Path(f"/proc/{pid}/environ").read_bytes()
        except OSError:
            return False
        if not variables:
            return None
        return not self._signs[1].isdisjoint(variables.split(b"\0"))


def _variable(mark: str) -> bytes:
    return f"{ATTEMPT_MARK}={mark}".encode()
