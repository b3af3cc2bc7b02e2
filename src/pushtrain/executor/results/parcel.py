"""Pack what a run leaves into the files of its commit.

Everything that can be large or slow happens here, before any commit is made: result files are collected and
hashed, metrics read, large files uploaded, the report written. A parcel may be packed again at any time.
"""

import logging
import os
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from pushtrain import __version__
from pushtrain.core.errors import Cancelled, GitError, PushtrainError, StorageError
from pushtrain.core.settings import ExecutorSettings
from pushtrain.core.text.redact import NOTHING, Mask
from pushtrain.core.values.card import Gpu
from pushtrain.core.values.run import Artifact, Attempt, Run, RunEvent
from pushtrain.executor.results import artifacts, report
from pushtrain.executor.results.collect import place
from pushtrain.executor.results.harvest import Harvest, harvest
from pushtrain.executor.results.left import links_of, opened
from pushtrain.executor.results.metrics import Metric
from pushtrain.executor.results.wording import folder
from pushtrain.plumbing.attempts.given import hide_all
from pushtrain.plumbing.attempts.log import LogEnds, read_ends
from pushtrain.plumbing.attempts.rundir import RunDir
from pushtrain.plumbing.git import lfs
from pushtrain.plumbing.git.mirror import Mirror
from pushtrain.ports import MetricsFormat, Stop

_UPLOAD_TRIES: Final = 3
"""Tries after which large files stay with the executor rather than hold up the report."""
_MOST_EARLIER: Final = 20
"""Attempts before the last one whose logs are published."""
_SUMMARY_LIMIT: Final = 256 * 1024
_SIGNED: Final = ("content-digest", "content-type", "signature", "signature-input", "idempotency-key")

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Publishable:
    """A run that is over, and all that is told of it."""

    run: Run
    attempts: tuple[Attempt, ...] = ()
    folder: RunDir | None = None
    """The last attempt's; None: it never had one."""
    events: tuple[RunEvent, ...] = ()
    command: bytes = b""
    """The signed command as received."""
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Parcel:
    """A run with everything that its commit will hold."""

    of: Publishable
    files: Mapping[str, bytes]
    """Relative to the run's folder."""
    placed: tuple[Artifact, ...]
    """The result files, and where each of them is."""
    metrics: tuple[Metric, ...]
    subject: str
    """The commit message's first line."""
    size: int
    """Bytes of all files."""
    mask: Mask = NOTHING
    """Hides the job's secrets in whatever else is told of the run."""

    @property
    def run(self) -> Run:
        """The run itself."""
        return self.of.run


