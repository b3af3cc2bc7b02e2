"""Say in a sentence how an attempt ended. Pure."""

import math
import signal
from typing import Final

from pushtrain.core.lifecycle import Event, Exited, Lost
from pushtrain.core.model import Attempt, Reason
from pushtrain.core.ruling import TIME, spoken
from pushtrain.plumbing.rundir import Verdict

_LIMITS: Final = {
    Reason.OOM: "rules.limits.memory",
    Reason.DISK: "rules.limits.disk",
    Reason.PROCESSES: "rules.limits.processes",
}
_NOT_EXECUTABLE, _NOT_FOUND = 126, 127


def exited(verdict: Verdict, *, limit: float, most: float) -> Exited:
    """The lifecycle's event for a verdict.

    Args:
        verdict: What the shim wrote.
        limit: Seconds that the phase it ended in might take.
        most: Seconds that the owner allows at most.
    """
    told = sentence(verdict, limit=limit, most=most)
    return Exited(verdict.reason, verdict.code, told, verdict.ended_at)


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
