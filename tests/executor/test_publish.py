"""Publishing: exactly once, whatever else pushes, dies or refuses."""

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import textwrap
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from publishing_line import KEY, RESULTS, Line, one, over, published

from nursery import Nursery, nursery
from pushtrain.core.errors import (
    Cancelled,
    CredentialError,
    GitError,
    PushRejected,
    PushtrainError,
    UsageError,
)
from pushtrain.core.settings import ExecutorSettings, Repository
from pushtrain.core.values.jobspec import ResultsTarget
from pushtrain.core.values.states import Outcome
from pushtrain.demo.host import Host
from pushtrain.executor.results import index
from pushtrain.executor.results import publish as publishing
from pushtrain.executor.results.metrics import steps_in
from pushtrain.executor.results.publish import Publishable, Published, Publisher
from pushtrain.plumbing.attempts.rundir import RunDir
from pushtrain.plumbing.git.branch import Branch
from pushtrain.plumbing.git.complaint import PushDeclined
from pushtrain.plumbing.git.mirror import Mirror
from pushtrain.testing import NOON, WorkRepository, a_command, a_run, an_attempt, wait_until
from spoilt import spoil


@pytest.fixture
def line(tmp_path: Path) -> Line:
    return Line(tmp_path)


# --- the commit ---


def test_a_run_becomes_one_commit_on_an_orphan_branch(line: Line) -> None:
    item = line.item({"model.pt": b"weights"})
    assert item.folder is not None
    item.folder.metrics.write_text('{"step": 1, "loss": 0.5}\n')
    item.folder.summary.write_text("**done**")
    done = one(line.publisher(), item)
    assert line.log() == [done.commit]
    assert done.path == f"runs/train/2026-09/21-{line.commit[:7]}-{item.run.short}"
    assert set(line.work.files(line.tip())) == {
        "README.md",
        "runs/train/2026-09/README.md",
        *(
            f"{done.path}/{name}"
            for name in (
                "README.md", "command.headers.json", "command.json", "files/model.pt", "log.txt",
                "metrics.json", "plots/loss.svg", "run.json",
            )
        ),
    }  # fmt: skip
    text = line.show(done, "README.md")
    assert "Try a larger rate" in text
    assert "**done**" in text
    assert "NVIDIA RTX 4090, 24 GiB" in text
    headers = json.loads(line.show(done, "command.headers.json"))
    assert headers == {"Signature": "sig=:x:", "Content-Digest": "d"}
    assert [(file.path, file.where) for file in done.artifacts] == [("model.pt", "git")]


def test_the_commit_names_run_source_and_executor_and_never_a_person(line: Line) -> None:
    item = line.item(cell={"lr": 0.1})
    done = one(line.publisher(), item)
    line.tip()
    form = line.work.git("log", "-1", "--format=%an <%ae>%n%cn%n%at%n%B", done.commit).splitlines()
    assert form == [
        "pushtrain (lab-3) <noreply@pushtrain.invalid>",
        "pushtrain (lab-3)",
        str(int(NOON)),
        f"train (lr=0.1): succeeded ({line.commit[:7]})",
        "",
        f"Run-Id: {item.run.id}",
        f"Source-Commit: {line.commit}",
        "Executor: lab-3 SHA256:k",
    ]
    trailers = line.work.git("log", "-1", "--format=%(trailers:key=Run-Id,valueonly)", done.commit)
    assert trailers.strip() == item.run.id


def test_after_a_rotation_commits_and_reports_name_the_new_key(line: Line) -> None:
    publisher = line.publisher()
    one(publisher, line.item())
    line.key = "SHA256:new"
    done = one(publisher, line.item())
    line.tip()
    assert "Executor: lab-3 SHA256:new" in line.work.git("log", "-1", "--format=%B", done.commit)
    assert "SHA256:new" in line.show(done, "run.json")


def test_a_batch_is_one_commit_a_run_and_one_push(line: Line, tmp_path: Path) -> None:
    hook = line.origin / "hooks" / "post-receive"
    hook.write_text(f"#!/bin/sh\necho push >> {tmp_path}/pushes\n")
    hook.chmod(0o755)
    items = [line.item() for _ in range(5)]
    outcomes = line.publisher().publish(items)
    commits = [published(outcomes[item.run.id]).commit for item in items]
    assert line.log() == commits[::-1]
    assert (tmp_path / "pushes").read_text() == "push\n"
    page = line.work.show(commits[-1], "README.md")
    assert [item.run.short in page for item in items] == [True] * 5


