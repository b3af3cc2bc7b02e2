"""Bring finished runs to their results branch: one commit a run, one push for all that wait.

Rules:

- A run is published exactly once. Before anything is committed its folder is looked for on the branch by the
  run's full id; death between push and bookkeeping therefore costs one look, not a second commit. It counts
  only if a commit of ours put it there (`offered`): the id can be told in advance, and planted.
- Commits are made in the private mirror (`plumbing.git.branch`); a job's folder is never a work tree.
- The push never overwrites. When the branch has moved, it is fetched and looked at again, and the commits are
  made anew on top of it.
- What fails here fails for its own reasons (network, rights, full disk), and is tried again for days: errors
  are returned run by run, and whoever calls decides when to try again.
"""

import json
import logging
import random
import re
import secrets
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from pydantic import TypeAdapter

from pushtrain.core.errors import Cancelled, PushRejected, PushtrainError
from pushtrain.core.policy import SHARED_FOLDER
from pushtrain.core.settings import ExecutorSettings
from pushtrain.core.text.redact import Mask
from pushtrain.core.values.card import Gpu
from pushtrain.core.values.run import Artifact, Run
from pushtrain.core.values.value import RESULTS_BRANCH
from pushtrain.executor.results import index
from pushtrain.executor.results.offered import is_ours, offer, offers
from pushtrain.executor.results.parcel import Packer, Parcel, Publishable
from pushtrain.executor.results.wording import folder, headline
from pushtrain.plumbing.attempts.given import hide_all
from pushtrain.plumbing.attempts.records import write_bytes
from pushtrain.plumbing.attempts.rundir import RunDir
from pushtrain.plumbing.git.branch import Branch, NewCommit
from pushtrain.plumbing.git.complaint import PushDeclined
from pushtrain.plumbing.git.mirror import Mirror
from pushtrain.ports import MetricsFormat, Stop

__all__ = ["Publishable", "Published", "Publisher"]

_log = logging.getLogger(__name__)

_NOTE: Final = "published.json"
_TRIES: Final = 40
_PUSH_BYTES: Final = 40 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Published:
    """A run's results are on the remote."""

    commit: str
    path: str
    """The run's folder in that commit."""
    artifacts: tuple[Artifact, ...] = ()


_NOTES: Final = TypeAdapter(Published)


