"""`pushtrain store`: look whether the store is whole, copy it, and put a damaged one together again."""

from datetime import UTC, datetime

from cyclopts import App

from pushtrain.cli.options import Json, State
from pushtrain.cli.screen import render
from pushtrain.core.errors import Conflict, NotFound, StoreDamaged
from pushtrain.plumbing.disk.lock import FolderLock
from pushtrain.plumbing.disk.state import StateFolder
from pushtrain.plumbing.sqlite.database import copy_of
from pushtrain.wiring.settings import open_state

app = App(
    name="store",
    help="The state folder's memory of runs: check it, copy it, recover it after damage.",
)


@app.command
def check(*, json: Json = False, state: State = None) -> None:
    """Read all of the store, compare every page with its checksum, and say whether it is whole.

    May be called while a server uses it. Exits with 8 when it is damaged.
    """
    from pushtrain.plumbing.sqlite.soundness import damage

    folder = _existing(state)
    problem = damage(folder.store)
    if problem:
        raise StoreDamaged(problem, mend="Stop pushtrain and run `pushtrain store recover`.")
    if json:
        render.emit_json({"store": str(folder.store), "whole": True})
        return
    render.say(f"{render.literal(str(folder.store))} is whole.")


@app.command
def copy(*, json: Json = False, state: State = None) -> None:
    """Keep a copy beside the store, in place of the one before; a running executor does so once a day.

    May be called while a server uses it.
    """
    from pushtrain.plumbing.sqlite.database import Database

    folder = _existing(state)
    database = Database(folder.store, read_only=True)
    try:
        place = database.copy()
    finally:
        database.close()
    if json:
        render.emit_json({"copy": str(place)})
        return
    render.say(f"Copied to {render.literal(str(place))}.")


@app.command
def recover(*, json: Json = False, state: State = None) -> None:
    """Put a damaged store together again: what can be read, the rest from the copy; tell what is missing.

    The damaged file is kept aside for a month. A run that had begun is neither forgotten nor begun again: the
    next start looks in its folder for what became of it. Nobody may serve the state folder meanwhile.
    """
    from pushtrain.plumbing.sqlite.salvage import recover as put_together
    from pushtrain.plumbing.sqlite.soundness import damage

    folder = _existing(state)
    with FolderLock(folder.lock):
        if not damage(folder.store) and not _lost_writes(folder):
            raise Conflict(f"The store {folder.store} is whole.", mend="There is nothing to recover.")
        moment = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
        found = put_together(folder.store, folder.runs, moment=moment)
    if json:
        render.emit_json({
            "aside": str(found.aside),
            "kept": found.kept,
            "copied": found.copied,
            "unchecked": found.unchecked,
            "looked_after": found.restarted,
            "lost": found.lost,
        })  # fmt: skip
        return
    runs, copied = found.kept.get("runs", 0), found.copied.get("runs", 0)
    render.say(f"The store is whole again: {runs} runs were read, {copied} came from the copy.")
    for ids, words in (
        (found.unchecked, "could be read, but not checked"),
        (found.restarted, "had begun an attempt that the record did not know; the next start looks after it"),
        (found.lost, "have a folder and no record any more; `pushtrain rerun` or a push starts them anew"),
    ):
        if ids:
            render.say(f"[yellow]{len(ids)}[/] {words}: {', '.join(each[:8] for each in ids[:10])}")
    render.say(f"[dim]The damaged file is kept for a month: {render.literal(str(found.aside))}.[/]")


@app.command
def moved(*, json: Json = False, state: State = None) -> None:
    """Say that the state folder has moved to this machine for good, or that no copy is at work any more.

    A state folder belongs to one machine: its key, its runs and its number on the roster are good for one
    executor only. A copy that is started on another machine is refused, and so is one whose key was seen at
    work elsewhere. Stop the other one for good first; nobody may serve the state folder meanwhile.
    """
    from pushtrain.plumbing.disk.home import move_in

    folder = open_state(state)
    with FolderLock(folder.lock):
        move_in(folder.machine)
    if json:
        render.emit_json({"state": str(folder.root)})
        return
    render.say(f"{render.literal(str(folder.root))} belongs to this machine.")


def _existing(state: State) -> StateFolder:
    folder = open_state(state)
    if not folder.store.exists():
        mend = f"A copy is at {copy_of(folder.store)}." if copy_of(folder.store).exists() else ""
        raise NotFound(f"There is no store at {folder.store}.", mend=mend or "It is made when first needed.")
    return folder


def _lost_writes(folder: StateFolder) -> bool:
    """Whether opening it to write would be refused; changes nothing if so."""
    from pushtrain.plumbing.sqlite.database import Database

    try:
        Database(folder.store).close()
    except StoreDamaged:
        return True
    return False
