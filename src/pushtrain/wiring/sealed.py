"""Sealed secrets as a verb handles them: for whom they are sealed, and the file that they lie in."""

import contextlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from pushtrain.core.errors import ConfigError, NotFound, PushtrainError
from pushtrain.core.settings import Repository, Settings
from pushtrain.core.text.forms import clean
from pushtrain.core.values.card import ExecutorCard
from pushtrain.core.wire.roster import Standing
from pushtrain.core.wire.secrets import Sealed, next_time, parse, with_entry, without
from pushtrain.core.wire.signing import fingerprint, parse_public, public_text
from pushtrain.plumbing.disk.state import StateFolder
from pushtrain.plumbing.keys.sealing import parse_sealing, seal_secret
from pushtrain.wiring.parts import executor_clients, identity, mirror, running_card
from pushtrain.wiring.rosters import look, places, secrets_file

_BELIEVED = (Standing.TRUSTED, Standing.OFFLINE, Standing.EXPIRED, Standing.NO_ADDRESS)
"""Cards whose sealing key is their executor's own word, whether it can be called now or not."""
_ENOUGH = 10
"""Characters of a fingerprint that name an executor."""


@dataclass(frozen=True, slots=True)
class Recipient:
    """An executor that secrets can be sealed to."""

    name: str
    fingerprint: str
    key: str
    """Its sealing key."""


@dataclass(frozen=True, slots=True)
class Binding:
    """What a secret is for."""

    name: str
    job: str
    branch: str
    expires: int = 0


class SealedSecrets:
    """The sealed secrets of one repository.

    Args:
        state: Whose identity seals, and whose trusted keys count.
        settings: Name the roster.
        repository: Whose.

    Raises:
        ConfigError: There is no roster, beside which they could lie.
    """

    def __init__(self, state: StateFolder, settings: Settings, repository: Repository) -> None:
        known = {each.key: each for each in settings.repositories}
        self.repository = known.get(repository.key, repository)
        self._state = state
        self._settings = settings.model_copy(update={"repositories": (self.repository,)})
        self._key = identity(state)
        found = places(self._settings)
        if not found:
            raise ConfigError(
                "The setting `roster` is empty, and sealed secrets lie beside the roster.",
                mend="Set it, or let the executor's owner keep the secret (docs/secrets.md).",
            )
        self.place = found[0][0]
        author = "pushtrain <noreply@pushtrain.invalid>"
        self._file = secrets_file(self.place, partial(mirror, state), author=author)

    @property
    def sealer(self) -> str:
        """Our own public key."""
        return public_text(self._key.public_key())

    def recipients(self) -> list[Recipient]:
        """The executors whose key is trusted here: on the roster, at a known address, or of this folder."""
        cards: list[ExecutorCard] = []
        own = running_card(self._state)
        if own is not None:
            cards.append(own)
        rosters = look(self._state, self._settings, partial(mirror, self._state), max_age=0)
        verdicts = [found.verdict for found in rosters.verdicts()]
        cards += [each.card for each in verdicts if each.card is not None and each.standing in _BELIEVED]
        found: dict[str, Recipient] = {}
        for card in cards:
            _add(found, card)
        for client in executor_clients(self._state, self._settings):
            if client.id not in found:
                with contextlib.suppress(PushtrainError):  # it is not there now
                    _add(found, client.challenge().card)
            client.close()
        return sorted(found.values(), key=lambda one: (one.name, one.fingerprint))

    def choose(self, names: Sequence[str]) -> list[Recipient]:
        """The executors of these names or fingerprints; all without any.

        Raises:
            NotFound: There is none, or none of that name.
        """
        found = self.recipients()
        if not found:
            raise NotFound(
                f"No executor is known to which secrets for {self.repository.key} could be sealed.",
                mend="Start one, and trust its key: `pushtrain join CODE`, or `pushtrain key trust KEY`.",
            )
        chosen: dict[str, Recipient] = {}
        for name in names:
            fits = [one for one in found if _means(name, one)]
            if not fits:
                there = ", ".join(f"{one.name} ({one.fingerprint[:15]}…)" for one in found)
                raise NotFound(
                    f"There is no executor {clean(name)} whose key is trusted here.",
                    mend=f"There are: {there}.",
                )
            chosen |= {one.fingerprint: one for one in fits}
        return list(chosen.values()) or found

    def read(self) -> list[Sealed]:
        """The repository's entries, as they are on the remote now."""
        entries = parse(self._file.read().text, source=self._source).entries
        return [entry for entry in entries if entry.repository == self.repository.key]

    def seal(self, binding: Binding, value: str, recipients: Sequence[Recipient]) -> None:
        """Seal a value to each of these executors, in place of what we sealed for the same before."""

        def change(text: str) -> str:
            for one in recipients:
                text = with_entry(text, self._entry(text, binding, value, one.key), source=self._source)
            return text

        self._write(change, f"Secret {binding.name}: set")

    def remove(self, entries: Sequence[Sealed]) -> None:
        """Remove entries: ours stay as the signed word that they were removed, others' go."""

        def change(text: str) -> str:
            text = without(text, {each.slot for each in entries if each.sealer != self.sealer})
            for each in entries:
                if each.sealer == self.sealer:
                    binding = Binding(each.name, each.job, each.branch)
                    entry = self._entry(text, binding, "", each.recipient)
                    text = with_entry(text, entry, source=self._source)
            return text

        self._write(change, f"Secret {entries[0].name}: removed")

    @property
    def _source(self) -> str:
        return self._file.place.title

    def _entry(self, text: str, binding: Binding, value: str, recipient: str) -> Sealed:
        def made(moment: int) -> Sealed:
            return seal_secret(
                binding.name,
                value,
                to=parse_sealing(recipient),
                key=self._key,
                repository=self.repository.key,
                job=binding.job,
                branch=binding.branch,
                sealed_at=moment,
                expires=binding.expires,
            )

        return made(next_time(text, time.time(), {made(0).slot}))

    def _write(self, change: Callable[[str], str], message: str) -> None:
        said = message if self.place.own else f"{message}\n\n[skip ci]"
        self._file.write(change, message=said, when=int(time.time()))


def _add(found: dict[str, Recipient], card: ExecutorCard) -> None:
    if card.sealing_key:
        name = fingerprint(parse_public(card.public_key))
        found.setdefault(name, Recipient(clean(card.name[:60]), name, card.sealing_key))


def _means(text: str, one: Recipient) -> bool:
    return text == one.name or (len(text) >= _ENOUGH and one.fingerprint.startswith(text))
