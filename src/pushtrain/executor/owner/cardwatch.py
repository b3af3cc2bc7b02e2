"""The GPUs, looked at again and again: what of each is ours, and what its owner's.

Each look is metered (`executor.owner.meter`), and it sees that a run's memory comes back. A card whose run
has ended is given to nobody before it has; memory that no process holds a second later is trouble: a wedged
process has it, or the driver.
"""

import logging
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Final, Protocol

from pushtrain.core.owner.verdict import CardSeen
from pushtrain.core.runs.cardseen import Lent, card_seen, coming_back
from pushtrain.core.runs.gpuhealth import LASTING, GpuSample, Trouble, trouble
from pushtrain.core.values.card import Gpu
from pushtrain.executor.owner.lending import Holder
from pushtrain.executor.owner.meter import Meter
from pushtrain.plumbing.machine.excluded import Excluded
from pushtrain.plumbing.machine.gpu import inventory
from pushtrain.plumbing.programs.kin import Kin, numbers_are_the_machines

_log = logging.getLogger(__name__)

BACK_WITHIN: Final = 1.0
"""Seconds after a run's end within which its memory must be back."""
_COOLING: Final = 3.0
"""Seconds after a run's end in which a card's utilisation, a mean, may still be that run's."""


_LATE: Final = 600.0
"""Seconds after which a machine that had no card is looked at again."""


class Samples(Protocol):
    """Where samples come from: `plumbing.machine.gpu.Sampler`."""

    def sample(self, *, held: Collection[str] = ()) -> tuple[GpuSample, ...]:
        """Every GPU as it is now; `held`: those that runs of ours have."""

    def close(self) -> None:
        """Let the driver's library go."""


class Sorts(Protocol):
    """Who knows whose a process is: `plumbing.programs.kin.Kin`."""

    def sort(
        self, pids: Iterable[int], roots: Collection[int], marks: Collection[str] = ()
    ) -> tuple[set[int], set[int]]:
        """Those that are ours, given our shims and our attempts' marks, and those that are gone."""


@dataclass(frozen=True, slots=True)
class Cards:
    """What one look saw."""

    seen: tuple[CardSeen, ...] = ()
    emptying: frozenset[str] = frozenset()
    """Cards whose memory has not come back yet."""
    blind: bool = False
    """Whether the driver tells nothing of processes that means anything here."""
    samples: Mapping[str, GpuSample] = field(default_factory=dict)
    """What was read of each."""
    theirs: Mapping[str, tuple[tuple[int, int | None], ...]] = field(default_factory=dict)
    """By card: pid and bytes of each process that is not ours; for the owner's own screen."""


