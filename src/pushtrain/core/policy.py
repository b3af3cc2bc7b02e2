"""Which jobs a push starts and why, which commands follow, and which executor fits.

Filters mean what they mean in GitHub Actions. Nothing that pushtrain itself pushes starts a run: its own
branches never do, and on a shared branch a commit is ours by what it changes, not by its author, so a
person's commit that forges our trailers still runs.
"""

import hashlib
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from statistics import median
from typing import Final

from pushtrain.core.jobs.jobfile import Job, JobFile, expand
from pushtrain.core.jobs.triggers import PushTrigger
from pushtrain.core.owner import network
from pushtrain.core.runs.room import version
from pushtrain.core.text.forms import clean, listed
from pushtrain.core.text.patterns import selects
from pushtrain.core.values.card import Capacity, ExecutorCard, Pace
from pushtrain.core.values.command import TrainCommand, run_id
from pushtrain.core.values.isolation import Isolation
from pushtrain.core.values.jobspec import JobSpec, Resources, ResultsTarget
from pushtrain.core.values.push import Push
from pushtrain.core.values.value import CONFIG_BRANCH, RESULTS_BRANCH, Value
from pushtrain.core.wire.place import secrets_path

SKIP_TOKENS: Final = ("[skip ci]", "[ci skip]", "[no ci]", "[skip train]")
SHARED_FOLDER: Final = "pushtrain-results"
"""Where results lie on a branch that is not ours alone, unless `[results] path` names a folder."""
OUR_BRANCHES: Final = (RESULTS_BRANCH, CONFIG_BRANCH)
_LAST_RUNS: Final = 9
"""Runs of a job whose time counts."""
_STEP: Final = 1.25
"""How many times longer a job must take for an executor to count as slower."""
_BRANCH: Final = "refs/heads/"
_TAG: Final = "refs/tags/"


class Decision(Value):
    """Whether one job starts, why, and with which cells."""

    job: str
    starts: bool
    why: str
    """One sentence without a full stop, to follow the job's name and a colon."""
    specs: tuple[JobSpec, ...] = ()
    """Empty when it does not start."""


def skip(message: str) -> str | None:
    """The skip token in a commit's message, in whatever capitals; None when there is none."""
    lower = message.lower()
    return next((token for token in SKIP_TOKENS if token in lower), None)


def ours(changed: Sequence[str], target: ResultsTarget, *, branch: str = "", roster: str = "") -> bool:
    """Whether a commit is pushtrain's own: it changes something, and only the roster, secrets or results.

    Args:
        changed: Paths that the commit changes.
        target: Where this repository's jobs leave their results.
        branch: The branch the commit is on; empty when it is not known.
        roster: The roster's path, where it lies on that branch.
    """
    folders = [SHARED_FOLDER]
    if target.path and target.branch != RESULTS_BRANCH and target.branch in ("same", branch or target.branch):
        folders.append(target.path)
    prefixes = tuple(f"{name}/" for name in folders)
    beside = (roster, secrets_path(roster)) if roster else ()
    return bool(changed) and all(path.startswith(prefixes) or path in beside for path in changed)


def starts(
    push: Push,
    jobs: JobFile,
    *,
    message: str,
    changed: Sequence[str] | None,
    default_branch: str = "",
    roster: str = "",
) -> tuple[Decision, ...]:
    """What a push starts: one decision a job, in the file's order.

    Args:
        push: The push.
        jobs: `pushtrain.toml` at the pushed commit.
        message: The pushed commit's whole message.
        changed: Paths that differ between `before` and `after`; None: unknown, and path filters let pass.
        default_branch: The repository's, when known; only used to explain.
        roster: The roster's path, where it lies on the pushed branch.
    """
    never = _never(push, jobs, message, changed, roster)
    if never:
        return tuple(Decision(job=job.name, starts=False, why=never) for job in jobs.jobs)
    return tuple(_decide(job, push.ref, changed, default_branch) for job in jobs.jobs)


def by_hand(jobs: JobFile, names: Sequence[str] = ()) -> tuple[Decision, ...]:
    """What a person's wish starts: the named jobs, or all; one decision a job.

    Raises:
        NotFound: A name is not in the file.
    """
    chosen = [jobs.job(name) for name in dict.fromkeys(names)] or list(jobs.jobs)
    return tuple(
        Decision(job=job.name, starts=True, why="it was asked for by hand", specs=expand(job))
        if job.on.manual
        else Decision(job=job.name, starts=False, why="`on.manual` is false: only a push starts it")
        for job in chosen
    )


def commands(
    specs: Sequence[JobSpec],
    *,
    repository: str,
    ref: str,
    commit: str,
    request: str = "",
    repository_id: str = "",
) -> tuple[TrainCommand, ...]:
    """One command a spec, each with its deterministic run id.

    Args:
        specs: What runs.
        repository: The repository's key.
        ref: Fully qualified; told, not hashed.
        commit: Its full id.
        request: Empty for pushes; fresh for a deliberate re-run.
        repository_id: The host's number for the repository; empty: not known. Told, not hashed.
    """
    return tuple(
        TrainCommand(
            run_id=run_id(
                repository=repository, commit=commit, job=spec.name, cell=spec.cell, request=request
            ),
            repository=repository,
            ref=ref,
            commit=commit,
            job=spec,
            request=request,
            repository_id=repository_id,
        )
        for spec in specs
    )


