"""Which GPUs a run gets: what it asks for, what is free of each card, and what is left afterwards. Pure.

A run has its cards alone, or, with `gpu_share`, a part of the memory of one. A card is never both. What
shares a card asks for memory, and all of them together never for more than the card has less the owner's
reserve.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace

from pushtrain.core.owner.verdict import Finding, Stance, Verdict
from pushtrain.core.values.card import Capacity, FreeGpu, Gpu
from pushtrain.core.values.jobspec import Resources


@dataclass(frozen=True, slots=True)
class Needs:
    """What a run asks for."""

    gpus: int = 0
    memory: int = 0
    """Bytes on each."""
    capability: int = 0
    """As `version` counts."""
    share: bool = False


@dataclass(frozen=True, slots=True)
class Place:
    """One card, and what is free of it."""

    memory: int
    """Bytes in all."""
    lent: int
    """Bytes that those who share it may have together."""
    room: int
    """... and that are left of them."""
    whole: bool = True
    """Whether nobody uses it."""
    capability: int = 0
    slice: bool = False
    uuid: str = ""
    index: int = 0


def version(text: str) -> int:
    """A compute capability as a number that can be compared; 0: not known, or any."""
    major, _, minor = text.partition(".")
    return 100 * int(major) + int(minor or 0) if major.isdigit() else 0


def needs_of(resources: Resources) -> Needs:
    """What a job asks for."""
    return Needs(
        resources.gpus, resources.gpu_memory, version(resources.gpu_capability), share=resources.gpu_share
    )


def place_of(gpu: Gpu, *, reserve: int, shared: int | None = None) -> Place:
    """A card of which nobody has anything, or which runs share that have `shared` bytes together."""
    lent = max(0, gpu.memory - reserve)
    return Place(
        memory=gpu.memory,
        lent=lent,
        room=max(0, lent - (shared or 0)),
        whole=shared is None,
        capability=version(gpu.capability),
        slice=gpu.slice is not None,
        uuid=gpu.uuid,
        index=gpu.index,
    )


def could(place: Place, needs: Needs) -> bool:
    """Whether a run could use a card if nobody else did."""
    if place.capability < needs.capability or (place.slice and needs.gpus > 1):
        return False
    return (place.lent if needs.share else place.memory) >= needs.memory


def can(place: Place, needs: Needs) -> bool:
    """Whether a run can use a card as it is now."""
    if not could(place, needs):
        return False
    return place.room >= needs.memory if needs.share else place.whole


def too_weak(asked: Resources, *, cpus: int, memory: int) -> str:
    """What a machine lacks for a job beside GPUs; empty: nothing.

    Args:
        asked: What the job asks for.
        cpus: Processor cores that an attempt could have, if nobody else ran.
        memory: Bytes, likewise.
    """
    if asked.cpus > cpus:
        return f"it has {cpus} processor core{'s' if cpus != 1 else ''}; the job asks for {asked.cpus:g}"
    if asked.memory > memory:
        have, wants = (f"{size / 10**9:.4g} GB" for size in (memory, asked.memory))
        return f"a run may have {have} of memory there; the job asks for {wants}"
    return ""


def kept_from(
    verdict: Verdict, gpus: Sequence[Gpu], asked: Resources, *, reserve: int
) -> tuple[Finding, ...]:
    """Why a run that waits cannot start as far as its owner is concerned; empty: the owner is not in its way.

    Args:
        verdict: How things stand.
        gpus: The machine's.
        asked: What the run asks for.
        reserve: Bytes that the owner keeps of a shared card.
    """
    if not verdict.lent:
        return verdict.of()
    needs = needs_of(asked)
    able = [gpu for gpu in gpus if could(place_of(gpu, reserve=reserve), needs)]
    kept = [gpu for gpu in able if verdict.stance(gpu.uuid) is not Stance.LENT]
    if not kept or len(able) - len(kept) >= needs.gpus:
        return ()
    return max((verdict.of(gpu.uuid) for gpu in kept), key=lambda found: found[0].stance)


def given(places: Iterable[Place], needs: Needs) -> tuple[Place, ...] | None:
    """The cards that a run gets; None: there are not enough.

    Who shares joins those who do, where it is tightest; a card that nobody uses stays whole as long as
    possible. Of those the smallest that do are given.
    """
    fitting = sorted((place for place in places if can(place, needs)), key=_by_size)
    if needs.share:
        fitting.sort(key=lambda place: (place.whole, place.room))
    return tuple(fitting[: needs.gpus]) if len(fitting) >= needs.gpus else None


def without(places: Sequence[Place], taken: Sequence[Place], needs: Needs) -> list[Place]:
    """What is left once a run has its cards."""
    rest = list(places)
    for one in taken:
        if needs.share:
            rest[rest.index(one)] = replace(one, whole=False, room=one.room - needs.memory)
        else:
            rest.remove(one)
    return rest


def _by_size(place: Place) -> tuple[int, int, int]:
    return place.memory, place.capability, place.index


def part(resources: Resources, uuids: Collection[str], gpus: Iterable[Gpu]) -> float:
    """How much of each of its GPUs a run has, from 0 to 1: of one that it shares, its part of the memory."""
    sizes = [gpu.memory for gpu in gpus if gpu.uuid in uuids]
    if not resources.gpu_share or not sizes or not sizes[0]:
        return 1.0
    return min(1.0, resources.gpu_memory / sizes[0])


# --- over the wire ----------------------------------------------------------------------------------------


def told(places: Iterable[Place]) -> tuple[FreeGpu, ...]:
    """What senders hear of what is free."""
    return tuple(
        FreeGpu(
            memory=place.memory,
            whole=place.whole,
            room=place.room,
            capability=f"{place.capability // 100}.{place.capability % 100}" if place.capability else "",
            slice=place.slice,
        )
        for place in places
        if place.whole or place.room
    )


def heard(capacity: Capacity) -> tuple[Place, ...]:
    """What an executor told of what is free."""
    return tuple(
        Place(
            memory=one.memory,
            lent=one.room if one.whole else one.memory,
            room=one.room,
            whole=one.whole,
            capability=version(one.capability),
            slice=one.slice,
        )
        for one in capacity.free
    )


def less(capacity: Capacity, needs: Needs) -> Capacity:
    """What is left when a run has taken its part: the smallest GPUs that do, as the executor gives them."""
    if not needs.gpus:
        return capacity.model_copy(update={"free_slots": max(0, capacity.free_slots - 1)})
    places = heard(capacity)
    return with_free(capacity, without(places, given(places, needs) or (), needs))


def with_free(capacity: Capacity, places: Sequence[Place]) -> Capacity:
    """A capacity with other GPUs free."""
    whole = sum(1 for place in places if place.whole)
    return capacity.model_copy(update={"free": told(places), "free_gpus": whole})
