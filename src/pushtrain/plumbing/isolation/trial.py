"""Try a level of isolation before any job runs in it: the canary goes in, and every act is looked into.

Baits are laid out for it: a decoy that stands for the executor, with a secret among its variables; a file of
"another run"; sockets, shared memory, a server on loopback. What this machine has beside them (keys in a
home, a session bus, Docker's socket, agents, displays) is tried as it is, by reading one byte or by a
connection that says nothing. What the canary says of itself is not enough where its answer could be about
something else of the same name inside; there the trial looks at the bait.
"""

import contextlib
import ctypes
import json
import secrets
import shutil
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final, Self

from pushtrain.core.errors import PushtrainError
from pushtrain.core.owner.canaries import Act, Findings, Result
from pushtrain.core.values.isolation import Isolation, JobNetwork
from pushtrain.plumbing.disk.trees import remove_tree
from pushtrain.plumbing.isolation import canary, jobuser, nearby
from pushtrain.plumbing.isolation.inside import command
from pushtrain.plumbing.isolation.interpreters import needed
from pushtrain.plumbing.isolation.nearby import Machine
from pushtrain.plumbing.isolation.uplink import Uplink, Uplinks
from pushtrain.plumbing.programs import proc, process
from pushtrain.ports import Cage, Sandbox

_SECONDS: Final = 30.0
_MOST_FILES: Final = 10
_PATH: Final = "/usr/local/bin:/usr/bin:/bin"


class TrialError(Exception):
    """The canary could not be run inside; what was said then."""


def try_level(
    sandbox: Sandbox, machine: Machine, network: JobNetwork, uplinks: Uplinks | None = None
) -> Findings:
    """Let the canary try everything inside a level.

    Args:
        sandbox: The level.
        machine: What is to be protected.
        network: What jobs may reach; their network is as it will be.
        uplinks: Where an uplink comes from, for a network that takes one.

    Raises:
        TrialError: Nothing could be run inside.
    """
    with _Trial(sandbox.level, machine) as trial:
        python = Path(sys.base_prefix, "bin", f"python{sys.version_info[0]}.{sys.version_info[1]}")
        python = python if python.exists() else Path(sys.executable)
        cage = Cage(
            writable=(trial.own,),
            readable=(trial.program, *needed((python.parent,), never=(machine.home, machine.state))),
            network=network,
        )
        try:
            enclosure = sandbox.enclose(cage)
            words = (python, "-I", "-S", trial.program, json.dumps(trial.targets))
            with _uplink(uplinks if enclosure.confinement.uplink else None) as uplink:
                argv, env = command(enclosure, words, {"PATH": _PATH}, uplink)
                done = process.run(
                    argv,
                    cwd=trial.own,
                    env=env,
                    timeout=_SECONDS,
                    pass_fds=uplink.descriptors if uplink else (),
                )
        except (OSError, PushtrainError) as error:
            raise TrialError(str(error)) from error
        try:
            told = json.loads(done.out)
        except ValueError:
            raise TrialError(done.complaint or f"the canary ended with {done.code}") from None
        return Findings(level=sandbox.level, results=trial.judge(told))


@contextlib.contextmanager
def _uplink(uplinks: Uplinks | None) -> Iterator[Uplink | None]:
    found = uplinks.take() if uplinks else None
    try:
        yield found
    finally:
        if found is not None:
            found.close()


