"""How many bytes were brought in today, and whether more may be: the count outlives the process.

Days are those of UTC. What is counted is written down ahead of its arrival, some at a time: after a crash the
count is at most `AHEAD` too high, never too low. One process at a time counts in one folder (it serves the
folder); within it any thread may.
"""

import contextlib
import json
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace as changed
from pathlib import Path
from typing import Final

from pushtrain.core.errors import PushtrainError
from pushtrain.plumbing.data.download import Ask, Opener, Stream
from pushtrain.plumbing.data.throttle import Throttle
from pushtrain.plumbing.disk.files import replace

log = logging.getLogger(__name__)

AHEAD: Final = 16 * 1024 * 1024
"""Bytes that are written down before they have come."""
_DAY: Final = 86_400


class Exhausted(PushtrainError):
    """No more may be brought in today.

    Args:
        limit: Bytes a day.
        until: When the next day begins.
        needed: Bytes that must come at once and are more than the limit; None: it would do on another day.
    """

    def __init__(self, limit: int, until: float, needed: int | None = None) -> None:
        super().__init__(f"{limit} bytes were brought in today, and no more may be.")
        self.limit = limit
        self.until = until
        self.needed = needed


class Quiet(PushtrainError):
    """Nothing may be brought in at this hour.

    Args:
        until: When it may again.
    """

    def __init__(self, until: float) -> None:
        super().__init__("Nothing may be brought in at this hour.")
        self.until = until


class Ledger:
    """The day's count.

    Args:
        path: Where it is kept.
        limit: Bytes a day; 0: as many as come, and they are counted all the same.
        throttle: Where each piece waits for its turn.
        quiet: When the hours end in which nothing may be brought in; None: these are none.
        clock: Seconds since the epoch.
    """

    def __init__(
        self,
        path: Path,
        limit: int,
        *,
        throttle: Throttle | None = None,
        quiet: Callable[[], float | None] = lambda: None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.limit = limit
        self._throttle = throttle or Throttle()
        self._quiet = quiet
        self._path = path
        self._clock = clock
        self._lock = threading.Lock()
        self._day, self._count = _read(path)
        self._written = self._count

    def today(self) -> int:
        """Bytes of this day so far."""
        with self._lock:
            self._turn()
            return self._count

    def tomorrow(self) -> float:
        """When the next day begins."""
        return float((int(self._clock()) // _DAY + 1) * _DAY)

    def take(self, count: int) -> None:
        """Count bytes that have come, or are about to.

        Raises:
            Exhausted: They would be too many; none of them is counted.
        """
        with self._lock:
            self._turn()
            if self.limit and self._count + count > self.limit:
                raise Exhausted(self.limit, self.tomorrow())
            self._note(self._count + count)

    def came(self, count: int) -> None:
        """Count bytes that have come, and wait until they have been worth it. Raises Exhausted."""
        self.take(count)
        self._throttle.spend(count)

    def demand_day(self) -> None:
        """See whether anything may be brought in today. Raises Exhausted."""
        if self.limit and self.today() >= self.limit:
            raise Exhausted(self.limit, self.tomorrow())

    def demand(self, size: int, *, there: int = 0) -> None:
        """See whether a file, or several that are of use together, may begin to come.

        Args:
            size: Bytes in all.
            there: Those that have come already.

        Raises:
            Exhausted: Today is used up, or the file alone is more than a day may bring.
        """
        if not self.limit:
            return
        if size > self.limit:
            raise Exhausted(self.limit, self.tomorrow(), needed=size)
        if size - there > self.limit - self.today():
            raise Exhausted(self.limit, self.tomorrow())

    def demand_noise(self) -> None:
        """See whether anything may be brought in at this hour. Raises Quiet."""
        if (until := self._quiet()) is not None:
            raise Quiet(until)

    def add(self, count: int) -> None:
        """Count bytes that have come already, however many they are."""
        with self._lock:
            self._turn()
            self._note(self._count + count)

    def settle(self) -> None:
        """Write down exactly what has come."""
        with self._lock:
            if self._written != self._count:
                self._write(self._count)

    def metered(self, opener: Opener) -> Opener:
        """The opener, with all that comes by it counted; it may raise Exhausted and Quiet."""

        @contextlib.contextmanager
        def opened(ask: Ask) -> Iterator[Stream]:
            with opener(ask) as stream:
                if not stream.unchanged:
                    self.demand_noise()
                if stream.size is not None and not stream.unchanged:
                    self.demand(stream.size, there=stream.start)
                try:
                    yield changed(stream, chunks=self._counted(stream.chunks))
                finally:
                    self.settle()

        return opened

    @contextlib.contextmanager
    def building(self, folder: Path, received: Callable[[], int | None]) -> Iterator[None]:
        """Count what an environment brings in that the block builds in a folder.

        Args:
            folder: Where it is built.
            received: Bytes that its builds have brought in so far, by the kernel's count; None: nobody knows.
                Then it counts as what it comes to on the disk, which is rather too much than too little.

        Raises:
            Exhausted: Today is used up.
            Quiet: Nothing may be brought in at this hour.
        """
        self.demand_noise()
        self.demand_day()
        before = received()
        try:
            yield
        finally:
            after = received()
            if after is not None:
                self.add(max(0, after - (before or 0)))
            elif self.limit:
                self.add(size_of(folder))
            self.settle()

    def _counted(self, chunks: Iterator[bytes]) -> Iterator[bytes]:
        for chunk in chunks:
            self.came(len(chunk))
            yield chunk

    def _turn(self) -> None:
        """Begin anew where another day has begun."""
        day = int(self._clock()) // _DAY
        if day > self._day:  # a clock that is set back does not make room
            self._day, self._count, self._written = day, 0, 0

    def _note(self, count: int) -> None:
        self._count = count
        if count > self._written:
            ahead = count + AHEAD
            self._write(min(ahead, self.limit) if self.limit >= count else ahead)

    def _write(self, count: int) -> None:
        self._written = count
        try:
            replace(self._path, json.dumps({"day": self._day, "bytes": count}).encode(), durable=False)
        except OSError as error:
            log.warning("today's downloads could not be written down: %s", error)


def size_of(folder: Path) -> int:
    """Bytes of all files below a folder, links not followed; what vanishes meanwhile is passed over."""
    count, folders = 0, [str(folder)]
    while folders:
        with contextlib.suppress(OSError), os.scandir(folders.pop()) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    folders.append(entry.path)
                elif entry.is_file(follow_symlinks=False):
                    count += entry.stat(follow_symlinks=False).st_size
    return count


def read_today(path: Path, *, clock: Callable[[], float] = time.time) -> int:
    """What the ledger's file says of this day; the process that counts may be a little ahead of it."""
    day, count = _read(path)
    return count if day == int(clock()) // _DAY else 0


def _read(path: Path) -> tuple[int, int]:
    try:
        found = json.loads(path.read_bytes())
        return int(found["day"]), int(found["bytes"])
    except (OSError, ValueError, KeyError, TypeError):
        return 0, 0
