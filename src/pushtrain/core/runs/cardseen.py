"""What a GPU's sample says of its owner: which part of its use is ours, and which is theirs. Pure.

Where the driver tells of processes, each is ours or it is not. Where it tells of none (WSL2), or of numbers
that mean nothing here (an executor in a container), the rest is taken: what is in use beyond what ours were
given. A process that has just died, and memory that nobody holds, are nobody's: they are on their way back,
or wedged.
"""

from collections.abc import Collection
from dataclasses import dataclass

from pushtrain.core.owner.verdict import CardSeen
from pushtrain.core.runs.gpuhealth import UNEXPLAINED, GpuSample


@dataclass(frozen=True, slots=True)
class Lent:
    """What runs of ours have of one card."""

    whole: bool = True
    """Whether one of them may use all of its memory."""
    given: int = 0
    """Bytes that they asked for, all together."""


def card_seen(
    sample: GpuSample,
    index: int,
    *,
    ours: Collection[int],
    dead: Collection[int] = (),
    lent: Lent | None = None,
    before: Collection[int] = (),
    cooling: bool = False,
    blind: bool = False,
    trouble: str = "",
) -> CardSeen:
    """One card as the owner's rules see it.

    Args:
        sample: What was read.
        index: Its number, for people.
        ours: Pids of its processes that belong to our runs.
        dead: Pids of its processes that are gone.
        lent: What runs of ours have of it; None: nothing.
        before: Pids of its processes that were there when runs of ours got it.
        cooling: Whether a run of ours had it a moment ago: then its utilisation, where it is not told of each
            process, and without processes its memory, may still be that run's.
        blind: Whether what the driver tells of processes means nothing here.
        trouble: What is wrong with it.
    """
    if sample.asleep or sample.lost:
        return CardSeen(sample.uuid, index, asleep=sample.asleep, trouble=trouble, lent=lent is not None)
    processes = None if blind else sample.processes
    told_apart, newcomer = lent is None and not cooling, False
    busy = (sample.utilization or 0) if told_apart else 0
    if processes is None:
        free_of_us = cooling or (lent is not None and lent.whole)
        foreign = 0 if free_of_us else max(0, sample.memory_used - (lent.given if lent else 0))
    else:
        theirs = [one for one in processes if one.pid not in ours and one.pid not in dead]
        foreign = sum(one.memory or 0 for one in theirs)
        if any(one.memory is None for one in theirs) and lent is None and not cooling:
            foreign = max(foreign, sample.memory_used)
        if lent is not None:
            came = [one for one in theirs if one.pid not in before and not one.graphics]
            newcomer = bool(came)
            if any(one.memory is None for one in came):
                own = sum(one.memory or 0 for one in processes if one.pid in ours)
                foreign = max(foreign, sample.memory_used - own)
        used = [one.utilization for one in theirs if one.utilization is not None]
        if not told_apart and len(used) == len(theirs):
            busy = min(100, sum(used))
    return CardSeen(
        uuid=sample.uuid,
        index=index,
        foreign_memory=foreign,
        foreign_utilization=busy,
        free_memory=sample.memory_free,
        lent=lent is not None,
        newcomer=newcomer,
        display=sample.display,
        temperature=sample.temperature,
        trouble=trouble,
    )


def coming_back(sample: GpuSample, *, dead: Collection[int], blind: bool = False) -> bool:
    """Whether memory is in use that no living process holds, as it is for a moment after a run's end."""
    if sample.asleep or sample.lost:
        return False
    if blind or sample.processes is None:
        return sample.memory_used > UNEXPLAINED
    living = [one for one in sample.processes if one.pid not in dead]
    if any(one.memory is None for one in living):
        return False
    return sample.memory_used - sum(one.memory or 0 for one in living) > UNEXPLAINED
