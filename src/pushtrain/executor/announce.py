"""Tell senders where this executor is: write its card into rosters, when there is something to tell.

- A card is written at the start, at once when the address, the hardware or the labels change, and when the
  executor is stopped in order. On the rosters' own branch it is also renewed before it expires, twice a day;
  on a branch that people use there is no such heartbeat. An idle hour is no commit at all.
- The number of a card is on the disk before the card leaves, so that it never goes back. A genuine card of
  ours with a newer number that we have not written comes from a copy of our state folder: who sees it stops;
  so does a start that finds another process with our key at the address of a card of ours.
- What fails is tried again, later each time, and disturbs nobody: runs do not know that there are rosters.
- A card tells the GPUs' names and memory; not their UUIDs, nor the machine's name or address, unless the
  owner says so.
"""

import asyncio
import contextlib
import ipaddress
import logging
import math
import random
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from pushtrain.core.errors import Cancelled, Cloned, PushtrainError
from pushtrain.core.settings import ExecutorSettings
from pushtrain.core.values.card import ExecutorCard
from pushtrain.core.wire.address import is_loopback
from pushtrain.core.wire.roster import LIFETIME, BrokenRoster, parse, sign_card, with_card
from pushtrain.plumbing.disk.files import replace
from pushtrain.plumbing.git.rosterfile import RosterFile
from pushtrain.plumbing.keys.identity import Identity
from pushtrain.plumbing.sqlite.cards import card_number
from pushtrain.ports import Stop

_log = logging.getLogger(__name__)

_DAY: Final = 86_400.0
_HEIR: Final = 3.0
"""Seconds after which it is seen that our key has been rotated: until the card says so nobody else knows."""
_LOOK: Final = 30.0
"""Seconds after which the card is compared with what was told, if nobody says that it changed."""
_FRESH: Final = 60.0
"""A start does not repeat a card of the same content that is younger: an executor that dies again and again
must not write one each time."""
_FIRST_PAUSE: Final = 5.0
_LONGEST_PAUSE: Final = 900.0
_LONGEST_WRONG: Final = 40.0
"""The same while what the roster says is wrong: senders look for us where we are not."""
_FAREWELL: Final = 8.0
"""Seconds that a stop waits for the rosters."""
_NOT_TOLD: Final = ("timestamp", "sequence", "expires", "signature", "online")


@dataclass(frozen=True, slots=True)
class Habit:
    """How a kind of roster is written."""

    lifetime: float
    """Seconds that a card is good for."""
    renewal: float
    """Seconds after which it is renewed, if nothing changes."""
    spacing: float
    """Seconds between two cards of one life at least."""
    greets: bool
    """Whether a start alone is worth a card."""


OWN: Final = Habit(lifetime=LIFETIME, renewal=12 * 3600.0, spacing=3.0, greets=True)
SHARED: Final = Habit(lifetime=400 * _DAY, renewal=200 * _DAY, spacing=50.0, greets=False)


def due(face: ExecutorCard, last: ExecutorCard | None, habit: Habit, *, started: float, now: float) -> float:
    """When to write the next card; now or before: at once.

    Args:
        face: What there is to tell; its times, number and signature do not count.
        last: The card of ours that stands in the roster; None: there is none.
        habit: The roster's.
        started: When this executor started.
        now: Seconds since the epoch.
    """
    if last is None or last.timestamp > now:
        return -math.inf
    if differs(face, last) or not last.online:
        return last.timestamp + habit.spacing if last.timestamp >= started else -math.inf
    if habit.greets and last.timestamp < started - _FRESH:
        return -math.inf
    return min(last.timestamp + habit.renewal, last.expires)


def differs(one: ExecutorCard, other: ExecutorCard) -> bool:
    """Whether two cards tell senders different things."""
    return one.model_dump(exclude=set(_NOT_TOLD)) != other.model_dump(exclude=set(_NOT_TOLD))


def public_card(
    card: ExecutorCard, settings: ExecutorSettings, *, tunnel: str | None, host_name: str
) -> ExecutorCard:
    """The card as far as it may be published.

    Args:
        card: All that there is to know.
        settings: What the owner wants.
        tunnel: The tunnel's public URL, empty while it has none; None: there is no tunnel.
        host_name: This machine's.
    """
    host, port = card.ip, card.port
    told = is_loopback(host) or settings.publish_address
    url = tunnel or ""
    if tunnel is None and settings.publish_address and not is_loopback(host) and not _is_any(host):
        url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    named = settings.publish_host_name and settings.name == ExecutorSettings().name
    gpus = card.gpus
    if not settings.publish_gpu_uuids:
        gpus = tuple(gpu.model_copy(update={"uuid": "", "driver": ""}) for gpu in gpus)
    return card.model_copy(
        update={
            "name": host_name if named and host_name else card.name,
            "public_url": url,
            "ip": host if told else "",
            "port": port if told else 0,
            "gpus": gpus,
        }
    )


