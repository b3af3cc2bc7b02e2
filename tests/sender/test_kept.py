"""What `pushtrain send` must not lose: whole files, one holder, nothing left once taken care of."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pushtrain.core.errors import Conflict, StorageError
from pushtrain.sender.kept import Entry, KeptCommands
from pushtrain.testing import a_command, a_spec


def test_a_kept_command_is_found_with_its_place_once_it_is_let_go(tmp_path: Path) -> None:
    kept = KeptCommands(tmp_path / "outbox")
    assert list(kept.left()) == []
    entry = kept.keep(a_command())
    assert entry is not None
    assert list(kept.left()) == []
    entry.place("http://one")
    entry.place("http://one")
    entry.close()
    entry.close()
    with next(iter(kept.left())) as found:
        assert (found.command, found.executor) == (a_command(), "http://one")
        found.remove()
    assert list(kept.left()) == []
    assert list((tmp_path / "outbox").iterdir()) == []


def test_somebody_else_who_is_delivering_the_same_command_is_noticed(tmp_path: Path) -> None:
    kept = KeptCommands(tmp_path / "outbox")
    first = kept.keep(a_command())
    assert first is not None
    assert kept.keep(a_command()) is None
    first.place("http://one")
    assert kept.keep(a_command()) is None
    first.close()
    again = kept.keep(a_command())
    assert again is not None
    assert again.executor == "http://one"
    again.close()


_SENDER = """
import sys
from pathlib import Path
from pushtrain.sender.kept import KeptCommands
from pushtrain.testing import a_command
entry = KeptCommands(Path(sys.argv[1])).keep(a_command())
entry.place("http://one")
print("placed", flush=True)
sys.stdin.read()
"""


def test_a_killed_sends_command_is_left_for_the_next_one(tmp_path: Path) -> None:
    kept = KeptCommands(tmp_path / "outbox")
    argv = (sys.executable, "-c", _SENDER, str(tmp_path / "outbox"))
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"placed\n"
        assert list(kept.left()) == []
        child.send_signal(signal.SIGKILL)
        child.wait()
    (entry,) = kept.left()
    with entry:
        assert (entry.command, entry.executor) == (a_command(), "http://one")


def test_a_damaged_file_is_passed_over_and_written_anew(tmp_path: Path) -> None:
    folder = tmp_path / "outbox"
    kept = KeptCommands(folder)
    folder.mkdir()
    (folder / f"{a_command().run_id}.json").write_text('{"command":')
    (folder / f"{'0' * 32}.json").mkdir()
    other = kept.keep(a_command(job=a_spec(name="other")))
    assert other is not None
    other.close()
    with pytest.raises(StorageError, match="cannot be used"):
        list(kept.left())
    (folder / f"{'0' * 32}.json").rmdir()
    assert [entry.command.job.name for entry in _closed(kept)] == ["other"]
    entry = kept.keep(a_command())
    assert entry is not None
    entry.close()
    assert len(_closed(kept)) == 2


def _closed(kept: KeptCommands) -> list[Entry]:
    entries = list(kept.left())
    for entry in entries:
        entry.close()
    return entries


def test_a_folder_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    (tmp_path / "outbox").write_text("a file")
    with pytest.raises(StorageError, match="outbox"):
        KeptCommands(tmp_path / "outbox").keep(a_command())


def test_what_is_kept_is_seen_without_being_held_up(tmp_path: Path) -> None:
    kept = KeptCommands(tmp_path / "outbox")
    assert kept.peek() == []
    entry = kept.keep(a_command())
    assert entry is not None
    entry.place("http://one")
    ((command, executor, since),) = kept.peek()
    assert (command, executor, since > 0) == (a_command(), "http://one", True)
    entry.close()


def test_a_kept_command_is_dropped_unless_somebody_delivers_it_or_may_have_it(tmp_path: Path) -> None:
    kept = KeptCommands(tmp_path / "outbox")
    run_id = a_command().run_id
    assert not kept.drop(run_id)
    entry = kept.keep(a_command())
    assert entry is not None
    assert not kept.drop(run_id)
    entry.place("http://one")
    entry.close()
    with pytest.raises(Conflict, match="may have run"):
        kept.drop(run_id)
    with next(iter(kept.left())) as again:
        again.place("")
    assert kept.drop(run_id)
    assert kept.peek() == []


def test_a_wish_to_cancel_is_seen_and_is_no_command(tmp_path: Path) -> None:
    kept = KeptCommands(tmp_path / "outbox")
    assert (kept.wishes(), kept.stamp()) == ([], 0)
    kept.wish_cancel(a_command().run_id)
    kept.wish_cancel(a_command().run_id)
    assert kept.wishes() == [a_command().run_id]
    assert kept.stamp() > 0
    assert list(kept.left()) == []
    kept.unwish(a_command().run_id)
    kept.unwish(a_command().run_id)
    assert kept.wishes() == []


def test_what_an_executor_has_accepted_is_told_to_the_sender_and_delivered_by_nobody(tmp_path: Path) -> None:
    kept = KeptCommands(tmp_path / "outbox")
    run_id = a_command().run_id
    entry = kept.keep(a_command())
    assert entry is not None
    assert kept.executor_of(run_id) == ""
    entry.place("one")
    assert kept.executor_of(run_id) == "one"
    before = kept.stamp()
    entry.delivered()
    assert kept.stamp() != before
    with next(kept.sent()) as found:  # also while whoever sent it has not let go
        assert (found.command, found.executor) == (a_command(), "one")
    entry.close()
    assert (list(kept.left()), kept.peek(), kept.executor_of(run_id)) == ([], [], "one")
    with next(kept.sent()) as found:
        found.remove()
    assert (list(kept.sent()), kept.executor_of(run_id)) == ([], "")


def test_what_was_accepted_is_sent_anew_by_its_own_wish(tmp_path: Path) -> None:
    kept = KeptCommands(tmp_path / "outbox")
    with kept.keep(a_command()) as entry:  # type: ignore[union-attr]
        entry.place("one")
        entry.delivered()
    with kept.keep(a_command()) as again:  # type: ignore[union-attr]
        assert again.executor == ""


def test_what_no_sender_asks_for_and_locks_of_killed_ones_are_forgotten_after_a_week(tmp_path: Path) -> None:
    kept = KeptCommands(tmp_path / "outbox")
    with kept.keep(a_command()) as entry:  # type: ignore[union-attr]
        entry.place("one")
        entry.delivered()
    now = (tmp_path / "outbox" / f"{a_command().run_id}.sent").stat().st_mtime
    lock = tmp_path / "outbox" / "locks" / "of a killed one"
    with kept.alone(a_command().run_id, wait=False) as alone:
        assert alone
        lock.touch()
    kept.forget(now + 6 * 86400)
    assert len(list(kept.sent())) == 1
    kept.forget(now + 8 * 86400)
    assert list(kept.sent()) == []
    assert list(lock.parent.iterdir()) == []


def test_a_run_is_held_by_one_alone_and_let_go_of_by_whoever_dies(tmp_path: Path) -> None:
    kept = KeptCommands(tmp_path / "outbox")
    script = (
        "import sys; from pathlib import Path; from pushtrain.sender.kept import KeptCommands\n"
        "with KeptCommands(Path(sys.argv[1])).alone('run', wait=True) as alone:\n"
        "    print(alone, flush=True); sys.stdin.read()"
    )
    argv = (sys.executable, "-c", script, str(tmp_path / "outbox"))
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout
        assert holder.stdout.readline() == "True\n"
        with kept.alone("run", wait=False) as alone, kept.alone("other", wait=False) as other:
            assert (alone, other) == (False, True)
        holder.send_signal(signal.SIGKILL)
        with kept.alone("run", wait=True) as alone:
            assert alone
