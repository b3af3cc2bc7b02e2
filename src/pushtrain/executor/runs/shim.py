"""The shim: one small process per attempt, which outlives the executor and always leaves a verdict.

Started as `python -I -S shim.pyc SPEC LOCK [CONTROL NET [USER]]` with the log as its standard output and
error, in a session of its own, its signals blocked from birth. It holds the lock for life, and the
attempt's uplink where there is one; the job gets none of these descriptors, nor the log's: it writes into a
pipe, and the shim takes it down. It writes `started.json` durably before each command's first instruction,
and `exit.json` durably when the whole tree is dead. As a subreaper it becomes the parent of whatever the
job leaves behind, so a double fork does not escape it; should it be killed itself, the kernel kills the
command, and a second process takes down what that had said. SIGTERM means: end the job politely, and after
the grace by force; `stop.json` says why and how soon. A later order may only hasten it, or cancel what was
to be started again. Without an order it is the machine that wants us gone: nobody has cancelled anything.

Every import delays the job's first statement: `_signal` is the C half of a module whose Python half is slow.
Of pushtrain it knows only what is compiled to lie beside it (`launch.compile_shim`): how a child confines
itself, the guard of its limits, the tape of its log, terse JSON. The spec has the shape of `Orders`, the
records those of `Started` and `Verdict` in `plumbing/attempts/records.py`, and a test holds them together.
"""

import ctypes
import errno
import os
import select
import sys
import time

TYPE_CHECKING = False  # typing's own costs 10 ms
if TYPE_CHECKING:
    import signal
    from typing import Any
else:
    import _signal as signal

if TYPE_CHECKING or __name__ != "__main__":
    from pushtrain.plumbing.attempts import tape
    from pushtrain.plumbing.attempts.terse import (
        Quietly,
        from_json,
        read_json,
        read_small,
        to_json,
        write_whole,
    )
    from pushtrain.plumbing.isolation import apart, confine, guard
else:
    sys.path.insert(0, os.path.dirname(__file__))  # -I leaves it out: our other halves lie beside us
    import apart
    import confine
    import guard
    import tape
    from terse import Quietly, from_json, read_json, read_small, to_json, write_whole

PR_SET_PDEATHSIG = 1
PR_SET_NAME = 15
PR_SET_CHILD_SUBREAPER = 36
SFD_CLOEXEC = 0o2000000
FIRST_TO_GO = 500  # when memory runs out the kernel takes the job, not the shim, the executor or the owner's
NOT_EXECUTABLE = 126
NOT_FOUND = 127
SIGNALS = frozenset({signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP})
NO_LIMITS = {"memory": 0, "processes": 0, "disk": 0, "folders": (), "growing": (), "cgroups": {}}
MANY = 65536  # bytes at once that tell of a busy writer
A_MOMENT = 10  # milliseconds in which a slow writer may say more
ELSEWHERE = 30.0  # seconds that an engine gets to end a container
BLOCK = 512  # bytes that the kernel counts a process's disk traffic in
NO_MEANS = frozenset(
    {errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.ENOSPC, errno.EDQUOT, errno.EIO}
)  # what a machine says that can start nothing now
RESERVE = 16384  # bytes kept free for the verdict, should the disk fill up

_libc = ctypes.CDLL(None, use_errno=True)


def start_time(pid: int) -> int:
    """When a process started, in clock ticks since boot; 0 when it is gone."""
    text = read_small(f"/proc/{pid}/stat")
    return int(text[text.rindex(b")") + 2 :].split()[19]) if text else 0


def below(pid: int) -> list[int]:
    """All living descendants of a process, parents first."""
    children: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):
        if name.isdigit() and (text := read_small(f"/proc/{name}/stat")):
            state, parent = text[text.rindex(b")") + 2 :].split()[:2]
            if state not in b"ZX":
                children.setdefault(int(parent), []).append(int(name))
    found = list(children.get(pid, ()))
    for one in found:
        found += children.get(one, ())
    return found


def memory_kills() -> int:
    """How often this machine's kernel has killed for lack of memory."""
    _, found, rest = read_small("/proc/vmstat").partition(b"\noom_kill ")
    return int(rest.split(None, 1)[0]) if found else 0


