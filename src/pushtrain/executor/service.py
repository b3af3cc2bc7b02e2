"""The executor as its door sees it: accept, cancel, say who it is and what is free; and the loops behind.

Every method but `run` is a plain function, may block for a moment, and may be called from any thread. What
changes is told to subscribers by the run's id; they look for themselves what became of it.
"""

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Final
from urllib.parse import urlsplit

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from pushtrain import __version__
from pushtrain.core.errors import ConfigError, Conflict, Forbidden, NotFound
from pushtrain.core.lifecycle import comes_back
from pushtrain.core.policy import fits, paces
from pushtrain.core.runs.gpustate import MachineGpus
from pushtrain.core.runs.room import told, too_weak
from pushtrain.core.runs.usage import Usage
from pushtrain.core.settings import Settings
from pushtrain.core.values.card import Capacity, Challenge, ExecutorCard, Gpu, Pace
from pushtrain.core.values.command import TrainCommand
from pushtrain.core.values.isolation import Isolation
from pushtrain.core.values.run import Run
from pushtrain.core.values.states import Reason, State
from pushtrain.core.wire.grants import Scope, Word
from pushtrain.core.wire.protocol import PROTOCOL
from pushtrain.core.wire.signing import public_text
from pushtrain.executor.admission import Admission
from pushtrain.executor.clockwatch import ClockWatch
from pushtrain.executor.drain import Drain
from pushtrain.executor.moving.giveway import GiveWay
from pushtrain.executor.moving.migration import Migration
from pushtrain.executor.owner import gpuboard
from pushtrain.executor.owner.books import Books
from pushtrain.executor.owner.cardwatch import Samples
from pushtrain.executor.owner.idle import Idle
from pushtrain.executor.owner.landlord import BRISK, Landlord
from pushtrain.executor.owner.lending import Terms
from pushtrain.executor.owner.meter import Meter
from pushtrain.executor.results.artifacts import Spend, at_once
from pushtrain.executor.results.courier import Courier, Publisher, clear
from pushtrain.executor.rulebook import NumberOf, Rulebook, unasked
from pushtrain.executor.runs.access import Access
from pushtrain.executor.runs.cages import cores_and_memory
from pushtrain.executor.runs.dispatch import Dispatch
from pushtrain.executor.runs.shown import Shown
from pushtrain.executor.runs.vault import Reader, Vault
from pushtrain.executor.runs.workshop import Workshop
from pushtrain.executor.steward import Steward
from pushtrain.executor.warden import Warden
from pushtrain.plumbing.data.ledger import Ledger
from pushtrain.plumbing.data.throttle import Throttle
from pushtrain.plumbing.disk.cache import Cache
from pushtrain.plumbing.disk.state import StateFolder
from pushtrain.plumbing.git.mirror import Mirror
from pushtrain.plumbing.housekeeping.holdings import Holdings
from pushtrain.plumbing.housekeeping.upkeep import DAY, upkeep_of
from pushtrain.plumbing.isolation import cgroups
from pushtrain.plumbing.keys.authorized import Authorized
from pushtrain.plumbing.keys.identity import Identity
from pushtrain.plumbing.keys.invitations import Invitations
from pushtrain.plumbing.keys.sealing import sealing_key
from pushtrain.plumbing.machine.energy import EnergyDay
from pushtrain.plumbing.machine.gpu import Sampler
from pushtrain.plumbing.machine.localtime import quiet_until
from pushtrain.plumbing.sqlite.cards import card_number
from pushtrain.plumbing.sqlite.store import Store
from pushtrain.ports import Environment, Sandbox

_log = logging.getLogger(__name__)

_MOST_TOLD: Final = 200
"""Waiting runs whose readers are told at once that the owner came or went; others read it when they ask."""
_PACED: Final = 30.0
"""Seconds for which it counts how long jobs took."""
_MOST_ASKED: Final = 1000
"""Challenges that are remembered."""


