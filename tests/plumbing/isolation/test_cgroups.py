"""Where control groups can be made: read from `/proc` as the kernel writes it, in both versions."""

import os
import subprocess
from pathlib import Path

import pytest

from pushtrain.plumbing.isolation import cgroups, guard


def tree(root: Path, own: str, mounts: str) -> Path:
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(own)
    (root / "proc/self/mountinfo").write_text(mounts)
    return root


def made(*folders: Path) -> None:
    for folder in folders:
        folder.mkdir(parents=True)
        for name in ("memory.limit_in_bytes", "memory.max", "pids.max", "cgroup.subtree_control"):
            (folder / name).touch()


def test_version_one_has_a_folder_for_each_controller(tmp_path: Path) -> None:
    mounts = (
        "30 25 0:26 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
        "31 25 0:27 / /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids\n"
        "32 25 0:28 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n"
    )
    root = tree(tmp_path, "5:memory:/jobs\n4:pids:/\n3:cpu,cpuacct:/\n0::/\n", mounts)
    made(root / "sys/fs/cgroup/memory/jobs", root / "sys/fs/cgroup/pids")
    assert cgroups.find(root) == {
        "memory": root / "sys/fs/cgroup/memory/jobs",
        "pids": root / "sys/fs/cgroup/pids",
    }


def test_version_two_makes_groups_beside_our_own_in_what_was_delegated(tmp_path: Path) -> None:
    mounts = "30 25 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n"
    root = tree(tmp_path, "0::/user.slice/pushtrain.service/executor\n", mounts)
    unit = root / "sys/fs/cgroup/user.slice/pushtrain.service"
    made(unit, unit / "executor")
    (unit / "executor/cgroup.subtree_control").unlink()
    (unit / "executor/cgroup.subtree_control").mkdir()  # as a group with a process in it refuses
    assert cgroups.find(root) == {"unified": unit}
    assert (unit / "cgroup.subtree_control").read_text() == "+memory +pids"


def test_where_nothing_may_be_made_there_are_none(tmp_path: Path) -> None:
    mounts = "30 25 0:26 / /sys/fs/cgroup ro - cgroup2 cgroup2 ro\n"
    assert cgroups.find(tree(tmp_path, "0::/\n", mounts)) == {}


def test_a_path_with_a_space_is_read_as_the_kernel_writes_it(tmp_path: Path) -> None:
    root = tree(tmp_path, "5:memory:/\n", "30 25 0:26 / /a\\040b rw - cgroup cgroup rw,memory\n")
    made(root / "a b")
    assert cgroups.find(root) == {"memory": root / "a b"}


def test_what_a_killed_shim_left_in_its_groups_is_ended_with_them() -> None:
    groups = cgroups.of_attempt(cgroups.find(), f"test-end-{os.getpid()}")
    if not groups:
        pytest.skip("this machine gives us no control groups")
    limits = {"memory": 1 << 30, "processes": 9, "disk": 0, "folders": (), "growing": (), "cgroups": groups}
    kept = guard.Guard(limits)
    kept.open()
    with subprocess.Popen(("sleep", "60")) as child:
        kept.enter(child.pid)
        assert cgroups.end(groups) == 1
        assert child.wait() == -9
    cgroups.end(groups)
    assert not [path for path in groups.values() if Path(path).exists()]
