"""What lies in a state folder: looked at piece by piece, and taken away so that a crash leaves no half.

A piece that goes is first moved into a trash folder, in one step, and removed there; `finish` removes what a
killed process has left in it. Each kind has its own word for "in use", asked once more at the moment of
removal: an entry's holders and locks, a mirror's lock, a run that has not ended, a promise to keep its files.
Several processes may look and remove at once.
"""

import fcntl
import os
import re
import secrets
import time
from collections.abc import Callable, Iterator, MutableMapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pushtrain.core.runs.lean import Kind, Piece
from pushtrain.core.values.states import State
from pushtrain.plumbing.attempts.rundir import RunDir, held
from pushtrain.plumbing.disk.cache import Cache
from pushtrain.plumbing.disk.ownfolders import own_name
from pushtrain.plumbing.disk.state import StateFolder
from pushtrain.plumbing.disk.trees import remove_tree, weigh
from pushtrain.plumbing.git.mirror import mirror_name
from pushtrain.plumbing.housekeeping.asides import asides
from pushtrain.plumbing.sqlite.view import View

if TYPE_CHECKING:
    from pushtrain.plumbing.sqlite.retention import Unended

_JUST_NOW: Final = 600.0
"""Seconds for which a mirror counts as in use after somebody used it: what was fetched is read next."""
_STALE: Final = 86_400.0
"""Seconds after which a temporary file counts as left behind: nothing takes so long to write one."""
_UNKNOWN: Final = "the store does not know what became of this run"
_HALF_WRITTEN: Final = re.compile(r"\..+\.([0-9a-f]{16}|\d+)")
_Shared = MutableMapping[tuple[int, int], int]


@dataclass(frozen=True, slots=True)
class Needs:
    """What runs that have not ended need."""

    runs: frozenset[str]
    mirrors: frozenset[str]
    folders: frozenset[str]
    """Names below `caches` and `builds`."""
    commits: frozenset[str] = frozenset()

    @classmethod
    def of(cls, unended: "list[Unended]") -> "Needs":
        """What these need."""
        active = [run for run in unended if run.state in {State.PREPARING, State.RUNNING}]
        return cls(
            runs=frozenset(run.id for run in unended),
            mirrors=frozenset(mirror_name(key) for run in unended for key in (run.repository, run.results)),
            folders=frozenset(own_name(run.repository, apart) for run in active for apart in ("", run.ref)),
            commits=frozenset(run.commit for run in unended),
        )


