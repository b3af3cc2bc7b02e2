"""`pushtrain cancel`: end a run."""

from pathlib import Path

from pushtrain.cli.find import Found, Published, Stored, find_anywhere
from pushtrain.cli.options import Json, State
from pushtrain.cli.screen import render
from pushtrain.core.errors import Conflict, Unreachable
from pushtrain.wiring.history import History, Unsent
from pushtrain.wiring.settings import open_state


def cancel(which: str, /, *, json: Json = False, state: State = None) -> None:
    """Cancel a run: its command is asked to end; after the grace period its whole process tree is killed.

    What the run has left until then is published like any other result. A command that still waits at the
    sender of your state folder is dropped there, and never starts.

    Args:
        which: A run's id or its beginning, a commit, a branch or a job (its newest run).
    """
    found = find_anywhere(which, state)
    if isinstance(found, Unsent):
        dropped = _dropped(found, state)
        if dropped is not None:
            _tell(dropped, as_json=json)
            return
        found = find_anywhere(found.id, state)  # an executor has just taken it
    if isinstance(found, Stored) and not found.run.outcome:
        raise Unreachable(
            f"The executor that has run {found.run.short} does not run.",
            mend="Start it (`pushtrain up` or `pushtrain executor`), then cancel.",
        )
    if isinstance(found, Stored):
        raise Conflict(f"Run {found.run.short} has ended already ({found.run.outcome}).")
    if isinstance(found, Published):
        raise Conflict(f"Run {found.run.short} has ended already: it is on the results branch.")
    if not isinstance(found, Found):
        raise Conflict(f"Run {found.short} is on its way to an executor.", mend="Try again in a moment.")
    run = found.client.cancel(found.run.id)
    if json:
        render.emit_json(run)
        return
    render.say(f"Run {run.short} {'is cancelled' if run.outcome else 'is being cancelled'}.")


def _dropped(one: Unsent, state: Path | None) -> Unsent | None:
    """What became of a command that is to be dropped; None: an executor has taken it.

    Raises:
        Conflict: It is not waiting any more, or an executor may have it.
    """
    if one.state != "waiting":
        raise Conflict(
            f"Run {one.short} does not wait: it was {one.state} already.", mend="There is nothing to cancel."
        )
    return History(open_state(state)).cancel(one.id)


def _tell(one: Unsent, *, as_json: bool) -> None:
    if as_json:
        render.emit_json(one.document())
    elif one.state == "cancelled":
        render.say(f"Run {one.short} is cancelled: it will not start.")
    else:
        render.say(
            f"Run {one.short} is being cancelled: {render.literal(one.detail.rstrip('.'))}. "
            "The sender drops it, unless an executor has it."
        )
