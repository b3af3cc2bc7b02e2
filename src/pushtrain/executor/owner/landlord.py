"""The owner always wins: watch the machine, say what may start, and ask for back what its owner needs.

Each look takes what the GPUs and the machine tell, and `core.owner.verdict.judge` says how things stand.
While our runs hold something a program of the owner's on a GPU is noticed within two seconds; while nothing
is held and nothing waits, looks are rare, and a claim looks for itself first. The ladder: nothing new starts;
what holds a card is asked for a checkpoint and gets its grace; with the owner short of memory it gets none,
also where a grace was given before. What cannot be seen counts as the owner's wherever `core.owner.verdict`
says so.
"""

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final, Protocol

from pushtrain.core.owner.lending import OwnerRules
from pushtrain.core.owner.verdict import (
    NOTHING_SEEN,
    Seen,
    Stance,
    Verdict,
    asks,
    judge,
    same,
    told,
)
from pushtrain.core.runs.room import kept_from
from pushtrain.core.settings import Settings
from pushtrain.core.values.card import Gpu
from pushtrain.core.values.jobspec import Resources
from pushtrain.core.values.states import Reason
from pushtrain.executor.owner.cardwatch import Cards, CardWatch, Samples
from pushtrain.executor.owner.lending import Holder, Terms
from pushtrain.executor.owner.meter import Meter
from pushtrain.executor.owner.ownerscreen import OwnerScreen
from pushtrain.plumbing.disk.state import StateFolder
from pushtrain.plumbing.machine.excluded import Excluded
from pushtrain.plumbing.machine.localtime import minute_of_week
from pushtrain.plumbing.owner.pause import PauseFile
from pushtrain.plumbing.owner.presence import Presence, Signals

_log = logging.getLogger(__name__)

BRISK: Final = 1.25
"""Seconds between two looks while runs hold something."""
WAITING: Final = 5.0
"""... while they only wait: a claim looks for itself."""
AT_ONCE: Final = 0.05
"""Seconds ago that a look may be for a claim: those of one burst share one."""
CALM: Final = 15.0
"""... while there are none."""
SOON: Final = 0.2
"""... while memory has not come back yet."""
_SHARE: Final = 0.002
"""Of a processor, for looks that nothing hangs on: a card that may sleep takes a hundred times as long."""
_RAREST: Final = 60.0
_SENSES: Final = 2.5
"""Seconds between two looks at what is not a GPU; each signal has a pace of its own."""
_STALE: Final = 30.0
"""Seconds after which what a signal told no longer counts for a claim."""
_PATIENCE: Final = 2.0
"""Seconds that a look waits for another one to come back."""
_SHORTER: Final = 0.5
"""Seconds by which a second wish must be sooner than the first to be worth sending."""
_LATE: Final = 15.0
"""Seconds after its grace at which a run that still holds something is told of."""


class Pause(Protocol):
    """Where the owner's wish not to lend is read."""

    def until(self) -> float | None:
        """When lending goes on; None: there is no pause."""


class Senses(Protocol):
    """Who looks at the machine: `plumbing.owner.presence.Presence`."""

    def look(self, *, calm: bool = False, fresh: bool = False) -> Signals:
        """Every signal, as recently asked as its pace allows."""

    def latest(self, within: float, *, calm: bool = False) -> Signals:
        """What was seen last, if that will do; else it is looked at anew."""

    def close(self) -> None:
        """End what goes on behind it."""


Watcher = Callable[[Verdict, Cards, Sequence[Holder]], object]
"""Takes what a look saw."""


class Preempt(Protocol):
    """`Dispatch.preempt`."""

    def __call__(self, run_id: str, *, reason: Reason, detail: str, grace: float) -> None:
        """Ask a run to give back what it holds."""


class Tenants(Protocol):
    """The executor's runs: `Dispatch`."""

    def holders(self) -> tuple[Holder, ...]:
        """Who holds something of this machine."""

    def preempt(self, run_id: str, *, reason: Reason, detail: str, grace: float) -> None:
        """Ask a run to give back what it holds."""


