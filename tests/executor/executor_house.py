"""A whole executor in a folder: real git, store and shims; the environment is the machine's own Python."""

import asyncio
import contextlib
import functools
import json
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from functools import partial
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from origins import origin_and_clone
from pushtrain.adapters.metrics.jsonl import JsonLines
from pushtrain.adapters.sandboxes import Ground
from pushtrain.adapters.sandboxes.none import Unconfined
from pushtrain.core.settings import ExecutorSettings, Repository, Settings
from pushtrain.core.values.command import TrainCommand
from pushtrain.core.values.isolation import JobNetwork
from pushtrain.core.values.jobspec import EnvironmentSpec
from pushtrain.core.values.run import Run
from pushtrain.core.values.states import State
from pushtrain.core.wire.place import Place
from pushtrain.core.wire.secrets import Sealed, with_entry
from pushtrain.core.wire.signing import parse_public
from pushtrain.executor.results.publish import Publisher
from pushtrain.executor.runs.access import Access
from pushtrain.executor.service import ExecutorService
from pushtrain.plumbing.attempts.given import mask_of
from pushtrain.plumbing.disk.state import StateFolder
from pushtrain.plumbing.git.mirror import Mirror
from pushtrain.plumbing.git.rosterfile import RosterFile
from pushtrain.plumbing.keys.authorized import Authorized
from pushtrain.plumbing.keys.identity import Ring
from pushtrain.plumbing.keys.sealing import seal_secret, sealing_key
from pushtrain.plumbing.programs import process
from pushtrain.plumbing.sqlite.store import Store
from pushtrain.ports import Activation, Builder, Environment, Recipe, Sandbox
from pushtrain.testing import (
    REPOSITORY,
    SENDER,
    SENDER_KEY,
    WorkRepository,
    a_command,
    a_spec,
    eventually,
)
from pushtrain.wiring.rosters import sealed_secrets

if TYPE_CHECKING:
    from pushtrain.core.values.card import Gpu

_nonces = count()
_moments = count(1_790_000_000_000)


