"""What a storm has left: the jobs' journals, the executors' stores and the results, held against each other.

A run may have been at several executors, one after the other: only at the last one it has an end, at the
others it is said to have moved. Its attempts are counted through, wherever they were.
"""

import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from house import House, Work

from pushtrain.core.values.run import Attempt, Run
from pushtrain.core.values.states import Outcome, State
from pushtrain.core.values.value import RESULTS_BRANCH
from pushtrain.plumbing.attempts.rundir import RunDir
from pushtrain.plumbing.disk.state import StateFolder
from pushtrain.plumbing.sqlite.view import View

Key = tuple[str, int]
"""A run's id and an attempt's number."""


@dataclass(frozen=True)
class Book:
    """What one executor has written down."""

    name: str
    state: StateFolder
    runs: Mapping[str, Run]
    attempts: Mapping[str, Mapping[int, Attempt]]

    @classmethod
    def of(cls, name: str, state: StateFolder, *, attempts: bool = True) -> "Book":
        """What is written down at this moment."""
        if not state.store.exists():
            return cls(name, state, {}, {})
        store = View(state.store)
        try:
            runs = {run.id: run for run in store.runs(limit=10_000)}
            tried = {run: {one.number: one for one in store.attempts(run)} for run in runs if attempts}
        finally:
            store.close()
        return cls(name, state, runs, tried)

    def final(self) -> Iterator[Run]:
        """Runs that have come to their end here."""
        return (
            run for run in self.runs.values() if run.state is State.DONE and run.outcome is not Outcome.MOVED
        )


@dataclass
class Journal:
    """What the jobs themselves have written down."""

    began: Counter[Key] = field(default_factory=Counter)
    at: dict[Key, str] = field(default_factory=dict)
    """At which executor it began."""
    resumed: dict[Key, int] = field(default_factory=dict)
    """With which line it went on; 0: it began from the beginning."""
    said: dict[Key, list[int]] = field(default_factory=lambda: defaultdict(list))
    saved: dict[Key, int] = field(default_factory=dict)
    """With which line whoever comes after it goes on at least."""
    ended: set[Key] = field(default_factory=set)

    @classmethod
    def of(cls, house: House) -> "Journal":
        """What all jobs of all executors have noted."""
        journal = cls()
        for name, state in house.executors.items():
            for file in state.caches.glob("*/home/journal"):
                for line in file.read_text().splitlines():
                    run, attempt, what, *rest = line.split()
                    journal._take(name, (run, int(attempt)), what, int(rest[0]) if rest else 0)
        return journal

    def _take(self, name: str, key: Key, what: str, number: int) -> None:
        match what:
            case "began":
                self.began[key] += 1
                self.at[key] = name
            case "from":
                self.resumed[key] = number
            case "said":
                self.said[key].append(number)
            case "saved":
                self.saved[key] = number
            case "ended":
                self.ended.add(key)

    def numbers(self) -> dict[str, list[int]]:
        """By run: its attempts that began, in order."""
        found: dict[str, list[int]] = defaultdict(list)
        for run, number in sorted(self.began):
            found[run].append(number)
        return found

    def moves(self) -> tuple[int, int]:
        """How often a run went on at another executor, and how often from its checkpoint."""
        moves = [
            (run, after)
            for run, numbers in self.numbers().items()
            for before, after in pairwise(numbers)
            if self.at[run, before] != self.at[run, after]
        ]
        return len(moves), sum(1 for key in moves if self.resumed.get(key))


