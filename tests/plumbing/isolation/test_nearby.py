"""What an executor looks at around itself, before it tries whether jobs can reach it, stays as it is."""

import subprocess
import sys
from pathlib import Path

from pushtrain.plumbing.isolation.nearby import readable
from pushtrain.plumbing.sqlite.store import Store
from pushtrain.testing import SENDER, a_command

LOOKS = """
import sqlite3, sys
db = sqlite3.connect(sys.argv[1])
print(db.execute("select count(*) from runs").fetchone()[0])
db.close()
"""
"""What a curious owner does, or a program that copies stores."""


def test_an_executor_that_has_tried_its_levels_still_keeps_its_store_from_others(tmp_path: Path) -> None:
    """A process that opens a file of SQLite's itself, and closes it, lets go of SQLite's locks on it."""
    path = tmp_path / "store.db"
    store = Store(path)
    given = {"sender": SENDER, "raw": b"{}", "headers": {}, "nonce_expires": 2e9}

    def accept(request: str) -> str:
        command = a_command(request=request)
        store.accept(command, queue_limit=9, nonce=request, **given)  # type: ignore[arg-type]
        return command.run_id

    first = accept("first")
    assert readable([path, tmp_path / "nothing"]) == [str(path)]
    journal = path.with_name("store.db-wal").stat().st_ino
    looked = subprocess.run(
        [sys.executable, "-c", LOOKS, str(path)], capture_output=True, text=True, check=True
    )
    assert looked.stdout == "1\n"
    assert path.with_name("store.db-wal").stat().st_ino == journal, "the journal that we write is still there"
    second = accept("second")
    store.close()
    again = Store(path)
    assert {again.run(each).id for each in (first, second)} == {first, second}
    again.close()
