"""A storm: executors, sender and shims are killed at random while people push; then nothing may be missing.

    python tests/chaos/storm.py --kills 1000        # what `make chaos` does; half an hour

Real processes, as a user starts them, at a real Git host on loopback: two executors that one roster tells
of, and a sender. Owners come and go, so runs give way, and go on at the other executor with their checkpoint.
Every job keeps a journal in the home of its repository, which outlives it: that it began, with which line it
went on, and each line when it had said it. When the storm is over and everything has come to rest, the
journals, the stores and the results branch are held against each other (`reckoning`). A seed tells which
storm it was; what a killed process was doing is up to the machine.
"""

import argparse
import logging
import os
import random
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import tomlkit
import urllib3

sys.path.insert(0, str(Path(__file__).parents[1] / "e2e"))

from house import SECRET, House, Work, housed
from moto.server import ThreadedMotoServer
from reckoning import Book, Reckoning

from pushtrain.core.values.states import State
from pushtrain.core.values.value import CONFIG_BRANCH
from pushtrain.executor.runs import launch
from pushtrain.plumbing.attempts.rundir import RunDir
from pushtrain.plumbing.keys.authorized import load_or_create
from pushtrain.plumbing.keys.trusted import Trusted
from pushtrain.plumbing.owner.pause import PauseFile
from pushtrain.plumbing.programs import proc
from pushtrain.testing import wait_until

LINES: Final = 40
"""Lines that each job says, and steps that it logs."""
JOB: Final = f"""\
import json, os, pathlib, signal, sys, time

run, attempt = os.environ["PUSHTRAIN_RUN_ID"], os.environ["PUSHTRAIN_ATTEMPT"]
journal = os.open(pathlib.Path.home() / "journal", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
saved = pathlib.Path(os.environ["PUSHTRAIN_CHECKPOINT_DIR"], "at")
metrics = open(os.environ["PUSHTRAIN_METRICS"], "a", buffering=1)
asked = []
signal.signal(signal.SIGTERM, lambda *_: asked.append(1))

def note(what):
    os.write(journal, f"{{run}} {{attempt}} {{what}}\\n".encode())

note("began")
begin = int(saved.read_text()) if saved.exists() else 0
note(f"from {{begin}}")
for number in range(begin, {LINES}):
    if asked:
        sys.exit(85)
    metrics.write(json.dumps({{"step": number, "loss": 1 / (number + 1)}}) + "\\n")
    print(f"line {{number}} of attempt {{attempt}}", flush=True)
    note(f"said {{number}}")
    saved.with_suffix(".new").write_text(str(number + 1))
    os.replace(saved.with_suffix(".new"), saved)
    note(f"saved {{number + 1}}")
    time.sleep(0.02)
print(f"end of attempt {{attempt}}", flush=True)
note("ended")
"""
BUCKET: Final = "s3://checkpoints"
TOML: Final = f"""\
[job.train]
command = "python3 job.py"
environment = "system"
checkpoint_to = "{BUCKET}"
concurrency = "checkpoint-older"

[job.train.retry]
lost = 100
"""
ROSTER: Final = f"{CONFIG_BRANCH}:config.json"
HASTY: Final = Path(__file__).with_name("hasty.py")
_PATIENCE: Final = 5.0
"""Seconds that a strike waits for somebody to strike."""
_WEIGHTS: Final = {"executor": 8, "all": 1, "sender": 3, "shim": 4, "preempt": 4, "stop": 1}
"""How often one is killed, all are, the sender, a shim; an owner comes and goes; one is stopped in order."""
_ON_TOP: Final = 0.25
"""How many pushes go to a branch whose last run has not ended: that one gives way."""
_LONG: Final = 100
"""Strikes of a storm in which some run must have moved with its checkpoint."""


@dataclass(frozen=True)
class Figures:
    """What a storm was, and how long it took."""

    seed: int
    strikes: Mapping[str, int]
    runs: int
    attempts: int
    lines: int
    """That jobs had said."""
    moved: int
    """Times that a run went on at another executor."""
    carried: int
    """Of those, with a checkpoint."""
    seconds: float
    calm: float
    """Of those, the seconds until everything had come to rest."""

    def __str__(self) -> str:
        blows = ", ".join(f"{count} {name}" for name, count in self.strikes.items())
        return (
            f"seed {self.seed}: {sum(self.strikes.values())} strikes ({blows}); {self.runs} runs, "
            f"{self.attempts} attempts, {self.lines} lines; {self.moved} moves to another executor, "
            f"{self.carried} of them with a checkpoint; {self.seconds:.0f} s, {self.calm:.0f} s of them "
            "until all had come to rest"
        )