def signals() -> int:
    """A descriptor that is readable when one of our signals has come."""
    mask = ctypes.create_string_buffer(128)
    for number in SIGNALS:
        mask[(number - 1) // 8] = bytes([mask[(number - 1) // 8][0] | 1 << (number - 1) % 8])
    return apart.did(_libc.signalfd(-1, mask, SFD_CLOEXEC), "signalfd")


def stand_back() -> None:
    """In the child: take our niceness along to its session; those are weighed before their processes."""
    nice = os.getpriority(os.PRIO_PROCESS, 0)
    with Quietly(OSError), open("/proc/self/autogroup", "wb", buffering=0) as file:
        file.write(b"%d" % max(0, nice))


def complain(text: str) -> None:
    """In the child: say why there is no command."""
    os.write(2, f"pushtrain: {text}\n".encode("utf-8", "replace"))


class Ended:
    """How one command ended."""

    def __init__(self) -> None:
        self.status: int | None = None
        self.reason = "exited"
        self.detail = ""
        self.oom = False

    @property
    def code(self) -> int | None:
        """The exit code, None after a signal."""
        return os.WEXITSTATUS(self.status) if self.status is not None and os.WIFEXITED(self.status) else None

    @property
    def signal(self) -> int | None:
        """The signal that ended it."""
        return os.WTERMSIG(self.status) if self.status is not None and os.WIFSIGNALED(self.status) else None

    def seen_through(self, *, inside: bool) -> None:
        """Take the sandbox's own process for the command's.

        Its exit code tells a command's signal as a shell does. Where it never came to run the command, the
        sandbox failed, not the command.
        """
        code = self.code
        if not inside and self.reason == "exited" and self.status:
            self.reason, self.detail = "internal", "The sandbox could not be entered; the log says why."
        elif code is not None and 0 < code - 128 < signal.NSIG:
            self.status = code - 128


class Shim:
    """One attempt, from its orders to its verdict."""

    def __init__(
        self,
        spec: str,
        lock: int,
        log: tape.Tape,
        secrets: "dict[str, str]",
        uplink: "tuple[int, ...]" = (),
    ) -> None:
        self.secrets = secrets
        self.uplink = uplink
        self.folder = os.path.dirname(spec)
        self.lock = lock
        self.spec = spec
        self.orders: dict[str, Any] = {}
        self.pid = os.getpid()
        self.start = start_time(self.pid)
        self.boot = read_small("/proc/sys/kernel/random/boot_id").decode().strip()
        self.reserve = os.path.join(self.folder, ".exit.reserve")
        self.gone: dict[int, int] = {}
        self.cpu = 0.0
        self.rss = 0
        self.disk_read = 0
        self.disk_written = 0
        self.tape = log
        self.poll = select.poll()
        self.poll.register(signals(), select.POLLIN)
        self.stages: list[dict[str, object]] = []
        self.phase = "setup"
        self.said: set[int] = set()
        self.began: float | None = None
        self.let_go = False
        self.guard = guard.Guard(NO_LIMITS)

    # --- the attempt --------------------------------------------------------------------------------------

    def run(self) -> None:
        """Run the setup commands, then the training; leave a verdict whatever happens."""
        kills = memory_kills()
        try:
            ended = self.commands()
        except BaseException as error:  # noqa: BLE001  nothing may lose the verdict
            ended = Ended()
            ended.reason, ended.detail = "internal", f"The shim failed: {type(error).__name__}: {error}"
            if not self.let_go and isinstance(error, OSError) and error.errno in NO_MEANS:
                ended.reason = "lost"  # nothing has begun: it may as well begin again
            with Quietly(OSError):
                self.tape.say(ended.detail)
        self.end_all()
        self.guard.close()
        killed = ended.signal == signal.SIGKILL or ended.code == 128 + signal.SIGKILL
        ended.oom = ended.reason == "exited" and killed and memory_kills() > kills
        with Quietly(Exception):  # a log that is too long is better than no verdict
            self.tape.copy()
            self.tape.trim(exact=True)
        self.verdict(ended)

    def commands(self) -> Ended:
        """Run every command in turn, up to the first that fails."""
        orders = self.orders = read_json(self.spec)
        setup = orders.get("setup", ())
        self.tape.limit = orders["log_limit"]
        self.guard = guard.Guard(orders["limits"])
        self.guard.open()
        self.reserve_verdict()
        begin = time.monotonic()
        deadline = begin + orders["setup_timeout"]
        for number, step in enumerate(setup, 1):
            self.tape.say(f"setup {number} of {len(setup)}: {step['title']}")
            ended = self.command(step["argv"], deadline, wrapped=True)
            if ended.reason != "exited" or ended.status:
                self.stage("setup", begin)
                if ended.reason == "exited":
                    ended.reason = "setup"
                ended.detail = ended.detail or step["title"]
                return ended
        if setup:
            self.stage("setup", begin)
            self.tape.say("training")
        self.phase, begin, self.began = "train", time.monotonic(), time.time()
        try:
            return self.command(orders["argv"], begin + orders["timeout"], wrapped=orders.get("shell", False))
        finally:
            self.stage("train", begin)

    def stage(self, name: str, begin: float) -> None:
        """Note how long a stage took."""
        self.stages.append({"stage": name, "seconds": round(time.monotonic() - begin, 6)})

    # --- one command --------------------------------------------------------------------------------------

    def command(self, argv: list[str], deadline: float, *, wrapped: bool) -> Ended:
        """Run one command to its end, and end what it leaves behind."""
        wait, go = os.pipe()
        told, tell = os.pipe()
        pid = os.fork()
        if pid == 0:
            try:
                os.close(go)
                self.become(argv, wait, tell)
            finally:
                os._exit(NOT_EXECUTABLE)
        os.close(wait)
        os.close(tell)
        try:
            self.guard.enter(pid)
            self.write_started(pid)
            self.let_go = True
            os.write(go, b"\n")
        finally:
            os.close(go)
        ended = Ended()
        kills = self.guard.kills()
        while self.reap() and pid not in self.gone:
            if time.monotonic() >= deadline:
                ended.reason = "timeout"
            elif self.stop_wanted(deadline):
                ended.reason, ended.detail, _ = self.order()
            elif over := self.guard.look(self.tree):
                ended.reason, ended.detail = over
                self.end_all()
                break
            if ended.reason != "exited":
                self.end_politely(pid, ended, wrapped=wrapped)
                break
        self.end_all()
        if self.enclosure["ends"]:
            self.end_elsewhere(self.enclosure["ends"], self.enclosure["outside"])
        ended.status = self.gone.get(pid)
        inside = not self.around or b"exit-code" in os.read(told, 65536)
        os.close(told)
        if self.guard.kills() > kills and ended.reason == "exited" and ended.status:
            ended.reason, ended.detail = "oom", self.guard.said_of_memory()
        if self.around:
            ended.seen_through(inside=inside)
        return ended

    @property
    def around(self) -> bool:
        """Whether a process of the sandbox's own stands around each command."""
        return self.enclosure["confinement"]["status"] is not None

    @property
    def enclosure(self) -> "dict[str, Any]":
        """What is put around the commands of this phase."""
        found: dict[str, Any] = self.orders["setup_enclosure" if self.phase == "setup" else "enclosure"]
        return found

    def inner(self, pid: int) -> int:
        """The command's own process: the second one in a sandbox, if there is one."""
        if self.around:
            for one in below(pid):
                _, _, rest = read_small(f"/proc/{one}/status").partition(b"\nNSpid:")
                if rest.split(b"\n", 1)[0].split()[-1:] == [b"2"]:
                    return one
        return pid

    def become(self, argv: list[str], wait: int, tell: int) -> None:
        """In the child: become the command."""
        _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.read(wait, 1) != b"\n" or os.getppid() != self.pid:
            return
        os.setsid()
        stand_back()
        os.umask(0o022)
        for number in (1, 2):
            os.dup2(self.tape.given, number)
        with Quietly(OSError), open("/proc/self/oom_score_adj", "wb", buffering=0) as file:
            file.write(b"%d" % FIRST_TO_GO)
        for number in range(1, signal.NSIG):
            if number not in {signal.SIGKILL, signal.SIGSTOP}:
                with Quietly(OSError):  # the C library keeps a few for itself
                    signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        try:
            os.chdir(self.orders["cwd"])
        except OSError as error:
            complain(f"the work folder {self.orders['cwd']} cannot be entered: {error.strerror}")
            return
        name = (self.enclosure["prefix"] or argv)[0]
        variables = {**self.orders["env"], **(self.secrets if self.phase == "train" else {})}
        try:
            confine.enclosed(self.enclosure, argv, variables, lock=self.lock, status=tell, uplink=self.uplink)
        except confine.Unconfined as error:
            complain(f"the sandbox could not be made: {error}")
        except (FileNotFoundError, NotADirectoryError):
            if os.path.exists(name):
                complain(f"{name} names an interpreter that does not exist")
            else:
                complain(f"command not found: {name}")
            os._exit(NOT_FOUND)
        except OSError as error:
            complain(f"{name} cannot be executed: {error.strerror}")

    def end_politely(self, pid: int, ended: Ended, *, wrapped: bool) -> None:
        """Ask the command to end, give it its grace, and heed what else is ordered meanwhile.

        A shell does not pass the signal on, so what it runs is asked as well. A program that the shell has
        become is asked alone: its helpers are its own to end.
        """
        command = self.inner(pid)
        told = [command]
        with Quietly(OSError):  # it was quicker
            if wrapped and os.path.basename(os.readlink(f"/proc/{command}/exe")) == "bash":
                told += [one for one in below(command) if self.parent(one) == command]
        # What stands around the command is waited for, too: it is about to tell the exit code.
        alive = {one: start_time(one) for one in dict.fromkeys((pid, *told))}
        timed_out = ended.reason == "timeout"
        kill_at = self.ask(told, ended, self.orders["grace"] if timed_out else self.order()[2], float("inf"))
        while self.reap() and alive and time.monotonic() < kill_at:
            alive = {one: start for one, start in alive.items() if start and start_time(one) == start}
            if alive and self.stop_wanted(kill_at):
                reason, detail, grace = self.order()
                if not timed_out:
                    ended.reason, ended.detail = reason, detail
                kill_at = self.ask(told, ended, grace, kill_at)

    def ask(self, told: "list[int]", ended: Ended, grace: float, latest: float) -> float:
        """Say to processes that they should end, in a file and by a signal; when they must have."""
        now = time.monotonic()
        kill_at = min(latest, now + max(0.0, grace))
        with Quietly(OSError):  # the disk may be full
            if path := self.orders.get("stop_file"):
                record = {"reason": ended.reason, "until": time.time() + kill_at - now}
                write_whole(path, to_json(record), mode=0o644)
        number = self.orders.get("preempt_signal", signal.SIGTERM)
        if ended.reason in {"cancelled", "timeout"}:
            number = signal.SIGTERM
        if number not in self.said:  # the same once more would hit a command that is winding up
            self.said.add(number)
            for one in reversed(told):
                with Quietly(ProcessLookupError):
                    os.kill(one, number)
        return kill_at

    @staticmethod
    def parent(pid: int) -> int:
        """Who started a process; 0 when it is gone."""
        text = read_small(f"/proc/{pid}/stat")
        return int(text[text.rindex(b")") + 2 :].split()[1]) if text else 0

    def stop_wanted(self, until: float) -> bool:
        """Take down what is said until a child ends, a signal comes or time is over; whether to stop.

        Whoever says little gets a moment to say more: else each line of it would wake us.
        """
        wait = int(1000 * max(0.0, min(until - time.monotonic(), 1.0)))
        heard = self.tape.heard
        self.poll.register(heard, select.POLLIN)
        ready = [number for number, _ in self.poll.poll(wait)]
        self.poll.unregister(heard)
        if heard in ready and self.tape.copy() < MANY and len(ready) == 1:
            self.poll.poll(min(wait, A_MOMENT))
        found = signal.sigtimedwait(SIGNALS, 0)
        return found is not None and found.si_signo == signal.SIGTERM

    def order(self) -> "tuple[str, str, float]":
        """Why we were asked to stop, in a word and a sentence, and how many seconds there are."""
        grace: float = self.orders["grace"]
        try:
            order = read_json(os.path.join(self.folder, "stop.json"))
            given = order.get("grace")
            return order["reason"], order.get("detail", ""), grace if given is None else given
        except (OSError, ValueError, KeyError, StopIteration):
            return "interrupted", "", grace

    # --- the tree -----------------------------------------------------------------------------------------

    def reap(self) -> bool:
        """Bury every child that has ended; whether any child is left."""
        while True:
            try:
                pid, status, usage = os.wait4(-1, os.WNOHANG)
            except ChildProcessError:
                return False
            if pid == 0:
                return self.others()
            self.gone[pid] = status
            self.cpu += usage.ru_utime + usage.ru_stime
            self.rss = max(self.rss, usage.ru_maxrss * 1024)
            self.disk_read += usage.ru_inblock * BLOCK
            self.disk_written += usage.ru_oublock * BLOCK

    def others(self) -> bool:
        """Whether a child is left beside the tape's second process."""
        told = read_small(f"/proc/self/task/{self.pid}/children")
        if not told:  # not every kernel tells them
            return bool(self.tree())
        return any(int(child) != self.tape.second for child in told.split())

    def tree(self) -> "list[int]":
        """All living processes below us, the tape's second one left out."""
        return [pid for pid in below(self.pid) if pid != self.tape.second]

    def end_all(self) -> None:
        """Kill everything below us until nothing is left. A process that the kernel cannot end holds us."""
        while self.reap():
            for pid in self.tree():
                with Quietly(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            signal.sigtimedwait({signal.SIGCHLD}, 0.05)

    def end_elsewhere(self, argv: list[str], env: dict[str, str]) -> None:
        """Have somebody else end what is not below us: an engine its container."""
        pid = os.fork()
        if pid == 0:
            try:
                nothing = os.open(os.devnull, os.O_RDWR)
                for number in (0, 1, 2):
                    os.dup2(nothing, number)
                signal.pthread_sigmask(signal.SIG_SETMASK, ())
                confine.execute(argv, env)
            finally:
                os._exit(NOT_EXECUTABLE)
        patience = time.monotonic() + ELSEWHERE
        while self.reap() and pid not in self.gone and time.monotonic() < patience:
            signal.sigtimedwait({signal.SIGCHLD}, 0.05)
        self.end_all()

    # --- the records --------------------------------------------------------------------------------------

    def reserve_verdict(self) -> None:
        """Take the blocks that the verdict will need, while there are some."""
        descriptor = os.open(self.reserve, os.O_WRONLY | os.O_CREAT, 0o600)
        try:
            os.posix_fallocate(descriptor, 0, RESERVE)
        finally:
            os.close(descriptor)

    def write_started(self, command: int) -> None:
        """Say durably who runs what, before it runs."""
        record = {
            "pid": self.pid,
            "start": self.start,
            "boot": self.boot,
            "phase": self.phase,
            "at": time.time(),
            "command_pid": command,
            "command_start": start_time(command),
        }
        write_whole(os.path.join(self.folder, "started.json"), to_json(record))

    def verdict(self, ended: Ended) -> None:
        """Say durably how it ended."""
        record = {
            "phase": self.phase,
            "reason": ended.reason if ended.signal is None or ended.reason != "exited" else "signalled",
            "code": ended.code,
            "signal": ended.signal,
            "detail": ended.detail[:2000],
            "oom": ended.oom,
            "started_at": self.began,
            "ended_at": time.time(),
            "log_size": self.tape.size(),
            "elided": self.tape.elided,
            "cpu_seconds": round(self.cpu, 6),
            "max_rss": self.rss,
            "disk_read": self.disk_read,
            "disk_written": self.disk_written,
            "stages": self.stages,
        }
        write_whole(os.path.join(self.folder, "exit.json"), to_json(record), self.reserve)


def handed_over() -> "dict[str, str]":
    """Read the secrets from standard input, which nobody else can; most attempts have none."""
    text = b""
    while piece := os.read(0, MANY):
        text += piece
    if not text:
        return {}
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    return from_json(text.decode())


def main() -> None:
    """Take over the descriptors, then run the attempt."""
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    kept = tuple(map(int, sys.argv[2:]))
    for one in kept:
        os.set_inheritable(one, False)
    for name in os.listdir("/proc/self/fd"):
        if int(name) not in {0, 1, 2, *kept}:
            with Quietly(OSError):  # the descriptor of this very listing
                os.close(int(name))
    os.chdir("/")
    log = tape.Tape()
    log.hold(apart_from=(0, *kept))  # before there are secrets that it would have a copy of
    secrets = handed_over()
    _libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    _libc.prctl(PR_SET_NAME, b"pushtrain-shim", 0, 0, 0)
    Shim(sys.argv[1], kept[0], log, secrets, kept[2:]).run()
    log.let_go()
    os._exit(0)  # tidying up the interpreter would only hold up the news


if __name__ == "__main__":
    main()
