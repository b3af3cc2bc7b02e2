"""`pushtrain rerun`: the same command once more."""

import secrets

from pushtrain.cli import render
from pushtrain.cli.connect import Found, find_run
from pushtrain.cli.logs import follow_log
from pushtrain.cli.options import Json, State
from pushtrain.core.model import run_id


def rerun(which: str = "", /, *, wait: bool = False, json: Json = False, state: State = None) -> None:
    """Run the same command once more, as a new run with an id of its own.

    Args:
        which: A run's id or its beginning, a commit, a branch or a job; the newest run when left out.
        wait: Follow the new run's log; exit with 12 if it does not succeed.
    """
    found = find_run(which, state)
    old = found.run.command
    request = secrets.token_hex(8)
    identity = run_id(
        repository=old.repository, commit=old.commit, job=old.job.name, cell=old.job.cell, request=request
    )
    run = found.client.send(old.model_copy(update={"run_id": identity, "request": request}))
    if json:
        render.emit_json(run)
    else:
        title = render.literal(run.command.job.title)
        render.say(f"Run {run.short} is queued: {title} at {run.command.commit[:7]}.")
    if wait:
        follow_log(Found(found.client, found.client.view(run.id)))
