"""The demo's processes, ended whatever they do."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pushtrain.demo.children import Children, Stumbled
from pushtrain.plumbing.programs import proc

ENVIRONMENT = {"PATH": os.environ["PATH"]}

STORY = """
import os, sys, time
from pathlib import Path
from pushtrain.demo.children import Children
folder = Path(sys.argv[1])
children = Children(folder, dict(os.environ))
children.start("stubborn", "-c", '''
import os, signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
if os.fork() == 0:
    os.setsid()
    if os.fork():
        os._exit(0)
    open("daemon", "w").write(str(os.getpid()))
print("ready", flush=True)
signal.pause()
''')
children.wait_for("the daemon", lambda: (folder / "daemon").exists() and (folder / "daemon").read_text())
print(children.pids["stubborn"], (folder / "daemon").read_text())
{end}
"""


def _play(tmp_path: Path, end: str) -> list[int]:
    # In a process of its own: it adopts what its descendants leave, which pytest had better not.
    argv = (sys.executable, "-c", STORY.replace("{end}", end), tmp_path)
    done = subprocess.run(argv, capture_output=True, text=True, check=True, env=os.environ)
    return [int(word) for word in done.stdout.split()]


def test_ending_reaches_what_ignores_signals_and_what_has_forked_away(tmp_path: Path) -> None:
    for pid in _play(tmp_path, "children.end(patience=0.2)"):
        assert proc.start_time(pid) is None


def test_leaving_lets_them_go_on(tmp_path: Path) -> None:
    pids = _play(tmp_path, "children.leave()")
    try:
        assert all(proc.start_time(pid) is not None for pid in pids)
    finally:
        for pid in pids:
            start = proc.start_time(pid)
            assert start is not None
            proc.send(pid, start, 9)


def test_a_process_that_ends_early_is_told_with_the_end_of_its_log(tmp_path: Path) -> None:
    script = """
import sys
from pathlib import Path
from pushtrain.demo.children import Children, Stumbled
children = Children(Path(sys.argv[1]), {})
children.start("sender", "-c", "import sys; sys.stderr.write('one\\\\ntwo\\\\n'); sys.exit(3)")
try:
    children.wait_for("nothing", lambda: None, seconds=20)
except Stumbled as error:
    print(error.message)
"""
    done = subprocess.run(
        (sys.executable, "-c", script, tmp_path), capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines() == [
        "The demo's sender ended with 3.",
        "--- sender.log, last 2 lines",
        "one",
        "two",
    ]


def test_waiting_in_vain_is_told(tmp_path: Path) -> None:
    children = Children(tmp_path, ENVIRONMENT)
    with pytest.raises(Stumbled, match=r"the moon, in vain"):
        children.wait_for("the moon", lambda: None, seconds=0.01)
    assert children.wait_for("it", lambda: "it") == "it"
