"""What `pushtrain doctor` finds of isolation: the level of jobs, what others lack, and what each stops."""

from collections.abc import Iterator, Mapping
from typing import Final

from pushtrain.cli.checks.finding import Finding
from pushtrain.cli.screen import render
from pushtrain.cli.screen.hanging import hang
from pushtrain.core.owner.canaries import Act, Findings, Result
from pushtrain.core.settings import Settings
from pushtrain.core.values.isolation import Isolation
from pushtrain.plumbing.disk.state import StateFolder
from pushtrain.wiring.isolation import Rung, ladder
from pushtrain.wiring.network import way_out

KNOWN: Final = "known"
"""In the place of `done`: the level does not claim to stop it, or the rule `network` means it so."""
_MARKS: Final[dict[str, str]] = {
    Result.DENIED: "[green]✓[/]",
    Result.DONE: "[red]✗[/]",
    KNOWN: "[yellow](✗)[/]",
    Result.ABSENT: "[dim]·[/]",
}
_LENGTHS: Final[dict[str, int]] = {Result.DENIED: 1, Result.DONE: 1, KNOWN: 3, Result.ABSENT: 1}
_LEGEND: Final[dict[str, str]] = {
    Result.DENIED: "✓ stopped",
    Result.DONE: "✗ not stopped, so the level is not offered",
    KNOWN: "(✗) not stopped, and known",
    Result.ABSENT: "· nothing of the kind here",
}
_INDENT: Final = 2
_GAP: Final = 2
_SHORT: Final = 4
"""Letters of a level's name where there is no room for more."""


def isolation(folder: StateFolder, settings: Settings) -> Iterator[Finding]:
    """Try every level, and say which of them jobs run at."""
    least = settings.rules.min_isolation
    way = way_out(folder)
    rungs = list(ladder(folder, settings.rules, way, idly=True))
    way.close()
    best = next((rung for rung in rungs if not rung.why), None)
    if best is not None and best.level.reaches(least):
        told = Finding("isolation", "ok", f"jobs run at level `{best.level}`; the least allowed is `{least}`")
    else:
        offered = f"only `{best.level}`" if best else "nothing"
        text = f"this machine offers {offered}, and the rule `min_isolation` demands `{least}`"
        told = Finding("isolation", "wrong", text, _mend(rungs, least))
    yield told
    for (why, mend), levels in _not_offered(rungs).items():
        yield Finding("not offered", "note", f"{', '.join(f'`{one}`' for one in levels)}: {why}", mend)
    found = [rung.findings for rung in rungs if rung.findings is not None]
    matrix = {act.value: {one.level.value: _result(one, act, settings) for one in found} for act in Act}
    text = f"{len(Act)} acts that no job may do were tried inside each level that can be entered here"
    yield Finding("acts", "note", text, matrix=matrix)


def _result(findings: Findings, act: Act, settings: Settings) -> str:
    result = findings.results[act]
    if result is Result.DONE and act not in findings.through(settings.rules.network):
        return KNOWN
    return result.value


def show(matrix: Mapping[str, Mapping[str, str]]) -> None:
    """Print the table of acts and levels; what there is nothing of on this machine stands below it."""
    here = {act: row for act, row in matrix.items() if set(row.values()) - {Result.ABSENT}}
    if not here:
        return
    levels = list(next(iter(here.values())))
    wide = max(map(len, here))
    columns = render.width()
    needed = _INDENT + wide + sum(_GAP + len(level) for level in levels)
    names = [level[:_SHORT] if columns is not None and needed > columns else level for level in levels]
    render.say()
    head = "".join(f"{'':<{_GAP}}{name}" for name in names)
    render.say(f"{'':<{_INDENT}}[bold]{'a job could …':<{wide}}{head}[/]")
    for act, row in here.items():
        marks = "".join(
            f"{'':<{_GAP}}{_MARKS[result]}{'':<{len(name) - _LENGTHS[result]}}"
            for name, result in zip(names, row.values(), strict=True)
        )
        render.say(f"{'':<{_INDENT}}{act:<{wide}}{marks.rstrip()}")
    seen = {result for row in here.values() for result in row.values()}
    absent = ", ".join(act for act in matrix if act not in here)
    for text in (
        "; ".join(meaning for result, meaning in _LEGEND.items() if result in seen),
        f"Nothing of the kind is here at the moment: {absent}." if absent else "",
    ):
        for line in hang(" " * _INDENT, text, width=columns) if text else ():
            render.say(f"[dim]{line}[/]")
    render.say()


def _not_offered(rungs: list[Rung]) -> dict[tuple[str, str], list[Isolation]]:
    """The levels that are not offered, by why and by the mend."""
    found: dict[tuple[str, str], list[Isolation]] = {}
    for rung in rungs:
        if rung.why:
            found.setdefault((rung.why, rung.mend), []).append(rung.level)
    return found


def _mend(rungs: list[Rung], least: Isolation) -> str:
    """The mend that is the least work: that of the weakest level that would do."""
    return next((rung.mend for rung in reversed(rungs) if rung.level.reaches(least) and rung.mend), "")
