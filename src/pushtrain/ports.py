"""The shapes of the windows: small protocols that adapters fit.

A port exists where there are two real implementations. Adapters are named in `wiring` and imported when used.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Protocol

from pydantic import Field

from pushtrain.core.owner.rules import Limits
from pushtrain.core.values.card import Gpu
from pushtrain.core.values.isolation import Isolation, JobNetwork
from pushtrain.core.values.jobspec import EnvironmentSpec
from pushtrain.core.values.push import Push
from pushtrain.core.values.value import Value

Report = Callable[[str, int, int], None]
"""Progress for people: a text, how much is done, and of how much (0: unknown)."""

Stop = Callable[[], None]
"""Called now and then by long work; raises `errors.Cancelled` when somebody wants it to end."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """An environment that could be built for a tree, and the digest of everything that decides it."""

    key: str
    """Hex digest: same key, same environment. Empty: there is nothing to build or to keep."""
    title: str
    """For people: `uv.lock, Python 3.12`."""
    locked: bool = True
    """Whether versions are pinned; the report says so when they are not."""


@dataclass(frozen=True, slots=True)
class Activation:
    """What a command needs to run inside an environment."""

    env: Mapping[str, str] = field(default_factory=dict)
    """Variables to set."""
    path: tuple[Path, ...] = ()
    """Folders to put before `PATH`."""
    readable: tuple[Path, ...] = ()
    """What of the machine the command must be able to read for that, beside environment and Python."""


class Ended(Protocol):
    """How a tool ended."""

    @property
    def code(self) -> int:
        """Its exit code."""

    @property
    def text(self) -> str:
        """What it printed."""

    @property
    def complaint(self) -> str:
        """What it complained of."""


class Builder(Protocol):
    """Runs tools that build an attempt's environment, each in a cage (`plumbing/isolation/building.py`)."""

    code: bool
    """Whether they may run code that is not theirs; else they only fetch and unpack."""
    cache: Path
    """What they keep: shared by all repositories, or with `code` the repository's own."""
    offline: bool
    """Whether they reach nothing."""
    caged: bool
    """Whether they are kept away from the owner's home."""
    report: Report
    stop: Stop

    def run(
        self,
        words: Sequence[str | Path],
        *,
        cwd: Path,
        env: Mapping[str, str],
        writable: Sequence[Path] = (),
        readable: Sequence[Path] = (),
        line: Callable[[str], None] | None = None,
        timeout: float | None = None,
    ) -> Ended:
        """Run one to its end.

        Raises:
            BuildError: It could not be isolated.
            TimeoutError, OSError: It took too long, or could not be started.
        """


class Environment(Protocol):
    """One way to build what a command runs in."""

    def plan(self, tree: Path, spec: EnvironmentSpec) -> Recipe | None:
        """What would be built for this tree; None when this way does not apply. Reads files only; ≤ 20 ms."""

    def build(self, tree: Path, spec: EnvironmentSpec, into: Path, builder: Builder) -> None:
        """Build it in the empty folder `into`, final path included in what is written.

        Raises:
            NeedsCode: It takes code that the builder may not run.
            BuildError: It could not be built; the message holds the tool's last words.
        """

    def activate(
        self, tree: Path, spec: EnvironmentSpec, root: Path, overlay: Path, builder: Builder
    ) -> Activation:
        """How to run a command in the environment at `root`; the project itself may be built into `overlay`.

        Raises:
            BuildError: The project could not be built.
        """


class GitHost(Protocol):
    """What a Git host sends when somebody pushes."""

    def verify(self, headers: Mapping[str, str], body: bytes, secret: bytes) -> bool:
        """Whether the raw bytes carry the host's signature under `secret`. Header names are lower-case."""

    def parse(self, headers: Mapping[str, str], body: bytes) -> Push | None:
        """The push, or None for an event that is not one.

        Raises:
            UsageError: The payload is not of the host's form.
        """


@dataclass(frozen=True, slots=True)
class Series:
    """One metric over steps."""

    name: str
    steps: tuple[float, ...]
    values: tuple[float, ...]
    points: int = 0
    """How many there were, where not all are kept; 0: these are all."""


class MetricsFormat(Protocol):
    """A file format that training leaves its metrics in."""

    def fits(self, path: Path) -> bool:
        """Whether this file looks like the format, by its name."""

    def read(self, path: Path, content: IO[bytes]) -> list[Series]:
        """The series in an open file; a damaged tail is passed over, never an error.

        A job wrote it: whatever it holds, time and memory stay bounded. `path` is its name and no more.
        """


