"""The demo's processes: started in sessions of their own, watched, and ended with everything below them.

While the demo runs it adopts whatever its descendants leave behind (Linux's child subreaper), so that ending
them is a walk over its own tree: nothing can slip away by a double fork, and nothing of anybody else is met.
"""

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final, TypeVar

from pushtrain.core.errors import PushtrainError
from pushtrain.plumbing.programs import proc

T = TypeVar("T")

_PR_SET_CHILD_SUBREAPER: Final = 36
_PATIENCE: Final = 4.0
_TAIL_LINES: Final = 25
_LOOK_EVERY: Final = 0.02


class Stumbled(PushtrainError):
    """A part of the demo ended, or did not do its work in time."""

    code = "demo"


class Children:
    """Child processes and their logs.

    Args:
        folder: Where they work and where `NAME.log` and `NAME.out` are written.
        environment: What each of them inherits.
    """

    def __init__(self, folder: Path, environment: Mapping[str, str]) -> None:
        self._folder = folder
        self._environment = dict(environment)
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    @property
    def pids(self) -> dict[str, int]:
        """The process ids by name."""
        return {name: child.pid for name, child in self._running.items()}

    def start(self, name: str, *arguments: str | Path, extra: Mapping[str, str] | None = None) -> Path:
        """Start `python ARGUMENTS`, and give the file that its standard output goes to.

        Args:
            name: For people and for its log.
            arguments: For the interpreter.
            extra: Variables beside the common ones.
        """
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        out = self._folder / f"{name}.out"
        with out.open("wb") as output, self.log(name).open("wb") as log:
            self._running[name] = subprocess.Popen(
                (sys.executable, "-P", *arguments),
                cwd=self._folder,
                env={**self._environment, **(extra or {})},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=log,
                start_new_session=True,
            )
        return out

    def log(self, name: str) -> Path:
        """Where a process writes what it has to say."""
        return self._folder / f"{name}.log"

    def wait_for(self, what: str, condition: Callable[[], T | None], seconds: float = 30) -> T:
        """Wait for a condition, and give what it returned.

        Raises:
            Stumbled: It did not hold in time, or a process ended; the message holds the end of the log.
        """
        deadline = time.monotonic() + seconds
        while True:
            if found := condition():
                return found
            self.check()
            if time.monotonic() > deadline:
                raise Stumbled(f"The demo waited {seconds:g} s for {what}, in vain.\n{self.tails()}")
            time.sleep(_LOOK_EVERY)  # what is waited for is in other processes

    def check(self) -> None:
        """Raise Stumbled when a process has ended."""
        for name, child in self._running.items():
            if child.poll() is not None:
                raise Stumbled(f"The demo's {name} ended with {child.returncode}.\n{self.tails([name])}")

    def tails(self, names: Sequence[str] = ()) -> str:
        """The last lines of these logs; of all when none is named."""
        parts = []
        for name in names or self._running:
            lines = self.log(name).read_text("utf-8", "replace").splitlines()[-_TAIL_LINES:]
            parts += [f"--- {name}.log, last {len(lines)} lines", *lines]
        return "\n".join(parts)

    def end(self, *, patience: float = _PATIENCE) -> None:
        """End every process below us, those of running jobs included; none is left when this returns.

        Args:
            patience: Seconds that they have to end by themselves.
        """
        for child in reversed(self._running.values()):
            if child.poll() is None:
                child.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + patience
        for child in self._running.values():
            proc.ended_within(child.pid, max(0.0, deadline - time.monotonic()))
        while below := proc.descendants(os.getpid()):
            for pid in below:
                start = proc.start_time(pid)
                if start is not None:
                    proc.send(pid, start, signal.SIGKILL)
            self._reap()
            time.sleep(_LOOK_EVERY / 10)  # strangers that become our children one by one
        self._reap()

    def leave(self) -> None:
        """Let the processes go on after us."""
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)
        for child in self._running.values():
            child.returncode = 0  # theirs is no business of ours any more; nothing waits for them

    def _reap(self) -> None:
        for child in self._running.values():
            child.poll()
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            pass
