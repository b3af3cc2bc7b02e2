"""Runs in a store, as tests put them there."""

from itertools import count

from pushtrain.core.values.card import Gpu
from pushtrain.core.values.command import TrainCommand
from pushtrain.core.values.jobspec import Resources
from pushtrain.core.values.run import Attempt, Run
from pushtrain.plumbing.sqlite.store import Store
from pushtrain.testing import NOON, SENDER, a_command, a_spec

_numbers = count()


def cell(
    number: int,
    *,
    gpus: int = 0,
    most: int | None = None,
    job: str = "train",
    part: int = 0,
    priority: int = 0,
) -> TrainCommand:
    """A cell's command; with `part` it shares its GPU, of which it needs so many GiB."""
    resources = Resources(gpus=gpus, gpu_memory=part << 30, gpu_share=bool(part))
    spec = a_spec(name=job, cell={"n": number}, resources=resources, max_parallel=most, priority=priority)
    return a_command(job=spec)


def accept(
    store: Store, command: TrainCommand, *, nonce: str = "", limit: int = 1000, sender: str = SENDER
) -> tuple[Run, bool]:
    return store.accept(
        command,
        sender=sender,
        raw=b"the bytes",
        headers={"signature": "s"},
        nonce=nonce or f"n{next(_numbers)}",
        nonce_expires=NOON + 60,
        queue_limit=limit,
    )


def claim(store: Store, *, slots: int = 100, gpus: tuple[Gpu, ...] = ()) -> tuple[Run, Attempt]:
    claimed = store.claim(slots=slots, gpus=gpus, executor="lab-1")
    assert claimed is not None
    return claimed