class Packer:
    """Packs runs of one executor. Thread-safe.

    Args:
        mirrors: The mirror of a repository key; raises when this executor does not serve it.
        settings: Limits, and the executor's name.
        who: Gives the fingerprint of the executor's key, told in each report.
        formats: Metrics formats.
        gpus: This machine's.
        masks: What to hide of an attempt.
        pace: Told of each piece that goes to a store; waits until the next may.
        clock: Seconds since the epoch.
    """

    def __init__(
        self,
        mirrors: Callable[[str], Mirror],
        settings: ExecutorSettings,
        *,
        who: Callable[[], str] = str,
        formats: Sequence[MetricsFormat] = (),
        gpus: Sequence[Gpu] = (),
        masks: Callable[[RunDir], Mask] = hide_all,
        pace: artifacts.Spend = artifacts.at_once,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._masks = masks
        self._pace = pace
        self._mirrors = mirrors
        self._settings = settings
        self._who = who
        self._formats = formats
        self._gpus = {gpu.uuid: gpu for gpu in gpus}
        self._clock = clock
        self._machine = this_machine()

    def harvest(self, item: Publishable, *, stop: Stop | None = None) -> Harvest:
        """Take what the run left out of the job's hands; the work folder may go afterwards."""
        if item.folder is None:
            return Harvest()
        last = item.attempts[-1] if item.attempts else None
        since = (last.started_at or last.claimed_at) if last else 0
        mask = self._masks(item.folder)
        return harvest(item.run, item.folder, self._formats, mask=mask, since=since, stop=stop)

    def pack(self, item: Publishable, target: Mirror, *, stop: Stop | None = None) -> Parcel:
        """Make all files of a run's commit; large ones are uploaded when this returns.

        Args:
            item: The run.
            target: The repository that the results go to.
            stop: Called now and then; what it raises ends the work.

        Raises:
            UploadError: Large files could not be brought to where the job wants them; it is tried again.
            StorageError: This machine's disk is full, or lost a file.
        """
        mask = self._masks(item.folder) if item.folder else NOTHING
        summary = mask.text(_summary_of(item))
        command = b"" if mask.everything else item.command
        mask = NOTHING if mask.everything else mask  # what the job left is hidden whole; the rest is ours
        found = self.harvest(item, stop=stop)
        placed = self._placed(item, found, target, stop)
        subject = mask.text(self._subject(item.run, stop))
        story = report.Story(
            run=item.run,
            executor=self._settings.name,
            executor_key=self._who(),
            version=__version__,
            attempts=item.attempts,
            events=item.events,
            machine=self._machine_of(item.attempts),
            files=placed,
            metrics=found.metrics,
            log=self._log_of(item),
            earlier=self._earlier_logs(item),
            summary=summary,
            subject=subject,
            command=command,
            headers={name: value for name, value in item.headers.items() if _is_signed(name)},
            mask=mask,
        )
        files = report.write(story)
        in_lfs = [file for file in placed if file.where == "lfs"]
        if in_lfs:
            files[".gitattributes"] = artifacts.attributes(in_lfs)
        for file in placed:
            if file.where == "git" and item.folder is not None:
                files[f"files/{file.path}"] = _content(item.folder.artifacts / file.path)
            elif file.where == "lfs":
                files[f"files/{file.path}"] = lfs.Pointer(file.sha256, file.size).text()
        size = sum(map(len, files.values()))
        return Parcel(item, files, placed, found.metrics, subject, size, mask)

    def _placed(
        self, item: Publishable, found: Harvest, target: Mirror, stop: Stop | None
    ) -> tuple[Artifact, ...]:
        """Where each file goes; what goes to LFS or a URL is there when this returns."""
        if item.folder is None or not found.files:
            return ()
        settings, wanted = self._settings, item.run.command.job.results_to.artifacts
        until = self._clock() + settings.keep_artifacts_days * 86400
        limits = {"file_limit": settings.git_file_limit, "run_limit": settings.git_run_limit}
        placed = place(found.files, wanted, until=until, **limits)
        large = [file for file in placed if file.where in {"lfs", "url"}]
        if not large:
            return placed
        try:
            if wanted == "lfs":
                artifacts.to_lfs(target, large, item.folder.artifacts, stop=stop)
                return placed
            path = f"{item.run.command.repository}/{folder(item.run)}"
            sent = artifacts.to_url(wanted, path, large, item.folder.artifacts, stop=stop, pace=self._pace)
        except Cancelled:
            raise
        except PushtrainError as error:
            if item.run.publish_tries < _UPLOAD_TRIES:
                raise
            _log.warning("run %s: large files stay here: %s", item.run.short, error)
            return place(found.files, "", until=until, **limits)
        urls = {file.path: file for file in sent}
        return tuple(urls.get(file.path, file) for file in placed)

    def _subject(self, run: Run, stop: Stop | None) -> str:
        """The first line of the commit's message; empty where the mirror has lost it, or proves damaged."""
        mirror = self._mirrors(run.command.repository)
        born = mirror.birth()
        try:
            found = mirror.commits.objects([f"{run.command.commit}^{{commit}}"])[0]
        except GitError as error:
            if not mirror.renewed(born, error, old=True, stop=stop):
                raise
            return ""
        message = found[1].partition(b"\n\n")[2] if found else b""
        return message.decode("utf-8", "replace").strip().partition("\n")[0]

    def _log_of(self, item: Publishable) -> LogEnds:
        if item.folder is None:
            return LogEnds(b"", b"", 0, 0)
        return read_ends(item.folder.log, self._settings.published_log_limit)

    def _earlier_logs(self, item: Publishable) -> dict[int, LogEnds]:
        """What the attempts before the last one said here, together at most as much as one log may have."""
        if item.folder is None or len(item.attempts) < 2:  # noqa: PLR2004  one before it
            return {}
        runs = item.folder.root.parent
        folders = {one.number: RunDir(runs / str(one.number)) for one in item.attempts[:-1][-_MOST_EARLIER:]}
        said = {number: one for number, one in folders.items() if one.log.exists() and one.log.stat().st_size}
        each = self._settings.published_log_limit // max(len(said), 1)
        return {number: _hidden(read_ends(one.log, each), self._masks(one)) for number, one in said.items()}

    def _machine_of(self, attempts: Sequence[Attempt]) -> report.Machine:
        mine = [self._gpus[uuid] for uuid in (attempts[-1].gpus if attempts else ()) if uuid in self._gpus]
        if not mine:
            return self._machine
        names = tuple(f"{gpu.name}, {gpu.memory / 2**30:.0f} GiB" for gpu in mine)
        return self._machine.model_copy(update={"gpus": names, "driver": mine[0].driver})


def _hidden(log: LogEnds, mask: Mask) -> LogEnds:
    """It was cleaned when its attempt ended; what is known only now is hidden, too."""
    return replace(log, head=mask.hide(log.head), tail=mask.hide(log.tail))


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise StorageError(f"The result file {path} cannot be read: {error.strerror}.") from error


def _summary_of(item: Publishable) -> str:
    if item.folder is None:
        return ""
    try:
        with opened(item.folder.summary, item.folder.root, links_of(item.folder)) as file:
            return file.read(_SUMMARY_LIMIT).decode("utf-8", "replace")
    except OSError:
        return ""


def _is_signed(name: str) -> bool:
    return name.lower() in _SIGNED or name.lower().startswith("pushtrain-")


def this_machine() -> report.Machine:
    """What a report may tell of this machine: no host name, no address."""
    model = platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next(
            (line.partition(":")[2].strip() for line in lines if line.startswith("model name")), model
        )
        system = platform.freedesktop_os_release().get("PRETTY_NAME", platform.system())
    except OSError:
        system = platform.system()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return report.Machine(cpu=model, cpus=len(os.sched_getaffinity(0)), memory=memory, system=system)
