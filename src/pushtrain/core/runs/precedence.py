"""Which of a branch's runs of one job gives way to which: the older push to the newer, never otherwise. Pure.

A group is a repository, ref, job and matrix cell; runs that a person asked for anew are in none. What counts
is the order of commits, not of deliveries, so a push that is delivered late gives way when it comes.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import Enum, auto

from pushtrain.core.values.command import TrainCommand
from pushtrain.core.values.jobspec import Concurrency
from pushtrain.core.values.run import Run
from pushtrain.core.values.states import State

Group = tuple[str, str, str, str]


class Order(Enum):
    """How two commits of one branch stand to each other."""

    OLDER = auto()
    NEWER = auto()
    UNKNOWN = auto()


@dataclass(frozen=True, slots=True)
class GivesWay:
    """An older run, the newer one, and what becomes of the older."""

    older: Run
    newer: Run
    how: Concurrency


def group_of(command: TrainCommand) -> Group | None:
    """What a command's run shares its place with; None: it stands alone."""
    if command.request:
        return None
    cell = repr(sorted((name, repr(value)) for name, value in command.job.cell.items()))
    return command.repository, command.ref, command.job.name, cell


def giving_way(run: Run, others: Iterable[Run], order: Callable[[str, str], Order]) -> list[GivesWay]:
    """What follows from a run that has just come, or stands here at the start.

    Args:
        run: The run.
        others: Runs that may be of its group, whatever their state.
        order: How the first commit stands to the second.
    """
    group = group_of(run.command)
    found: list[GivesWay] = []
    for other in others if group is not None else ():
        if other.id == run.id or group_of(other.command) != group:
            continue
        stands = order(run.command.commit, other.command.commit)
        if stands is Order.UNKNOWN:
            continue
        older, newer = (other, run) if stands is Order.NEWER else (run, other)
        how = newer.command.job.concurrency
        if _waits_or_runs(older) and (
            how is Concurrency.CANCEL or (how is Concurrency.CHECKPOINT and _waits_or_runs(newer))
        ):
            found.append(GivesWay(older, newer, how))
    return found


def dropped(
    new: Iterable[TrainCommand], waiting: Iterable[TrainCommand], order: Callable[[str, str], Order]
) -> list[tuple[TrainCommand, TrainCommand]]:
    """Commands that no executor has and that a newer push replaces, each with the newer one.

    Args:
        new: What a push starts.
        waiting: What waits already.
        order: How the first commit stands to the second.
    """
    found = []
    others = [(group_of(command), command) for command in waiting]
    for command in new:
        group = group_of(command)
        for its, other in others:
            if group is None or its != group or other.run_id == command.run_id:
                continue
            stands = order(command.commit, other.commit)
            if stands is Order.UNKNOWN:
                continue
            older, newer = (other, command) if stands is Order.NEWER else (command, other)
            if newer.job.concurrency is Concurrency.CANCEL:
                found.append((older, newer))
    return found


def _waits_or_runs(run: Run) -> bool:
    return run.state in {State.QUEUED, State.PREPARING, State.RUNNING} and not run.cancel_requested
