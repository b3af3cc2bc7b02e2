"""The environment of a job: everything in it is listed here and in docs/environment-variables.md.

Nothing is inherited but a short list that programs need to find each other, to speak the user's language and
to reach the network. A proxy's address is passed on only when it holds no password. What says where the run's
own folders are cannot be overridden by the job.
"""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from pushtrain.core.values.run import Run
from pushtrain.executor.runs.torchrun import free_port, meeting_point
from pushtrain.plumbing.attempts.rundir import RunDir
from pushtrain.plumbing.programs.proc import ATTEMPT_MARK
from pushtrain.ports import Activation

INHERITED: Final = (
    "PATH",
    "LANG",
    "LANGUAGE",
    "LC_ALL",
    "LC_COLLATE",
    "LC_CTYPE",
    "LC_MESSAGES",
    "LC_MONETARY",
    "LC_NUMERIC",
    "LC_TIME",
    "TZ",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "REQUESTS_CA_BUNDLE",
    "CURL_CA_BUNDLE",
)
"""Taken over from the executor's own environment as they are."""
PROXIES: Final = ("http_proxy", "https_proxy", "ftp_proxy", "all_proxy", "no_proxy")
"""Taken over in either case, unless they hold a user or a password."""
_DEFAULT_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_NOT_A_NAME: Final = re.compile(r"[^A-Z0-9_]")


def attempt_mark(run: Run) -> str:
    """The value of PUSHTRAIN_ATTEMPT_ID: no other attempt has it, nor one of another executor."""
    return f"{run.id}.{run.attempt}.{run.token[:12]}"


def job_environment(
    run: Run,
    folder: RunDir,
    *,
    caches: Path,
    activation: Activation,
    gpus: Sequence[str],
    inherited: Mapping[str, str],
) -> dict[str, str]:
    """All variables of a job.

    Args:
        run: The run, claimed.
        folder: Its attempt's folder.
        caches: The repository's own cache folder.
        activation: What its environment needs.
        gpus: UUIDs of the GPUs that it has; it sees no others.
        inherited: The executor's own environment.
    """
    command = run.command
    env = _passed_on(inherited)
    env |= {
        "HOME": str(caches / "home"),
        "HF_HOME": str(caches / "huggingface"),
        "TORCH_HOME": str(caches / "torch"),
        "XDG_CACHE_HOME": str(caches / "cache"),
        "TMPDIR": str(folder.tmp),
        "CI": "true",
        "GITHUB_SHA": command.commit,
        "GITHUB_REF": command.ref,
        "GITHUB_REPOSITORY": command.repository.partition("/")[2],
    }
    env |= meeting_point(len(gpus), port=free_port())
    env |= activation.env
    env["PATH"] = ":".join([*map(str, activation.path), env.get("PATH", _DEFAULT_PATH)])
    env |= command.job.env
    env["PYTHONPATH"] = ":".join(filter(None, (env.get("PYTHONPATH"), str(folder.library))))
    return env | _ours(run, folder) | _pinned(gpus)


def _passed_on(inherited: Mapping[str, str]) -> dict[str, str]:
    env = {name: inherited[name] for name in INHERITED if name in inherited}
    for name in (*PROXIES, *map(str.upper, PROXIES)):
        if "@" not in (value := inherited.get(name, "@")):
            env[name] = value
    return env


def _pinned(gpus: Sequence[str]) -> dict[str, str]:
    """The GPUs that a job sees, by UUID: numbers mean something else to each program."""
    return {
        "CUDA_VISIBLE_DEVICES": ",".join(gpus),
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
        "NVIDIA_VISIBLE_DEVICES": ",".join(gpus) or "void",
    }


def _ours(run: Run, folder: RunDir) -> dict[str, str]:
    command = run.command
    return (
        {
            "PUSHTRAIN": "1",
            "PUSHTRAIN_RUN_ID": run.id,
            "PUSHTRAIN_ATTEMPT": str(run.attempt),
            ATTEMPT_MARK: attempt_mark(run),
            "PUSHTRAIN_JOB": command.job.name,
            "PUSHTRAIN_COMMIT": command.commit,
            "PUSHTRAIN_REF": command.ref,
            "PUSHTRAIN_REPOSITORY": command.repository,
            "PUSHTRAIN_PARAMS": json.dumps(command.job.cell, separators=(",", ":")),
            "PUSHTRAIN_DATA_DIR": str(folder.tree),
            "PUSHTRAIN_RESULTS_DIR": str(folder.results),
            "PUSHTRAIN_CHECKPOINT_DIR": str(folder.checkpoint),
            "PUSHTRAIN_STOP_FILE": str(folder.stop_file),
            "PUSHTRAIN_PREEMPT_SIGNAL": command.job.preempt_signal.value,
            "PUSHTRAIN_SUMMARY": str(folder.summary),
            "PUSHTRAIN_METRICS": str(folder.metrics),
        }
        | {
            f"PUSHTRAIN_PARAM_{_NOT_A_NAME.sub('_', name.upper())}": value
            if isinstance(value, str)
            else json.dumps(value)
            for name, value in command.job.cell.items()
        }
        | ({"PUSHTRAIN_RESUME": "1"} if folder.checkpointed() else {})
    )
