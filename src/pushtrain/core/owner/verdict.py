"""The owner always wins: when a machine is lent, when it is given back, and how quickly.

`judge()` takes what the machine tells at one moment and says of every card, and of the machine, how it
stands: it is lent, nothing new starts on it, what runs is asked to give it back, or it is given back at once.
Each reason is enumerated, with words for borrowers that name no program and nobody. A memory in use counts
as use, whatever the utilisation says. Once the owner was there, a card is lent again only when nothing was
seen of them for `settle` seconds.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum, StrEnum
from typing import Final

from pushtrain.core.owner.lending import UNTOUCHED, OwnerRules
from pushtrain.core.text.forms import listed
from pushtrain.core.text.hours import opens_in


class Why(StrEnum):
    """Why a card or the machine is not lent; what borrowers are told, too."""

    PAUSED = "paused"
    HOURS = "hours"
    INPUT = "input"
    FULL_SCREEN = "full-screen"
    GAME = "game"
    MEMORY = "gpu-memory"
    UTILIZATION = "gpu-utilization"
    DISPLAY = "display"
    LOAD = "load"
    BATTERY = "battery"
    HEAT = "heat"
    ENERGY = "energy"
    SLURM = "slurm"
    TROUBLE = "trouble"
    UNKNOWN = "unknown"
    SETTLING = "settling"


class Stance(IntEnum):
    """How a card stands; a higher number is the owner's more."""

    LENT = 0
    HELD = 1
    """Nothing new starts; what runs goes on."""
    YIELD = 2
    """What runs is asked for a checkpoint, and ended after the grace."""
    VACATE = 3
    """What runs is ended at once."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One reason, for one card or the machine."""

    why: Why
    stance: Stance
    words: str
    """For borrowers, after the executor's name and a colon; names no program and nobody."""
    until: float | None = None
    """When it ends by itself, in seconds since the epoch; None: not known."""


@dataclass(frozen=True, slots=True)
class CardSeen:
    """What was seen of one GPU. Ours are the jobs of this executor; everything else is the owner's."""

    uuid: str
    index: int
    foreign_memory: int = 0
    """Bytes in use that are not ours; where the driver tells of no processes, all beyond what ours were
    given."""
    foreign_utilization: int = 0
    """Percent that is not ours; 0 where a run has the card and the driver does not tell it apart."""
    free_memory: int | None = None
    lent: bool = False
    """Whether a job of ours has it."""
    newcomer: bool = False
    """Whether a program of the owner's that computes came after the job of ours that has it."""
    display: bool = False
    temperature: int | None = None
    asleep: bool = False
    trouble: str = ""


@dataclass(frozen=True, slots=True)
class Seen:
    """What this machine tells at one moment. None: it cannot tell."""

    at: float
    """Seconds since the epoch."""
    minute: int
    """Of the week in local time, from Monday 00:00."""
    paused_until: float | None = None
    """Infinite: until the owner resumes; None: not paused."""
    idle: float | None = None
    """Seconds since the last key or mouse movement."""
    full_screen: bool = False
    game: bool = False
    load: float = 0
    """Processors that the owner's own work keeps busy."""
    on_battery: bool = False
    slurm: bool = False
    """Whether a Slurm job runs on this machine."""
    kwh_today: float = 0
    cards: tuple[CardSeen, ...] = ()
    blind: bool = False
    """Whether the driver tells of no processes (WSL2)."""


MACHINE: Final = ""
"""The key of what holds for the whole machine, where a card's UUID would stand."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """How the machine and its cards stand, why, and when the owner was last seen at each."""

    at: float
    findings: Mapping[str, tuple[Finding, ...]]
    """By UUID, and under `MACHINE`; the weightiest first. A card's hold beside the machine's."""
    seen: Mapping[str, float]
    """When the owner was last at a card, or at the machine."""

    def of(self, uuid: str = MACHINE) -> tuple[Finding, ...]:
        """Everything that holds for a card, the machine's reasons among it; the weightiest first."""
        own = self.findings.get(uuid, ()) if uuid != MACHINE else ()
        return tuple(sorted((*self.findings.get(MACHINE, ()), *own), key=lambda each: -each.stance))

    def stance(self, uuid: str = MACHINE) -> Stance:
        """How a card stands; without one, how the machine does."""
        return max((each.stance for each in self.of(uuid)), default=Stance.LENT)

    @property
    def lent(self) -> bool:
        """Whether anything may start at all."""
        return self.stance() is Stance.LENT


NOTHING_SEEN: Final = Verdict(at=0, findings={}, seen={})


def judge(rules: OwnerRules, seen: Seen, before: Verdict = NOTHING_SEEN) -> Verdict:
    """How the machine and each card stand.

    Args:
        rules: What the owner wants.
        seen: What the machine tells now.
        before: The last verdict; who was seen then is remembered for `settle` seconds.
    """
    present = {MACHINE: [*_wishes(rules, seen), *_presence(rules, seen), *_state(rules, seen)]}
    present |= {card.uuid: _card(rules, card) for card in seen.cards}
    times = dict(before.seen)
    times |= {key: seen.at for key, found in present.items() if any(each.why in _OWNER for each in found)}
    for key, found in present.items():
        last = times.get(key)
        if not found and last is not None and 0 <= seen.at - last < rules.settle:
            found.append(
                Finding(Why.SETTLING, Stance.HELD, "the owner was here a moment ago", last + rules.settle)
            )
    findings = {
        key: tuple(sorted(found, key=lambda each: -each.stance)) for key, found in present.items() if found
    }
    return Verdict(seen.at, findings, times)


