"""Keep a job to its limits: the shim's other half, so standard library only and few imports.

Where the executor may make control groups, the kernel keeps memory and processes within bounds: a fork fails,
what needs more memory is killed. Where it may not, the guard looks once a second, and says by how much a job
was over when it was seen. Disk is always looked at: what lies in the job's folders, and what it has deleted
and still holds open. Looking takes at most a twentieth of the time (half of it, where a look at the disk has
gone on for ten minutes), and a moment at once, however many files there are.
"""

import os
import time

TYPE_CHECKING = False  # typing's own costs 10 ms
if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Mapping
    from typing import Any

PAGE = os.sysconf("SC_PAGE_SIZE")
EVERY = 1.0
SHARE = 20  # one part in so many of the time is spent looking
SLICE = 0.1  # seconds after which a look at the disk goes on another time: the shim must hear the owner
LONGEST = 600.0  # seconds after which it takes half of the time: a job may make files as quickly as we look
LONGER = 1.0  # seconds after which it goes on another time even then
STEP = 500  # files between two looks at the clock
SHARED = "/dev/shm"  # noqa: S108  shared memory is there
SETTLED = "cgroup.procs"
FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
RIGHTS = 0o700
NOTHING = ((0, 0), 0, 1)  # a file of no bytes: a folder was entered or left


def read(path: str) -> str:
    """A small file of the kernel's; empty when it cannot be read."""
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            return file.read()
    except OSError:
        return ""


def write(path: str, text: str) -> None:
    """Write to a file of the kernel's."""
    with open(path, "w", encoding="ascii") as file:
        file.write(text)


def field(text: str, name: str) -> int:
    """A number that stands behind a name on a line of its own; 0 when it is not there."""
    for line in text.splitlines():
        words = line.split()
        if len(words) >= 2 and words[0].rstrip(":") == name and words[1].isdigit():  # noqa: PLR2004  name, value
            return int(words[1])
    return 0


def size(number: int) -> str:
    """Bytes for people."""
    value, unit = float(number), "B"
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if value < 1000 or unit == "TB":  # noqa: PLR2004  decimal units
            break
        value /= 1000
    return f"{value:.3g} {unit}"


