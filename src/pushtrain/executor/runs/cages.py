"""What an attempt may see and use: its own folders, what was fetched and built for it, and nothing else."""

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from pushtrain.core.owner.rules import GIB, Limits
from pushtrain.core.values.card import Gpu
from pushtrain.core.values.isolation import JobNetwork
from pushtrain.plumbing.attempts.records import Limited
from pushtrain.plumbing.attempts.rundir import RunDir
from pushtrain.plumbing.disk.state import StateFolder
from pushtrain.plumbing.isolation.cgroups import of_attempt
from pushtrain.plumbing.isolation.interpreters import needed
from pushtrain.ports import Activation, Cage


def cores_and_memory(limits: Limits) -> tuple[int, int]:
    """Processor cores, and bytes of memory, that an attempt may use on this machine."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return len(os.sched_getaffinity(0)), limits.memory or max(GIB, memory - max(memory // 10, GIB))


def limited(
    folder: RunDir, limits: Limits, *, caches: Path, mark: str, cgroups: Mapping[str, Path]
) -> Limited:
    """What the shim keeps a job to.

    Args:
        folder: The attempt's.
        limits: The owner's.
        caches: The repository's own.
        mark: No other attempt has it.
        cgroups: Where control groups can be made.
    """
    return Limited(
        memory=cores_and_memory(limits)[1],
        processes=limits.processes,
        disk=limits.disk,
        folders=(str(folder.job), str(folder.checkpoint)),
        growing=(str(caches),),
        cgroups=of_attempt(cgroups, mark),
    )


def compiling_cage(root: Path, python: Path, state: StateFolder, *, network: JobNetwork) -> Cage:
    """The cage in which an environment's Python compiles it: packages may have code run at each start."""
    return Cage(
        writable=(root,),
        readable=(*needed((python.parent,), never=_private(state)), state.tools / "python"),
        network=network,
        own=(root,),
    )


def _private(state: StateFolder) -> tuple[Path, ...]:
    return Path(os.path.expanduser("~")), state.root  # noqa: PTH111  a home that is not there is no error


def job_cage(
    folder: RunDir,
    state: StateFolder,
    limits: Limits,
    *,
    network: JobNetwork,
    activation: Activation,
    root: Path,
    caches: Path,
    data: Iterable[Path],
    gpus: Sequence[Gpu],
) -> Cage:
    """The cage of a job's commands.

    Args:
        folder: The attempt's.
        state: This executor's state folder.
        limits: The owner's.
        network: What it reaches.
        activation: How it runs in its environment.
        root: Where that is.
        caches: The repository's own.
        data: What was fetched for it, and the folders lent to it.
        gpus: Those that the run was given.
    """
    environment = () if root.is_relative_to(folder.root) else (root,)
    return Cage(
        writable=(folder.job, folder.checkpoint, caches),
        readable=(
            folder.shown,
            *data,
            *environment,
            *activation.readable,
            *needed(activation.path, never=_private(state)),
            state.tools / "python",
        ),
        tmp=folder.tmp,
        network=network,
        gpus=tuple(gpus),
        limits=limits,
    )