class CardWatch:
    """The cards of one machine; one thread at a time looks.

    Args:
        gpus: What the machine has.
        samples: Where samples come from.
        meter: Counts what our runs use of them.
        excluded: Remembers which have failed; None: what is seen alone counts.
        kin: Knows whose a process is.
        clock: Seconds that only grow.
        came: What the machine has, asked now and then where it had nothing; wakes no card.
    """

    def __init__(
        self,
        gpus: Sequence[Gpu],
        samples: Samples,
        meter: Meter,
        *,
        excluded: Excluded | None = None,
        kin: Sorts | None = None,
        clock: Callable[[], float] = time.monotonic,
        came: Callable[[], Sequence[Gpu]] | None = None,
    ) -> None:
        self._gpus = {gpu.uuid: gpu for gpu in gpus}
        self._index = {gpu.uuid: gpu.index for gpu in gpus}
        self._excluded = excluded
        self._failed: set[str] = set()
        self._samples = samples
        self._meter = meter
        self._clock = clock
        self._kin = kin or Kin()
        self._nested = not numbers_are_the_machines()
        self._errors: dict[str, int | None] = {}
        self._held: set[str] = set()
        self._there: dict[str, set[int]] = {}
        self._released: dict[str, float] = {}
        self._stuck: dict[str, float] = {}
        self._told: dict[str, str] = {}
        self._strangers: set[str] = set()
        self._came = came or partial(inventory, wake=False)
        self._late = clock() + _LATE
        self.last = Cards()
        """What was seen last."""

    def look(self, holders: Sequence[Holder]) -> Cards:
        """The cards as they are now, and what these runs use of them."""
        now = self._clock()
        if not self._index:
            if now >= self._late:
                self._late = now + _LATE
                self._greet([one.uuid for one in self._came() if one.uuid])
            return self.last
        known = self._remembered()
        held = {uuid for holder in holders for uuid in holder.gpus}
        samples = self._sampled(now, held)
        self._released |= dict.fromkeys(self._held - held, now)
        self._held = held
        for uuid in held:
            self._released.pop(uuid, None)
        pids = {process.pid for one in samples for process in one.processes or ()}
        ours, dead = self._kin.sort(
            pids, [holder.shim for holder in holders if holder.shim], [holder.mark for holder in holders]
        )
        self._meter.look(samples, holders, ours)
        blind = self._nested or any(one.processes is None for one in samples if not (one.asleep or one.lost))
        seen, emptying, theirs = [], set(), {}
        for one in samples:
            there = {process.pid for process in one.processes or ()}
            if one.uuid in held:  # who leaves and comes back is a newcomer; so is who gets a pid again
                self._there[one.uuid] = self._there.get(one.uuid, there) & there
            else:
                self._there[one.uuid] = there
            back = not coming_back(one, dead=dead, blind=blind)
            if one.uuid not in held and not back and self._since_release(one.uuid, now) < BACK_WITHIN:
                emptying.add(one.uuid)
            seen.append(
                card_seen(
                    one,
                    self._index[one.uuid],
                    ours=ours,
                    dead=dead,
                    lent=_lent(holders, one.uuid),
                    before=self._there[one.uuid],
                    cooling=self._since_release(one.uuid, now) < _COOLING,
                    blind=blind,
                    trouble=self._trouble(one, now, dead=dead, blind=blind) or known.get(one.uuid, ""),
                )
            )
            theirs[one.uuid] = tuple(
                (process.pid, process.memory)
                for process in one.processes or ()
                if process.pid not in ours and process.pid not in dead
            )
        self.last = Cards(
            tuple(seen),
            frozenset(emptying),
            blind,
            {one.uuid: one for one in samples},
            {} if blind else theirs,
        )
        return self.last

    def close(self) -> None:
        """Let the driver go."""
        self._samples.close()
        self._meter.settle()

    def kwh(self) -> float:
        """What runs have used today."""
        return self._meter.kwh()

    def _since_release(self, uuid: str, now: float) -> float:
        return now - self._released.get(uuid, float("-inf"))

    def _trouble(self, sample: GpuSample, now: float, *, dead: set[int], blind: bool) -> str:
        """What is wrong with a card; memory that nobody holds only once it has been so for a second."""
        baseline = self._errors.setdefault(sample.uuid, sample.memory_errors)
        held = sample.uuid in self._held
        found = trouble(sample, baseline=baseline, ours=(0,) if held else ())
        if not (held or blind) and found is None and coming_back(sample, dead=dead) and not sample.display:
            found = Trouble.HELD  # by processes that are gone: the driver tells of them all the same
        if found is Trouble.HELD:
            since = self._stuck.setdefault(sample.uuid, now)
            if now - since < BACK_WITHIN:
                return ""
        else:
            self._stuck.pop(sample.uuid, None)
        if found in LASTING and self._excluded is not None and sample.uuid not in self._failed:
            self._excluded.add(self._gpus[sample.uuid], found)
        self._tell(sample.uuid, str(found or ""))
        return str(found or "")

    def _sampled(self, now: float, held: Collection[str]) -> list[GpuSample]:
        """What is read of each card; one that is missing among others does not answer."""
        found = {one.uuid: one for one in self._samples.sample(held=held)}
        self._greet(found)
        told = {uuid: one for uuid, one in found.items() if uuid in self._index}
        if not told:
            return []
        return [told.get(uuid) or GpuSample(uuid=uuid, at=now, lost=True) for uuid in self._index]

    def _greet(self, uuids: Iterable[str]) -> None:
        """Tell of cards that the machine had not when this executor began, once."""
        for uuid in set(uuids) - self._index.keys() - self._strangers:
            self._strangers.add(uuid)
            _log.warning(
                "GPU %s was not there when this executor began: a restart lends it, and ends no run", uuid
            )

    def _remembered(self) -> dict[str, str]:
        """Cards that have failed before; of one that the owner has taken out of these, errors count anew."""
        if self._excluded is None:
            return {}
        known = {uuid: str(one.trouble) for uuid, one in self._excluded.all().items()}
        for uuid in self._failed - known.keys():
            self._errors.pop(uuid, None)
        self._failed = set(known)
        return known

    def _tell(self, uuid: str, found: str) -> None:
        if self._told.get(uuid, "") != found:
            self._told[uuid] = found
            what = f"is out of order ({found})" if found else "is in order again"
            _log.warning("GPU %d %s", self._index[uuid], what)


def _lent(holders: Sequence[Holder], uuid: str) -> Lent | None:
    """What our runs have of a card."""
    mine = [holder for holder in holders if uuid in holder.gpus]
    if not mine:
        return None
    return Lent(any(not one.gpu_memory for one in mine), sum(one.gpu_memory for one in mine))
