"""Bring finished runs to their results branch: one commit a run, one push for all that wait.

Rules:

- A run is published exactly once. Before anything is committed its folder is looked for on the branch by the
  run's full id; death between push and bookkeeping therefore costs one look, not a second commit.
- Commits are made in the private mirror (`plumbing.branch`); a job's folder is never a work tree.
- The push never overwrites. When the branch has moved, it is fetched and looked at again, and the commits are
  made anew on top of it.
- What fails here fails for its own reasons (network, rights, full disk), and is tried again for days: errors
  are returned run by run, and whoever calls decides when to try again.
"""

import json
import logging
import os
import platform
import random
import shutil
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from pydantic import TypeAdapter

from pushtrain import __version__
from pushtrain.core.errors import Cancelled, PushRejected, PushtrainError
from pushtrain.core.model import RESULTS_BRANCH, Artifact, Attempt, Gpu, Run, RunEvent
from pushtrain.core.settings import ExecutorSettings
from pushtrain.executor import artifacts, index, report
from pushtrain.executor.collect import place
from pushtrain.executor.harvest import Harvest, harvest
from pushtrain.plumbing import lfs
from pushtrain.plumbing.branch import Branch, NewCommit
from pushtrain.plumbing.git import Mirror
from pushtrain.plumbing.rundir import LogEnds, RunDir, read_ends, write_bytes
from pushtrain.ports import MetricsFormat, Stop

SHARED_PATH: Final = "pushtrain-results"
"""Folder for results on a branch that is not ours alone."""
_NOTE: Final = "published.json"
_TRIES: Final = 40
_BATCH_BYTES: Final = 64 * 1024 * 1024
_UPLOAD_TRIES: Final = 3
"""Tries after which large files stay with the executor rather than hold up the report."""
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
class Published:
    """A run's results are on the remote."""

    commit: str
    path: str
    """The run's folder in that commit."""
    artifacts: tuple[Artifact, ...] = ()


_NOTES: Final = TypeAdapter(Published)


@dataclass(frozen=True, slots=True)
class _Ready:
    """A run with everything that its commit will hold."""

    of: Publishable
    files: Mapping[str, bytes]
    """Relative to the run's folder."""
    placed: tuple[Artifact, ...]
    metrics: Harvest
    subject: str
    size: int

    @property
    def run(self) -> Run:
        return self.of.run


