"""A storm: executor, sender and shims are killed at random while people push; then nothing may be missing.

    python tests/chaos/storm.py --kills 1000        # what `make chaos` does; half an hour

Real processes, as a user starts them, at a real Git host on loopback. Every job keeps a journal in the home
of its repository, which outlives it: that it began, and each line when it had said it. When the storm is over
and everything has come to rest, the journal, the store and the results branch are held against each other
(`Storm.faults`). A seed tells which storm it was; what a killed process was doing is up to the machine.
"""

import argparse
import json
import random
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

sys.path.insert(0, str(Path(__file__).parents[1] / "e2e"))

from house import House, Work, housed

from pushtrain.core.run import Run
from pushtrain.core.states import Outcome, State
from pushtrain.core.value import RESULTS_BRANCH
from pushtrain.executor.runs import launch
from pushtrain.plumbing.attempts.rundir import RunDir
from pushtrain.plumbing.owner.pause import PauseFile
from pushtrain.plumbing.programs import proc
from pushtrain.plumbing.sqlite.store import Store

LINES: Final = 40
"""Lines that each job says."""
JOB: Final = f"""\
import os, pathlib, signal, sys, time

run, attempt = os.environ["PUSHTRAIN_RUN_ID"], os.environ["PUSHTRAIN_ATTEMPT"]
journal = os.open(pathlib.Path.home() / "journal", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
saved = pathlib.Path(os.environ["PUSHTRAIN_CHECKPOINT_DIR"], "at")
asked = []
signal.signal(signal.SIGTERM, lambda *_: asked.append(1))

def note(what):
    os.write(journal, f"{{run}} {{attempt}} {{what}}\\n".encode())

note("began")
begin = int(saved.read_text()) if saved.exists() else 0
for number in range(begin, {LINES}):
    if asked:
        note("saved")
        sys.exit(85)
    print(f"line {{number}} of attempt {{attempt}}", flush=True)
    note(f"said {{number}}")
    saved.with_suffix(".new").write_text(str(number + 1))
    os.replace(saved.with_suffix(".new"), saved)
    time.sleep(0.02)
print(f"end of attempt {{attempt}}", flush=True)
note("ended")
"""
TOML: Final = """\
[job.train]
command = "python3 job.py"
environment = "system"

[job.train.retry]
lost = 100
"""
_PATIENCE: Final = 5.0
"""Seconds that a strike waits for somebody to strike."""
_WEIGHTS: Final = {"executor": 8, "sender": 3, "shim": 5, "preempt": 3, "stop": 1}
"""How often each is struck: killed, killed, killed; the owner comes and goes; stopped in order."""


Key = tuple[str, int]
"""A run's id and an attempt's number."""


@dataclass(frozen=True)
class Figures:
    """What a storm was, and how long it took."""

    seed: int
    strikes: Mapping[str, int]
    runs: int
    attempts: int
    lines: int
    """That jobs had said."""
    seconds: float
    calm: float
    """Of those, the seconds until everything had come to rest."""

    def __str__(self) -> str:
        blows = ", ".join(f"{count} {name}" for name, count in self.strikes.items())
        return (
            f"seed {self.seed}: {sum(self.strikes.values())} strikes ({blows}); {self.runs} runs, "
            f"{self.attempts} attempts, {self.lines} lines; {self.seconds:.0f} s, {self.calm:.0f} s of them "
            "until all had come to rest"
        )


