"""The state folder's lock: one holder, named, gone with its process."""

import os
import re
import signal
import subprocess
import sys
import time
from datetime import datetime
from pathlib import Path

import pytest

from pushtrain.core.errors import Conflict, StorageError
from pushtrain.plumbing.disk.lock import FolderLock, holder


def test_a_second_server_is_told_who_holds_the_folder(tmp_path: Path) -> None:
    with FolderLock(tmp_path / "lock"), pytest.raises(Conflict) as caught:
        FolderLock(tmp_path / "lock")
    told = re.search(rf"process {os.getpid()}, since ([^.]+)\.", caught.value.message)
    assert told
    since = datetime.strptime(told[1], "%Y-%m-%d %H:%M:%S %z")
    assert abs(since.timestamp() - time.time()) < 60
    assert str(tmp_path) in caught.value.message
    assert "--state" in caught.value.mend


def test_the_folder_is_free_after_release(tmp_path: Path) -> None:
    first = FolderLock(tmp_path / "lock")
    first.release()
    first.release()
    FolderLock(tmp_path / "lock").release()


def test_a_killed_holder_leaves_nothing_to_clean_up(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from pushtrain.plumbing.disk.lock import FolderLock\n"
        "lock = FolderLock(Path(sys.argv[1])); print('held', flush=True); sys.stdin.read()"
    )
    path = tmp_path / "lock"
    with subprocess.Popen(
        (sys.executable, "-c", code, str(path)), stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"held\n"
        assert holder(path) == child.pid
        child.send_signal(signal.SIGKILL)
        child.wait()
    assert holder(path) is None
    FolderLock(path).release()


def test_looking_for_the_holder_of_a_folder_that_was_never_served_finds_nobody(tmp_path: Path) -> None:
    assert holder(tmp_path / "lock") is None


def test_a_lock_that_cannot_be_opened_says_so(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="cannot be opened"):
        FolderLock(tmp_path / "absent" / "lock")
    (tmp_path / "folder").mkdir()
    with pytest.raises(StorageError, match="cannot be opened"):
        holder(tmp_path / "folder")


def test_a_lock_file_without_a_pid_is_still_a_held_lock(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with FolderLock(path):
        path.write_text("")
        assert holder(path) == 0
        with pytest.raises(Conflict, match="process unknown"):
            FolderLock(path)
