"""A short verb is quick: it loads only what it needs, and Python looks for no garbage meanwhile."""

import subprocess
import sys
from pathlib import Path
from typing import Final

_LOADED: Final = "import sys, pushtrain.cli.app, pushtrain.cli.ps; print(*sys.modules)"
_GARBAGE: Final = """
import contextlib, gc, io, sys
from pushtrain.__main__ import main
looks = []
gc.collect()
gc.callbacks.append(lambda phase, _: looks.append(phase))
with contextlib.suppress(SystemExit):
    main()
print(len(looks), gc.get_freeze_count() > 10_000, file=sys.stderr)
"""

NEEDLESS: Final = (
    "pushtrain.core.jobs",  # job files are read by senders
    "pushtrain.core.lifecycle",  # runs are moved by executors
    "pushtrain.core.owner.verdict",
    "pushtrain.core.runs.gpuhealth",
    "pushtrain.core.runs.turns",
    "pushtrain.core.wire.roster",  # no roster is looked at where an executor is known already
    "pushtrain.executor",
    "pushtrain.plumbing.attempts",  # `logs` and `show` look into them
    "pushtrain.plumbing.git.command",
    "pushtrain.plumbing.git.mirror",
    "pushtrain.ports",
    "pushtrain.sender.placement",
    "rich",
    "starlette",
    "uvicorn",
)


def test_listing_runs_loads_nothing_that_it_has_no_use_for() -> None:
    done = subprocess.run((sys.executable, "-c", _LOADED), capture_output=True, text=True, check=True)
    loaded = done.stdout.split()
    assert "pushtrain.wiring.history" in loaded
    assert not [name for name in loaded if name.startswith(NEEDLESS)]


def test_no_look_for_garbage_falls_into_a_short_verb_nor_into_its_end(tmp_path: Path) -> None:
    argv = (sys.executable, "-c", _GARBAGE, "ps", "--state", str(tmp_path / "state"))
    done = subprocess.run(argv, capture_output=True, text=True, check=True, cwd=tmp_path)
    assert "No executor is known here" in done.stderr
    assert done.stderr.splitlines()[-1] == "0 True"
