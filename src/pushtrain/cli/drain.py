"""`pushtrain executor drain`: finish what runs, take nothing new, stop."""

import contextlib
import time
from typing import Annotated, Any, Final

from cyclopts import Parameter

from pushtrain.cli.options import Json, State
from pushtrain.cli.screen import render
from pushtrain.core.errors import Conflict, NotFound, UsageError
from pushtrain.core.text.forms import Wrong, duration
from pushtrain.plumbing.disk.lock import holder
from pushtrain.plumbing.disk.state import StateFolder
from pushtrain.plumbing.owner.drainfile import done, order, ordered
from pushtrain.plumbing.sqlite.view import View
from pushtrain.wiring.parts import running_card
from pushtrain.wiring.settings import open_state

_GLANCE: Final = 0.2


def drain(
    *,
    timeout: str | None = None,
    cancel: Annotated[bool, Parameter(negative="")] = False,
    wait: bool = True,
    json: Json = False,
    state: State = None,
) -> None:
    """Have the executor of this state folder finish what runs, take nothing new, and stop.

    What is sent to it meanwhile is answered 503 `draining`, so senders choose another executor or wait, and
    the roster says so. Runs that wait here stay: a sender may recall them, else the next start takes them up.
    Results that a remote does not take are kept for the next start, too. The command returns once the
    executor has stopped; Ctrl-C ends the waiting, not the draining.

    Args:
        timeout: How long runs may take to finish: `30m`, `2h`. Then the executor stops all the same; they go
            on by themselves, and the next start takes them up.
        cancel: Call the drain off: the executor takes new runs again.
        wait: Whether to wait until it has stopped.
    """
    folder = open_state(state)
    if cancel and timeout is not None:
        raise UsageError("`--cancel` takes no `--timeout`.", mend="Call the drain off, or give a new order.")
    if cancel:
        was = done(folder.drain)
        _tell({"draining": False}, "The drain is called off." if was else "It does not drain.", as_json=json)
        return
    seconds = None if timeout is None else _seconds(timeout)
    if running_card(folder) is None or holder(folder.lock) is None:
        raise NotFound(
            f"No executor serves the state folder {folder.root}.",
            mend="There is nothing to drain; name another folder with `--state`.",
        )
    order(folder.drain, since=time.time(), timeout=seconds)
    if not wait:
        _tell({"draining": True, "stopped": False}, "The executor drains.", as_json=json)
        return
    left = _wait(folder, as_json=json)
    if ordered(folder.drain) is not None:
        raise Conflict(
            "The executor ended before it had drained; its next start goes on draining.",
            mend="`pushtrain executor drain --cancel` calls that off.",
        )
    text = f"The executor has stopped; {_runs(left)} went on." if left else "The executor has stopped."
    _tell({"draining": False, "stopped": True, "running": left}, text, as_json=json)


def _seconds(text: str) -> float:
    try:
        return duration(text)
    except Wrong as error:
        raise UsageError(f"`--timeout {text[:40]}` {error.problem}.", mend=error.mend) from error


def _wait(folder: StateFolder, *, as_json: bool) -> int:
    """Wait until nobody serves the folder; how many runs were on then."""
    told = -1
    with contextlib.closing(View(folder.store)) as store:
        while holder(folder.lock) is not None:
            running, _ = store.unfinished()
            if running != told and not as_json:
                told = running
                render.say(f"Draining: {_runs(running)} to finish.")
            time.sleep(_GLANCE)  # another process drains, and tells by its lock alone
        return store.unfinished()[0]


def _runs(count: int) -> str:
    return f"{count} run{'s' if count != 1 else ''}"


def _tell(document: dict[str, Any], text: str, *, as_json: bool) -> None:
    if as_json:
        render.emit_json(document)
    else:
        render.say(text)
