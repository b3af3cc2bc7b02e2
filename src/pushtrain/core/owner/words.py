"""The rules of `[rules.owner]` in plain language: how each value is shown, and what follows from it. Pure."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from pushtrain.core.owner.rules import Rules
from pushtrain.core.owner.ruling import amount, spoken

_Words = tuple[Callable[[Any], str], Callable[[Rules], str]]


def _yes(value: bool) -> str:
    return "yes" if value else "no"


def _windows(none: str) -> Callable[[Sequence[str]], str]:
    return lambda windows: "; ".join(windows) if windows else none


def _seconds(none: str) -> Callable[[float], str]:
    return lambda value: spoken(value) if value else none


def _chosen(name: str, when: str, otherwise: str) -> Callable[[Rules], str]:
    """The sentence for a rule that is set, and for one that is not."""
    return lambda rules: when if getattr(rules.owner, name) else otherwise


OWNER: Final[Mapping[str, _Words]] = {
    "rules.owner.hours": (
        _windows("always"),
        _chosen(
            "hours", "Runs go on in these hours only, local time.", "It is lent at any hour of the week."
        ),
    ),
    "rules.owner.idle": (
        _seconds("not asked"),
        _chosen(
            "idle",
            "Keyboard and mouse must have been untouched for so long.",
            "Keyboard and mouse do not count.",
        ),
    ),
    "rules.owner.full_screen": (
        _yes,
        _chosen(
            "full_screen", "A full screen or a game counts as you.", "Full screens and games do not count."
        ),
    ),
    "rules.owner.gpu_memory": (
        amount,
        lambda _: "A GPU of which your programs hold more is yours, also at 0 % utilisation.",
    ),
    "rules.owner.gpu_utilization": (
        lambda percent: f"{percent} %",
        lambda _: "A GPU that your programs keep busier is yours.",
    ),
    "rules.owner.reserve": (
        lambda count: amount(count) if count else "nothing",
        lambda _: "Where you use a GPU and less of it is free, what runs there is ended at once.",
    ),
    "rules.owner.display": (
        _yes,
        _chosen("display", "A GPU with a lit display is lent, too.", "A GPU with a lit display is not lent."),
    ),
    "rules.owner.load": (
        lambda count: f"{count:g} processors" if count else "not asked",
        _chosen(
            "load",
            "While your own work keeps more of them busy, nothing new starts.",
            "What your own work does to the processors does not count.",
        ),
    ),
    "rules.owner.battery": (
        _yes,
        _chosen("battery", "It is lent on its battery, too.", "On its battery it is not lent."),
    ),
    "rules.owner.temperature": (
        lambda degrees: f"{degrees} °C",
        lambda _: "Nothing new starts on a GPU that is hotter.",
    ),
    "rules.owner.grace": (
        _seconds("none"),
        _chosen(
            "grace",
            "A job has so long for its checkpoint when you are back; then it is ended.",
            "A job is ended at once when you are back.",
        ),
    ),
    "rules.owner.settle": (
        _seconds("at once"),
        _chosen(
            "settle",
            "You must have been away for so long before it is lent again.",
            "It is lent again as soon as you are gone.",
        ),
    ),
    "rules.owner.kwh_per_day": (
        lambda amount_: f"{amount_:g} kWh" if amount_ else "no limit",
        _chosen(
            "kwh_per_day",
            "What runs use of the GPUs, midnight to midnight UTC; then they wait.",
            "Runs may use as much energy as they want.",
        ),
    ),
    "rules.owner.slurm": (
        _yes,
        _chosen(
            "slurm",
            "A job of a Slurm node on this machine counts as yours.",
            "What a Slurm node does here does not count.",
        ),
    ),
    "rules.owner.nice": (
        str,
        _chosen(
            "nice",
            "Preparing, jobs and publishing stand back where processor or disk are short.",
            "Runs stand beside your programs as equals.",
        ),
    ),
    "rules.owner.bandwidth": (
        lambda count: f"{amount(count)}/s" if count else "no limit",
        _chosen(
            "bandwidth",
            "Data of all runs together comes no faster, and goes to a store no faster.",
            "Data comes as fast as the line lets it.",
        ),
    ),
    "rules.owner.quiet": (
        _windows("never"),
        _chosen(
            "quiet",
            "In these hours nothing is downloaded for runs and nothing published.",
            "Downloads and publishing go on at any hour.",
        ),
    ),
}
