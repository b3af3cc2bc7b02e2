import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pushtrain.core.errors import Cancelled
from pushtrain.plumbing.programs import proc, process

PYTHON = sys.executable


def until(condition: Callable[[], Any], seconds: float = 10.0) -> Any:
    """Wait on a condition, with a deadline; a test never sleeps blindly."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, "the condition never held"
        os.sched_yield()
    return found


def gone(pid: int) -> bool:
    found = proc.stat(pid)
    return found is None or found.state in "ZX"


def written(path: Path) -> str:
    return path.read_text().strip() if path.exists() else ""


def test_output_code_and_input_come_back() -> None:
    done = process.run(["bash", "-c", "cat; echo oops >&2; exit 3"], input=b"hello")
    assert (done.code, done.out, done.err) == (3, b"hello", b"oops\n")
    assert done.complaint == "oops"
    assert not done.cut


def test_without_input_the_program_reads_nothing() -> None:
    assert process.run(["cat"]).out == b""


def test_a_program_that_ignores_large_input_is_no_error() -> None:
    assert process.run(["true"], input=b"x" * 5_000_000).code == 0


def test_large_input_and_output_pass_at_once() -> None:
    data = os.urandom(3_000_000)
    assert process.run(["cat"], input=data).out == data


def test_environment_and_folder_are_exactly_what_was_given(tmp_path: Path) -> None:
    done = process.run(["bash", "-c", "pwd; env"], cwd=tmp_path, env={"PATH": os.defpath, "ONLY": "this"})
    assert done.text.splitlines()[0] == str(tmp_path)
    assert "ONLY=this" in done.text
    assert "HOME=" not in done.text


def test_output_memory_is_bounded_head_of_out_tail_of_err() -> None:
    script = "import sys; sys.stdout.write('a'*500+'b'*500); sys.stderr.write('c'*500+'d'*500)"
    done = process.run([PYTHON, "-c", script], limit=600)
    assert done.out == b"a" * 500 + b"b" * 100
    assert done.err == b"c" * 100 + b"d" * 500
    assert done.cut


def test_lines_are_told_as_they_come_and_carriage_returns_end_them() -> None:
    seen: list[str] = []
    process.run(["bash", "-c", r"printf '10%%\r20%%\r'; printf 'tail'"], line=seen.append)
    assert seen == ["10%", "20%", "tail"]


def test_a_program_that_is_not_there_raises() -> None:
    with pytest.raises(FileNotFoundError):
        process.run(["pushtrain-no-such-program"])


def test_a_signal_shows_as_a_negative_code() -> None:
    assert process.run(["bash", "-c", "kill -9 $$"]).code == -signal.SIGKILL


def test_a_timeout_ends_the_tree_and_reaps_it(tmp_path: Path) -> None:
    note = tmp_path / "pids"
    script = f"sleep 100 & echo $! $$ > {note}.t && mv {note}.t {note}; wait"
    with pytest.raises(TimeoutError, match=r"took longer than 0.3 s"):
        process.run(["bash", "-c", script], timeout=0.3)
    assert all(gone(int(pid)) for pid in note.read_text().split())
    with pytest.raises(ChildProcessError):
        os.waitpid(int(note.read_text().split()[1]), os.WNOHANG)


def test_a_timeout_holds_for_a_program_that_never_stops_talking() -> None:
    with pytest.raises(TimeoutError):
        process.run(["yes"], timeout=0.2, limit=1000)


def test_a_wish_to_stop_kills_what_ignores_every_polite_signal(tmp_path: Path) -> None:
    note = tmp_path / "pid"
    script = (
        "import signal, os, time, pathlib, sys\n"
        "signal.signal(signal.SIGINT, signal.SIG_IGN); signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "if not os.fork(): os.setsid()\n"
        "with open(sys.argv[1], 'a') as f: f.write(f'{os.getpid()}\\n')\n"
        "signal.pause()\n"
    )

    def stop() -> None:
        if note.exists() and note.read_text().count("\n") == 2:
            raise Cancelled("enough")

    with pytest.raises(Cancelled, match="enough"):
        process.run([PYTHON, "-c", script, str(note)], stop=stop, patience=0.1)
    assert all(gone(int(pid)) for pid in note.read_text().split())


def test_an_exception_of_the_line_callback_ends_the_program() -> None:
    def refuse(text: str) -> None:
        raise ValueError(text)

    with pytest.raises(ValueError, match="first"):
        process.run(["bash", "-c", "echo first; sleep 100"], line=refuse, patience=0.1)


def test_a_grandchild_that_holds_the_pipes_does_not_hold_us() -> None:
    done = process.run(["bash", "-c", "setsid sleep 100 & echo $!"])
    os.kill(int(done.text), signal.SIGKILL)  # raises if it had ended before we came back


def test_a_program_that_closes_its_output_is_still_waited_for() -> None:
    assert process.run(["bash", "-c", "exec >&- 2>&-; sleep 0.1; exit 7"]).code == 7


def test_a_program_that_ends_by_itself_is_not_asked_to_stop_after() -> None:
    asked: list[None] = []
    ended = [process.run(["true"], stop=lambda: asked.append(None)).code for _ in range(5)]
    assert ended == [0] * 5
    before = len(asked)
    assert process.run(["true"]).code == 0
    assert len(asked) == before
