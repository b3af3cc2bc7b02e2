"""Jobs that take more than they may: they end with a reason, and the machine stays as it was.

Each runs twice: with control groups, where the kernel keeps the limit, and without, where the shim looks.
"""

import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pushtrain.adapters.sandboxes import Ground
from pushtrain.adapters.sandboxes.sandbox import Bubblewrap
from pushtrain.core.values.isolation import JobNetwork
from pushtrain.core.values.states import Reason
from pushtrain.executor.runs import launch
from pushtrain.executor.runs.verdicts import sentence
from pushtrain.plumbing.attempts.records import Limited, Orders, Verdict
from pushtrain.plumbing.attempts.rundir import RunDir
from pushtrain.plumbing.isolation import cgroups
from pushtrain.plumbing.programs import proc
from pushtrain.ports import Cage, Enclosure

MIB = 1024 * 1024
Run = Callable[..., Verdict]


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return launch.compile_shim(tmp_path_factory.mktemp("shim"))


@pytest.fixture(params=["groups", "looking"])
def groups(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, str]:
    """Control groups for one attempt, or none."""
    if request.param == "looking":
        return {}
    found = cgroups.of_attempt(cgroups.find(), f"test-{os.getpid()}-{tmp_path.name}")
    if not found:
        pytest.skip("this machine gives us no control groups; the other half of this test has run")
    return found


@pytest.fixture(params=["sandbox", "plain"])
def enclosed(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[RunDir], Enclosure]:
    """Inside bubblewrap, or not."""
    sandbox = Bubblewrap(Ground(tmp_path / "isolation"))
    if request.param == "plain":
        return lambda _: Enclosure()
    if why := sandbox.missing()[0]:
        pytest.skip(f"level `sandbox` cannot be tried here: {why}")
    python = Path(sys.base_prefix)
    return lambda folder: sandbox.enclose(
        Cage((folder.job, folder.checkpoint), (python,), folder.tmp, JobNetwork.NONE)
    )


@pytest.fixture
def run(
    tmp_path: Path, compiled: Path, groups: dict[str, str], enclosed: Callable[[RunDir], Enclosure]
) -> Iterator[Run]:
    """Run a Python program to its verdict under limits."""
    folder = RunDir.of(tmp_path, "run", 1).create()
    folder.tree.mkdir()
    begun: list[launch.Process] = []

    def go(script: str, **limits: Any) -> Verdict:
        kept = Limited(cgroups=groups, folders=(str(folder.job), str(folder.checkpoint)), **limits)
        enclosure = enclosed(folder)
        orders = Orders(
            argv=(f"{sys.base_prefix}/bin/python3", "-c", script), env={"PATH": "/usr/bin:/bin"},
            cwd=str(folder.tree), log_limit=64 * MIB, timeout=60, setup_timeout=60, grace=2,
            limits=kept, enclosure=enclosure,
        )  # fmt: skip
        begun.append(launch.start(folder, orders, compiled))
        assert proc.ended_within(begun[0].pid, 60), "the shim did not end"
        launch.bury(begun[0])
        found = folder.read_verdict()
        assert found is not None, folder.log.read_text()
        return found

    yield go
    for one in begun:
        proc.send(one.pid, one.start, signal.SIGKILL)
    assert not [path for path in groups.values() if Path(path).exists()], "a group was left behind"


def test_a_job_within_its_limits_ends_as_always(run: Run) -> None:
    verdict = run("print('fine')", memory=512 * MIB, processes=64, disk=64 * MIB)
    assert (verdict.reason, verdict.code) == (Reason.EXITED, 0)


def test_a_memory_hog_ends_with_the_reason_oom(run: Run, groups: dict[str, str]) -> None:
    hog = "import time\nheld = bytearray(400 << 20)\nheld[::4096] = b'x' * (100 << 10)\ntime.sleep(50)"
    verdict = run(hog, memory=150 * MIB)
    assert verdict.reason is Reason.OOM
    said = sentence(verdict, limit=60)
    assert said.startswith("It was ended by the owner's rule `rules.limits.memory`. It ")
    assert "157 MB" in said
    assert ("was killed" in said) == bool(groups)


def test_workers_that_share_their_memory_are_not_counted_twice(run: Run) -> None:
    script = (
        "import os, time\nheld = bytearray(80 << 20)\nheld[::4096] = b'x' * (20 << 10)\n"
        "for _ in range(3):\n  if os.fork() == 0: time.sleep(2.5); os._exit(0)\n"
        "for _ in range(3): os.wait()"
    )
    assert run(script, memory=200 * MIB).code == 0


def test_shared_memory_counts_though_no_process_holds_it(
    run: Run, enclosed: Callable[[RunDir], Enclosure], groups: dict[str, str], tmp_path: Path
) -> None:
    if not groups and not enclosed(RunDir(tmp_path).create()).prefix:
        pytest.skip("what lies in the machine's own /dev/shm cannot be told whose it is")
    name = f"/dev/shm/pushtrain-test-{os.getpid()}"  # noqa: S108  shared memory is there
    hog = (
        f"import time\nwith open({name!r}, 'wb') as f:\n"
        "  for _ in range(400): f.write(bytes(1 << 20))\ntime.sleep(50)"
    )
    try:
        assert run(hog, memory=150 * MIB).reason is Reason.OOM
    finally:
        Path(name).unlink(missing_ok=True)


BOMB = (
    "import os, time\nmade = 0\n"
    "try:\n"
    "  while made < 300:\n"
    "    if os.fork() == 0: time.sleep(20); os._exit(0)\n"
    "    made += 1\n"
    "except BlockingIOError: print('refused at', made, flush=True)\n"
    "os._exit(9 if made < 300 else 0) if made < 300 else time.sleep(20)"
)


def test_a_fork_bomb_is_stopped_and_swept_away(run: Run, groups: dict[str, str], tmp_path: Path) -> None:
    verdict = run(BOMB, processes=100)
    if groups:
        assert (verdict.code, "refused at" in (tmp_path / "run/1/log.txt").read_text()) == (9, True)
    else:
        assert verdict.reason is Reason.PROCESSES
        assert "100 are allowed" in verdict.detail
    assert not proc.marked(str(tmp_path))


@pytest.mark.parametrize("held", ["", "; os.unlink('big')"])
def test_a_disk_filler_ends_with_the_reason_disk(run: Run, held: str, groups: dict[str, str]) -> None:
    if groups:
        pytest.skip("control groups know nothing of disks; the other half of this test has run")
    filler = (
        f"import os, time\nf = open('big', 'wb'){held}\n"
        "for _ in range(100): f.write(os.urandom(1 << 20)); f.flush()\ntime.sleep(50)"
    )
    verdict = run(filler, disk=40 * MIB)
    assert verdict.reason is Reason.DISK
    assert "41.9 MB are allowed" in verdict.detail


def test_a_file_with_many_names_counts_once(run: Run, groups: dict[str, str]) -> None:
    if groups:
        pytest.skip("control groups know nothing of disks; the other half of this test has run")
    script = (
        "import os, time\nopen('one', 'wb').write(os.urandom(10 << 20))\n"
        "for n in range(9): os.link('one', f'n{n}')\ntime.sleep(2)"
    )
    assert run(script, disk=40 * MIB).code == 0