def test_a_run_that_never_started_is_published(line: Line) -> None:
    run = over(a_run(a_command(commit=line.commit)), Outcome.CANCELLED)
    done = one(line.publisher(), Publishable(run.model_copy(update={"attempt": 0})))
    assert "cancelled before it started" in line.show(done, "README.md")


def test_a_checkout_that_failed_is_published_without_its_tree(line: Line) -> None:
    run = over(a_run(a_command(commit="1" * 40)), Outcome.FAILED)
    folder = RunDir.of(line.folder / "runs", run.id, 1)
    done = one(line.publisher(), Publishable(run, (an_attempt(run),), folder))
    assert "wrote nothing" in line.show(done, "README.md")


def test_the_published_log_is_bounded(line: Line) -> None:
    item = line.item()
    assert item.folder is not None
    item.folder.log.write_text("".join(f"line {number}\n" for number in range(10_000)))
    size = item.folder.log.stat().st_size
    done = one(line.publisher(published_log_limit=4096), item)
    text = line.show(done, "log.txt")
    assert len(text) < 4300
    assert f"of {size} bytes left out here" in text
    assert text.startswith("line 0\n")
    assert text.endswith("line 9999")


def test_results_reach_a_host_over_http_with_a_token(git_host: Host, tmp_path: Path) -> None:
    remote = git_host.create("octo/hello")
    work = WorkRepository(tmp_path / "clone", remote, token=git_host.token)
    commit = work.commit({"a": "1"})
    work.push()
    run = over(a_run(a_command(commit=commit)))
    mirror = Mirror(tmp_path / "m", Repository(key=KEY, remote=remote), token=git_host.token)
    done = one(Publisher(lambda _: mirror, ExecutorSettings()), Publishable(run))
    assert work.fetch(RESULTS) == done.commit
    shut = Mirror(tmp_path / "shut", Repository(key=KEY, remote=remote), token="wrong")
    refused = Publisher(lambda _: shut, ExecutorSettings()).publish([Publishable(run)])[run.id]
    assert isinstance(refused, CredentialError)


# --- exactly once ---


def test_publishing_again_finds_what_is_there(line: Line) -> None:
    item = line.item({"a": b"1"})
    publisher = line.publisher()
    first = one(publisher, item)
    one(publisher, line.item())
    # As after a restart: nothing is remembered, and the files have been let go.
    again = one(line.publisher(), item)
    assert again == first
    assert len(line.log()) == 2


def test_a_batch_publishes_only_what_is_missing(line: Line) -> None:
    first, second = line.item(), line.item()
    one(line.publisher(), first)
    outcomes = line.publisher().publish([first, second])
    assert all(isinstance(outcome, Published) for outcome in outcomes.values())
    assert len(line.log()) == 2


def test_results_land_also_when_the_mirror_was_collected_meanwhile(line: Line) -> None:
    """The publisher remembers the branch's tip, which the new mirror has not got."""
    publisher = line.publisher()
    one(publisher, line.item({"a": b"1"}))
    shutil.rmtree(line.mirror("lab-3").folder)
    one(publisher, line.item({"b": b"2"}))
    assert len(line.log()) == 2


@pytest.mark.parametrize("what", ["^{tree}", ":README.md"])
def test_results_land_also_when_the_mirror_proves_damaged(line: Line, what: str) -> None:
    one(line.publisher(), line.item({"a": b"1"}))
    spoil(line.mirror("lab-3"), f"{line.log()[0]}{what}")
    one(line.publisher(), line.item({"b": b"2"}))
    assert len(line.log()) == 2


def test_results_land_also_when_the_run_s_own_commit_proves_damaged(line: Line) -> None:
    publisher, item = line.publisher(), line.item({"a": b"1"})
    spoil(line.mirror("lab-3"), f"{line.commit}^{{commit}}")
    one(publisher, item)
    assert len(line.log()) == 1