class Publisher:
    """Publishes runs of one executor. Thread-safe; batches for one branch take turns.

    Args:
        mirrors: The mirror of a repository key; raises when this executor does not serve it.
        settings: Limits, and the executor's name.
        who: Gives the fingerprint of the executor's key, told in each commit: the key may change.
        formats: Metrics formats.
        gpus: This machine's.
        masks: What to hide of an attempt.
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
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._mirrors = mirrors
        self._name = settings.name
        self._who = who
        self._author = f"pushtrain ({settings.name}) <noreply@pushtrain.invalid>"
        self._clock = clock
        self._packer = Packer(
            mirrors, settings, who=who, formats=formats, gpus=gpus, masks=masks, clock=clock
        )
        self._tips: dict[tuple[str, str], tuple[str, str]] = {}
        """The tip of each branch, and which mirror has it: another one may have taken its place."""
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
        groups: dict[tuple[str, str, str], list[Publishable]] = {}
        for item in batch:
            noted = _noted(item.folder)
            if noted is None:
                groups.setdefault(target(item.run), []).append(item)
            else:
                outcomes[item.run.id] = noted
        for (key, ref, base), items in groups.items():
            for some in self._portions(key, items, outcomes, stop):
                found = self._together(key, ref, base, some, stop)
                declined = any(isinstance(one, PushDeclined) for one in found.values())
                for one in some if declined and len(some) > 1 else ():  # its content holds up no other run
                    found |= self._together(key, ref, base, [one], stop)
                outcomes |= found
        return outcomes

    def _together(
        self, key: str, ref: str, base: str, some: Sequence[Parcel], stop: Stop | None
    ) -> dict[str, Published | PushtrainError]:
        """These runs by one push; what came of each."""
        try:
            return self._group(key, ref, base, some, stop)
        except Cancelled:
            raise
        except PushtrainError as error:
            return {one.run.id: error for one in some}

    def _portions(
        self,
        key: str,
        items: Sequence[Publishable],
        outcomes: dict[str, Published | PushtrainError],
        stop: Stop | None,
    ) -> Iterator[list[Parcel]]:
        """The runs packed, in pushes of a bounded size; errors go to `outcomes`."""
        some: list[Parcel] = []
        for item in items:
            try:
                some.append(self._packer.pack(item, self._mirrors(key), stop=stop))
            except Cancelled:
                raise
            except PushtrainError as error:
                outcomes[item.run.id] = error
            if sum(one.size for one in some) > _PUSH_BYTES:
                yield some
                some = []
        if some:
            yield some

    # --- one branch ---

    def _group(
        self, key: str, ref: str, base: str, ready: Sequence[Parcel], stop: Stop | None
    ) -> dict[str, Published | PushtrainError]:
        branch = Branch(self._mirrors(key), ref)
        place_ = (key, ref)
        with self._guard:
            turn = self._turns.setdefault(place_, threading.Lock())
        with turn, branch.mirror.using():
            for number in range(_TRIES):
                tip, known_to = self._tips.get(place_, ("", ""))
                if not known_to or known_to != branch.mirror.birth():
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
                self._tips[place_] = (top, branch.mirror.birth())
                break
        branch.mirror.tidy(stop=stop)
        for one in ready:
            _let_go(one, done[one.run.id])
        return dict(done)

    def _push(
        self, branch: Branch, tip: str, base: str, ready: Sequence[Parcel], stop: Stop | None
    ) -> tuple[dict[str, Published], str]:
        """Commit on a tip those runs that are not there yet, and push; what became of each, and the tip."""
        pages = _Pages(branch, tip, base, ready)
        done: dict[str, Published] = {}
        commits: list[NewCommit] = []
        fresh: list[tuple[Parcel, str]] = []
        for one in ready:
            there = pages.ours(one)
            if there is not None:
                done[one.run.id] = there
                continue
            path = pages.place_for(one.run)
            files = {f"{path}/{name}": content for name, content in one.files.items()}
            commits.append(NewCommit(self._message(one, branch.ref), {**files, **pages.with_row(one, path)}))
            fresh.append((one, path))
        if not commits:
            return done, tip
        ids = branch.grow(tip, commits, author=self._author, when=int(self._clock()), stop=stop)
        for (one, path), commit in zip(fresh, ids, strict=True):
            offer(one.of.folder, commit, path)
        branch.push(ids[-1], onto=tip, stop=stop)
        for (one, path), commit in zip(fresh, ids, strict=True):
            done[one.run.id] = Published(commit, path, one.placed)
        return done, ids[-1]

    def _message(self, one: Parcel, ref: str) -> str:
        command = one.run.command
        title = _inert(one.mask.text(command.job.title))
        outcome = headline(one.run).partition(" ")[2]
        quiet = "" if ref == f"refs/heads/{RESULTS_BRANCH}" else "[skip ci]\n\n"
        executor = f"{self._name} {self._who()}".strip()
        return (
            f"{title[:80]}: {outcome} ({command.commit[:7]})\n\n{quiet}"
            f"Run-Id: {one.run.id}\nSource-Commit: {command.commit}\nExecutor: {executor}\n"
        )


def _inert(title: str) -> str:
    """A job's title for a commit's message: in it hosts would close issues, call people, skip workflows."""
    plain = "".join(filter(str.isprintable, title.replace("\n", " ")))
    return " ".join(re.sub(r"[#@]|(?<=:)//|[\[\]]", "_", plain).split())


class _Pages:
    """What is on a branch at one tip, as far as a batch needs it; read by one git process."""

    def __init__(self, branch: Branch, tip: str, base: str, ready: Sequence[Parcel]) -> None:
        self._base = base
        self._branch = branch
        self._tip = tip
        folders = [self._candidates(one) for one in ready]
        records = [f"{path}/run.json" for both in folders for path in both]
        months = [f"{self._month(one.run)}/README.md" for one in ready]
        wanted = list(dict.fromkeys([f"{base}README.md", *months, *records]))
        found = (
            branch.mirror.commits.objects([f"{tip}:{path}" for path in wanted])
            if tip
            else [None] * len(wanted)
        )
        self._there = {path: one[1] if one else None for path, one in zip(wanted, found, strict=True)}

    def ours(self, one: Parcel) -> Published | None:
        """The run's results, if this executor has brought them already."""
        for path in self._candidates(one):
            record = self._there[f"{path}/run.json"]
            if record is None or _id_in(record) != one.run.id:
                continue
            commit = self._branch.added_by(self._tip, f"{path}/run.json")
            if is_ours(one.run, one.of.folder, commit, record):
                return Published(commit, path, _files_of(record))
            _log.warning("run %s: the folder %s has its id, and is none of ours", one.run.short, path)
        return None

    def place_for(self, run: Run) -> str:
        """A folder that is free. A short id that is taken grows, and beyond itself if need be."""
        for path in self._paths(run):
            if self._there[f"{path}/run.json"] is None:
                return path
        return f"{path}{secrets.token_hex(4)}"

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


def target(run: Run) -> tuple[str, str, str]:
    """Repository key, ref, and folder (empty, or ending in a slash) of a run's results."""
    command = run.command
    wanted = command.job.results_to
    ref = f"refs/heads/{wanted.branch}"
    if wanted.branch == "same":
        ref = command.ref if command.ref.startswith("refs/heads/") else f"refs/heads/{RESULTS_BRANCH}"
    ours = ref == f"refs/heads/{RESULTS_BRANCH}"
    path = wanted.path.strip("/") or ("" if ours else SHARED_FOLDER)
    return wanted.repository or command.repository, ref, f"{path}/" if path not in {"", "."} else ""


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


def _noted(attempt: RunDir | None) -> Published | None:
    """What an earlier call wrote down of this run before it let files go; None: nothing."""
    if attempt is None:
        return None
    try:
        return _NOTES.validate_json((attempt.root / _NOTE).read_bytes())
    except (OSError, ValueError):
        return None


def _let_go(one: Parcel, done: Published) -> None:
    """Remove what is safe elsewhere, once that is noted; what the executor keeps stays."""
    attempt = one.of.folder
    away = [file for file in one.placed if file.where in {"git", "lfs", "url"}]
    if attempt is None or not away:
        return
    write_bytes(attempt.root / _NOTE, _NOTES.dump_json(done))
    for file in away:
        (attempt.artifacts / file.path).unlink(missing_ok=True)
    if not any(file.where == "executor" for file in one.placed):
        shutil.rmtree(attempt.artifacts, ignore_errors=True)
