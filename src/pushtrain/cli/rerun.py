"""`pushtrain rerun`: the same command once more."""

import secrets
from typing import Annotated

from cyclopts import Parameter

from pushtrain.cli.connect import everyone
from pushtrain.cli.find import Found, find_anywhere
from pushtrain.cli.logs import follow_log
from pushtrain.cli.options import Json, State
from pushtrain.cli.screen import render
from pushtrain.cli.send import deliver_all
from pushtrain.core.errors import UsageError
from pushtrain.core.text.queries import has_hidden
from pushtrain.core.values.command import run_id
from pushtrain.sender.kept import KeptCommands
from pushtrain.wiring.settings import open_state


def rerun(
    which: str = "",
    /,
    *,
    wait: Annotated[bool, Parameter(negative="")] = False,
    json: Json = False,
    state: State = None,
) -> None:
    """Run the same command once more, as a new run with an id of its own.

    It goes to the executor that had it; where that one is gone, to another that fits.

    Args:
        which: A run's id or its beginning, a commit, a branch or a job; the newest run when left out.
        wait: Follow the new run's log; exit with 12 if it does not succeed.
    """
    found = find_anywhere(which, state)
    old = found.run.command
    if has_hidden(old):
        raise UsageError(
            f"The run {found.run.short} fetched data by a signed URL, and signatures are shown to nobody.",
            mend=f"Sign it anew: `pushtrain send {old.commit[:12]} --job {old.job.name} --data-url URL`.",
        )
    request = secrets.token_hex(8)
    identity = run_id(
        repository=old.repository, commit=old.commit, job=old.job.name, cell=old.job.cell, request=request
    )
    command = old.model_copy(update={"run_id": identity, "request": request})
    if not isinstance(found, Found):
        (sent,) = deliver_all([command], everyone(state).executors, KeptCommands(open_state(state).outbox))
        client, run = sent.client, sent.run
    else:
        client, run = found.client, found.client.send(command)
    if json:
        render.emit_json(run)
    else:
        title = render.literal(run.command.job.title)
        render.say(f"Run {run.short} is queued: {title} at {run.command.commit[:7]}.")
    if wait:
        follow_log(Found(client, client.view(run.id)))