def story(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Run a test that is a coroutine."""

    @functools.wraps(test)
    def run(*args: Any, **kwargs: Any) -> None:
        asyncio.run(test(*args, **kwargs))

    return run


class Bare:
    """The machine's own Python: nothing is built."""

    def plan(self, tree: Path, spec: EnvironmentSpec) -> Recipe | None:
        return Recipe(key="", title="system", locked=True)

    def build(self, tree: Path, spec: EnvironmentSpec, into: Path, builder: Builder) -> None:
        raise AssertionError(f"nothing to build: {tree} {spec} {into} {builder}")

    def activate(
        self,
        tree: Path,
        spec: EnvironmentSpec,
        root: Path,
        overlay: Path,
        builder: Builder,
    ) -> Activation:
        return Activation(path=(Path(sys.executable).parent,))


class House:
    """An executor and the repository it serves."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        self.folder = folder
        self.origin = folder / "origin.git"
        self.state = StateFolder(folder / "state")
        self.environments: Mapping[str, Environment] = {"system": Bare()}
        self.gpus: Sequence[Gpu] = ()
        self.token = ""
        self.clock: Callable[[], float] = time.time
        self.sandbox: Sandbox = Unconfined(Ground(self.state.isolation))
        self.access = Access(JobNetwork.FULL, frozenset({JobNetwork.FULL}))
        self.sealer = Ed25519PrivateKey.generate()
        self.settings = Settings(
            repositories=(Repository(key=REPOSITORY, remote=str(self.origin)),),
            executor=ExecutorSettings(**{"grace": 5, "disk_floor": 0, **settings}),
        )
        if self.origin.exists():
            self.work = WorkRepository(folder / "work")
        else:
            self.work = origin_and_clone(self.origin, folder / "work", {"README.md": "hello\n"})

    def commit(self, files: Mapping[str, str | bytes]) -> str:
        commit = self.work.commit(files)
        self.work.push()
        return commit

    def authorize(self) -> None:
        """Let the sender of the tests' commands in."""
        Authorized(self.state.create().authorized).add(parse_public(SENDER_KEY), name="ada")

    def open(self) -> ExecutorService:
        """An executor on this state folder; `run` it, and close its store."""
        self.state.create()
        authorized = Authorized(self.state.authorized)
        if not self.state.authorized.exists():
            self.authorize()
        remote = self.settings.repositories[0]
        mirrors: Callable[[object], Mirror] = lambda _: Mirror(  # noqa: E731
            self.state.repositories, remote, token=self.token
        )
        return ExecutorService(
            self.settings,
            self.state,
            Store(self.state.store, clock=self.clock),
            identity=Ring(self.state.key),
            authorized=authorized,
            mirrors=mirrors,
            environments=self.environments,
            publisher=Publisher(
                mirrors,
                self.settings.executor,
                formats=[JsonLines()],
                masks=partial(mask_of, key=sealing_key(self.state.sealing_key)),
            ),
            sealed=sealed_secrets(self.settings, mirrors),
            sandbox=self.sandbox,
            access=self.access,
            gpus=self.gpus,
            clock=self.clock,
        )

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[ExecutorService]:
        """The executor at work; stopped in order at the end."""
        service = self.open()
        task = asyncio.create_task(service.run())
        try:
            yield service
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
            service.store.close()

    def command(self, command: str | tuple[str, ...], **changes: Any) -> TrainCommand:
        """A command for the current commit, each a run of its own."""
        number = next(_nonces)
        spec = a_spec(command=command, **changes)
        return a_command(commit=self.work.head(), job=spec, request=f"request-{number}")

    def send(self, service: ExecutorService, command: str | tuple[str, ...], **changes: Any) -> Run:
        """Have a command accepted."""
        signed = self.command(command, **changes)
        run, fresh = service.accept(
            signed,
            sender=SENDER,
            raw=signed.model_dump_json().encode(),
            headers={},
            nonce=f"nonce-{next(_nonces)}",
            nonce_expires=2e9,
        )
        assert fresh
        return run

    def seal(self, name: str, value: str, **changes: Any) -> Sealed:
        """Seal a secret to this executor, as somebody who may send it commands; what was written."""
        self.authorize()
        Authorized(self.state.authorized).add(self.sealer.public_key(), name="ada")
        return self.write_sealed(name, value, **changes)

    def write_sealed(
        self, name: str, value: str, *, key: Ed25519PrivateKey | None = None, **changes: Any
    ) -> Sealed:
        """Write a sealed secret beside the roster, whoever may believe it."""
        self.state.create()
        to = sealing_key(self.state.sealing_key).public_key()
        given = {"job": "*", "branch": "**", "repository": REPOSITORY, "sealed_at": next(_moments), **changes}
        entry = seal_secret(name, value, to=to, key=key or self.sealer, **given)
        self.secrets_file().write(lambda text: with_entry(text, entry), message="Secret", when=1_790_000_000)
        return entry

    def secrets_file(self) -> RosterFile:
        """`secrets.json` on its branch, through a mirror of its own."""
        remote = self.settings.repositories[0]
        place = Place(repository=remote, branch="pushtrain/config", path="secrets.json")
        return RosterFile(Mirror(self.folder / "elsewhere", remote), place)

    def result(self, run: Run, name: str) -> str:
        """A file of a published run, from the origin."""
        tip = self.work.fetch("pushtrain/results")
        assert tip
        return self.work.show(tip, f"{run.result_path}/{name}")


async def done(service: ExecutorService, run: Run, seconds: float = 30) -> Run:
    """Wait until a run is published."""
    return await reached(service, run, State.DONE, seconds)


async def reached(service: ExecutorService, run: Run, state: State, seconds: float = 30) -> Run:
    """Wait until a run is in a state."""

    def there() -> Run | None:
        found = service.store.run(run.id)
        return found if found.state is state else None

    return await eventually(there, seconds, what=f"{run.short} {state}")


async def logged(service: ExecutorService, run: Run, text: str, seconds: float = 20) -> str:
    """Wait until the run's log holds this; all of the log."""

    def there() -> str | None:
        found = service.shown.log_chunk(run.id, 0, 0, 1_000_000).data.decode()
        return found if text in found else None

    return await eventually(there, seconds, what=f"{text!r} in the log of {run.short}")


async def serve(house: House) -> None:
    """Be an executor until killed; for a process of its own."""
    async with house.running():
        await asyncio.Event().wait()


class Killable:
    """An executor in a process of its own.

    Args:
        house: Whose state folder it serves.
        options: Keyword arguments of `House`, and `environment`: the name of a class of this module.
    """

    def __init__(self, house: House, **options: Any) -> None:
        script = (
            "import asyncio, json, sys; from pathlib import Path; import executor_house as eh\n"
            "options = json.loads(sys.argv[2]); kind = options.pop('environment', 'Bare')\n"
            "house = eh.House(Path(sys.argv[1]), **options)\n"
            "house.environments = {'system': getattr(eh, kind)()}\n"
            "asyncio.run(eh.serve(house))\n"
        )
        self.process = subprocess.Popen(
            (sys.executable, "-c", script, house.folder, json.dumps(options)),
            env={
                **os.environ,
                "PYTHONPATH": os.pathsep.join(str(path) for path in Path(__file__).parents[:2]),
            },
            stdin=subprocess.DEVNULL,
        )

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


class Stuck(Bare):
    """An environment whose building never ends, as long as a file `stuck` lies beside the state folder."""

    def plan(self, tree: Path, spec: EnvironmentSpec) -> Recipe | None:
        del spec
        return Recipe(key="ab12" if _flag(tree).exists() else "", title="stuck")

    def build(self, tree: Path, spec: EnvironmentSpec, into: Path, builder: Builder) -> None:
        del spec
        builder.report("building", 1, 2)
        argv = ("bash", "-c", f"echo $$ > {_flag(tree)}.pid; exec sleep 600")
        process.run(argv, cwd=into, stop=builder.stop, patience=0.1)


def _flag(tree: Path) -> Path:
    return tree.parents[5] / "stuck"
