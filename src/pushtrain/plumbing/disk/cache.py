"""Folders kept by key, built once, read by many; whoever collects takes the least used first.

An entry is a folder named by a key that says what is in it, so it never changes and never goes stale. It is
built in its final place (an environment writes its own path into itself) under a lock of that key, and it
exists only once its record does: the record is written last, after the content has reached the disk. Whatever
stands there without a record is a half-built leftover, which the next builder or `sweep` removes. So a crash
at any line, also of the machine, leaves either a whole entry or none.

Locks are flocks: they hold between threads and between processes, and die with their holder. Entries are
made read-only by their mode. That keeps mistakes out, not malice: a job of the same user without a sandbox
could undo it; a sandbox binds them read-only. A watched cache notices: an entry that was written to since it
was made, which its files' change times tell, is none any more and is built anew.

Beside the entries stand `.entries` (records, locks, holders), `.scratch` (work that survives a failed build,
such as half a download) and `.trash`.
"""

import contextlib
import fcntl
import hashlib
import json
import logging
import os
import re
import secrets
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pushtrain.core.errors import StorageError
from pushtrain.plumbing.disk.files import replace
from pushtrain.plumbing.disk.trees import flush, imprint, remove_tree, seal
from pushtrain.ports import Stop

_log = logging.getLogger(__name__)

_KEY: Final = re.compile(r"[a-z0-9][a-z0-9_-]{0,99}")
_FIRST_WAIT: Final = 0.002
_LONGEST_WAIT: Final = 0.1


@dataclass(frozen=True, slots=True)
class Entry:
    """One finished folder."""

    key: str
    path: Path
    size: int
    """Bytes, as its files say."""
    used: float
    """When it was last asked for, seconds since the epoch."""