def fits(card: ExecutorCard, spec: JobSpec, repository: str = "") -> str:
    """Why an executor cannot run a job; empty when it can.

    Args:
        card: The executor's.
        spec: The job.
        repository: Whose job; empty: not asked about. A card that names no repositories says nothing of them.
    """
    needs = spec.resources
    for key in dict.fromkeys((repository, repository and spec.results_to.repository)):
        if key and card.repositories and key not in card.repositories:
            return f"{card.name} does not serve {key}"
    lacking = [label for label in needs.labels if label not in card.labels]
    if lacking:
        return f"{card.name} has no label {listed(lacking)}"
    least = spec.min_isolation
    if least is not None and not Isolation.told(card.isolation).reaches(least):
        return f"{card.name} isolates jobs by `{clean(card.isolation)}`; the job asks for `{least}` at least"
    if problem := network.unfit(card.network, spec.network):
        return f"{card.name} {problem}"
    mounts = [source.mount for source in spec.data if source.mount and source.mount not in card.mounts]
    if mounts:
        return f"{card.name} lends no folder {listed(mounts)}"
    return _too_small(card, needs)


def _too_small(card: ExecutorCard, needs: Resources) -> str:
    """What an executor's GPUs lack for a job; empty: nothing."""
    if not needs.gpus:
        return ""
    least, able = version(needs.gpu_capability), 0
    good = [gpu for gpu in card.gpus if not gpu.trouble]
    for gpu in good:
        if gpu.memory >= needs.gpu_memory and (needs.gpus == 1 or gpu.slice is None):
            able += not least or version(gpu.capability) >= least
            if able == needs.gpus:
                return ""
    asked = f"the job asks for {needs.gpus}"
    whole = [gpu for gpu in good if needs.gpus == 1 or gpu.slice is None]
    if len(whole) < needs.gpus:
        cut = " that are no slices" if len(whole) < len(good) else ""
        cut = f"{cut} in order" if len(good) < len(card.gpus) else cut
        return f"{card.name} has {len(whole)} GPUs{cut}; {asked}"
    large = sum(1 for gpu in whole if gpu.memory >= needs.gpu_memory)
    if large < needs.gpus:
        return f"{card.name} has {large} GPUs of at least {needs.gpu_memory / 10**9:g} GB; {asked}"
    return f"{card.name} has {able} GPUs of compute capability {needs.gpu_capability} or more; {asked}"


def starts_now(capacity: Capacity, spec: JobSpec) -> bool:
    """Whether an executor that has this free could start the job at once."""
    asked = spec.resources
    if not asked.gpus:
        return capacity.free_slots > 0
    least, wanted = version(asked.gpu_capability), asked.gpus
    for gpu in capacity.free:
        room = gpu.room if asked.gpu_share else gpu.memory if gpu.whole else -1
        if room >= asked.gpu_memory and not (gpu.slice and asked.gpus > 1):
            wanted -= not least or version(gpu.capability) >= least
            if not wanted:
                return True
    return False


Candidate = tuple[ExecutorCard, Capacity | None]
"""An executor, and what it has free; None: not known."""


def choose(
    candidates: Sequence[Candidate], spec: JobSpec, speeds: Mapping[str, float] | None = None
) -> tuple[ExecutorCard, ...]:
    """The executors that fit, best first.

    Free now; what their owners prefer; about as fast as the fastest; shortest queue; smallest GPUs that do.

    Args:
        candidates: Those in question.
        spec: The job.
        speeds: By an executor's public key, the seconds that this job took there. One that is not named
            counts as the fastest, so that it is tried.
    """
    fitting = [candidate for candidate in candidates if not fits(candidate[0], spec)]
    rank = ranking(spec, speeds or {})
    return tuple(card for card, _ in sorted(fitting, key=rank))


Rank = tuple[bool, bool, int, int, int, int, str]


def ranking(spec: JobSpec, speeds: Mapping[str, float]) -> Callable[[Candidate], Rank]:
    """What orders executors that fit, the best first; as `choose` tells."""
    fastest = min(speeds.values(), default=0.0)
    needs = spec.resources

    def rank(candidate: Candidate) -> Rank:
        card, capacity = candidate
        spare = len(card.gpus)
        if needs.gpus:
            spare = min((gpu.memory for gpu in card.gpus if gpu.memory >= needs.gpu_memory), default=0)
        wish, slower = -card.prefer, _slower(speeds.get(card.public_key, fastest), fastest)
        if capacity is None:
            return (True, True, wish, slower, 0, spare, card.name)
        free = starts_now(capacity, spec)
        return (False, not free, wish, slower, capacity.queued + capacity.running, spare, card.name)

    return rank


