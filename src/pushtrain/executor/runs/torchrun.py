"""Jobs of several processes: `launcher = "torchrun"`, and what jobs that start theirs themselves find set.

One process a GPU, all on this machine. They find each other on loopback alone, whatever the machine is called
and whether or not that name can be looked up, so it works in a network namespace of the job's own.
"""

import socket
from collections.abc import Sequence
from typing import Final

from pushtrain.core.values.jobspec import JobSpec, Launcher

LOOPBACK: Final = "127.0.0.1"


def launched(job: JobSpec, argv: Sequence[str], *, processes: int) -> tuple[str, ...]:
    """What is executed for a job's command: the command, or torchrun with it.

    Args:
        job: The job.
        argv: Its command, which need not be Python.
        processes: How many times torchrun starts it.
    """
    if job.launcher is not Launcher.TORCHRUN:
        return tuple(argv)
    return (
        "torchrun",
        "--standalone",
        f"--local-addr={LOOPBACK}",
        f"--nproc-per-node={processes}",
        "--no-python",
        *argv,
    )


def meeting_point(gpus: int, *, port: int) -> dict[str, str]:
    """Variables by which the processes of one job find each other; none for a job of one GPU or none.

    `WORLD_SIZE`, `RANK` and `LOCAL_RANK` are not among them: they belong to a process, and programs take
    them as a sign that a launcher has started them already.
    """
    if gpus <= 1:
        return {}
    return {
        "MASTER_ADDR": LOOPBACK,
        "MASTER_PORT": str(port),
        "NPROC_PER_NODE": str(gpus),
        "PET_NPROC_PER_NODE": str(gpus),
        "PET_MASTER_ADDR": LOOPBACK,
        "PET_MASTER_PORT": str(port),
        "PET_LOCAL_ADDR": LOOPBACK,
        "GLOO_SOCKET_IFNAME": "lo",  # else Gloo looks the machine's name up, which need not lead anywhere
    }


def free_port() -> int:
    """A port of loopback that nobody listens on at the moment."""
    with socket.socket() as one:
        one.bind((LOOPBACK, 0))
        return int(one.getsockname()[1])