class Guard:
    """The limits of one attempt.

    Args:
        limits: A `Limited` of `plumbing/attempts/records.py` as JSON.
    """

    def __init__(self, limits: "Mapping[str, Any]") -> None:
        self.memory: int = limits["memory"]
        self.processes: int = limits["processes"]
        self.disk: int = limits["disk"]
        self.folders: list[str] = limits["folders"]
        self.growing: list[str] = limits["growing"]
        self.before = 0
        self.wanted: dict[str, str] = limits["cgroups"]
        self.groups: dict[str, str] = {}
        self.next = 0.0
        self.pids: list[int] = []
        self.weighing: Generator[int | None] | None = None
        self.since = 0.0
        self.over = False
        self.counting: Generator[tuple[tuple[int, int], int, int]] | None = None
        self.counted = Total()
        self.held: tuple[int, int] = 0, 0

    # --- control groups -----------------------------------------------------------------------------------

    def open(self) -> None:
        """Before a job begins: make the control groups; what cannot be had is looked at instead."""
        if self.disk:  # now, and at once: nothing of it holds what an owner could want back
            self.before = total(files_below(self.growing))
        for name, folder in self.wanted.items():
            try:
                os.makedirs(folder, exist_ok=True)
                self.limit(name, folder)
            except OSError:
                continue
            self.groups[name] = folder

    def limit(self, name: str, folder: str) -> None:
        """Tell the kernel what is allowed."""
        if name == "memory" and self.memory:
            write(f"{folder}/memory.limit_in_bytes", str(self.memory))
            self.also(f"{folder}/memory.memsw.limit_in_bytes", str(self.memory))
        if name == "pids" and self.processes:
            write(f"{folder}/pids.max", str(self.processes))
        if name == "unified":
            if self.memory:
                write(f"{folder}/memory.max", str(self.memory))
                self.also(f"{folder}/memory.swap.max", "0")
                self.also(f"{folder}/memory.oom.group", "1")
            if self.processes:
                write(f"{folder}/pids.max", str(self.processes))

    @staticmethod
    def also(path: str, text: str) -> None:
        """Write what not every kernel has."""
        try:
            write(path, text)
        except OSError:
            return

    def enter(self, pid: int) -> None:
        """Put a process, and so all that it starts, into the groups.

        Raises:
            OSError: It cannot be put there; it must not run then.
        """
        for folder in self.groups.values():
            write(f"{folder}/{SETTLED}", str(pid))

    def kills(self) -> int:
        """How often the kernel has killed for this attempt's limit of memory."""
        found = 0
        for folder in self.groups.values():
            text = read(f"{folder}/memory.oom_control") or read(f"{folder}/memory.events")
            found += field(text, "oom_kill")
        return found

    def said_of_memory(self) -> str:
        """That the kernel has killed for it, as a sentence."""
        return (
            f"It needed more than the {size(self.memory)} of memory that are allowed, and was killed for it."
        )

    def close(self) -> None:
        """Remove the groups, once all that was in them is dead."""
        if self.weighing is not None:
            self.weighing.close()
        for folder in self.groups.values():
            for _ in range(100):
                try:
                    os.rmdir(folder)
                except FileNotFoundError:
                    break
                except OSError:
                    time.sleep(0.01)  # the kernel is still at it
                else:
                    break

    # --- looking ------------------------------------------------------------------------------------------

    def look(self, tree: "Callable[[], list[int]]") -> "tuple[str, str] | None":
        """Why the job must end, as reason and sentence; None: it is within its limits, or it is too soon.

        Args:
            tree: All living processes of the job.
        """
        begin = time.monotonic()
        if begin < self.next:
            return None
        self.pids = pids = tree()
        found = self.processes_over(pids) or self.memory_over(pids) or self.disk_over()
        took = time.monotonic() - begin
        self.next = time.monotonic() + (EVERY if self.late else max(EVERY, SHARE * took))
        return found

    def processes_over(self, pids: "list[int]") -> "tuple[str, str] | None":
        """Whether there are too many processes and threads."""
        if not self.processes or self.groups.keys() & {"pids", "unified"}:
            return None
        count = sum(field(read(f"/proc/{pid}/status"), "Threads") for pid in pids)
        if count <= self.processes:
            return None
        return "processes", f"It had {count} processes and threads at once; {self.processes} are allowed."

    def memory_over(self, pids: "list[int]") -> "tuple[str, str] | None":
        """Whether it uses too much memory: what is shared counts once, which costs more to find out."""
        if not self.memory or self.groups.keys() & {"memory", "unified"}:
            return None
        resident = 0
        for pid in pids:
            words = read(f"/proc/{pid}/statm").split()
            resident += int(words[1]) * PAGE if words else 0
        files = self.shared(pids) + self.files_in_memory(pids)
        if resident + files <= self.memory:
            return None
        used, mapped = 0, 0
        for pid in pids:
            text = read(f"/proc/{pid}/smaps_rollup")
            used += 1024 * (field(text, "Pss") - field(text, "Pss_Shmem"))
            mapped += 1024 * field(text, "Pss_Shmem")
        used += max(mapped, files)  # files that are mapped are in both; memory shared without a file is not
        if used <= self.memory:
            return None
        return (
            "oom",
            f"It used {size(used)} of memory when it was looked at; {size(self.memory)} are allowed.",
        )

    def files_in_memory(self, pids: "list[int]") -> int:
        """Bytes of files in memory that it holds open, counted a moment at a time: until then what was known.

        What was closed and opened anew during a long count may be in it twice, so the smaller of two counts.
        """
        begin, at_once = time.monotonic(), self.counting is None
        if self.counting is None:
            self.counting, self.counted = in_memory(pids), Total()
        for step, (number, blocks, links) in enumerate(self.counting, 1):
            self.counted.add(number, blocks, links)
            if not step % STEP and begin + SLICE <= time.monotonic():
                return min(self.held)
        self.counting, used = None, self.counted.used
        self.held = used, used if at_once else self.held[0]
        return min(self.held)

    @staticmethod
    def shared(pids: "Iterable[int]") -> int:
        """What lies in a shared memory of the job's own; on the machine's it cannot be told whose it is."""
        outside = os.stat(SHARED).st_dev if os.path.isdir(SHARED) else -1
        for pid in pids:
            path = f"/proc/{pid}/root{SHARED}"
            try:
                if os.stat(path).st_dev == outside:
                    continue
                found = os.statvfs(path)
            except OSError:
                continue
            return (found.f_blocks - found.f_bfree) * found.f_frsize
        return 0

    def disk_over(self) -> "tuple[str, str] | None":
        """Whether it has written too much; None, too, while that is still being found out."""
        if not self.disk:
            return None
        begin = time.monotonic()
        if self.weighing is None:
            self.weighing, self.since = self.weighed(self.before), begin
        for used in self.weighing:
            if used is not None:
                return self.judged(used, at_once=self.since == begin)
            if begin + (LONGER if self.late else SLICE) <= time.monotonic():
                break
        return None

    @property
    def late(self) -> bool:
        """Whether a look at the disk has been going on for long."""
        return self.weighing is not None and time.monotonic() >= self.since + LONGEST

    def judged(self, used: int, *, at_once: bool) -> "tuple[str, str] | None":
        """What follows from what it has written; what it moved during a long look may have counted twice."""
        before, self.weighing, self.over = self.over, None, used > self.disk
        if not self.over or not (at_once or before):
            return None
        return "disk", f"It had written {size(used)} when it was looked at; {size(self.disk)} are allowed."

    def weighed(self, before: int) -> "Generator[int | None]":
        """Find out how many bytes it has written, and give them last; None now and then until then."""
        own, grown, count = Total(), Total(), 0
        found = ((grown, files_below(self.growing)), (own, files_below(self.folders)), (own, self.nameless()))
        for sums, files in found:
            for number, blocks, links in files:
                sums.add(number, blocks, links)
                count += 1
                if not count % STEP:
                    yield None
        yield own.used + max(0, grown.used - before)

    def nameless(self) -> "Iterable[tuple[tuple[int, int], int, int]]":
        """What it has deleted and still holds open."""
        yield from held_open(self.pids, [*self.folders, *self.growing])


