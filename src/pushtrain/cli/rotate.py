"""`pushtrain key rotate`: a new key takes the place of this machine's."""

from pushtrain.cli.granting import day
from pushtrain.cli.options import Json, State
from pushtrain.cli.screen import render
from pushtrain.core.errors import UsageError
from pushtrain.core.text.forms import Wrong, duration
from pushtrain.core.wire.signing import public_text
from pushtrain.core.wire.succession import LONGEST_OVERLAP
from pushtrain.plumbing.disk.lock import holder
from pushtrain.plumbing.keys import identity
from pushtrain.wiring.settings import open_state


def rotate(*, overlap: str = "7d", json: Json = False, state: State = None) -> None:
    """Make a new key for this state folder; the old one says that the new one takes its place.

    Nobody has to be told by hand. Executors that obey the old key obey the new one from this machine's next
    request on, with the same rights; senders that trust it learn of the new one by the executor's card. Until
    the overlap is over both count. A server that runs takes the new key up at once.

    If you think that somebody else has the old key, do not rotate: he could, too. Have it revoked
    (`pushtrain key revoke` on the executors, `key distrust` on the senders), and join anew with a new folder.

    Args:
        overlap: For how long the old key counts as well.
    """
    folder = open_state(state)
    try:
        seconds = duration(overlap)
    except Wrong as error:
        raise UsageError(f"`--overlap {overlap[:40]}` {error.problem}.", mend=error.mend) from error
    if seconds > LONGEST_OVERLAP:
        raise UsageError(
            f"`--overlap {overlap[:40]}` is longer than 90 days.", mend="Two keys are twice a risk."
        )
    made = identity.rotate(folder.key, overlap=seconds)
    until = made.chain[-1].until
    if json:
        found = {
            "public_key": public_text(made.key.public_key()),
            "fingerprint": made.id,
            "former": made.was[-1],
            "until": until,
        }
        render.emit_json(found)
        return
    render.say(f"[bold]{made.id}[/] is this machine's key now.")
    render.say(f"{made.was[-1]} counts until {day(until)}; then its private half is deleted.")
    if holder(folder.lock) is not None:
        render.say("[dim]The server that runs on this folder uses it from now on.[/]")