class _Trial:
    """The baits of one trial."""

    def __init__(self, level: Isolation, machine: Machine) -> None:
        self._machine = machine
        self._level = level
        self._nonce = f"pushtrain-canary-{secrets.token_hex(8)}"
        self._secret = secrets.token_hex(16)
        self._root = machine.folder / self._nonce
        self._stack = ExitStack()
        self.own = self._root / "own"
        self.program = self._root / "canary.py"
        self.targets: dict[str, Any] = {}

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self._stack = stack
            self._lay_out()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _lay_out(self) -> None:
        machine, stack = self._machine, self._stack
        stack.callback(remove_tree, self._root)
        if machine.state.is_dir():  # a level may let others pass through it
            stack.callback(machine.state.chmod, stat.S_IMODE(machine.state.stat().st_mode))
        for folder in (self.own / "tmp", self._root / "other"):
            folder.mkdir(parents=True)
        shutil.copyfile(canary.__file__, self.program)
        other = self._root / "other" / "secret"
        other.parent.chmod(0o700)
        other.touch(0o600)
        other.write_text(self._nonce)
        self._decoy = subprocess.Popen(
            ("cat",),
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            env={"PATH": _PATH, "SECRET": self._secret},
        )
        stack.callback(self._end_decoy)
        self.targets = {
            "nonce": self._nonce,
            "halves": [self._secret[:16], self._secret[16:]],
            "decoy": self._decoy.pid,
            "start": proc.start_time(self._decoy.pid),
            "files": {
                Act.HOME.name: [str(path) for path in nearby.files_of(machine.home, machine.state)],
                Act.SSH_KEYS.name: nearby.keys(machine),
                Act.STATE.name: nearby.readable((*machine.private, other)),
                Act.OTHER_RUN.name: [str(other)],
            },
            "sockets": nearby.sockets(machine),
            "write": list(map(str, self._places())),
            "modes": str(other),
            "abstract": [self._abstract()],
            "wsl": nearby.interop(),
            "loopback": [self._server(host) for host in nearby.own_addresses()],
            "devices": nearby.devices(),
            "roots_files": nearby.files_for_root(),
            "settings": nearby.settings(),
            "own": str(self.own),
            **self._shared_memory(),
        }

    def judge(self, told: Mapping[str, str]) -> dict[Act, Result]:
        """What came of each act."""
        results = {act: Result(told[act.name]) for act in Act if told.get(act.name) != "sent"}
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._decoy.wait(0 if told[Act.SIGNAL.name] == Result.DENIED else 1)
        signalled = self._decoy.returncode == -signal.SIGUSR1
        left = [place for place in self._places() if (place / self._nonce).exists()]
        for place in left:
            (place / self._nonce).unlink()
        results[Act.SIGNAL] = Result.DONE if signalled else Result.DENIED
        results[Act.WRITE] = Result.DONE if left else Result.DENIED
        results[Act.SET_UID] = Result.DONE if self._left_for_root() else Result.DENIED
        return {act: results[act] for act in Act}

    def _left_for_root(self) -> bool:
        """Whether there is a file now that would run as root of the machine."""
        with contextlib.suppress(FileNotFoundError):
            found = (self.own / "set-uid").lstat()
            return bool(found.st_mode & stat.S_ISUID and found.st_uid == 0 and jobuser.root_outside())
        return False

    # --- the baits ----------------------------------------------------------------------------------------

    def _end_decoy(self) -> None:
        self._decoy.kill()
        self._decoy.wait()
        if self._decoy.stdin is not None:
            self._decoy.stdin.close()

    def _places(self) -> tuple[Path, ...]:
        """Where no job may write; without any isolation only places of our own are tried."""
        ours = (self._root / "other", self._machine.state)
        if self._level is Isolation.NONE:
            return ours
        return (*ours, self._machine.home, Path("/etc"), Path("/usr/local"), Path("/var/tmp"))  # noqa: S108

    def _abstract(self) -> str:
        own = self._stack.enter_context(socket.socket(socket.AF_UNIX))
        own.bind(f"\0{self._nonce}")
        own.listen()
        return self._nonce

    def _server(self, host: str) -> tuple[str, int]:
        own = self._stack.enter_context(socket.socket())
        own.bind((host, 0))
        own.listen()
        return host, own.getsockname()[1]

    def _shared_memory(self) -> dict[str, Any]:
        libc = ctypes.CDLL(None, use_errno=True)
        libc.shmat.restype = ctypes.c_void_p
        segment = libc.shmget(0, 4096, 0o1600)  # IPC_PRIVATE, IPC_CREAT
        self._stack.callback(libc.shmctl, segment, 0, None)  # IPC_RMID
        at = libc.shmat(segment, None, 0)
        if segment >= 0 and at is not None and at != ctypes.c_void_p(-1).value:
            ctypes.memmove(at, self._nonce.encode(), len(self._nonce))
            libc.shmdt(ctypes.c_void_p(at))
        file = Path("/dev/shm", self._nonce)  # noqa: S108  shared memory is there
        with contextlib.suppress(OSError):
            file.touch(0o600)
            file.write_text(self._nonce)
        self._stack.callback(file.unlink, missing_ok=True)
        return {"segment": segment, "shm": [str(file)]}
