"""Keep a state folder lean: what served its purpose goes, and under a budget what was used least.

`collect` looks at the disk and takes away what `core.runs.lean` chooses; `tend` is for once a day; `apart`
does both in a process of its own, behind everybody else: to look at a million files takes seconds, in which
nobody should wait. All may be cut short at any line and called again, by several processes at once. What was
promised, what a run needs and what nobody else has is never taken.
"""

import fcntl
import json
import logging
import os
import shutil
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pushtrain.core.errors import GitError, PushtrainError, StorageError
from pushtrain.core.runs.lean import Disk, Piece, beyond_help, budget_of, choose
from pushtrain.core.settings import ExecutorSettings
from pushtrain.plumbing.data.supply import forget_notes
from pushtrain.plumbing.disk import shortcut
from pushtrain.plumbing.disk.state import StateFolder
from pushtrain.plumbing.git.repack import collect_mirror
from pushtrain.plumbing.housekeeping.holdings import Holdings, Needs
from pushtrain.plumbing.programs import priority, process
from pushtrain.ports import Stop

_log = logging.getLogger(__name__)

DAY: Final = 86_400.0
_ANSWER: Final = 65536
_ROUNDS: Final = 4
"""Files that several pieces share come free with the last of them: one look does not always do."""


@dataclass(frozen=True, slots=True)
class Survey:
    """What lies in a state folder, and how full its disk is."""

    pieces: tuple[Piece, ...]
    disk: Disk

    @property
    def stuck(self) -> int:
        """Bytes over the budget, or missing of the free floor, that nothing collectable makes good."""
        return beyond_help(self.pieces, self.disk)


class Upkeep:
    """One state folder's. Threads may call it at once; they take turns.

    Args:
        holdings: What lies there.
        budget: Bytes that it may take; 0: a share of the file system.
        floor: Bytes that must stay free.
        keep_runs: Seconds after its end in which the store has all details of a run.
        usage: Size, use and free bytes of a folder's file system.
    """

    def __init__(
        self,
        holdings: Holdings,
        *,
        budget: int,
        floor: int,
        keep_runs: float,
        usage: Callable[[Path], tuple[int, int, int]] = shutil.disk_usage,
    ) -> None:
        self.holdings = holdings
        self.floor = floor
        self._budget = budget
        self._keep_runs = keep_runs
        self._usage = usage
        self._turn = threading.Lock()
        self._told = 0

    @property
    def low(self) -> bool:
        """Whether less of the disk is free than must stay free."""
        return self._usage(self.holdings.state.root)[2] < self.floor

    def look(self, budget: int | None = None) -> Survey:
        """Weigh everything; takes some microseconds a file."""
        pieces = tuple(self.holdings.pieces())
        size, _, free = self._usage(self.holdings.state.root)
        total = sum(piece.size for piece in pieces)
        allowed = budget_of(self._budget, size) if budget is None else budget
        return Survey(pieces, Disk(total, free, allowed, self.floor))

    def collect(self, budget: int | None = None) -> list[Piece]:
        """Take away what has to go; what went.

        Args:
            budget: Bytes that may stay; None: as the owner's settings say.

        Raises:
            StorageError: The disk or the store cannot be read.
        """
        gone: list[Piece] = []
        with self._alone():
            self.holdings.finish()
            for _ in range(_ROUNDS):
                found = self.look(budget)
                removed = [piece for piece in choose(found.pieces, found.disk.excess) if self._remove(piece)]
                gone += removed
                if not removed or not found.disk.excess:
                    break
        for piece in gone:
            if not piece.spent:
                _log.info("collected: %s %s, %d bytes", piece.kind, piece.name, piece.size)
        if budget is None:
            self._tell(found.stuck)
        return gone

    def forget(self) -> None:
        """Let the store go of what it need not know any more; for the one process that writes it.

        Raises:
            StorageError: It cannot be written.
        """
        now, keep = self.holdings.clock(), max(self._keep_runs, self.holdings.keep)
        self.holdings.store.forget(now - keep, now=now)

    def tend(self, stop: Stop) -> None:
        """Remove what was superseded, join what has fallen into pieces.

        Args:
            stop: Called now and then; what it raises ends the work.

        Raises:
            StorageError: The disk or the store cannot be read.
        """
        holdings = self.holdings
        with self._alone():
            holdings.finish()
            holdings.superseded()
            shortcut.sweep()
            forget_notes(holdings.data)
            needs = Needs.of(holdings.store.unended_runs())
        for mirror in sorted(holdings.state.repositories.glob("*.git")):
            stop()
            try:
                collect_mirror(mirror, needs.commits, stop=stop)
            except GitError as error:
                _log.warning("the mirror %s could not be collected: %s", mirror.name, error)

    def _remove(self, piece: Piece) -> bool:
        try:
            return self.holdings.remove(piece)
        except (PushtrainError, OSError) as error:
            _log.warning("%s %s could not be removed: %s", piece.kind, piece.name, error)
            return False

    def _tell(self, stuck: int) -> None:
        if stuck and not self._told:
            _log.warning("the disk is %d bytes too full, by what cannot be collected", stuck)
        self._told = stuck

    @contextmanager
    def _alone(self) -> Iterator[None]:
        with self._turn:
            descriptor = os.open(self.holdings.state.upkeep, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX)
                yield
            finally:
                os.close(descriptor)


def upkeep_of(holdings: Holdings, settings: ExecutorSettings) -> Upkeep:
    """The upkeep that the owner's settings ask for."""
    return Upkeep(
        holdings,
        budget=settings.disk_budget,
        floor=settings.disk_floor,
        keep_runs=settings.keep_runs_days * DAY,
    )


def apart(state: StateFolder, stop: Stop) -> None:
    """Tend and collect in a process of its own, behind everybody else at the processor and the disk.

    Args:
        state: The folder; its settings count as they are now.
        stop: Called now and then; what it raises ends the process.

    Raises:
        StorageError: It did not come to its end.
    """
    argv = (
        sys.executable,
        "-m",
        "pushtrain",
        "executor",
        "disk",
        "--collect",
        "--json",
        "--state",
        state.root,
    )
    try:
        done = process.run(argv, stop=stop, lowly=True, limit=_ANSWER, timeout=DAY)
    except (OSError, TimeoutError) as error:
        raise StorageError(f"The disk could not be cleared: {error}.") from error
    if done.code:
        raise StorageError(f"The disk could not be cleared: {_said(done.complaint)}")


def _said(complaint: str) -> str:
    """What a program of ours says went wrong, as a sentence."""
    try:
        error = json.loads(complaint)["error"]
        return f"{error['message']} {error['mend']}".strip()
    except (ValueError, LookupError, TypeError):
        return complaint[-500:]


def in_the_background(work: Callable[[], object]) -> None:
    """Do this in a thread of its own that goes last at the disk; raises what it raises."""
    raised: list[BaseException] = []

    def run() -> None:
        priority.lower_disk()
        try:
            work()
        except BaseException as error:  # noqa: BLE001  it goes on in whoever waits
            raised.append(error)

    thread = threading.Thread(target=run, name="pushtrain-upkeep", daemon=True)
    thread.start()
    thread.join()
    if raised:
        raise raised[0]