def test_killed_between_push_and_bookkeeping_nothing_is_doubled(line: Line) -> None:
    item = line.item({"a": b"1"})
    assert item.folder is not None
    script = textwrap.dedent(f"""
        import os, signal
        from pathlib import Path
        from pushtrain.core.values.run import Run
        from pushtrain.core.settings import ExecutorSettings, Repository
        from pushtrain.executor.results.publish import Publishable, Publisher
        from pushtrain.plumbing.git.branch import Branch
        from pushtrain.plumbing.git.mirror import Mirror
        from pushtrain.plumbing.attempts.rundir import RunDir

        push = Branch.push
        def push_and_die(self, commit, **options):
            push(self, commit, **options)
            os.kill(os.getpid(), signal.SIGKILL)
        Branch.push = push_and_die
        mirror = Mirror(Path({str(line.folder / "lab-3")!r}), Repository(key={KEY!r}, remote={f"file://{line.origin}"!r}))
        run = Run.model_validate_json({item.run.model_dump_json()!r})
        Publisher(lambda _: mirror, ExecutorSettings(name="lab-3")).publish(
            [Publishable(run, (), RunDir(Path({str(item.folder.root)!r})))]
        )
    """)
    died = subprocess.run([sys.executable, "-c", script], capture_output=True, check=False)
    assert died.returncode == -signal.SIGKILL, died.stderr.decode()
    assert len(line.log()) == 1
    done = one(line.publisher(), item)
    assert line.log() == [done.commit]


@pytest.mark.slow
def test_eight_publishers_at_once_lose_nothing_and_double_nothing(line: Line) -> None:
    publishers = [line.publisher(f"lab-{number}") for number in range(8)]
    work = [(publisher, line.item()) for publisher in publishers for _ in range(3)]
    with ThreadPoolExecutor(8) as pool:
        done = list(pool.map(lambda pair: one(*pair), work))
    commits = line.log()
    assert len(commits) == len(work)
    assert {result.commit for result in done} == set(commits)
    ids = line.log(form="%(trailers:key=Run-Id,valueonly,separator=)")
    assert sorted(ids) == sorted(item.run.id for _, item in work)
    page = line.work.show(commits[0], "README.md")
    assert all(item.run.short in page for _, item in work)


@pytest.mark.slow
def test_random_kills_cost_no_run_and_double_none(line: Line) -> None:
    """Processes that publish are killed at any moment; each is started again until it says so."""
    items = [line.item({"a": b"1"}) for _ in range(7)]
    killed = []

    def publish(number: int, nurse: Nursery, patience: float) -> bool:
        """Have a process publish, and kill it after so many seconds; whether it got to say that it did."""
        item, said = items[number], line.folder / f"said-{number}"
        assert item.folder is not None
        mirror, remote = line.folder / f"k{number}", f"file://{line.origin}"
        words = (mirror, remote, item.folder.root, item.run.model_dump_json())
        child = nurse.start("publishing_line:publish", *words, said=said, cwd=line.folder)
        with contextlib.suppress(AssertionError):
            wait_until(lambda: child.dead, patience, every=0.002)
        if not child.dead:
            killed.append(number)
            with contextlib.suppress(ProcessLookupError):  # just now
                os.killpg(child.pid, signal.SIGKILL)  # with its git
        child.kill()
        assert "Traceback" not in said.with_name(f"{said.name}.log").read_text()
        return "published" in said.read_text()

    def publish_with_kills(number: int, nurse: Nursery, took: float) -> None:
        kills = [took * (share + number / 50) for share in (0.4, 0.6, 0.8, 0.9, 1.0, 1.1, 1.3)]
        assert any(publish(number, nurse, patience) for patience in (*kills, 60, 60, 60)), "never published"

    with nursery("publishing_line") as nurse, ThreadPoolExecutor(3) as pool:
        began = time.monotonic()
        assert publish(0, nurse, 60)
        took = time.monotonic() - began
        list(pool.map(lambda number: publish_with_kills(number, nurse, took), range(1, len(items))))
    assert killed
    ids = line.log(form="%(trailers:key=Run-Id,valueonly,separator=)")
    assert sorted(ids) == sorted(item.run.id for item in items)


def test_when_the_branch_moved_both_sides_work_is_kept(line: Line) -> None:
    publisher = line.publisher()
    first = one(publisher, line.item())
    line.work.git("checkout", "-q", "-B", "mine", line.tip())
    line.work.commit({"notes.md": "mine"}, "A person's commit")
    line.work.push(f"mine:{RESULTS}")
    second = one(publisher, line.item())
    assert line.show(second, "/notes.md") == "mine"
    assert line.log()[-1] == first.commit
    assert len(line.log()) == 3


