"""`import pushtrain` in a training script: what it does inside a run and without pushtrain at all."""

import ast
import json
import math
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import pushtrain
from pushtrain import job
from pushtrain.executor.runs import library
from pushtrain.plumbing.attempts.rundir import RunDir

SOURCES = [Path(pushtrain.__file__), Path(job.__file__), Path(job.__file__).with_name("jobinit.py")]
OURS = {name for name in os.environ if name.startswith("PUSHTRAIN")}
NO_SITE = (sys.executable, "-S", "-c")
"""A Python in which nothing is installed."""


@pytest.fixture
def shown(tmp_path: Path) -> RunDir:
    """An attempt's folder with what its job is shown."""
    folder = RunDir.of(tmp_path, "run", 1).create()
    library.show(folder)
    return folder


def environ(**more: str | Path) -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name not in OURS} | {
        name: str(value) for name, value in more.items()
    }


def ran(script: str, cwd: Path, *argv: str, **more: str | Path) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        (*(argv or NO_SITE), script),
        cwd=cwd,
        env=environ(**more),
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.name)
def test_it_is_plain_python_3_8_of_the_standard_library(source: Path) -> None:
    tree = ast.parse(source.read_text(), feature_version=(3, 8))
    named = {
        name.split(".")[0]
        for node in ast.walk(tree)
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module or ""]
            if isinstance(node, ast.ImportFrom)
            else []
        )
    }
    assert named <= set(sys.stdlib_module_names) | {"pushtrain"}
    if source.name != "__init__.py":  # ours is for Pythons that pushtrain itself runs on
        assert "from __future__ import annotations" in source.read_text()


def test_importing_pushtrain_loads_nothing_that_must_be_installed(shown: RunDir, tmp_path: Path) -> None:
    script = (
        "import sys; before = set(sys.modules); import pushtrain; pushtrain.should_stop(); "
        "print(sorted(name for name in set(sys.modules) - before if name.split('.')[0] not in "
        "sys.stdlib_module_names))"
    )
    for where in (shown.library, SOURCES[0].parents[1]):
        done = ran(script, tmp_path, PYTHONPATH=where)
        assert done.stdout == "['pushtrain', 'pushtrain.job']\n", done.stderr


def test_what_a_run_tells_is_what_a_script_sees(shown: RunDir, tmp_path: Path) -> None:
    script = (
        "import pushtrain as p; print(p.inside, p.resuming, p.checkpoint_dir, p.should_stop()); "
        "p.log(step=3, loss=0.5, bad=float('nan')); p.log(loss=1); p.checkpointed()"
    )
    facts: dict[str, str | Path] = {
        "PUSHTRAIN": "1",
        "PUSHTRAIN_RESUME": "1",
        "PUSHTRAIN_CHECKPOINT_DIR": shown.checkpoint,
        "PUSHTRAIN_METRICS": tmp_path / "metrics.jsonl",
    }
    done = ran(script, tmp_path, PYTHONPATH=shown.library, **facts)
    assert (done.stdout, done.returncode) == (f"True True {shown.checkpoint} False\n", 85), done.stderr
    first, second = (tmp_path / "metrics.jsonl").read_text().splitlines()
    told = json.loads(first)
    assert (told.pop("step"), told.pop("loss"), math.isnan(told.pop("bad")), told) == (3, 0.5, True, {})
    assert json.loads(second) == {"loss": 1}


def test_outside_pushtrain_the_same_script_runs_too(shown: RunDir, tmp_path: Path) -> None:
    script = (
        "import pushtrain as p; print(p.inside, p.resuming, p.checkpoint_dir, p.should_stop()); "
        "p.log(step=1, loss=2); p.checkpointed()"
    )
    done = ran(script, tmp_path, PYTHONPATH=shown.library)
    assert (done.stdout, done.returncode) == (f"False False {tmp_path / 'checkpoints'} False\n", 0), (
        done.stderr
    )
    assert (tmp_path / "checkpoints").is_dir()
    assert (tmp_path / "metrics.jsonl").read_text() == '{"step": 1, "loss": 2}\n'


LISTENS = (
    "import os, signal, sys, pushtrain\n"
    "{before}\n"
    "assert not pushtrain.should_stop(); os.write(1, b'ready\\n')\n"
    "while not pushtrain.should_stop(): pass\n"
    "print('asked', flush=True); pushtrain.checkpointed()\n"
)


