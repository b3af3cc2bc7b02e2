"""What the owner's rules say of a run: allowed by which entries, or refused by which rule and why.

Pure. What only the world can answer (which number a host has for a repository, whether a branch holds a
commit, who signed it) is asked by whoever enforces (`executor.rulebook`); what follows from the answer is
decided here.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from pushtrain.core.errors import ConfigError, NotFound
from pushtrain.core.jobs.jobfile import FILE, expand, parse
from pushtrain.core.owner.rules import Allow, Limits, Rules
from pushtrain.core.text.forms import clean, listed
from pushtrain.core.text.patterns import selects
from pushtrain.core.values.command import TrainCommand
from pushtrain.core.values.jobspec import JobSpec
from pushtrain.core.values.value import CONFIG_BRANCH, RESULTS_BRANCH

KEYS: Final = "authorized_keys"
ALLOW: Final = "rules.allow"
TIME: Final = "rules.limits.time"
MEMORY: Final = "rules.limits.memory"
DOWNLOADS: Final = "rules.limits.downloads_per_day"
QUIET: Final = "rules.owner.quiet"
COMMITTED: Final = "rules.committed_jobs"
SIGNED: Final = "rules.require_signed_commits"
BEFORE: Final = "rules.hooks.before"

_PULLS: Final = ("refs/pull/", "refs/merge-requests/", "refs/pull-requests/", "refs/changes/")
"""Where hosts keep the heads of pull requests: GitHub and Gitea, GitLab, Bitbucket, Gerrit."""


class RefKind(StrEnum):
    """What a ref is, as the rules see it."""

    BRANCH = "branch"
    TAG = "tag"
    PULL = "pull request"
    OURS = "pushtrain's own branch"
    OTHER = "neither a branch nor a tag"


@dataclass(frozen=True, slots=True)
class Sender:
    """Whose command it is."""

    key: str
    """The key's fingerprint."""
    name: str = ""
    """What `authorized_keys` calls it; empty: nothing."""
    was: tuple[str, ...] = ()
    """Fingerprints of the keys whose place it took."""

    def among(self, senders: Sequence[str]) -> bool:
        """Whether a list of names and fingerprints means it."""
        return bool({self.key, self.name, *self.was} & set(senders))

    def __str__(self) -> str:
        """For people."""
        return self.name or self.key


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked of `rules.allow`."""

    repository: str
    ref: str
    sender: Sender
    repository_id: str = ""
    """The host's number for the repository, as the command says; empty: it says none."""
    results: tuple[str, str] | None = None
    """Another repository that its results go to, and the branch there; None: they stay in its own."""

    @classmethod
    def of(cls, command: TrainCommand, sender: Sender) -> "Question":
        """What a command asks."""
        target = command.job.results_to
        elsewhere = target.repository not in {"", command.repository}
        return cls(
            repository=command.repository,
            ref=command.ref,
            sender=sender,
            repository_id=command.repository_id,
            results=(target.repository, target.branch) if elsewhere else None,
        )


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a run may not be, by which rule, and the mend."""

    rule: str
    why: str
    """To follow the rule's name and a colon, without a full stop."""
    mend: str = ""
    again_at: float | None = None
    """When it may be tried again by itself; None: never."""

    @property
    def sentence(self) -> str:
        """All of it, for people."""
        verb = "Refused by" if self.again_at is None else "Waits because of"
        told = f"{verb} the owner's rule `{self.rule}`: {self.why}."
        return f"{told} {self.mend}" if self.mend else told


@dataclass(frozen=True, slots=True)
class Allowed:
    """The entries of which each allows all of a run, but for what the world must answer."""

    by: tuple[Allow, ...]
    results_by: tuple[Allow, ...] = ()
    """Those that allow the other repository that its results go to; empty: they stay in its own."""