def pace_key(repository: str, job: str) -> str:
    """What a job's pace is told under: who knows the job finds it, and nobody else learns its name."""
    return hashlib.sha256(f"pushtrain-pace-1\n{repository}\n{job}".encode()).hexdigest()[:16]


def paces(runs: Iterable[tuple[str, str, float]]) -> tuple[Pace, ...]:
    """The median of what the last runs of each job took.

    Args:
        runs: Repository, job and seconds of runs that succeeded, the last first.
    """
    took: dict[tuple[str, str], list[float]] = {}
    for repository, job, seconds in runs:
        of_job = took.setdefault((repository, job), [])
        if len(of_job) < _LAST_RUNS:
            of_job.append(seconds)
    return tuple(Pace(job=pace_key(*key), seconds=round(median(all_), 3)) for key, all_ in took.items())


def _slower(seconds: float, fastest: float) -> int:
    """By how many steps of a quarter a job takes longer than at the fastest; less than a step is chance."""
    return int(math.log(seconds / fastest, _STEP)) if 0 < fastest < seconds else 0


def _never(push: Push, jobs: JobFile, message: str, changed: Sequence[str] | None, roster: str) -> str:
    """Why no job at all starts; empty when some may."""
    branch = push.ref.removeprefix(_BRANCH)
    if push.deletes:
        return "the push deletes the branch or tag"
    if not push.ref.startswith((_BRANCH, _TAG)):
        return f"only branches and tags start jobs, and {clean(push.ref)} is neither"
    if push.ref.startswith(_BRANCH) and branch in OUR_BRANCHES:
        return f"`{branch}` is pushtrain's own branch"
    if changed and push.ref.startswith(_BRANCH) and ours(changed, jobs.results, branch=branch, roster=roster):
        return "the commit changes only what pushtrain published: results, a card, or a sealed secret"
    if token := skip(message):
        return f"the commit's message holds {token}"
    return ""


def _decide(job: Job, ref: str, changed: Sequence[str] | None, default_branch: str) -> Decision:
    trigger = job.on.push
    if trigger is None:
        return Decision(job=job.name, starts=False, why="`on` names no push: it starts by hand only")
    if ref.startswith(_TAG):
        chosen, why = _tag(trigger, ref.removeprefix(_TAG))
    else:
        chosen, why = _branch(trigger, ref.removeprefix(_BRANCH), default_branch)
        if chosen:
            chosen, paths = _paths(trigger, changed)
            why = paths if not chosen else f"{why}, and {paths}" if paths else why
    return Decision(job=job.name, starts=chosen, why=why, specs=expand(job) if chosen else ())


def _branch(trigger: PushTrigger, branch: str, default_branch: str) -> tuple[bool, str]:
    if trigger.branches:
        if selects(trigger.branches, branch):
            return True, f"branch `{clean(branch)}` is in `on.push.branches`"
        why = f"branch `{clean(branch)}` is not in `on.push.branches` ({listed(trigger.branches)})"
        return False, f"{why}, although it is the default branch" if branch == default_branch else why
    if trigger.branches_ignore:
        if selects(trigger.branches_ignore, branch):
            return False, f"branch `{clean(branch)}` is in `on.push.branches-ignore`"
        return True, f"branch `{clean(branch)}` is not in `on.push.branches-ignore`"
    if trigger.tags or trigger.tags_ignore:
        return False, "`on.push` names tags only, and this is a branch"
    return True, "every push starts it"


def _tag(trigger: PushTrigger, tag: str) -> tuple[bool, str]:
    if trigger.tags:
        if selects(trigger.tags, tag):
            return True, f"tag `{clean(tag)}` is in `on.push.tags`"
        return False, f"tag `{clean(tag)}` is not in `on.push.tags` ({listed(trigger.tags)})"
    if trigger.tags_ignore:
        if selects(trigger.tags_ignore, tag):
            return False, f"tag `{clean(tag)}` is in `on.push.tags-ignore`"
        return True, f"tag `{clean(tag)}` is not in `on.push.tags-ignore`"
    if trigger.branches or trigger.branches_ignore:
        return False, "`on.push` names branches only, and this is a tag"
    return True, "every push starts it"


def _paths(trigger: PushTrigger, changed: Sequence[str] | None) -> tuple[bool, str]:
    """Path filters let pass what is unknown; they are not asked about tags, as in Actions."""
    patterns = trigger.paths or trigger.paths_ignore
    if not patterns:
        return True, ""
    if changed is None:
        return True, "the changed files are not known"
    if not changed:
        return False, "no file changed, and `on.push` filters by path"
    ignores = not trigger.paths
    for path in changed:
        if selects(patterns, path) != ignores:
            key = "not in `on.push.paths-ignore`" if ignores else "in `on.push.paths`"
            return True, f"changed `{clean(path)}` is {key}"
    if ignores:
        return False, "every changed file is in `on.push.paths-ignore`"
    return False, "no changed file is in `on.push.paths`"