class Reckoning:
    """Holds against each other what is left; asked when everything has come to rest.

    Args:
        house: Where it is.
        work: The repository.
        pushed: The commits that must have a run each.
        lines: Lines that every run says, and steps that it logs.
    """

    def __init__(self, house: House, work: Work, pushed: Sequence[str], *, lines: int) -> None:
        self.journal = Journal.of(house)
        self.books = [Book.of(name, state) for name, state in house.executors.items()]
        self._by_name = {book.name: book for book in self.books}
        self._work = work
        self._pushed = pushed
        self._lines = lines

    def faults(self) -> list[str]:
        """Everything that is lost, doubled or untrue."""
        known = {run.command.commit for book in self.books for run in book.runs.values()}
        found = [f"the push {commit[:7]} has no run" for commit in self._pushed if commit not in known]
        found += [
            f"attempt {number} of {run[:8]} began {n} times"
            for (run, number), n in self.journal.began.items()
            if n > 1
        ]
        found += self._unwritten()
        for run in sorted({run for book in self.books for run in book.runs}):
            found += self._end(run)
        return found + self._lost_work() + self._lost_lines() + self._results()

    def attempts(self) -> int:
        """How many were made."""
        return sum(len(tried) for book in self.books for tried in book.attempts.values())

    def _unwritten(self) -> list[str]:
        """Attempts that are in no executor's book, or in two."""
        claimed = Counter(
            (run, number) for book in self.books for run, tried in book.attempts.items() for number in tried
        )
        found = [
            f"attempt {number} of {run[:8]} was made at {n} executors"
            for (run, number), n in claimed.items()
            if n > 1
        ]
        return found + [
            f"attempt {number} of {run[:8]} began, and nobody wrote it down"
            for (run, number), name in self.journal.at.items()
            if number not in self._by_name[name].attempts.get(run, {})
        ]

    def _end(self, run_id: str) -> list[str]:
        """Whether a run has one end, and a true one."""
        there = [(book, book.runs[run_id]) for book in self.books if run_id in book.runs]
        found = [
            f"run {run.short} has no end: {run.state} ({book.name})"
            for book, run in there
            if run.state is not State.DONE
        ]
        found += [
            f"attempt {number} of {run.short} has no end"
            for book, run in there
            for number, one in book.attempts[run_id].items()
            if not one.ended_at
        ]
        ends = [(book, run) for book, run in there if run in book.final()]
        if len(ends) != 1:
            return [*found, f"run {run_id[:8]} has {len(ends)} ends"]
        [(book, run)] = ends
        last = book.attempts[run_id].get(run.attempt)
        if run.outcome is not Outcome.SUCCEEDED:
            found.append(f"run {run.short} {run.outcome}: {run.detail}")
        elif last is None or last.exit_code != 0 or (run.id, run.attempt) not in self.journal.ended:
            found.append(f"run {run.short} is said to have succeeded, and has not")
        elif run.attempt != max(number for one, _ in there for number in one.attempts[run_id]):
            found.append(f"run {run.short} was started again after its end")
        return found

    def _lost_work(self) -> list[str]:
        """Attempts that began behind the last checkpoint, or beyond it; lines that nobody has said."""
        found = []
        journal = self.journal
        for run, numbers in journal.numbers().items():
            saved = 0
            for number in numbers:
                key = (run, number)
                begin = journal.resumed.get(key, saved)  # it was killed before it could look
                if not saved <= begin <= saved + 1:
                    found.append(f"attempt {number} of {run[:8]} began with line {begin}, not {saved}")
                saved = max(saved, journal.saved.get(key, begin))
            said = {line for number in numbers for line in journal.said[run, number]}
            if missing := sorted(set(range(self._lines)) - said):
                found.append(f"nobody has said {missing} of {run[:8]}")
        return found

    def _lost_lines(self) -> list[str]:
        """Lines that a job had said and that its log has not."""
        found = []
        for (run, number), numbers in self.journal.said.items():
            if not numbers:
                continue
            log = RunDir.of(self._by_name[self.journal.at[run, number]].state.runs, run, number).log
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

    def _results(self) -> list[str]:
        """Results that are doubled, missing, or not those of the run."""
        tip = self._work.fetch(RESULTS_BRANCH)
        records: dict[str, list[str]] = defaultdict(list)
        for path in self._work.files(tip) if tip else ():
            if path.endswith("/run.json"):
                record = json.loads(self._work.show(tip, path))
                records[record["run"]["id"]].append(path.removesuffix("/run.json"))
        found = [
            f"the results of {run[:8]} are there {len(at)} times" for run, at in records.items() if at[1:]
        ]
        runs = [run for book in self.books for run in book.final()]
        for run in runs:
            path = next(iter(records.get(run.id, ())), "")
            if not path:
                found.append(f"the results of {run.short} are missing")
            elif path != run.result_path:
                found.append(f"the results of {run.short} are at {path}, not {run.result_path}")
            elif run.outcome is Outcome.SUCCEEDED:
                found += self._published(tip, path, run)
        commits = self._work.git("rev-list", "--count", tip) if tip else "0"
        if int(commits) > len(runs):
            found.append(f"{commits} commits hold the results of {len(runs)} runs")
        return found

    def _published(self, tip: str, path: str, run: Run) -> list[str]:
        """Whether results are whole: all attempts and steps, wherever they were, and the last log."""
        found = []
        report = self._work.show(tip, f"{path}/README.md").partition("## Attempts")[2].partition("\n## ")[0]
        told = [int(number) for number in re.findall(r"^\| *\[?(\d+)", report, re.MULTILINE)]
        made = sorted(number for book in self.books for number in book.attempts.get(run.id, ()))
        if told != made and (told or len(made) > 1):  # of a single attempt the report has no table
            found.append(f"the report of {run.short} tells of the attempts {told}, not {made}")
        log = self._work.show(tip, f"{path}/log.txt").splitlines()
        if log[-1:] != [f"end of attempt {run.attempt}"]:
            found.append(f"the published log of {run.short} is not whole: {log[-1:]}")
        series = json.loads(self._work.show(tip, f"{path}/metrics.json"))["series"]
        steps = {int(step) for one in series if one["name"] == "loss" for step in one["steps"]}
        if missing := sorted(set(range(self._lines)) - steps):
            found.append(f"the curve of {run.short} lacks the steps {missing}")
        return found
