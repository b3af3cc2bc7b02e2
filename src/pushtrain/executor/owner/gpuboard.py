"""What an executor tells of its GPUs at one moment: each card's figures, who has it, and how it stands."""

import time
from collections.abc import Sequence

from pushtrain.core.errors import NotFound
from pushtrain.core.runs.gpustate import GpuRun, MachineGpus, state_of
from pushtrain.core.values.card import Gpu
from pushtrain.executor.owner.landlord import BRISK, Landlord
from pushtrain.executor.owner.lending import Holder
from pushtrain.executor.runs.dispatch import Dispatch
from pushtrain.plumbing.sqlite.store import Store


def now(
    executor: str, gpus: Sequence[Gpu], landlord: Landlord, dispatch: Dispatch, store: Store
) -> MachineGpus:
    """The GPUs at this moment, by a look that is no older than a brisk one.

    Args:
        executor: Its name.
        gpus: The machine's.
        landlord: Has looked at them.
        dispatch: Knows who has them.
        store: Knows of which repository that is.
    """
    landlord.terms(within=BRISK)
    cards, verdict = landlord.cards(), landlord.verdict()
    holders = [(holder.gpus, _run(holder, store)) for holder in dispatch.holders() if holder.gpus]
    seen = {card.uuid: card for card in cards.seen}
    states = []
    for gpu in gpus:
        found = verdict.of(gpu.uuid)
        empties = gpu.uuid in cards.emptying
        states.append(
            state_of(
                gpu,
                cards.samples.get(gpu.uuid),
                seen.get(gpu.uuid),
                runs=[run for uuids, run in holders if gpu.uuid in uuids],
                stands=found[0].words if found else "its memory has not come back yet" if empties else "",
                lent=not found and not empties,
            )
        )
    return MachineGpus(executor=executor, at=time.time(), gpus=tuple(states))


def _run(holder: Holder, store: Store) -> GpuRun:
    try:
        repository = store.run(holder.run_id).command.repository
    except NotFound:
        return GpuRun()
    return GpuRun(id=holder.run_id, title=holder.title, repository=repository)
