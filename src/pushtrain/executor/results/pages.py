"""What is on a results branch at one tip, as far as a batch of runs needs it.

Rules:

- Whoever may push to the branch may have written any of it. Sizes are asked first, and nothing is read that
  is larger than what pushtrain writes; a page that is too large is somebody else's and left alone.
- A folder is a run's if a commit that was offered for it brought it (`offered`), or if what is there is what
  this run would bring: then nothing is lost by taking it. Whatever else has its id is none of the run's,
  readable or not.
- A folder is free if there is nothing under its name.
"""

import json
import logging
import secrets
from collections.abc import Sequence
from typing import Final

from pushtrain.core.values.run import Artifact, Run
from pushtrain.executor.results import index
from pushtrain.executor.results.offered import is_same, offers
from pushtrain.executor.results.parcel import Parcel
from pushtrain.executor.results.wording import folder
from pushtrain.plumbing.git.branch import Branch

_log = logging.getLogger(__name__)

_LARGEST_PAGE: Final = 1024 * 1024
"""Bytes; the rows of a page are bounded in number and length."""
_LARGEST_RECORD: Final = 32 * 1024 * 1024
"""Bytes of a `run.json`: 10,000 files with names of two kilobytes."""
_FOREIGN: Final = b""
"""Stands for a page that is not ours."""


class Pages:
    """The pages and the folders that a batch needs; read by two git processes where nothing is odd."""

    def __init__(self, branch: Branch, tip: str, base: str, ready: Sequence[Parcel]) -> None:
        self._base = base
        self._branch = branch
        self._tip = tip
        pages = list(
            dict.fromkeys([f"{base}README.md", *(f"{self._month(one.run)}/README.md" for one in ready)])
        )
        folders = list(dict.fromkeys(path for one in ready for path in self._candidates(one)))
        commits = branch.mirror.commits
        heads = commits.heads([f"{tip}:{path}" for path in (*pages, *folders)]) if tip else []
        found = dict(zip((*pages, *folders), heads, strict=True)) if tip else {}
        self._taken = {path for path in folders if found.get(path) is not None}
        self._there: dict[str, bytes | None] = {}
        sizes = {}
        for path in pages:
            head = found.get(path)
            self._there[path] = None if head is None else _FOREIGN
            if head is not None and head.kind == "blob" and head.size <= _LARGEST_PAGE:
                sizes[path] = head.size
        if sizes:
            limit = sum(sizes.values()) + 256 * len(sizes)
            contents = commits.objects([f"{tip}:{path}" for path in sizes], limit=limit)
            for path, content in zip(sizes, contents, strict=True):
                self._there[path] = content[1] if content else None

    def ours(self, one: Parcel) -> tuple[str, str, tuple[Artifact, ...]] | None:
        """The run's results, if they are here already: the commit that brought them, folder, files."""
        commits = self._branch.mirror.commits
        for commit, path in offers(one.of.folder).items():
            if path in self._taken and commits.is_ancestor(commit, self._tip):
                return commit, path, self._files_of(commit, path)
        for path in self._paths(one.run):
            if path not in self._taken:
                continue
            record = self._record(self._tip, path)
            if record is not None and is_same(one, record, commits.blobs(self._tip, path)):
                return self._branch.added_by(self._tip, f"{path}/run.json"), path, one.placed
            _log.warning("run %s: the folder %s is taken, and is none of ours", one.run.short, path)
        return None

    def place_for(self, run: Run) -> str:
        """A free folder, which is taken now. A short id that is taken grows, and beyond itself if need be."""
        paths = self._paths(run)
        free = (path for path in paths if path not in self._taken)
        chosen = next(free, f"{paths[-1]}{secrets.token_hex(4)}")
        self._taken.add(chosen)
        return chosen

    def with_row(self, one: Parcel, path: str) -> dict[str, bytes]:
        """The pages with this run's row on top; remembered for the next one of the batch."""
        run, month = one.run, self._month(one.run)
        last = one.of.attempts[-1] if one.of.attempts else None
        trained = None
        if last and last.started_at is not None and last.ended_at is not None:
            trained = last.ended_at - last.started_at
        told = (run, one.metrics, one.subject, trained)
        relative = month.removeprefix(self._base)

        def row(base: str) -> str:
            return one.mask.text(index.row(*told, path=path.removeprefix(self._base), base=base))

        root, page = f"{self._base}README.md", f"{month}/README.md"
        changed = {
            root: index.root_page(self._there[root], [row("")], [relative]),
            page: index.month_page(self._there[page], [row(relative)], run.command.job.name, month[-7:]),
        }
        kept = {path: content for path, content in changed.items() if content is not None}
        self._there |= kept
        return kept

    def _candidates(self, one: Parcel) -> tuple[str, ...]:
        """Folders that may hold the run: where it would go, and where it was offered."""
        return tuple(dict.fromkeys((*self._paths(one.run), *offers(one.of.folder).values())))

    def _paths(self, run: Run) -> tuple[str, str]:
        path = f"{self._base}{folder(run)}"
        return path, f"{path}{run.id[len(run.short) :]}"

    def _month(self, run: Run) -> str:
        return f"{self._base}{folder(run)}".rpartition("/")[0]

    def _record(self, commit: str, path: str) -> bytes | None:
        """A folder's `run.json`; None: there is none, or none that we could have written."""
        name = f"{commit}:{path}/run.json"
        head = self._branch.mirror.commits.heads([name])[0]
        if head is None or head.kind != "blob" or head.size > _LARGEST_RECORD:
            return None
        found = self._branch.mirror.commits.objects([name])[0]
        return found[1] if found else None

    def _files_of(self, commit: str, path: str) -> tuple[Artifact, ...]:
        """The files that a record of ours names."""
        try:
            told = json.loads(self._record(commit, path) or b"")
            return tuple(Artifact.model_validate(file) for file in told["files"])
        except (ValueError, KeyError, TypeError):
            return ()