class Publisher:
    """Publishes runs of one executor. Thread-safe; batches for one branch take turns.

    Args:
        mirrors: The mirror of a repository key; raises when this executor does not serve it.
        settings: Limits, and the executor's name.
        fingerprint: The executor's key, told in each commit.
        formats: Metrics formats.
        gpus: This machine's.
        clock: Seconds since the epoch.
    """

    def __init__(
        self,
        mirrors: Callable[[str], Mirror],
        settings: ExecutorSettings,
        *,
        fingerprint: str = "",
        formats: Sequence[MetricsFormat] = (),
        gpus: Sequence[Gpu] = (),
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._mirrors = mirrors
        self._settings = settings
        self._fingerprint = fingerprint
        self._formats = formats
        self._gpus = {gpu.uuid: gpu for gpu in gpus}
        self._clock = clock
        self._machine = this_machine()
        self._tips: dict[tuple[str, str], str] = {}
        self._turns: dict[tuple[str, str], threading.Lock] = {}
        self._guard = threading.Lock()

    def publish(
        self, batch: Sequence[Publishable], *, stop: Stop | None = None
    ) -> dict[str, Published | PushtrainError]:
        """Publish these runs; for each run id what came of it. Runs of one branch share a push.

        Raises:
            Whatever `stop` raises; what was not pushed yet is then not published.
        """
        outcomes: dict[str, Published | PushtrainError] = {}
        groups: dict[tuple[str, str, str], list[_Ready]] = {}
        for item in batch:
            noted = _noted(item.folder)
            if noted is not None:
                outcomes[item.run.id] = noted
                continue
            try:
                groups.setdefault(_target(item.run), []).append(self._prepared(item, stop))
            except Cancelled:
                raise
            except PushtrainError as error:
                outcomes[item.run.id] = error
        for (key, ref, base), ready in groups.items():
            for some in _portions(ready):
                try:
                    outcomes |= self._group(key, ref, base, some, stop)
                except Cancelled:
                    raise
                except PushtrainError as error:
                    outcomes |= {one.run.id: error for one in some}
        return outcomes

    def harvest(self, item: Publishable, *, stop: Stop | None = None) -> Harvest:
        """Take what the run left out of the job's hands; the work folder may go afterwards."""
        if item.folder is None:
            return Harvest()
        last = item.attempts[-1] if item.attempts else None
        since = (last.started_at or last.claimed_at) if last else 0
        return harvest(item.run, item.folder, self._formats, since=since, stop=stop)

    # --- one run's files ---

    def _prepared(self, item: Publishable, stop: Stop | None) -> _Ready:
        found = self.harvest(item, stop=stop)
        mirror = self._mirrors(_target(item.run)[0])
        placed = self._placed(item, found, mirror, stop)
        subject = self._subject(item.run)
        story = report.Story(
            run=item.run,
            executor=self._settings.name,
            executor_key=self._fingerprint,
            version=__version__,
            attempts=item.attempts,
            events=item.events,
            machine=self._machine_of(item.attempts),
            files=placed,
            metrics=found.metrics,
            log=self._log_of(item),
            summary=_summary_of(item),
            subject=subject,
            command=item.command,
            headers={name: value for name, value in item.headers.items() if _is_signed(name)},
        )
        files = report.write(story)
        in_lfs = [file for file in placed if file.where == "lfs"]
        if in_lfs:
            files[".gitattributes"] = artifacts.attributes(in_lfs)
        for file in placed:
            if file.where == "git" and item.folder is not None:
                files[f"files/{file.path}"] = (item.folder.artifacts / file.path).read_bytes()
            elif file.where == "lfs":
                files[f"files/{file.path}"] = lfs.Pointer(file.sha256, file.size).text()
        return _Ready(item, files, placed, found, subject, sum(map(len, files.values())))

    def _placed(
        self, item: Publishable, found: Harvest, mirror: Mirror, stop: Stop | None
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
                artifacts.to_lfs(mirror, large, item.folder.artifacts, stop=stop)
                return placed
            path = f"{item.run.command.repository}/{report.folder(item.run)}"
            sent = artifacts.to_url(wanted, path, large, item.folder.artifacts, stop=stop)
        except PushtrainError as error:
            if item.run.publish_tries < _UPLOAD_TRIES:
                raise
            _log.warning("run %s: large files stay here: %s", item.run.short, error)
            return place(found.files, "", until=until, **limits)
        urls = {file.path: file for file in sent}
        return tuple(urls.get(file.path, file) for file in placed)

    def _subject(self, run: Run) -> str:
        mirror = self._mirrors(run.command.repository)
        found = mirror.objects([f"{run.command.commit}^{{commit}}"])[0]
        message = found[1].partition(b"\n\n")[2] if found else b""
        return message.decode("utf-8", "replace").strip().partition("\n")[0]

    def _log_of(self, item: Publishable) -> LogEnds:
        if item.folder is None:
            return LogEnds(b"", b"", 0, 0)
        return read_ends(item.folder.log, self._settings.published_log_limit)

    def _machine_of(self, attempts: Sequence[Attempt]) -> report.Machine:
        mine = [self._gpus[uuid] for uuid in (attempts[-1].gpus if attempts else ()) if uuid in self._gpus]
        if not mine:
            return self._machine
        names = tuple(f"{gpu.name}, {gpu.memory / 2**30:.0f} GiB" for gpu in mine)
        return self._machine.model_copy(update={"gpus": names, "driver": mine[0].driver})

    # --- one branch ---

    def _group(
        self, key: str, ref: str, base: str, ready: Sequence[_Ready], stop: Stop | None
    ) -> dict[str, Published | PushtrainError]:
        branch = Branch(self._mirrors(key), ref)
        place_ = (key, ref)
        with self._guard:
            turn = self._turns.setdefault(place_, threading.Lock())
        with turn:
            for number in range(_TRIES):
                tip = self._tips.get(place_)
                if tip is None:
                    tip = branch.fetch(stop=stop)
                try:
                    done, top = self._push(branch, tip, base, ready, stop)
                except PushRejected:
                    self._tips.pop(place_, None)
                    if number == _TRIES - 1:
                        raise
                    time.sleep(random.uniform(0, 0.02 * min(number + 1, 20)))  # noqa: S311  spreads rivals
                    continue
                except PushtrainError:
                    self._tips.pop(place_, None)
                    raise
                self._tips[place_] = top
                break
        branch.mirror.tidy(stop=stop)
        for one in ready:
            _let_go(one, done[one.run.id])
        return dict(done)

    def _push(
        self, branch: Branch, tip: str, base: str, ready: Sequence[_Ready], stop: Stop | None
    ) -> tuple[dict[str, Published], str]:
        """Commit on a tip those runs that are not there yet, and push; what became of each, and the tip."""
        pages = _Pages(branch.mirror, tip, base, ready)
        done: dict[str, Published] = {}
        commits: list[NewCommit] = []
        fresh: list[tuple[_Ready, str]] = []
        for one in ready:
            path, record = pages.folder_of(one.run)
            if record is not None:
                commit = branch.added_by(tip, f"{path}/run.json")
                done[one.run.id] = Published(commit, path, _files_of(record))
                continue
            files = {f"{path}/{name}": content for name, content in one.files.items()}
            commits.append(NewCommit(self._message(one, branch.ref), {**files, **pages.with_row(one)}))
            fresh.append((one, path))
        if not commits:
            return done, tip
        author = f"pushtrain ({self._settings.name}) <noreply@pushtrain.invalid>"
        ids = branch.grow(tip, commits, author=author, when=int(self._clock()), stop=stop)
        branch.push(ids[-1], onto=tip, stop=stop)
        for (one, path), commit in zip(fresh, ids, strict=True):
            done[one.run.id] = Published(commit, path, one.placed)
        return done, ids[-1]

    def _message(self, one: _Ready, ref: str) -> str:
        command = one.run.command
        title = " ".join("".join(filter(str.isprintable, command.job.title.replace("\n", " "))).split())
        outcome = report.headline(one.run).partition(" ")[2]
        executor = f"{self._settings.name} {self._fingerprint}".strip()
        quiet = "" if ref == f"refs/heads/{RESULTS_BRANCH}" else "[skip ci]\n\n"
        return (
            f"{title[:80]}: {outcome} ({command.commit[:7]})\n\n{quiet}"
            f"Run-Id: {one.run.id}\nSource-Commit: {command.commit}\nExecutor: {executor}\n"
        )


class _Pages:
    """What is on a branch at one tip, as far as a batch needs it; read by one git process."""

    def __init__(self, mirror: Mirror, tip: str, base: str, ready: Sequence[_Ready]) -> None:
        self._base = base
        folders = [self._candidates(one.run) for one in ready]
        records = [f"{path}/run.json" for both in folders for path in both]
        months = [f"{self._month(one.run)}/README.md" for one in ready]
        wanted = list(dict.fromkeys([f"{base}README.md", *months, *records]))
        found = mirror.objects([f"{tip}:{path}" for path in wanted]) if tip else [None] * len(wanted)
        self._there = {path: one[1] if one else None for path, one in zip(wanted, found, strict=True)}

    def folder_of(self, run: Run) -> tuple[str, bytes | None]:
        """The run's folder, and its record if it is there already. A short id that is taken grows."""
        short, full = self._candidates(run)
        for path in (short, full):
            record = self._there[f"{path}/run.json"]
            if record is None or _id_in(record) == run.id:
                return path, record
        return full, None

    def with_row(self, one: _Ready) -> dict[str, bytes]:
        """The pages with this run's row on top; remembered for the next one of the batch."""
        run, month = one.run, self._month(one.run)
        last = one.of.attempts[-1] if one.of.attempts else None
        trained = None
        if last and last.started_at is not None and last.ended_at is not None:
            trained = last.ended_at - last.started_at
        told = (run, one.metrics.metrics, one.subject, trained)
        relative = month.removeprefix(self._base)
        root, page = f"{self._base}README.md", f"{month}/README.md"
        changed = {
            root: index.root_page(self._there[root], [index.row(*told, base="")], [relative]),
            page: index.month_page(
                self._there[page], [index.row(*told, base=relative)], run.command.job.name, month[-7:]
            ),
        }
        kept = {path: content for path, content in changed.items() if content is not None}
        self._there |= kept
        return kept

    def _candidates(self, run: Run) -> tuple[str, str]:
        path = f"{self._base}{report.folder(run)}"
        return path, f"{path}{run.id[len(run.short) :]}"

    def _month(self, run: Run) -> str:
        return f"{self._base}{report.folder(run)}".rpartition("/")[0]


def _target(run: Run) -> tuple[str, str, str]:
    """Repository key, ref, and folder (empty, or ending in a slash) of a run's results."""
    command = run.command
    target = command.job.results_to
    ref = f"refs/heads/{target.branch}"
    if target.branch == "same":
        ref = command.ref if command.ref.startswith("refs/heads/") else f"refs/heads/{RESULTS_BRANCH}"
    ours = ref == f"refs/heads/{RESULTS_BRANCH}" or bool(target.repository)
    path = target.path.strip("/") or ("" if ours else SHARED_PATH)
    return target.repository or command.repository, ref, f"{path}/" if path not in {"", "."} else ""


def _portions(ready: Sequence[_Ready]) -> Iterable[list[_Ready]]:
    """The batch in pushes of a bounded size."""
    some: list[_Ready] = []
    size = 0
    for one in ready:
        if some and size + one.size > _BATCH_BYTES:
            yield some
            some, size = [], 0
        some.append(one)
        size += one.size
    if some:
        yield some


def _summary_of(item: Publishable) -> str:
    if item.folder is None:
        return ""
    try:
        descriptor = os.open(item.folder.summary, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return ""
    with open(descriptor, "rb") as file:  # noqa: PTH123  a descriptor
        return file.read(_SUMMARY_LIMIT).decode("utf-8", "replace")


def _is_signed(name: str) -> bool:
    return name.lower() in _SIGNED or name.lower().startswith("pushtrain-")


def _id_in(record: bytes) -> str:
    try:
        return str(json.loads(record)["run"]["id"])
    except (ValueError, KeyError, TypeError):
        return ""


def _files_of(record: bytes) -> tuple[Artifact, ...]:
    try:
        return tuple(Artifact.model_validate(file) for file in json.loads(record)["files"])
    except (ValueError, KeyError, TypeError):
        return ()


def _noted(folder: RunDir | None) -> Published | None:
    """What an earlier call wrote down of this run before it let files go; None: nothing."""
    if folder is None:
        return None
    try:
        return _NOTES.validate_json((folder.root / _NOTE).read_bytes())
    except (OSError, ValueError):
        return None


def _let_go(one: _Ready, done: Published) -> None:
    """Remove what is safe elsewhere, once that is noted; what the executor keeps stays."""
    folder = one.of.folder
    away = [file for file in one.placed if file.where in {"git", "lfs", "url"}]
    if folder is None or not away:
        return
    write_bytes(folder.root / _NOTE, _NOTES.dump_json(done))
    for file in away:
        (folder.artifacts / file.path).unlink(missing_ok=True)
    if not any(file.where == "executor" for file in one.placed):
        shutil.rmtree(folder.artifacts, ignore_errors=True)


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
