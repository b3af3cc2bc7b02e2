"""Whose process is it? Asked of real ones."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pushtrain.plumbing.programs import proc
from pushtrain.plumbing.programs.kin import Kin, numbers_are_the_machines
from pushtrain.testing import wait_until

FORKS = (
    "import os, sys, time\n"
    "if os.fork() == 0:\n"
    "    os.setsid()\n"
    "    if os.fork() == 0:\n"
    "        open(sys.argv[1], 'w').write(str(os.getpid())); time.sleep(600)\n"
    "    os._exit(0)\n"
    "os.wait(); time.sleep(600)\n"
)
REAPER = (
    "import ctypes, os, subprocess, sys\n"
    "ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)\n"
    "subprocess.run([sys.executable, '-c', sys.argv[1], sys.argv[2]])\n"
)


@pytest.fixture
def started() -> Iterator[list[subprocess.Popen[bytes]]]:
    made: list[subprocess.Popen[bytes]] = []
    yield made
    for one in made:
        proc.kill_tree(one.pid)
        one.wait()


def test_what_double_forks_below_a_shim_is_ours(
    tmp_path: Path, started: list[subprocess.Popen[bytes]]
) -> None:
    note = tmp_path / "pid"
    shim = subprocess.Popen((sys.executable, "-c", REAPER, FORKS, str(note)))
    started.append(shim)
    pid = int(wait_until(lambda: note.read_text() if note.exists() else ""))
    wait_until(lambda: (found := proc.stat(pid)) and found.parent == shim.pid)
    kin = Kin()
    assert kin.sort([pid], [shim.pid]) == ({pid}, set())
    assert kin.sort([pid, os.getpid()], [os.getppid() + 10**7]) == ({pid}, set())  # known, while it lives


def test_a_stranger_is_not_ours_until_its_shim_is_found(started: list[subprocess.Popen[bytes]]) -> None:
    child = subprocess.Popen(("sleep", "600"))
    started.append(child)
    kin = Kin()
    assert kin.sort([child.pid], []) == (set(), set())
    assert kin.sort([child.pid], [os.getpid()]) == ({child.pid}, set())


def test_a_container_is_known_by_its_mark(started: list[subprocess.Popen[bytes]]) -> None:
    child = subprocess.Popen(("sleep", "600"), env={**os.environ, proc.ATTEMPT_MARK: "abc-1"})
    started.append(child)
    kin = Kin()
    wait_until(lambda: kin.sort([child.pid], [], ["abc-1"]) == ({child.pid}, set()))
    assert Kin().sort([child.pid], [], ["abc-10", "abc"]) == (
        set(),
        set(),
    )  # another executor's is a stranger


def test_the_dead_are_told_apart(started: list[subprocess.Popen[bytes]]) -> None:
    child = subprocess.Popen(("true",))
    started.append(child)
    wait_until(lambda: (found := proc.stat(child.pid)) and found.state == "Z")
    assert Kin().sort([child.pid, 2**22 + 1], []) == (set(), {child.pid, 2**22 + 1})


def test_a_namespace_of_process_numbers_is_noticed() -> None:
    argv = ("unshare", "--pid", "--fork", "--mount-proc", sys.executable, "-c")
    code = "from pushtrain.plumbing.programs.kin import numbers_are_the_machines as found; print(found())"
    done = subprocess.run((*argv, code), capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"no namespace can be made here: {done.stderr.strip()}")
    assert done.stdout == "False\n"
    assert isinstance(numbers_are_the_machines(), bool)
