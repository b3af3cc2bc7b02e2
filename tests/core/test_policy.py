"""Which jobs a push starts, which commands follow, which executor fits."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pushtrain.core import policy
from pushtrain.core.errors import NotFound
from pushtrain.core.jobs.jobfile import JobFile, parse
from pushtrain.core.policy import choose, fits, pace_key, paces, starts_now
from pushtrain.core.values.card import Capacity, ExecutorCard, FreeGpu, Gpu
from pushtrain.core.values.command import run_id
from pushtrain.core.values.isolation import Isolation
from pushtrain.core.values.jobspec import DataSource, JobSpec, Resources, ResultsTarget
from pushtrain.core.values.push import NO_COMMIT, Push

COMMIT = "1" * 40
GB = 10**9


def push(ref: str = "refs/heads/main", *, after: str = COMMIT) -> Push:
    return Push(
        host="github.com", repository="octo/hello", ref=ref, before="0" * 40, after=after, delivery="1"
    )


def file(on: str = "", *, results: str = "") -> JobFile:
    return parse(f'{results}\n[job.train]\ncommand = "python train.py"\n{on}\n')


def decide(
    on: str = "",
    ref: str = "refs/heads/main",
    *,
    changed: list[str] | None = None,
    message: str = "Train",
    results: str = "",
    default_branch: str = "main",
) -> tuple[bool, str]:
    jobs = file(on, results=results)
    (decision,) = policy.starts(
        push(ref), jobs, message=message, changed=changed, default_branch=default_branch
    )
    assert bool(decision.specs) is decision.starts
    assert decision.job == "train"
    return decision.starts, decision.why


# --- filters ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("on", "ref", "starts", "why"),
    [
        ("", "refs/heads/any/branch", True, "branch `any/branch` is in `on.push.branches`"),
        ("", "refs/tags/v1", False, "names branches only"),
        ('on = "push"', "refs/heads/x", True, "every push starts it"),
        ('on = "push"', "refs/tags/v1", True, "every push starts it"),
        ('on = "manual"', "refs/heads/main", False, "it starts by hand only"),
        ('on = {push = {branches = ["main", "rel/**"]}}', "refs/heads/main", True, "is in"),
        ('on = {push = {branches = ["main", "rel/**"]}}', "refs/heads/rel/a/b", True, "is in"),
        ('on = {push = {branches = ["main"]}}', "refs/heads/dev", False, "(`main`)"),
        ('on = {push = {branches = ["main"]}}', "refs/tags/main", False, "names branches only"),
        ('on = {push = {branches = ["**", "!dev"]}}', "refs/heads/dev", False, "is not in"),
        ('on = {push = {branches-ignore = ["dev"]}}', "refs/heads/dev", False, "is in"),
        ('on = {push = {branches-ignore = ["dev"]}}', "refs/heads/main", True, "is not in"),
        ('on = {push = {branches-ignore = ["dev"]}}', "refs/tags/v1", False, "names branches only"),
        ('on = {push = {tags = ["v*"]}}', "refs/heads/main", False, "names tags only"),
        ('on = {push = {tags = ["v*"]}}', "refs/tags/v1", True, "is in"),
        ('on = {push = {tags = ["v*"]}}', "refs/tags/w1", False, "(`v*`)"),
        ('on = {push = {tags-ignore = ["w*"]}}', "refs/tags/v1", True, "is not in"),
        ('on = {push = {tags-ignore = ["w*"]}}', "refs/tags/w1", False, "is in"),
        ('on = {push = {tags-ignore = ["w*"]}}', "refs/heads/main", False, "names tags only"),
        ('on = {push = {branches = ["main"], tags = ["v*"]}}', "refs/heads/main", True, "is in"),
        ('on = {push = {branches = ["main"], tags = ["v*"]}}', "refs/tags/v1", True, "is in"),
    ],
)
def test_branch_and_tag_filters_mean_what_they_mean_in_actions(
    on: str, ref: str, starts: bool, why: str
) -> None:
    assert decide(on, ref)[0] is starts
    assert why in decide(on, ref)[1]


@pytest.mark.parametrize(
    ("filters", "changed", "starts", "why"),
    [
        ('paths = ["src/**"]', ["README.md", "src/a.py"], True, "changed `src/a.py` is in"),
        ('paths = ["src/**"]', ["README.md"], False, "no changed file is in"),
        ('paths = ["**", "!docs/**"]', ["docs/a.md"], False, "no changed file is in"),
        ('paths-ignore = ["**.md"]', ["README.md", "a/b.md"], False, "every changed file is in"),
        ('paths-ignore = ["**.md"]', ["README.md", "a.py"], True, "changed `a.py` is not in"),
        ('paths = ["src/**"]', None, True, "the changed files are not known"),
        ('paths = ["src/**"]', [], False, "no file changed"),
        ('branches = ["dev"], paths = ["src/**"]', ["src/a.py"], False, "branch `main` is not in"),
        ('branches = ["main"], paths = ["src/**"]', ["a.py"], False, "no changed file is in"),
    ],
)
def test_path_filters_mean_what_they_mean_in_actions(
    filters: str, changed: list[str] | None, starts: bool, why: str
) -> None:
    assert decide(f"on = {{push = {{{filters}}}}}", changed=changed)[0] is starts
    assert why in decide(f"on = {{push = {{{filters}}}}}", changed=changed)[1]


def test_path_filters_are_not_asked_about_tags() -> None:
    on = 'on = {push = {tags = ["v*"], paths = ["src/**"]}}'
    assert decide(on, "refs/tags/v1", changed=["README.md"])[0]


def test_a_default_branch_that_the_filter_misses_is_pointed_out() -> None:
    on = 'on = {push = {branches = ["main"]}}'
    assert "although it is the default branch" in decide(on, "refs/heads/master", default_branch="master")[1]
    assert "although" not in decide(on, "refs/heads/dev", default_branch="master")[1]


# --- what never starts anything ---------------------------------------------------------------------------


@pytest.mark.parametrize("token", ["[skip ci]", "[ci skip]", "[no ci]", "[skip train]", "[Skip CI]"])
def test_a_skip_token_anywhere_in_the_message_starts_nothing(token: str) -> None:
    for message in (f"{token} Fix", f"Fix {token}", f"Fix\n\nLong text {token} and more\n"):
        assert policy.skip(message) == token.lower()
        assert decide(message=message) == (False, f"the commit's message holds {token.lower()}")


@pytest.mark.parametrize("message", ["", "skip ci", "[skip  ci]", "[skip tests]", "Skip the [ci]"])
def test_other_words_do_not_skip(message: str) -> None:
    assert policy.skip(message) is None
    assert decide(message=message)[0]


@pytest.mark.parametrize("branch", ["pushtrain/results", "pushtrain/config"])
def test_pushtrains_own_branches_start_nothing(branch: str) -> None:
    assert decide('on = "push"', f"refs/heads/{branch}") == (False, f"`{branch}` is pushtrain's own branch")
    assert decide('on = "push"', f"refs/heads/{branch}2")[0]
    assert decide('on = "push"', f"refs/tags/{branch}")[0]


@pytest.mark.parametrize("ref", ["refs/pull/1/head", "refs/notes/commits", "refs/heads"])
def test_other_refs_start_nothing(ref: str) -> None:
    assert decide('on = "push"', ref)[0] is False


def test_a_deleted_branch_starts_nothing() -> None:
    (decision,) = policy.starts(push(after=NO_COMMIT), file(), message="", changed=None)
    assert (decision.starts, decision.why) == (False, "the push deletes the branch or tag")


@pytest.mark.parametrize(
    ("results", "changed", "starts"),
    [
        ("", ["pushtrain-results/runs/train/2026-01/x/run.json"], False),
        ("", ["pushtrain-results/README.md", "train.py"], True),
        ("", ["pushtrain-results.py"], True),
        ("", [], True),
        ("", None, True),
        ('[results]\nbranch = "same"', ["pushtrain-results/README.md"], False),
        ('[results]\nbranch = "same"\npath = "out"', ["out/README.md", "out/runs/x"], False),
        ('[results]\nbranch = "main"\npath = "out"', ["out/README.md"], False),
        ('[results]\nbranch = "dev"\npath = "out"', ["out/README.md"], True),
        ('[results]\npath = "out"', ["out/README.md"], True),
    ],
)
def test_a_commit_is_ours_by_what_it_changes(results: str, changed: list[str] | None, starts: bool) -> None:
    assert decide(results=results, changed=changed)[0] is starts


def test_a_commit_that_changes_only_the_roster_on_its_branch_is_ours() -> None:
    target = ResultsTarget()
    assert policy.ours(["config.json"], target, branch="main", roster="config.json")
    assert policy.ours(["config.json", "pushtrain-results/x"], target, branch="main", roster="config.json")
    assert not policy.ours(["config.json"], target, branch="main")
    assert policy.ours(["lab/secrets.json"], target, branch="main", roster="lab/config.json")
    assert not policy.ours(["secrets.json"], target, branch="main", roster="lab/config.json")
    assert not policy.ours(["secrets.json"], target, branch="main")
    assert not policy.ours(["config.json", "train.py"], target, branch="main", roster="config.json")
    assert not policy.ours(["config.json/x"], target, branch="main", roster="config.json")


def test_a_commit_that_only_forges_our_trailers_still_runs() -> None:
    message = "Results of train\n\nRun-Id: 00\nExecutor: lab\nSource-Commit: 11\n"
    assert decide(message=message, changed=["train.py"])[0]


def test_ours_counts_the_results_folder_when_the_branch_is_not_known() -> None:
    target = ResultsTarget(branch="main", path="out")
    assert policy.ours(["out/x"], target)
    assert not policy.ours(["out/x"], target, branch="dev")
    assert not policy.ours(["out"], target)


def test_a_reason_holds_nothing_that_a_terminal_obeys() -> None:
    on = 'on = {push = {branches = ["x\\u001b31m"], tags = ["\\u009b"]}}'
    for ref in ("refs/heads/\x9b31m", "refs/tags/\x9b31m"):
        assert decide(on, ref)[1].isprintable()
    assert decide('on = {push = {paths = ["a*"]}}', changed=["a\x1b[31m"])[1].isprintable()


@given(st.lists(st.sampled_from(["pushtrain-results/a", "src/a.py", "b"]), min_size=1))
def test_one_file_outside_the_results_makes_the_commit_a_persons(changed: list[str]) -> None:
    outside = any(not path.startswith("pushtrain-results/") for path in changed)
    assert policy.ours(changed, ResultsTarget()) is not outside


# --- by hand ----------------------------------------------------------------------------------------------


def test_a_person_starts_the_jobs_by_name_or_all_of_them() -> None:
    jobs = parse(
        '[job.a]\ncommand = "a"\non = "manual"\n[job.b]\ncommand = "b"\non = {push = true, manual = false}\n'
    )
    assert [(d.job, d.starts) for d in policy.by_hand(jobs)] == [("a", True), ("b", False)]
    assert [d.job for d in policy.by_hand(jobs, ["a", "a"])] == ["a"]
    assert "`on.manual` is false" in policy.by_hand(jobs, ["b"])[0].why
    with pytest.raises(NotFound, match="no job `c`"):
        policy.by_hand(jobs, ["c"])


# --- commands ---------------------------------------------------------------------------------------------


def test_each_cell_is_a_command_with_an_id_of_its_own() -> None:
    jobs = file("[job.train.matrix]\nlr = [0.1, 0.01]")
    (decision,) = policy.starts(push(), jobs, message="", changed=None)
    commands = policy.commands(
        decision.specs, repository="github.com/octo/hello", ref="refs/heads/main", commit=COMMIT
    )
    assert [command.job.cell for command in commands] == [{"lr": 0.1}, {"lr": 0.01}]
    assert [command.run_id for command in commands] == [
        run_id(repository="github.com/octo/hello", commit=COMMIT, job="train", cell={"lr": lr})
        for lr in (0.1, 0.01)
    ]


def test_the_same_commit_on_another_branch_is_the_same_run_and_a_request_another() -> None:
    specs = (JobSpec(name="train", command="x"),)
    key = {"repository": "github.com/octo/hello", "commit": COMMIT}
    (main,) = policy.commands(specs, ref="refs/heads/main", **key)
    (other,) = policy.commands(specs, ref="refs/heads/other", **key)
    (again,) = policy.commands(specs, ref="refs/heads/main", request="r1", **key)
    assert main.run_id == other.run_id
    assert main.run_id != again.run_id
    assert again.request == "r1"


# --- executors --------------------------------------------------------------------------------------------


def card(
    name: str,
    *,
    gpus: list[int] | None = None,
    labels: tuple[str, ...] = (),
    mounts: tuple[str, ...] = (),
    isolation: str = "none",
) -> ExecutorCard:
    cards = tuple(
        Gpu(uuid=f"{name}-{at}", index=at, name="GPU", memory=memory * GB)
        for at, memory in enumerate(gpus or [])
    )
    return ExecutorCard(
        name=name,
        public_url=f"https://{name}",
        timestamp=0,
        public_key="ed25519:",
        gpus=cards,
        labels=labels,
        mounts=mounts,
        isolation=isolation,
    )


def free(*, slots: int = 0, gpus: int = 0, queued: int = 0, running: int = 0) -> Capacity:
    return Capacity(
        slots=1,
        free_slots=slots,
        free_gpus=gpus,
        free=(FreeGpu(memory=80 * GB, room=79 * GB),) * gpus,
        queued=queued,
        running=running,
    )


PLAIN = JobSpec(name="train", command="x")
ON_GPU = JobSpec(name="train", command="x", resources=Resources(gpus=1, gpu_memory=8 * GB))


@pytest.mark.parametrize(
    ("spec", "executor", "reason"),
    [
        (PLAIN, card("lab"), ""),
        (ON_GPU, card("lab", gpus=[8]), ""),
        (ON_GPU, card("lab"), "lab has 0 GPUs; the job asks for 1"),
        (ON_GPU, card("lab", gpus=[4]), "lab has 0 GPUs of at least 8 GB; the job asks for 1"),
        (
            PLAIN.model_copy(update={"resources": Resources(labels=("a100", "nvlink"))}),
            card("lab", labels=("a100",)),
            "lab has no label `nvlink`",
        ),
        (
            PLAIN.model_copy(update={"data": (DataSource(mount="imagenet", path="d"),)}),
            card("lab"),
            "lab lends no folder `imagenet`",
        ),
        (
            PLAIN.model_copy(update={"data": (DataSource(mount="imagenet", path="d"),)}),
            card("lab", mounts=("imagenet",)),
            "",
        ),
        (
            PLAIN.model_copy(update={"min_isolation": Isolation.SANDBOX}),
            card("lab", isolation="confined"),
            "lab isolates jobs by `confined`; the job asks for `sandbox` at least",
        ),
        (
            PLAIN.model_copy(update={"min_isolation": Isolation.CONFINED}),
            card("lab", isolation="moat"),
            "lab isolates jobs by `moat`; the job asks for `confined` at least",
        ),
        (
            PLAIN.model_copy(update={"min_isolation": Isolation.SANDBOX}),
            card("lab", isolation="container"),
            "",
        ),
    ],
)
def test_an_executor_fits_or_says_why_not(spec: JobSpec, executor: ExecutorCard, reason: str) -> None:
    assert policy.fits(executor, spec) == reason
    assert bool(policy.choose([(executor, None)], spec)) is (reason == "")


def test_the_executor_that_can_start_now_comes_first() -> None:
    candidates = [
        (card("silent"), None),
        (card("queue", gpus=[8]), free(slots=0, queued=3)),
        (card("full"), free(slots=0, running=1)),
        (card("big", gpus=[80, 80]), free(slots=1)),
        (card("small"), free(slots=1)),
    ]
    names = [executor.name for executor in policy.choose(candidates, PLAIN)]
    assert names == ["small", "big", "full", "queue", "silent"]


def test_a_job_takes_the_smallest_gpu_that_does() -> None:
    candidates = [
        (card("huge", gpus=[80]), free(gpus=1)),
        (card("busy", gpus=[8]), free(gpus=0, running=1)),
        (card("right", gpus=[4, 12]), free(gpus=1)),
        (card("none"), free(slots=1)),
    ]
    assert [executor.name for executor in policy.choose(candidates, ON_GPU)] == ["right", "huge", "busy"]


# --- what owners prefer, and how fast it is ----------------------------------------------------------------


def named(*executors: ExecutorCard, speeds: dict[str, float] | None = None) -> list[str]:
    return [each.name for each in choose([(one, free(gpus=1)) for one in executors], ON_GPU, speeds)]


def test_an_owners_wish_comes_before_speed_and_load() -> None:
    wished = card("wished", gpus=[80]).model_copy(update={"prefer": 1, "public_key": "slow"})
    plain = card("plain", gpus=[80]).model_copy(update={"public_key": "fast"})
    avoided = card("avoided", gpus=[80]).model_copy(update={"prefer": -1, "public_key": "faster"})
    speeds = {"slow": 900.0, "fast": 100.0, "faster": 10.0}
    assert named(plain, avoided, wished, speeds=speeds) == ["wished", "plain", "avoided"]
    busy = choose([(wished, free()), (plain, free(gpus=1))], ON_GPU)
    assert [each.name for each in busy] == ["plain", "wished"], "who can start it now comes before all wishes"


def test_the_faster_one_gets_it_and_a_few_percent_are_chance() -> None:
    one, two, new = (
        card(name, gpus=[80]).model_copy(update={"public_key": name}) for name in ("one", "two", "new")
    )
    assert named(one, two, speeds={"one": 100, "two": 60}) == ["two", "one"]
    assert named(one, two, speeds={"one": 70, "two": 60}) == ["one", "two"]
    assert named(two, new, speeds={"two": 60}) == ["new", "two"], "who has never run it is tried"
    assert named(one, two, new, speeds={"one": 100, "two": 60})[-1] == "one"


def test_a_pace_is_the_median_of_the_last_runs_and_names_no_job() -> None:
    told = paces([("h/r", "train", float(n)) for n in (5, 4, 6)] + [("h/r", "eval", 1.0)] * 20)
    assert {one.job: one.seconds for one in told} == {pace_key("h/r", "train"): 5, pace_key("h/r", "eval"): 1}
    assert not any("train" in one.job for one in told)
    late = [("h/r", "train", 1.0)] * 9 + [("h/r", "train", 100.0)] * 50
    assert [one.seconds for one in paces(late)] == [1.0], "what was long ago does not count"


def test_capability_slices_and_shares_decide_who_fits_and_who_starts_now() -> None:
    new = JobSpec(name="t", command="x", resources=Resources(gpus=1, gpu_capability="9.0"))
    two = JobSpec(name="t", command="x", resources=Resources(gpus=2))
    old = card("lab", gpus=[80, 80])
    assert fits(old, new) == "lab has 0 GPUs of compute capability 9.0 or more; the job asks for 1"
    cut = old.model_copy(update={"gpus": tuple(gpu.model_copy(update={"slice": 0}) for gpu in old.gpus)})
    assert fits(cut, two) == "lab has 0 GPUs that are no slices; the job asks for 2"
    shared = FreeGpu(memory=24 * GB, whole=False, room=6 * GB, capability="8.9")
    there = free().model_copy(update={"free": (shared,)})
    part = JobSpec(name="t", command="x", resources=Resources(gpus=1, gpu_memory=6 * GB, gpu_share=True))
    more = JobSpec(name="t", command="x", resources=Resources(gpus=1, gpu_memory=7 * GB, gpu_share=True))
    assert [starts_now(there, job) for job in (part, more, ON_GPU)] == [True, False, False]
    whole = FreeGpu(memory=24 * GB, room=23 * GB, capability="8.9", slice=True)
    sliced = free().model_copy(update={"free": (whole, whole)})
    assert [starts_now(sliced, job) for job in (part, ON_GPU, two, new)] == [True, True, False, False]
