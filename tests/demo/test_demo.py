"""`pushtrain demo`, as a person calls it."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pexpect
import pytest

from pushtrain.demo.story import _interruptible
from pushtrain.plumbing.programs import proc
from pushtrain.testing import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

DEMO = (sys.executable, "-P", "-m", "pushtrain", "demo")


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """The demo's folder is made below a folder of ours, so that we see what is left."""
    folder = tmp_path / "tmp"
    folder.mkdir()
    return {**os.environ, "TMPDIR": str(folder), "PUSHTRAIN_STATE": str(tmp_path / "not-this-one")}


def _left(environment: dict[str, str]) -> list[str]:
    """Files and processes of the demo that are still there."""
    folder = environment["TMPDIR"].encode()
    found = [path.name for path in Path(environment["TMPDIR"]).iterdir()]
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            told = (entry / "cmdline").read_bytes() + (entry / "environ").read_bytes()
            if folder in told and entry.name != str(os.getpid()):
                found.append((entry / "cmdline").read_bytes().replace(b"\0", b" ").decode())
        except OSError:
            continue
    return found


def _seconds(line: str) -> float:
    number, unit = line.replace("\xa0", " ").split()
    return float(number) / {"ms": 1000, "s": 1}[unit]


def test_the_story_is_told_in_plain_lines_and_leaves_nothing_behind(environment: dict[str, str]) -> None:
    done = subprocess.run(DEMO, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    told = done.stdout
    assert done.stderr == ""
    assert "\x1b" not in told
    assert "\r" not in told
    addresses = ("http", environment["TMPDIR"], "✓")
    assert all(len(line) <= 80 for line in told.splitlines() if not any(sign in line for sign in addresses))
    for station in (
        "push",
        "webhook",
        "command",
        "fetch",
        "checkout",
        "data",
        "environment",
        "train",
        "publish",
    ):
        assert len(re.findall(rf"✓ {station} {{2,}}", told)) == 2, station
    assert re.search(r"jobs run at the level \w+, network [\w-]+", told)
    assert told.count("│ epoch 36/36") == 2
    assert told.count("test digits are read rightly") == 1
    assert told.count("accuracy: ") == 2
    assert "+ FILTERS = 20" in told
    _, cold, warm = re.split(" {2,}", [line for line in told.splitlines() if "in all" in line][-1].strip())
    assert 0 < _seconds(warm) < 60  # a busy machine's; docs/benchmarks.md has a quiet one's
    assert 0 < _seconds(cold) < 90
    page = (Path(__file__).parents[2] / "docs" / "demo.md").read_text()
    assert re.findall("^[A-Z].* ─+$", page, re.MULTILINE) == re.findall("^[A-Z].* ─+$", told, re.MULTILINE)
    assert not (Path(environment["PUSHTRAIN_STATE"])).exists()
    assert _left(environment) == []


def test_kept_it_goes_on_and_says_how_to_look_around_and_how_to_end_it(environment: dict[str, str]) -> None:
    done = subprocess.run((*DEMO, "--keep", "--json"), env=environment, capture_output=True, check=True)
    told = json.loads(done.stdout)
    folder = Path(told["folder"])
    pids = {pid: proc.start_time(pid) for pid in told["pids"].values()}
    try:
        assert all(pids.values())
        assert told["warm"]["accuracy"] >= 0.95
        assert told["warm"]["accuracy"] > told["cold"]["accuracy"]
        look = subprocess.run(
            (*DEMO[:-1], "ps", "--json", "--state", folder / "sender"),
            env=environment,
            capture_output=True,
            check=True,
        )
        assert {run["id"] for run in json.loads(look.stdout)} == {
            told["cold"]["run_id"],
            told["warm"]["run_id"],
        }
        clone = subprocess.run(
            ("git", "-C", folder / "digits", "fetch", "origin", "pushtrain/results"),
            capture_output=True,
            check=False,
        )
        assert clone.returncode == 0
    finally:
        for pid, start in pids.items():
            assert start is not None
            proc.send(pid, start, signal.SIGTERM)
        wait_until(lambda: not any(proc.start_time(pid) == start for pid, start in pids.items()))
        shutil.rmtree(folder)
    assert _left(environment) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_second_signal_is_not_heard_before_the_first_is_caught(number: signal.Signals) -> None:
    """One that came while the first was on its way up left the folder and its processes behind."""
    heard = []
    with _interruptible():
        try:
            os.kill(os.getpid(), number)
        except BaseException as first:  # noqa: BLE001  it is a signal's
            heard.append(type(first))
            for again in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                os.kill(os.getpid(), again)
    assert heard == [KeyboardInterrupt if number == signal.SIGINT else SystemExit]


@pytest.mark.parametrize(
    ("number", "moment", "status"),
    [
        (signal.SIGINT, "pushtrain demo", 130),
        (signal.SIGHUP, "executor", 129),
        (signal.SIGTERM, "epoch  2/36", 143),
    ],
)
def test_interrupted_at_any_moment_nothing_is_left(
    environment: dict[str, str], number: signal.Signals, moment: str, status: int
) -> None:
    with subprocess.Popen(DEMO, env=environment, stdout=subprocess.PIPE, text=True) as demo:
        assert demo.stdout is not None
        assert any(moment in line for line in demo.stdout)
        demo.send_signal(number)
        demo.send_signal(number)  # an impatient second time
        demo.stdout.read()
        assert demo.wait(timeout=30) == status
    assert _left(environment) == []


def test_on_a_terminal_it_is_live_and_ctrl_c_ends_it(environment: dict[str, str]) -> None:
    environment["TERM"] = "xterm-256color"
    demo = pexpect.spawn(
        DEMO[0], [*DEMO[1:]], env=environment, timeout=90, dimensions=(40, 80), encoding="utf-8"
    )
    demo.expect("Git host")
    demo.expect("\x1b")
    demo.expect("environment")
    demo.sendintr()
    demo.expect(pexpect.EOF)
    demo.close()
    assert demo.exitstatus == 130
    assert "\x1b[?25h" in (demo.before or "")  # the cursor is back
    assert _left(environment) == []
