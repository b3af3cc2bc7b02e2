"""`pushtrain roster`: who offers to train here, and what each card is worth."""

import time
from collections.abc import Sequence
from typing import Any

from pushtrain.cli.connect import here
from pushtrain.cli.options import Json, Repo, State
from pushtrain.cli.screen import render
from pushtrain.core.errors import GitError, UsageError
from pushtrain.core.text.forms import clean
from pushtrain.core.values.card import ExecutorCard
from pushtrain.core.wire.roster import Standing
from pushtrain.sender.known import Found, Rosters
from pushtrain.wiring.parts import mirror
from pushtrain.wiring.rosters import look
from pushtrain.wiring.settings import load_settings, open_state

_COLOURS = {Standing.TRUSTED: "green", Standing.OFFLINE: "dim", Standing.UNKNOWN: "yellow"}


def roster(*, repo: Repo = (), json: Json = False, state: State = None) -> None:
    """List the executors on the roster of a repository, and what each card is worth here.

    A card that is `trusted` belongs to an executor that may be asked; of every other one it says why not, and
    the mend. The roster is read anew from the remote.

    Args:
        repo: Remote of a repository; where none is named here or in settings, that of the clone we stand in.
    """
    folder = open_state(state)
    settings = load_settings(folder, repositories=repo)
    if not settings.repositories and (clone := here()) is not None:
        settings = settings.model_copy(update={"repositories": (clone,)})
    if not settings.repositories:
        raise UsageError(
            "There is no repository whose roster could be read.",
            mend="Stand in a clone, or name a remote with `--repo URL`.",
        )
    rosters = look(folder, settings, lambda each: mirror(folder, each), max_age=0)
    listed = rosters.verdicts()
    if not listed and (trouble := rosters.trouble()):
        raise GitError(" ".join(trouble.values()))
    if json:
        render.emit_json(_document(rosters, listed))
        return
    _show(rosters, listed)


def _document(rosters: Rosters, listed: Sequence[Found]) -> dict[str, Any]:
    return {
        "rosters": [file.place.title for file in rosters.files],
        "cards": listed,
        "trouble": rosters.trouble(),
    }


def _show(rosters: Rosters, listed: Sequence[Found]) -> None:
    now, several = time.time(), len(rosters.files) > 1
    if listed:
        columns = (
            "executor",
            "key",
            "worth",
            "address",
            "GPUs",
            "written",
            *(("roster",) if several else ()),
        )
        render.table(columns, [_row(found, now)[: len(columns)] for found in listed])
        render.say()
    for found in listed:
        verdict = found.verdict
        if verdict.why:
            who = clean(verdict.card.name) if verdict.card else verdict.fingerprint[:15]
            render.tell(f"{who}: {verdict.why}.{f' {verdict.mend}.' if verdict.mend else ''}")
    for title, why in rosters.trouble().items():
        render.tell(f"{title}: {why}")
    if not listed:
        where = ", ".join(file.place.title for file in rosters.files) or "none is set"
        render.tell(f"No executor has a card here yet ({where}). `pushtrain executor` writes one.")


def _row(found: Found, now: float) -> tuple[str, ...]:
    from rich.markup import escape

    verdict, card = found.verdict, found.verdict.card
    worth = f"[{_COLOURS.get(verdict.standing, 'red')}]{verdict.standing}[/]"
    name = escape(clean(card.name[:60])) if card else "?"
    address = escape(clean(card.public_url[:120])) if card else ""
    written = render.ago(card.timestamp, now) if card else ""
    return name, verdict.fingerprint[:15], worth, address, gpus(card), written, escape(found.roster)


def gpus(card: ExecutorCard | None) -> str:
    """The GPUs of a card for people: `2 x NVIDIA RTX 4090, 25.8 GB`."""
    from rich.markup import escape

    kinds: dict[tuple[str, int], int] = {}
    for gpu in card.gpus if card else ():
        kinds[gpu.name, gpu.memory] = kinds.get((gpu.name, gpu.memory), 0) + 1
    return escape(
        "; ".join(
            f"{f'{count} x ' if count > 1 else ''}{clean(name[:60])}, {render.size(memory)}"
            for (name, memory), count in kinds.items()
        )
    )
