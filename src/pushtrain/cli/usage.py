"""`pushtrain usage`: who used how much of which machine, and what its GPUs did meanwhile."""

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Final, Literal

from cyclopts import Parameter
from cyclopts.validators import Number

from pushtrain.cli.connect import Nobody, absences, ask_all, askable, everyone
from pushtrain.cli.options import Json, State
from pushtrain.cli.screen import render
from pushtrain.core.errors import PushtrainError, Unreachable
from pushtrain.core.owner.verdict import Why
from pushtrain.core.runs.usage import JOULES_PER_KWH, LONGEST_LEDGER, Entry, Stood, Usage, Used, summed
from pushtrain.wiring.history import open_history
from pushtrain.wiring.parts import own_id
from pushtrain.wiring.settings import load_settings, open_state

_KEPT: Final = {
    Why.PAUSED: "paused by you",
    Why.HOURS: "outside the hours in which it is lent",
    Why.INPUT: "you were at it",
    Why.FULL_SCREEN: "a program of yours filled the screen",
    Why.GAME: "you were playing",
    Why.MEMORY: "your programs held its memory",
    Why.UTILIZATION: "your programs used it",
    Why.DISPLAY: "it drives your display",
    Why.LOAD: "your own work needed the processors",
    Why.BATTERY: "on battery",
    Why.HEAT: "too hot",
    Why.ENERGY: "the day's energy was used up",
    Why.SLURM: "Slurm had it",
    Why.TROUBLE: "out of order",
    Why.UNKNOWN: "it could not tell whether you were there",
    Why.SETTLING: "just after you had left",
}
_SMALL: Final = 0.05
"""Kilowatt-hours below which they are told in watt-hours."""


def usage(
    *,
    days: Annotated[int, Parameter(validator=Number(gte=1, lte=LONGEST_LEDGER))] = 30,
    by: Literal["person", "repository", "executor"] = "person",
    json: Json = False,
    state: State = None,
) -> None:
    """Tell who used how much: GPU time, processor time, energy, and how long runs waited.

    Every executor that you may ask is asked; each tells of the repositories whose runs you may read. What
    others used of your machine you lent, what you used of theirs you borrowed. The owner of an executor is
    told, too, what its GPUs did in that time: lent, free, or kept, and for what. GPU time is what runs held,
    whether they computed or not. Energy is the GPUs' alone; `~` marks it where it is not the cards' own
    counter but power times time.

    Args:
        days: How many, to today; days are those of UTC.
        by: What to sum by.
    """
    by_key, silent = _told(state, days)
    told = list(by_key.values())
    for sentence in silent:
        render.note(f"pushtrain: {sentence.rstrip('.')}.")
    if json:
        render.emit_json(told)
        return
    several = "executors" if len(told) > 1 else "executor"
    render.say(f"[bold]{len(told)} {several}, the last {days} days[/]")
    own = own_id(open_state(state))
    if balance := _balance(by_key, own):
        render.say(balance)
    _table(told, by, own)
    for one in told:
        if one.stood:
            _stood(one)


def _told(state: Path | None, days: int) -> tuple[dict[str, Usage], list[str]]:
    """What each executor tells, by its key, and a sentence for each that tells nothing."""
    folder = open_state(state)
    told: dict[str, Usage] = {}
    silent: list[str] = []
    trouble: PushtrainError | None = None
    try:
        known = everyone(state)
        for answer in ask_all(askable(known), lambda client: client.usage(days)):
            if answer.value is not None:
                told.setdefault(answer.client.id, answer.value)
            else:
                silent.append(f"{known.name(answer.client)}: {answer.trouble}")
        silent += absences(known, time.time())
    except (Nobody, Unreachable) as error:
        trouble = error
    history, damage = open_history(folder)
    if history is not None and (key := own_id(folder)) not in told:
        own = history.usage(days, executor=load_settings(folder).executor.name)
        if own is not None and (own.entries or own.stood):  # a sender's folder has a store, too
            told[key] = own
    if damage:
        silent.append(damage)
    if not told and trouble is not None:
        raise trouble
    if not told and silent:
        raise Unreachable(
            f"No executor tells anything. {' '.join(silent)}", mend="`pushtrain doctor` looks closer."
        )
    return told, silent


def _balance(told: Mapping[str, Usage], own: str) -> str:
    """What was lent and borrowed; only its owner is told how the cards of a machine stood, if it has any."""
    mine = {key for key, one in told.items() if key == own or one.stood}
    lent = summed(each.used for key in mine for each in told[key].entries if each.sender != own)
    back = summed(each.used for key in told.keys() - mine for each in told[key].entries if each.sender == own)
    if not (lent.attempts or back.attempts):
        return ""
    return f"You lent {_time(lent)} to others, and borrowed {_time(back)} from them."


def _time(used: Used) -> str:
    if not used.attempts:
        return "nothing"
    if used.gpu_seconds:
        return f"{render.seconds(used.gpu_seconds)} of GPU time"
    return f"{render.seconds(used.seconds)} of run time"


def _table(told: Sequence[Usage], by: str, own: str) -> None:
    names: dict[str, Callable[[Usage, Entry], str]] = {
        "person": lambda one, entry: (
            "you" if entry.sender == own else one.names.get(entry.sender) or entry.sender[:19]
        ),
        "repository": lambda _, entry: entry.repository,
        "executor": lambda one, _: one.executor,
    }
    groups: dict[str, list[Used]] = {}
    for one in told:
        for entry in one.entries:
            groups.setdefault(names[by](one, entry), []).append(entry.used)
    if not groups:
        render.say("Nothing ran.")
        return
    sums = {name: summed(lines) for name, lines in groups.items()}
    ordered = sorted(sums.items(), key=lambda each: (-each[1].gpu_seconds, -each[1].seconds, each[0]))
    rows = [_row(render.literal(name), used) for name, used in ordered]
    if len(rows) > 1:
        rows.append(_row("[bold]in all[/]", summed(sums.values())))
    columns = (by, "attempts", "GPU time", "run time", "CPU time", "energy", "waited")
    render.table(columns, rows, right=columns[1:])


def _row(name: str, used: Used) -> tuple[str, ...]:
    return (
        name,
        str(used.attempts),
        _long(used.gpu_seconds),
        _long(used.seconds),
        _long(used.cpu_seconds),
        _energy(used),
        _long(used.waited),
    )


def _long(seconds: float) -> str:
    return render.seconds(seconds) if seconds else ""


def _energy(used: Used) -> str:
    if not used.joules:
        return ""
    kwh = used.joules / JOULES_PER_KWH
    words = f"{1000 * kwh:.1f} Wh" if kwh < _SMALL else f"{kwh:.2f} kWh"
    return f"~{words}" if used.estimated else words


def _stood(one: Usage) -> None:
    """What the owner's GPUs did."""
    total = sum(each.seconds for each in one.stood)
    render.say(f"\n[bold]What {render.literal(one.executor)} did[/]")
    rows = [
        (_what(each), render.seconds(each.seconds), f"{100 * each.seconds / total:.0f} %", _long(each.wanted))
        for each in one.stood
    ]
    render.table(("", "time", "share", "runs waited"), rows, right=("time", "share", "runs waited"))


def _what(stood: Stood) -> str:
    kept = {"lent": "lent to runs", "free": "free"} | {str(why): words for why, words in _KEPT.items()}
    return render.literal(kept.get(stood.what, stood.what))
