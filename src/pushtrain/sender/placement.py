"""Where runs go: one look at what waits and at what is known of the executors, and what to do now. Pure.

- A run goes to an executor that fits and can start it now, the best one first (`core.policy.choose`). What it
  takes is not free for the next.
- Where there is none, it waits here, and `why` says for what. Executors that were not asked are asked, a few
  at a time; those that answered and are busy are watched, so that they say when they are free; those that do
  not answer are asked again with back-off.
- Where only one executor can take a run, there is nothing to choose: it goes there at once and waits there.
- A run that waits at an executor while another one could start it is recalled. Where it found the machine not
  ready for it, it does not come back for ten minutes, as long as others fit and answer.
- A run that an executor may have, its answer lost, goes to nobody else; after `lost_after` without a word it
  may, marked as a possible duplicate.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from pushtrain.core.policy import choose, fits, pace_key, ranking, starts_now
from pushtrain.core.runs.retry import unready_at
from pushtrain.core.runs.room import can, could, heard, less, needs_of, with_free
from pushtrain.core.text.forms import clean
from pushtrain.core.values.card import Capacity, ExecutorCard
from pushtrain.core.values.command import TrainCommand
from pushtrain.core.values.jobspec import JobSpec
from pushtrain.plumbing.sqlite.outbox import Outgoing

RECALL_AFTER: Final = 5.0
"""Seconds that a run waits at an executor before it is recalled: it may be about to start."""
PATIENCE: Final = 0.5
"""Seconds for which an answer is waited for before others are taken instead."""
FIRST_ASKED: Final = 3
"""Executors that are asked at first where many fit; each further time about as many as have been asked."""
_ANEW: Final = 60.0
"""Seconds after which it is looked whether executors that are passed over for a while will do again."""
_HEARING: Final = 300.0
"""Seconds in which a silent executor is asked again and again by a sender that just began, or was asleep."""
_SHOWN: Final = 4
"""Executors that a sentence names."""
_LONGEST: Final = 80
"""Characters of an executor's own words."""
_TOLD: Final = 2
"""Executors of which it is told in full why they do not do."""


@dataclass(frozen=True, slots=True)
class Seen:
    """What is known of one executor at a moment."""

    id: str
    name: str
    card: ExecutorCard | None = None
    """From its answer, else from a roster; None: nothing is known of what it has."""
    capacity: Capacity | None = None
    """What it has free now, less what it is being sent; None: not known."""
    proven: bool = False
    """Whether it has answered lately with its own key."""
    asking: bool = False
    """Whether its answer is being waited for."""
    paces: Mapping[str, float] = field(default_factory=dict)
    """What it told last of how long jobs take there."""
    trouble: str = ""
    """Why it does not answer, or does not take what fits."""
    ask_in: float = 0
    """Seconds until it may be asked, or called, again."""


@dataclass(frozen=True, slots=True)
class Queued:
    """A run of ours that waits at an executor."""

    out: Outgoing
    for_: float
    """Seconds that it has waited there, as far as we know."""


@dataclass(frozen=True, slots=True)
class Given:
    """Everything that a decision looks at."""

    waiting: Sequence[Outgoing]
    """Commands that are due, in the order they came."""
    seen: Sequence[Seen]
    queued: Sequence[Queued] = ()
    """Runs that wait at executors, the one to recall first in front."""
    recalling: Sequence[Outgoing] = ()
    unsettled: frozenset[str] = frozenset()
    """Executors that have runs of ours of which it is not known whether they began."""
    refused: Mapping[str, frozenset[str]] = field(default_factory=dict)
    """By run: the executors that refused it for good."""
    homes: Mapping[str, str] = field(default_factory=dict)
    """By run: the executor that has the other cells of a job with `max_parallel`, which only it can count."""
    began: float = 0
    """When this sender began: an executor that it does not know yet may still be announced."""
    awake: float = 0
    """Since when it watches without a gap: since it began, or since its machine slept or its clock jumped."""


@dataclass(slots=True)
class Plan:
    """What to do now."""

    deliver: list[tuple[str, str]] = field(default_factory=list)
    """Run and executor."""
    recall: list[tuple[str, str]] = field(default_factory=list)
    """Run and the executor that gives it back."""
    ask: dict[str, None] = field(default_factory=dict)
    """Executors to ask, in order."""
    watch: set[str] = field(default_factory=set)
    """Executors whose event stream is to be open; all others are closed."""
    refuse: list[str] = field(default_factory=list)
    """Runs that everybody who could take them has refused."""
    lost: list[str] = field(default_factory=list)
    """Runs whose executor has been silent for too long: they may go elsewhere."""
    why: dict[str, str] = field(default_factory=dict)
    """By run: what it waits for, for people."""
    again_in: float | None = None
    """Seconds after which to look again though nothing happened."""

    def look_again(self, seconds: float) -> None:
        """Look again after so long, or sooner."""
        self.again_in = seconds if self.again_in is None else min(self.again_in, seconds)


