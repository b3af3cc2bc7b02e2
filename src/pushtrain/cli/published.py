"""The results branch as a clone knows it: which runs it holds, and their files. Works without a network.

Nothing on the branch is signed by an executor: whoever may push to it may have written any of it. So a record
counts only in a folder of its own run, what is too large or too deep is passed over, and where a run has more
than one folder nobody here decides which of them is the executor's.
"""

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pushtrain.cli.clone import Clone
from pushtrain.core.errors import GitError, NotFound, PushtrainError
from pushtrain.core.values.run import Artifact, Attempt, Run, RunEvent, RunView
from pushtrain.core.values.states import State
from pushtrain.plumbing.git.command import Git
from pushtrain.plumbing.git.commits import parse_batch

_FOLDER: Final = re.compile(r"(?:.*/)?runs/([^/]+)/(\d{4}-\d{2})/(\d{2})-([0-9a-f]{7})-([0-9a-f]{8,40})")
_LARGEST = 1 << 28
"""Bytes of all records that are read at once."""
_LARGEST_FILE: Final = 1 << 31
_HEAD: Final = 256
"""What git says of each, at most."""
_LARGEST_RECORD: Final = 32 * 1024 * 1024
_MOST_READ: Final = 2000
"""Records read at most to find a run by its branch or its time."""


@dataclass(frozen=True, slots=True)
class Folder:
    """A run's folder, as its name tells."""

    path: str
    job: str
    day: str
    commit: str
    """Seven digits."""
    run: str
    """Eight digits, or all; more where both were taken."""


@dataclass(frozen=True, slots=True)
class Record:
    """A published run: its folder and what `run.json` says."""

    folder: Folder
    run: Run
    executor: str
    executor_key: str
    files: tuple[Artifact, ...]
    metrics: Mapping[str, Mapping[str, float | None]]
    raw: Mapping[str, Any]

    @property
    def view(self) -> RunView:
        """The run as its executor would show it: it was written down while it was being published."""
        over = {"state": State.DONE, "result_path": self.folder.path}
        done_at = self.run.done_at or self.run.updated_at
        return RunView(
            run=self.run.model_copy(update={**over, "done_at": done_at}),
            attempts=tuple(Attempt.model_validate(each) for each in self.raw.get("attempts", ())),
            events=tuple(RunEvent.model_validate(each) for each in self.raw.get("events", ())),
            log_size=self.raw.get("log", {}).get("size", 0),
            artifacts=self.files,
        )


