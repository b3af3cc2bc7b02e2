"""The guard, where there are no control groups: memory that no process calls its own counts, too."""

import subprocess
import sys

import pytest

from pushtrain.plumbing.isolation.guard import Guard

MIB = 1 << 20
SHARED = "import mmap; held = mmap.mmap(-1, 64 << 20); held.write(b'x' * (64 << 20))"
UNMAPPED = "import os; held = os.memfd_create('x'); [os.write(held, b'x' * (1 << 20)) for _ in range(64)]"


@pytest.mark.parametrize("hoard", [SHARED, UNMAPPED], ids=["shared without a file", "a file of memory"])
@pytest.mark.parametrize("allowed", [48 * MIB, 128 * MIB], ids=["over", "within"])
def test_memory_that_is_not_a_process_own_counts(hoard: str, allowed: int) -> None:
    limits = {"memory": allowed, "processes": 0, "disk": 0, "folders": (), "growing": (), "cgroups": {}}
    program = f"{hoard}; print('ready', flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as job:
        assert job.stdout is not None
        assert job.stdout.readline() == "ready\n"
        found = Guard(limits).look(lambda: [job.pid])
        job.communicate("\n")
    assert (found is not None and found[0] == "oom") == (allowed == 48 * MIB)