def decide(given: Given, *, now: float, lost_after: float) -> Plan:
    """What to do now.

    Args:
        given: What is known.
        now: Seconds since the epoch, by the clock of `Outgoing`'s times.
        lost_after: Seconds after which a silent executor no longer keeps a run that it may have.
    """
    return _Decision(given, now, lost_after).made()


class _Room:
    """What an executor has free while runs are placed."""

    def __init__(self, capacity: Capacity) -> None:
        self.capacity = capacity

    def take(self, spec: JobSpec) -> None:
        """One more run goes there."""
        self.capacity = less(self.capacity, needs_of(spec.resources))

    def fitting(self, spec: JobSpec) -> int:
        """Free GPUs that the job could use."""
        needs = needs_of(spec.resources)
        return sum(1 for place in heard(self.capacity) if can(place, needs))

    def keep(self, spec: JobSpec) -> None:
        """Nobody else gets the GPUs that the job could use."""
        needs = needs_of(spec.resources)
        self.capacity = with_free(
            self.capacity, [each for each in heard(self.capacity) if not could(each, needs)]
        )


@dataclass(slots=True)
class _Kind:
    """Runs that ask for the same: the same executors fit them, and when nobody is free, for none of them."""

    job: JobSpec
    pace: str
    """Under which executors tell how long it takes."""
    could: list[Seen] = field(default_factory=list)
    """Those that fit, or of which nothing is known."""
    unready: frozenset[str] = frozenset()
    """Names of those that could not prepare the runs a moment ago; not in `could` while there are others."""
    passed: list[Seen] = field(default_factory=list)
    """Those of them that would fit, and are passed over."""
    misfits: list[str] = field(default_factory=list)
    held: list[str] = field(default_factory=list)
    """Runs that none of them can start now."""


