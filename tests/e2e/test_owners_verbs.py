"""The owner's own verbs with real processes: pause takes a training back, resume lets it go on."""

import json
from pathlib import Path

import pytest
from house import SYSTEM, housed

from pushtrain.core.values.states import Outcome, State

pytestmark = pytest.mark.slow

SAVES = """
import os, signal, sys
at = os.path.join(os.environ["PUSHTRAIN_CHECKPOINT_DIR"], "step")
if os.environ.get("PUSHTRAIN_RESUME"):
    print("resumed at", open(at).read())
    sys.exit(0)
def save(*_):
    open(at, "w").write("7")
    sys.exit(85)
signal.signal(signal.SIGTERM, save)
print("ready", flush=True)
while True:
    signal.pause()
"""


def test_a_pause_takes_a_training_back_and_resume_lets_it_go_on(tmp_path: Path) -> None:
    with housed(tmp_path) as house:
        house.start_executor()
        house.start_sender()
        work = house.work(f'[job.train]\ncommand = ["python3", "train.py"]\n{SYSTEM}', {"train.py": SAVES})
        commit = work.pushed()
        run = house.run_of(commit).run
        house.wait(lambda: "ready" in house.cli("logs", run.short).stdout, "the training")
        owner = house.executor_state
        said = house.cli("pause", state=owner)
        assert "1 run gives back what it holds within 30 s." in said.stdout
        house.until(run.id, State.QUEUED)
        (told,) = house.json("ps")
        assert told["waiting_for"] == "lab-1 waits: the owner has paused lending"
        (answer,) = house.json("executor", "status")
        assert answer["capacity"]["waits"] == "the owner has paused lending"
        line = house.cli("executor", "status", "--line", state=owner).stdout
        assert line == "lab-1: paused · 1 waits\n"
        assert json.loads(owner.standing.read_text())["lent"] is False
        house.cli("resume", state=owner)
        view = house.done(commit)
        assert (view.run.outcome, view.run.attempt) == (Outcome.SUCCEEDED, 2)
        assert work.results(view)["log.txt"] == "resumed at 7"
