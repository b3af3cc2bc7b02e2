"""`pushtrain cancel`: end a run."""

from pushtrain.cli import render
from pushtrain.cli.find import Published, find_anywhere
from pushtrain.cli.options import Json, State
from pushtrain.core.errors import Conflict


def cancel(which: str, /, *, json: Json = False, state: State = None) -> None:
    """Cancel a run: its command is asked to end; after the grace period its whole process tree is killed.

    What the run has left until then is published like any other result.

    Args:
        which: A run's id or its beginning, a commit, a branch or a job (its newest run).
    """
    found = find_anywhere(which, state)
    if isinstance(found, Published):
        raise Conflict(f"Run {found.run.short} has ended already: it is on the results branch.")
    run = found.client.cancel(found.run.id)
    if json:
        render.emit_json(run)
        return
    render.say(f"Run {run.short} {'is cancelled' if run.outcome else 'is being cancelled'}.")
