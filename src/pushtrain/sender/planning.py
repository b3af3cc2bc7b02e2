"""What a push starts: fetch the commit, read its `pushtrain.toml`, ask the policy.

The same for a webhook, the reconciler and a person. As few git processes as the answer needs: one fetch and
one read; a comparison with what was there before only where a path filter asks for it or where results are
published on the pushed branch.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from pushtrain.core.errors import ConfigError, GitError, NotFound, UsageError
from pushtrain.core.jobs.jobfile import FILE, JobFile, parse
from pushtrain.core.policy import OUR_BRANCHES, SHARED_FOLDER, Decision, by_hand, commands, ours, starts
from pushtrain.core.values.command import TrainCommand
from pushtrain.core.values.push import Push
from pushtrain.plumbing.git.complaint import UnsafeContent
from pushtrain.plumbing.git.mirror import Mirror
from pushtrain.ports import Stop

_HEADS: Final = "refs/heads/"
_SHARED_INDEX: Final = f"{SHARED_FOLDER}/README.md"
"""There wherever results were published on a branch that is not ours alone."""
_LONGEST_WALK: Final = 1000


@dataclass(frozen=True, slots=True)
class Plan:
    """What a push starts, and what to tell about it."""

    commands: tuple[TrainCommand, ...]
    note: str
    """One line for people."""
    seen: bool = True
    """Whether the commit was there. Some hosts tell of a push before they give it out: then the reconciler
    must not take this look for the last word."""


@dataclass(frozen=True, slots=True)
class _Commit:
    id: str
    message: str
    file: bytes | None
    shared: bool


def watched(ref: str) -> bool:
    """Whether a ref may start anything: a branch or a tag, and not one that only pushtrain writes."""
    return ref.startswith((_HEADS, "refs/tags/")) and ref.removeprefix(_HEADS) not in OUR_BRANCHES


def plan(push: Push, mirror: Mirror, *, roster: str = "", stop: Stop | None = None) -> Plan:
    """What this push starts, whoever told of it; nothing, with the reason, where nothing can.

    Args:
        push: The push.
        mirror: Its repository's.
        roster: The roster's path, where it lies on the pushed branch: a card starts nothing.
        stop: Called now and then.

    Raises:
        GitError: The remote does not answer; try again.
    """
    branch = push.ref.removeprefix(_HEADS) if push.ref.startswith(_HEADS) else ""
    if push.deletes:
        return Plan((), "starts nothing: it deletes the branch or tag")
    if branch in OUR_BRANCHES:
        return Plan((), f"starts nothing: `{branch}` is pushtrain's own branch")

    def decided() -> Plan:
        try:
            return _decided(push, branch, mirror, roster)
        except (ConfigError, NotFound) as error:
            return Plan((), f"starts nothing: {error}")

    try:
        return mirror.read(push.ref, push.after, decided, stop=stop)
    except (UsageError, UnsafeContent) as error:
        return Plan((), f"starts nothing: {error}")
    except NotFound as error:
        _see_that_it_answers(mirror, stop)
        return Plan((), f"starts nothing: {error}", seen=False)


def plan_by_hand(
    *,
    ref: str,
    commit: str,
    mirror: Mirror,
    jobs: Sequence[str] = (),
    change: Callable[[JobFile], JobFile] = lambda file: file,
    request: str = "",
    stop: Stop | None = None,
) -> Plan:
    """What a person's wish starts at a commit.

    Args:
        ref: Fully qualified.
        commit: Must be on the remote.
        mirror: The repository's.
        jobs: Names; empty: every job that may be started by hand.
        change: Puts the person's overrides in.
        request: Fresh when the runs are to be new ones whatever ran before.
        stop: Called now and then.

    Raises:
        ConfigError: The commit's `pushtrain.toml` is wrong.
        NotFound: There is no such commit, file or job.
        GitError: The remote does not answer.
    """
    file = change(mirror.read(ref, commit, lambda: _jobs(_read(mirror, commit)), stop=stop))
    decisions = by_hand(file, jobs)
    specs = [spec for decision in decisions for spec in decision.specs]
    made = commands(specs, repository=mirror.remote.key, ref=ref, commit=commit, request=request)
    return Plan(made, _note(decisions))


def _see_that_it_answers(mirror: Mirror, stop: Stop | None) -> None:
    """A host also says `not found` of a repository that we may not see: no verdict on a push."""
    try:
        mirror.ls_remote(stop=stop)
    except NotFound as error:
        raise GitError(error.message, mend=error.mend) from error


def _decided(push: Push, branch: str, mirror: Mirror, roster: str) -> Plan:
    found = _read(mirror, push.after)
    file = _jobs(found)
    changed: Sequence[str] | None = None
    if branch and (found.shared or roster or _publishes_here(file, branch)):
        commit = _newest_not_ours(push, mirror, file, branch, roster)
        if commit == push.before:
            return Plan((), "starts nothing: it holds only what pushtrain published")
        if commit != push.after:
            push = push.model_copy(update={"after": commit})
            found = _read(mirror, commit)
            file = _jobs(found)
        changed = _theirs(mirror.commits.changed(push.before, push.after), file, branch, roster)
    elif branch and any(job.on.push and (job.on.push.paths or job.on.push.paths_ignore) for job in file.jobs):
        changed = mirror.commits.changed(push.before, push.after)
    decisions = starts(push, file, message=found.message, changed=changed, roster=roster)
    specs = [spec for decision in decisions for spec in decision.specs]
    made = commands(
        specs,
        repository=mirror.remote.key,
        ref=push.ref,
        commit=push.after,
        repository_id=push.repository_id,
    )
    return Plan(made, _note(decisions))


def _read(mirror: Mirror, commit: str) -> _Commit:
    info, files = mirror.commits.read(commit, (FILE, _SHARED_INDEX))
    return _Commit(commit, info.message, files[FILE], shared=files[_SHARED_INDEX] is not None)


def _jobs(commit: _Commit) -> JobFile:
    if commit.file is None:
        raise NotFound(
            f"There is no {FILE} at commit {commit.id[:7]}.",
            mend="`pushtrain init` writes one; commit and push it.",
        )
    return parse(commit.file, source=f"{FILE} at {commit.id[:7]}")


def _publishes_here(file: JobFile, branch: str) -> bool:
    return not file.results.repository and file.results.branch in ("same", branch)


def _newest_not_ours(push: Push, mirror: Mirror, file: JobFile, branch: str, roster: str) -> str:
    """Walk from the tip behind our own commits, but not behind what was there before."""
    commit = push.after
    for _ in range(_LONGEST_WALK):
        if commit == push.before:
            break
        parents = mirror.commits.read(commit)[0].parents
        if len(parents) != 1:
            break
        changed = mirror.commits.changed(parents[0], commit)
        if not changed or not ours(changed, file.results, branch=branch, roster=roster):
            break
        commit = parents[0]
    return commit


def _theirs(changed: Sequence[str] | None, file: JobFile, branch: str, roster: str) -> Sequence[str] | None:
    """What people changed: commits of ours may lie between theirs, and an empty one of theirs counts."""
    if changed is None:
        return None
    return [path for path in changed if not ours([path], file.results, branch=branch, roster=roster)]


def _note(decisions: Sequence[Decision]) -> str:
    """Every job with its reason, those that start first."""
    count = sum(len(decision.specs) for decision in decisions)
    told = [
        f"{decision.job}: {decision.why}"
        for decision in sorted(decisions, key=lambda decision: not decision.starts)
    ]
    head = f"starts {count} run{'s' if count != 1 else ''}" if count else "starts nothing"
    return f"{head} ({'; '.join(told)})"