class Cache:
    """The folders below one root. Threads and processes may share it freely.

    Args:
        root: Where they are; made when first needed.
        clock: Seconds since the epoch.
        watched: Whether an entry that was changed behind our back is noticed whenever it is asked for.
    """

    def __init__(
        self,
        root: Path,
        *,
        clock: Callable[[], float] = time.time,
        watched: bool = False,
    ) -> None:
        self.root = root
        self._watched = watched
        self._clock = clock
        self._entries = root / ".entries"
        self._scratch = root / ".scratch"
        self._trash = root / ".trash"

    # --- use ----------------------------------------------------------------------------------------------

    def get(self, key: str, *, holder: Path | None = None) -> Path | None:
        """The finished folder of this key, or None; counts as a use.

        Args:
            key: Lower-case letters, digits, `_` and `-`.
            holder: While this path exists, the entry is not removed: an attempt's folder, for instance.
        """
        record = self._record(key)
        if not self._untouched(key):
            return None
        if holder is None:
            return self.root / key if self._touch(record) else None
        if not record.exists():
            return None
        with self._locked(key, exclusive=False, wait=False) as held:
            if not held or not self._touch(record):
                return None
            self._hold(key, holder)
            return self.root / key

    def build(
        self,
        key: str,
        make: Callable[[Path], None],
        *,
        holder: Path | None = None,
        stop: Stop | None = None,
    ) -> tuple[Path, bool]:
        """The folder of this key, made if need be, and whether it was there already.

        Args:
            key: Lower-case letters, digits, `_` and `-`.
            make: Fills the empty folder it is given, which is already the final path. What it raises goes on,
                and leaves no entry.
            holder: As in `get`.
            stop: Called while another builder of the same key is waited for.

        Raises:
            StorageError: The folder cannot be written.
        """
        found = self.get(key, holder=holder)
        if found is not None:
            return found, True
        with self.lock(key, stop=stop):
            return self._build_locked(key, make, holder)

    def _build_locked(self, key: str, make: Callable[[Path], None], holder: Path | None) -> tuple[Path, bool]:
        path, record = self.root / key, self._record(key)
        cached = self._untouched(key) and self._touch(record)
        if not cached:
            record.unlink(missing_ok=True)
            self._discard(path)
            with _storage(path):
                path.mkdir()
            try:
                make(path)
                with _storage(path):
                    size = seal(path)
                    path.chmod(0o555)  # whoever made it; jobs that read it may be others
                    flush(path)
                    # Its files may have names there, too; a name less is a change.
                    self._discard(self._scratch / key)
                    facts: dict[str, object] = {"version": 1, "size": size, "made": self._clock()}
                    if self._watched:
                        facts["imprint"] = imprint(path)
                    self._write_record(record, facts)
            except BaseException:
                self._discard(path)
                raise
        if holder is not None:
            self._hold(key, holder)
        return path, cached

    @contextlib.contextmanager
    def lock(self, key: str, *, stop: Stop | None = None) -> Iterator[None]:
        """Be the only one to work on this key; waits for others. Not to be held around `build` of it.

        Raises:
            StorageError: The lock's file cannot be made.
        """
        with self._locked(key, exclusive=True, wait=True, stop=stop):
            yield

    def scratch(self, key: str) -> Path:
        """A folder for unfinished work on this key: it outlives failures and kills, and goes with success.

        Use it within `make` of `build`, or under `lock`.
        """
        _check(key)
        folder = self._scratch / key
        with _storage(folder):
            folder.mkdir(parents=True, exist_ok=True)
        return folder

    def clear_scratch(self, key: str) -> None:
        """Remove the unfinished work on this key."""
        _check(key)
        self._discard(self._scratch / key)

    def entries(self) -> list[Entry]:
        """All finished folders, least recently used first."""
        found = []
        for record in list(self._entries.glob("*.json")):
            with contextlib.suppress(FileNotFoundError, ValueError, KeyError):
                size = json.loads(record.read_bytes())["size"]
                found.append(Entry(record.stem, self.root / record.stem, size, record.stat().st_mtime))
        return sorted(found, key=lambda entry: entry.used)

    # --- removal ------------------------------------------------------------------------------------------

    def go_first(self, key: str) -> None:
        """Make this entry the first that is collected: it has served its purpose."""
        with contextlib.suppress(FileNotFoundError):
            os.utime(self._record(key), (0, 0))

    def remove(self, key: str) -> bool:
        """Remove an entry or its unfinished work unless somebody holds or builds it; whether it is gone."""
        with self._locked(key, exclusive=True, wait=False) as held:
            if not held or self._is_held(key):
                return False
            self._record(key).unlink(missing_ok=True)  # from here on there is no entry, whatever happens
            self._discard(self.root / key)
            self._discard(self._scratch / key)
            shutil.rmtree(self._holders(key), ignore_errors=True)
            self._lock_path(key).unlink(missing_ok=True)
            return True

    def sweep(self) -> None:
        """Remove half-built leftovers, holders that are gone, and what earlier removals could not finish."""
        for doomed in list(self._trash.glob("*")):
            remove_tree(doomed)
        for path in list(self.root.glob("*")):
            if _KEY.fullmatch(path.name) and not self._record(path.name).exists():
                with self._locked(path.name, exclusive=True, wait=False) as held:
                    if held and not self._record(path.name).exists():
                        self._discard(path)
        for gone in self._entries.glob("*.holders/*"):
            if not gone.exists():
                gone.unlink(missing_ok=True)
        for lock in list(self._entries.glob("*.lock")):
            self._sweep_lock(lock)

    def _sweep_lock(self, lock: Path) -> None:
        """Remove the lock of a key of which there is nothing, not even unfinished work."""
        key = lock.stem
        if not _KEY.fullmatch(key):
            return
        parts = (self._record(key), self.root / key, self._scratch / key)
        if any(part.exists() for part in parts):
            return
        with self._locked(key, exclusive=True, wait=False) as held:
            if held and not any(part.exists() for part in parts):
                shutil.rmtree(self._holders(key), ignore_errors=True)
                lock.unlink(missing_ok=True)

    def has(self, key: str) -> bool:
        """Whether there is such an entry; no use of it."""
        return self._record(key).exists()

    def in_use(self, key: str) -> bool:
        """Whether somebody holds this entry, or works on it at this moment."""
        if self._is_held(key):
            return True
        with self._locked(key, exclusive=False, wait=False) as held:
            return not held

    def folders(self, key: str) -> tuple[Path, Path]:
        """Where an entry and the unfinished work on it are; neither need exist."""
        _check(key)
        return self.root / key, self._scratch / key

    def candidates(self) -> list[tuple[float, str]]:
        """When each entry and each unfinished work was last used, and its key."""
        found = {entry.key: entry.used for entry in self.entries()}
        for folder in self._scratch.glob("*"):
            with contextlib.suppress(FileNotFoundError):
                found.setdefault(folder.name, folder.stat().st_mtime)
        return [(used, key) for key, used in found.items()]

    # --- the parts of an entry ----------------------------------------------------------------------------

    def _record(self, key: str) -> Path:
        return self._entries / f"{_check(key)}.json"

    def _untouched(self, key: str) -> bool:
        """Whether an entry is as it was made; of one that is not there, or not watched, nothing is said."""
        record = self._record(key)
        if not self._watched or not record.exists():
            return True
        try:
            made = json.loads(record.read_bytes())["imprint"]
            same = bool(made == imprint(self.root / key))
        except (OSError, ValueError, KeyError, TypeError):
            same = False
        if not same:
            _log.warning("the cached %s has been changed since it was made: it is made anew", key)
        return same

    def _lock_path(self, key: str) -> Path:
        return self._entries / f"{_check(key)}.lock"

    def _holders(self, key: str) -> Path:
        return self._entries / f"{_check(key)}.holders"

    def _touch(self, record: Path) -> bool:
        now = self._clock()
        try:
            os.utime(record, (now, now))
        except (FileNotFoundError, NotADirectoryError):
            return False
        return True

    def _hold(self, key: str, holder: Path) -> None:
        # A symlink to the holder: made in one step, and "does the holder exist?" is one stat away.
        folder = self._holders(key)
        with _storage(folder), contextlib.suppress(FileExistsError):
            folder.mkdir(exist_ok=True)
            name = hashlib.sha256(os.fsencode(holder)).hexdigest()[:32]
            (folder / name).symlink_to(holder.absolute())

    def _is_held(self, key: str) -> bool:
        return any(holder.exists() for holder in self._holders(key).glob("*"))

    def _write_record(self, record: Path, content: dict[str, object]) -> None:
        replace(record, json.dumps(content).encode())
        self._touch(record)

    def _discard(self, path: Path) -> None:
        """Take a folder out of sight at once, then remove it."""
        if not path.is_dir():
            return
        with _storage(path):
            self._trash.mkdir(parents=True, exist_ok=True)
            path.chmod(0o700)  # a folder without write permission cannot be moved
            doomed = self._trash / f"{path.name}-{secrets.token_hex(4)}"
            path.rename(doomed)
        remove_tree(doomed)

    @contextlib.contextmanager
    def _locked(self, key: str, *, exclusive: bool, wait: bool, stop: Stop | None = None) -> Iterator[bool]:
        path = self._lock_path(key)
        kind = fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH
        with _storage(path):
            self._entries.mkdir(parents=True, exist_ok=True)
        pause = _FIRST_WAIT
        while True:
            with _storage(path):
                descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                try:
                    fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
                    held = _same_file(descriptor, path)  # else it was removed while we opened it
                except BlockingIOError:
                    held = False
                if held or not wait:
                    yield held
                    return
            finally:
                os.close(descriptor)
            if stop is not None:
                stop()
            time.sleep(pause)  # a lock cannot be waited for with a way to stop
            pause = min(2 * pause, _LONGEST_WAIT)


def _check(key: str) -> str:
    if not _KEY.fullmatch(key):
        raise ValueError(f"{key!r} cannot be a cache key")
    return key


@contextlib.contextmanager
def _storage(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StorageError(
            f"The cache cannot write {path}: {error.strerror or error}.",
            mend="Free some space, or check the state folder's permissions.",
        ) from error


def _same_file(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False
