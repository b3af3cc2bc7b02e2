"""What a training script needs to be interrupted and to go on: the same inside pushtrain and without it.

    import pushtrain

    for step in range(start, steps):
        ...
        pushtrain.log(step=step, loss=loss)
        if pushtrain.should_stop():
            save(pushtrain.checkpoint_dir / "last.pt")
            pushtrain.checkpointed()

Standard library only, and Python 3.8 or later: it runs in the job's environment, not in ours. Importing
does nothing; the signal is listened to from the first `should_stop()` on.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from types import FrameType

    checkpoint_dir: Path
    """A folder for checkpoints that all attempts of the run share; outside pushtrain `checkpoints`."""
    resuming: bool
    """Whether an earlier attempt has left something in it."""
    inside: bool
    """Whether this is a run of pushtrain."""

__all__ = ("checkpoint_dir", "checkpointed", "inside", "log", "resuming", "should_stop")

CHECKPOINTED = 85
"""The exit code that says: I have saved where I am, start me again."""


def __getattr__(name: str) -> Any:
    """`checkpoint_dir`, `resuming` and `inside`, as they are when they are asked for."""
    if name == "checkpoint_dir":
        return _checkpoint_dir()
    if name == "resuming":
        return os.environ.get("PUSHTRAIN_RESUME") == "1"
    if name == "inside":
        return os.environ.get("PUSHTRAIN") == "1"
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def _checkpoint_dir() -> Path:
    folder = Path(os.environ.get("PUSHTRAIN_CHECKPOINT_DIR") or "checkpoints").absolute()
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def should_stop() -> bool:
    """Whether the machine is wanted back: save where you are, then call `checkpointed()`.

    Ask once a step, from the main thread; it costs microseconds. Processes that train together may see it
    a step apart: let them agree before one leaves the others waiting (docs/checkpoints.md).
    """
    if not _wish.pid:
        _wish.catch()
    return _wish.heard or _wish.told()


def checkpointed() -> NoReturn:
    """End this process: it has saved where it is, and is to be started again.

    Inside pushtrain the exit code is 85, which means just that; outside it is 0.
    """
    _wish.deaf()
    sys.stdout.flush()
    raise SystemExit(CHECKPOINTED if os.environ.get("PUSHTRAIN") == "1" else 0)


def log(step: float | None = None, **metrics: float) -> None:
    """Note metrics, which the report draws: `log(step=3, loss=0.25)`.

    Anything that `float` takes is a number: a tensor of one element, too. Give a step, so that a run that
    goes on continues its curve. Outside pushtrain the lines go into `metrics.jsonl`.

    Args:
        step: Where on the axis; without one the count of the metric's lines.
        **metrics: Their values by name.
    """
    entry: dict[str, float] = {} if step is None else {"step": _number(step)}
    entry.update((name, _number(value)) for name, value in metrics.items())
    line = json.dumps(entry) + "\n"
    path = os.environ.get("PUSHTRAIN_METRICS") or "metrics.jsonl"
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(descriptor, line.encode())  # in one piece: other processes may append as well
    finally:
        os.close(descriptor)


def _number(value: Any) -> float:
    item = getattr(value, "item", None)  # a tensor's, an array's
    return value if isinstance(value, (int, float)) else float(item() if callable(item) else value)


class _Wish:
    """The wish that this process ends: a signal, or a file."""

    def __init__(self) -> None:
        self.pid = 0
        """The process that listens; 0: none does."""
        self.heard = False
        self._file: Path | None = None
        self._number: int | None = None
        self._before: Any = None
        self._mask: set[Any] | None = None

    def catch(self) -> None:
        """Listen to the job's preempt signal. Only a main thread can; any other looks at the file alone."""
        name = os.environ.get("PUSHTRAIN_STOP_FILE")
        self._file = Path(name) if name else None
        if threading.current_thread() is not threading.main_thread():
            return
        self.pid = os.getpid()
        self._number = getattr(signal, os.environ.get("PUSHTRAIN_PREEMPT_SIGNAL", "SIGTERM"), None)
        if self._number is not None:
            self._before = signal.signal(self._number, self._hear)

    def told(self) -> bool:
        """Whether the file is there."""
        return self._file is not None and self._file.exists()

    def deaf(self) -> None:
        """Pass over the signal from now on: it may come after the file was seen, while Python winds up."""
        if self.pid == os.getpid() and self._number is not None:
            signal.signal(self._number, signal.SIG_IGN)

    def before_fork(self) -> None:
        """Hold the signal back, so that none is lost between two processes."""
        if self.pid and self._number is not None:
            self._mask = signal.pthread_sigmask(signal.SIG_BLOCK, {self._number})

    def in_parent(self) -> None:
        """Go on listening."""
        if self._mask is not None:
            signal.pthread_sigmask(signal.SIG_SETMASK, self._mask)
            self._mask = None

    def in_child(self) -> None:
        """Be as it would be without us: a data loader's process may just be ended."""
        if self._number is not None and signal.getsignal(self._number) == self._hear:
            signal.signal(self._number, self._before if self._before is not None else signal.SIG_DFL)
        self.pid, self.heard = 0, False
        self.in_parent()

    def _hear(self, number: int, frame: FrameType | None) -> None:
        self.heard = True
        if callable(self._before) and self._before is not signal.default_int_handler:
            self._before(number, frame)


_wish = _Wish()
os.register_at_fork(before=_wish.before_fork, after_in_parent=_wish.in_parent, after_in_child=_wish.in_child)
