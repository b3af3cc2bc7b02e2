"""`container`: Docker or Podman around each command, where one of them runs here.

What a job sees is what it sees at `sandbox`: the machine's programs and libraries read-only, over an image
without a single file that is made when there is none. No capability, none to be gained; our list of refused
system calls, as the engines write it; a read-only root; its memory and processes limited by the engine; its
GPUs by their UUIDs; no network but the machine's own or none, because an engine's own networks reach the
owner's.

The engine's client is not the container's parent: killed, it leaves it running. So an enclosure names what
ends it (`Enclosure.ends`), and the container ends by itself when its standard input does, a pipe whose other
end the client alone holds.

Written after the engines' documentation and tested against a program in their place; never run for real here.
"""

import json
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from pushtrain.adapters.sandboxes import Ground, demand_network
from pushtrain.adapters.sandboxes.system import PROGRAMS
from pushtrain.core.errors import ConfigError
from pushtrain.core.values.isolation import Isolation, JobNetwork
from pushtrain.plumbing.disk.files import replace
from pushtrain.plumbing.isolation import etc, jobuser, seccomp
from pushtrain.plumbing.programs import process
from pushtrain.ports import Cage, Confinement, Enclosure

ENGINES: Final = ("podman", "docker")
IMAGE: Final = "localhost/pushtrain-empty:1"
_EMPTY_ARCHIVE: Final = bytes(10240)
_SECONDS: Final = 20.0
_VARIABLES: Final = 23
_OWN: Final = (
    "CONTAINER_HOST",
    "DBUS_SESSION_BUS_ADDRESS",
    "DOCKER_CERT_PATH",
    "DOCKER_CONFIG",
    "DOCKER_CONTEXT",
    "DOCKER_HOST",
    "DOCKER_TLS_VERIFY",
    "HOME",
    "PATH",
    "XDG_CONFIG_HOME",
    "XDG_DATA_HOME",
    "XDG_RUNTIME_DIR",
)
"""What the engine's client takes from the executor's own environment; of the job's it sees nothing."""

WATCH: Final = """\
exec 3<&0 </dev/null
( while read -r _; do :; done; kill -KILL $$ ) <&3 3<&- &
exec 3<&-
exec "$@"
"""
"""Ends the command once standard input ends, because whoever held it is gone; becomes the command. The
engine's init then ends, and with it everything inside. It names one process, never all."""


