"""What a run looks like as a commit status. Pure.

A run that moves on says so; one whose verdict is known but whose report is not on its branch yet says nothing
new until publishing has failed once, because the next thing it says is better.
"""

from typing import Final
from urllib.parse import quote

from pushtrain.core.values.run import Attempt, Run
from pushtrain.core.values.states import Outcome, Reason, State
from pushtrain.core.wire.status import CommitStatus, Verdict
from pushtrain.executor.results.publish import target
from pushtrain.executor.results.wording import duration, headline

_LONGEST_CONTEXT: Final = 255
_LONGEST_DESCRIPTION: Final = 140
"""GitHub takes no longer ones."""
_TRAINED: Final = frozenset({Reason.EXITED, Reason.SIGNALLED, Reason.TIMEOUT, Reason.SETUP})
"""The repository's own commands ran and failed; other reasons lie around them."""


def status_of(run: Run, attempt: Attempt | None, *, executor: str) -> CommitStatus | None:
    """The status that this run should have now; None: whatever it has is still right.

    Args:
        run: The run.
        attempt: Its last attempt, if it had one.
        executor: Name of the executor.
    """
    if run.outcome is Outcome.MOVED:
        return None
    if run.outcome is None:
        return _status(run, Verdict.PENDING, _progress(run, executor))
    published = bool(run.result_commit)
    if published:
        return _status(run, _verdict(run), _end(run, attempt, executor), link(run))
    if run.state is State.PUBLISHING and run.publish_tries == 0:
        return None
    late = "its report was given up" if run.final else "its report is not published yet"
    return _status(run, _verdict(run), f"{_end(run, attempt, executor)}; {late}")


def context(run: Run) -> str:
    """The line that a run's job has beside the commit: `pushtrain/train (lr=0.1)`."""
    text = _line(f"pushtrain/{run.command.job.title}")
    if len(text) <= _LONGEST_CONTEXT:
        return text
    end = f"… {run.id[:8]}"  # two long cells must not become one
    return text[: _LONGEST_CONTEXT - len(end)] + end


def link(run: Run) -> str:
    """The page of a published run's report on the commit's own GitHub; empty when it lies on another host."""
    key, ref, _ = target(run)
    if key.split("/")[0] != run.command.repository.split("/")[0]:
        return ""
    branch = ref.removeprefix("refs/heads/")
    return f"https://{key}/tree/{quote(branch)}/{quote(run.result_path)}"


def _status(run: Run, verdict: Verdict, description: str, report: str = "") -> CommitStatus:
    text = _line(description)
    if len(text) > _LONGEST_DESCRIPTION:
        text = text[: _LONGEST_DESCRIPTION - 1].rstrip() + "…"
    return CommitStatus(context=context(run), verdict=verdict, description=text, link=report)


def _progress(run: Run, executor: str) -> str:
    again = f", attempt {run.attempt}" if run.attempt > 1 else ""
    if run.state is State.QUEUED:
        why = f", {run.reason}" if run.attempt and run.reason else ""
        return f"queued again on {executor}{why}" if run.attempt else f"queued on {executor}"
    return f"{run.state} on {executor}{again}"


def _verdict(run: Run) -> Verdict:
    if run.outcome is Outcome.SUCCEEDED:
        return Verdict.SUCCESS
    if run.outcome is Outcome.FAILED and run.reason in _TRAINED:
        return Verdict.FAILURE
    return Verdict.ERROR


def _end(run: Run, attempt: Attempt | None, executor: str) -> str:
    words = headline(run).partition(" ")[2]
    if attempt is None:
        return f"{words} before it started"
    if attempt.started_at is not None and attempt.ended_at is not None:
        words += f" after {duration(attempt.ended_at - attempt.started_at)}"
    words += f" on {executor}"
    if run.outcome is not Outcome.FAILED or run.reason is Reason.TIMEOUT:
        return words
    if run.reason in _TRAINED | {Reason.REFUSED} and run.detail:
        return f"{words}: {run.detail[0].lower()}{run.detail[1:].rstrip('.')}"
    return f"{words}: {run.reason}" if run.reason else words


def _line(text: str) -> str:
    """One line of printable text."""
    return " ".join("".join(char if char.isprintable() else " " for char in text).split())
