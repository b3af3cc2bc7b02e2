"""The run's transition table and `advance()`: the only way a run moves.

Every pair of state and event that is not in `TABLE` is illegal: it raises and the run is as it was. What is
done stays so, except a run that was released to another executor and comes back.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Final

from pushtrain.core.errors import IllegalTransition
from pushtrain.core.values.command import TrainCommand
from pushtrain.core.values.run import Run
from pushtrain.core.values.states import NEVER, Outcome, Reason, State


@dataclass(frozen=True, slots=True)
class Claimed:
    """An executor took the run, with these GPUs, under a fresh token."""

    token: str
    gpus: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Prepared:
    """Code, data and environment stand, and the shim holds the attempt's lock."""

    at: float | None = None
    """When that was, where it is written down later."""


@dataclass(frozen=True, slots=True)
class PrepareFailed:
    """The attempt could not be started."""

    reason: Reason
    detail: str
    least: float = 0
    """Seconds that pass at least before it is tried again, if it is."""


@dataclass(frozen=True, slots=True)
class Cancelled:
    """Somebody's wish to cancel took effect."""

    detail: str = ""


@dataclass(frozen=True, slots=True)
class Requeued:
    """The attempt ended without a verdict; the run waits for another. Illegal once cancel is requested."""

    reason: Reason
    detail: str = ""
    not_before: float = 0
    exit_code: int | None = None
    """The command's, where one ended."""
    at: float | None = None
    """When it ended, likewise."""


@dataclass(frozen=True, slots=True)
class Exited:
    """The command ended and its tree is dead."""

    reason: Reason
    exit_code: int | None
    detail: str = ""
    at: float | None = None
    """When it ended, where that is written down later."""


@dataclass(frozen=True, slots=True)
class Lost:
    """The shim died without a verdict."""

    detail: str = ""


@dataclass(frozen=True, slots=True)
class Published:
    """The results are on the remote."""

    commit: str
    path: str


@dataclass(frozen=True, slots=True)
class PublishFailed:
    """The results are not on the remote yet; try again at `not_before`."""

    detail: str
    not_before: float


@dataclass(frozen=True, slots=True)
class Abandoned:
    """A person gave up publishing."""

    detail: str = ""


@dataclass(frozen=True, slots=True)
class Released:
    """Another executor will run it."""

    detail: str = ""


@dataclass(frozen=True, slots=True)
class Returned:
    """A run that was released comes back as its next attempt. Illegal for any other run that is done."""

    command: TrainCommand
    """Its `attempt` is beyond the one with which the run was here before."""
    sender: str
    detail: str = ""
    anew: bool = False
    """Whether another key asks for it than the one that released it: then any `attempt` will do."""


Event = (
    Claimed
    | Prepared
    | PrepareFailed
    | Cancelled
    | Requeued
    | Exited
    | Lost
    | Published
    | PublishFailed
    | Abandoned
    | Released
    | Returned
)

GOES_FIRST: Final = "the run of a newer push goes first"

TABLE: Final[dict[tuple[State, type[Event]], State]] = {
    (State.QUEUED, Claimed): State.PREPARING,
    (State.QUEUED, Cancelled): State.PUBLISHING,
    (State.QUEUED, Released): State.DONE,
    (State.PREPARING, Prepared): State.RUNNING,
    (State.PREPARING, PrepareFailed): State.PUBLISHING,
    (State.PREPARING, Cancelled): State.PUBLISHING,
    (State.PREPARING, Requeued): State.QUEUED,
    (State.RUNNING, Exited): State.PUBLISHING,
    (State.RUNNING, Lost): State.PUBLISHING,
    (State.RUNNING, Requeued): State.QUEUED,
    (State.PUBLISHING, Published): State.DONE,
    (State.PUBLISHING, PublishFailed): State.PUBLISHING,
    (State.PUBLISHING, Abandoned): State.DONE,
    (State.DONE, Returned): State.QUEUED,
}