_OWNER: Final = frozenset({
    Why.INPUT, Why.FULL_SCREEN, Why.GAME, Why.MEMORY, Why.UTILIZATION, Why.SLURM,
})  # fmt: skip
"""Reasons that are the owner's presence, not their wish or the machine's state."""


def _wishes(rules: OwnerRules, seen: Seen) -> list[Finding]:
    """What the owner has said."""
    found = []
    if seen.paused_until is not None and seen.paused_until > seen.at:
        until = None if seen.paused_until == float("inf") else seen.paused_until
        found.append(Finding(Why.PAUSED, Stance.YIELD, "the owner has paused lending", until))
    if rules.hours and (wait := opens_in(rules.hours, seen.minute)):
        until = seen.at + 60 * wait
        found.append(Finding(Why.HOURS, Stance.YIELD, f"it is lent {listed(rules.hours)} only", until))
    if rules.kwh_per_day and seen.kwh_today >= rules.kwh_per_day:
        until = (seen.at // 86_400 + 1) * 86_400
        words = f"today's {rules.kwh_per_day:g} kWh are used up"
        found.append(Finding(Why.ENERGY, Stance.YIELD, words, until))
    return found


def _presence(rules: OwnerRules, seen: Seen) -> list[Finding]:
    """Whether the owner is there."""
    found = []
    blind = seen.blind and bool(seen.cards) and not rules.hours  # a program on a card is not seen there
    idle = rules.idle or (UNTOUCHED if blind else 0)
    if seen.idle is None and not rules.hours and idle:
        words = "it cannot tell whether its owner is there"
        found.append(Finding(Why.UNKNOWN, Stance.YIELD, words))
    if seen.idle is not None and seen.idle < idle:
        until = seen.at + idle - seen.idle
        found.append(Finding(Why.INPUT, Stance.YIELD, "the owner is working at it", until))
    if rules.full_screen and seen.full_screen:
        found.append(Finding(Why.FULL_SCREEN, Stance.YIELD, "the owner is using it in full screen"))
    if rules.full_screen and seen.game:
        found.append(Finding(Why.GAME, Stance.YIELD, "the owner is playing"))
    if rules.slurm and seen.slurm:
        found.append(Finding(Why.SLURM, Stance.YIELD, "its Slurm cluster is using it"))
    return found


def _state(rules: OwnerRules, seen: Seen) -> list[Finding]:
    """What the machine itself allows."""
    found = []
    if seen.on_battery and not rules.battery:
        found.append(Finding(Why.BATTERY, Stance.YIELD, "it runs on its battery"))
    if rules.load and seen.load > rules.load:
        found.append(Finding(Why.LOAD, Stance.HELD, "the owner's own work needs the processors"))
    return found


def _card(rules: OwnerRules, card: CardSeen) -> list[Finding]:
    name = f"GPU {card.index}"
    if card.trouble:
        return [Finding(Why.TROUBLE, Stance.VACATE, f"{name} is out of order ({card.trouble})")]
    if card.asleep:
        return []
    found: list[Finding] = []
    short = card.lent and card.free_memory is not None and card.free_memory < rules.reserve
    # A program of theirs that just began holds little, and where ours have the rest it can get no more.
    if card.foreign_memory > rules.gpu_memory or (short and card.newcomer):
        stance = Stance.VACATE if short else Stance.YIELD
        words = f"the owner is using {name} ({card.foreign_memory / 10**9:.2g} GB)"
        found.append(Finding(Why.MEMORY, stance, words))
    if card.foreign_utilization > rules.gpu_utilization:
        found.append(Finding(Why.UTILIZATION, Stance.YIELD, f"the owner is using {name}"))
    if card.display and not rules.display:
        found.append(Finding(Why.DISPLAY, Stance.YIELD, f"{name} drives the owner's display"))
    if card.temperature is not None and card.temperature > rules.temperature:
        found.append(Finding(Why.HEAT, Stance.HELD, f"{name} is too hot"))
    return found


def told(executor: str, findings: Sequence[Finding]) -> str:
    """What a borrower reads while a run waits: `lab-3 waits: the owner is using GPU 0 (9 GB)`; else empty."""
    return f"{executor} waits: {findings[0].words}" if findings else ""


def same(one: Verdict, other: Verdict) -> bool:
    """Whether two verdicts say the same, amounts apart: memory in use goes up and down all the time."""

    def essence(verdict: Verdict) -> dict[str, tuple[tuple[Why, Stance], ...]]:
        return {
            key: tuple((each.why, each.stance) for each in found) for key, found in verdict.findings.items()
        }

    return essence(one) == essence(other)


# --- the ladder -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Ask:
    """What is asked of a run: to end within `grace` seconds, because of `finding`."""

    run_id: str
    grace: float
    finding: Finding


def asks(rules: OwnerRules, verdict: Verdict, holders: Mapping[str, Sequence[str]]) -> tuple[Ask, ...]:
    """Which runs must give back what they hold, and how quickly; each once, by its weightiest reason.

    Args:
        rules: What the owner wants.
        verdict: How things stand.
        holders: By run, the UUIDs that it holds; none: it has no GPU.
    """
    found = []
    for run_id, uuids in holders.items():
        reasons = [each for uuid in (uuids or (MACHINE,)) for each in verdict.of(uuid)]
        worst = max(reasons, key=lambda each: each.stance, default=None)
        if worst is not None and worst.stance >= Stance.YIELD:
            grace = 0.0 if worst.stance is Stance.VACATE else rules.grace
            found.append(Ask(run_id, grace, worst))
    return tuple(found)


def free(verdict: Verdict, uuids: Iterable[str]) -> tuple[str, ...]:
    """The cards on which something may start."""
    return tuple(uuid for uuid in uuids if verdict.stance(uuid) is Stance.LENT)
