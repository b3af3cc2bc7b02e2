"""The executors that rosters tell of: cards with a trusted key, not outdated, not stopped, with an address.

A roster is read when its branch has moved, which whoever looks at the repository's branches sees anyway, so
there is no polling beside. The highest number seen on each trusted executor's cards is kept durably: an older
card is not believed again, whoever puts it back. A roster that cannot be read keeps what it said before.
"""

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from pushtrain.core.errors import Cancelled, PushtrainError
from pushtrain.core.values.card import ExecutorCard
from pushtrain.core.values.value import Value
from pushtrain.core.wire.roster import Listed, Roster, Standing, Verdict, judge, parse
from pushtrain.core.wire.succession import chain
from pushtrain.plumbing.git.rosterfile import RosterFile
from pushtrain.ports import Stop

log = logging.getLogger(__name__)

_GONE: Final = ""


class Memory(Protocol):
    """Where the newest number of each executor's cards is kept: `plumbing.sqlite.cards`."""

    def newest_cards(self) -> dict[str, int]:
        """The highest number seen of each executor's cards, by fingerprint."""

    def note_cards(self, newest: Mapping[str, int]) -> None:
        """Note these numbers durably; none goes back."""


class Found(Value):
    """A card in a roster, and what it is worth here."""

    roster: str
    """Where the roster lies, for people."""
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class _Read:
    """A roster as it was read last."""

    tip: str
    """The commit that it was read at; empty: there was no such branch."""
    text: str
    roster: Roster
    genuine: tuple[bool, ...]
    """Of each card; a signature is checked once."""


