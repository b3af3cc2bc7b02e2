"""`pushtrain pause` and `pushtrain resume`: the owner's machine is theirs again, at once, and lent again."""

import contextlib
import math
from collections.abc import Iterator
from typing import Annotated

from cyclopts import Parameter

from pushtrain.cli.options import Json, State
from pushtrain.cli.screen import render
from pushtrain.cli.screen.ownerlines import clock
from pushtrain.core.errors import PushtrainError, UsageError
from pushtrain.core.text.forms import Wrong, duration
from pushtrain.plumbing.disk.state import StateFolder
from pushtrain.plumbing.owner import standing
from pushtrain.plumbing.owner.pause import PauseFile
from pushtrain.wiring.settings import load_settings, open_state


def pause(
    time_: Annotated[str | None, Parameter(name="TIME")] = None,
    /,
    *,
    json: Json = False,
    state: State = None,
) -> None:
    """Do not lend this machine, for a while or until `pushtrain resume`.

    Nothing new starts. What runs is asked for a checkpoint, has the grace of your rules, and is ended; it
    goes on when lending does, here or elsewhere. It needs no network, holds over restarts, and also before
    an executor is started. What is finished is still published.

    Args:
        time_: How long, such as `30m`, `2h` or `1d`; nothing: until `pushtrain resume`.
    """
    folder = open_state(state)
    until = PauseFile(folder.pause).pause(_seconds(time_))
    if json:
        render.emit_json({"paused": True, "until": None if math.isinf(until) else until})
        return
    end = "until `pushtrain resume`" if math.isinf(until) else f"until {clock(until)}"
    render.say(f"Paused {end}.")
    for sentence in _follows(folder):
        render.tell(sentence)


def resume(*, json: Json = False, state: State = None) -> None:
    """Lend this machine again after `pushtrain pause`, as your rules say."""
    folder = open_state(state)
    was = PauseFile(folder.pause).resume()
    if json:
        render.emit_json({"paused": False, "until": None})
        return
    render.say("Lent again, as your rules say." if was else "It was not paused.")


def _seconds(text: str | None) -> float | None:
    if text is None:
        return None
    try:
        return duration(text)
    except Wrong as wrong:
        mend = "Write `30m`, `2h`, `1h30m` or `2d`; without it you are paused until `pushtrain resume`."
        raise UsageError(f"`{text}` {wrong.problem}.", mend=mend) from None


def _follows(folder: StateFolder) -> Iterator[str]:
    """What happens now, as far as the executor here has told."""
    found = standing.read(folder.standing, folder.lock)
    if found is None:
        yield "No executor runs here now; one that starts meanwhile lends nothing."
        return
    if found.runs:
        runs = f"{found.runs} run{'s' if found.runs != 1 else ''}"
        grace = ""
        with contextlib.suppress(PushtrainError):  # whatever is wrong with the settings, the pause stands
            grace = f" within {load_settings(folder).rules.owner.grace:g} s"
        yield f"{runs} give{'s' if found.runs == 1 else ''} back what {_they(found.runs)}{grace}."


def _they(count: int) -> str:
    return "it holds" if count == 1 else "they hold"