class Tunnel(Protocol):
    """One way to make this machine's server reachable from elsewhere; at most one is open at a time.

    What is wrong before any network is touched (a library, a program, a setting is missing) is a ConfigError
    of its making. Belongs to the event loop that opens it.
    """

    async def open(self, host: str, port: int) -> str:
        """Bring it up, in front of the server at `host:port` of this machine; the public URL.

        Raises:
            ConfigError: It is refused until a person mends something; trying again soon is of no use.
            Unreachable: It is not up this time. Both name the mend, and no credential.
        """

    async def lost(self) -> str:
        """Wait until it is down; why, as the second half of a sentence."""

    async def close(self) -> None:
        """Take it down, whatever state it is in; takes a few seconds at most and raises nothing."""


@dataclass(frozen=True, slots=True)
class Cage:
    """What one command of a job, or a build of its environment, may see and use; nothing else is there.

    The system's programs and libraries can always be read, the owner's home and the state folder never, but
    for the parts of them that are named here.
    """

    writable: tuple[Path, ...] = ()
    """Folders and files that it may write, at their own paths; they exist."""
    readable: tuple[Path, ...] = ()
    """Folders and files that it may read, at their own paths; what is not there is left out."""
    tmp: Path | None = None
    """The folder that it finds as `/tmp`, where the level can do that; else only at its own path."""
    network: JobNetwork = JobNetwork.NONE
    gpus: tuple[Gpu, ...] = ()
    """The GPUs whose devices it gets."""
    limits: Limits = field(default_factory=Limits)
    own: tuple[Path, ...] | None = None
    """What in `writable` is given to its uid, where it has one of its own, and may be read by others later;
    None: all of it, and nobody else may read it."""


class Landlock(Value):
    """What a process has the kernel refuse it; see `plumbing/isolation/landlock.py`."""

    files: int = 0
    """Rights on files that only `rules` give."""
    rules: tuple[tuple[str, int], ...] = ()
    """Rights below each path."""
    scoped: int = 0
    """What stays among the confined processes: abstract sockets, signals."""


class Confinement(Value):
    """What a child does to itself before it becomes the command; see `plumbing/isolation/confine.py`."""

    opened: dict[int, str] = Field(default_factory=dict)
    """Files that it opens for reading, by the descriptor that the prefix knows them under."""
    lock: int | None = None
    """The descriptor under which the prefix expects the attempt's lock; None: it gets none."""
    status: int | None = None
    """Where the prefix, a process of its own around the command, tells that it got inside, in the way of
    bubblewrap's `--json-status-fd`; the command has pid 2 there. None: the prefix becomes the command."""
    uplink: bool = False
    """Whether it enters the attempt's uplink (`plumbing/isolation/uplink.py`); it must not start without."""
    drop: bool = False
    """Whether all capabilities go, and none can be gained."""
    user: tuple[int, int] | None = None
    """User and group to become; needs root."""
    groups: tuple[int, ...] = ()
    """Groups to be in beside; needs root."""
    trees: tuple[tuple[str, bool], ...] | None = None
    """Folders and files, and whether each is to be written: the prefix finds them as `/tmp/0`, `/tmp/1` …,
    whoever may pass on the way to them, and is root of a user namespace that has `user` alone in it. What is
    only read and root's own is that user's there. None: nothing of the kind; needs root."""
    landlock: Landlock | None = None
    variables: tuple[int, str] | None = None
    """Where the prefix reads the command's variables, a descriptor, and in which form: `args` as bubblewrap's
    `--args`, `lines` as an engine's `--env-file`. The prefix itself then runs with none of them: what a job
    sets must not steer the loader of a program outside. None: the prefix becomes the command."""
    held: bool = False
    """Whether standard input is a pipe that only this process holds open; else it is empty."""
    filter: str = ""
    """The file of a system call filter that is put on before the prefix (`plumbing/isolation/seccomp.py`)."""


class Enclosure(Value):
    """How to start a command inside a cage."""

    prefix: tuple[str, ...] = ()
    """Words before the command's own; `{cwd}` stands for the folder that it starts in."""
    outside: dict[str, str] = Field(default_factory=dict)
    """Variables of the prefix itself, where it does not become the command."""
    ends: tuple[str, ...] = ()
    """A program that ends whatever was started in it, for a prefix that outlives its process; empty: none."""
    env: dict[str, str] = Field(default_factory=dict)
    """Variables that are other inside."""
    confinement: Confinement = Confinement()


class Sandbox(Protocol):
    """One rung of the isolation ladder."""

    level: Isolation

    def missing(self) -> tuple[str, str]:
        """Why this machine cannot offer it and the mend, in one command where there is one; empty: it can."""

    def explain(self, complaint: str) -> tuple[str, str]:
        """Why nothing could be started inside, and the mend, from what was said then."""

    def enclose(self, cage: Cage) -> Enclosure:
        """How to run something in this cage.

        Raises:
            ConfigError: The level cannot enforce what the cage demands; the mend names what can.
        """
