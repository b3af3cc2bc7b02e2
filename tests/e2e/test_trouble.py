"""The line when parts of it fail, are missing, or are all in one process."""

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from house import AT_THE_GATE, SYSTEM, House, housed, open_gate

from pushtrain.core.values.states import Outcome, State
from pushtrain.plumbing.git.remotes import key_of
from pushtrain.testing import wait_until

pytestmark = pytest.mark.slow


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    with housed(tmp_path, repositories=2) as it:
        yield it


def test_a_lost_webhook_costs_time_and_nothing_else(house: House) -> None:
    work = house.work(f'[job.train]\ncommand = "echo ran"\n{SYSTEM}')
    work.pushed("Before anybody looked")
    house.start_executor()
    house.start_sender(poll_seconds=0.3, webhook=False)
    commit = work.pushed("Nobody is told of this", {"a.txt": "1"})
    assert house.done(commit).run.outcome is Outcome.SUCCEEDED


def test_a_sender_that_was_away_finds_what_was_pushed_meanwhile(house: House) -> None:
    house.start_executor()
    house.start_sender()
    work = house.work(f'[job.train]\ncommand = "echo ran"\n{SYSTEM}')
    house.done(work.pushed())
    house.kill("sender")
    house.host.quiet()
    commit = work.pushed("While it was away", {"a.txt": "1"})
    house.start_sender(poll_seconds=0.3, webhook=False)
    assert house.done(commit).run.outcome is Outcome.SUCCEEDED


def test_what_cannot_be_delivered_is_kept_until_it_can(house: House) -> None:
    house.start_executor()
    house.start_sender()
    port = house.port
    work = house.work(f'[job.train]\ncommand = "echo ran"\n{SYSTEM}')
    house.kill("executor")
    commit = work.pushed()
    wait_until(
        lambda: [one for one in house.host.deliveries if one.update.after == commit], what="the webhook"
    )
    house.start_executor(port=port)
    assert house.done(commit).run.outcome is Outcome.SUCCEEDED


def test_training_goes_on_while_its_executor_is_dead(house: House) -> None:
    house.start_executor()
    house.start_sender()
    port = house.port
    work = house.work(f'[job.train]\ncommand = "echo started; {AT_THE_GATE}; echo finished"\n{SYSTEM}')
    commit = work.pushed()
    run_id = house.run_of(commit).run.id
    house.until(run_id, State.RUNNING)
    client = house.client()
    wait_until(
        lambda: b"started" in client.log(run_id, attempt=1, offset=0, limit=100).data, what="its output"
    )
    house.kill("executor")
    open_gate(house.executor_state)
    house.start_executor(port=port)
    view = house.until(run_id, State.DONE)
    assert (view.run.outcome, view.run.attempt) == (Outcome.SUCCEEDED, 1)
    assert work.results(view)["log.txt"] == "started\nfinished"
    assert work.results_count() == 1


def test_one_process_does_it_all_without_webhook_or_keys(house: House) -> None:
    state = house.sender_state
    out = house.start(
        "up", "up", "--state", state.root, "--repo", house.remotes[0], "--port", "0", "--poll-seconds", "0.3"
    )
    house.facts("up", out)
    work = house.work(f'[job.train]\ncommand = "echo up"\n{SYSTEM}', number=0)

    work.pushed()
    client = house.client(state)
    run = wait_until(lambda: next(iter(client.runs(limit=1)), None), timeout=30, what=house.logs())
    view = wait_until(lambda: seen if (seen := client.view(run.id)).run.final else None, timeout=30)
    assert view.run.outcome is Outcome.SUCCEEDED
    assert work.results(view)["log.txt"] == "up"
    assert [one["id"] for one in house.json("ps", state=state)] == [run.id]