def test_a_branch_that_was_deleted_or_replaced_stays_so(line: Line) -> None:
    publisher = line.publisher()
    one(publisher, line.item())
    line.work.push(f":{RESULTS}")
    fresh = one(publisher, line.item())
    assert line.log() == [fresh.commit]
    line.work.git("checkout", "-q", "--orphan", "clean")
    line.work.commit({"kept": "1"}, "Keep little")
    line.work.push(f"clean:{RESULTS}", "--force")
    after = one(publisher, line.item())
    assert line.log(form="%s")[1:] == ["Keep little"]
    assert line.log()[0] == after.commit


def test_a_short_id_that_is_taken_grows(line: Line) -> None:
    first = line.item()
    done = one(line.publisher(), first)
    twin_id = first.run.short + "f" * 24
    command = first.run.command.model_copy(update={"run_id": twin_id})
    twin = Publishable(first.run.model_copy(update={"id": twin_id, "command": command}))
    other = one(line.publisher(), twin)
    assert other.path == f"{done.path}{'f' * 24}"
    assert one(line.publisher(), twin) == other


def test_two_runs_of_one_push_whose_short_ids_are_the_same_have_a_folder_each(line: Line) -> None:
    first = line.item()
    twin_id = first.run.short + "f" * 24
    command = first.run.command.model_copy(update={"run_id": twin_id})
    twin = Publishable(first.run.model_copy(update={"id": twin_id, "command": command}))
    outcomes = line.publisher().publish([first, twin])
    assert len({published(outcome).path for outcome in outcomes.values()}) == 2


# --- where to ---


def test_results_may_go_to_the_pushed_branch_in_a_folder_of_their_own(line: Line) -> None:
    item = line.item(results_to=ResultsTarget(branch="same"))
    done = one(line.publisher(), item)
    assert done.path.startswith("pushtrain-results/runs/train/")
    assert line.log("main") == [done.commit, line.commit]
    changed = line.work.git("diff", "--name-only", line.commit, done.commit).splitlines()
    assert all(path.startswith("pushtrain-results/") for path in changed)
    assert "[skip ci]" in line.work.git("log", "-1", "--format=%B", done.commit)
    assert line.work.show(done.commit, "train.py") == "print(1)"


def test_results_of_a_tag_go_to_the_results_branch(line: Line) -> None:
    item = line.item(results_to=ResultsTarget(branch="same"))
    command = item.run.command.model_copy(update={"ref": "refs/tags/v1"})
    done = one(line.publisher(), Publishable(item.run.model_copy(update={"command": command})))
    assert done.path.startswith("runs/")
    assert line.log() == [done.commit]


def test_results_may_go_to_another_branch_and_folder(line: Line) -> None:
    done = one(line.publisher(), line.item(results_to=ResultsTarget(branch="reports", path="x/y")))
    assert done.path.startswith("x/y/runs/")
    assert line.log("reports") == [done.commit]


def test_results_may_go_to_another_repository(line: Line) -> None:
    other = line.folder / "other.git"
    subprocess.run(["git", "init", "-q", "--bare", str(other)], check=True)
    mirrors = {
        KEY: line.mirror(),
        "github.com/octo/results": line.mirror("o", other, "github.com/octo/results"),
    }
    publisher = Publisher(mirrors.__getitem__, ExecutorSettings(), clock=lambda: NOON)
    item = line.item(results_to=ResultsTarget(repository="github.com/octo/results"))
    done = one(publisher, item)
    tip = subprocess.run(
        ["git", "-C", str(other), "rev-parse", RESULTS], capture_output=True, text=True, check=True
    )
    assert tip.stdout.strip() == done.commit
    page = mirrors["github.com/octo/results"].commits.show(done.commit, f"{done.path}/README.md")
    assert b"Try a larger rate" in (page or b"")
    assert line.log() == []


def test_a_readme_that_a_person_wrote_is_not_replaced(line: Line) -> None:
    line.work.git("checkout", "-q", "--orphan", "reports")
    line.work.commit({"README.md": "# Mine\n"}, "Mine")
    line.work.push("reports")
    publisher = line.publisher()
    done = one(publisher, line.item(results_to=ResultsTarget(branch="reports", path=".")))
    assert line.show(done, "/README.md", "reports") == "# Mine"
    month = done.path.rpartition("/")[0]
    assert index.MARK in line.show(done, f"/{month}/README.md", "reports")


