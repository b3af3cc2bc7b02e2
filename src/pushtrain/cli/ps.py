"""`pushtrain ps`: the runs, newest first."""

import sys
import time
from typing import Annotated

from cyclopts import Parameter

from pushtrain.cli import render
from pushtrain.cli.connect import Nobody
from pushtrain.cli.find import find_runs, published_runs
from pushtrain.cli.options import Json, State
from pushtrain.core.errors import Unreachable
from pushtrain.core.model import Run


def ps(
    which: str = "",
    /,
    *,
    limit: Annotated[int, Parameter(name=["--limit", "-n"])] = 20,
    json: Json = False,
    state: State = None,
) -> None:
    """List runs, newest first.

    `pushtrain ps` lists the last 20, `pushtrain ps main` those of a branch, `pushtrain ps HEAD` of a commit.
    Executors are asked; where none answers, the results branch of the clone you stand in tells what ended.

    Args:
        which: A commit, a branch, a job, or the beginning of a run's id; every run when left out.
        limit: How many at most.
    """
    try:
        heard = find_runs(which, state, limit=limit)
        runs, silent = [run for _, run in heard.runs], heard.silent
    except (Nobody, Unreachable) as error:
        runs, silent = published_runs(which, error, limit=limit), ()
    for sentence in silent:
        sys.stderr.write(f"pushtrain: {sentence.rstrip('.')}.\n")
    if json:
        render.emit_json(runs)
        return
    if not runs:
        nothing = f"No run matches `{which}`." if which else "No runs yet."
        render.say(f"{nothing} Push a commit, or start one with `pushtrain send`.")
        return
    now = time.time()
    render.table(
        ("run", "job", "commit", "branch", "state", "age", "took"),
        [row(run, now) for run in runs],
        right=("took",),
    )


def row(run: Run, now: float) -> tuple[str, ...]:
    """One run's cells; what it took is its training alone, so far where it still runs."""
    return (
        run.short,
        render.literal(run.command.job.title),
        run.command.commit[:7],
        render.literal(run.command.ref.removeprefix("refs/heads/").removeprefix("refs/")),
        standing(run),
        render.ago(run.accepted_at, now),
        "" if run.started_at is None else render.seconds((run.ended_at or now) - run.started_at),
    )


def standing(run: Run) -> str:
    """Where a run is and how it went, coloured: `running`, `succeeded`, `failed, publishing`."""
    twice = ", possible duplicate" if run.command.possible_duplicate else ""
    if run.outcome is None:
        waiting = f" ({render.literal(run.waiting_for)})" if run.waiting_for else ""
        wish = ", cancelling" if run.cancel_requested else ""
        return f"{render.coloured(run.state)}{wish}{waiting}{twice}"
    publishing = "" if run.final else f", {render.coloured(run.state)}"
    return f"{render.coloured(run.ending)}{publishing}{twice}"
