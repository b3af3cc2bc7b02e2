"""How this machine stands, for its owner: one line for a status bar, or some for a terminal."""

import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from pushtrain.cli.screen import render
from pushtrain.plumbing.disk.state import StateFolder, default_state
from pushtrain.plumbing.owner import standing
from pushtrain.plumbing.owner.pause import PauseFile
from pushtrain.plumbing.owner.standing import CardStands, Standing

_DAYS: Final = 6 * 86_400.0
"""Seconds for which a weekday's name means one day only."""


def clock(at: float) -> str:
    """A moment as people say it: `15:30`; with its day when that is another one, its date when it is far."""
    local = time.localtime(at)
    same = time.strftime("%Y-%m-%d", local) == time.strftime("%Y-%m-%d")
    near = abs(at - time.time()) < _DAYS
    return time.strftime("%H:%M" if same else "%a %H:%M" if near else "%Y-%m-%d %H:%M", local)


def one_line(state: Path | None, *, as_json: bool) -> None:
    """Print one line; it asks nobody, so it may be called every few seconds."""
    folder = StateFolder(state.expanduser().absolute() if state else default_state())
    paused = PauseFile(folder.pause).until()
    found = standing.read(folder.standing, folder.lock)
    if as_json:
        until = None if paused is None or math.isinf(paused) else paused
        told = None if found is None else found.model_dump(mode="json")
        render.emit_json({"paused": paused is not None, "paused_until": until, "standing": told})
        return
    end = "" if paused is None or math.isinf(paused) else clock(paused)
    if found is not None:
        render.plain(found.line(paused, clock=end))
    elif paused is not None:
        render.plain(f"pushtrain: paused{f' until {end}' if end else ''}, no executor runs here")
    else:
        render.plain("pushtrain: no executor runs here")


def tell(folder: StateFolder) -> None:
    """Print how this machine stands, programs by their names; nothing where no executor runs here."""
    found = standing.read(folder.standing, folder.lock)
    if found is None:
        return
    paused = PauseFile(folder.pause).until()
    end = "" if paused is None or math.isinf(paused) else clock(paused)
    render.say(f"\n[bold]{render.literal(found.line(paused, clock=end))}[/]")
    for line in _lines(found):
        render.tell(f"  {line}")


def _lines(found: Standing) -> Iterator[str]:
    yield from found.why[1:]
    for card in found.cards:
        stands = "lent" if card.lent else card.why or "its memory has not come back yet"
        runs = f"; {', '.join(card.runs)}" if card.runs else ""
        yield f"GPU {card.index} ({card.name}): {stands}{runs}{_programs(card)}"
    if found.kwh_today:
        yield f"runs have used {found.kwh_today:g} kWh today"


def _programs(card: CardStands) -> str:
    """The owner's programs on it; a borrower never sees this."""
    if not card.programs:
        return ""
    told = [
        f"{one.name} ({one.pid}{f', {render.size(one.memory)}' if one.memory else ''})"
        for one in card.programs
    ]
    return f"; your programs: {', '.join(told)}"
