"""`pushtrain results`: what runs left, read from the results branch of the clone you stand in."""

import hashlib
import os
import re
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Final

from cyclopts import App, Parameter

from pushtrain.cli.archive import open_archive
from pushtrain.cli.options import Json, Limit, State
from pushtrain.cli.published import PublishedRuns, Record
from pushtrain.cli.screen import render
from pushtrain.cli.screen.terminal import clean
from pushtrain.core.errors import NotFound, PushtrainError
from pushtrain.core.values.run import Artifact
from pushtrain.executor.results import artifacts
from pushtrain.executor.results.names import unfit
from pushtrain.plumbing.git import lfs
from pushtrain.plumbing.git.checkout import clone as copy_file

_OURS: Final = re.compile(
    r"(README\.md|(run|metrics|command|command\.headers)\.json|log(-\d+)?\.txt|plots/[^/]+\.svg)"
)
"""What pushtrain itself writes into a run's folder."""
_OTHER: Final = "its content is not what was published."

app = App(name="results", help="List, show and fetch what runs left, from the clone you stand in.")

Branch = Annotated[
    str, Parameter(name="--branch", help="Results branch; else the one that pushtrain.toml names.")
]
Remote = Annotated[str, Parameter(name="--remote", help="Remote or URL that has the branch.")]
Offline = Annotated[bool, Parameter(name="--offline", negative="", help="Do not fetch; what is here counts.")]


@app.command(name="list")
def list_(
    which: str = "",
    /,
    *,
    limit: Limit = 20,
    branch: Branch = "",
    remote: Remote = "origin",
    offline: Offline = False,
    json: Json = False,
) -> None:
    """List published runs, newest first.

    `pushtrain results list` lists the last 20, `pushtrain results list main` those of a branch.

    Args:
        which: A commit, a branch, a job, or the beginning of a run's id; every run when left out.
        limit: How many at most.
    """
    found = open_archive(branch, remote, offline=offline).find(which, limit=limit)
    if json:
        render.emit_json([_summary(record) for record in found])
        return
    if not found:
        render.say("No published runs yet." if not which else f"No published run fits `{which}`.")
        return
    now = time.time()
    render.table(
        ("run", "job", "commit", "branch", "outcome", "accepted", "metrics"),
        [
            (
                record.run.short,
                render.literal(record.run.command.job.title),
                record.run.command.commit[:7],
                render.literal(record.run.command.ref.removeprefix("refs/heads/").removeprefix("refs/")),
                render.coloured(record.run.ending or "lost"),
                render.ago(record.run.accepted_at, now),
                render.literal(_told(record, most=2)),
            )
            for record in found
        ],
    )


@app.command
def show(
    which: str = "",
    /,
    *,
    branch: Branch = "",
    remote: Remote = "origin",
    offline: Offline = False,
    json: Json = False,
) -> None:
    """Print a run's report in the terminal.

    Args:
        which: A run's id or its beginning, a commit, a branch or a job; the newest run when left out.
    """
    archive = open_archive(branch, remote, offline=offline)
    record = archive.one(which)
    if json:
        render.emit_json(record.raw)
        return
    from rich.markdown import Markdown

    text = clean(archive.runs.read(record.folder, "README.md").decode("utf-8", "replace"))
    if render.console().is_terminal:
        render.console().print(Markdown(text))
    else:
        render.plain(text)


@app.command
def fetch(
    which: str = "",
    /,
    *,
    into: Path | None = None,
    branch: Branch = "",
    remote: Remote = "origin",
    offline: Offline = False,
    json: Json = False,
    state: State = None,
) -> None:
    """Write a run's report and files into a folder, wherever each of them is.

    Files in Git are written at once, Git LFS pointers are replaced by their content, files in an object store
    or still on the executor are downloaded, resumed where an earlier call stopped, and verified.

    Args:
        which: A run's id or its beginning, a commit, a branch or a job; the newest run when left out.
        into: The folder; `results-JOB-COMMIT-RUN` when left out.
    """
    archive = open_archive(branch, remote, offline=offline)
    record = archive.one(which)
    default = f"results-{record.folder.job}-{record.folder.commit}-{record.run.short}"
    haul = _Haul(into if into is not None else Path(default), json)
    haul.take(archive.runs, record, state)
    if json:
        render.emit_json(
            {
                "run": record.run.id,
                "into": str(haul.into),
                "files": haul.written,
                "missing": haul.missing,
                "left_out": haul.left_out,
            }
        )
    else:
        render.say(f"{len(haul.written)} files of run {record.run.short} are in {haul.into}.")
        if haul.left_out:
            render.note(f"pushtrain: {len(haul.left_out)} files that run.json does not name were left out.")
    if haul.missing:
        first, why = next(iter(haul.missing.items()))
        more = f" (and {len(haul.missing) - 1} more)" if len(haul.missing) > 1 else ""
        raise NotFound(f"{first}{more} could not be fetched: {why}")


def _told(record: Record, *, most: int) -> str:
    told = [
        f"{name} {value['last']:.4g}"
        for name, value in list(record.metrics.items())[:most]
        if isinstance(value.get("last"), (int, float))
    ]
    return ", ".join(told)