class _Decision:
    def __init__(self, given: Given, now: float, lost_after: float) -> None:
        self._given = given
        self._now = now
        self._lost_after = lost_after
        self._by_id = {seen.id: seen for seen in given.seen}
        self._room = {seen.id: _Room(seen.capacity) for seen in given.seen if seen.capacity}
        self._kinds: dict[tuple[object, ...], _Kind] = {}
        self._homes = dict(given.homes)
        self._plan = Plan()

    def made(self) -> Plan:
        for out in self._given.recalling:
            self._call_back(out)
        for out in self._given.waiting:
            if out.executor:
                self._bound(out)
            else:
                self._place(out)
        for kind in self._kinds.values():
            if kind.held:
                self._plan.why |= dict.fromkeys(kind.held, self._wait_for(kind.could, kind))
        for queued in self._given.queued:
            self._reconsider(queued)
        for name in self._given.unsettled:
            if len(self._by_id) > 1 and name in self._by_id:
                self._watch(self._by_id[name])
        if self._plan.ask or any(seen.asking for seen in self._given.seen):
            self._plan.look_again(PATIENCE)
        return self._plan

    # --- runs that somebody may have ----------------------------------------------------------------------

    def _bound(self, out: Outgoing) -> None:
        """Its answer was lost: the same executor again, or after too long whoever fits."""
        seen = self._by_id.get(out.executor)
        if seen is None:
            self._plan.why[out.run_id] = "the executor that may have it is not known any more"
            self._give_up(out, max(out.placed_at, self._given.began))
        elif self._reach(seen):
            self._plan.deliver.append((out.run_id, seen.id))
        else:
            self._plan.why[out.run_id] = f"{seen.name} may have it: {_plain(seen.trouble) or 'asking'}"
            if seen.trouble and seen.ask_in > 0:  # it was asked just now, in vain
                self._give_up(out, out.placed_at)

    def _call_back(self, out: Outgoing) -> None:
        """Its recall has not been answered: again, until it is."""
        seen = self._by_id.get(out.executor)
        if out.not_before > self._now:
            self._plan.look_again(out.not_before - self._now)
        elif seen is not None and self._callable(seen):
            self._plan.recall.append((out.run_id, seen.id))
            return
        self._give_up(out, out.placed_at if seen else max(out.placed_at, self._given.began))

    def _give_up(self, out: Outgoing, since: float) -> None:
        heard = self._given.awake + min(_HEARING, self._lost_after)
        left = max(since + self._lost_after, heard) - self._now
        if left <= 0:
            self._plan.lost.append(out.run_id)
        else:
            self._plan.look_again(left)

    # --- runs that nobody has -----------------------------------------------------------------------------

    def _place(self, out: Outgoing) -> None:
        home = self._homes.get(out.run_id) or self._homes.get(_siblings(out.command))
        kind = self._kind(out.command, out.run_id)
        at_home = [seen for seen in kind.could if seen.id == home and not seen.trouble]
        candidates = at_home or kind.could
        if not candidates:
            self._nobody(out, kind)
        elif len(candidates) == 1 and not kind.passed:
            self._only(out, candidates[0])
        elif not kind.held and (best := self._ready(kind.job, kind.pace, candidates)):
            self._deliver(out, best)
        else:
            if not kind.held:
                self._reserve(kind)
            kind.held.append(out.run_id)

    def _nobody(self, out: Outgoing, kind: _Kind) -> None:
        if self._given.refused.get(out.run_id):
            self._plan.refuse.append(out.run_id)
        else:
            words = "; ".join(_first(kind.misfits, "do not fit either"))
            self._plan.why[out.run_id] = f"no executor fits: {words}" if words else "no executor is known"

    def _only(self, out: Outgoing, seen: Seen) -> None:
        """Where there is no choice there is nothing to wait for here."""
        if self._reach(seen):
            self._deliver(out, seen)
        else:
            self._plan.why[out.run_id] = _plain(seen.trouble) or f"{seen.name} is being asked"

    def _deliver(self, out: Outgoing, seen: Seen) -> None:
        self._plan.deliver.append((out.run_id, seen.id))
        if seen.id in self._room:
            self._room[seen.id].take(out.command.job)
        if out.command.job.max_parallel is not None:
            self._homes[_siblings(out.command)] = seen.id

    def _ready(self, spec: JobSpec, key: str, candidates: Sequence[Seen]) -> Seen | None:
        """The best of those that can start it now; None as well while others are still being asked."""
        if any(seen.asking for seen in candidates):
            return None
        ready = [
            (seen.card, room.capacity, seen)
            for seen in candidates
            if (room := self._room.get(seen.id)) and seen.card and starts_now(room.capacity, spec)
        ]
        rank = ranking(spec, _speeds(key, [seen for _, _, seen in ready]))
        best = min(ready, key=lambda one: rank((one[0], one[1])), default=None)
        return best[2] if best is not None else None

    def _reserve(self, kind: _Kind) -> None:
        """A run that waits for several GPUs keeps those of one executor, or smaller ones would starve it."""
        needs = kind.job.resources
        rooms = [self._room[seen.id] for seen in kind.could if seen.id in self._room]
        if needs.gpus > 1 and rooms:
            best = max(rooms, key=lambda room: room.fitting(kind.job))
            best.keep(kind.job)

    def _wait_for(self, candidates: Sequence[Seen], kind: _Kind) -> str:
        """Ask or watch those that may be free later; what there is to wait for, in words."""
        asking: list[Seen] = []
        silent: list[Seen] = []
        busy: list[Seen] = []
        unknown: list[Seen] = []
        for seen in candidates:
            if seen.asking or seen.id in self._plan.ask:
                asking.append(seen)
            elif seen.trouble:
                silent.append(seen)
            else:
                (unknown if seen.capacity is None else busy).append(seen)
        most = max(FIRST_ASKED, len(busy) + len(silent), len(kind.held))
        self._plan.ask |= dict.fromkeys(seen.id for seen in _in_turn(unknown, kind)[:most])
        for seen in busy:
            self._watch(seen)
        for seen in silent:
            self._reach(seen)
        words = [
            _of([seen.name for seen in (*asking, *unknown)], "is being asked", "are being asked"),
            _of([seen.name for seen in busy if not _owners(seen)], "is busy", "are busy"),
            *_first([_owners(seen) for seen in busy if _owners(seen)], "are used by their owners"),
            *_first([_plain(seen.trouble) for seen in silent], "do not answer"),
            _of([seen.name for seen in kind.passed], "was not ready for it", "were not ready for it"),
            *_first(kind.misfits, "do not fit"),
        ]
        return "; ".join(word for word in words if word)

    def _kind(self, command: TrainCommand, run_id: str) -> _Kind:
        job = command.job
        refused = self._given.refused.get(run_id, frozenset())
        mounts = tuple(source.mount for source in job.data)
        asks = (job.resources, job.min_isolation, job.network, mounts)
        unready = unready_at(command.checkpoint.segments, self._now) if command.checkpoint else frozenset()
        key = (command.repository, job.name, job.results_to.repository, asks, refused, unready)
        kind = self._kinds.get(key)
        if kind is None:
            kind = self._kinds[key] = self._new_kind(command, refused)
            kind.unready = unready
            others = [seen for seen in kind.could if seen.name not in unready]
            if not all(seen.trouble for seen in others):
                kind.passed = [seen for seen in kind.could if seen.name in unready]
                kind.could = others
        return kind

    def _new_kind(self, command: TrainCommand, refused: frozenset[str]) -> _Kind:
        kind = _Kind(command.job, pace_key(command.repository, command.job.name))
        for seen in self._given.seen:
            if seen.id in refused:
                continue
            problem = fits(seen.card, command.job, command.repository) if seen.card else ""
            if problem:
                kind.misfits.append(problem)
            else:
                kind.could.append(seen)
        return kind

    # --- runs that wait at an executor --------------------------------------------------------------------

    def _reconsider(self, queued: Queued) -> None:
        """A run waits at an executor; whether another one could start it."""
        out = queued.out
        here = self._by_id.get(out.executor)
        kind = self._kind(out.command, out.run_id)
        fit = [seen for seen in (*kind.could, *kind.passed) if seen is not here]
        others = [seen for seen in fit if seen.name not in kind.unready]
        if here is None or out.command.job.max_parallel is not None:
            return
        if len(others) < len(fit) or self._given.refused.get(out.run_id):  # they will do again
            self._plan.look_again(_ANEW)
        if not others:
            return
        self._watch(here)
        if queued.for_ < RECALL_AFTER:
            self._plan.look_again(RECALL_AFTER - queued.for_)
        elif not self._callable(here):
            return
        elif best := self._ready(kind.job, kind.pace, others):
            self._room[best.id].take(kind.job)
            self._plan.recall.append((out.run_id, here.id))
        else:
            self._wait_for(others, kind)

    # --- executors ----------------------------------------------------------------------------------------

    def _reach(self, seen: Seen) -> bool:
        """Whether something can be sent to it now; if not, ask it as soon as that makes sense."""
        if not seen.trouble and seen.proven:
            return True
        if not seen.asking and seen.id not in self._plan.ask:
            if seen.ask_in <= 0:
                self._plan.ask[seen.id] = None
            else:
                self._plan.look_again(seen.ask_in)
        return False

    def _callable(self, seen: Seen) -> bool:
        """Whether a call makes sense now: it answers, or has not been called for a while."""
        if seen.trouble and seen.ask_in > 0:
            self._plan.look_again(seen.ask_in)
            return False
        return True

    def _watch(self, seen: Seen) -> None:
        if self._callable(seen):
            self._plan.watch.add(seen.id)