class Container:
    """A container for each command.

    Args:
        ground: What may be known of the machine.
    """

    level = Isolation.CONTAINER

    def __init__(self, ground: Ground) -> None:
        self._ground = ground

    def missing(self) -> tuple[str, str]:
        """Whether an engine is here, answers, and has our image or takes it."""
        engine = _engine()
        if engine is None:
            return "neither Podman nor Docker is installed", ""
        if _ask(engine, "version") is None:
            return f"{Path(engine).name} does not answer this user", ""
        there = _ask(engine, "image", "inspect", IMAGE)
        if there is None and _ask(engine, "import", "-", IMAGE, given=_EMPTY_ARCHIVE) is None:
            return f"{Path(engine).name} does not take an empty image", ""
        return seccomp.missing()

    def explain(self, complaint: str) -> tuple[str, str]:
        """What the engine said."""
        last = (complaint.strip().splitlines() or ["it did not say why"])[-1]
        return f"nothing can be started in it: {last}", ""

    def enclose(self, cage: Cage) -> Enclosure:
        """The engine's command line.

        Raises:
            ConfigError: No engine is here; or the cage asks for the internet without the owner's network,
                which an engine's networks are not.
            OSError: The files that it shows cannot be made, or a folder not be given to the job's uid.
        """
        engine = _engine()
        if engine is None:
            raise ConfigError("Neither Podman nor Docker is installed.", mend="`sudo apt install podman`")
        demand_network(self.level, cage, JobNetwork.FULL, JobNetwork.NONE)
        uid = jobuser.settle(cage) if jobuser.wanted() else None
        user, group = (uid, uid) if uid is not None else (os.geteuid(), os.getegid())
        name = f"pushtrain-{secrets.token_hex(8)}"
        prefix = (
            *(engine, "run", "--rm", "--init", "--interactive", "--name", name),
            *("--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges"),
            *("--security-opt", f"seccomp={self._profile()}", "--ipc", "private"),
            *("--user", f"{user}:{group}", "--hostname", etc.HOST),
            *(("--userns", "keep-id") if Path(engine).name == "podman" and os.geteuid() else ()),
            *("--network", "none" if cage.network is JobNetwork.NONE else "host"),
            *_limits(cage),
            *_gpus(cage, Path(engine).name),
            *self._mounts(cage),
            *("--workdir", "{cwd}", "--env-file", f"/dev/fd/{_VARIABLES}"),
            *(IMAGE, "/bin/sh", "-c", WATCH, "pushtrain"),
        )
        env = {"TMPDIR": "/tmp"} if cage.tmp else {}  # noqa: S108  its own
        env |= jobuser.NAMES if uid is not None else {}
        return Enclosure(
            prefix=prefix,
            env=env,
            confinement=Confinement(held=True, variables=(_VARIABLES, "lines")),
            outside={name: os.environ[name] for name in _OWN if name in os.environ},
            ends=(engine, "rm", "--force", name),
        )

    def _profile(self) -> Path:
        """The list of refused system calls in the engines' own form, as a file."""
        path = self._ground.folder / "calls.json"
        content = json.dumps(seccomp.profile()).encode()
        if not path.exists() or path.read_bytes() != content:
            self._ground.folder.mkdir(parents=True, exist_ok=True)
            replace(path, content, durable=False)
        return path

    def _mounts(self, cage: Cage) -> Iterator[str]:
        """Outer folders before inner ones: engines mount in the order given."""
        shown = {Path(name): "readonly" for name in PROGRAMS if Path(name).exists()}
        for path, how in shown.items():
            yield from _mount(path.resolve(), path, how)
        yield from _mount(etc.skeleton(self._ground.folder / "etc"), Path("/etc"), "readonly")
        if cage.tmp is None:
            yield from ("--tmpfs", "/tmp")  # noqa: S108  its own
        else:
            yield from _mount(cage.tmp, Path("/tmp"), "")  # noqa: S108  its own
        readable = [path for path in cage.readable if path.exists()]
        paths = dict.fromkeys(readable, "readonly") | dict.fromkeys(cage.writable, "")
        for path in sorted(paths, key=lambda one: len(one.parts)):
            yield from _mount(path.resolve(), path, paths[path])


def _engine() -> str | None:
    return next((found for name in ENGINES if (found := shutil.which(name))), None)


def _ask(engine: str, *words: str, given: bytes = b"") -> bytes | None:
    """What the engine answers; None: it does not, or says no."""
    try:
        done = process.run((engine, *words), input=given, timeout=_SECONDS)
    except (OSError, TimeoutError):
        return None
    return done.out if done.code == 0 else None


def _mount(source: Path, target: Path, how: str) -> Iterator[str]:
    """A bind mount; the engines' form is a list with commas, which no path may therefore hold."""
    for path in (source, target):
        if "," in str(path):
            raise ConfigError(f"A container cannot be shown {path}: its name has a comma.", mend="Rename it.")
    words = ["type=bind", f"source={source}", f"target={target}", *([how] if how else [])]
    yield from ("--mount", ",".join(words))


def _limits(cage: Cage) -> Iterator[str]:
    if cage.limits.memory:
        memory = str(cage.limits.memory)
        yield from ("--memory", memory, "--memory-swap", memory)
    half = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    yield from ("--pids-limit", str(cage.limits.processes), "--shm-size", str(cage.limits.memory or half))


def _gpus(cage: Cage, engine: str) -> Iterator[str]:
    """By UUID: Podman by the Container Device Interface, Docker by NVIDIA's runtime."""
    if engine == "podman":
        for gpu in cage.gpus:
            yield from ("--device", f"nvidia.com/gpu={gpu.uuid}")
    elif cage.gpus:
        yield from ("--gpus", f'"device={",".join(gpu.uuid for gpu in cage.gpus)}"')