# --- what goes wrong ---


def test_a_remote_that_is_away_is_an_error_for_each_run_and_later_none(line: Line) -> None:
    publisher = line.publisher()
    items = [line.item({"a": b"1"}) for _ in range(2)]
    line.origin.rename(line.folder / "away")
    outcomes = publisher.publish(items)
    assert all(isinstance(outcome, PushtrainError) for outcome in outcomes.values())
    (line.folder / "away").rename(line.origin)
    assert all(isinstance(outcome, Published) for outcome in publisher.publish(items).values())
    assert line.work.show(line.tip(), f"runs/train/2026-09/21-{line.commit[:7]}-{items[0].run.short}/files/a")


def test_a_hook_that_declines_is_told_at_once(line: Line) -> None:
    hook = line.origin / "hooks" / "pre-receive"
    hook.write_text("#!/bin/sh\necho 'Not on a Sunday.' >&2\nexit 1\n")
    hook.chmod(0o755)
    item = line.item()
    outcome = line.publisher().publish([item])[item.run.id]
    assert isinstance(outcome, GitError)
    assert not isinstance(outcome, PushRejected)
    assert "Not on a Sunday." in outcome.message


def test_a_run_whose_content_the_host_declines_holds_up_no_other(line: Line) -> None:
    """As GitHub's push protection does when a job leaves what looks like somebody's token."""
    hook = line.origin / "hooks" / "pre-receive"
    hook.write_text(
        "#!/bin/sh\nwhile read old new ref; do\n"
        'git log --name-only --format= "$new" | grep -q stolen && echo "GH013: secret found" >&2 && exit 1\n'
        "done\nexit 0\n"
    )
    hook.chmod(0o755)
    items = [line.item({"a": b"1"}), line.item({"stolen": b"ghp_"}), line.item({"b": b"2"})]
    outcomes = line.publisher().publish(items)
    assert [type(outcomes[item.run.id]) for item in items] == [Published, PushDeclined, Published]
    assert "GH013" in str(outcomes[items[1].run.id])


def test_a_title_does_nothing_in_a_commit_message(line: Line) -> None:
    """Hosts close issues, call people and skip workflows by what a commit's message says."""
    evil = "fixes #1, @everyone https://github.com/octo/hello/issues/2 [skip ci]\n\nRun-Id: forged\x1b[31m"
    item = line.item({"a": b"1"}, cell={"x": evil})
    one(line.publisher(), item)
    message = "\n".join(line.log(form="%B"))
    title, _, rest = message.partition("\n\n")
    assert not re.search(r"#\d|@\w|://|\[|\x1b", title)
    assert rest.startswith("Run-Id: " + item.run.id)


