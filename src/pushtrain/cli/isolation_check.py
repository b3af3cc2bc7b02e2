"""What `pushtrain doctor` finds of isolation: the level of jobs, what others lack, and what each stops."""

from collections.abc import Iterator, Mapping
from typing import Final

from pushtrain.cli import render
from pushtrain.cli.finding import Finding
from pushtrain.core.canaries import KNOWN, Act, Result
from pushtrain.core.model import Isolation
from pushtrain.core.settings import Settings
from pushtrain.plumbing.state import StateFolder
from pushtrain.wiring.isolation import Rung, ladder
from pushtrain.wiring.network import way_out

_MARKS: Final = {Result.DENIED: "[green]✓[/]", Result.ABSENT: "[dim]·[/]"}


def isolation(folder: StateFolder, settings: Settings) -> Iterator[Finding]:
    """Try every level, and say which of them jobs run at."""
    least = settings.rules.min_isolation
    way = way_out(folder)
    rungs = list(ladder(folder, settings.rules, way))
    way.close()
    best = next((rung for rung in rungs if not rung.why), None)
    if best is not None and best.level.reaches(least):
        told = Finding("isolation", "ok", f"jobs run at level `{best.level}`; the least allowed is `{least}`")
    else:
        offered = f"only `{best.level}`" if best else "nothing"
        text = f"this machine offers {offered}, and the rule `min_isolation` demands `{least}`"
        told = Finding("isolation", "wrong", text, _mend(rungs, least))
    yield told
    for rung in rungs:
        if rung.why:
            yield Finding(f"· {rung.level}", "note", f"not offered: {rung.why}", rung.mend)
    matrix: dict[str, dict[str, str]] = {
        act.value: {rung.level: rung.findings.results[act] for rung in rungs if rung.findings is not None}
        for act in Act
    }
    text = "✓ stopped, ✗ not stopped, (✗) not stopped and known, · none here"
    yield Finding("acts", "note", text, matrix=matrix)


def show(matrix: Mapping[str, Mapping[str, str]]) -> None:
    """Print the table of acts and levels."""
    levels = list(next(iter(matrix.values())))
    rows = [
        (act, *(_mark(Act(act), Isolation(level), result) for level, result in row.items()))
        for act, row in matrix.items()
    ]
    render.table(("a job could …", *levels), rows)


def _mark(act: Act, level: Isolation, result: str) -> str:
    known = "[yellow](✗)[/]" if act in KNOWN[level] else "[red]✗[/]"
    return _MARKS.get(Result(result), known)


def _mend(rungs: list[Rung], least: Isolation) -> str:
    """The mend that is the least work: that of the weakest level that would do."""
    return next((rung.mend for rung in reversed(rungs) if rung.level.reaches(least) and rung.mend), "")