@dataclass
class Storm:
    """A house in a storm.

    Args:
        house: With one repository.
        seed: Which storm.
        executors: How many there are.
    """

    house: House
    seed: int
    executors: int = 2
    strikes: Counter[str] = field(default_factory=Counter)
    pushed: list[str] = field(default_factory=list)
    tips: dict[str, str] = field(default_factory=dict)
    """The branch of each commit that is a branch's last."""

    def __post_init__(self) -> None:
        self.dice = random.Random(self.seed)  # noqa: S311  no secret
        while len(self.house.executors) < self.executors:
            self.house.another_executor()
        self.ports = {name: _free_port() for name in (*self.house.executors, "sender")}
        self.work: Work = self.house.work(TOML, {"job.py": JOB})
        common = {"repositories": self.house.remotes, "roster": ROSTER}
        lent = common | {
            "executor": {"slots": 3, "grace": 5},
            "rules": {"artifact_urls": [BUCKET], "owner": {"settle": 0}},
        }
        self.house.sender_state.settings.write_text(tomlkit.dumps(common))
        for state in self.house.executors.values():
            state.settings.write_text(tomlkit.dumps(lent))
            Trusted(self.house.sender_state.trusted).add(load_or_create(state.key).public_key())
        self.begun = time.monotonic()

    # --- the storm ----------------------------------------------------------------------------------------

    def rage(self, kills: int, *, runs: int) -> Figures:
        """Push `runs` commits while `kills` strikes fall; then let everything come to rest."""
        self.work.pushed("The beginning")
        for name in (*self.house.executors, "sender"):
            self._start(name)
        for name in self.house.executors:
            self._ready(name)
        self.house.host.notify(self._ready("sender")["webhook"], SECRET.encode())
        for number in range(kills):
            if len(self.pushed) * kills < runs * (number + 1):
                self._push()
            time.sleep(self.dice.choice((0.02, 0.1, 0.4, 0.9, 1.6)) * self.dice.random())
            self._strike()
        struck = time.monotonic()
        self._rest()
        left = self.left()
        now = time.monotonic()
        moved, carried = left.journal.moves()
        return Figures(
            seed=self.seed,
            strikes=dict(self.strikes),
            runs=len(self.pushed),
            attempts=left.attempts(),
            lines=sum(map(len, left.journal.said.values())),
            moved=moved,
            carried=carried,
            seconds=now - self.begun,
            calm=now - struck,
        )

    def left(self) -> Reckoning:
        """What is there now."""
        return Reckoning(self.house, self.work, self.pushed, lines=LINES)

    def faults(self, figures: Figures) -> list[str]:
        """Everything that is lost, doubled or untrue, and what a long storm should have seen."""
        seen = figures.carried or sum(self.strikes.values()) < _LONG or self.executors == 1
        return self.left().faults() + ([] if seen else ["no run went on elsewhere with its checkpoint"])

    def _push(self) -> None:
        """A commit on a branch of its own, or on top of one whose last run must then give way.

        That one has its run already: a push that was overtaken before anybody saw it would have none.
        """
        open_ = [
            run.command.commit
            for name, state in self.house.executors.items()
            for run in Book.of(name, state, attempts=False).runs.values()
            if run.state in {State.QUEUED, State.PREPARING, State.RUNNING} and run.command.commit in self.tips
        ]
        if open_ and self.dice.random() < _ON_TOP:
            name = self.tips.pop(self.dice.choice(sorted(open_)))
            self.work.git("checkout", "--quiet", name)
        else:
            name = f"b{len(self.pushed)}"
            self.work.git("checkout", "--quiet", "-b", name, "main")
        commit = self.work.commit({"count.txt": f"{len(self.pushed)}\n"}, f"Push {len(self.pushed)}")
        self.work.git("push", "--quiet", "origin", f"{name}:refs/heads/{name}")
        self.pushed.append(commit)
        self.tips[commit] = name

    def _strike(self) -> None:
        """Strike once; shims only where one lives, and their owner comes only while something runs."""
        what = self.dice.choices(list(_WEIGHTS), list(_WEIGHTS.values()))[0]
        shim = self._a_shim() if what in {"shim", "preempt"} else None
        if what in {"shim", "preempt"} and shim is None:
            what = "executor"
        one = self.dice.choice(list(self.house.executors))
        match what:
            case "executor" | "sender" | "all":
                struck = {"executor": [one], "sender": ["sender"], "all": list(self.house.executors)}[what]
                for name in struck:
                    self.house.kill(name)
                for name in struck:
                    self._start(name)
            case "stop":
                self.house.processes[one].send_signal(signal.SIGTERM)
                self.house.processes.pop(one).wait(30)
                self._start(one)
            case "shim" if shim is not None:
                proc.send(shim[1].pid, shim[1].start, signal.SIGKILL)
            case "preempt" if shim is not None:
                PauseFile(self.house.executors[shim[0]].pause).pause(
                    self.dice.choice((2, 5, 12)) * self.dice.random()
                )
        self.strikes[what] += 1

    def _a_shim(self) -> tuple[str, launch.Process] | None:
        """One of the shims that live, or come to life while we wait, and its executor; None: none did."""
        deadline = time.monotonic() + _PATIENCE
        while time.monotonic() < deadline:
            shims = []
            for name, state in self.house.executors.items():
                for spec in sorted(state.runs.glob("*/*/started.json")):
                    shim = launch.find(RunDir(spec.parent))
                    if shim is not None and proc.alive(shim.pid, shim.start):
                        shims.append((name, shim))
            if shims:
                time.sleep(0.5 * self.dice.random())
                return self.dice.choice(shims)
            time.sleep(0.02)
        return None

    def _start(self, name: str) -> None:
        port = str(self.ports[name])
        if name == "sender":
            state = self.house.sender_state
            words = ["--poll-seconds", "2"]
        else:
            state = self.house.executors[name]
            words = ["--name", f"lab-{list(self.house.executors).index(name) + 1}"]
            words += ["--tunnel", "static", "--public-url", f"http://127.0.0.1:{port}"]
        words += ["--state", str(state.root), "--port", port]
        self.house.start(name, name.partition("-")[0], *words, program=HASTY if name == "sender" else None)

    def _ready(self, name: str) -> dict[str, str]:
        return self.house.facts(name, self.house.folder / f"{name}.out")

    def _rest(self) -> None:
        """Wait until every push has its run, and every run has ended and is published."""

        def rested() -> bool | None:
            for name, child in list(self.house.processes.items()):
                if child.poll() is not None:
                    raise AssertionError(f"the {name} has ended by itself:\n{self.house.log(name)}")
            ended = {
                run.command.commit
                for name, state in self.house.executors.items()
                for run in Book.of(name, state, attempts=False).final()
            }
            return ended.issuperset(self.pushed) or None

        try:
            wait_until(rested, 60 + 3 * len(self.pushed), what="everything to come to rest")
        except AssertionError as error:
            raise AssertionError("\n".join([str(error), *self.left().faults()])) from None


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def _bucket() -> Iterator[None]:
    """Where checkpoints go; whoever is started meanwhile finds it."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    told = {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}", "AWS_ALLOW_HTTP": "true", "AWS_REGION": "us-east-1",
        "AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "y",
    }  # fmt: skip
    before = {name: os.environ.get(name) for name in told}
    try:
        os.environ.update(told)
        assert urllib3.request("PUT", f"{told['AWS_ENDPOINT_URL']}/checkpoints").status == 200
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
        server.stop()


@contextmanager
def storm(folder: Path, seed: int, *, executors: int = 2) -> Iterator[Storm]:
    """A storm in a house; every process is ended when the block ends."""
    with _bucket(), housed(folder) as house:
        yield Storm(house, seed, executors)


def main() -> int:
    """Rage, tell the figures and every fault; 1 where there is one."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--kills", type=int, default=1000)
    parser.add_argument("--runs", type=int, default=0, help="pushes; a third of the strikes when left out")
    parser.add_argument("--executors", type=int, default=2)
    parser.add_argument("--seed", type=int, default=time.time_ns() % 1_000_000)
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # whoever ends us leaves no process of ours
    folder = Path(tempfile.mkdtemp(prefix="pushtrain-storm-"))
    with storm(folder, given.seed, executors=given.executors) as raging:
        figures = raging.rage(given.kills, runs=given.runs or max(3, given.kills // 3))
        faults = raging.faults(figures)
        if faults:
            (folder / "faults.txt").write_text("\n".join(faults))
    print(figures)  # noqa: T201
    for fault in faults:
        print(f"FAULT: {fault}")  # noqa: T201
    if faults:
        print(f"Everything is in {folder}.")  # noqa: T201
    else:
        print("Nothing is lost, doubled or untrue.")  # noqa: T201
        shutil.rmtree(folder, ignore_errors=True)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
