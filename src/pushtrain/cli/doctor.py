"""`pushtrain doctor`: look at everything that a run needs, and say the mend for what is wrong."""

from collections.abc import Callable, Iterator
from dataclasses import asdict
from typing import Final

from pushtrain.cli.checks import isolation as isolation_check
from pushtrain.cli.checks import machine as checks
from pushtrain.cli.checks import network as network_check
from pushtrain.cli.checks import owner as owner_check
from pushtrain.cli.checks import remotes as remote_checks
from pushtrain.cli.checks import rosters as roster_check
from pushtrain.cli.checks import rules as rules_check
from pushtrain.cli.checks import tunnel as tunnel_check
from pushtrain.cli.checks.finding import Finding
from pushtrain.cli.connect import here
from pushtrain.cli.options import Json, State
from pushtrain.cli.screen import render
from pushtrain.cli.screen.hanging import MARGIN, hang
from pushtrain.core.errors import NeedsMending, PushtrainError
from pushtrain.core.settings import Settings
from pushtrain.plumbing.disk.state import StateFolder
from pushtrain.wiring.settings import load_settings, open_state

_NAMES: Final = 16
"""Columns for what was looked at."""
_MARKS: Final = {"ok": "[green]✓[/]", "note": "[yellow]·[/]", "wrong": "[red]✗[/]"}

_CHECKS: Final[tuple[Callable[[StateFolder, Settings], Iterator[Finding]], ...]] = (
    checks.hardware,
    rules_check.rules,
    isolation_check.isolation,
    network_check.network,
    owner_check.owner,
    remote_checks.repositories,
    remote_checks.commit_statuses,
    roster_check.rosters,
    remote_checks.executors,
    remote_checks.clocks,
    checks.service,
    tunnel_check.tunnel,
)
"""What is looked at once the settings are known, in the order in which it is told."""


def doctor(*, json: Json = False, state: State = None) -> None:
    """Check this machine, and everything elsewhere that it needs; say the mend for what is wrong.

    Programs, private files, disk, GPUs; what your rules need; how well jobs are kept apart, tried inside each
    level; what they reach over the network; whether it is seen that you need the machine; for each repository
    whether it can be read and pushed; the token for commit statuses; executors, tunnel and clocks; the
    service. Exits with 14 when something must be mended. Changes nothing but the state folder, which it makes
    when there is none.
    """
    found: list[Finding] = []
    for finding in _examine(open_state(state)):
        found.append(finding)
        if not json:
            _show(finding)
            if finding.matrix is not None:
                isolation_check.show(finding.matrix)
    if json:
        render.emit_json([_told(finding) for finding in found])
    wrong = [finding.what for finding in found if finding.verdict == "wrong"]
    if wrong:
        raise NeedsMending(f"To be mended: {', '.join(wrong)}.", mend="Each line above says how.")


def _told(finding: Finding) -> dict[str, object]:
    return {name: value for name, value in asdict(finding).items() if value is not None}


def _show(finding: Finding) -> None:
    """One finding, and below it its mend, which may be copied."""
    width = render.width()
    head = f"{finding.what:<{_NAMES}}"
    first, *more = hang(" " * MARGIN + head, finding.text, width=width)
    name, told = first[MARGIN : MARGIN + len(head)], first[MARGIN + len(head) :]
    render.say(f"{_MARKS[finding.verdict]} [bold]{_escaped(name)}[/]{_escaped(told)}")
    for line in more:
        render.say(_escaped(line))
    if finding.mend:
        first, *more = hang(" " * (MARGIN + _NAMES) + "→ ", finding.mend, width=width)
        before, arrow, told = first.partition("→")
        render.say(f"{before}[bold]{arrow}[/]{_escaped(told)}")
        for line in more:
            render.say(_escaped(line))


def _escaped(text: str) -> str:
    from rich.markup import escape

    return escape(text)


def _examine(folder: StateFolder) -> Iterator[Finding]:
    yield from checks.programs()
    yield from checks.private_files(folder)
    yield from checks.store(folder)
    try:
        settings = load_settings(folder)
        if not settings.repositories and (clone := here()) is not None:
            settings = settings.model_copy(update={"repositories": (clone,)})
    except PushtrainError as error:
        yield Finding("settings", "wrong", error.message, error.mend)
        return
    for check in _CHECKS:
        try:
            yield from check(folder, settings)
        except PushtrainError as error:  # the rest is looked at all the same
            yield Finding(check.__name__.replace("_", " "), "wrong", error.message, error.mend)
