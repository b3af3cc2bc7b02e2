"""Bring finished runs to their results branch: one commit a run, one push for all that wait.

Rules:

- A run is published exactly once. Before anything is committed its folder is looked for on the branch by the
  run's full id; death between push and bookkeeping therefore costs one look, not a second commit. What counts
  as the run's, `pages` says: the id can be told in advance, and planted.
- Commits are made in the private mirror (`plumbing.git.branch`); a job's folder is never a work tree.
- The push never overwrites. When the branch has moved, it is fetched and looked at again, and the commits are
  made anew on top of it.
- One run's trouble holds up no other: what may be due to a run of a batch is tried run by run.
- What fails here fails for its own reasons (network, rights, full disk), and is tried again for days: errors
  are returned run by run, and whoever calls decides when to try again.
"""

import logging
import random
import re
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from pydantic import TypeAdapter

from pushtrain.core.errors import Cancelled, CredentialError, NotFound, PushRejected, PushtrainError
from pushtrain.core.policy import SHARED_FOLDER
from pushtrain.core.settings import ExecutorSettings
from pushtrain.core.text.redact import Mask
from pushtrain.core.values.card import Gpu
from pushtrain.core.values.run import Artifact, Run
from pushtrain.core.values.value import RESULTS_BRANCH
from pushtrain.executor.results import artifacts
from pushtrain.executor.results.offered import offer
from pushtrain.executor.results.pages import Pages
from pushtrain.executor.results.parcel import Packer, Parcel, Publishable
from pushtrain.executor.results.wording import headline
from pushtrain.plumbing.attempts.given import hide_all
from pushtrain.plumbing.attempts.records import write_bytes
from pushtrain.plumbing.attempts.rundir import RunDir
from pushtrain.plumbing.git.branch import Branch, NewCommit
from pushtrain.plumbing.git.complaint import BrokenRepository, RateLimited, Unanswered
from pushtrain.plumbing.git.mirror import Mirror
from pushtrain.ports import MetricsFormat, Stop

__all__ = ["Publishable", "Published", "Publisher"]

_log = logging.getLogger(__name__)

_NOTE: Final = "published.json"
_TRIES: Final = 40
_PUSH_BYTES: Final = 40 * 1024 * 1024
_THE_REMOTES: Final = (Unanswered, RateLimited, CredentialError, NotFound, PushRejected)
"""Failures of the remote, whatever is pushed to it; any other may be due to a run of the batch."""


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
        self._mirrors = mirrors
        self._name = settings.name
        self._who = who
        self._author = f"pushtrain ({settings.name}) <noreply@pushtrain.invalid>"
        self._clock = clock
        self._packer = Packer(
            mirrors, settings, who=who, formats=formats, gpus=gpus, masks=masks, pace=pace, clock=clock
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
                found, differ = self._together(key, ref, base, some, stop)
                outcomes |= found
                for number, one in enumerate(some if differ and len(some) > 1 else ()):
                    found, differ = self._together(key, ref, base, [one], stop)
                    outcomes |= found
                    if not differ and not isinstance(found[one.run.id], Published):
                        outcomes |= {each.run.id: found[one.run.id] for each in some[number:]}
                        break
        return outcomes

    def _together(
        self, key: str, ref: str, base: str, some: Sequence[Parcel], stop: Stop | None
    ) -> tuple[dict[str, Published | PushtrainError], bool]:
        """These runs by one push; what came of each, and whether it may be due to one of them."""
        trouble: PushtrainError
        try:
            return self._group(key, ref, base, some, stop), False
        except Cancelled:
            raise
        except _NoTipError as error:
            trouble, differ = error.why, False
        except PushtrainError as error:
            trouble, differ = error, not isinstance(error, _THE_REMOTES)
        except Exception as error:  # noqa: BLE001  a defect that one run shows must not end the others' results
            trouble, differ = _defect(error), True
        return {one.run.id: trouble for one in some}, differ

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
            except Exception as error:  # noqa: BLE001  as above
                outcomes[item.run.id] = _defect(error)
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
            first = branch.mirror.birth()
            for number in range(_TRIES):
                born = branch.mirror.birth()
                tip, known_to = self._tips.get(place_, ("", ""))
                try:
                    if not known_to or known_to != born:
                        tip = _tip_of(branch, stop)
                    done, top = self._push(branch, tip, base, ready, stop)
                except PushRejected:
                    self._tips.pop(place_, None)
                    if number == _TRIES - 1:
                        raise
                    time.sleep(random.uniform(0, 0.02 * min(number + 1, 20)))  # noqa: S311  spreads rivals
                    continue
                except (_NoTipError, PushtrainError) as error:
                    self._tips.pop(place_, None)
                    why = error.why if isinstance(error, _NoTipError) else error
                    if isinstance(why, BrokenRepository) and branch.mirror.renewed(
                        born, why, stop=stop, old=born == first
                    ):
                        continue
                    raise
                self._tips[place_] = (top, branch.mirror.birth())
                break
        branch.mirror.tidy(stop=stop)
        return {one.run.id: _let_go(one, done[one.run.id]) for one in ready}

    def _push(
        self, branch: Branch, tip: str, base: str, ready: Sequence[Parcel], stop: Stop | None
    ) -> tuple[dict[str, Published], str]:
        """Commit on a tip those runs that are not there yet, and push; what became of each, and the tip."""
        pages = Pages(branch, tip, base, ready)
        done: dict[str, Published] = {}
        commits: list[NewCommit] = []
        fresh: list[tuple[Parcel, str]] = []
        for one in ready:
            there = pages.ours(one)
            if there is not None:
                done[one.run.id] = Published(*there)
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


class _NoTipError(Exception):
    """The remote branch could not be read."""

    def __init__(self, why: PushtrainError) -> None:
        super().__init__(str(why))
        self.why = why


def _tip_of(branch: Branch, stop: Stop | None) -> str:
    try:
        return branch.fetch(stop=stop)
    except Cancelled:
        raise
    except PushtrainError as error:
        raise _NoTipError(error) from error


def _defect(error: Exception) -> PushtrainError:
    _log.error("publishing failed", exc_info=error)
    return PushtrainError(f"{type(error).__name__}: {error}"[:500])


def _inert(title: str) -> str:
    """A job's title for a commit's message: in it hosts would close issues, call people, skip workflows."""
    plain = "".join(filter(str.isprintable, title.replace("\n", " ")))
    return " ".join(re.sub(r"[#@]|(?<=:)//|[\[\]]", "_", plain).split())


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


def _noted(attempt: RunDir | None) -> Published | None:
    """What an earlier call wrote down of this run before it let files go; None: nothing."""
    if attempt is None:
        return None
    try:
        return _NOTES.validate_json((attempt.root / _NOTE).read_bytes())
    except (OSError, ValueError):
        return None


def _let_go(one: Parcel, done: Published) -> Published | PushtrainError:
    """Remove what is safe elsewhere, once that is noted; what the executor keeps stays."""
    attempt = one.of.folder
    away = [file for file in one.placed if file.where in {"git", "lfs", "url"}]
    if attempt is None or not away:
        return done
    try:
        write_bytes(attempt.root / _NOTE, _NOTES.dump_json(done))
    except PushtrainError as error:
        return error
    for file in away:
        (attempt.artifacts / file.path).unlink(missing_ok=True)
    if not any(file.where == "executor" for file in one.placed):
        shutil.rmtree(attempt.artifacts, ignore_errors=True)
    return done
