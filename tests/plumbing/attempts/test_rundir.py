import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pushtrain.core.errors import StorageError
from pushtrain.core.values.states import Reason
from pushtrain.plumbing.attempts.records import StopOrder, write_record
from pushtrain.plumbing.attempts.rundir import RunDir, held, take_lock

ORDER = StopOrder(reason=Reason.CANCELLED, detail="enough")


def test_records_come_back_as_they_were_written(tmp_path: Path) -> None:
    folder = RunDir.of(tmp_path, "id", 2).create()
    assert folder.root == tmp_path / "id" / "2"
    assert folder.read_stop() is None
    write_record(folder.stop, ORDER)
    assert folder.read_stop() == ORDER
    assert sorted(path.name for path in folder.root.iterdir() if path.is_file()) == ["stop.json"]


def test_a_link_or_a_file_that_a_job_put_in_the_place_of_its_checkpoints_goes(tmp_path: Path) -> None:
    """A file kept the run waiting for room on the disk; a sandbox would have shown where a link leads."""
    folder = RunDir.of(tmp_path, "id", 1).create()
    (tmp_path / "owner").mkdir()
    for target in ("", "owner"):
        folder.checkpoint.rmdir()
        if target:
            folder.checkpoint.symlink_to(tmp_path / target)
        else:
            folder.checkpoint.touch()
        RunDir.of(tmp_path, "id", 2).create()
        assert folder.checkpoint.is_dir()
        assert not folder.checkpoint.is_symlink()
    assert (tmp_path / "owner").is_dir()


def test_checkpoints_belong_to_the_run_and_all_else_to_the_attempt(tmp_path: Path) -> None:
    first, second = RunDir.of(tmp_path, "id", 1).create(), RunDir.of(tmp_path, "id", 2).create()
    assert first.checkpoint == second.checkpoint
    assert first.results != second.results


def test_a_record_that_is_damaged_is_an_error_not_an_absence(tmp_path: Path) -> None:
    folder = RunDir(tmp_path)
    folder.exit.write_text('{"phase": ')
    with pytest.raises(StorageError, match=r"exit\.json cannot be read"):
        folder.read_verdict()


def test_a_failed_write_leaves_the_old_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = RunDir(tmp_path)
    write_record(folder.stop, ORDER)

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match=r"stop\.json could not be written"):
        write_record(folder.stop, StopOrder(reason=Reason.TIMEOUT))
    assert folder.read_stop() == ORDER
    assert [path.name for path in tmp_path.iterdir()] == ["stop.json"]


def test_a_folder_that_cannot_be_made_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "id").write_text("in the way")
    with pytest.raises(StorageError):
        RunDir.of(tmp_path, "id", 1).create()


def test_a_lock_has_one_holder(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    assert not held(path)
    descriptor = take_lock(path)
    assert descriptor is not None
    assert take_lock(path) is None
    assert held(path)
    os.close(descriptor)
    assert not held(path)


def test_a_lock_passes_to_whoever_inherits_its_descriptor_and_dies_with_it(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    descriptor = take_lock(path)
    assert descriptor is not None
    child = subprocess.Popen(
        [sys.executable, "-c", "input()"], stdin=subprocess.PIPE, pass_fds=(descriptor,), text=True
    )
    os.close(descriptor)
    assert held(path)
    child.communicate("\n")
    assert not held(path)


def test_a_lock_in_a_folder_that_is_not_there_is_a_storage_error(tmp_path: Path) -> None:
    with pytest.raises(StorageError):
        take_lock(tmp_path / "nowhere" / "lock")
