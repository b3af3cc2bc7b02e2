"""Runs as they are shown to whoever may read them: how they stand, their logs without secrets, their files.

Every method may be called from any thread, and may block for a moment.
"""

import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Final

from pushtrain.core.errors import NotFound
from pushtrain.core.text import queries
from pushtrain.core.text.redact import NOTHING, Mask
from pushtrain.core.values.run import LogChunk, Progress, Run, RunView
from pushtrain.core.values.states import State
from pushtrain.executor.runs.vault import Vault
from pushtrain.plumbing.attempts.cleanlog import read_clean
from pushtrain.plumbing.attempts.log import log_size
from pushtrain.plumbing.attempts.rundir import RunDir
from pushtrain.plumbing.sqlite.store import Store

_MOST_MASKS: Final = 64
"""Attempts whose secrets are kept in memory while their logs are read."""


class Shown:
    """One executor's.

    Args:
        store: Where runs are kept.
        folder: Where their folders are.
        vault: Knows the secrets that are hidden in logs.
        progress: What an attempt does at this moment, by its run's id.
        waits: For what a run waits though its record does not say so; empty: for nothing.
    """

    def __init__(
        self,
        store: Store,
        folder: Path,
        vault: Vault,
        *,
        progress: Callable[[str], Progress | None],
        waits: Callable[[Run], str],
    ) -> None:
        self._store = store
        self._runs = folder
        self._vault = vault
        self._progress = progress
        self._waits = waits
        self._masks: dict[Path, Mask] = {}
        self._guard = threading.Lock()

    def runs(
        self, *, find: str = "", repository: str = "", states: tuple[State, ...] = (), limit: int = 50
    ) -> list[Run]:
        """Runs, newest first; `find` as the store's `find`."""
        if not find:
            found = self._store.runs(repository=repository, states=states, limit=limit)
            return [self._told(run) for run in found]
        wanted = frozenset(states or State)
        return [
            self._told(run)
            for run in self._store.find(find, limit=limit)
            if run.state in wanted and repository in {"", run.command.repository}
        ]

    def run(self, run_id: str) -> Run:
        """The run without its history. Raises NotFound."""
        return self._told(self._store.run(run_id))

    def view(self, run_id: str) -> RunView:
        """The run with its history. Raises NotFound."""
        run = self._told(self._store.run(run_id))
        return RunView(
            run=run,
            attempts=tuple(self._store.attempts(run_id)),
            events=tuple(self._store.events(run_id)),
            progress=self._progress(run_id),
            log_size=log_size(self._folder(run, run.attempt).log) if run.attempt else 0,
            artifacts=tuple(self._store.artifacts(run_id)),
        )

    def log_chunk(self, run_id: str, attempt: int, offset: int, limit: int) -> LogChunk:
        """At most `limit` bytes of an attempt's log from `offset`; empty when there is nothing yet.

        Called a dozen times a second for every live reader.

        Args:
            run_id: Which run.
            attempt: Which attempt; 0: the current one.
            offset: Counted in all bytes that the job wrote; what lies in the part that was let go is skipped.
            limit: Bytes at most.

        Raises:
            NotFound: There is no such run.
        """
        run = self._store.run(run_id)
        number = attempt or run.attempt
        over = run.state in {State.PUBLISHING, State.DONE}
        if not 0 < number <= run.attempt:
            return LogChunk(attempt=number, offset=offset, data=b"", next_offset=offset, complete=over)
        ended = over or number < run.attempt
        folder = self._folder(run, number)
        hides = bool(run.command.job.secrets or queries.values(run.command))
        mask = self._mask(folder) if hides else NOTHING
        return read_clean(folder.log, number, offset, limit, ended=ended, mask=mask)

    def artifact_path(self, run_id: str, path: str) -> Path:
        """Where a file that the executor keeps lies. Raises NotFound, also for paths that lead outside."""
        run = self._store.run(run_id)
        kept = {found.path for found in self._store.artifacts(run_id) if found.where == "executor"}
        folder = self._folder(run, run.attempt).artifacts.resolve()
        file = (folder / path).resolve() if path in kept else folder
        if not file.is_relative_to(folder) or not file.is_file():
            raise NotFound(
                f"Run {run.short} has no file {path!r} on this executor.",
                mend="`pushtrain results list` tells what there is, and for how long.",
            )
        return file

    def artifact_piece(self, run_id: str, path: str, offset: int, limit: int) -> bytes:
        """Up to `limit` bytes of such a file from `offset` on; nothing beyond its end, however far."""
        with self.artifact_path(run_id, path).open("rb", buffering=0) as file:
            return os.pread(file.fileno(), limit, offset)  # a seek fails where no file could reach

    def _told(self, run: Run) -> Run:
        """A run as others see it: one that waits for the owner says so."""
        words = "" if run.waiting_for else self._waits(run)
        return run.model_copy(update={"waiting_for": words}) if words else run

    def _mask(self, folder: RunDir) -> Mask:
        """What to hide of an attempt's log, remembered for those attempts that are read at the moment."""
        with self._guard:
            mask = self._masks.get(folder.root)
        if mask is None:
            mask = self._vault.mask(folder)
            if mask:
                with self._guard:
                    while len(self._masks) >= _MOST_MASKS:
                        self._masks.pop(next(iter(self._masks)))
                    self._masks[folder.root] = mask
        return mask or NOTHING

    def _folder(self, run: Run, number: int) -> RunDir:
        return RunDir.of(self._runs, run.id, number)
