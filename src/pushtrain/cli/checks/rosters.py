"""What `pushtrain doctor` looks at in rosters: can they be read, whose cards are there, is ours."""

from collections.abc import Iterator, Sequence
from typing import Final

from pushtrain.cli.checks.finding import Finding
from pushtrain.core.errors import PushtrainError
from pushtrain.core.settings import Settings
from pushtrain.core.text.forms import clean
from pushtrain.core.wire.roster import Standing, Verdict
from pushtrain.core.wire.signing import fingerprint
from pushtrain.plumbing.disk.state import StateFolder
from pushtrain.wiring.parts import identity, mirror, running_card
from pushtrain.wiring.rosters import look

_WRONG: Final = {Standing.FORGED, Standing.UNREADABLE, Standing.OLDER}


def rosters(folder: StateFolder, settings: Settings) -> Iterator[Finding]:
    """Every roster that the settings name: each card, and whether the executor that runs here has one."""
    try:
        found = look(folder, settings, lambda each: mirror(folder, each), max_age=0)
        listed = found.verdicts()
    except PushtrainError as error:
        yield Finding("roster", "wrong", error.message, error.mend)
        return
    trouble = found.trouble()
    for file in found.files:
        title = file.place.title
        if title in trouble:
            yield Finding("roster", "wrong", f"{title}: {trouble[title]}", "docs/config-json.md")
            continue
        cards = [one.verdict for one in listed if one.roster == title]
        good = sum(verdict.standing is Standing.TRUSTED for verdict in cards)
        told = f"{len(cards)} card{'s' if len(cards) != 1 else ''}"
        yield Finding("roster", "ok", f"{title}: {told}, {good} of executors that may be asked")
        yield from (_card(verdict) for verdict in cards if verdict.standing is not Standing.TRUSTED)
        yield from _own(folder, title, cards)


def _card(verdict: Verdict) -> Finding:
    name = clean(verdict.card.name[:60]) if verdict.card else verdict.fingerprint[:15]
    text = f"{name}: {verdict.why}"
    if verdict.standing in _WRONG:
        return Finding(
            "card", "wrong", text, verdict.mend or "Its executor writes it anew at its next start."
        )
    return Finding("card", "note", text, verdict.mend)


def _own(folder: StateFolder, title: str, cards: Sequence[Verdict]) -> Iterator[Finding]:
    """A running executor with a tunnel should be found by others."""
    card = running_card(folder)
    if card is None:
        return
    own = fingerprint(identity(folder).public_key())
    if not any(verdict.fingerprint == own and verdict.card and verdict.card.online for verdict in cards):
        mend = "Its log says why the card could not be written; `results` above, whether it may push."
        yield Finding("card", "note", f"the executor that runs here has no card in {title}", mend)
