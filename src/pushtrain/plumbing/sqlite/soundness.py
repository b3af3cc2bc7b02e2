"""Whether a store is whole: all of it for whoever asks, and at a start as much as nobody waits for.

A start reads every page, which compares it with its checksum, for half a second at most: some 100 MB. What
it finds by then keeps the store from being served. The rest of a larger store, or of one on a slow disk, is
read behind the server, and told in its log.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import apsw

from pushtrain.core.errors import StorageError, StoreDamaged
from pushtrain.plumbing.programs import priority
from pushtrain.plumbing.sqlite.database import MEND, Database

_log = logging.getLogger(__name__)

_AT_ONCE: Final = 0.4
"""Seconds that a start gives it."""
_STEPS: Final = 20
"""Of SQLite's, between two looks at whether to go on: so many pages."""


def damage(path: Path) -> str:
    """What is wrong with a store, in one sentence; empty: nothing. Reads all of it, beside whoever writes.

    Raises:
        StorageError: It cannot be opened for another reason.
    """
    return _read(path, "PRAGMA integrity_check(3)", lambda: False) or ""


@contextmanager
def looked_through(path: Path, *, at_once: float = _AT_ONCE) -> Iterator[None]:
    """Read every page of a store: some before the block runs, the rest beside it.

    Indexes are not compared with their tables, which takes three times as long; `damage` does that.

    Args:
        path: The store, which this process has opened.
        at_once: Seconds that the block waits for it.

    Raises:
        StoreDamaged: A page that was read so far is damaged.
    """
    over = time.monotonic() + at_once
    found = _pages(path, lambda: time.monotonic() > over)
    if found:
        raise StoreDamaged(found, mend=MEND)
    if found is not None:
        yield
        return
    closing = threading.Event()
    reader = threading.Thread(target=_later, args=(path, closing), name="pushtrain-store", daemon=True)
    reader.start()
    try:
        yield
    finally:
        closing.set()
        reader.join()


def _later(path: Path, closing: threading.Event) -> None:
    priority.lower_disk()
    try:
        found = _pages(path, closing.is_set)
    except StorageError as error:
        _log.warning("whether the store is whole could not be seen: %s", error)
        return
    if found:
        _log.error("%s %s", found, MEND)


def _pages(path: Path, enough: Callable[[], bool]) -> str | None:
    return _read(path, "PRAGMA quick_check(1)", enough)


def _read(path: Path, question: str, enough: Callable[[], bool]) -> str | None:
    """What SQLite's answer says is wrong; None: it was enough before there was one."""

    def work(db: apsw.Connection) -> list[str] | None:
        db.set_progress_handler(enough, _STEPS)
        try:
            return [str(row[0]) for row in db.execute(question)]
        except apsw.InterruptError:
            return None

    try:
        database = Database(path, read_only=True)
    except StoreDamaged as error:
        return error.message
    try:
        verdict = database.read(work)
    except StoreDamaged as error:
        return error.message
    finally:
        database.close()
    if verdict is None:
        return None
    told = "; ".join(" ".join(one.split()) for one in verdict)
    return "" if told == "ok" else f"The store {path} is damaged: {told}."