class ExecutorService:
    """One executor.

    Args:
        settings: What the owner set.
        state: Where everything is kept.
        store: The state folder's store, open.
        identity: Who the executor is now; read anew for each request.
        authorized: Whom this executor obeys.
        mirrors: The mirror of a repository's key.
        environments: Ways to build environments, by kind, in the order in which `auto` asks them.
        publisher: Brings results to their branch.
        sandbox: What jobs are kept in.
        access: What they reach over the network.
        gpus: This machine's GPUs.
        samples: Where it is seen what they do.
        sealed: Where the sealed secrets of a repository are, by its key.
        shed: Empties the cache of packages that environments were made from.
        number_of: Asks a Git host which number a repository has.
        pace: Told of each piece that goes to a store; waits until the next may.
        url: Where callers reach it; `serve` may set it once the port is known.
        clock: Seconds since the epoch.
    """

    def __init__(
        self,
        settings: Settings,
        state: StateFolder,
        store: Store,
        *,
        identity: Callable[[], Identity],
        authorized: Authorized,
        mirrors: Callable[[str], Mirror],
        environments: Mapping[str, Environment],
        publisher: Publisher,
        sandbox: Sandbox,
        access: Access,
        gpus: Sequence[Gpu] = (),
        samples: Samples | None = None,
        sealed: Mapping[str, Reader] | None = None,
        shed: Callable[[], None] = lambda: None,
        number_of: NumberOf = unasked,
        pace: Spend = at_once,
        url: str = "",
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.settings = settings
        self.store = store
        self.url = url
        self.listens = ("127.0.0.1", 0)
        """Where the local server listens; whoever serves sets it."""
        self.gpus = tuple(gpus)
        self._state = state
        self._identity = identity
        self._called = authorized.called
        self._may_start = lambda sender: authorized.word(sender) is Word.MAY
        self.admission = Admission(authorized, Invitations(state.invitations), store, clock=clock)
        """Who may come in."""
        self._clock = clock
        self._subscribers: set[Callable[[str], None]] = set()
        self._guard = threading.Lock()
        self.drain = Drain(state.drain, store, turned=self._drain_turned, clock=clock)
        """The owner's order to take nothing new and stop."""
        self._asked: deque[str] = deque(maxlen=_MOST_ASKED)
        self._clock_watch = ClockWatch(store, jumped=self.wake, clock=clock)
        self._paced: tuple[float, tuple[Pace, ...]] | None = None
        self._slots = max(settings.executor.slots, len(self.gpus))
        self.rulebook = Rulebook.of(
            settings, state, grant_of=authorized.spokesman, number_of=number_of, now=clock
        )
        """The owner's rules."""
        data, built = Cache(state.data, watched=True, clock=clock), Cache(state.environments, clock=clock)
        upkeep = upkeep_of(
            Holdings(
                state,
                store,
                data,
                built,
                shed=shed,
                keep=settings.executor.keep_artifacts_days * DAY,
                clock=clock,
            ),
            settings.executor,
        )
        self._steward = Steward(upkeep)
        downloads = Ledger(
            state.downloads,
            settings.rules.limits.downloads_per_day,
            throttle=Throttle(settings.rules.owner.bandwidth),
            quiet=self._quiet_until,
            clock=clock,
        )
        self._shop = Workshop(
            state=state,
            settings=settings.executor,
            rulebook=self.rulebook,
            downloads=downloads,
            mirrors=lambda key: mirrors(key).tolled(downloads),
            environments=environments,
            data=data,
            built=built,
            upkeep=upkeep,
            vault=Vault(
                sealing_key(state.sealing_key),
                kept=settings.secrets,
                sealed=sealed,
                grants=authorized.lookup,
                memory=state.secret_times,
                clock=clock,
            ),
            sandbox=sandbox,
            cgroups=cgroups.find(),
            access=access,
            gpus=self.gpus,
            meter=Meter(state.runs, EnergyDay(state.energy, clock=clock), clock=clock),
        )
        self._dispatch: Dispatch
        self._books = Books(store, [gpu.uuid for gpu in self.gpus], waiting=store.waiting, clock=clock)
        idle = Idle(
            self._shop.meter,
            settings.rules.limits.gpu_idle,
            runs=lambda: self._dispatch,
        )
        self._landlord = Landlord.of(
            settings,
            state,
            self.gpus,
            samples=samples or Sampler(),
            meter=self._shop.meter,
            watchers=(self._books.look, idle.look),
            dispatch=lambda: self._dispatch,
            waiting=store.waiting,
            changed=self._stands_otherwise,
            clock=clock,
        )
        self._courier = Courier(
            store,
            publisher,
            state.runs,
            changed=self._changed,
            quiet=self._quiet_until,
            clock=clock,
        )
        self._migration = Migration(
            store,
            state.runs,
            mirrors,
            changed=self._changed,
            allowed=downloads.demand_noise,
            pace=pace,
        )
        self._dispatch = Dispatch(
            store,
            self._shop,
            slots=self._slots,
            changed=self._changed,
            ended=self._ended,
            may_start=self._may_start,
            again=self._migration.soon,
            terms=lambda: Terms(starts=False) if self.drain.on else self._landlord.terms(),
            cards=self._landlord.cards_now,
            clock=clock,
        )
        self.shown = Shown(
            store, state.runs, self._shop.vault, progress=self._dispatch.progress, waits=self._waits
        )
        """Runs as they are shown."""
        self._giveway = GiveWay(
            store, self._dispatch, mirrors, grace=settings.executor.grace, changed=self._changed
        )
        self._warden = Warden(
            store,
            authorized,
            self._key_ended,
            changed=self._dispatch.wake,
            clock=clock,
        )

    async def run(self) -> None:
        """Recover, then run and publish until cancelled; trainings outlive this."""
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._dispatch.run())
                group.create_task(self._courier.run())
                group.create_task(self._giveway.run())
                group.create_task(self._migration.run())
                group.create_task(self._warden.run())
                group.create_task(self.drain.run())
                group.create_task(self._clock_watch.run())
                group.create_task(self._landlord.run())
                group.create_task(self._steward.run())
        finally:
            await asyncio.to_thread(self._shop.close)
            await asyncio.to_thread(self._books.settle)

    def _ended(self) -> None:
        self._courier.wake()
        self._steward.ended()
        self._giveway.ended()

    def wake(self) -> None:
        """Look for work: something was accepted by other means than `accept`."""
        self._dispatch.wake()
        self._courier.wake()

    # --- what comes in ------------------------------------------------------------------------------------

    @property
    def key(self) -> Ed25519PrivateKey:
        """The executor's identity; signs every answer."""
        return self._identity().key

    @property
    def identity(self) -> Identity:
        """Who the executor is, and was."""
        return self._identity()

    @property
    def isolation(self) -> Isolation:
        """The level that its jobs run at."""
        return self._shop.sandbox.level

    @property
    def access(self) -> Access:
        """What its jobs reach over the network."""
        return self._shop.access

    def accept(
        self,
        command: TrainCommand,
        *,
        sender: str,
        raw: bytes,
        headers: Mapping[str, str],
        nonce: str,
        nonce_expires: float,
    ) -> tuple[Run, bool]:
        """Keep a command durably, its nonce in the same transaction; the run, and whether it is new.

        Raises:
            Forbidden: This executor does not serve the repository, or not the one for its results.
            Refused, BeyondLimits: A rule of the owner's is against it.
            ConfigError: It can never run such a job here.
            Draining: It takes nothing new, by its owner's order; what it has already is answered as ever.
            Busy, Unauthorized, StorageError: As the store's `accept`.
        """
        served = {repository.key for repository in self.settings.repositories}
        for repository in {command.repository, command.job.results_to.repository or command.repository}:
            if repository not in served:
                raise Forbidden(
                    f"Executor {self.settings.executor.name} does not serve the repository {repository}.",
                    mend="Its owner adds it with `--repo` or in settings.toml.",
                )
        if self.drain.on and not self._known(command):
            raise self.drain.refuse(self.settings.executor.name)
        self.rulebook.admit(command, sender)
        self.access.settle(command.job.network)
        mended = self.card().model_copy(update={"gpus": self.gpus})  # what has failed may be mended one day
        cpus, memory = cores_and_memory(self.rulebook.rules.limits)
        lacks = too_weak(command.job.resources, cpus=cpus, memory=memory)
        if problem := fits(mended, command.job, command.repository) or lacks:
            raise ConfigError(
                f"Executor {mended.name} can never run the job {command.job.name}: {problem}.",
                mend="Ask for less, or send it to another executor.",
            )
        run, fresh = self.store.accept(
            command,
            sender=sender,
            raw=raw,
            headers=headers,
            nonce=nonce,
            nonce_expires=nonce_expires,
            queue_limit=self.settings.executor.queue_limit,
            most_priority=self._shop.rules.limits.priority,
            formerly=grant.was if (grant := self.admission.grant(sender)) else (),
            speaks=lambda key: self._speaks(key, command),
        )
        if fresh:
            self._changed(run.id)
            self._giveway.soon(run)
            self._dispatch.accepted()
        return run, fresh

    def _speaks(self, key: str, command: TrainCommand) -> bool:
        """Whether a key may send this command, too."""
        grant = self.rulebook.grant_of(key)
        return grant is not None and grant.allows(Scope.SEND, command.repository) and grant.sends(command.ref)

    def _known(self, command: TrainCommand) -> bool:
        """Whether a command is a repetition of one that was taken on."""
        try:
            return not comes_back(self.store.run(command.run_id), command)
        except NotFound:
            return False

    def cancel(
        self,
        run_id: str,
        *,
        by: str,
        senders: Collection[str] = (),
        nonce: str = "",
        nonce_expires: float = 0,
    ) -> Run:
        """Use up the nonce, if there is one, then ask the run to end.

        Args:
            run_id: Which run.
            by: Who asks.
            senders: Under which keys whoever asks sends. His own run only becomes that of another key that
                has asked for it, too.
            nonce: What the request came with.
            nonce_expires: When that may be forgotten.

        Raises:
            NotFound, Conflict, Unauthorized: As the store's methods.
        """
        if nonce:
            self.store.use_nonce(nonce, nonce_expires)
        if self.store.run(run_id).sender in senders and (ref := self._handed_over(run_id, f"{by} cancels")):
            raise Conflict(
                f"Another key has asked for run {run_id[:8]}, too, for {ref}: it goes on for that one alone.",
                mend="Whoever may cancel it all the same cancels it once more.",
            )
        return self._dispatch.cancel(run_id, by=by)

    def _key_ended(self, run_id: str, by: str) -> None:
        """A key has lost its rights: its run is cancelled, or is that of another key that asked for it."""
        if not self._handed_over(run_id, f"cancelled by {by}"):
            self._dispatch.cancel(run_id, by=by)

    def _handed_over(self, run_id: str, why: str) -> str:
        ref = self.store.hand_over(run_id, why=why, may=self._may_start)
        if ref:
            self._changed(run_id)
            self._dispatch.wake()
        return ref

    def preempt(self, run_id: str, *, reason: Reason, detail: str, grace: float) -> None:
        """Take a run's machine back; see `Dispatch.preempt`."""
        self._dispatch.preempt(run_id, reason=reason, detail=detail, grace=grace)

    def release(
        self, run_id: str, *, by: Collection[str], attempt: int, nonce: str, nonce_expires: float
    ) -> Run:
        """Let a waiting run go to another executor, the nonce used up in the same transaction.

        Raises:
            NotFound, Forbidden, Conflict, Unauthorized: As `Store.release`.
        """
        waits = self.store.run(run_id)
        self._migration.may_leave(waits)
        run = self.store.release(
            run_id,
            by=by,
            attempt=attempt,
            seen=waits.attempt,
            nonce=nonce,
            nonce_expires=nonce_expires,
            may=self._may_start,
        )
        try:
            clear(self._state.runs / run.id)
        except OSError as error:  # it is given away all the same; the next start removes what is left
            _log.warning("what run %s has left cannot be removed yet: %s", run.short, error)
        self._changed(run_id)
        self._giveway.ended()
        self._dispatch.wake()
        return run

    # --- what is shown ------------------------------------------------------------------------------------

    def card(self) -> ExecutorCard:
        """How a sender reaches and recognises this executor."""
        settings, identity = self.settings.executor, self._identity()
        return ExecutorCard(
            name=settings.name,
            public_url=self.url,
            ip=self.listens[0],
            port=self.listens[1] or urlsplit(self.url).port or 0,
            timestamp=self._clock(),
            public_key=public_text(identity.key.public_key()),
            sealing_key=self._shop.vault.public,
            succession=tuple(map(str, identity.chain)),
            labels=settings.labels,
            prefer=settings.prefer,
            mounts=tuple(settings.mounts),
            gpus=self._landlord.marked(),
            repositories=tuple(repository.key for repository in self.settings.repositories),
            sequence=card_number(self._state.card_number),
            isolation=self.isolation,
            network=self.access.told,
            draining=self.drain.on,
        )

    def capacity(self) -> Capacity:
        """What is free at this moment."""
        at = self._clock()
        queued, active, _ = self.store.counts()
        gpus, slots = self._landlord.terms(within=BRISK).of(self.gpus, self._slots)
        free_slots, places = self.store.room(slots=slots, gpus=gpus, bounds=self._shop.bounds)
        if self.drain.on:
            free_slots, places = 0, ()
        return Capacity(
            slots=self._slots,
            free_slots=free_slots,
            free_gpus=sum(1 for place in places if place.whole),
            free=told(places),
            queued=queued,
            running=active,
            waits=self._landlord.stands(),
            paces=self._paces(),
            at=at,
        )

    def _paces(self) -> tuple[Pace, ...]:
        """How long jobs take here, by what ended up to a while ago."""
        now = time.monotonic()
        if self._paced is None or now - self._paced[0] > _PACED:
            self._paced = (now, paces(self.store.took()))
        return self._paced[1]

    def machine_gpus(self) -> MachineGpus:
        """What the GPUs do at this moment, and how they stand."""
        name = self.settings.executor.name
        return gpuboard.now(name, self.gpus, self._landlord, self._dispatch, self.store)

    def usage(self, days: int) -> Usage:
        """What the ledger tells of the last days, today among them."""
        since = int(self._clock() // DAY) - days + 1
        entries = tuple(self.store.used(since=since))
        named = {each.sender: self._called(each.sender) for each in entries}
        return Usage(
            executor=self.settings.executor.name,
            days=days,
            entries=entries,
            stood=self._books.stood(since=since),
            names={key: name for key, name in named.items() if name},
        )

    def unbegun_of(self, keys: Collection[str], limit: int) -> tuple[list[str], list[str]]:
        """As `Store.unbegun_of`."""
        return self.store.unbegun_of(keys, limit=limit)

    def challenge(self, nonce: str) -> Challenge:
        """Who this is and what it has free."""
        self._asked.append(nonce)
        return Challenge(
            nonce=nonce, card=self.card(), capacity=self.capacity(), version=__version__, protocol=PROTOCOL
        )

    def was_asked(self, nonce: str) -> bool:
        """Whether it was this process that was lately asked with this nonce who it is."""
        return nonce in self._asked

    def _waits(self, run: Run) -> str:
        """For what a run waits that only this process knows: the owner, the next day, a quiet hour."""
        if run.state is State.QUEUED:
            return self._landlord.why(run.command.job.resources) or self._quota(run)
        if run.state is State.PUBLISHING and self._quiet_until() is not None:
            return f"{self.settings.executor.name} publishes nothing at this hour"
        return ""

    def _quota(self, run: Run) -> str:
        """That a run waits for the next day's GPU-hours; empty: it does not."""
        bounds = self._shop.bounds
        if run.command.job.resources.gpus and self.store.used_up(run.sender, self.gpus, bounds):
            return f"its sender has used today's {bounds.hours_a_day:g} GPU-hours"
        return ""

    def _quiet_until(self) -> float | None:
        return quiet_until(self.settings.rules.owner.quiet, self._clock())

    def _stands_otherwise(self) -> None:
        """The owner came or went: what waits may start, and says for what it waits."""
        self._dispatch.wake()
        self._changed("")  # what is free has changed, whatever became of runs
        for run in self.store.runs(states=(State.QUEUED,), limit=_MOST_TOLD):
            self._changed(run.id)

    def _drain_turned(self) -> None:
        """Draining began, or was called off: then what waits may start at once."""
        self._dispatch.wake()
        self._changed("")

    def subscribe(self, changed: Callable[[str], None]) -> Callable[[], None]:
        """Call `changed(run_id)`, from any thread, whenever a run's view changes; returns how to stop it."""
        with self._guard:
            self._subscribers.add(changed)

        def leave() -> None:
            with self._guard:
                self._subscribers.discard(changed)

        return leave

    def _changed(self, run_id: str) -> None:
        with self._guard:
            subscribers = tuple(self._subscribers)
        for tell in subscribers:
            try:
                tell(run_id)
            except Exception:  # noqa: BLE001  one reader's defect must not reach the others
                _log.exception("a reader could not be told of run %s", run_id)