def kind_of(ref: str) -> RefKind:
    """What a full ref is."""
    if ref in {f"refs/heads/{RESULTS_BRANCH}", f"refs/heads/{CONFIG_BRANCH}"}:
        return RefKind.OURS
    if ref.startswith("refs/heads/"):
        return RefKind.BRANCH
    if ref.startswith("refs/tags/"):
        return RefKind.TAG
    return RefKind.PULL if ref.startswith(_PULLS) else RefKind.OTHER


# --- rules.allow ------------------------------------------------------------------------------------------


def permit(rules: Rules, asked: Question) -> Allowed | Refusal:
    """What `rules.allow` says: which entries allow it, or why none does."""
    kind = kind_of(asked.ref)
    if kind in {RefKind.OURS, RefKind.OTHER}:
        return Refusal(ALLOW, f"`{clean(asked.ref)}` is {kind}", "Push the commit to a branch of yours.")
    entries = rules.entries
    found = [_objection(entry, asked, kind) for entry in entries]
    by = tuple(entry for entry, objection in zip(entries, found, strict=True) if objection is None)
    if not by:
        return _refusal(rules, [one for one in found if one is not None])
    if asked.results is None:
        return Allowed(by)
    results_by = tuple(entry for entry in entries if _lets_results(entry, asked, *asked.results))
    if not results_by:
        where = f"the branch `{clean(asked.results[1])}` of {asked.results[0]}"
        return Refusal(ALLOW, f"its results would go to {where}, which no entry allows", _ASK_RESULTS)
    return Allowed(by, results_by)


_ASK_RESULTS: Final = "Choose another place in `[results]`, or ask the owner for an entry."
_ASK: Final = "Ask the executor's owner for an entry, or send it to another executor."


@dataclass(frozen=True, slots=True)
class _Objection:
    """Why one entry does not allow a run; the further it got, the more telling."""

    stage: int
    why: str
    mend: str = _ASK


def _objection(entry: Allow, asked: Question, kind: RefKind) -> _Objection | None:
    if not selects((entry.repository,), asked.repository):
        return _Objection(0, f"no entry names the repository {asked.repository}")
    if entry.id and asked.repository_id and entry.id != asked.repository_id:
        return _Objection(1, _other_number(asked.repository, asked.repository_id, entry.id), _RENAMED)
    if (why := _ref_objection(entry, asked.ref, kind)) is not None:
        return why
    if entry.senders and not asked.sender.among(entry.senders):
        return _Objection(3, f"commands of {listed(entry.senders)} are allowed, not of `{asked.sender}`")
    return None


def _ref_objection(entry: Allow, ref: str, kind: RefKind) -> _Objection | None:
    if kind is RefKind.PULL:
        mend = "Push the commit to a branch, or ask the owner for `pull_requests = true`."
        return None if entry.pull_requests else _Objection(2, "heads of pull requests do not run here", mend)
    patterns, prefix = (
        (entry.branches, "refs/heads/") if kind is RefKind.BRANCH else (entry.tags, "refs/tags/")
    )
    name = ref.removeprefix(prefix)
    if selects(patterns, name):
        return None
    what = "branches" if kind is RefKind.BRANCH else "tags"
    allowed = f"the {what} {listed(patterns)} are allowed, not" if patterns else f"no {what} are allowed, nor"
    return _Objection(2, f"{allowed} `{clean(name)}`")


def _lets_results(entry: Allow, asked: Question, repository: str, branch: str) -> bool:
    """Whether an entry allows results in another repository; only a person's own branch must be named."""
    named = selects((entry.repository,), repository) and (
        branch == RESULTS_BRANCH or selects(entry.branches, branch)
    )
    return named and (not entry.senders or asked.sender.among(entry.senders))


def _refusal(rules: Rules, objections: Sequence[_Objection]) -> Refusal:
    """The objection of the entry that came furthest, told for all of them."""
    best = max(objections, key=lambda one: one.stage)
    number = objections.index(best) + 1
    place = f"in entry {number}, " if len(rules.allow) > 1 and best.stage else ""
    return Refusal(ALLOW, f"{place}{best.why}", best.mend)


