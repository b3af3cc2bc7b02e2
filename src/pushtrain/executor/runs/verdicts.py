"""Say in a sentence how an attempt ended. Pure."""

import math
import signal
from collections.abc import Sequence
from typing import Final

from pushtrain.core.lifecycle import Event, Exited, Lost, PrepareFailed, Requeued
from pushtrain.core.owner.ruling import TIME, spoken
from pushtrain.core.runs import retry
from pushtrain.core.values.run import Attempt, Run
from pushtrain.core.values.states import CHECKPOINTED, TAKEN_BACK, Reason, State
from pushtrain.plumbing.attempts.records import StopOrder, Verdict

_LIMITS: Final = {
    Reason.OOM: "rules.limits.memory",
    Reason.DISK: "rules.limits.disk",
    Reason.PROCESSES: "rules.limits.processes",
}
_NOT_EXECUTABLE, _NOT_FOUND = 126, 127
_SAVED: Final = "It has saved where it is, and asked to be started again."
_IN_VAIN: Final = "That has been so for a day, and the run is given up."
_ASKED: Final = "The machine asked it to end, as it does when it shuts down."


def event_of(
    verdict: Verdict, run: Run, *, order: StopOrder | None, limit: float, most: float
) -> Exited | Requeued:
    """The lifecycle's event for a verdict.

    Args:
        verdict: What the shim wrote.
        run: The run as it is now.
        order: What was wished of the attempt, as far as it is known here.
        limit: Seconds that the phase it ended in might take.
        most: Seconds that the owner allows at most.
    """
    reason, told = verdict.reason, sentence(verdict, limit=limit, most=most)
    if reason in {Reason.CANCELLED, Reason.INTERRUPTED} and order is not None:
        reason, told = order.reason, order.detail  # the shim may not have got it in writing
    taken_back = reason in TAKEN_BACK
    saved = (
        verdict.code == CHECKPOINTED and verdict.phase == "train" and (taken_back or reason is Reason.EXITED)
    )
    if run.cancel_requested and (taken_back or saved):
        return Exited(Reason.CANCELLED, verdict.code, told or "Cancelled.", verdict.ended_at)
    if saved:
        told = f"{told or _SAVED}".strip()
        return Requeued(Reason.CHECKPOINTED, told, exit_code=verdict.code, at=verdict.ended_at)
    if taken_back:
        return Requeued(reason, told or _ASKED, exit_code=verdict.code, at=verdict.ended_at)
    return Exited(reason, verdict.code, told, verdict.ended_at)


def tried_again(
    run: Run, event: Event, ended: Attempt, earlier: Sequence[retry.Tried], *, now: float
) -> Event:
    """The event that starts a run again in place of one that would end it, where the job's policy says so.

    Args:
        run: The run as it is now.
        event: What ends its attempt.
        ended: The attempt as it is then.
        earlier: Those before it.
        now: Seconds since the epoch.
    """
    if not isinstance(event, Exited | Lost | PrepareFailed | Requeued) or run.cancel_requested:
        return event
    if isinstance(event, Requeued) and not retry.goes_on(ended):
        return event  # a rule lets it wait, for example: it says itself until when
    reason = Reason.LOST if isinstance(event, Lost) else event.reason
    again = retry.after(ended, earlier, run.command.job.retry)
    if again is None and isinstance(event, Requeued):
        most = f"The run was started {retry.MOST_ATTEMPTS} times, and is not started again."
        return Exited(reason, event.exit_code, most, event.at) if run.state is State.RUNNING else event
    if again is None and reason in retry.UNREADY:
        return PrepareFailed(reason, f"{event.detail} {_IN_VAIN}")
    if again is None:
        return event
    pause = max(again.pause, event.least if isinstance(event, PrepareFailed) else 0)
    return Requeued(
        reason,
        f"{event.detail} It is tried again ({again.note})." if again.note else event.detail,
        now + pause if pause else 0,
        exit_code=ended.exit_code,
        at=ended.ended_at,
    )


def sentence(verdict: Verdict, *, limit: float, most: float = math.inf) -> str:
    """How it ended, for people; empty when there is nothing to say."""
    owner = f" that the owner's rule `{TIME}` allows"
    match verdict.reason:
        case Reason.TIMEOUT if verdict.phase == "setup":
            return f"The setup commands took longer than the {spoken(limit)}{owner}, and were ended."
        case Reason.TIMEOUT if limit >= most:
            return f"The training ran longer than the {spoken(limit)}{owner}, and was ended."
        case Reason.TIMEOUT:
            return f"The training ran longer than its {spoken(limit)} and was ended."
        case Reason.OOM | Reason.DISK | Reason.PROCESSES:
            return f"It was ended by the owner's rule `{_LIMITS[verdict.reason]}`. {verdict.detail}"
        case Reason.SETUP:
            return f"The setup command `{verdict.detail}` {_ending(verdict)}."
        case Reason.EXITED | Reason.SIGNALLED if verdict.code != 0:
            return f"The command {_ending(verdict)}."
        case _:
            return verdict.detail


def ended(attempt: Attempt, event: Event, *, now: float, size: int) -> Attempt:
    """The attempt as it is after the event that ends it.

    Args:
        attempt: As it was known, its verdict's figures included if there is one.
        event: What ends it.
        now: Seconds since the epoch.
        size: Bytes of its log.
    """
    reason = getattr(event, "reason", Reason.LOST if isinstance(event, Lost) else Reason.CANCELLED)
    change = {"ended_at": attempt.ended_at or now, "reason": reason, "log_size": attempt.log_size or size}
    return attempt.model_copy(update=change | {"detail": getattr(event, "detail", "")})


def with_verdict(attempt: Attempt, verdict: Verdict) -> Attempt:
    """The attempt with everything that its shim found out."""
    return attempt.model_copy(
        update={
            "started_at": verdict.started_at,
            "ended_at": verdict.ended_at,
            "exit_code": verdict.code,
            "signal": verdict.signal,
            "log_size": verdict.log_size,
            "cpu_seconds": verdict.cpu_seconds,
            "max_rss": verdict.max_rss,
            "disk_read": verdict.disk_read,
            "disk_written": verdict.disk_written,
            "stages": (*attempt.stages, *verdict.stages),
        }
    )


def _ending(verdict: Verdict) -> str:
    if verdict.oom:
        return "was killed by the kernel, because the machine ran out of memory"
    if verdict.signal is not None:
        return f"was ended by {_name(verdict.signal)}"
    meaning = {_NOT_EXECUTABLE: " (it could not be executed)", _NOT_FOUND: " (command not found)"}
    return f"ended with exit code {verdict.code}{meaning.get(verdict.code or 0, '')}"


def _name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