def _siblings(command: TrainCommand) -> str:
    """What the cells of one job, commit and request have in common."""
    return f"{command.repository}\n{command.commit}\n{command.job.name}\n{command.request}"


def _speeds(key: str, seen: Sequence[Seen]) -> dict[str, float]:
    """By public key: how long a job takes, at those that have told."""
    return {one.card.public_key: one.paces[key] for one in seen if one.card and key in one.paces}


def _in_turn(unknown: Sequence[Seen], kind: _Kind) -> list[Seen]:
    """Whom to ask first: those of which nothing is known, then as `core.policy.choose` tells."""
    by_card = {id(seen.card): seen for seen in unknown if seen.card}
    speeds = _speeds(kind.pace, unknown)
    cards = choose([(seen.card, None) for seen in unknown if seen.card], kind.job, speeds)
    return [seen for seen in unknown if not seen.card] + [by_card[id(card)] for card in cards]


def _of(names: Sequence[str], one: str, many: str) -> str:
    """`lab-3 and lab-7 are busy`; empty without names."""
    more = len(names) - _SHOWN
    shown = list(names) if more <= 1 else [*names[:_SHOWN], f"{more} more"]
    if len(shown) < 2:  # noqa: PLR2004  one or none
        return "".join(f"{name} {one}" for name in shown)
    return f"{', '.join(shown[:-1])} and {shown[-1]} {many}"


def _first(sentences: Sequence[str], rest: str) -> list[str]:
    """The first of many sentences, and how many there are beside."""
    more = len(sentences) - _TOLD
    return list(sentences) if more <= 1 else [*sentences[:_TOLD], f"{more} more {rest}"]


def _owners(seen: Seen) -> str:
    """That an executor's owner uses it, as it says itself; empty: it is busy with runs."""
    waits = seen.capacity.waits if seen.capacity is not None else ""
    return f"{seen.name} waits: {clean(waits[:_LONGEST])}" if waits else ""


def _plain(text: str) -> str:
    return text.rstrip(".")
