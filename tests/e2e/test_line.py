"""From a push to a committed result, over a real smart-HTTP host, with real processes."""

import fcntl
import json
from collections.abc import Iterator

import pytest
from house import SYSTEM, House, housed

from pushtrain.core.values.states import Outcome, Reason, State
from pushtrain.core.values.value import RESULTS_BRANCH
from pushtrain.testing import wait_until

pytestmark = pytest.mark.slow

SCRIPT = """
import json, os, pathlib

metrics = open(os.environ["PUSHTRAIN_METRICS"], "w")
for step in range(3):
    print("epoch", step, flush=True)
    print(json.dumps({"step": step, "loss": 1 / (step + 1)}), file=metrics)
pathlib.Path("out").mkdir()
pathlib.Path("out/model.txt").write_text("weights")
pathlib.Path(os.environ["PUSHTRAIN_RESULTS_DIR"], "extra.txt").write_text("more")
pathlib.Path(os.environ["PUSHTRAIN_SUMMARY"]).write_text("It *learnt*.")
"""
LONG = """
[job.train]
command = "echo started; sleep 120"
"""


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """One executor with two slots and one sender, for many repositories."""
    with housed(tmp_path_factory.mktemp("line"), repositories=14) as it:
        it.start_executor("--slots", "2")
        it.start_sender()
        yield it


def test_a_push_comes_back_as_a_commit_with_report_metrics_log_and_files(house: House) -> None:
    work = house.work(
        f'[job.train]\ncommand = ["python3", "train.py"]\nresults = ["out/*.txt"]\n{SYSTEM}',
        {
            "train.py": SCRIPT,
        },
    )
    commit = work.pushed("Learn something")
    view = house.done(commit)
    run = view.run
    assert (run.outcome, run.reason) == (Outcome.SUCCEEDED, Reason.EXITED)
    assert run.command.repository == work.key

    files = work.results(view)
    assert files["log.txt"] == "epoch 0\nepoch 1\nepoch 2"
    assert files["files/out/model.txt"] == "weights"
    assert files["files/extra.txt"] == "more"
    assert "It *learnt*." in files["README.md"]
    assert commit[:7] in files["README.md"]
    assert json.loads(files["run.json"])["run"]["outcome"] == "succeeded"
    assert json.loads(files["metrics.json"])["series"][0]["values"][-1] == pytest.approx(1 / 3)
    assert json.loads(files["command.json"])["commit"] == commit

    message = work.git("log", "-1", "--format=%B", run.result_commit)
    assert f"Run-Id: {run.id}" in message
    assert f"Source-Commit: {commit}" in message
    assert "Executor:" in message
    assert "Ada" not in work.git("log", "-1", "--format=%an %cn", run.result_commit)
    assert [one.status for one in house.host.deliveries if one.update.after == commit] == [202]


def test_stores_are_held_all_along_against_programs_that_would_tidy_them_up(house: House) -> None:
    """Any program that opens a store of SQLite's does so when it closes it, unless somebody else holds it."""
    for state in (house.executor_state, house.sender_state):
        with state.store.open("r+b") as file, pytest.raises(BlockingIOError):
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 510, 0x40000002)  # SQLite's SHARED range


def test_a_failing_job_publishes_its_log(house: House) -> None:
    work = house.work(f'[job.train]\ncommand = "echo before; echo wrong >&2; exit 7"\n{SYSTEM}')
    view = house.done(work.pushed())
    assert (view.run.outcome, view.attempts[-1].exit_code) == (Outcome.FAILED, 7)
    files = work.results(view)
    assert files["log.txt"].splitlines() == ["before", "wrong"]
    assert "wrong" in files["README.md"]
    late = house.cli("cancel", view.run.id)
    assert late.returncode == 6
    assert "Traceback" not in late.stderr


def test_a_timed_out_job_publishes_what_it_had_and_leaves_no_process(house: House) -> None:
    work = house.work(f'{LONG}{SYSTEM}timeout = "1s"\n')
    view = house.done(work.pushed())
    assert (view.run.outcome, view.run.reason) == (Outcome.FAILED, Reason.TIMEOUT)
    assert work.results(view)["log.txt"].startswith("started")
    assert house.jobs() == []


def test_a_cancelled_job_publishes_what_it_had(house: House) -> None:
    work = house.work(f"{LONG}{SYSTEM}")
    commit = work.pushed()
    run_id = house.run_of(commit).run.id
    client = house.client()
    wait_until(
        lambda: b"started" in client.log(run_id, attempt=1, offset=0, limit=100).data, what="its output"
    )
    cancelled = house.json("cancel", run_id[:10])
    assert cancelled["cancel_requested"] is True
    view = house.until(run_id, State.DONE)
    assert (view.run.outcome, view.run.reason) == (Outcome.CANCELLED, Reason.CANCELLED)
    assert work.results(view)["log.txt"].startswith("started")
    assert house.cli("cancel", run_id).returncode == 0  # it is what was wanted
    assert house.jobs() == []


