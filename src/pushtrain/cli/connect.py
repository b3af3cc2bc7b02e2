"""The executors that a person at this machine may ask.

They are the one that runs here, those that settings or trusted keys name, and those that the roster lists of
the repository we stand in. All are asked at once; one that does not answer is named and holds up nobody.
"""

import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Generic, TypeVar

from pushtrain.cli.screen import render
from pushtrain.core.errors import PushtrainError, Unreachable, UsageError
from pushtrain.core.settings import Repository
from pushtrain.core.text.forms import clean
from pushtrain.plumbing.git.remotes import key_of
from pushtrain.plumbing.http.client import ExecutorClient
from pushtrain.wiring.directory import Directory, look_up
from pushtrain.wiring.settings import load_settings, open_state

if TYPE_CHECKING:
    from pushtrain.core.wire.roster import Verdict

T = TypeVar("T")
AskedT = TypeVar("AskedT")

_SLOW: Final = 5.0
"""Seconds that those who answer wait for those who do not."""


class Nobody(UsageError):
    """No executor is known that could be asked."""


@dataclass(frozen=True, slots=True)
class Answer(Generic[AskedT, T]):
    """What one executor said: a value, or why there is none."""

    client: AskedT
    value: T | None
    trouble: PushtrainError | None = None


def everyone(state: Path | None, *, fresh: bool = False) -> Directory:
    """Who is known here: the state folder's executors and those of the repository we stand in.

    Args:
        state: The state folder, as the verb was told.
        fresh: Whether to read rosters that were read a moment ago.
    """
    folder = open_state(state)
    return look_up(folder, load_settings(folder), here, fresh=fresh)


def here() -> Repository | None:
    """The repository of the clone we stand in, by its `origin`; None when there is none."""
    from pushtrain.cli.clone import open_clone  # lazy: not asked where an executor is known already

    try:
        remote = open_clone(Path.cwd()).ask("remote", "get-url", "origin")
        return Repository(key=key_of(remote), remote=remote) if remote else None
    except PushtrainError:
        return None


def clients(state: Path | None) -> list[ExecutorClient]:
    """The executors that may be asked, the likeliest address of each first.

    Raises:
        Nobody: There is none; it says who is on the roster, and why that is no use.
    """
    return list(askable(everyone(state)))


def askable(known: Directory) -> Sequence[ExecutorClient]:
    """Its executors that may be asked.

    Raises:
        Nobody: There is none.
    """
    if known.clients:
        return known.clients
    from pushtrain.core.wire.roster import Standing  # lazy: rosters were looked at

    listed = absences(known, time.time())
    trouble = [f"The roster {title} could not be read: {why}" for title, why in known.trouble.items()]
    if not listed and not trouble:
        raise Nobody(
            "No executor is known here: none runs on this state folder, and neither settings, trusted keys "
            "nor a roster name one.",
            mend="Start one: `pushtrain up`; or join one with the code that `pushtrain invite` prints there, "
            "or trust its key: `pushtrain key trust KEY`.",
        )
    mends = [found.verdict.mend for found in known.listed if found.verdict.mend]
    if any(found.verdict.standing is Standing.NO_ADDRESS for found in known.listed) or not mends:
        mends = ["What was published is on the results branch: `pushtrain results list`."]
    raise Nobody(" ".join(f"{text.rstrip('.')}." for text in (*listed, *trouble)), mend=mends[0])


def absences(known: Directory, now: float) -> list[str]:
    """A sentence for each executor on the roster that is not to be asked: who, and since when."""
    asked = {client.id for client in known.clients}
    sentences = [
        _absence(found.verdict, now) for found in known.listed if found.verdict.fingerprint not in asked
    ]
    return list(dict.fromkeys(filter(None, sentences)))


def _absence(verdict: "Verdict", now: float) -> str:
    from pushtrain.core.wire.roster import Standing  # lazy: likewise

    card = verdict.card
    if card is None:
        return f"The card of {verdict.fingerprint[:15]}… is passed over: {verdict.why}"
    name = clean(card.name[:60])
    match verdict.standing:
        case Standing.TRUSTED:
            return ""
        case Standing.OFFLINE:
            return f"{name} went offline {render.ago(card.timestamp, now)}"
        case Standing.EXPIRED:
            return f"{name} was last heard of {render.ago(card.timestamp, now)}"
        case Standing.NO_ADDRESS if not card.public_url:
            return f"{name} takes no calls: it has no tunnel"
        case Standing.UNKNOWN:
            return f"{name} is on the roster, but its key is not trusted here"
        case _:
            return f"The card of {name} is not believed: {verdict.why}"


def ask_all(asked: Sequence[AskedT], question: Callable[[AskedT], T]) -> list[Answer[AskedT, T]]:
    """Ask all executors at once; whoever has not answered a while after the first did is passed over."""
    answers: queue.Queue[Answer[AskedT, T]] = queue.Queue()

    def ask(client: AskedT) -> None:
        try:
            answers.put(Answer(client, question(client)))
        except PushtrainError as error:
            answers.put(Answer(client, None, error))

    for client in asked:  # daemons: a silent executor must not hold up the end of this process
        threading.Thread(target=ask, args=(client,), daemon=True).start()
    got: dict[AskedT, Answer[AskedT, T]] = {}
    deadline = None
    while len(got) < len(asked):
        try:
            answer = answers.get(timeout=None if deadline is None else max(0.0, deadline - time.monotonic()))
        except queue.Empty:
            break
        got[answer.client] = answer
        if answer.trouble is None and deadline is None:
            deadline = time.monotonic() + _SLOW
    late = Unreachable(f"It has not answered within {_SLOW:g} s.")
    return [got.get(client) or Answer(client, None, late) for client in asked]
