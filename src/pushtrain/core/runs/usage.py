"""What runs use of GPUs and what the machine's cards did meanwhile: folded from samples, summed in a ledger.

A card is metered from the claim that gives it to an attempt to the end of that attempt, whoever looks in
between. Energy is the card's own counter where it has one: a gap in the looks, an executor's restart for
example, loses nothing of it. Without a counter it is power times the time between two looks, marked as
estimated, and a gap is left out. Utilisation and memory are what the looks saw, weighed by time.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Final

from pydantic import Field

from pushtrain.core.values.run import GpuUse
from pushtrain.core.values.value import Value

if TYPE_CHECKING:
    from pushtrain.core.runs.gpuhealth import GpuSample

IDLE_AT: Final = 2
"""Percent of utilisation up to which a card that a run holds counts as idle."""
GAP: Final = 10.0
"""Seconds between two looks beyond which what happened meanwhile is not known."""
DAY: Final = 86_400
LONGEST_LEDGER: Final = 3660
"""Days of it that may be asked for at once."""
JOULES_PER_KWH: Final = 3_600_000


# --- one card, one attempt --------------------------------------------------------------------------------


class Metered(Value):
    """What one attempt has used of one card so far; the fold's state, kept in the attempt's folder."""

    at: float
    """Of the last look, seconds since the epoch."""
    weighed: float = 0
    """Seconds for which the utilisation is known."""
    busy: float = 0
    """Percent times seconds."""
    peak: int | None = None
    """Percent; None: never told."""
    memory: int | None = None
    """Bytes at most; None: never told."""
    filled: float = 0
    """Bytes times seconds."""
    remembered: float = 0
    """Seconds for which the memory is known."""
    counter: float | None = None
    """The card's own, in joules, at the last look."""
    joules: float = 0
    estimated: bool = False
    told: bool = False
    """Whether anything of its energy is known."""
    idle_since: float | None = None
    """Since when it has been idle without a break; None: it is not, or cannot tell."""
    idle: float = 0
    """Seconds of the longest such time."""

    @property
    def idle_for(self) -> float:
        """Seconds that it has been idle now."""
        return 0.0 if self.idle_since is None else self.at - self.idle_since


def metered(before: Metered | None, sample: "GpuSample", *, at: float, memory: int | None) -> Metered:
    """The state after one more look at a card.

    Args:
        before: The state before; None at the first look.
        sample: What the look saw.
        at: When, in seconds since the epoch. A clock that went back counts as no time.
        memory: Bytes that the attempt itself holds; None: it cannot be told apart.
    """
    if sample.lost or sample.asleep:
        if before is None:
            return Metered(at=at)
        return before.model_copy(update={"at": max(at, before.at), "idle_since": None})
    if before is None:
        return Metered(
            at=at,
            peak=sample.utilization,
            memory=memory,
            counter=sample.energy,
            idle_since=at if _idle(sample) else None,
        )
    now = max(at, before.at)
    since = now - before.at
    known = since if since <= GAP else 0.0
    change: dict[str, object] = {"at": now, "memory": _most(before.memory, memory)}
    if memory is not None:
        change |= {"filled": before.filled + known * memory, "remembered": before.remembered + known}
    if sample.utilization is not None:
        change |= {
            "weighed": before.weighed + known,
            "busy": before.busy + known * sample.utilization,
            "peak": _most(before.peak, sample.utilization),
        }
    change |= _energy(before, sample, known)
    if not _idle(sample):
        change |= {"idle_since": None}
    elif before.idle_since is None or since > GAP:
        change |= {"idle_since": now}
    else:
        change |= {"idle": max(before.idle, now - before.idle_since)}
    return before.model_copy(update=change)


def _energy(before: Metered, sample: "GpuSample", known: float) -> dict[str, object]:
    if sample.energy is not None:
        if before.counter is None or sample.energy < before.counter:  # the driver was loaded anew
            return {"counter": sample.energy}
        used = sample.energy - before.counter
        return {"counter": sample.energy, "joules": before.joules + used, "told": True}
    if sample.power is not None and known:
        return {"joules": before.joules + known * sample.power, "told": True, "estimated": True}
    return {}


def _idle(sample: "GpuSample") -> bool:
    return sample.utilization is not None and sample.utilization <= IDLE_AT


def _most(one: int | None, other: int | None) -> int | None:
    return max((each for each in (one, other) if each is not None), default=None)


# --- one attempt ------------------------------------------------------------------------------------------


def gpu_use(
    cards: Mapping[str, Metered], *, gpus: Sequence[str], held: float, share: float = 1
) -> GpuUse | None:
    """What an attempt used; None for one without GPUs.

    Args:
        cards: By UUID, what was metered.
        gpus: UUIDs that it held.
        held: Seconds that it held them.
        share: How much of each card, 0 to 1.
    """
    if not gpus:
        return None
    mine = [cards[uuid] for uuid in gpus if uuid in cards]
    weighed = sum(card.weighed for card in mine)
    remembered = sum(card.remembered for card in mine)
    told = [card for card in mine if card.told]
    return GpuUse(
        seconds=round(max(0.0, held) * len(gpus) * share, 3),
        mean_utilization=round(sum(card.busy for card in mine) / weighed, 1) if weighed else None,
        peak_utilization=max((card.peak for card in mine if card.peak is not None), default=None),
        mean_memory=round(sum(card.filled for card in mine) / remembered) if remembered else None,
        peak_memory=max((card.memory for card in mine if card.memory is not None), default=None),
        joules=round(share * sum(card.joules for card in told), 1) if told else None,
        estimated=any(card.estimated for card in told),
        idle=round(max((card.idle for card in mine), default=0.0), 1),
    )


# --- the ledger -------------------------------------------------------------------------------------------


class Used(Value):
    """What attempts used, summed: one line of the ledger, or several of them together."""

    attempts: int = 0
    seconds: float = 0
    """That machines were held, from claim to end."""
    gpu_seconds: float = 0
    cpu_seconds: float = 0
    joules: float = 0
    estimated: bool = False
    """Whether any of the energy is."""
    waited: float = 0
    """Seconds that runs waited for their attempts."""

    def __add__(self, other: "Used") -> "Used":
        return Used(
            attempts=self.attempts + other.attempts,
            seconds=self.seconds + other.seconds,
            gpu_seconds=self.gpu_seconds + other.gpu_seconds,
            cpu_seconds=self.cpu_seconds + other.cpu_seconds,
            joules=self.joules + other.joules,
            estimated=self.estimated or other.estimated,
            waited=self.waited + other.waited,
        )


class Entry(Value):
    """What one person used for one repository at one executor, over some days."""

    sender: str
    """Fingerprint of the key."""
    repository: str
    used: Used


class Stood(Value):
    """What an executor's GPUs did over some days; of one without any, its machine."""

    what: str
    """`lent` (a run had it), `free` (nobody had), or why its owner kept it: a `core.owner.verdict.Why`."""
    seconds: float
    """GPUs times time."""
    wanted: float = 0
    """Of those, the seconds in which runs waited."""


class Usage(Value):
    """What an executor's ledger tells of some days."""

    executor: str
    days: int
    """To this one, by UTC."""
    entries: tuple[Entry, ...] = ()
    """For the repositories whose runs the caller may read."""
    stood: tuple[Stood, ...] = ()
    """For the executor's owner alone: it tells when they were there."""
    names: dict[str, str] = Field(default_factory=dict)
    """By fingerprint, what the owner calls a sender."""


def summed(entries: Iterable[Used]) -> Used:
    """All of it together."""
    total = Used()
    for entry in entries:
        total += entry
    return total