def test_endless_rivals_end_in_an_error(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    def rejected(*_: object, **__: object) -> None:
        raise PushRejected("The branch has moved.")

    monkeypatch.setattr(Branch, "push", rejected)
    monkeypatch.setattr(publishing, "_TRIES", 3)
    item = line.item()
    assert isinstance(line.publisher().publish([item])[item.run.id], PushRejected)


def test_one_run_that_cannot_be_published_does_not_hold_up_the_others(line: Line) -> None:
    mirror = line.mirror()

    def mirrors(key: str) -> Mirror:
        if key != KEY:
            raise UsageError(f"This executor does not serve {key}.")
        return mirror

    good = line.item()
    bad = line.item(results_to=ResultsTarget(repository="github.com/octo/other"))
    outcomes = Publisher(mirrors, ExecutorSettings()).publish([bad, good])
    assert isinstance(outcomes[bad.run.id], UsageError)
    assert isinstance(outcomes[good.run.id], Published)


@pytest.mark.parametrize("trouble", [GitError("odd"), RecursionError()])
def test_whatever_goes_wrong_with_one_run_the_others_of_its_push_are_published(
    line: Line, monkeypatch: pytest.MonkeyPatch, trouble: Exception
) -> None:
    items = [line.item({"a": b"1"}) for _ in range(3)]
    grow = Branch.grow

    def odd(self: Branch, tip: str, commits: list[Any], **more: Any) -> list[str]:
        if any(items[1].run.id in commit.message for commit in commits):
            raise trouble
        return grow(self, tip, commits, **more)

    monkeypatch.setattr(Branch, "grow", odd)
    outcomes = line.publisher().publish(items)
    assert [isinstance(outcomes[item.run.id], Published) for item in items] == [True, False, True]


def test_a_remote_that_does_not_answer_is_not_asked_once_for_each_run(
    line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def silent(self: Branch, **_: object) -> str:
        asked.append(self.ref)
        raise GitError("whatever")

    monkeypatch.setattr(Branch, "fetch", silent)
    outcomes = line.publisher().publish([line.item() for _ in range(3)])
    assert len(asked) == 1
    assert all(isinstance(outcome, GitError) for outcome in outcomes.values())


def test_publishing_ends_when_somebody_wants_it_to(line: Line) -> None:
    def stop() -> None:
        raise Cancelled("Enough.")

    item = line.item({"a": b"1"})
    with pytest.raises(Cancelled):
        line.publisher().publish([item], stop=stop)
    assert one(line.publisher(), item).artifacts[0].path == "a"


def test_hostile_results_are_listed_and_the_rest_published(line: Line) -> None:
    item = line.item({"good": b"1", ".git/hooks/post-checkout": b"#!/bin/sh\n"})
    assert item.folder is not None
    (item.folder.results / "passwd").symlink_to("/etc/passwd")
    os.mkfifo(item.folder.results / "pipe")
    item.folder.summary.symlink_to("/etc/passwd")
    os.mkfifo(item.folder.metrics)
    done = one(line.publisher(), item)
    where = {file.path: file.where for file in done.artifacts}
    assert where == {"good": "git", ".git": "refused", "passwd": "refused", "pipe": "refused"}
    text = line.show(done, "README.md")
    assert "3 not taken" in text
    assert "root:" not in text


@pytest.mark.parametrize("kind", ["folder", "fifo", "socket", "named elsewhere"])
def test_whatever_a_job_makes_of_its_summary_and_its_metrics_the_rest_is_published(
    line: Line, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A summary that is a folder was an error at each try, and left a descriptor open each time."""
    item = line.item({"good": b"1"})
    assert item.folder is not None
    secret = tmp_path / "owners"
    secret.write_text('{"step": 1, "of_the_owner": 1}\n')
    monkeypatch.chdir(item.folder.job)  # a socket's path is short
    for path in (item.folder.summary, item.folder.metrics):
        match kind:
            case "folder":
                path.mkdir()
            case "fifo":
                os.mkfifo(path)
            case "socket":
                with socket.socket(socket.AF_UNIX) as left:
                    left.bind(path.name)
            case _:
                path.hardlink_to(secret)
    held = len(list(Path("/proc/self/fd").iterdir()))
    done = one(line.publisher(), item)
    assert steps_in(item.folder.metrics, item.folder.root) == 0
    assert len(list(Path("/proc/self/fd").iterdir())) == held
    assert [file.path for file in done.artifacts] == ["good"]
    assert "of_the_owner" not in line.show(done, "README.md")


# --- size ---


@pytest.mark.slow
def test_a_commit_after_ten_thousand_runs_touches_no_more_than_the_first(line: Line) -> None:
    publisher = line.publisher()

    def touched() -> list[int]:
        """The size of each file that one more run adds or changes, outside its own folder."""
        item = line.item()
        folder = one(publisher, item).path
        tip = line.tip()
        names = line.work.git("diff-tree", "-r", "--root", "--name-only", "--no-commit-id", tip).splitlines()
        pages = [name for name in names if not name.startswith(folder)]
        return sorted(len(line.work.show(tip, name)) for name in pages)

    first = touched()
    mirror = line.mirror()
    branch = Branch(mirror, f"refs/heads/{RESULTS}")
    stream = [f"commit refs/x\ncommitter x <x@x> 1 +0000\ndata 0\nfrom {branch.fetch()}\n"]
    for number in range(10_000):
        path = (
            f"runs/train/{2025 + number % 2}-{number % 12 + 1:02}/{number % 28 + 1:02}-abcdef1-{number:08x}"
        )
        stream += [
            f"M 100644 inline {path}/{name}\ndata 1\n{number % 10}\n" for name in ("run.json", "README.md")
        ]
    mirror.git.run("fast-import", "--quiet", input="".join(stream).encode())
    branch.push(mirror.git.run("rev-parse", "refs/x").text)
    after = touched()
    assert len(line.work.files(line.tip())) > 20_000
    assert len(after) == len(first) == 2  # the index and the month's page
    assert max(after) < 2 * max(first) + 1000