def listening(tmp_path: Path, shown: RunDir, before: str = "", **more: str | Path) -> "subprocess.Popen[str]":
    child = subprocess.Popen(
        (*NO_SITE, LISTENS.format(before=before)),
        cwd=tmp_path,
        env=environ(PYTHONPATH=shown.library, PUSHTRAIN="1", **more),
        stdout=subprocess.PIPE,
        text=True,
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "ready\n"
    return child


def ended(child: "subprocess.Popen[str]") -> tuple[str, int]:
    try:
        said, _ = child.communicate(timeout=20)
    finally:
        child.kill()
        child.wait()
    return said, child.returncode


@pytest.mark.parametrize("name", ["SIGTERM", "SIGUSR2"])
def test_a_script_hears_the_jobs_preempt_signal(shown: RunDir, tmp_path: Path, name: str) -> None:
    child = listening(tmp_path, shown, PUSHTRAIN_PREEMPT_SIGNAL=name)
    child.send_signal(getattr(signal, name))
    assert ended(child) == ("asked\n", 85)


def test_a_script_sees_the_stop_file_where_no_signal_comes(shown: RunDir, tmp_path: Path) -> None:
    child = listening(tmp_path, shown, PUSHTRAIN_PREEMPT_SIGNAL="none", PUSHTRAIN_STOP_FILE=shown.stop_file)
    shown.stop_file.write_text("{}")
    assert ended(child) == ("asked\n", 85)


def test_a_handler_that_stood_there_before_still_runs(shown: RunDir, tmp_path: Path) -> None:
    child = listening(
        tmp_path, shown, "signal.signal(signal.SIGTERM, lambda *_: print('theirs', flush=True))"
    )
    child.send_signal(signal.SIGTERM)
    assert ended(child) == ("theirs\nasked\n", 85)


def test_children_that_a_script_forks_can_still_be_terminated(shown: RunDir, tmp_path: Path) -> None:
    script = (
        "import os, signal, pushtrain\n"
        "pushtrain.should_stop()\n"
        "ends = set()\n"
        "for _ in range(50):\n"  # also at the very moment of the fork
        "    child = os.fork()\n"
        "    if child == 0:\n"
        "        while True: signal.pause()\n"
        "    os.kill(child, signal.SIGTERM)\n"
        "    ends.add(os.WTERMSIG(os.waitpid(child, 0)[1]))\n"
        "print(ends, pushtrain.should_stop())\n"
    )
    done = ran(script, tmp_path, PYTHONPATH=shown.library)
    assert done.stdout == "{15} False\n", done.stderr


def test_a_thread_that_asks_sees_the_file(shown: RunDir, tmp_path: Path) -> None:
    script = (
        "import threading, pushtrain\n"
        "t = threading.Thread(target=lambda: print(pushtrain.should_stop())); t.start(); t.join()\n"
    )
    shown.stop_file.write_text("{}")
    done = ran(script, tmp_path, PYTHONPATH=shown.library, PUSHTRAIN_STOP_FILE=shown.stop_file)
    assert done.stdout == "True\n", done.stderr


def theirs(folder: Path) -> Path:
    (folder / "pushtrain").mkdir(parents=True)
    (folder / "pushtrain" / "__init__.py").write_text("mine = 'theirs'\n")
    return folder


def by_path(folder: Path) -> str:
    """As an ordinary installation: later on the path."""
    return f"import sys; sys.path.append({str(folder)!r})"


def by_finder(folder: Path) -> str:
    """As an editable installation: by a finder of its own."""
    file = str(folder / "pushtrain" / "__init__.py")
    return (
        "import sys, importlib.util\n"
        "class Finder:\n"
        "    @staticmethod\n"
        "    def find_spec(name, path, target=None):\n"
        f"        if name == 'pushtrain': return importlib.util.spec_from_file_location(name, {file!r})\n"
        "sys.meta_path.append(Finder)"
    )


@pytest.mark.parametrize("installed", [by_path, by_finder])
def test_an_installed_pushtrain_is_not_shadowed(
    shown: RunDir, tmp_path: Path, installed: Callable[[Path], str]
) -> None:
    prepared = installed(theirs(tmp_path / "site"))
    done = ran(f"{prepared}\nimport pushtrain\nprint(pushtrain.mine)", tmp_path, PYTHONPATH=shown.library)
    assert done.stdout == "theirs\n", done.stderr


def test_a_folder_that_happens_to_have_the_name_is_no_package(shown: RunDir, tmp_path: Path) -> None:
    (tmp_path / "pushtrain").mkdir()
    script = "import sys; sys.path.append('.'); import pushtrain; print(pushtrain.inside)"
    done = ran(script, tmp_path, sys.executable, "-S", "-P", "-c", PYTHONPATH=shown.library)
    assert done.stdout == "False\n", done.stderr


def test_what_a_job_is_shown_everybody_can_read(shown: RunDir) -> None:
    for path in (shown.shown, shown.library, *shown.library.rglob("*")):
        assert path.stat().st_mode & 0o555 == (0o555 if path.is_dir() else 0o444), path


def test_pushtrain_itself_has_the_same_names() -> None:
    assert set(pushtrain.__all__) == set(job.__all__)
    assert pushtrain.should_stop is job.should_stop
    for module in (pushtrain, job):
        with pytest.raises(AttributeError, match="no attribute 'nothing'"):
            _ = module.nothing
