"""What became of a push, asked for by people while executors are away, do not fit, or were stopped."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from house import AT_THE_GATE, SYSTEM, House, housed, open_gate

from pushtrain.core.values.states import State
from pushtrain.plumbing.disk.lock import FolderLock

pytestmark = pytest.mark.slow


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    with housed(tmp_path) as it:
        yield it


def test_a_job_that_nobody_fits_is_listed_explained_and_dropped(house: House) -> None:
    house.start_executor()
    house.start_sender()
    work = house.work(f'[job.gpu]\ncommand = "echo never"\ngpus = 1\n{SYSTEM}')
    commit = work.pushed()
    (run,) = house.wait(
        lambda: [one for one in house.json("ps") if "0 GPUs" in one["waiting_for"]], "it to wait"
    )
    assert (run["state"], run["command"]["commit"]) == ("waiting", commit)
    assert run["waiting_for"].startswith("no executor fits")

    shown = house.cli("show", "gpu")
    assert shown.returncode == 0, shown.stderr
    assert "waiting (no executor fits" in shown.stdout
    assert house.json("show", commit[:8])["run"]["id"] == run["id"]
    logs = house.cli("logs", "gpu")
    assert (logs.returncode, "no executor fits" in logs.stderr) == (5, True)
    status = house.json("sender", "status")
    assert [push["note"][:12] for push in status["pushes"]] == ["starts 1 run"]
    assert [one["id"] for one in status["unsent"]] == [run["id"]]
    assert status["process"] == house.processes["sender"].pid

    cancelled = house.json("cancel", "gpu")
    assert (cancelled["state"], cancelled["outcome"]) == ("cancelled", "cancelled")
    assert [one["state"] for one in house.json("ps")] == ["cancelled"]
    again = house.cli("cancel", "gpu")
    assert (again.returncode, "cancelled already" in again.stderr) == (6, True)


def test_a_push_that_starts_nothing_tells_why(house: House) -> None:
    house.start_executor()
    house.start_sender()
    work = house.work(f'[job.train]\ncommand = "echo ran"\n{SYSTEM}')
    commit = work.pushed("Not now [skip train]")
    house.wait(
        lambda: [push for push in house.json("sender", "status")["pushes"] if push["note"]], "the push"
    )
    shown = house.cli("show", commit)
    assert shown.returncode == 5
    assert "[skip train]" in shown.stderr
    assert "[skip train]" in house.cli("ps").stdout
    assert "[skip train]" in " ".join(house.cli("sender", "status").stdout.split())


def test_a_push_that_the_owners_rules_refuse_says_which_at_the_sender(house: House) -> None:
    house.executor_state.settings.write_text('[[rules.allow]]\nbranches = ["release"]\n')
    house.start_executor()
    house.start_sender()
    work = house.work(f'[job.train]\ncommand = "echo never"\n{SYSTEM}')
    work.pushed()
    (run,) = house.wait(
        lambda: [one for one in house.json("ps") if one["state"] == "refused"], "it to be refused"
    )
    assert "rule `rules.allow`: the branches `release` are allowed, not `main`" in run["detail"]
    for words in (("show", "train"), ("ps",)):
        told = " ".join(house.cli(*words).stdout.split())
        assert "refused" in told
        assert "`rules.allow`" in told
    assert house.jobs() == []


def test_the_history_stays_when_everything_is_stopped(house: House) -> None:
    state = house.sender_state
    watch = ("--repo", house.remotes[0], "--poll-seconds", "0.3")
    flags = ("--state", str(state.root), "--port", "0", "--slots", "2", *watch)
    house.facts("up", house.start("up", "up", *flags))
    work = house.work(
        f'[job.done]\ncommand = "echo said"\n{SYSTEM}'
        f'[job.long]\ncommand = "echo begun; {AT_THE_GATE}; echo ended"\n'
        f"{SYSTEM}"
        f"[job.gpu]\ncommand = 'echo never'\ngpus = 1\n{SYSTEM}",
        number=0,
    )
    commit = work.pushed()

    def stands() -> dict[str, str]:
        return {one["command"]["job"]["name"]: one["state"] for one in house.json("ps", state=state)}

    client = house.client(state)
    runs = house.wait(lambda: found if len(found := client.runs(limit=9)) > 1 else None, "runs")
    run_of = {run.command.job.name: run for run in runs}
    house.wait(lambda: client.view(run_of["done"].id).run.final or None, "one to be done")
    house.wait(lambda: client.view(run_of["long"].id).run.state is State.RUNNING or None, "one to run")
    assert stands() == {"done": "done", "long": "running", "gpu": "waiting"}

    up = house.processes.pop("up")
    os.kill(up.pid, signal.SIGINT)
    assert up.wait(timeout=20) == 0
    assert stands() == {"done": "done", "long": "running", "gpu": "waiting"}
    assert "does not run: its runs are shown as it left them" in house.cli("ps", state=state).stderr
    with FolderLock(state.lock):  # another version perhaps, whose words are not understood
        assert "does not answer: its runs" in house.cli("ps", state=state).stderr
    assert "nobody serves this state folder" in house.json("show", "gpu", state=state)["run"]["waiting_for"]
    assert house.json("show", "done", state=state)["run"]["outcome"] == "succeeded"
    assert house.cli("logs", "done", state=state).stdout == "said\n"
    assert house.cli("cancel", "long", state=state).returncode == 7
    open_gate(state)
    followed = house.cli("logs", "-f", "long", state=state)
    assert (followed.stdout, followed.returncode) == ("begun\nended\n", 0)

    assert house.json("cancel", "gpu", state=state)["state"] == "cancelled"
    house.facts("up", house.start("up", "up", *flags))
    house.wait(lambda: stands() == {"done": "done", "long": "done", "gpu": "cancelled"} or None, "the end")
    assert house.json("ps", commit, "-n", "1", state=state)
    house.kill("up")
    assert stands() == {"done": "done", "long": "done", "gpu": "cancelled"}
