"""Find and end what an earlier life left running: programs of a killed server, processes of a dead job.

A server holds its state folder's lock, so there is no other: whatever carries the folder's mark and was not
started by this very process is an orphan. No pid, start time or boot id has to be believed for that, and what
another executor, a person or a verb started carries another mark, or none.

A job's processes are known by the attempt's mark; one that has cleared its environment by what it still holds
of the attempt: a file of its own folder that it may write, or that folder as its place. A person looks at
such a folder in a terminal, or below a program that lives; neither is touched.
"""

import contextlib
import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from pushtrain.plumbing.programs import proc, process
from pushtrain.plumbing.programs.proc import Stat
from pushtrain.plumbing.programs.process import PARENT_MARK

_ON_PURPOSE: Final = re.compile(rb"ssh: \S.*\[mux\]|(\S*/)?git\0credential-cache--daemon|(\S*/)?gpg-agent\b")
"""Command lines of what outlives the program that started it, and serves others than us."""
_WRITES: Final = os.O_WRONLY | os.O_RDWR


def home_of(state: Path) -> str:
    """What a state folder is called in marks: not by its path, which in a container is another one's, too."""
    found = state.stat()
    return f"{found.st_dev:x}-{found.st_ino:x}"


def take_over(state: Path) -> int:
    """Be the server of this folder, whose lock we hold, and end what earlier ones left; how many programs."""
    home = home_of(state)
    process.serve(home)
    ours = process.marked_environment({})[PARENT_MARK]
    killed = 0
    for one in proc.everybody():
        mark = _mark(one.pid)
        if mark.startswith(f"{home}.") and mark != ours and not _on_purpose(one):
            killed += proc.send(one.pid, one.start, signal.SIGKILL)
    return killed


def _mark(pid: int) -> str:
    with contextlib.suppress(OSError):
        for variable in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
            name, _, value = variable.partition(b"=")
            if name == PARENT_MARK.encode():
                return value.decode("ascii", "replace")
    return ""


def _on_purpose(one: Stat) -> bool:
    """Whether it outlives its starter in order to serve others: an agent, a shared connection."""
    try:
        return bool(_ON_PURPOSE.match(Path(f"/proc/{one.pid}/cmdline").read_bytes()))
    except OSError:
        return False


# --- what a dead job left ---------------------------------------------------------------------------------


def clinging(job: Path) -> list[Stat]:
    """Processes of a dead attempt that carry no mark any more, and still hold something of its own folder."""
    others = (one for one in proc.everybody() if one.pid != os.getpid() and one.state not in "ZX")
    return [one for one in others if not one.terminal and _clings(one, job)]


def end_clinging(job: Path) -> int:
    """End them, with all below them; how many there were."""
    found = clinging(job)
    for one in found:
        if proc.alive(one.pid, one.start):
            proc.kill_tree(one.pid)
    return len(found)


def _clings(one: Stat, job: Path) -> bool:
    below = f"{job}/"
    for path, flags in _open(one.pid):
        if path.startswith(below) and flags & _WRITES:
            return True
    return _abandoned(one) and any(
        f"{_link(f'/proc/{one.pid}/{place}')}/".startswith(below) for place in ("cwd", "root")
    )


def _abandoned(one: Stat) -> bool:
    """Whether its parent has died: it is a child of the machine's first process, or of a session's."""
    above = proc.stat(one.parent)
    return above is None or above.pid == 1 or above.parent == 1


def _open(pid: int) -> Iterator[tuple[str, int]]:
    """Each file that a process has open, and how."""
    with contextlib.suppress(OSError):
        for entry in list(os.scandir(f"/proc/{pid}/fd")):
            path = _link(entry.path)
            if path.startswith("/"):
                with contextlib.suppress(OSError, ValueError):
                    text = Path(f"/proc/{pid}/fdinfo/{entry.name}").read_text()
                    yield path, int(text.partition("flags:")[2].split()[0], 8)


def _link(path: str) -> str:
    try:
        return os.readlink(path).removesuffix(" (deleted)")  # noqa: PTH115  it may name no path: `pipe:[7]`
    except OSError:
        return ""
