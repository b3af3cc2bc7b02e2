"""Run other programs and leave none of them behind.

`run()` starts one in a session of its own, keeps a bounded part of its output, and returns as soon as it has
ended: it waits on the kernel, it does not poll. Whatever cuts the wait short (a wish to stop, a timeout, any
exception) ends the program's whole tree, interrupt → terminate → kill, and reaps it before the exception goes
on. What a program leaves running after a normal end is left alone: an ssh master or git's credential daemon
outlives its command on purpose.
"""

import contextlib
import errno
import os
import resource
import select
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import IO, TYPE_CHECKING, Final

from pushtrain.plumbing.programs import priority
from pushtrain.plumbing.programs.courtesy import session_stands_back
from pushtrain.plumbing.programs.proc import descendants, ended_within, kill_tree, send, start_time, stat

if TYPE_CHECKING:
    from pushtrain.ports import Stop

_OURS_ALONE: Final = frozenset({"PUSHTRAIN_KEY", "PUSHTRAIN_WEBHOOK_SECRET"})
"""Variables that no program which we start sees."""
PARENT_MARK: Final = "PUSHTRAIN_PARENT"
"""The variable that a server's programs carry: whose they are, its pid and start (`orphans`)."""
NO_MEANS: Final = frozenset({errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE})
"""Errors of a machine that can start no program at the moment, whatever it is."""
_CHUNK: Final = 65536
_STOP_INTERVAL: Final = 0.1
"""How often a wish to stop is looked for while a program runs, in seconds."""
_LINGER: Final = 0.5
"""How long output may still arrive from a grandchild once the program itself has ended."""
_PATIENCE: Final = 2.0
"""Seconds between interrupt, terminate and kill."""


@dataclass(frozen=True, slots=True)
class Completed:
    """A program that ended by itself."""

    argv: tuple[str, ...]
    code: int
    """Exit code; negative: the signal that ended it."""
    out: bytes
    """The head of its standard output, up to the limit."""
    err: bytes
    """The tail of its standard error, up to the limit."""
    cut: bool = False
    """Whether `out` is not all of it."""

    @property
    def text(self) -> str:
        """Standard output as text, without the last newline."""
        return self.out.decode("utf-8", "replace").rstrip("\n")

    @property
    def complaint(self) -> str:
        """Standard error as text, stripped."""
        return self.err.decode("utf-8", "replace").strip()


def run(
    argv: Sequence[str | Path],
    *,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    stop: "Stop | None" = None,
    timeout: float | None = None,
    input: bytes | None = None,  # noqa: A002  the word that subprocess uses
    limit: int = 64 * 1024 * 1024,
    line: Callable[[str], None] | None = None,
    take: Callable[[bytes], None] | None = None,
    caps: Mapping[int, int] | None = None,
    patience: float = _PATIENCE,
    pass_fds: tuple[int, ...] = (),
    lowly: bool = False,
) -> Completed:
    """Run a program to its end.

    Args:
        argv: The program and its arguments; no shell.
        cwd: Its working folder.
        env: Its whole environment; None: ours. A mark of who started it is added.
        stop: Called about ten times a second; what it raises ends the program and goes on.
        timeout: Seconds it may take.
        input: What it reads on standard input; None: nothing.
        limit: Bytes kept of each output stream; the rest is read and dropped.
        line: Called with each finished line of either stream (a carriage return ends one too), undecodable
            bytes replaced.
        take: Gets each piece of standard output, which is then not kept; what it raises ends the program.
        caps: Resource limits of the program and all below it, by their `RLIMIT_` number.
        patience: Seconds between interrupt, terminate and kill.
        pass_fds: Descriptors that it inherits.
        lowly: Whether everybody else goes first, at the processor and at the disk.

    Raises:
        TimeoutError: It ran past `timeout`.
        OSError: It could not be started.
    """
    words = tuple(map(str, argv))
    with subprocess.Popen(
        words,
        cwd=cwd,
        env=marked_environment(env),
        stdin=subprocess.DEVNULL if input is None else subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        bufsize=0,
        start_new_session=True,
        pass_fds=pass_fds,
    ) as child:
        session_stands_back(child.pid)
        try:
            for number, most in (caps or {}).items():
                _cap(child.pid, number, most)
            if lowly:
                priority.lower(child.pid)
            talk = _Talk(child, " ".join(words[:3]), input, limit, line, take)
            talk.until_end(stop, timeout)
        except BaseException:
            _end(child, patience)
            raise
        return Completed(words, child.wait(), bytes(talk.out), bytes(talk.err), cut=talk.cut)


def _cap(pid: int, number: int, most: int) -> None:
    """Limit a resource of a program that has just been started; a stricter limit of ours stays."""
    hard = resource.getrlimit(number)[1]
    most = most if hard == resource.RLIM_INFINITY else min(most, hard)
    with contextlib.suppress(ProcessLookupError):  # it has ended already
        resource.prlimit(pid, number, (most, most))


def serve(home: str) -> None:
    """From now on be the server of a state folder, whose programs carry its mark; `home` names the folder."""
    global _home  # noqa: PLW0603  a process is the server of one folder, or of none
    _home = home


