"""The attempts of a run, as its report lists them: where each ran, how long, and why it ended. Pure."""

from collections.abc import Collection, Sequence

from pushtrain.core.runs.retry import worth_telling
from pushtrain.core.values.command import Segment
from pushtrain.core.values.run import Attempt, Run
from pushtrain.core.values.value import MOST
from pushtrain.executor.results import markdown as md
from pushtrain.executor.results.wording import duration, moment


def of(run: Run, attempts: Sequence[Attempt]) -> tuple[Segment, ...]:
    """What was done of a run so far: what came with it, then what was done here since.

    A run that has come back brings along what was done here before.
    """
    before = run.command.checkpoint.segments if run.command.checkpoint else ()
    known = {one.attempt for one in before}
    return (*before, *(segment(one) for one in attempts if one.number not in known))


def earlier(run: Run, attempts: Sequence[Attempt]) -> list[Attempt | Segment]:
    """What was tried of a run before its current attempt; elsewhere as far as that is told.

    What is told is read as it came. Nothing is computed from it: whatever a sender wrote, this succeeds.
    """
    told = run.command.checkpoint.segments if run.command.checkpoint else ()
    known: dict[int, Attempt | Segment] = {one.attempt: one for one in told}
    known |= {one.number: one for one in attempts}
    return [known[number] for number in sorted(known) if number < run.attempt]


def segment(attempt: Attempt) -> Segment:
    """An attempt as it travels."""
    began, ended = attempt.started_at, attempt.ended_at
    return Segment(
        attempt=attempt.number,
        executor=attempt.executor,
        began_at=attempt.claimed_at,
        seconds=ended - began if began is not None and ended is not None else 0,
        steps=min(attempt.steps, MOST),
        gpu_seconds=attempt.gpu.seconds if attempt.gpu else 0,
        joules=attempt.gpu.joules if attempt.gpu else None,
        reason=attempt.reason,
        exit_code=attempt.exit_code,
        detail=attempt.detail[:500],
    )


def log_name(number: int) -> str:
    """The file with the log of an attempt before the last one."""
    return f"log-{number}.txt"


def told(segments: Sequence[Segment], *, logs: Collection[int] = ()) -> str:
    """The section; empty for a run of one attempt.

    Args:
        segments: What was done.
        logs: Numbers of attempts before the last one whose log is there.
    """
    if len(segments) <= 1:
        return ""
    header = ["Attempt", "Executor", "Began", "Trained", "Steps", "GPU", "Energy", "Ended", ""]
    rows = [
        row for left, one in worth_telling(segments) for row in _rows(left, one, logged=one.attempt in logs)
    ]
    for at in (6, 5, 4):  # where nothing was counted there is no column
        if not any(row[at] for row in rows):
            del header[at]
            rows = [(*row[:at], *row[at + 1 :]) for row in rows]
    return "## Attempts\n\n" + md.table(header, rows, align="rlr" + "r" * (len(header) - 5) + "ll")


def _rows(left: int, one: Segment, *, logged: bool) -> list[tuple[str, ...]]:
    row = _row(one, logged=logged)
    told = ("…", *[""] * (len(row) - 2), f"{left} more like it")
    return [told, row] if left else [row]


def _row(one: Segment, *, logged: bool) -> tuple[str, ...]:
    return (
        md.link(str(one.attempt), log_name(one.attempt)) if logged else str(one.attempt),
        md.text(one.executor),
        moment(one.began_at).replace("-", "\u2011").replace(" ", "\u00a0"),  # in one line
        duration(one.seconds) if one.seconds else "",
        str(one.steps or ""),
        duration(one.gpu_seconds) if one.gpu_seconds else "",
        "" if one.joules is None else f"{one.joules / 3600:.3g} Wh",
        str(one.reason),
        md.text(one.detail, most=200),
    )