class Total:
    """Bytes on the disk of files, each counted once whatever its names."""

    def __init__(self) -> None:
        self.used = 0
        self.seen: set[tuple[int, int]] = set()

    def add(self, number: "tuple[int, int]", blocks: int, links: int) -> None:
        """Count a file by one of its names."""
        if links == 1 or number not in self.seen:
            self.used += blocks
            if links != 1:
                self.seen.add(number)


def total(files: "Iterable[tuple[tuple[int, int], int, int]]") -> int:
    """Bytes on the disk of all these files, each counted once whatever its names."""
    sums = Total()
    for number, blocks, links in files:
        sums.add(number, blocks, links)
    return sums.used


class Level:
    """A folder that we are in, or below: what it is called, which it is, what in it is to be entered."""

    def __init__(self, name: str, one: os.stat_result, mode: "int | None") -> None:
        self.name = name
        self.number = (one.st_dev, one.st_ino)
        self.mode = mode
        self.names: list[str] = []


def files_below(folders: "Iterable[str]") -> "Iterable[tuple[tuple[int, int], int, int]]":
    """Every file below folders: which it is, its bytes, how many names it has. Links are not followed.

    A job hides nothing by nesting folders deeper than a path can be long, nor by shutting a folder: it is
    opened to us, looked into, and shut again. Each folder costs the same, however deep it lies: one is open
    at a time, and the way back up is by `..`, which must lead to where we came from. Between two steps comes
    `NOTHING`: empty folders have no files, and who sums up may stop there, too.
    """
    for folder in folders:
        levels: list[Level] = []
        at = entered(folder, None, levels)
        try:
            if levels:
                yield from listed(at, levels[-1])
            while levels:
                yield NOTHING
                if not levels[-1].names:
                    at = left(at, levels)
                    continue
                depth = len(levels)
                at = entered(levels[-1].names.pop(), at, levels)
                if len(levels) > depth:
                    yield from listed(at, levels[-1])
        finally:
            while levels:
                at = left(at, levels)


def listed(at: int, level: Level) -> "Iterable[tuple[tuple[int, int], int, int]]":
    """What stands in an open folder; its folders are noted."""
    try:
        with os.scandir(at) as entries:
            for entry in entries:
                try:
                    one, below = entry.stat(follow_symlinks=False), entry.is_dir(follow_symlinks=False)
                except OSError:
                    continue
                if below:
                    level.names.append(entry.name)
                yield (one.st_dev, one.st_ino), one.st_blocks * 512, 1 if below else one.st_nlink
    except OSError:
        return