class Rosters:
    """Several rosters, as far as they were read. Any thread may call any method.

    Args:
        files: Where they lie.
        memory: Keeps the newest numbers.
        trusted: Fingerprints of the executors' keys that are trusted at this moment.
        follow: Given a genuine card of an unknown key that takes the place of a trusted one, by its own word;
            pins it durably and says whether it did.
        clock: Seconds since the epoch.
        allow_http: Whether executors beyond this machine may be reached without TLS.
        quiet: Whether trouble is only kept for whoever asks, and not told in the log.
    """

    def __init__(
        self,
        files: Sequence[RosterFile],
        memory: Memory,
        trusted: Callable[[], Collection[str]],
        *,
        follow: Callable[[ExecutorCard], bool] = lambda _: False,
        clock: Callable[[], float] = time.time,
        allow_http: bool = False,
        quiet: bool = False,
    ) -> None:
        self._quiet = quiet
        self.files = tuple(files)
        self._memory = memory
        self._trusted = trusted
        self._follow = follow
        self._clock = clock
        self._allow_http = allow_http
        self._guard = threading.Lock()
        self._read: dict[str, _Read] = {}
        self._trouble: dict[str, str] = {}
        self._newest: dict[str, int] | None = None

    # --- reading --------------------------------------------------------------------------------------

    def see(
        self, key: str, refs: Mapping[str, str], *, complete: bool = True, stop: Stop | None = None
    ) -> bool:
        """Read the rosters of a repository whose branches have moved; whether there was one.

        A roster that cannot be read is told of once in the log, and in `trouble`.

        Args:
            key: The repository.
            refs: Full ref → commit, as just seen.
            complete: Whether a branch that is not among them does not exist.
            stop: Called now and then; what it raises ends the work.
        """
        news = False
        for file in self.files:
            place = file.place
            if place.repository.key == key and (complete or place.ref in refs):
                news |= self._take(file, refs.get(place.ref, _GONE), stop)
        return news

    def refresh(self, file: RosterFile, *, stop: Stop | None = None) -> bool:
        """Look whether one roster's branch has moved, and read it if so; whether there was news."""
        try:
            refs = file.mirror.ls_remote(stop=stop)
        except PushtrainError as error:
            self._complain(file, error)
            return False
        return self._take(file, refs.get(file.place.ref, _GONE), stop)

    def recall(self, texts: Mapping[str, str]) -> None:
        """Take rosters as somebody read them before, by the titles of their places."""
        for file in self.files:
            if (text := texts.get(file.place.title)) is not None:
                with contextlib.suppress(PushtrainError):  # it is read anew
                    self._understand(file, "remembered", text)

    def texts(self) -> dict[str, str]:
        """What was read, by the titles of the places."""
        with self._guard:
            return {title: read.text for title, read in self._read.items()}

    def elsewhere(self, watched: Collection[str]) -> list[RosterFile]:
        """The rosters in repositories that nobody looks at for another reason."""
        return [file for file in self.files if file.place.repository.key not in watched]

    def path_on(self, key: str, ref: str) -> str:
        """The roster's path, where it lies on this branch of this repository; else empty."""
        return next(
            (
                file.place.path
                for file in self.files
                if (file.place.repository.key, file.place.ref) == (key, ref)
            ),
            "",
        )

    def trouble(self) -> dict[str, str]:
        """What is wrong with rosters that cannot be read, by the titles of their places."""
        with self._guard:
            return {title: text for title, text in self._trouble.items() if text}

    def _take(self, file: RosterFile, tip: str, stop: Stop | None) -> bool:
        title = file.place.title
        with self._guard:
            known = self._read.get(title)
        if known is not None and known.tip == tip:
            return False
        try:
            text = file.read_at(tip, stop=stop) if tip else ""
            self._understand(file, tip, text)
        except PushtrainError as error:
            self._complain(file, error)
            return False
        return True

    def _complain(self, file: RosterFile, error: PushtrainError) -> None:
        if isinstance(error, Cancelled):
            raise error
        title = file.place.title
        with self._guard:
            told, self._trouble[title] = self._trouble.get(title), str(error)
        if told != str(error) and not self._quiet:
            log.warning("the roster %s could not be read: %s", title, error)

    def _understand(self, file: RosterFile, tip: str, text: str) -> None:
        roster = parse(text, source=file.place.title)
        read = _Read(tip, text, roster, tuple(listed.genuine for listed in roster.cards))
        with self._guard:
            self._read[file.place.title] = read
            self._trouble.pop(file.place.title, None)

    # --- judging --------------------------------------------------------------------------------------

    def verdicts(self) -> list[Found]:
        """Every card of every roster, and what it is worth now.

        Raises:
            StorageError: The numbers could not be read or kept.
        """
        with self._guard:
            reads = list(self._read.items())
        now, replaced = self._clock(), self._replaced(reads)
        trusted = set(self._trusted())
        with self._guard:
            newest = self._note(reads, trusted)
        found: list[Found] = []
        for title, read in reads:
            for listed, genuine in zip(read.roster.cards, read.genuine, strict=True):
                verdict = judge(
                    listed,
                    genuine=genuine,
                    trusted=trusted,
                    newest=newest.get(listed.fingerprint, listed.card.sequence),
                    now=now,
                    allow_http=self._allow_http,
                )
                if listed.fingerprint in replaced and genuine:
                    why, older = "its executor has a new key", Standing.OLDER
                    verdict = verdict.model_copy(update={"standing": older, "why": why, "mend": ""})
                found.append(Found(roster=title, verdict=verdict))
            found += [
                Found(
                    roster=title,
                    verdict=Verdict(
                        fingerprint=unread.fingerprint, standing=Standing.UNREADABLE, why=unread.why
                    ),
                )
                for unread in read.roster.unread
            ]
        return found

    def _replaced(self, reads: Sequence[tuple[str, _Read]]) -> set[str]:
        """Follow executors to their new keys; the fingerprints of the keys whose place these took."""
        trusted, found = set(self._trusted()), set[str]()
        for _, read in reads:
            for listed, genuine in zip(read.roster.cards, read.genuine, strict=True):
                if not genuine or not listed.card.succession:
                    continue
                if listed.fingerprint in trusted or self._follow(listed.card):
                    statements = chain(listed.card.succession, listed.card.public_key)
                    found |= {statement.old_id for statement in statements}
        return found

    def cards(self) -> list[ExecutorCard]:
        """The cards of executors that may be asked, one for each, with all repositories that it serves."""
        cards: dict[str, ExecutorCard] = {}
        for found in self.verdicts():
            card = found.verdict.card
            if found.verdict.standing is not Standing.TRUSTED or card is None:
                continue
            known = cards.get(found.verdict.fingerprint)
            named = () if known is None else known.repositories
            both = tuple(dict.fromkeys((*named, *card.repositories)))
            cards[found.verdict.fingerprint] = card.model_copy(update={"repositories": both})
        return list(cards.values())

    def _note(self, reads: Sequence[tuple[str, _Read]], trusted: Collection[str]) -> dict[str, int]:
        """Keep the numbers that are news. Called with the guard held."""
        if self._newest is None:
            self._newest = self._memory.newest_cards()
        seen: dict[str, int] = {}
        for _, read in reads:
            for listed, genuine in zip(read.roster.cards, read.genuine, strict=True):
                if genuine and listed.fingerprint in trusted:
                    self._keep_higher(seen, listed)
        news = {name: number for name, number in seen.items() if number > self._newest.get(name, -1)}
        if news:
            self._memory.note_cards(news)
            self._newest |= news
        return self._newest

    @staticmethod
    def _keep_higher(seen: dict[str, int], listed: Listed) -> None:
        number = listed.card.sequence
        seen[listed.fingerprint] = max(number, seen.get(listed.fingerprint, number))
