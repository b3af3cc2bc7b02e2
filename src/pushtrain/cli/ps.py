"""`pushtrain ps`: the runs, newest first, and what waits to become one."""

import time
from pathlib import Path

from pushtrain.cli.connect import Nobody
from pushtrain.cli.find import find_runs, published_runs, what_came_of
from pushtrain.cli.options import Json, Limit, State
from pushtrain.cli.screen import render
from pushtrain.core.errors import NotFound, PushtrainError, Unreachable
from pushtrain.core.values.run import Run
from pushtrain.core.values.states import State as State_
from pushtrain.core.wire.bodies import MAX_RUNS
from pushtrain.wiring.history import Unsent


def ps(
    which: str = "",
    /,
    *,
    limit: Limit = 20,
    json: Json = False,
    state: State = None,
) -> None:
    """List runs, newest first.

    `pushtrain ps` lists the last 20, `pushtrain ps main` those of a branch, `pushtrain ps HEAD` of a commit.
    Executors are asked; where none answers, the results branch of the clone you stand in tells what ended.
    Of your own state folder it is told, too, what waits at its sender or was refused there, and for what
    reason; and, while no executor serves it, what its executor ran.

    Args:
        which: A commit, a branch, a job, or the beginning of a run's id; every run when left out.
        limit: How many at most; it is said when there are more.
    """
    runs, silent = _listed(which, state, min(limit + 1, MAX_RUNS))
    if len(runs) > limit:
        many = min(10 * limit, MAX_RUNS)
        silent = (*silent, f"There are more: `--limit {many}` lists up to {many}")
        runs = runs[:limit]
    for sentence in silent:
        render.note(f"pushtrain: {sentence.rstrip('.')}.")
    if json:
        render.emit_json([one.document() if isinstance(one, Unsent) else one for one in runs])
        return
    if not runs:
        nothing = f"No run matches `{which}`." if which else "No runs yet."
        came = what_came_of(which, state) or "Push a commit, or start one with `pushtrain send`."
        render.say(f"{nothing} {render.literal(came)}")
        return
    now = time.time()
    render.table(
        ("run", "job", "commit", "branch", "state", "age", "took"),
        [row(run, now) for run in runs],
        right=("took",),
    )


def _listed(which: str, state: Path | None, limit: int) -> tuple[list[Run | Unsent], tuple[str, ...]]:
    """What there is, newest first, and a sentence for each who told nothing."""
    found: list[Run | Unsent] = []
    try:
        heard = find_runs(which, state, limit=limit)
    except (Nobody, Unreachable) as error:
        found += published_runs(which, error, limit=limit)
        return found, ()
    found += [run for _, run in heard.runs]
    found += heard.unsent
    silent = heard.silent
    if heard.trouble is not None and not heard.runs:
        try:
            listed = {one.id for one in found}
            ended = published_runs(which, heard.trouble, limit=limit)
            found += [run for run in ended if run.id not in listed]
        except PushtrainError as error:
            if not isinstance(error, NotFound):
                silent = (*silent, error.message)
    found.sort(key=lambda one: one.since if isinstance(one, Unsent) else one.accepted_at, reverse=True)
    return found[:limit], silent


def row(one: Run | Unsent, now: float) -> tuple[str, ...]:
    """One run's cells; what it took is its training alone, so far where it still runs."""
    run = one.run if isinstance(one, Unsent) else one
    return (
        run.short,
        render.literal(run.command.job.title),
        run.command.commit[:7],
        render.literal(run.command.ref.removeprefix("refs/heads/").removeprefix("refs/")),
        not_sent(one) if isinstance(one, Unsent) else standing(run),
        render.ago(run.accepted_at, now),
        "" if run.started_at is None else render.seconds((run.ended_at or now) - run.started_at),
    )


def not_sent(one: Unsent) -> str:
    """Why a command is no run: `waiting (lab-3 is busy)`, `refused (…)`, coloured."""
    wish = ", cancelling" if one.cancelling else ""
    return f"{render.coloured(one.state)}{wish} ({render.literal(one.detail)})"


def standing(run: Run) -> str:
    """Where a run is and how it went, coloured: `running`, `failed, publishing`, `lost, publish pending`."""
    twice = ", possible duplicate" if run.command.possible_duplicate else ""
    if run.outcome is None:
        again = f"{run.reason} in attempt {run.attempt}" if run.attempt and run.reason else ""
        why = run.waiting_for or (again if run.state is State_.QUEUED else "")
        waiting = f" ({render.literal(why)})" if why else ""
        wish = ", cancelling" if run.cancel_requested else ""
        return f"{render.coloured(run.state)}{wish}{waiting}{twice}"
    publishing = "" if run.final else f", {render.coloured('publish pending' if run.pending else run.state)}"
    return f"{render.coloured(run.ending)}{publishing}{twice}"