_RENAMED: Final = (
    "Somebody may have taken over the name of a renamed or deleted repository; if this is yours, "
    "ask the owner to mend `id`."
)


def _other_number(repository: str, found: str, wanted: str) -> str:
    return f"{repository} is number {clean(found)} at its host, and number {wanted} is allowed"


def by_number(entries: Sequence[Allow], repository: str, number: str) -> tuple[Allow, ...] | Refusal:
    """The entries that still allow a repository whose number its host has told.

    Args:
        entries: Those that allow the run.
        repository: Its key.
        number: What the host says.
    """
    left = tuple(entry for entry in entries if entry.id in {"", number})
    if left:
        return left
    return Refusal(ALLOW, _other_number(repository, number, entries[0].id), _RENAMED)


def by_branch(entries: Sequence[Allow], ref: str) -> tuple[Allow, ...] | Refusal:
    """The entries that still allow a pull request's head which no branch of the repository holds."""
    left = tuple(entry for entry in entries if entry.forks)
    if left:
        return left
    mend = "Push the commit to a branch of the repository, or ask the owner for `forks = true`."
    why = f"no branch of the repository holds the head of `{clean(ref)}`: it comes from a fork"
    return Refusal(ALLOW, why, mend)


# --- limits -----------------------------------------------------------------------------------------------


def beyond(limits: Limits, job: JobSpec) -> Refusal | None:
    """Which limit a job asks to exceed; None: none."""
    if job.timeout is not None and job.timeout > limits.time:
        why = f"the job asks for {spoken(job.timeout)}, and a training may last {spoken(limits.time)}"
        return Refusal(TIME, why, "Lower `timeout`, or send it to another executor.")
    if limits.memory and job.resources.memory > limits.memory:
        asked, most = amount(job.resources.memory), amount(limits.memory)
        why = f"the job asks for {asked} of memory, and a run may have {most}"
        return Refusal(MEMORY, why, "Lower `memory`, or send it to another executor.")
    return None


def spoken(seconds: float) -> str:
    """A duration in words: `90 s`, `20 min`, `36 h`."""
    for unit, size in (("h", 3600), ("min", 60)):
        if seconds >= 2 * size or seconds == size:
            return f"{seconds / size:.4g} {unit}"
    return f"{seconds:.4g} s"


def amount(count: int) -> str:
    """Bytes in words, in the unit that says them shortest: `32 GB`, `64 MiB`, `1.5 TB`."""
    if count < 1000:  # noqa: PLR2004  a thousand is a thousand
        return f"{count} B"
    shown = []
    for base, units in ((1000, ("kB", "MB", "GB", "TB", "PB")), (1024, ("KiB", "MiB", "GiB", "TiB", "PiB"))):
        step = next(step for step in range(len(units), 0, -1) if count >= base**step or step == 1)
        shown.append(f"{count / base**step:.4g} {units[step - 1]}")
    return min(shown, key=len)


# --- what stands in the commit ----------------------------------------------------------------------------


def committed(job: JobSpec, file: bytes | None, commit: str) -> Refusal | None:
    """Why a job is not the commit's own; None: it is, word for word.

    Args:
        job: As it was sent, one matrix cell of it.
        file: The commit's `pushtrain.toml`; None: it has none.
        commit: Its id.
    """
    mend = "Commit the job as you want it to run; `--command`, `--data-url` and `--param` do not work here."
    place = f"{FILE} at commit {commit[:7]}"
    if file is None:
        return Refusal(COMMITTED, f"there is no {place}", mend)
    try:
        specs = expand(parse(file, source=place).job(job.name))
    except NotFound:
        return Refusal(COMMITTED, f"{place} has no job `{job.name}`", mend)
    except ConfigError:
        return Refusal(COMMITTED, f"{place} cannot be read here", "`pushtrain check` tells what is wrong.")
    if job in specs:
        return None
    return Refusal(COMMITTED, f"the job `{clean(job.title)}` was sent otherwise than {place} has it", mend)