def advance(run: Run, event: Event, *, now: float) -> Run:  # noqa: C901, PLR0912  one branch an event
    """The run after `event`.

    Args:
        run: The run as it is.
        event: What happened.
        now: Seconds since the epoch.

    Raises:
        IllegalTransition: The event does not fit the run's state.
    """
    state = TABLE.get((run.state, type(event)))
    if state is None or _forbidden(run, event):
        name = type(event).__name__
        wish = ", its cancellation requested" if run.cancel_requested else ""
        raise IllegalTransition(f"Run {run.short} is {run.state}{wish}; the event {name} does not fit that.")
    change: dict[str, object] = {"state": state, "updated_at": now, "waiting_for": ""}
    match event:
        case Claimed(token, gpus):
            change |= {"token": token, "gpus": gpus, "attempt": run.attempt + 1, "not_before": 0.0}
            change |= {"started_at": None, "ended_at": None, "preempt_requested": False}
            change |= {"reason": Reason.NONE, "detail": ""}
        case Prepared(at):
            change |= {"started_at": now if at is None else at}
        case PrepareFailed(reason, detail):
            change |= {"outcome": Outcome.FAILED, "reason": reason, "detail": detail, "gpus": ()}
        case Cancelled(detail):
            change |= {"outcome": Outcome.CANCELLED, "reason": Reason.CANCELLED, "detail": detail, "gpus": ()}
            change |= {"not_before": 0.0}  # what it waited for no longer matters
        case Requeued(reason, detail, not_before):
            change |= {"reason": reason, "detail": detail, "not_before": not_before, "gpus": (), "token": ""}
            change |= {"waiting_for": detail if not_before else "", "preempt_requested": False}
            if run.gives_way_to:
                change |= {"not_before": NEVER, "waiting_for": GOES_FIRST}
        case Exited(reason, exit_code, detail, at):
            change |= {"outcome": _verdict(reason, exit_code), "reason": reason, "detail": detail, "gpus": ()}
            change |= {"ended_at": now if at is None else at}
        case Lost(detail):
            change |= {"outcome": Outcome.LOST, "reason": Reason.LOST, "detail": detail, "gpus": ()}
            change |= {"ended_at": now}
        case Published(commit, path):
            change |= {"result_commit": commit, "result_path": path, "done_at": now, "waiting_for": ""}
        case PublishFailed(detail, not_before):
            tries = run.publish_tries + 1
            change |= {"waiting_for": detail, "not_before": not_before, "publish_tries": tries}
        case Abandoned(detail):
            change |= {"detail": detail or run.detail, "done_at": now}
        case Released(detail):
            change |= {"outcome": Outcome.MOVED, "reason": Reason.RELEASED, "detail": detail, "done_at": now}
        case Returned(command, sender, detail, _):
            change |= {"command": command, "sender": sender, "attempt": max(run.attempt, command.attempt)}
            change |= {"outcome": None, "reason": Reason.NONE, "detail": detail, "done_at": None}
            change |= {"gives_way_to": "", "not_before": 0.0, "checkpoint": None}
    return run.model_copy(update=change)


def outcome_of(event: Event) -> Outcome | None:
    """How an attempt went that this event ends; None: it is tried again, or has not ended."""
    match event:
        case Exited(reason, exit_code):
            return _verdict(reason, exit_code)
        case PrepareFailed():
            return Outcome.FAILED
        case Cancelled():
            return Outcome.CANCELLED
        case Lost():
            return Outcome.LOST
        case _:
            return None


def unless_cancelled(run: Run, event: Event) -> Event:
    """What ends the attempt in place of a `Requeued` when somebody has cancelled the run meanwhile."""
    if not (isinstance(event, Requeued) and run.cancel_requested):
        return event
    if run.state is State.RUNNING:
        return Exited(Reason.CANCELLED, event.exit_code, "Cancelled before it was started again.", event.at)
    return Cancelled("Cancelled before it was started again.")


def comes_back(run: Run, command: TrainCommand) -> bool:
    """Whether a command is that of a released run which is placed here anew, not one that was late."""
    return run.outcome is Outcome.MOVED and command.attempt > run.command.attempt


def is_another(
    run: Run, command: TrainCommand, senders: Collection[str], speaks: Callable[[str], bool] = lambda _: False
) -> bool:
    """Whether the run that has a command's id is something else than what this command asks for.

    An id says neither what the job does nor where it begins, and whoever may send for one branch can use the
    id of a push to another one first. From the same sender only the job counts: runs are placed anew with
    their checkpoints, and one commit on two branches is one run. What another key had cancelled is another
    run, unless that key might have sent this very command: then it is a person's wish for it.

    Args:
        run: The one that is there.
        command: What came.
        senders: Under which keys whoever sent it sends, or has sent.
        speaks: Whether a key may send this command, too.
    """
    there = run.command
    if there.job != command.job:
        return True
    if run.sender in senders:
        return False
    by_branch = bool(command.job.secrets) or command.job.results_to.branch == "same"
    if by_branch and there.ref != command.ref:
        return True
    if run.cancel_requested or run.outcome is Outcome.CANCELLED:
        return there.ref != command.ref or not speaks(run.sender)
    if there.checkpoint == command.checkpoint:
        return False
    if run.outcome is Outcome.MOVED:
        return command.checkpoint is not None
    return run.state is State.QUEUED or not speaks(run.sender)


def serves(run: Run) -> bool:
    """Whether whoever asks for a run as well can have it: it waits or is active, and is not cancelled."""
    return run.state in {State.QUEUED, State.PREPARING, State.RUNNING} and not run.cancel_requested


def next_attempt(run: Run) -> int:
    """What the `attempt` of a released run's next command must be; always more than it was."""
    return max(run.attempt, run.command.attempt + 1)


def _forbidden(run: Run, event: Event) -> bool:
    """Whether the table allows what this run's past does not."""
    if isinstance(event, Requeued):
        return run.cancel_requested
    if not isinstance(event, Returned):
        return False
    return run.outcome is not Outcome.MOVED if event.anew else not comes_back(run, event.command)


def _verdict(reason: Reason, exit_code: int | None) -> Outcome:
    if reason is Reason.CANCELLED:
        return Outcome.CANCELLED
    if reason is Reason.EXITED and exit_code == 0:
        return Outcome.SUCCEEDED
    return Outcome.FAILED


def diagram() -> str:
    """The transition table as a Mermaid state diagram; the docs hold exactly this text."""
    edges: dict[tuple[State, State], list[str]] = {}
    for (before, event), after in TABLE.items():
        edges.setdefault((before, after), []).append(event.__name__)
    lines = ["stateDiagram-v2", "    [*] --> queued"]
    lines += [f"    {before} --> {after}: {', '.join(names)}" for (before, after), names in edges.items()]
    return "\n".join([*lines, "    done --> [*]"])
