"""What the rules say of a run: decided without a world, for any rules and any run."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pushtrain.core.owner.rules import Allow, Limits, Rules
from pushtrain.core.owner.ruling import (
    Allowed,
    Question,
    RefKind,
    Refusal,
    Sender,
    amount,
    beyond,
    by_branch,
    by_number,
    committed,
    kind_of,
    permit,
    spoken,
)
from pushtrain.core.text.patterns import selects
from pushtrain.core.values.jobspec import JobSpec, Resources, ResultsTarget
from pushtrain.testing import COMMIT, REPOSITORY, a_command, a_spec

ADA = Sender("SHA256:ada", "ada")
OTHER = "github.com/octo/other"


def question(**changes: object) -> Question:
    given = {"repository": REPOSITORY, "ref": "refs/heads/main", "sender": ADA, **changes}
    return Question(**given)  # type: ignore[arg-type]


def rules(*entries: Allow) -> Rules:
    return Rules(allow=entries)


def refused(answer: Allowed | Refusal) -> Refusal:
    assert isinstance(answer, Refusal), answer
    assert answer.rule == "rules.allow"
    assert answer.mend
    return answer


# --- without an entry -------------------------------------------------------------------------------------


@pytest.mark.parametrize("ref", ["refs/heads/main", "refs/heads/a/b/c", "refs/tags/v1"])
def test_without_an_entry_every_branch_and_tag_of_every_key_may_run(ref: str) -> None:
    assert permit(Rules(), question(ref=ref)) == Allowed((Allow(),))


@pytest.mark.parametrize(
    ("ref", "word"),
    [
        ("refs/pull/7/head", "pull requests"),
        ("refs/pull/7/merge", "pull requests"),
        ("refs/merge-requests/7/head", "pull requests"),
        ("refs/pull-requests/7/from", "pull requests"),
        ("refs/changes/07/7/1", "pull requests"),
        ("refs/notes/commits", "neither a branch nor a tag"),
        ("refs/remotes/origin/main", "neither a branch nor a tag"),
        ("refs/heads", "neither"),
        ("refs/stash", "neither"),
        ("refs/heads/pushtrain/results", "pushtrain's own branch"),
        ("refs/heads/pushtrain/config", "pushtrain's own branch"),
    ],
)
def test_without_an_entry_nothing_else_may(ref: str, word: str) -> None:
    assert word in refused(permit(Rules(), question(ref=ref))).why


# --- entries ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("entry", "asked", "words"),
    [
        (Allow(repository=OTHER), {}, "no entry names the repository github.com/octo/hello"),
        (Allow(repository="github.com/*"), {}, "no entry names"),
        (Allow(id="1"), {"repository_id": "2"}, "is number 2 at its host, and number 1 is allowed"),
        (
            Allow(branches=("main", "rel/**")),
            {"ref": "refs/heads/dev"},
            "`main`, `rel/**` are allowed, not `dev`",
        ),
        (Allow(branches=("**", "!wip/**")), {"ref": "refs/heads/wip/x"}, "not `wip/x`"),
        (Allow(branches=()), {}, "no branches are allowed, nor `main`"),
        (Allow(branches=("main",)), {"ref": "refs/heads/Main"}, "not `Main`"),
        (Allow(tags=("v*",)), {"ref": "refs/tags/x"}, "the tags `v*` are allowed, not `x`"),
        (Allow(senders=("bob",)), {}, "commands of `bob` are allowed, not of `ada`"),
        (Allow(senders=("SHA256:bob",)), {"sender": Sender("SHA256:eve")}, "not of `SHA256:eve`"),
        (Allow(senders=("bob",)), {"sender": Sender("k", "")}, "not of `k`"),
        (Allow(), {"results": ("github.com/x/y", "pushtrain/results"), "ref": "refs/notes/x"}, "neither"),
    ],
)
def test_an_entry_that_does_not_allow_a_run_says_why(
    entry: Allow, asked: dict[str, object], words: str
) -> None:
    assert words in refused(permit(rules(entry), question(**asked))).why


@pytest.mark.parametrize(
    ("entry", "asked"),
    [
        (Allow(repository="github.com/octo/*"), {}),
        (Allow(repository="**"), {}),
        (Allow(id="1"), {"repository_id": "1"}),
        (Allow(id="1"), {}),
        (Allow(branches=("rel/**",)), {"ref": "refs/heads/rel/1/2"}),
        (Allow(branches=(), tags=("v*",)), {"ref": "refs/tags/v1"}),
        (Allow(senders=("ada",)), {}),
        (Allow(senders=("SHA256:ada",)), {}),
        (Allow(pull_requests=True), {"ref": "refs/pull/1/head"}),
    ],
)
def test_an_entry_that_allows_a_run_is_named(entry: Allow, asked: dict[str, object]) -> None:
    assert permit(rules(entry), question(**asked)) == Allowed((entry,))


def test_one_entry_must_allow_all_of_a_run() -> None:
    mine = Allow(repository=REPOSITORY, senders=("ada",), branches=("main",))
    theirs = Allow(repository=REPOSITORY, senders=("bob",), branches=("dev",))
    assert isinstance(permit(rules(mine, theirs), question()), Allowed)
    why = refused(permit(rules(mine, theirs), question(ref="refs/heads/dev"))).why
    assert why == "in entry 2, commands of `bob` are allowed, not of `ada`"


def test_results_in_another_repository_need_an_entry_of_their_own() -> None:
    target = ResultsTarget(repository=OTHER, branch="main")
    asked = Question.of(a_command(job=a_spec(results_to=target)), ADA)
    here = Allow(repository=REPOSITORY)
    assert "the branch `main` of github.com/octo/other" in refused(permit(rules(here), asked)).why
    there = Allow(repository=OTHER, branches=("main",), senders=("ada",))
    assert permit(rules(here, there), asked) == Allowed((here,), (there,))
    for less in ({"branches": ("dev",)}, {"senders": ("bob",)}):
        refused(permit(rules(here, there.model_copy(update=less)), asked))


def test_results_in_its_own_repository_are_no_question_here() -> None:
    for repository in ("", REPOSITORY):
        job = a_spec(results_to=ResultsTarget(repository=repository, branch="reports"))
        assert Question.of(a_command(job=job), ADA).results is None


NAMES = st.sampled_from(["main", "dev", "rel/1", "pushtrain/results"])
PATTERNS = st.lists(st.sampled_from(["**", "*", "main", "rel/**", "!dev", "m+ain?"]), max_size=3).map(tuple)
ENTRIES = st.builds(
    Allow,
    repository=st.sampled_from(["**", "github.com/octo/*", REPOSITORY, OTHER]),
    id=st.sampled_from(["", "", "1", "2"]),
    branches=PATTERNS,
    tags=PATTERNS,
    senders=st.lists(st.sampled_from(["ada", "bob", "SHA256:ada", "owner"]), max_size=2).map(tuple),
    pull_requests=st.just(True),
    forks=st.booleans(),
) | st.builds(Allow, branches=PATTERNS)
QUESTIONS = st.builds(
    Question,
    repository=st.sampled_from([REPOSITORY, OTHER]),
    ref=st.builds(
        str.__add__,
        st.sampled_from(["refs/heads/", "refs/tags/", "refs/pull/", "refs/notes/"]),
        NAMES,
    ),
    sender=st.builds(
        Sender, st.sampled_from(["SHA256:ada", "SHA256:bob"]), st.sampled_from(["", "ada", "bob"])
    ),
    repository_id=st.sampled_from(["", "1", "3"]),
    results=st.none() | st.tuples(st.just("github.com/octo/reports"), NAMES),
)


def _plainly(entry: Allow, asked: Question) -> bool:
    """The same once more, as the page for owners says it."""
    name = asked.ref.split("/", 2)[2]
    by_kind = {
        RefKind.BRANCH: selects(entry.branches, name),
        RefKind.TAG: selects(entry.tags, name),
        RefKind.PULL: entry.pull_requests,
    }
    return (
        by_kind.get(kind_of(asked.ref), False)
        and selects((entry.repository,), asked.repository)
        and (not entry.id or asked.repository_id in {"", entry.id})
        and (not entry.senders or asked.sender.key in entry.senders or asked.sender.name in entry.senders)
    )


@given(st.lists(ENTRIES, min_size=1, max_size=4), QUESTIONS)
def test_what_is_allowed_is_what_the_page_for_owners_says(entries: Sequence[Allow], asked: Question) -> None:
    answer = permit(rules(*entries), asked)
    wanted = tuple(entry for entry in entries if _plainly(entry, asked))
    if isinstance(answer, Allowed):
        assert answer.by == wanted
        assert bool(answer.results_by) == (asked.results is not None)
    else:
        assert not wanted or asked.results
        assert refused(answer).why


@given(st.lists(ENTRIES, min_size=1, max_size=3), ENTRIES, QUESTIONS)
def test_one_more_entry_takes_nothing_away(entries: Sequence[Allow], more: Allow, asked: Question) -> None:
    if isinstance(permit(rules(*entries), asked), Allowed):
        assert isinstance(permit(rules(*entries, more), asked), Allowed)
        assert isinstance(permit(rules(more, *entries), asked), Allowed)


@given(QUESTIONS)
def test_a_pull_request_never_runs_unasked(asked: Question) -> None:
    if kind_of(asked.ref) not in {RefKind.BRANCH, RefKind.TAG}:
        refused(permit(Rules(), asked))


# --- what the world answers -------------------------------------------------------------------------------


def test_a_number_that_is_not_the_owners_leaves_the_entries_without_one() -> None:
    one, any_number = Allow(id="1"), Allow()
    assert by_number((one, any_number), REPOSITORY, "1") == (one, any_number)
    assert by_number((one, any_number), REPOSITORY, "2") == (any_number,)
    refusal = by_number((one,), REPOSITORY, "2")
    assert isinstance(refusal, Refusal)
    assert "number 2 at its host, and number 1 is allowed" in refusal.why
    assert "taken over the name" in refusal.mend


def test_a_pull_request_that_no_branch_holds_needs_an_entry_for_forks() -> None:
    own, forks = Allow(pull_requests=True), Allow(pull_requests=True, forks=True)
    assert by_branch((own, forks), "refs/pull/1/head") == (forks,)
    refusal = by_branch((own,), "refs/pull/1/head")
    assert isinstance(refusal, Refusal)
    assert "from a fork" in refusal.why
    assert "forks = true" in refusal.mend


# --- limits -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "rule", "words"),
    [
        ({"timeout": 90_000.0}, "rules.limits.time", "asks for 25 h, and a training may last 24 h"),
        ({"resources": Resources(memory=33 * 10**9)}, "rules.limits.memory", "asks for 33 GB of memory"),
    ],
)
def test_a_job_that_asks_for_more_than_a_limit_names_it(
    spec: dict[str, object], rule: str, words: str
) -> None:
    found = beyond(Limits(memory=32 * 10**9), a_spec(**spec))
    assert found
    assert (found.rule, words in found.why) == (rule, True)
    assert f"`{rule}`" in found.sentence
    assert found.mend in found.sentence


@given(st.none() | st.floats(1, 1e6), st.integers(0, 2**40), st.floats(1, 1e6), st.integers(0, 2**40))
def test_a_job_within_the_limits_is_within_them(
    timeout: float | None, memory: int, time: float, most: int
) -> None:
    job = a_spec(timeout=timeout, resources=Resources(memory=memory))
    found = beyond(Limits(time=time, memory=most), job)
    assert (found is None) == ((timeout or 0) <= time and (not most or memory <= most))


def test_a_refusal_without_a_mend_is_one_sentence() -> None:
    assert Refusal("rules.x", "it is so").sentence == "Refused by the owner's rule `rules.x`: it is so."


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.3, "0.3 s"),
        (1, "1 s"),
        (1200, "20 min"),
        (90, "90 s"),
        (60, "1 min"),
        (7200, "2 h"),
        (5400, "90 min"),
    ],
)
def test_durations_in_words(seconds: float, words: str) -> None:
    assert spoken(seconds) == words


@pytest.mark.parametrize(
    ("count", "words"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (32 * 10**9, "32 GB"),
        (64 << 20, "64 MiB"),
        (100 << 30, "100 GiB"),
        (10**15, "1 PB"),
    ],
)
def test_sizes_in_words(count: int, words: str) -> None:
    assert amount(count) == words


# --- the commit's own job ---------------------------------------------------------------------------------

FILE = b"""
[job.train]
command = "python train.py --lr ${{ matrix.lr }}"
matrix = {lr = [0.1, 0.01]}
[job.test]
command = ["pytest"]
[results]
branch = "same"
"""
TARGET = ResultsTarget(branch="same")


def test_a_job_as_the_commit_has_it_is_its_own() -> None:
    cell = a_spec(name="train", command="python train.py --lr 0.01", cell={"lr": 0.01}, results_to=TARGET)
    assert committed(cell, FILE, COMMIT) is None
    assert committed(JobSpec(name="test", command=("pytest",), results_to=TARGET), FILE, COMMIT) is None


@pytest.mark.parametrize(
    ("spec", "file", "words"),
    [
        (JobSpec(name="test", command=("sh",), results_to=TARGET), FILE, "was sent otherwise"),
        (JobSpec(name="test", command=("pytest",)), FILE, "was sent otherwise"),
        (
            JobSpec(name="test", command=("pytest",), env={"A": "1"}, results_to=TARGET),
            FILE,
            "was sent otherwise",
        ),
        (JobSpec(name="other", command=("pytest",)), FILE, "has no job `other`"),
        (JobSpec(name="test", command=("pytest",)), None, "there is no pushtrain.toml"),
        (JobSpec(name="test", command=("pytest",)), b"[job", "cannot be read here"),
        (JobSpec(name="test", command=("pytest",)), b"\xff", "cannot be read here"),
    ],
)
def test_a_job_that_was_sent_otherwise_is_not(spec: JobSpec, file: bytes | None, words: str) -> None:
    found = committed(spec, file, COMMIT)
    assert found
    assert found.rule == "rules.committed_jobs"
    assert words in found.why
