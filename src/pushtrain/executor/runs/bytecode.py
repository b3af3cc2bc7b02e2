"""Compile the bytecode of a freshly built environment, off the critical path.

Environments are read-only to jobs, so they never gain bytecode by being used, and without it the first import
of the usual libraries takes seconds in every run. The environment's own interpreter compiles it once, at the
lowest priority, one environment at a time, while the first training already runs. A mark in it
says that it is done; a compilation that was cut short is begun again at the next use.

`-S` keeps the interpreter from what packages would have it do at its start (`.pth` files, `sitecustomize`).
It is called by its own path, not by the environment's, whose `pyvenv.cfg` a package may have replaced. Files
here are hard links to those of other environments, and nobody's code may get at them.
"""

import logging
import os
import queue
import threading
from pathlib import Path
from typing import Final

from pushtrain.core.errors import Cancelled
from pushtrain.plumbing.isolation.inside import command
from pushtrain.plumbing.programs import process
from pushtrain.ports import Enclosure

_log = logging.getLogger(__name__)

MARK: Final = ".pushtrain-bytecode"
_SCRIPT: Final = """
import compileall, os, pathlib, stat, sys
root = sys.argv[1]
opened = []
def writable(path):
    mode = os.stat(path).st_mode
    if not mode & stat.S_IWUSR:
        opened.append((path, mode))
        os.chmod(path, mode | stat.S_IWUSR)
for folder, below, files in os.walk(root):
    if any(name.endswith(".py") for name in files) or folder == root or folder.endswith("__pycache__"):
        writable(folder)
try:
    compileall.compile_dir(root, quiet=2, maxlevels=40)
    pathlib.Path(root, sys.argv[2]).touch()
finally:
    for folder, below, files in os.walk(root):
        if folder.endswith("__pycache__"):
            for name in files:
                os.chmod(os.path.join(folder, name), 0o444)
            os.chmod(folder, 0o555)
    for path, mode in opened:
        os.chmod(path, mode)
"""


class Compiler:
    """A queue of environments to compile, and the thread that does it while there are any."""

    def __init__(self) -> None:
        self._waiting: queue.SimpleQueue[tuple[Path, Path, Enclosure]] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._known: set[Path] = set()
        self._thread: threading.Thread | None = None
        self._closed = threading.Event()

    def want(self, root: Path, python: Path, enclosure: Enclosure | None = None) -> None:
        """Compile the environment at `root` some time soon, unless that was done; returns at once.

        Args:
            root: The environment.
            python: Its interpreter, which runs whatever its packages have it run at every start.
            enclosure: What it is therefore kept in.
        """
        with self._lock:
            if self._closed.is_set() or root in self._known or (root / MARK).exists():
                return
            self._known.add(root)
            self._waiting.put((root, python, enclosure or Enclosure()))
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="pushtrain-bytecode", daemon=True)
                self._thread.start()

    def close(self) -> None:
        """End what runs and forget what waits."""
        with self._lock:
            self._closed.set()
            thread = self._thread
        if thread is not None:
            thread.join()

    def _work(self) -> None:
        while True:
            with self._lock:
                if self._closed.is_set() or self._waiting.empty():
                    self._thread = None
                    return
                root, python, enclosure = self._waiting.get()
            self._compile(root, python, enclosure)
            with self._lock:
                self._known.discard(root)

    def _compile(self, root: Path, python: Path, enclosure: Enclosure) -> None:
        def stop() -> None:
            if self._closed.is_set():
                raise Cancelled("the executor stops")

        words = (python.resolve(), "-I", "-S", "-c", _SCRIPT, root, MARK)
        argv, env = command(enclosure, words, {"PATH": os.defpath})
        try:
            done = process.run(("nice", "-n", "19", *argv), env=env, stop=stop, patience=0.2)
        except Cancelled:
            return
        except OSError as error:
            _log.warning("The bytecode of %s was not compiled: %s.", root.name, error.strerror)
            return
        if done.code:
            _log.warning("The bytecode of %s was not compiled: %s", root.name, done.complaint[-300:])
