"""Jobs of several processes: what torchrun is told, and, where there is one, that its processes meet."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pushtrain.core.values.jobspec import Launcher
from pushtrain.executor.runs.torchrun import free_port, launched, meeting_point
from pushtrain.testing import a_spec

MEET = """
import os, torch, torch.distributed as dist
dist.init_process_group("gloo")
mine = torch.ones(1)
dist.all_reduce(mine)
print("rank", os.environ["RANK"], "of", os.environ["WORLD_SIZE"], "counted", int(mine.item()), flush=True)
"""


def test_a_job_without_a_launcher_is_started_as_it_is() -> None:
    assert launched(a_spec(), ("python", "train.py"), processes=2) == ("python", "train.py")


def test_torchrun_starts_the_command_once_for_each_gpu_and_asks_no_name_server() -> None:
    argv = launched(a_spec(launcher=Launcher.TORCHRUN), ("bash", "-c", "python train.py"), processes=4)
    assert argv == (
        *("torchrun", "--standalone", "--local-addr=127.0.0.1", "--nproc-per-node=4", "--no-python"),
        *("bash", "-c", "python train.py"),
    )


def test_only_a_job_of_several_gpus_is_told_where_its_processes_meet() -> None:
    assert meeting_point(1, port=1) == {}
    assert meeting_point(2, port=29500)["MASTER_PORT"] == "29500"
    assert 0 < free_port() < 65536


def _torchrun() -> str:
    """A torchrun to try: that of PUSHTRAIN_TORCHRUN, else one beside this Python or on the path."""
    beside = Path(sys.executable).with_name("torchrun")
    return (
        os.environ.get("PUSHTRAIN_TORCHRUN")
        or (str(beside) if beside.exists() else "")
        or shutil.which("torchrun")
        or ""
    )


TORCHRUN = _torchrun()


@pytest.mark.slow
@pytest.mark.skipif(not TORCHRUN, reason="no torchrun here: set PUSHTRAIN_TORCHRUN to that of a PyTorch")
@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("unshare"), reason="makes a network namespace")
def test_processes_meet_where_there_is_no_network_and_no_name_for_the_machine(tmp_path: Path) -> None:
    (tmp_path / "meet.py").write_text(MEET)
    _, *rest = launched(a_spec(launcher=Launcher.TORCHRUN), ("python", "meet.py"), processes=2)
    alone = 'ip link set lo up; hostname no.such.host; exec "$@"'
    env = {"PATH": f"{Path(TORCHRUN).parent}:{os.environ['PATH']}", **meeting_point(2, port=free_port())}
    done = subprocess.run(
        ("unshare", "-n", "-u", "sh", "-c", alone, "sh", TORCHRUN, *rest),
        env=env,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert sorted(line for line in done.stdout.splitlines() if line.startswith("rank")) == [
        "rank 0 of 2 counted 2",
        "rank 1 of 2 counted 2",
    ], done.stderr