class Landlord:
    """The owner's side of one executor. Any thread may ask.

    Args:
        rules: What the owner wants.
        executor: The executor's name, for messages.
        gpus: The machine's.
        cards: Looks at them.
        presence: Looks at the machine.
        pause: The owner's wish.
        holders: Who holds what.
        preempt: Asks for it back.
        busy: Whether runs wait.
        changed: Called when it stands otherwise than before; from any thread.
        show: Takes what each look saw, the owner's own screen for one.
        clock: Seconds since the epoch.
        minute: The minute of the week at a time.
        steady: Seconds that only grow.
    """

    def __init__(
        self,
        rules: OwnerRules,
        *,
        executor: str,
        gpus: Sequence[Gpu],
        cards: CardWatch,
        presence: Senses,
        pause: Pause,
        holders: Callable[[], Sequence[Holder]],
        preempt: Preempt,
        busy: Callable[[], bool],
        changed: Callable[[], None],
        show: Watcher = lambda *_: None,
        clock: Callable[[], float] = time.time,
        minute: Callable[[float], int] = minute_of_week,
        steady: Callable[[], float] = time.monotonic,
    ) -> None:
        self._rules = rules
        self._executor = executor
        self._gpus = tuple(gpus)
        self._cards = cards
        self._presence = presence
        self._pause = pause
        self._holders = holders
        self._preempt = preempt
        self._busy = busy
        self._changed = changed
        self._show = show
        self._clock = clock
        self._minute = minute
        self._steady = steady
        self._lock = threading.Lock()
        self._verdict = NOTHING_SEEN
        self._looked_at = float("-inf")
        self._held: tuple[Holder, ...] = ()
        self._terms = Terms()
        self._asked: dict[tuple[str, int], float] = {}
        self._late: set[tuple[str, int]] = set()
        self._broken = ""
        self._paused: float | None = None
        self._wake = threading.Event()
        self._ended = threading.Event()

    @classmethod
    def of(
        cls,
        settings: Settings,
        state: StateFolder,
        gpus: Sequence[Gpu],
        *,
        samples: Samples,
        meter: Meter,
        watchers: Sequence[Watcher],
        dispatch: Callable[[], Tenants],
        waiting: Callable[[], int],
        changed: Callable[[], None],
        clock: Callable[[], float] = time.time,
    ) -> "Landlord":
        """The owner's side of an executor with these settings.

        Args:
            settings: What the owner set.
            state: Where the owner's wish is, and what their screen shows.
            gpus: The machine's.
            samples: Where it is seen what they do.
            meter: Counts what runs use of them.
            watchers: Take what each look saw.
            dispatch: The executor's runs; not asked before the landlord looks.
            waiting: How many runs wait.
            changed: Called when it stands otherwise than before; from any thread.
            clock: Seconds since the epoch.
        """
        rules, name = settings.rules.owner, settings.executor.name
        cards = CardWatch(gpus, samples, meter, excluded=Excluded(state.excluded, clock=clock))
        screen = OwnerScreen(state.standing, executor=name, gpus=gpus, waiting=waiting, kwh=cards.kwh)

        def shims() -> tuple[int, ...]:
            return tuple(holder.shim for holder in dispatch().holders() if holder.shim)

        return cls(
            rules,
            executor=name,
            gpus=gpus,
            cards=cards,
            presence=Presence(rules, ours=shims, blind=lambda: cards.last.blind, now=clock),
            pause=PauseFile(state.pause, clock=clock),
            holders=lambda: dispatch().holders(),
            preempt=lambda run_id, **how: dispatch().preempt(run_id, **how),
            busy=lambda: waiting() > 0,
            changed=changed,
            show=lambda *seen: [watcher(*seen) for watcher in (screen.show, *watchers)],
            clock=clock,
        )

    # --- from any thread ----------------------------------------------------------------------------------

    def terms(self, within: float = AT_ONCE) -> Terms:
        """What may be claimed now: by a look of this very moment.

        Args:
            within: Seconds ago that a look may be where nothing is claimed by it.
        """
        holders = tuple(self._holders())
        if self._steady() - self._looked_at > within or holders != self._held:
            calm = self._calm(holders)
            self._look_safely(_STALE if calm else 2 * _SENSES, calm=calm)
        return self._terms

    def verdict(self) -> Verdict:
        """How things stood at the last look."""
        return self._verdict

    def cards_now(self) -> Cards:
        """What the GPUs tell at this moment."""
        self.terms()
        return self._cards.last

    def marked(self) -> tuple[Gpu, ...]:
        """The machine's GPUs, each with what is wrong with it, as far as the last look told."""
        wrong = {card.uuid: card.trouble for card in self._cards.last.seen if card.trouble}
        return tuple(
            gpu.model_copy(update={"trouble": wrong[gpu.uuid]}) if gpu.uuid in wrong else gpu
            for gpu in self._gpus
        )

    def cards(self) -> Cards:
        """What was seen of the GPUs at the last look."""
        return self._cards.last

    def why(self, needs: Resources) -> str:
        """Why a run that waits does so as far as the owner is concerned; empty: it waits for other runs."""
        found = kept_from(self._verdict, self._gpus, needs, reserve=self._rules.reserve)
        return told(self._executor, found)

    def stands(self) -> str:
        """What is not lent at the moment, in words for borrowers; empty: all is."""
        found = [self._verdict.of(gpu.uuid) for gpu in self._gpus] or [self._verdict.of()]
        worst = max(found, key=lambda each: each[0].stance if each else Stance.LENT)
        return worst[0].words if worst else ""

    def look_again(self) -> None:
        """Look now: something has changed hands."""
        self._wake.set()

    # --- the loop -----------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Look until cancelled, in threads of our own: who waits for a network must not delay the owner."""
        threads = ThreadPoolExecutor(2, thread_name_prefix="pushtrain-owner")
        try:
            loop = asyncio.get_running_loop()
            both = (self._watch, self._sense)
            await asyncio.gather(*(loop.run_in_executor(threads, each) for each in both))
        finally:
            self._ended.set()
            self._wake.set()
            threads.shutdown(wait=False)
            self._presence.close()
            with contextlib.suppress(TimeoutError), self._alone():
                self._cards.close()

    def _watch(self) -> None:
        """Look at the GPUs until the end, woken by no loop: its timer costs as much again as half a look."""
        while True:
            self._wake.clear()
            if self._ended.is_set():
                return
            self._rest(self._step())

    def _rest(self, seconds: float) -> None:
        """Wait so long, or until somebody wakes us, the owner says otherwise, or a run holds something."""
        while seconds > 0 and not self._wake.wait(min(seconds, BRISK)):
            seconds -= BRISK
            if self._pause.until() != self._paused or (self._holders() and not self._held):
                return

    def _sense(self) -> None:
        """Look at the machine apart from its GPUs: a program that hangs must not delay those."""
        while True:
            calm = self._calm(self._held)
            self._presence.look(calm=calm)
            if self._ended.wait(CALM if calm else _SENSES):
                return

    def _step(self) -> float:
        """One look; seconds until the next."""
        begin = time.thread_time()
        if not self._look_safely(2 * _STALE, calm=True):
            return BRISK
        if self._cards.last.emptying:
            return SOON
        if self._held:
            return BRISK
        pause = CALM if self._calm(self._held) else WAITING
        return max(pause, min(_RAREST, (time.thread_time() - begin) / _SHARE))

    def _calm(self, holders: Sequence[Holder]) -> bool:
        return not holders and not self._busy()

    def _look_safely(self, within: float, *, calm: bool) -> bool:
        """Look; whether that was possible. Where it was not, nothing starts."""
        try:
            self._look(self._presence.latest(within, calm=calm))
        except Exception as error:  # noqa: BLE001  whatever it was, the owner must not suffer for it
            self._terms = Terms(starts=False)
            if str(error) != self._broken:
                self._broken = str(error)
                _log.exception("the machine could not be looked at, so nothing starts")
            return False
        self._broken = ""
        return True

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """One look at a time. Raises TimeoutError: another one hangs, with the driver."""
        if not self._lock.acquire(timeout=_PATIENCE):
            raise TimeoutError("the GPUs' driver does not answer")
        try:
            yield
        finally:
            self._lock.release()

    def _look(self, signals: Signals) -> None:
        with self._alone():
            holders = tuple(self._holders())
            cards = self._cards.look(holders)
            before, verdict = self._verdict, judge(self._rules, self._seen(signals, cards), self._verdict)
            kept = {gpu.uuid for gpu in self._gpus if verdict.stance(gpu.uuid) is not Stance.LENT}
            terms = Terms(verdict.lent, frozenset(kept | cards.emptying))
            news = terms != self._terms or not same(before, verdict)
            self._verdict, self._terms = verdict, terms
            begins = bool(holders and not self._held)
            self._looked_at, self._held = self._steady(), holders
            wanted = self._wanted(verdict, holders)
            try:
                self._show(verdict, cards, holders)
            except Exception:  # noqa: BLE001  a screen is no reason to keep the owner waiting
                _log.exception("what was seen of the machine could not be shown")
        for run_id, detail, grace in wanted:
            _log.info("run %s gives back what it holds within %g s: %s", run_id[:8], grace, detail)
            try:
                self._preempt(run_id, reason=Reason.PREEMPTED, detail=detail, grace=grace)
            except Exception:  # noqa: BLE001  the others must hear of it, and this one again
                _log.exception("run %s could not be asked", run_id[:8])
                self._asked = {key: at for key, at in self._asked.items() if key[0] != run_id}
        if begins:
            self.look_again()  # the loop may be at rest until long after
        if news:
            self._changed()

    def _seen(self, signals: Signals, cards: Cards) -> Seen:
        now, self._paused = self._clock(), self._pause.until()
        return Seen(
            at=now,
            minute=self._minute(now),
            paused_until=self._paused,
            idle=signals.idle,
            full_screen=bool(signals.full_screen),
            game=bool(signals.game),
            load=signals.load or 0,
            on_battery=bool(signals.on_battery),
            slurm=bool(signals.slurm),
            kwh_today=self._cards.kwh(),
            cards=cards.seen,
            blind=cards.blind,
        )

    def _wanted(self, verdict: Verdict, holders: Sequence[Holder]) -> list[tuple[str, str, float]]:
        """Whom to ask now, why, and how long it has: once, and again only where it must be quicker."""
        attempts = {holder.run_id: (holder.run_id, holder.attempt) for holder in holders}
        current = set(attempts.values())
        self._asked = {key: at for key, at in self._asked.items() if key in current}
        self._late &= current
        now, found = self._steady(), []
        for ask in asks(self._rules, verdict, {holder.run_id: holder.gpus for holder in holders}):
            key, deadline = attempts[ask.run_id], now + ask.grace
            if key not in self._asked or deadline < self._asked[key] - _SHORTER:
                self._asked[key] = deadline
                detail = f"{ask.finding.words[0].upper()}{ask.finding.words[1:]}."
                found.append((ask.run_id, detail, ask.grace))
        for key, deadline in self._asked.items():
            if now > deadline + _LATE and key not in self._late:
                self._late.add(key)
                _log.error("run %s still holds what its owner needs, %g s after its grace", key[0][:8], _LATE)
        return found
