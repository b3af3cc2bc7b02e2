"""Find out before training whether torch sees the GPUs that the run was given.

A torch build that does not fit the driver trains on the CPU without a word, for hours. So a run that has GPUs
and whose environment has torch asks torch first; what fits once is not asked again.
"""

import json
import logging
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from pushtrain.plumbing.isolation.inside import command
from pushtrain.plumbing.programs import process
from pushtrain.ports import Enclosure, Stop

_log = logging.getLogger(__name__)

_QUESTION: Final = """
import importlib.util, json, sys
if importlib.util.find_spec("torch") is None:
    sys.exit()
import torch
seen = torch.cuda.device_count() if torch.cuda.is_available() else 0
print("\\n" + json.dumps([torch.__version__, torch.version.cuda or torch.version.hip, seen]))
"""
_SECONDS: Final = 300.0


def ask_torch(
    env: Mapping[str, str],
    cwd: Path,
    *,
    gpus: int,
    driver: str,
    enclosure: Enclosure | None = None,
    stop: Stop | None = None,
) -> str | None:
    """Why training on these GPUs cannot work, in a sentence; empty when it can; None when nobody can tell.

    Args:
        env: The job's environment.
        cwd: A folder in which nothing can be imported by accident.
        gpus: How many the run has.
        driver: The driver's version, for the sentence.
        enclosure: What jobs are kept in: what is imported here may be the repository's own code.
        stop: Called now and then.
    """
    python = shutil.which("python", path=env["PATH"]) or shutil.which("python3", path=env["PATH"])
    if python is None:
        return None
    enclosure = enclosure or Enclosure()
    argv, given = command(enclosure, (python, "-c", _QUESTION), env)
    try:
        done = process.run(argv, env=given, cwd=cwd, stop=stop, timeout=_SECONDS)
    except TimeoutError:
        return None
    if done.code:
        _log.info("torch could not be asked: %s", done.complaint[-300:])
        return None
    if not done.text:
        return ""
    version, built, seen = json.loads(done.text.splitlines()[-1])
    if seen >= gpus:
        return ""
    build = f"built for {built}" if built else "built without GPU support"
    return (
        f"torch {version}, {build}, sees {seen or 'none'} of the run's {gpus} GPU{'s' if gpus > 1 else ''} "
        f"under driver {driver or 'unknown'}. "
        "Use a build of torch that fits the driver, or ask for no GPU."
    )
