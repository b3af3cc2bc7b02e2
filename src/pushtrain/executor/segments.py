"""The attempts of a run, as its report lists them: where each ran, how long, and why it ended. Pure."""

from collections.abc import Sequence

from pushtrain.core.model import Attempt, Run, Segment
from pushtrain.executor import markdown as md
from pushtrain.executor.wording import duration, moment


def of(run: Run, attempts: Sequence[Attempt]) -> tuple[Segment, ...]:
    """What was done of a run so far: what came with it, then what was done here."""
    before = run.command.checkpoint.segments if run.command.checkpoint else ()
    return (*before, *map(segment, attempts))


def segment(attempt: Attempt) -> Segment:
    """An attempt as it travels."""
    began, ended = attempt.started_at, attempt.ended_at
    return Segment(
        attempt=attempt.number,
        executor=attempt.executor,
        began_at=attempt.claimed_at,
        seconds=ended - began if began is not None and ended is not None else 0,
        steps=attempt.steps,
        reason=attempt.reason,
        detail=attempt.detail[:500],
    )


def told(segments: Sequence[Segment]) -> str:
    """The section; empty for a run of one attempt."""
    if len(segments) <= 1:
        return ""
    header = ("Attempt", "Executor", "Began", "Trained", "Steps", "Ended", "")
    return "## Attempts\n\n" + md.table(header, [_row(one) for one in segments], align="rlrrrll")


def _row(one: Segment) -> tuple[str, ...]:
    return (
        str(one.attempt),
        md.text(one.executor),
        moment(one.began_at),
        duration(one.seconds) if one.seconds else "",
        str(one.steps or ""),
        str(one.reason),
        md.text(one.detail, most=200),
    )