@dataclass(frozen=True, slots=True)
class Holdings:
    """One state folder's."""

    state: StateFolder
    store: View
    data: Cache
    built: Cache
    shed: Callable[[], None]
    """Empties the cache of packages that environments were made from."""
    keep: float
    """Seconds that a run's files are kept after its end where nobody was told a time."""
    clock: Callable[[], float] = time.time

    # --- looking ------------------------------------------------------------------------------------------

    def pieces(self) -> list[Piece]:
        """Everything there is; sizes are those of the disk."""
        needs, shared = Needs.of(self.store.unended_runs()), dict[tuple[int, int], int]()
        found = [
            *self._leftovers(shared),
            *self._entries(self.data, Kind.DATA, shared),
            *self._entries(self.built, Kind.ENVIRONMENT, shared),
            *self._tools(shared),
            *self._mirrors(needs, shared),
            *self._folders(Kind.CACHES, self.state.caches, needs, shared),
            *self._folders(Kind.BUILDS, self.state.builds, needs, shared),
            *(runs := list(self._runs(needs, shared))),
            *self._asides(shared, unknown=any(run.stays == _UNKNOWN for run in runs)),
            *self._rest(shared),
        ]
        if shared:
            why = "it goes with the last of those that share it"
            found.append(Piece(Kind.SHARED, "links", sum(shared.values()), 0, why, len(shared)))
        return found

    def _piece(
        self,
        kind: Kind,
        name: str,
        path: Path,
        shared: _Shared,
        *,
        used: float,
        stays: str = "",
        spent: bool = False,
    ) -> Piece:
        weight = weigh(path, shared)
        return Piece(kind, name, weight.size, min(used, self.clock()), stays, weight.files, spent)

    def _leftovers(self, shared: _Shared) -> Iterator[Piece]:
        root, old = self.state.root, self.clock() - _STALE
        mirrors, tools = self.state.repositories, self.state.tools
        places = (
            *root.glob(".*"), *self.state.outbox.glob(".*"),
            *mirrors.glob("*.new"), *mirrors.glob("*.broken-*"), *mirrors.glob("*.git/objects/pack/tmp_*"),
            *tools.glob("build-*"), *tools.glob("tool-*"),
        )  # fmt: skip
        for path in places:
            if path.name.startswith(".") and not _HALF_WRITTEN.fullmatch(path.name):
                continue
            with suppress(OSError):
                if path.lstat().st_mtime < old:
                    yield self._piece(
                        Kind.LEFTOVER, str(path.relative_to(root)), path, shared, used=0, spent=True
                    )

    def _entries(self, cache: Cache, kind: Kind, shared: _Shared) -> Iterator[Piece]:
        whole = {entry.key: entry.used for entry in cache.entries()}
        for used, key in cache.candidates():
            entry, scratch = cache.folders(key)
            path, what = (entry, kind) if key in whole else (scratch, Kind.UNFINISHED)
            stays = "a run uses it" if cache.in_use(key) else ""
            yield self._piece(what, f"{cache.root.name}/{key}", path, shared, used=used, stays=stays)

    def _tools(self, shared: _Shared) -> Iterator[Piece]:
        tools = self.state.tools
        if (tools / "uv").is_dir():
            made = [entry.path for entry in self.built.entries()]
            used = max((_time(path) for path in made), default=_time(tools / "uv"))
            yield self._piece(Kind.TOOLS, "uv", tools / "uv", shared, used=used)
        if (tools / "python").is_dir():
            path, why = tools / "python", "environments are made of them"
            yield self._piece(Kind.SHARED, "Pythons", path, shared, used=0, stays=why)

    def _mirrors(self, needs: Needs, shared: _Shared) -> Iterator[Piece]:
        home, now = self.state.repositories, self.clock()
        names = {path.name.removesuffix(path.suffix) for path in home.glob("*.git")}
        names |= {path.name.removesuffix(".tree") for path in home.glob("*.tree")}
        for name in sorted(names):
            used = max(_time(home / f"{name}.use"), _time(home / f"{name}.git"))
            stays = ""
            if name in needs.mirrors:
                stays = "a run that has not ended needs it"
            elif used > now - _JUST_NOW or not _free(home / f"{name}.use"):
                stays = "it is in use"
            git, tree = home / f"{name}.git", home / f"{name}.tree"
            lfs = git / "lfs"
            if tree.is_dir():
                yield self._piece(Kind.TREE, name, tree, shared, used=used, stays=stays)
            inside = 0
            if lfs.is_dir():
                piece = self._piece(Kind.LFS, name, lfs, shared, used=used, stays=stays)
                inside = piece.size
                yield piece
            if git.is_dir():
                piece = self._piece(Kind.MIRROR, name, git, shared, used=used, stays=stays)
                yield Piece(piece.kind, name, max(0, piece.size - inside), used, stays, piece.files)

    def _folders(self, kind: Kind, root: Path, needs: Needs, shared: _Shared) -> Iterator[Piece]:
        for path in sorted(root.glob("*")):
            stays = "a run of this repository goes on" if path.name in needs.folders else ""
            yield self._piece(kind, path.name, path, shared, used=_time(path), stays=stays)

    def _runs(self, needs: Needs, shared: _Shared) -> Iterator[Piece]:
        for path in sorted(self.state.runs.glob("*")):
            used, stays = self._standing(path, needs.runs)
            spent = not stays and used + self.keep < self.clock()
            yield self._piece(Kind.RUN, path.name, path, shared, used=used, stays=stays, spent=spent)

    def _standing(self, folder: Path, unended: "frozenset[str]") -> tuple[float, str]:
        """When a run was over, and why its folder must stay."""
        if folder.name in unended:
            return self.clock(), "the run is not over, or its results are not published yet"
        over = self.store.over_since(folder.name)
        if over is None:
            return self.clock(), _UNKNOWN
        until = self.store.promised_until(folder.name)
        if not until and any(_has(attempt) for attempt in folder.glob("[0-9]*")):
            until = over + self.keep
        if until > self.clock():
            return over, f"its files are kept until {datetime.fromtimestamp(until, UTC):%Y-%m-%d}"
        return over, ""

    def _asides(self, shared: _Shared, *, unknown: bool) -> Iterator[Piece]:
        now, oldest = self.clock(), self.store.oldest_unended()
        for aside in asides(self.state.store):
            weights = [weigh(path, shared) for path in aside.paths]
            size, files = sum(one.size for one in weights), sum(one.files for one in weights)
            stays = aside.stays(now, oldest=oldest, unknown=unknown)
            yield Piece(Kind.ASIDE, aside.name, size, min(aside.since, now), stays, files, spent=not stays)

    def _rest(self, shared: _Shared) -> Iterator[Piece]:
        """The store, keys, settings: what is no piece of another kind."""
        known = {"runs", "data", "environments", "repositories", "caches", "builds", "trash"}
        known |= {path.name for aside in asides(self.state.store) for path in aside.paths}
        size = files = 0
        for path in self.state.root.glob("*"):
            if path.name not in known:
                weight = weigh(path, shared)
                size, files = size + weight.size, files + weight.files
        yield Piece(Kind.STORE, "store", size, 0, "it is the memory of runs, with keys and settings", files)

    # --- taking away --------------------------------------------------------------------------------------

    def remove(self, piece: Piece) -> bool:
        """Take a piece away; False: it came into use meanwhile, or resists."""
        root, home = self.state.root, self.state.repositories
        match piece.kind:
            case Kind.DATA | Kind.ENVIRONMENT | Kind.UNFINISHED:
                cache, key = piece.name.split("/")
                return (self.data if cache == self.data.root.name else self.built).remove(key)
            case Kind.TREE:
                return self._of_mirror(piece.name, home / f"{piece.name}.tree")
            case Kind.LFS:
                return self._of_mirror(piece.name, home / f"{piece.name}.git" / "lfs")
            case Kind.MIRROR:
                return self._of_mirror(piece.name, home / f"{piece.name}.git")
            case Kind.CACHES | Kind.BUILDS:
                base = self.state.caches if piece.kind is Kind.CACHES else self.state.builds
                return self._unless_touched(base / piece.name)
            case Kind.RUN:
                folder = self.state.runs / piece.name
                needs = Needs.of(self.store.unended_runs())
                return not self._standing(folder, needs.runs)[1] and self._away(folder)
            case Kind.ASIDE:
                return self._put_away(piece.name)
            case Kind.LEFTOVER:
                return self._away(root / piece.name)
            case Kind.TOOLS:
                self.shed()
                return True
            case _:
                return False

    def finish(self) -> None:
        """Remove what earlier removals could not finish, and what killed builders left half-built."""
        for doomed in list(self.state.trash.glob("*")):
            _erase(doomed)
        for cache in (self.data, self.built):
            if cache.root.is_dir():
                cache.sweep()

    def superseded(self) -> int:
        """Remove the work folders of attempts that a later one has taken the place of; how many.

        Log and records stay, and so do the run's checkpoints.
        """
        count = 0
        for run in self.store.unended_runs():
            last = run.attempt - (run.state is not State.QUEUED)
            for number in range(1, last + 1):
                folder = RunDir.of(self.state.runs, run.id, number)
                if folder.job.is_dir() and not held(folder.lock):
                    count += self._away(folder.job)
        return count

    def _put_away(self, name: str) -> bool:
        """Remove a store that was put aside, with its journal."""
        unended = Needs.of(self.store.unended_runs()).runs
        unknown = any(self._standing(path, unended)[1] == _UNKNOWN for path in self.state.runs.glob("*"))
        oldest = self.store.oldest_unended()
        for aside in asides(self.state.store):
            if aside.name == name and not aside.stays(self.clock(), oldest=oldest, unknown=unknown):
                gone = [self._away(path) for path in aside.paths]
                return all(gone)
        return False

    def _away(self, path: Path) -> bool:
        """Out of sight in one step, then removed."""
        self.state.trash.mkdir(exist_ok=True)
        doomed = self.state.trash / f"{path.name}-{secrets.token_hex(4)}"
        try:
            path.rename(doomed)
        except OSError:
            return False
        _erase(doomed)
        return True

    def _of_mirror(self, name: str, path: Path) -> bool:
        with _alone(self.state.repositories / f"{name}.use") as alone:
            return alone and self._away(path)

    def _unless_touched(self, path: Path) -> bool:
        """Take a folder away of which nobody notes a use at the same moment (`ownfolders`)."""
        if path.name in Needs.of(self.store.unended_runs()).folders:
            return False
        self.state.trash.mkdir(exist_ok=True)
        doomed = self.state.trash / f"{path.name[:100]}-{secrets.token_hex(4)}"
        try:
            before = path.stat().st_mtime_ns
            path.rename(doomed)
            if doomed.stat().st_mtime_ns != before:
                doomed.rename(path)
                return False
        except OSError:
            return False
        _erase(doomed)
        return True


def _erase(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        remove_tree(path)
    else:
        path.unlink(missing_ok=True)


def _has(attempt: Path) -> bool:
    """Whether an attempt left files that only this machine has."""
    folder = RunDir(attempt)
    for place in (folder.artifacts, folder.withheld):
        with suppress(OSError):
            if any(place.iterdir()):
                return True
    return False


def _time(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def _free(lock: Path) -> bool:
    with _alone(lock) as alone:
        return alone


@contextmanager
def _alone(lock: Path) -> Iterator[bool]:
    """Whether nobody else has this lock; it is held while the block runs if so."""
    try:
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError:
        yield False
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        yield False
    else:
        yield True
    finally:
        os.close(descriptor)
