"""Processes that are killed at a step of theirs: each flush, rename, removal, transaction and program.

A `Nursery` is one process that has imported everything and makes each process by `fork`, so that a hundred of
them cost no hundred imports. What runs there is the ordinary code, with `Steps` around what makes it durable.
"""

import ctypes
import errno
import importlib
import json
import os
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Self

from pushtrain.testing import wait_until

NEVER: Final = 10**9
_DIE_WITH_PARENT: Final = 1
"""PR_SET_PDEATHSIG: nothing of a nursery outlives it."""
_STILL: Final = 20
"""Looks in a row at which nothing has moved."""


# --- in the process that is killed ------------------------------------------------------------------------


class Steps:
    """Counts steps, and kills this process at one of them, or has the disk fail there.

    Args:
        at: At which; each that is passed is written to `told`.
        told: A file.
        disk: Whether the disk fails there, once, instead; then only what is asked of it is a step.
    """

    def __init__(self, at: int, told: Path, *, disk: bool = False) -> None:
        self.at = at
        self.disk = disk
        self.told = os.open(told, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self.count = 0
        self._guard = threading.Lock()

    def step(self, name: str) -> None:
        """Pass a step, or die, or be failed by the disk: an OSError."""
        with self._guard:
            self.count += 1
            os.write(self.told, f"{name}\n".encode())
            if self.count != self.at:
                return
            if not self.disk:
                os.kill(os.getpid(), signal.SIGKILL)
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    def before(self, owner: Any, name: str, *, after: bool = False) -> None:
        """Make each call of a function a step; with `after`, what follows it, too."""
        real = getattr(owner, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            self.step(f"before {name}")
            result = real(*args, **kwargs)
            if after:
                self.step(f"after {name}")
            return result

        setattr(owner, name, call)

    def durable(self) -> Self:
        """Make everything a step that outlives this process."""
        from pushtrain.plumbing.programs import process
        from pushtrain.plumbing.sqlite.database import Database

        for name in ("fsync", "fdatasync", "replace", "rename", "unlink"):
            self.before(os, name)
        if self.disk:  # what fails below the store has tests of its own (`forgetful`)
            return self
        self.before(Database, "write", after=True)
        self.before(process, "run", after=True)
        return self


def _grow(role: str, words: list[str]) -> None:
    """Be a process: `role` is `module:function`, called with the words that follow."""
    module, _, function = role.partition(":")
    getattr(importlib.import_module(module), function)(*words)


def _nurse(modules: list[str]) -> None:
    """Make the processes that are asked for on standard input, until it ends."""
    for module in modules:
        importlib.import_module(module)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    for line in sys.stdin:
        wish = json.loads(line)
        pid = os.fork()
        if pid == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            _alone(wish)
        sys.stdout.write(f"{pid}\n")
        sys.stdout.flush()


def _alone(wish: dict[str, Any]) -> None:
    """In the new process: leave everything that is the nursery's, do the work, and end."""
    code = 1
    try:
        os.setsid()
        ctypes.CDLL(None).prctl(_DIE_WITH_PARENT, signal.SIGKILL)
        nothing = os.open(os.devnull, os.O_RDONLY)
        said, log = (
            os.open(wish["said"] + end, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600) for end in ("", ".log")
        )
        for number, handle in ((0, nothing), (1, said), (2, log)):
            os.dup2(handle, number)
        sys.stdin = open(os.devnull)  # noqa: PTH123, SIM115  for the life of the process
        os.chdir(wish["cwd"])
        os.environ.update(wish["env"])
        _grow(wish["role"], wish["words"])
        code = 0
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 1
    except BaseException:  # noqa: BLE001  told, and then this process ends
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


# --- in the process that looks on -------------------------------------------------------------------------


class Child:
    """One process of a nursery."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        try:
            self._handle = os.pidfd_open(pid)
        except ProcessLookupError:
            self._handle = -1

    @property
    def dead(self) -> bool:
        """Whether it has ended."""
        return self._handle < 0 or bool(select.select([self._handle], [], [], 0)[0])

    def kill(self) -> None:
        """SIGKILL, and wait for its end."""
        if not self.dead:
            signal.pidfd_send_signal(self._handle, signal.SIGKILL)
            select.select([self._handle], [], [], 20)
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1


class Nursery:
    """Makes processes. Use `nursery`."""

    def __init__(self, child: "subprocess.Popen[str]") -> None:
        self._child = child
        self._guard = threading.Lock()

    def start(self, role: str, *words: str | Path | int, said: Path, cwd: Path, **env: str) -> Child:
        """A process that calls `role`, `module:function`, with these words.

        What it says goes to the file `said`, and its log to the one beside it, `said`.log.
        """
        wish = {"role": role, "words": [str(word) for word in words], "env": env}
        assert self._child.stdin
        assert self._child.stdout
        with self._guard:
            self._child.stdin.write(json.dumps({**wish, "said": str(said), "cwd": str(cwd)}) + "\n")
            self._child.stdin.flush()
            return Child(int(self._child.stdout.readline()))


@contextmanager
def nursery(*modules: str) -> Iterator[Nursery]:
    """A nursery that has imported these, found as we find ours, while the block runs."""
    argv = (sys.executable, __file__, *modules)
    path = os.pathsep.join(word for word in sys.path if word)
    with subprocess.Popen(
        argv, env={**os.environ, "PYTHONPATH": path}, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout
        assert child.stdout.readline() == "ready\n"
        yield Nursery(child)


def passed(told: Path) -> list[str]:
    """The steps that were passed."""
    return told.read_text().splitlines() if told.exists() else []


def settled(told: Path, done: Callable[[], object], *, what: str) -> list[str]:
    """Wait until something is done and no further step is passed; the steps."""
    wait_until(done, 60, what=what)
    counts: list[int] = []

    def quiet() -> bool:
        counts.append(len(passed(told)))
        return len(counts) > _STILL and len(set(counts[-_STILL:])) == 1

    wait_until(quiet, 60, what="the last step")
    return passed(told)


if __name__ == "__main__":
    _nurse(sys.argv[1:])
