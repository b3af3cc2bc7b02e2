"""A checksum on every page of a store, so that a flipped byte is an error and never an answer.

SQLite's own `cksumvfs`, which apsw's wheels bring along, adds eight bytes to each page, writes a checksum
there and compares it on every read. Where apsw was built without it (some distributions), stores work as
they did, and `checked()` says so.
"""

import logging
from functools import cache
from typing import Final

import apsw

log = logging.getLogger(__name__)

NAME: Final = "cksmvfs"
RESERVED: Final = 8
"""Bytes at the end of each page."""


@cache
def vfs() -> str | None:
    """The name of the file layer that checks; None where there is none. Process-wide, loaded once."""
    import apsw.sqlite_extra

    try:
        loader = apsw.Connection(":memory:")
        try:
            apsw.sqlite_extra.load(loader, "cksumvfs")
        finally:
            loader.close()
    except (apsw.sqlite_extra.NotAvailable, apsw.Error, OSError) as error:
        log.info("stores have no page checksums here: %s", error)
        return None
    return NAME if NAME in apsw.vfs_names() else None


def add(connection: apsw.Connection) -> None:
    """Give a store's pages room for their checksum; a file that has it stays as it is.

    A file that holds something already is written anew, in one transaction. Comes before WAL.
    """
    if connection.reserve_bytes("main", -1) == RESERVED:
        return
    empty = not connection.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchone()
    connection.reserve_bytes("main", RESERVED)
    if not empty:
        connection.execute("PRAGMA journal_mode = DELETE")
        connection.execute("VACUUM")


def checked(connection: apsw.Connection) -> bool:
    """Whether every page that this connection reads is compared with its checksum."""
    return str(connection.execute("PRAGMA checksum_verification").get or "0") == "1"
