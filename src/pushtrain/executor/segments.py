"""The attempts of a run, as its report lists them: where each ran, how long, and why it ended. Pure."""

from collections.abc import Sequence

from pushtrain.core.model import Attempt
from pushtrain.executor import markdown as md
from pushtrain.executor.wording import duration, moment


def told(attempts: Sequence[Attempt]) -> str:
    """The section; empty for a run of one attempt."""
    if len(attempts) <= 1:
        return ""
    header = ("Attempt", "Executor", "Began", "Trained", "Ended", "")
    return "## Attempts\n\n" + md.table(header, [_row(one) for one in attempts], align="rlrrll")


def _row(attempt: Attempt) -> tuple[str, ...]:
    trained = ""
    if attempt.started_at is not None and attempt.ended_at is not None:
        trained = duration(attempt.ended_at - attempt.started_at)
    ended = str(attempt.reason)
    if attempt.exit_code is not None:
        ended += f", exit code {attempt.exit_code}"
    return (
        str(attempt.number),
        md.text(attempt.executor),
        moment(attempt.claimed_at),
        trained,
        ended,
        md.text(attempt.detail, most=200),
    )
