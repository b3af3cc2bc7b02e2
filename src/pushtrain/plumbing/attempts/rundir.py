"""One attempt's folder: its paths, and its lock.

Executor and shim speak only through this folder (`records`), so either may die and the other still finds out
what was done. A held lock means: the shim lives.
"""

import contextlib
import fcntl
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pushtrain.plumbing.attempts.records import Orders, Started, StopOrder, Verdict, read_record, unwritten

_MODE: Final = 0o600


@dataclass(frozen=True, slots=True)
class RunDir:
    """Paths of one attempt."""

    root: Path

    @property
    def usage(self) -> Path:
        """What it has used of its GPUs so far."""
        return self.root / "usage.json"

    @classmethod
    def of(cls, runs: Path, run_id: str, number: int) -> "RunDir":
        """The folder of an attempt, below the state folder's `runs`."""
        return cls(runs / run_id / str(number))

    def create(self) -> "RunDir":
        """Make the folder and what the job finds ready in it.

        An attempt without a sandbox may have put a link or a file in the place of the checkpoints: it goes.

        Raises:
            StorageError: It cannot be made.
        """
        try:
            with contextlib.suppress(FileNotFoundError):
                if not stat.S_ISDIR(self.checkpoint.lstat().st_mode):
                    self.checkpoint.unlink()
            for folder in (self.results, self.overlay, self.tmp, self.checkpoint, self.shown):
                folder.mkdir(parents=True, exist_ok=True)
            self.shown.chmod(0o755)
        except OSError as error:
            raise unwritten(self.root, error) from error
        return self

    @property
    def job(self) -> Path:
        """All that only this attempt's job writes."""
        return self.root / "job"

    @property
    def tree(self) -> Path:
        """The work folder: the commit's files."""
        return self.job / "tree"

    @property
    def log(self) -> Path:
        """What the job wrote, standard output and error as they came."""
        return self.root / "log.txt"

    @property
    def spec(self) -> Path:
        """The shim's orders."""
        return self.root / "spec.json"

    @property
    def given(self) -> Path:
        """The secrets that the job got, sealed to this executor."""
        return self.root / "secrets.sealed"

    @property
    def started(self) -> Path:
        """Written by the shim before the job's first instruction."""
        return self.root / "started.json"

    @property
    def exit(self) -> Path:
        """Written by the shim when the job's tree is dead."""
        return self.root / "exit.json"

    @property
    def stop(self) -> Path:
        """Written before the shim is asked to stop."""
        return self.root / "stop.json"

    @property
    def shown(self) -> Path:
        """What the executor and the shim show the job; the job can only read it."""
        return self.root / "shown"

    @property
    def library(self) -> Path:
        """What stands at the end of the job's `PYTHONPATH`."""
        return self.shown / "python"

    @property
    def stop_file(self) -> Path:
        """There when the command is asked to end."""
        return self.shown / "stop"

    @property
    def lock(self) -> Path:
        """Held as long as the shim lives."""
        return self.root / "lock"

    @property
    def summary(self) -> Path:
        """Markdown that joins the report."""
        return self.job / "summary.md"

    @property
    def metrics(self) -> Path:
        """JSON lines of metrics."""
        return self.job / "metrics.jsonl"

    @property
    def results(self) -> Path:
        """Everything in it is a result."""
        return self.job / "results"

    @property
    def artifacts(self) -> Path:
        """Results that did not go into Git, kept to be fetched."""
        return self.root / "artifacts"

    @property
    def withheld(self) -> Path:
        """Results that hold a secret, kept for the owner of the executor; nobody else gets them."""
        return self.root / "withheld"

    @property
    def overlay(self) -> Path:
        """The project's own package, installed for this attempt only."""
        return self.job / "overlay"

    @property
    def tmp(self) -> Path:
        """The job's temporary files."""
        return self.job / "tmp"

    @property
    def checkpoint(self) -> Path:
        """Checkpoints, shared by all attempts of the run."""
        return self.root.parent / "checkpoint"

    @property
    def before(self) -> Path:
        """The metrics of the run's earlier attempts, here and at other executors."""
        return self.root.parent / "before"

    @property
    def received(self) -> Path:
        """Says which checkpoint of another executor has taken its place here."""
        return self.root.parent / "received"

    def checkpointed(self) -> bool:
        """Whether an attempt has left something to go on from; what cannot be looked into counts."""
        try:
            return any(self.checkpoint.iterdir())
        except FileNotFoundError:
            return False
        except OSError:
            return True

    def read_orders(self) -> Orders | None:
        """What the shim was told to do, or None before that."""
        return read_record(self.spec, Orders)

    def read_started(self) -> Started | None:
        """The shim's first record, or None before it is written."""
        return read_record(self.started, Started)

    def read_verdict(self) -> Verdict | None:
        """The shim's last record, or None before it is written."""
        return read_record(self.exit, Verdict)

    def read_stop(self) -> StopOrder | None:
        """The order to stop, or None when there is none."""
        return read_record(self.stop, StopOrder)


def take_lock(path: Path) -> int | None:
    """Take an attempt's lock; the descriptor that holds it, or None when another process does.

    The lock belongs to the open file, not to the process: whoever inherits the descriptor holds it too, and
    it is free when the last of them is gone.
    """
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, _MODE)
    except OSError as error:
        raise unwritten(path, error) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor


def held(path: Path) -> bool:
    """Whether a living process holds this lock."""
    if not path.exists():
        return False
    descriptor = take_lock(path)
    if descriptor is None:
        return True
    os.close(descriptor)
    return False