def test_submodules_come_along_when_asked_for(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PUSHTRAIN_RULES_SUBMODULES", key_of(house.remotes[1]))  # private: the owner lends it
    house.start_executor()
    house.start_sender()
    library = house.work("", {"lib.txt": "from the library"}, number=1)
    library.git("rm", "--quiet", "--cached", "pushtrain.toml", check=False)
    (library.folder / "pushtrain.toml").unlink()
    library.pushed("The library")
    job = f'[job.train]\ncommand = "cat lib/lib.txt"\nsubmodules = true\n{SYSTEM}'
    work = house.work(job, {".gitmodules": '[submodule "lib"]\n\tpath = lib\n\turl = ../r1.git\n'}, number=0)
    work.git("update-index", "--add", "--cacheinfo", f"160000,{library.head()},lib")
    (work.folder / "lib").mkdir()
    view = house.done(work.pushed())
    assert view.run.outcome is Outcome.SUCCEEDED, view.run
    assert work.results(view)["log.txt"] == "from the library"


def test_a_push_by_hand_needs_no_sender_process(house: House) -> None:
    house.start_executor()
    work = house.work(
        f'[job.train]\ncommand = "echo lr is ${{{{ matrix.lr }}}}"\n{SYSTEM}[job.train.matrix]\nlr = [1, 2]\n'
    )
    work.pushed()
    sent = house.cli("send", "main", "--param", "lr=0.5", "--wait", cwd=work.folder)
    assert sent.returncode == 0, sent.stderr
    assert "lr is 0.5" in sent.stdout
    (run,) = house.json("ps")
    view = house.until(run["id"], State.DONE)
    assert view.run.outcome is Outcome.SUCCEEDED
    assert work.results(view)["log.txt"] == "lr is 0.5"


def test_an_executor_that_is_never_called_watches_its_repository_itself(house: House) -> None:
    state = house.sender_state
    flags = ("--tunnel", "none", "--poll", "--poll-seconds", "0.3", "--port", "0")
    out = house.start(
        "executor", "executor", "--state", state.root, "--repo", house.remotes[0], "--name", "lab-9", *flags
    )
    facts = house.facts("executor", out)
    assert facts["polls"] == "every 0.3 s"
    assert "webhook" not in facts
    work = house.work(f'[job.train]\ncommand = "echo by itself"\n{SYSTEM}', number=0)
    commit = work.pushed()
    (run,) = house.wait(lambda: house.json("ps", commit, state=state), "its run")
    assert house.cli("logs", "-f", run["id"], state=state).stdout == "by itself\n"
    assert house.json("show", run["id"], state=state)["attempts"][0]["executor"] == "lab-9"


def test_a_drained_executor_has_finished_and_what_came_meanwhile_waits_at_the_sender(house: House) -> None:
    house.start_executor()
    house.start_sender()
    work = house.work(f'[job.train]\ncommand = "{AT_THE_GATE}"\n{SYSTEM}')
    first = house.until(house.run_of(work.pushed()).run.id, State.RUNNING).run
    out = house.start("drain", "executor", "drain", "--state", house.executor_state.root)
    executor, draining = house.processes["executor"], house.processes["drain"]
    house.wait(lambda: house.client().challenge().card.draining, "the drain")

    def told() -> bool:
        cards = house.json("roster", "--repo", house.remotes[0], state=house.executor_state)["cards"]
        return [one["verdict"]["card"]["draining"] for one in cards] == [True]

    house.wait(told, "the roster to tell of it")
    work.pushed("Too late", {"a.txt": "1"})
    house.wait(
        lambda: [one for one in house.json("ps") if "draining" in one.get("waiting_for", "")], "what waits"
    )
    assert draining.poll() is None
    open_gate(house.executor_state)
    assert (draining.wait(30), executor.wait(30)) == (0, 0), house.logs()
    assert json.loads(out.read_text()) == {"draining": False, "stopped": True, "running": 0}
    assert work.results_count() == 1, "what ran is published"
    again = house.cli("executor", "drain", state=house.executor_state)
    assert (again.returncode, "No executor serves" in again.stderr) == (5, True)
    assert house.json("show", first.id, state=house.executor_state)["run"]["state"] == "done"


def test_an_executor_that_stood_still_goes_on_as_if_nothing_had_been(house: House) -> None:
    """As a machine does that slept: nothing of it runs, its connections stand, and then it goes on."""
    house.start_executor("--slots", "2")
    house.start_sender()
    work = house.work(f'[job.train]\ncommand = "echo begun; {AT_THE_GATE}; echo through"\n{SYSTEM}')
    first = house.until(house.run_of(work.pushed()).run.id, State.RUNNING).run
    executor = house.processes["executor"]
    asleep = [executor.pid, *house.jobs()]
    for pid in asleep:
        os.kill(pid, signal.SIGSTOP)
    try:
        second = work.pushed("While it sleeps", {"a.txt": "1"})
        house.wait(
            lambda: [
                one for one in house.json("sender", "status")["pushes"] if "starts 1 run" in one["note"]
            ][1:],
            "the sender to have something for it",
        )
    finally:
        for pid in asleep:
            os.kill(pid, signal.SIGCONT)
    view = house.until(house.run_of(second).run.id, State.RUNNING)
    open_gate(house.executor_state)
    for run in (first, view.run):
        ended = house.until(run.id, State.DONE)
        assert (ended.run.outcome, len(ended.attempts)) == (Outcome.SUCCEEDED, 1)
        assert work.results(ended)["log.txt"].split() == ["begun", "through"]
    assert len(house.runs(second)) == 1