def _summary(record: Record) -> dict[str, object]:
    run = record.run
    return {
        "run": run.id,
        "job": run.command.job.name,
        "cell": run.command.job.cell,
        "commit": run.command.commit,
        "ref": run.command.ref,
        "outcome": run.outcome,
        "accepted_at": run.accepted_at,
        "path": record.folder.path,
        "executor": record.executor,
        "metrics": record.metrics,
        "files": len(record.files),
    }


@dataclass
class _Haul:
    """A run's files on their way into a folder."""

    into: Path
    quiet: bool
    written: list[str] = field(default_factory=list)
    missing: dict[str, str] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)
    """Files in the run's folder that are neither pushtrain's own nor named by `run.json`."""

    def take(self, runs: PublishedRuns, record: Record, state: Path | None) -> None:
        """Write everything of a run that can be had, and note what cannot."""
        known = {f"files/{file.path}": file for file in record.files}
        for path in runs.files(record.folder):
            if path == ".gitattributes":
                continue
            file = known.get(path)
            if file is None and not _OURS.fullmatch(path):
                self.left_out.append(path)
            elif file is None or file.where == "git":
                content = runs.read(record.folder, path)
                if file is None or hashlib.sha256(content).hexdigest() == file.sha256:
                    self._write(path, content)
                else:
                    self.missing[path] = _OTHER
        self._pointers(runs, record)
        self._downloads([file for file in record.files if file.where == "url"], None, record)
        kept = [file for file in record.files if file.where == "executor"]
        if kept:
            self._downloads(kept, state, record)

    def _target(self, path: str) -> Path | None:
        """Where a file goes; None (and noted) when its name cannot be trusted or a symlink is in the way."""
        why = unfit(path)
        target = self.into / path
        folder = self.into
        for part in Path(path).parts[:-1]:
            folder /= part
            if folder.is_symlink():
                why = why or "a symbolic link is in its way"
        if why:
            self.missing[path] = f"{why}."
            return None
        with self._told(path):
            target.parent.mkdir(parents=True, exist_ok=True)
        return None if path in self.missing else target

    @contextmanager
    def _told(self, path: str) -> Iterator[None]:
        """Note what cannot be written where it belongs: the others may go."""
        try:
            yield
        except OSError as error:
            self.missing[path] = f"it cannot be written: {error.strerror}."

    def _write(self, path: str, content: bytes) -> None:
        target = self._target(path)
        if target is None:
            return
        partial = target.with_name(f".{target.name[:100]}.partial")
        with self._told(path):
            try:
                partial.unlink(missing_ok=True)
                partial.write_bytes(content)
                partial.replace(target)
            except OSError:
                with suppress(OSError):
                    partial.unlink()
                raise
            self.written.append(path)

    def _pointers(self, runs: PublishedRuns, record: Record) -> None:
        files = {f"files/{file.path}": file for file in record.files if file.where == "lfs"}
        if not files:
            return
        pointers = {path: lfs.Pointer(file.sha256, file.size) for path, file in files.items()}
        try:
            contents = lfs.fetch(runs.git, runs.tip, pointers, stop=None, below=f"{record.folder.path}/files")
        except PushtrainError as error:
            self.missing |= dict.fromkeys(files, str(error))
            return
        for path, content in contents.items():
            target = self._target(path)
            if target is not None:
                with self._told(path):
                    target.unlink(missing_ok=True)
                    copy_file(content, target, 0o644)
                    self.written.append(path)

    def _downloads(self, files: Iterable[Artifact], state: Path | None, record: Record) -> None:
        for file in files:
            path = f"files/{file.path}"
            target = self._target(path)
            if target is None:
                continue
            if _is_there(target, file):
                self.written.append(path)
                continue
            with self._told(path):
                try:
                    if file.where == "url":
                        artifacts.from_url(file, target)
                    else:
                        self._from_executor(file, target, state, record)
                except PushtrainError as error:
                    self.missing[path] = str(error)
                    continue
                if _is_there(target, file):
                    self.written.append(path)
                else:
                    target.unlink(missing_ok=True)
                    self.missing[path] = _OTHER

    def _from_executor(self, file: Artifact, target: Path, state: Path | None, record: Record) -> None:
        from pushtrain.cli.connect import clients

        if file.until is not None and file.until < time.time():
            raise NotFound(f"The executor {record.executor} kept it until {render.when(file.until)}.")
        trouble: PushtrainError | None = None
        for client in clients(state):
            try:
                client.artifact(record.run.id, file.path, target, self._report)
            except PushtrainError as error:
                trouble = error
            else:
                return
        raise trouble or NotFound(f"It is on the executor {record.executor}, which is not known here.")

    def _report(self, text: str, done: int, total: int) -> None:
        if not self.quiet and sys.stderr.isatty():
            part = f"{render.size(done)} of {render.size(total)}" if total else render.size(done)
            sys.stderr.write(f"\r{clean(text)} {part}{os.linesep if done == total else ''}")


def _is_there(target: Path, file: Artifact) -> bool:
    try:
        with target.open("rb") as content:
            same_size = os.fstat(content.fileno()).st_size == file.size
            return same_size and hashlib.file_digest(content, "sha256").hexdigest() == file.sha256
    except OSError:
        return False
