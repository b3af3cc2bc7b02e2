"""Start a shim, find it again, ask it to stop, and clear up after one that was killed.

The lock is taken before the shim exists and passes to it, so there is no moment in which a started attempt
looks unstarted. A shim is a child of the executor that started it and a stranger to the next one; everything
here but `start` works the same for both.
"""

import contextlib
import fcntl
import json
import logging
import os
import py_compile
import signal
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pushtrain.core.errors import StorageError
from pushtrain.executor.runs import shim as shim_module
from pushtrain.plumbing.attempts import tape, terse
from pushtrain.plumbing.attempts.records import Orders, Started, StopOrder, write_record
from pushtrain.plumbing.attempts.rundir import RunDir, held, take_lock
from pushtrain.plumbing.isolation import apart, cgroups, confine, guard
from pushtrain.plumbing.isolation.uplink import Uplink
from pushtrain.plumbing.programs import orphans, proc, process

_log = logging.getLogger(__name__)

_LOCK: Final = 3
"""The descriptor that a shim finds its lock at."""
_UPLINK: Final = (4, 5, 6)
"""The descriptors that it finds an uplink's control at, and its namespaces."""
_OUT_OF_THE_WAY: Final = 64
_LAST_WORDS: Final = 10.0
_MOMENT: Final = 0.005
_ELSEWHERE: Final = 30.0
"""Seconds that an engine gets to end a container."""
_BLOCKED: Final = (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


@dataclass(frozen=True, slots=True)
class Process:
    """A process, and the witness that tells it from a later one with its pid."""

    pid: int
    start: int


def compile_shim(into: Path) -> Path:
    """Compile the shim and its other half to bytecode, so that no start has to; where the shim is.

    Raises:
        StorageError: It cannot be written.
    """
    folder = into / "shim"
    try:
        folder.mkdir(exist_ok=True)
        for module in (shim_module, apart, confine, guard, tape, terse):
            source = Path(str(module.__file__))
            py_compile.compile(str(source), str(folder / f"{source.stem}.pyc"), doraise=True)
    except OSError as error:
        raise StorageError(f"{folder} could not be written: {error.strerror}.") from error
    return folder / "shim.pyc"


def start(
    folder: RunDir,
    orders: Orders,
    compiled: Path,
    *,
    secrets: Mapping[str, str] | None = None,
    uplink: Uplink | None = None,
) -> Process:
    """Start the shim of an attempt; when this returns it holds the attempt's lock, and its uplink.

    Args:
        folder: The attempt's.
        orders: What the shim is to do; they lie on the disk.
        compiled: What `compile_shim` gave.
        secrets: Variables of the training command that never do: they are handed over in memory.
        uplink: The attempt's, where it has one; the shim has copies of its descriptors afterwards.

    Raises:
        StorageError: The orders could not be written, or another shim holds the lock.
    """
    write_record(folder.spec, orders, durable=False)  # of no use after a restart of the machine
    lock = take_lock(folder.lock)
    if lock is None:
        raise StorageError(f"The attempt in {folder.root} is already running.")
    handed = _in_memory(json.dumps(dict(secrets)).encode()) if secrets else None
    given = (lock, *((uplink.control, *uplink.descriptors) if uplink else ()))
    numbers = (_LOCK, *_UPLINK)[: len(given)]
    # A source that has the number of another one's target would be overwritten.
    sources = [fcntl.fcntl(one, fcntl.F_DUPFD_CLOEXEC, _OUT_OF_THE_WAY) for one in given]
    nothing = (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0)
    try:
        pid = os.posix_spawn(
            sys.executable,
            (
                *(sys.executable, "-I", "-S", "-X", "utf8"),
                *(str(compiled), str(folder.spec), *map(str, numbers)),
            ),
            {name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH") if name in os.environ},
            file_actions=(
                *((os.POSIX_SPAWN_DUP2, *pair) for pair in zip(sources, numbers, strict=True)),
                nothing if handed is None else (os.POSIX_SPAWN_DUP2, handed, 0),
                (os.POSIX_SPAWN_OPEN, 1, str(folder.log), os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600),
                (os.POSIX_SPAWN_DUP2, 1, 2),
            ),
            setsid=True,
            setsigmask=_BLOCKED,
        )
    except OSError as error:
        raise StorageError(f"No process could be started: {error.strerror}.") from error
    finally:
        for one in (lock, *sources):
            os.close(one)
        if handed is not None:
            os.close(handed)
    return Process(pid, proc.start_time(pid) or 0)


def _in_memory(content: bytes) -> int:
    """A descriptor from which this can be read; there is no file."""
    descriptor = os.memfd_create("pushtrain", os.MFD_CLOEXEC)
    with open(descriptor, "wb", closefd=False) as out:
        out.write(content)
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor


def find(folder: RunDir) -> Process | None:
    """The shim of an attempt whose lock is held, as it wrote itself down; None before it did.

    The lock proves that it lives, so what the boot id says does not count: in a container, or in a machine
    that was put to sleep and woken elsewhere, it may have changed.
    """
    started = folder.read_started()
    return None if started is None else Process(started.pid, started.start)


def watch(one: Process) -> int | None:
    """A descriptor that is readable when the process ends; None: it has ended. The caller closes it."""
    return proc.open_process(one.pid, one.start)


def let_go(descriptor: int) -> None:
    """Close what `watch` gave."""
    os.close(descriptor)


def bury(one: Process) -> None:
    """Reap the shim if it is our child; a stranger is somebody else's to reap."""
    with contextlib.suppress(ChildProcessError):
        os.waitpid(one.pid, 0)


def stop(folder: RunDir, one: Process, order: StopOrder) -> bool:
    """Ask a shim to end its job; False: it had ended. A second order joins the first."""
    try:
        before = folder.read_stop()
        wanted = order if before is None else before.joined(order)
        if wanted != before:
            write_record(folder.stop, wanted)
    except StorageError as error:  # on a full disk the order counts without its reason
        _log.warning("%s", error)
    return proc.send(one.pid, one.start, signal.SIGTERM)


def settle(folder: RunDir) -> None:
    """Wait until what a killed shim had not copied is in the log: its second half locks it until then."""
    patience = time.monotonic() + _LAST_WORDS
    while held(folder.log) and time.monotonic() < patience:
        time.sleep(_MOMENT)  # a lock cannot be waited for with a limit


def clear_up(folder: RunDir, mark: str) -> int:
    """Kill what a killed shim has left of its job; how many processes that were."""
    started: Started | None = folder.read_started()
    killed = 0
    if started is not None and started.boot == proc.boot_id():  # else its pid may be anybody's
        if proc.alive(started.command_pid, started.command_start):
            proc.kill_tree(started.command_pid)
            killed += 1
        elif proc.start_time(started.command_pid) is None:
            proc.kill_tree(started.command_pid)  # its session may live on without it
    killed += proc.sweep(mark) + orphans.end_clinging(folder.job)
    orders = folder.read_orders()
    if orders is None:
        return killed
    for enclosure in (orders.enclosure, orders.setup_enclosure):
        if enclosure.ends:
            with contextlib.suppress(OSError, TimeoutError):
                process.run(enclosure.ends, env=enclosure.outside, timeout=_ELSEWHERE)
    return killed + cgroups.end(orders.limits.cgroups)
