"""`pushtrain executor disk`: what lies in the state folder, why it stays, and collecting it by hand."""

import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict
from typing import Annotated

from cyclopts import Parameter

from pushtrain.cli.options import Json, State
from pushtrain.cli.screen import render
from pushtrain.core.errors import NotFound, UsageError
from pushtrain.core.runs.lean import Kind, Piece
from pushtrain.core.settings import Settings
from pushtrain.core.text.forms import Wrong, size
from pushtrain.plumbing.disk.state import StateFolder
from pushtrain.plumbing.housekeeping.upkeep import Survey, Upkeep
from pushtrain.plumbing.sqlite.view import View
from pushtrain.wiring.lean import upkeep
from pushtrain.wiring.settings import load_settings, open_state

_REASONS = 3


def disk(
    *,
    collect: Annotated[bool, Parameter(negative="")] = False,
    down_to: str | None = None,
    json: Json = False,
    state: State = None,
) -> None:
    """Show what lies in the state folder, of which kind, and what of it could go.

    An executor collects by itself what was used least, as soon as its folder takes more than `disk_budget`
    or the disk has less than `disk_floor` free (docs/disk.md). This may be called while one runs.

    Args:
        collect: Do it now: what is beyond the budget goes, and so do leftovers.
        down_to: Do it now, until no more than this is left: `20GB`; `0GB` is everything that may go.
    """
    folder = open_state(state)
    wanted = None if down_to is None else _bytes(down_to)
    if not folder.store.exists():
        raise NotFound(f"Nothing has run on the state folder {folder.root} yet.", mend="It is empty.")
    with opened(folder, load_settings(folder)) as tidier:
        gone = _collected(tidier, wanted) if collect or wanted is not None else []
        found = tidier.look()
    if json:
        render.emit_json({
            "disk": asdict(found.disk) | {"excess": found.disk.excess, "stuck": found.stuck},
            "collected": [asdict(piece) for piece in gone],
            "pieces": [asdict(piece) for piece in found.pieces],
        })  # fmt: skip
        return
    _show(found, time.time())
    if collect or wanted is not None:
        freed = render.size(sum(piece.size for piece in gone))
        render.say(f"Collected: {freed}, in {len(gone)} piece{'s' if len(gone) != 1 else ''}.")
    if wanted and found.disk.total > wanted:  # 0: all that may go, whatever that comes to
        left = f"{render.size(found.disk.total)} are left, and no more may go; the table says why."
        render.note(f"pushtrain: {render.size(wanted)} cannot be reached: {left}")


def _collected(tidier: Upkeep, wanted: int | None) -> list[Piece]:
    tidier.tend(lambda: None)
    return tidier.collect(wanted)


@contextmanager
def opened(folder: StateFolder, settings: Settings) -> Iterator[Upkeep]:
    """The upkeep of a state folder, beside whoever serves it; its store is read only."""
    with closing(View(folder.store)) as store:
        yield upkeep(folder, settings, store)


def _bytes(text: str) -> int:
    try:
        return 0 if text.strip("0. ").upper() in {"", "B", "MB", "GB", "TB"} else size(text)
    except Wrong as error:
        raise UsageError(f"`--down-to {text[:40]}` {error.problem}.", mend=error.mend) from error


def _show(found: Survey, now: float) -> None:
    kinds = [kind for kind in Kind if any(piece.kind is kind for piece in found.pieces)]
    rows = [_row(kind, [piece for piece in found.pieces if piece.kind is kind], now) for kind in kinds]
    render.table(
        ("what", "size", "pieces", "files", "may go", "least used", "why the rest stays"),
        rows,
        right=("size", "pieces", "files", "may go"),
    )
    disk = found.disk
    render.say(
        f"{render.size(disk.total)} of {render.size(disk.budget)} that may lie here; "
        f"{render.size(disk.free)} of the disk are free, {render.size(disk.floor)} must be."
    )
    if found.stuck:
        render.say(f"[red]{render.size(found.stuck)} too much, by what must stay.[/]")


def _row(kind: Kind, pieces: Sequence[Piece], now: float) -> tuple[str, ...]:
    going = [piece for piece in pieces if not piece.stays]
    reasons = list(dict.fromkeys(piece.stays for piece in pieces if piece.stays))
    more = "; …" if len(reasons) > _REASONS else ""
    return (
        kind.value,
        render.size(sum(piece.size for piece in pieces)),
        str(len(pieces)),
        str(sum(piece.files for piece in pieces)),
        render.size(sum(piece.size for piece in going)),
        render.ago(min(piece.used for piece in going), now) if going else "",
        "; ".join(reasons[:_REASONS]) + more,
    )
