import os
import signal
import subprocess
import time
from pathlib import Path

from pushtrain.plumbing.programs import proc
from pushtrain.testing import wait_until


def gone(pid: int) -> bool:
    found = proc.stat(pid)
    return found is None or found.state in "ZX"


def parent(pid: int) -> int:
    found = proc.stat(pid)
    assert found is not None
    return found.parent


def test_descendants_lists_children_and_grandchildren() -> None:
    child = subprocess.Popen(["bash", "-c", "bash -c 'sleep 100; :' & wait"], start_new_session=True)
    try:
        below = wait_until(lambda: found if len(found := proc.descendants(child.pid)) == 2 else None)
        assert parent(below[0]) == child.pid
        assert parent(below[1]) == below[0]
    finally:
        proc.kill_tree(child.pid)
        child.wait()
    assert all(gone(pid) for pid in below)


def test_the_start_time_tells_a_process_from_another_with_its_pid() -> None:
    child = subprocess.Popen(["sleep", "100"])
    start = proc.start_time(child.pid)
    assert start is not None
    assert proc.alive(child.pid, start)
    assert not proc.alive(child.pid, start + 1)
    assert not proc.send(child.pid, start + 1, signal.SIGKILL)
    assert proc.send(child.pid, start, signal.SIGKILL)
    wait_until(lambda: not proc.alive(child.pid, start))
    assert proc.open_process(child.pid, start) is None
    child.wait()
    assert proc.start_time(child.pid) is None
    assert not proc.send(child.pid, start, signal.SIGKILL)


def test_a_name_with_spaces_and_brackets_does_not_confuse_the_reader(tmp_path: Path) -> None:
    odd = tmp_path / "a) S 1 (b"
    odd.symlink_to("/bin/sleep")
    child = subprocess.Popen([odd, "100"])
    try:
        assert parent(child.pid) == os.getpid()
    finally:
        child.kill()
        child.wait()


def test_a_sweep_finds_a_double_forked_survivor_by_its_mark(tmp_path: Path) -> None:
    mark = f"test-{os.getpid()}-{time.monotonic_ns()}"
    note = tmp_path / "pid"
    subprocess.run(
        ["bash", "-c", f"setsid bash -c 'echo $$ > {note}; exec sleep 100' >/dev/null 2>&1 &"],
        env={"PATH": os.environ["PATH"], proc.ATTEMPT_MARK: mark},
        check=True,
    )
    survivor = wait_until(lambda: note.read_text().strip() if note.exists() else "")
    assert proc.sweep(mark) == 1
    assert gone(int(survivor))
    assert proc.sweep(mark) == 0


def test_the_boot_id_is_the_kernels() -> None:
    assert proc.boot_id() == Path("/proc/sys/kernel/random/boot_id").read_text().strip()