@dataclass
class Storm:
    """A house in a storm.

    Args:
        house: With one repository.
        seed: Which storm.
    """

    house: House
    seed: int
    strikes: Counter[str] = field(default_factory=Counter)
    pushed: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.dice = random.Random(self.seed)  # noqa: S311  no secret
        self.ports = {name: _free_port() for name in ("executor", "sender")}
        self.work: Work = self.house.work(TOML, {"job.py": JOB})
        self.pause = PauseFile(self.house.executor_state.pause)
        self.begun = time.monotonic()

    # --- the storm ----------------------------------------------------------------------------------------

    def rage(self, kills: int, *, runs: int) -> Figures:
        """Push `runs` commits while `kills` strikes fall; then let everything come to rest."""
        self.work.pushed("The beginning")
        self._start("executor", wait=True)
        self.house._settle_sender()
        self._start("sender", wait=True)
        for number in range(kills):
            if len(self.pushed) * kills < runs * (number + 1):
                self._push()
            time.sleep(self.dice.choice((0.02, 0.1, 0.4, 0.9, 1.6)) * self.dice.random())
            self._strike()
        struck = time.monotonic()
        self._rest()
        attempts = [attempt for run in self._runs() for attempt in self._store(run.id)]
        said = sum(len(lines) for lines in self._journal()[1].values())
        now = time.monotonic()
        return Figures(
            self.seed,
            dict(self.strikes),
            len(self.pushed),
            len(attempts),
            said,
            now - self.begun,
            now - struck,
        )

    def _push(self) -> None:
        """A commit on a branch of its own, so that none supersedes another."""
        name = f"b{len(self.pushed)}"
        self.work.git("checkout", "--quiet", "-b", name)
        commit = self.work.commit({"count.txt": f"{len(self.pushed)}\n"}, f"Push {name}")
        self.work.git("push", "--quiet", "origin", f"{name}:refs/heads/{name}")
        self.pushed.append(commit)

    def _strike(self) -> None:
        """Strike once; shims only where one lives, and their owner comes only while something runs."""
        what = self.dice.choices(list(_WEIGHTS), list(_WEIGHTS.values()))[0]
        shim = self._a_shim() if what in {"shim", "preempt"} else None
        if what in {"shim", "preempt"} and shim is None:
            what = "executor"
        match what:
            case "executor" | "sender":
                self.house.kill(what)
                self._start(what)
            case "stop":
                self.house.processes["executor"].send_signal(signal.SIGTERM)
                self.house.processes.pop("executor").wait(30)
                self._start("executor")
            case "shim" if shim is not None:
                proc.send(shim.pid, shim.start, signal.SIGKILL)
            case "preempt":
                self.pause.pause(3 * self.dice.random())
        self.strikes[what] += 1

    def _a_shim(self) -> launch.Process | None:
        """One of the shims that live, or that come to life while we wait; None: none did."""
        deadline = time.monotonic() + _PATIENCE
        while time.monotonic() < deadline:
            shims = []
            for spec in sorted(self.house.executor_state.runs.glob("*/*/started.json")):
                shim = launch.find(RunDir(spec.parent))
                if shim is not None and proc.alive(shim.pid, shim.start):
                    shims.append(shim)
            if shims:
                time.sleep(0.5 * self.dice.random())
                return self.dice.choice(shims)
            time.sleep(0.02)
        return None

    def _start(self, name: str, *, wait: bool = False) -> None:
        state = self.house.executor_state if name == "executor" else self.house.sender_state
        words = ["--state", str(state.root), "--port", str(self.ports[name])]
        if name == "executor":
            words += ["--repo", self.house.remotes[0], "--name", "lab-1"]
            state.settings.write_text("[executor]\nslots = 3\ngrace = 5\n[rules.owner]\nsettle = 0\n")
        else:
            words += ["--poll-seconds", "2"]
        out = self.house.start(name, name, *words)
        if wait:
            facts = self.house.facts(name, out)
            if name == "sender":
                self.house.host.notify(facts["webhook"], b"between host and sender")

    def _rest(self) -> None:
        """Wait until every push has its run, and every run has ended and is published."""

        def rested() -> bool | None:
            for name, child in list(self.house.processes.items()):
                if child.poll() is not None:
                    raise AssertionError(f"the {name} has ended by itself:\n{self.house.log(name)}")
            runs = {run.command.commit: run for run in self._runs()}
            return all(commit in runs and runs[commit].state is State.DONE for commit in self.pushed) or None

        self.house.wait(rested, "everything to come to rest", timeout=60 + 3 * len(self.pushed))

    # --- what is left -------------------------------------------------------------------------------------

    def _runs(self) -> list[Run]:
        store = Store(self.house.executor_state.store, read_only=True)
        try:
            return store.runs(limit=10_000)
        finally:
            store.close()

    def _store(self, run_id: str) -> list[Any]:
        store = Store(self.house.executor_state.store, read_only=True)
        try:
            return store.attempts(run_id)
        finally:
            store.close()

    def _journal(
        self,
    ) -> tuple[Counter[tuple[str, int]], dict[tuple[str, int], list[int]], set[tuple[str, int]]]:
        """How often each attempt began, the lines that it said, and those that ended by themselves."""
        began: Counter[Key] = Counter()
        said: dict[Key, list[int]] = defaultdict(list)
        ended: set[Key] = set()
        for file in self.house.executor_state.caches.glob("*/home/journal"):
            for line in file.read_text().splitlines():
                run, attempt, what, *rest = line.split()
                key = (run, int(attempt))
                if what == "began":
                    began[key] += 1
                elif what == "said":
                    said[key].append(int(rest[0]))
                elif what == "ended":
                    ended.add(key)
        return began, said, ended

    def faults(self) -> list[str]:
        """Everything that is lost, doubled or untrue."""
        began, said, ended = self._journal()
        runs = {run.id: run for run in self._runs()}
        found = [f"the push {c[:7]} has no run" for c in self.pushed if c not in _commits(runs.values())]
        found += [
            f"attempt {number} of {run[:8]} began {n} times" for (run, number), n in began.items() if n > 1
        ]
        attempts = {run: {one.number: one for one in self._store(run)} for run in runs}
        found += [
            f"attempt {number} of {run[:8]} began, and nobody wrote it down"
            for run, number in began
            if number not in attempts.get(run, {})
        ]
        for run in runs.values():
            last = attempts[run.id].get(run.attempt)
            if run.state is not State.DONE or run.outcome is None:
                found.append(f"run {run.short} has no end: {run.state}")
            elif run.outcome is not Outcome.SUCCEEDED:
                found.append(f"run {run.short} {run.outcome}: {run.detail}")
            elif last is None or last.exit_code != 0 or (run.id, run.attempt) not in ended:
                found.append(f"run {run.short} is said to have succeeded, and has not")
            found += [
                f"attempt {n} of {run.short} has no end"
                for n, one in attempts[run.id].items()
                if not one.ended_at
            ]
        return found + self._lost_lines(runs, said) + self._results(runs)

    def _lost_lines(self, runs: Mapping[str, Run], said: Mapping[Key, list[int]]) -> list[str]:
        """Lines that a job had said and that its log has not."""
        found = []
        for (run, number), numbers in said.items():
            log = RunDir.of(self.house.executor_state.runs, run, number).log
            if not log.exists():
                found.append(f"the log of attempt {number} of {run[:8]} is gone")
                continue
            lines = [
                line for line in log.read_text(errors="replace").splitlines() if line.startswith("line ")
            ]
            wanted = [f"line {each} of attempt {number}" for each in numbers]
            if lines[: len(wanted)] != wanted:
                missing = sorted(set(wanted) - set(lines))
                found.append(f"the log of attempt {number} of {run[:8]} lacks {missing or 'the order'}")
        return found

    def _results(self, runs: Mapping[str, Run]) -> list[str]:
        """Results that are doubled, missing, or not those of the run."""
        tip = self.work.fetch(RESULTS_BRANCH)
        records: dict[str, list[str]] = defaultdict(list)
        for path in self.work.files(tip) if tip else ():
            if path.endswith("/run.json"):
                record = json.loads(self.work.show(tip, path))
                records[record["run"]["id"]].append(path.removesuffix("/run.json"))
        double = {run: at for run, at in records.items() if len(at) > 1}
        found = [f"the results of {run[:8]} are there {len(at)} times" for run, at in double.items()]
        for run in runs.values():
            where = records.get(run.id)
            if not where:
                found.append(f"the results of {run.short} are missing")
            elif where[0] != run.result_path:
                found.append(f"the results of {run.short} are at {where[0]}, not {run.result_path}")
            else:
                log = self.work.show(tip, f"{where[0]}/log.txt").splitlines()
                if log[-1:] != [f"end of attempt {run.attempt}"]:
                    found.append(f"the published log of {run.short} is not whole: {log[-1:]}")
        commits = self.work.git("rev-list", "--count", tip) if tip else "0"
        if int(commits) > len(runs):
            found.append(f"{commits} commits hold the results of {len(runs)} runs")
        return found


def _commits(runs: Any) -> set[str]:
    return {run.command.commit for run in runs}


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def storm(folder: Path, seed: int) -> Iterator[Storm]:
    """A storm in a house; every process is ended when the block ends."""
    with housed(folder) as house:
        yield Storm(house, seed)


def main() -> int:
    """Rage, tell the figures and every fault; 1 where there is one."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--kills", type=int, default=1000)
    parser.add_argument("--runs", type=int, default=0, help="pushes; a third of the strikes when left out")
    parser.add_argument("--seed", type=int, default=time.time_ns() % 1_000_000)
    given = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="pushtrain-storm-"))
    with storm(folder, given.seed) as raging:
        figures = raging.rage(given.kills, runs=given.runs or max(3, given.kills // 3))
        faults = raging.faults()
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