class PublishedRuns:
    """The runs on one branch.

    Args:
        clone: Where the branch is.
        ref: Local name: `refs/remotes/origin/pushtrain/results`.
    """

    def __init__(self, clone: Clone, ref: str) -> None:
        common = clone.ask("rev-parse", "--path-format=absolute", "--git-common-dir")
        token = os.environ.get("PUSHTRAIN_GIT_TOKEN", "")
        self.git = Git(Path(common), clone.ask("remote", "get-url", "origin"), token)
        self.ref = ref
        self.tip = clone.ask("rev-parse", "--quiet", "--verify", f"{ref}^{{commit}}")

    def fetch(self, remote: str, branch: str) -> PushtrainError | None:
        """Bring the branch up to date; the error when that was not possible, for the caller to tell."""
        try:
            self.git.run(
                "fetch", "--quiet", "--no-tags", "--no-write-fetch-head", "--", remote,
                f"+refs/heads/{branch}:{self.ref}", doing=f"fetch {branch} from {remote}",
            )  # fmt: skip
        except (GitError, NotFound) as error:
            return error
        self.tip = self.git.run("rev-parse", "--verify", f"{self.ref}^{{commit}}").text
        return None

    def folders(self) -> list[Folder]:
        """All runs' folders, newest day first.

        Raises:
            NotFound: There is no results branch here.
        """
        if not self.tip:
            raise NotFound(
                "There is no results branch here yet.", mend="It comes with the first run that is published."
            )
        out = self.git.run("ls-tree", "-r", "-d", "-z", "--name-only", "--full-tree", self.tip).out
        found = []
        for path in os.fsdecode(out).split("\0"):
            match = _FOLDER.fullmatch(path)
            if match and path.isprintable():  # git is asked for paths by line
                job, month, day, commit, run = match.groups()
                found.append(Folder(path, job, f"{month}-{day}", commit, run))
        return sorted(found, key=lambda folder: (folder.day, folder.path), reverse=True)

    def records(self, folders: Sequence[Folder]) -> list[Record]:
        """What stands in these folders, newest first; a folder without a readable record is passed over."""
        some = self._readable(folders[:_MOST_READ])
        names = "".join(f"{self.tip}:{folder.path}/run.json\n" for folder in some)
        out = self.git.run("cat-file", "--batch", input=names.encode(), limit=_LARGEST).out
        found = []
        for folder, answer in zip(some, parse_batch(out, len(some)), strict=True):
            record = _record(folder, answer[1]) if answer else None
            if record is not None:
                found.append(record)
        return sorted(found, key=lambda record: record.run.accepted_at, reverse=True)

    def _readable(self, folders: Sequence[Folder]) -> list[Folder]:
        """Those whose record is no larger than any that we write; the smallest where all are too large."""
        names = "".join(f"{self.tip}:{folder.path}/run.json\n" for folder in folders)
        out = self.git.run("cat-file", "--batch-check=%(objecttype) %(objectsize)", input=names.encode()).out
        heads = [line.split(" ") for line in os.fsdecode(out).splitlines()]
        sizes = {
            folder: int(head[-1])
            for folder, head in zip(folders, heads, strict=True)
            if head[0] == "blob" and int(head[-1]) <= _LARGEST_RECORD
        }
        left, kept = _LARGEST, set()
        for folder in sorted(sizes, key=sizes.__getitem__):
            left -= sizes[folder] + _HEAD
            if left < 0:
                break
            kept.add(folder)
        return [folder for folder in folders if folder in kept]

    def others(self, record: Record) -> list[Folder]:
        """The other folders that are named after a record's run, readable or not."""
        id_, own = record.run.id, record.folder.path
        return [
            one
            for one in self.folders()
            if one.path != own
            and _same_start(one.run, id_)
            and (one.job, one.commit) == (record.folder.job, record.folder.commit)
        ]

    def find(self, which: str, *, commit: str = "", limit: int = 20) -> list[Record]:
        """Runs by id, commit, job or branch, newest first; the newest ones where `which` is empty.

        Args:
            which: What a person wrote; also a folder of the branch.
            commit: The full commit that it means in this clone, if any.
            limit: How many at most.
        """
        folders = self.folders()
        if not which:
            return self.records(_newest(folders, limit))[:limit]
        placed = [folder for folder in folders if folder.path == which.strip("/")]
        if placed:
            return self.records(placed)
        text = which.lower()
        named = [folder for folder in folders if _same_start(folder.run, text)]
        found = [one for one in self.records(named) if one.run.id.startswith(text)]
        if found:
            return found[:limit]
        wanted = commit or text
        made = [folder for folder in folders if _same_start(folder.commit, wanted)]
        found = [one for one in self.records(made) if one.run.command.commit.startswith(wanted)]
        if not found:
            of_job = [folder for folder in folders if folder.job == which]
            found = self.records(_newest(of_job, limit))
        if not found:
            refs = {which, f"refs/heads/{which}", f"refs/tags/{which}"}
            found = [one for one in self.records(folders) if one.run.command.ref in refs]
        return found[:limit]

    def files(self, folder: Folder) -> list[str]:
        """Paths of the regular files in a run's folder, relative to it."""
        out = self.git.run("ls-tree", "-r", "-z", "--full-tree", self.tip, "--", f"{folder.path}/").out
        found = []
        for entry in os.fsdecode(out).split("\0"):
            head, _, path = entry.partition("\t")
            if head.startswith("100"):
                found.append(path.removeprefix(f"{folder.path}/"))
        return found

    def read(self, folder: Folder, path: str) -> bytes:
        """One file of a run's folder."""
        return self.git.run("cat-file", "blob", f"{self.tip}:{folder.path}/{path}", limit=_LARGEST_FILE).out


def _same_start(short: str, text: str) -> bool:
    return bool(text) and (short.startswith(text) or text.startswith(short))


def _newest(folders: Sequence[Folder], limit: int) -> Sequence[Folder]:
    """The folders of so many last days that there are `limit` runs: a folder's name tells no time of day."""
    if len(folders) <= limit:
        return folders
    last_day = folders[limit - 1].day
    return [folder for folder in folders if folder.day >= last_day]


def _are_series(metrics: object) -> bool:
    if not isinstance(metrics, dict) or not all(isinstance(each, dict) for each in metrics.values()):
        return False
    lasts = (each.get("last") for each in metrics.values())
    return all(isinstance(float(last), float) for last in lasts if isinstance(last, int))


def _record(folder: Folder, text: bytes) -> Record | None:
    try:
        raw = json.loads(text)
        run = Run.model_validate(raw["run"])
        named = _same_start(folder.run, run.id) and run.command.commit.startswith(folder.commit)
        if raw["version"] != 1 or not named or not _are_series(raw["metrics"]):
            return None
        record = Record(
            folder=folder,
            run=run,
            executor=str(raw["executor"]["name"]),
            executor_key=str(raw["executor"]["key"]),
            files=tuple(Artifact.model_validate(file) for file in raw["files"]),
            metrics=raw["metrics"],
            raw=raw,
        )
        _ = record.view  # what cannot be shown is no record
    except (ArithmeticError, AttributeError, KeyError, RecursionError, TypeError, ValueError):
        return None
    return record