def entered(name: str, above: "int | None", levels: "list[Level]") -> int:
    """Go into a folder; the folder that is open then, the one above where it cannot be entered.

    Args:
        name: Its name in the one that is open; the first one's path.
        above: The one that is open; None: none.
        levels: Where we are.
    """
    try:
        below, mode = opened(name, above)
    except OSError:
        return -1 if above is None else above
    levels.append(Level(name, os.fstat(below), mode))
    if above is not None:
        os.close(above)
    return below


def left(at: int, levels: "list[Level]") -> int:
    """Go back to the folder above, and shut this one again if it was; -1: there is none."""
    level, up = levels.pop(), -1
    if levels:
        try:
            up = os.open("..", FOLDER, dir_fd=at)
        except OSError:
            up = -1
    if level.mode is not None:
        shut_again(at, level.mode)
    os.close(at)
    if not levels or (up >= 0 and which(up) == levels[-1].number):
        return up
    if up >= 0:
        os.close(up)
    return found_again(levels)


def shut_again(at: int, mode: int) -> None:
    """Give an open folder the mode back that it had, unless somebody has changed it since."""
    try:
        if os.fstat(at).st_mode & 0o7777 == mode | RIGHTS:
            os.fchmod(at, mode)
    except OSError:
        return


def found_again(levels: "list[Level]") -> int:
    """The folder that we are in by its name: the job has moved one meanwhile. What is gone is left out."""
    at = -1
    for depth, level in enumerate(levels):
        try:
            below = os.open(level.name, FOLDER, dir_fd=at if depth else None)
        except OSError:
            below = -1
        if below < 0 or which(below) != level.number:
            if below >= 0:
                os.close(below)
            del levels[depth:]
            return at
        if depth:
            os.close(at)
        at = below
    return at


def which(at: int) -> "tuple[int, int]":
    """Which folder this is."""
    one = os.fstat(at)
    return one.st_dev, one.st_ino


def opened(name: str, above: "int | None") -> "tuple[int, int | None]":
    """A folder, open to us, and the mode that it must get back; None: it keeps its own. Raises OSError."""
    try:
        at = os.open(name, FOLDER, dir_fd=above)
    except PermissionError:
        at = os.open(name, FOLDER | os.O_PATH, dir_fd=above)
    one = os.fstat(at)
    mode = one.st_mode & 0o7777
    if one.st_uid != os.geteuid() or mode & RIGHTS == RIGHTS:
        return at, None
    try:
        os.chmod(f"/proc/self/fd/{at}", mode | RIGHTS)
        return os.open(".", FOLDER, dir_fd=at), mode
    finally:
        os.close(at)


def held_open(
    pids: "Iterable[int]", folders: "Iterable[str]"
) -> "Iterable[tuple[tuple[int, int], int, int]]":
    """Every file that these processes have open; of those without a name on the folders' disks, its bytes.

    The others come to nothing, and are told so that who sums up may stop between.
    """
    devices = {os.stat(folder).st_dev for folder in folders if os.path.isdir(folder)}
    for one in opened_files(pids):
        size = 0 if one.st_nlink or one.st_dev not in devices else one.st_blocks * 512
        yield (one.st_dev, one.st_ino), size, 0 if size else 1


def in_memory(pids: "Iterable[int]") -> "Generator[tuple[tuple[int, int], int, int]]":
    """Every file of memory alone (`memfd_create`) that these processes have open."""
    mine = os.memfd_create("which device")
    device = os.fstat(mine).st_dev
    os.close(mine)
    for one in opened_files(pids):
        ours = one.st_dev == device and not one.st_nlink
        yield ((one.st_dev, one.st_ino), one.st_blocks * 512, 0) if ours else NOTHING


def opened_files(pids: "Iterable[int]") -> "Iterable[os.stat_result]":
    """Every file that these processes have open."""
    for pid in pids:
        try:
            descriptors = os.listdir(f"/proc/{pid}/fd")
        except OSError:
            continue
        for name in descriptors:
            try:
                yield os.stat(f"/proc/{pid}/fd/{name}")
            except OSError:
                continue