def test_a_commit_without_a_valid_pushtrain_toml_starts_nothing_and_the_next_one_does(house: House) -> None:
    work = house.work("[job.train]\ncomand = 'true'\n")
    broken = work.pushed()
    mended = work.pushed("Mend it", {"pushtrain.toml": f"[job.train]\ncommand = 'true'\n{SYSTEM}"})
    assert house.done(mended).run.outcome is Outcome.SUCCEEDED
    assert house.runs(broken) == []


def test_a_redelivered_webhook_is_the_same_run(house: House) -> None:
    work = house.work(f'[job.train]\ncommand = "echo once"\n{SYSTEM}')
    commit = work.pushed()
    view = house.done(commit)
    delivery = next(one for one in house.host.deliveries if one.update.after == commit)
    assert house.host.redeliver(delivery).status in {200, 202}
    # A run of a later push is over only when all that was heard before it has been settled.
    house.done(work.pushed("Later", {"other.txt": "1"}))
    assert [run.run.id for run in house.runs(commit)] == [view.run.id]
    assert work.results_count() == 2


def test_each_matrix_cell_is_a_run_with_results_of_its_own(house: House) -> None:
    work = house.work(
        f'[job.train]\ncommand = "echo lr is ${{{{ matrix.lr }}}} in $PUSHTRAIN_PARAM_LR"\n{SYSTEM}'
        "[job.train.matrix]\nlr = [0.1, 0.01, 0.001]\nmax_parallel = 2\n"
    )
    commit = work.pushed()
    wait_until(lambda: len(house.runs(commit)) == 3, what="three runs")
    views = [house.until(view.run.id, State.DONE) for view in house.runs(commit)]
    assert len({view.run.result_path for view in views}) == 3
    logs = {work.results(view)["log.txt"] for view in views}
    assert logs == {f"lr is {lr} in {lr}" for lr in (0.1, 0.01, 0.001)}
    assert work.results_count() == 3


def test_skip_tokens_and_ignored_paths_start_nothing(house: House) -> None:
    work = house.work(
        f'[job.train]\ncommand = "echo ran"\non = {{push = {{paths-ignore = ["**.md"]}}}}\n{SYSTEM}'
    )
    first = house.done(work.pushed("First"))
    skipped = work.pushed("Not this one [skip train]", {"a.txt": "1"})
    prose = work.pushed("Words only", {"notes.md": "words"})
    last = house.done(work.pushed("Last", {"a.txt": "2"}))
    assert house.runs(skipped) == house.runs(prose) == []
    assert first.run.id != last.run.id


def test_our_own_results_start_nothing_on_whatever_branch_they_land(house: House) -> None:
    work = house.work(f'[results]\nbranch = "same"\n\n[job.train]\ncommand = "echo ran"\n{SYSTEM}')
    view = house.done(work.pushed())
    assert view.run.result_commit == work.fetch("main")
    wait_until(lambda: view.run.result_commit in [one.update.after for one in house.host.deliveries])
    work.git("merge", "--quiet", "--ff-only", "origin/main")
    later = work.pushed("By a person", {"b.txt": "1"})
    house.done(later)
    assert house.runs(view.run.result_commit) == []
    assert work.fetch(RESULTS_BRANCH) == ""


def test_two_repositories_share_one_executor(house: House) -> None:
    ours = house.work(f'[job.train]\ncommand = "echo ours"\n{SYSTEM}')
    theirs = house.work(f'[job.train]\ncommand = "echo theirs"\n{SYSTEM}')
    commits = {ours: ours.pushed(), theirs: theirs.pushed()}
    logs = {work.results(house.done(commit))["log.txt"] for work, commit in commits.items()}
    assert logs == {"ours", "theirs"}


def test_people_look_at_runs_by_commit_branch_and_id(house: House) -> None:
    work = house.work(f'[job.train]\ncommand = "echo one; echo two"\n{SYSTEM}')
    commit = work.pushed()
    followed = wait_until(lambda: done if (done := house.cli("logs", "-f", commit)).returncode != 5 else None)
    assert (followed.returncode, followed.stdout) == (0, "one\ntwo\n")
    view = house.done(commit)
    assert house.cli("logs", view.run.short).stdout == "one\ntwo\n"
    assert [run["id"] for run in house.json("ps", commit[:10])] == [view.run.id]
    assert view.run.id in [run["id"] for run in house.json("ps", "main", "--limit", "100")]
    assert view.run.short in house.cli("ps").stdout
    shown = house.cli("show", commit).stdout
    assert "succeeded" in shown
    assert view.run.result_path in shown
    missing = house.cli("show", "feedfacefeed")
    assert missing.returncode == 5
    assert "Traceback" not in missing.stderr


def test_a_rerun_is_a_run_of_its_own(house: House) -> None:
    work = house.work(f'[job.train]\ncommand = "echo again"\n{SYSTEM}')
    first = house.done(work.pushed())
    again = house.json("rerun", first.run.short)
    assert again["id"] != first.run.id
    view = house.until(again["id"], State.DONE)
    assert view.run.outcome is Outcome.SUCCEEDED
    assert work.results_count() == 2