_home = ""


def marked_environment(env: Mapping[str, str] | None = None) -> dict[str, str]:
    """An environment (None: ours) with a server's mark, by which its next life finds what this one left."""
    given = os.environ if env is None else env
    kept = {name: value for name, value in given.items() if name not in (*_OURS_ALONE, PARENT_MARK)}
    return {**kept, PARENT_MARK: f"{_home}.{_own_mark(os.getpid())}"} if _home else kept


@cache
def _own_mark(pid: int) -> str:
    return f"{pid}.{start_time(pid)}"


class _Talk:
    """What goes in and out of a running child."""

    def __init__(  # noqa: PLR0917  one call
        self,
        child: "subprocess.Popen[bytes]",
        title: str,
        given: bytes | None,
        limit: int,
        line: Callable[[str], None] | None,
        take: Callable[[bytes], None] | None,
    ) -> None:
        self.out = bytearray()
        self.err = bytearray()
        self.cut = False
        self._child = child
        self._title = title
        self._given = memoryview(given or b"")
        self._limit = limit
        self._line = line
        self._take = take
        self._rest: dict[int, bytes] = {}
        self._open = 0

    def until_end(self, stop: "Stop | None", timeout: float | None) -> None:
        """Feed and read until the child has ended and its output is closed, or has lingered too long."""
        poll = select.poll()
        steps = self._register(poll)
        ended = os.pidfd_open(self._child.pid)
        try:
            poll.register(ended, select.POLLIN)
            deadline = None if timeout is None else time.monotonic() + timeout
            alive = True
            while alive or self._open:
                if stop is not None and alive:
                    stop()
                ready = poll.poll(_wait_ms(deadline, polling=stop is not None and alive))
                for descriptor, _ in ready:
                    if descriptor == ended:
                        alive = False
                        deadline = time.monotonic() + _LINGER
                    if descriptor == ended or not steps[descriptor]():
                        poll.unregister(descriptor)
                if deadline is not None and time.monotonic() >= deadline:
                    if alive:
                        raise TimeoutError(f"`{self._title}` took longer than {timeout:g} s and was ended.")
                    break
        finally:
            os.close(ended)
        self._flush_lines()

    def _register(self, poll: select.poll) -> dict[int, Callable[[], bool]]:
        """What to do when a descriptor is ready; each step tells whether to go on watching it."""
        steps: dict[int, Callable[[], bool]] = {}
        for stream, kept in ((self._child.stdout, self.out), (self._child.stderr, self.err)):
            if stream is not None:
                steps[stream.fileno()] = partial(self._read, stream.fileno(), kept)
                poll.register(stream, select.POLLIN)
        self._open = len(steps)
        if self._child.stdin is not None:
            os.set_blocking(self._child.stdin.fileno(), False)
            steps[self._child.stdin.fileno()] = partial(self._feed, self._child.stdin)
            poll.register(self._child.stdin, select.POLLOUT)
        return steps

    def _read(self, descriptor: int, kept: bytearray) -> bool:
        data = os.read(descriptor, _CHUNK)
        if kept is self.out and self._take is not None:
            self._take(data)
        elif kept is self.out:
            room = self._limit - len(kept)
            kept += data[:room]
            self.cut = self.cut or len(data) > room
        else:
            kept += data
            del kept[: max(0, len(kept) - self._limit)]
        if self._line is not None and data:
            *lines, self._rest[descriptor] = (
                (self._rest.get(descriptor, b"") + data).replace(b"\r", b"\n").split(b"\n")
            )
            self._rest[descriptor] = self._rest[descriptor][-_CHUNK:]
            for found in filter(None, lines):
                self._line(found.decode("utf-8", "replace"))
        if not data:
            self._open -= 1
        return bool(data)

    def _flush_lines(self) -> None:
        if self._line is not None:
            for rest in filter(None, self._rest.values()):
                self._line(rest.decode("utf-8", "replace"))

    def _feed(self, pipe: IO[bytes]) -> bool:
        """Write some input, and close the pipe when there is no more or nobody reads it."""
        try:
            while self._given:
                self._given = self._given[os.write(pipe.fileno(), self._given[:_CHUNK]) :]
        except BlockingIOError:
            return True
        except BrokenPipeError:
            pass
        pipe.close()
        return False


def _wait_ms(deadline: float | None, *, polling: bool) -> int | None:
    left = None if deadline is None else max(0.0, deadline - time.monotonic())
    if polling:
        left = _STOP_INTERVAL if left is None else min(left, _STOP_INTERVAL)
    return None if left is None else int(left * 1000) + 1


def _end(child: "subprocess.Popen[bytes]", patience: float) -> None:
    """End the child and everything it started; it is reaped when this returns."""
    below = [found for pid in descendants(child.pid) if (found := stat(pid))]
    for step in (signal.SIGINT, signal.SIGTERM):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, step)
        if ended_within(child.pid, patience):
            break
    for one in below:
        send(one.pid, one.start, signal.SIGKILL)
    kill_tree(child.pid)
    child.wait()
