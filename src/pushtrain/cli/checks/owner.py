"""What `pushtrain doctor` finds of the owner's signals: what this machine can tell, and what it cannot."""

import math
from collections.abc import Iterator

from pushtrain.cli.checks.finding import Finding
from pushtrain.core.owner.lending import OwnerRules
from pushtrain.core.owner.ruling import spoken
from pushtrain.core.settings import Settings
from pushtrain.plumbing.disk.state import StateFolder
from pushtrain.plumbing.machine.gpu import Sampler
from pushtrain.plumbing.owner.pause import PauseFile
from pushtrain.plumbing.owner.presence import Presence, Signals

_HOURS = 'State `hours` in `[rules.owner]`, such as `hours = ["Mon-Fri 18:00-08:00", "Sat,Sun"]`.'


def owner(folder: StateFolder, settings: Settings) -> Iterator[Finding]:
    """Whether it can be seen here that the owner needs the machine."""
    rules = settings.rules.owner
    if PauseFile(folder.pause).until() is not None:
        yield Finding("owner", "note", "lending is paused", "`pushtrain resume` ends it.")
    gpus, blind = _gpus()
    presence = Presence(rules, blind=lambda: True)  # keyboard and mouse are told of, whatever the rules ask
    found = presence.look()
    presence.close()
    if found.idle is None and not rules.hours and (rules.idle or blind):
        why = "the GPU driver names no processes" if blind else "`idle` is set"
        text = f"{why}, and it cannot be told whether you are there: nothing is lent"
        yield Finding("owner", "wrong", text, _HOURS)
        return
    yield Finding("owner", "ok", "; ".join(_told(rules, found, gpus=gpus, blind=blind)))


def _gpus() -> tuple[bool, bool]:
    """Whether there are any, and whether the driver does not tell who uses one."""
    sampler = Sampler()
    try:
        seen = sampler.sample()
        return bool(seen), any(one.processes is None for one in seen if not (one.asleep or one.lost))
    finally:
        sampler.close()


def _told(rules: OwnerRules, found: Signals, *, gpus: bool, blind: bool) -> Iterator[str]:
    """Each signal that counts, and what it says now."""
    if gpus:
        yield "the GPU driver names no processes" if blind else "your programs on a GPU are seen"
    if found.idle is None:
        yield "keyboard and mouse cannot be told"
    elif math.isinf(found.idle):
        yield "nobody is logged in"
    else:
        yield f"keyboard and mouse untouched for {spoken(round(found.idle))}"
    if rules.full_screen:
        yield _of("a full screen", found.full_screen)
        yield _of("a game", found.game)
    if not rules.battery and found.on_battery is not None:
        yield "on its battery" if found.on_battery else "on the mains"
    if rules.slurm and found.slurm is not None:
        yield "a Slurm job runs" if found.slurm else "its Slurm node is free"


def _of(what: str, there: bool | None) -> str:
    return f"{what} cannot be told" if there is None else what if there else f"no {what.partition(' ')[2]}"
