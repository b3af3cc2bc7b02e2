"""Attacks on an executor that an ordinary user runs: no capabilities, no control groups, one uid for all."""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

import pushtrain

ROOT = Path(__file__).parents[2]
SYSTEM = Path(f"/usr/bin/python{sys.version_info[0]}.{sys.version_info[1]}")
TRIED = "forge or truncate or reads_no_other or outlives or ends_with_its_shim or variables or runs_in"


@pytest.mark.slow
def test_the_attacks_come_to_nothing_for_an_ordinary_users_executor_too() -> None:
    if os.getuid() or not shutil.which("setpriv"):
        pytest.skip("only root can become another user; a user has run the others as one already")
    if not SYSTEM.exists():
        pytest.skip(f"another user cannot run this Python, and there is no {SYSTEM}")
    packages = [path for path in sys.path if path.endswith("site-packages")]
    with tempfile.TemporaryDirectory(dir="/var/tmp") as place:
        folder = Path(place)
        venv = (SYSTEM, "-m", "venv", "--without-pip", "--symlinks", folder / "venv")
        if subprocess.run(venv, capture_output=True, check=False).returncode:
            pytest.skip(f"{SYSTEM} makes no virtual environments")
        folder.chmod(0o755)
        (folder / "home").mkdir()
        os.chown(folder / "home", 34567, 34567)
        env = {
            "PATH": f"{folder}/venv/bin:/usr/bin:/bin",
            "HOME": f"{folder}/home",
            "TMPDIR": f"{folder}/home",
            "PYTHONPATH": os.pathsep.join([str(Path(pushtrain.__file__).parents[1]), *packages]),
        }
        become = ("setpriv", "--reuid", "34567", "--regid", "34567", "--clear-groups")
        words = ("-B", "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", TRIED)
        argv = (*become, f"{folder}/venv/bin/python", *words, "tests/executor/test_isolation.py")
        done = subprocess.run(argv, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    if "Permission denied" in done.stdout + done.stderr and " passed" not in done.stdout:
        pytest.skip("another user cannot read where pushtrain is installed")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-2000:]
    assert " passed" in done.stdout
