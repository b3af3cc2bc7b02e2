"""What an earlier life left is found and ended, and nobody else's."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pushtrain.plumbing.programs import orphans, proc, process
from pushtrain.testing import wait_until

SERVER = """
import sys
from pathlib import Path
from pushtrain.plumbing.programs import orphans, process
if sys.argv[1] != "-":
    orphans.take_over(Path(sys.argv[1]))
process.run(("bash", "-c", sys.argv[2]))
"""


@pytest.fixture(autouse=True)
def nobodys() -> Iterator[None]:
    """This process is no server before and after."""
    process.serve("")
    yield
    process.serve("")


@contextmanager
def server(home: Path | str, script: str) -> Iterator["subprocess.Popen[bytes]"]:
    """A process that serves a folder, or none, and runs a program."""
    child = subprocess.Popen((sys.executable, "-c", SERVER, str(home), script))
    try:
        yield child
    finally:
        child.kill()
        child.wait()


def pid_in(note: Path) -> proc.Stat:
    wait_until(lambda: note.exists() and note.read_text().strip() != "", 20, what=str(note))
    found = proc.stat(int(note.read_text()))
    assert found is not None
    return found


def alive(one: proc.Stat) -> bool:
    return proc.alive(one.pid, one.start)


def end(*processes: proc.Stat) -> None:
    for one in processes:
        proc.send(one.pid, one.start, 9)


def test_programs_of_a_killed_server_are_ended_and_all_others_left_alone(tmp_path: Path) -> None:
    """Those of another folder's server, of one that lives, and of a verb that a person called."""
    mine, other = tmp_path / "mine", tmp_path / "other"
    for folder in (mine, other):
        folder.mkdir()
    notes = [tmp_path / name for name in ("orphan", "theirs", "verbs")]
    scripts = [f"echo $$ > {note}; exec sleep 100" for note in notes]
    with server(mine, scripts[0]), server(other, scripts[1]) as second, server("-", scripts[2]) as verb:
        orphan, theirs, verbs = map(pid_in, notes)
        second.kill()
        verb.kill()
    try:
        assert orphans.take_over(mine) == 1
        wait_until(lambda: not alive(orphan), what="the orphan's end")
        assert alive(theirs)
        assert alive(verbs)
        assert orphans.take_over(other) == 1
    finally:
        end(orphan, theirs, verbs)


def test_an_orphan_that_forked_twice_and_left_its_session_is_ended(tmp_path: Path) -> None:
    note = tmp_path / "pid"
    with server(tmp_path, f"setsid bash -c 'echo $$ > {note}; exec sleep 100' & sleep 100"):
        orphan = pid_in(note)
    assert orphans.take_over(tmp_path) >= 1
    wait_until(lambda: not alive(orphan), what="the orphan's end")


def test_neither_a_reused_pid_nor_another_boot_keeps_an_orphan_alive(tmp_path: Path) -> None:
    """Its starter's pid and start are those of a living process: of this one's parent."""
    above = proc.stat(os.getppid())
    assert above is not None
    mark = f"{orphans.home_of(tmp_path)}.{above.pid}.{above.start}"
    orphan = subprocess.Popen(["sleep", "100"], env={"PATH": os.environ["PATH"], process.PARENT_MARK: mark})
    try:
        assert orphans.take_over(tmp_path) == 1
        assert orphan.wait(10) == -9
    finally:
        orphan.kill()
        orphan.wait()


def test_what_this_very_server_runs_is_no_orphan(tmp_path: Path) -> None:
    orphans.take_over(tmp_path)
    child = subprocess.Popen(["sleep", "100"], env=process.marked_environment())
    try:
        assert orphans.take_over(tmp_path) == 0
        assert child.poll() is None
    finally:
        child.kill()
        child.wait()


def test_what_serves_others_on_purpose_outlives_its_server(tmp_path: Path) -> None:
    """git's credential daemon, as git starts it."""
    mark = f"{orphans.home_of(tmp_path)}.1.1"
    daemon = subprocess.Popen(
        ["git", "credential-cache--daemon", str(tmp_path / "socket")],
        env={"PATH": os.environ["PATH"], "HOME": str(tmp_path), process.PARENT_MARK: mark},
        stdout=subprocess.PIPE,
    )
    with daemon:
        try:
            assert daemon.stdout is not None
            daemon.stdout.readline()
            assert orphans.take_over(tmp_path) == 0
            assert daemon.poll() is None
        finally:
            daemon.kill()


# --- jobs -------------------------------------------------------------------------------------------------


def abandoned(script: str, cwd: Path) -> proc.Stat:
    """A process without any environment, forked twice, in a session of its own."""
    note = cwd.parent / f"pid-{time.monotonic_ns()}"
    inner = f"echo $$ > {note}; {script}; exec sleep 100"
    subprocess.run(
        ["setsid", "-f", "env", "-i", "PATH=/usr/bin:/bin", "bash", "-c", inner],
        cwd=cwd,
        check=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    return pid_in(note)


def test_a_jobs_process_that_cleared_its_environment_is_found_by_what_it_holds(tmp_path: Path) -> None:
    job = tmp_path / "1" / "job"
    job.mkdir(parents=True)
    lingering = [
        abandoned(f"cd /; exec 5>{job}/file", job),
        abandoned("true", job),
    ]
    wait_until(lambda: len(orphans.clinging(job)) == 2, 20, what="both that cling")
    try:
        assert orphans.end_clinging(job) == 2
        wait_until(lambda: not any(map(alive, lingering)), what="their end")
        assert orphans.clinging(job) == []
    finally:
        end(*lingering)


def test_who_only_looks_at_a_dead_jobs_folder_is_left_alone(tmp_path: Path) -> None:
    """A reader of its log and files, and a program that works there below one that lives."""
    job = tmp_path / "1" / "job"
    job.mkdir(parents=True)
    (job / "file").write_text("x")
    (tmp_path / "1" / "log.txt").touch()
    reader = abandoned(f"cd /; exec 5<{job}/file 6<{tmp_path}/1/log.txt", job)
    editor = subprocess.Popen(["sleep", "100"], cwd=job)
    try:
        wait_until(lambda: Path(f"/proc/{reader.pid}/fd/6").exists(), what="both files open")
        assert orphans.clinging(job) == []
    finally:
        editor.kill()
        editor.wait()
        end(reader)