def _is_any(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_unspecified
    except ValueError:
        return False


@dataclass(slots=True)
class _Target:
    """One roster, and what is known of our card there."""

    file: RosterFile
    repositories: tuple[str, ...]
    last: ExecutorCard | None = None
    looked: bool = False
    tries: int = 0
    not_before: float = -math.inf
    trouble: str = ""
    habit: Habit = field(init=False)

    def __post_init__(self) -> None:
        self.habit = OWN if self.file.place.own else SHARED

    def face(self, card: ExecutorCard) -> ExecutorCard:
        """What is told here: of the repositories only those whose roster this is."""
        kept = tuple(key for key in card.repositories if key in self.repositories)
        return card.model_copy(update={"repositories": kept})


class Announcer:
    """Keeps this executor's card in its rosters.

    Args:
        rosters: Each with the keys of the repositories that use it.
        card: What may be published now; asked from any thread.
        identity: Whose cards they are now; its key signs them.
        memory: File that holds the number of the newest card.
        twin: Whether another process than this one answers for our key at the address of a card of ours.
        clock: Seconds since the epoch.
        jitter: A number from 0 to 1; spreads tries.
    """

    def __init__(
        self,
        rosters: Sequence[tuple[RosterFile, Sequence[str]]],
        card: Callable[[], ExecutorCard],
        *,
        identity: Callable[[], Identity],
        memory: Path,
        twin: Callable[[ExecutorCard], bool] = lambda _: False,
        clock: Callable[[], float] = time.time,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._targets = [_Target(file, tuple(keys)) for file, keys in rosters]
        self._card = card
        self._identity = identity
        self._memory = memory
        self._is_twin = twin
        self._clock = clock
        self._jitter = jitter
        self._started = clock()
        self._seen: ExecutorCard | None = None
        self._signed: set[str] = set()
        """Signatures of the cards that this life has made."""
        self._past = -1
        """The highest number that an earlier life may have written; -1: not looked yet."""
        self._busy = threading.Lock()
        self._ending = False
        self._told = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None

    def told(self) -> None:
        """Look at once: the address changed, or something else on the card. From any thread."""
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._told.set)

    async def run(self) -> None:
        """Write what is due until cancelled; no failure ends this but one.

        Raises:
            Cloned: A copy of our state folder is at work elsewhere.
        """
        self._loop = asyncio.get_running_loop()
        self._ending = False
        try:
            while self._targets:
                self._told.clear()
                identity = self._identity()
                try:
                    again = await asyncio.to_thread(self.look)
                except Cloned:
                    raise
                except Exception:  # noqa: BLE001  a full disk, for one, must not end the executor here
                    _log.exception("the rosters could not be looked at")
                    again = math.inf
                pause = min(max(again - self._clock(), 0.1), _LOOK)
                await self._rest(self._loop.time() + pause, identity)
        finally:
            self._ending = True

    async def _rest(self, until: float, identity: Identity) -> None:
        """Wait so long, until somebody tells of a change, or until we are another one."""
        loop = asyncio.get_running_loop()
        while self._identity() is identity and (left := until - loop.time()) > 0:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(min(left, _HEIR)):
                    await self._told.wait()
                    return

    async def farewell(self) -> None:
        """Say in each roster that this executor is offline; gives up after a few seconds."""
        self._ending = True
        try:
            await asyncio.to_thread(self._leave, time.monotonic() + _FAREWELL)
        except Cloned as error:
            _log.warning("The rosters are not told that the executor stops. %s", error.message)
        except Exception:  # noqa: BLE001  the stop goes on, and the card expires by itself
            _log.exception("the rosters could not be told that the executor stops")

    def look(self) -> float:
        """Write the cards that are due; when to look again."""
        with self._busy:
            now, card = self._clock(), self._card()
            if self._seen is not None and differs(card, self._seen):
                for target in self._targets:
                    target.not_before = -math.inf
            self._seen = card
            for target in self._targets:
                if target.not_before > now + 2 * _LONGEST_PAUSE:
                    target.not_before = -math.inf  # the clock was set back
            for target in self._targets:
                if not target.looked and target.not_before <= now:
                    self._attempt(target, lambda target=target: self._recall(target))  # type: ignore[misc]
            self._write_due(card, now)
            return min((self._next(target, card, now) for target in self._targets), default=math.inf)

    def _next(self, target: _Target, card: ExecutorCard, now: float) -> float:
        if not target.looked:
            return target.not_before
        when = due(target.face(card), target.last, target.habit, started=self._started, now=now)
        return max(target.not_before, when)

    def _write_due(self, card: ExecutorCard, now: float) -> None:
        """Write the cards that are due, all with one number, and with them those that soon would be.

        Senders believe only the newest number that they saw of a key, wherever they saw it.
        """
        ready = [one for one in self._targets if one.looked and one.not_before <= now]
        first = [one for one in ready if self._next(one, card, now) <= now]
        habits = {one.habit for one in first}
        soon = [
            one
            for one in ready
            if one not in first
            and one.habit in habits
            and one.last is not None
            and now - one.last.timestamp > one.habit.renewal / 2
        ]
        if not first:
            return
        number = self._number()
        for target in (*first, *soon):
            self._attempt(
                target,
                lambda target=target: self._write(target, card, number, now),  # type: ignore[misc]
            )

    def _leave(self, deadline: float) -> None:
        def stop() -> None:
            if time.monotonic() > deadline:
                raise Cancelled("The executor stops without waiting for the roster any longer.")

        with self._busy:
            present = [one for one in self._targets if one.last is not None and one.last.online]
            if not present:
                return
            now, card = self._clock(), self._card().model_copy(update={"online": False})
            number = self._number()
            for target in present:
                self._attempt(
                    target,
                    lambda target=target: self._write(target, card, number, now, stop),  # type: ignore[misc]
                )

    def _attempt(self, target: _Target, work: Callable[[], None]) -> None:
        """Do something with a roster; a failure is told once and postpones the next try."""
        try:
            work()
        except Cloned:
            raise
        except Cancelled as error:
            if not self._ending:
                raise
            _log.info("%s: %s", target.file.place.title, error)
            return
        except PushtrainError as error:
            trouble = str(error)
        except Exception as error:  # noqa: BLE001  a defect here must not end the executor
            trouble = f"a defect, {error!r}"
            _log.debug("the roster's defect", exc_info=True)
        else:
            target.tries, target.trouble, target.not_before = 0, "", -math.inf
            return
        target.tries += 1
        right = target.last is not None and self._seen and not differs(target.face(self._seen), target.last)
        longest = _LONGEST_PAUSE if right else _LONGEST_WRONG
        pause = min(longest, _FIRST_PAUSE * 2.0 ** min(target.tries - 1, 10))
        target.not_before = self._clock() + pause * (0.75 + 0.5 * self._jitter())
        if trouble != target.trouble:
            target.trouble = trouble
            _log.warning(
                "The card in the roster %s could not be written: %s", target.file.place.title, trouble
            )

    def _stop(self) -> None:
        if self._ending:
            raise Cancelled("The executor ends.")

    def _recall(self, target: _Target) -> None:
        """Find the card that an earlier life of ours left in the roster."""
        target.last = self._own(target.file.read(stop=self._stop).text, target)
        if target.last is not None and self._at_work(target.last):
            raise _twin(target.last, target.file.place.title)
        if target.last is not None and target.last.sequence > self._newest():
            self._used(target.last.sequence)  # our folder is older than the card, as a restored one is
            self._past = max(self._past, target.last.sequence)
        target.looked = True

    def _own(self, text: str, target: _Target) -> ExecutorCard | None:
        try:
            found = parse(text, source=target.file.place.title).find(self._identity().id)
        except BrokenRoster:
            if not target.file.place.own:
                raise
            return None
        return found.card if found is not None and found.genuine else None

    def _write(
        self, target: _Target, card: ExecutorCard, number: int, now: float, stop: Stop | None = None
    ) -> None:
        place, signed = target.file.place, card

        def change(text: str) -> str:
            nonlocal signed
            before = self._own(text, target)
            if before is not None and self._foreign(before):
                raise _twin(before, place.title)
            signed = sign_card(
                target.face(card).model_copy(
                    update={
                        "timestamp": float(int(now)),
                        "expires": float(int(now + target.habit.lifetime)),
                        "sequence": number,
                    }
                ),
                self._identity().key,
            )
            self._signed.add(signed.signature)
            try:
                return with_card(text, signed, source=place.title, replaces=self._identity().was)
            except BrokenRoster:  # on a branch of our own: there is nothing to lose
                return with_card("", signed)

        state = "online" if card.online else "offline"
        message = f"Executor {card.name} is {state}" + ("" if place.own else "\n\n[skip ci]")
        target.file.write(change, message=message, when=int(now), stop=stop or self._stop)
        target.last, target.looked = signed, True
        _log.info("The roster %s tells: %s is %s.", place.title, card.name, state)

    def _at_work(self, card: ExecutorCard) -> bool:
        """Whether a card that an earlier life may have left is that of a copy of our state folder."""
        here = self._seen.public_url if self._seen else ""
        there = card.online and self._clock() < card.expires and card.public_url not in {"", here}
        return there and self._is_twin(card)

    def _foreign(self, card: ExecutorCard) -> bool:
        """Whether neither this life nor an earlier one has written a genuine card of ours."""
        return card.sequence > self._past and card.signature not in self._signed

    def _number(self) -> int:
        """A number that no card of ours had, durably noted as used."""
        newest = self._newest()
        if self._past < 0:
            self._past = newest
        number = newest + 1
        self._used(number)
        return number

    def _newest(self) -> int:
        return card_number(self._memory)

    def _used(self, number: int) -> None:
        replace(self._memory, f"{number}\n".encode())


def _twin(card: ExecutorCard, where: str) -> Cloned:
    """What to say when a card that only we can sign was written by somebody else."""
    at = f" at {card.public_url}" if card.public_url else ""
    return Cloned(
        f"Another machine works with a copy of this executor's state folder: the roster {where} has card "
        f"number {card.sequence} of its key, {card.name}{at}, which is not this one's.",
        mend="Stop one of the two for good.",
    )
