"""A real Git host, real rooms as child processes, and repositories for them: what every measure stands on."""

import atexit
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pushtrain.core.lifecycle import Claimed, Exited, Prepared, Published
from pushtrain.core.values.jobspec import EnvironmentKind, EnvironmentSpec
from pushtrain.core.values.run import Attempt
from pushtrain.core.values.states import Reason
from pushtrain.core.wire.signing import fingerprint
from pushtrain.demo.host import Host, hosting
from pushtrain.demo.webhook import Update, payload, signature
from pushtrain.executor.runs.variables import attempt_mark
from pushtrain.plumbing.attempts.rundir import RunDir
from pushtrain.plumbing.disk.state import StateFolder
from pushtrain.plumbing.keys.authorized import load_or_create
from pushtrain.plumbing.programs.proc import sweep
from pushtrain.plumbing.sqlite.store import Store
from pushtrain.plumbing.sqlite.view import View
from pushtrain.testing import WorkRepository, a_command, a_spec

SECRET = b"bench-secret"
PUSHTRAIN = str(Path(sys.executable).parent / "pushtrain")
RESULTS = "refs/heads/pushtrain/results"


FINISHED = os.environ.get("BENCH_FINISHED", "")
"""So many runs each state folder has seen before it is measured: `make bench ARGS=line BENCH_FINISHED=10000`."""


def fill(
    folder: Path, count: int, *, command: str = "python train.py --lr 0.1", ended: bool, **place: str
) -> None:
    """Put so many runs into the store of a state folder that nobody serves: waiting ones, or published ones."""
    state = StateFolder(folder).create()
    owner = fingerprint(load_or_create(state.key).public_key())
    signed = {"signature": "sig1=:" + "A" * 86 + "==:", "signature-input": "sig1=(" + "x" * 300 + ")"}
    job = a_spec(command=command, environment=EnvironmentSpec(kind=EnvironmentKind.SYSTEM))
    store = Store(state.store)
    try:
        for number in range(count):
            body = a_command(job=job, request=f"before-{number}", **place)
            run, _ = store.accept(
                body, sender=owner, raw=body.model_dump_json().encode(), headers=signed,
                nonce=f"before-{number}", nonce_expires=0, queue_limit=10**9,
            )  # fmt: skip
            if not ended:
                continue
            at = time.time()
            attempt = Attempt(run_id=run.id, number=1, executor="bench", claimed_at=at, started_at=at)
            store.advance(run.id, Claimed(token="t" * 32, gpus=()), attempt=attempt)
            results = Published("c" * 40, f"runs/train/2026-11/27-{number}")
            for event in (Prepared(at), Exited(Reason.EXITED, 0), results):
                store.advance(run.id, event)
            log = RunDir.of(state.runs, run.id, 1).log
            log.parent.mkdir(parents=True)
            log.write_bytes(b"epoch 1 loss 0.5\n" * 100)
    finally:
        store.close()


def finished(folder: Path, count: int) -> None:
    """Have a state folder that has seen so many runs; made once for all of a call, then copied."""
    made = Path(tempfile.gettempdir()) / f"pushtrain-bench-finished-{os.getpid()}"
    if not made.exists():
        shutil.copytree(folder, made)
        fill(made, count, ended=True)
        atexit.register(shutil.rmtree, made, ignore_errors=True)
    for name in ("store.db", "store.db-mark"):
        if (made / name).exists():
            shutil.copy2(made / name, folder / name)
    shutil.copytree(made / "runs", folder / "runs", dirs_exist_ok=True)


def environment(**more: str) -> dict[str, str]:
    """A clean environment: nobody's settings, bytecode allowed."""
    kept = ("PATH", "HOME", "LANG", "TMPDIR", "UV_CACHE_DIR", "SSL_CERT_FILE")
    base = {name: os.environ[name] for name in kept if name in os.environ}
    return base | {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1"} | more


@dataclass
class Room:
    """One `pushtrain executor`, `sender` or `up` process."""

    process: subprocess.Popen[str]
    facts: dict[str, Any]
    state: Path

    @property
    def pid(self) -> int:
        """Its process id."""
        return self.process.pid

    def end(self) -> None:
        """SIGTERM, then wait."""
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


@dataclass
class World:
    """A host, a folder, and the rooms that were started."""

    folder: Path
    host: Host
    rooms: list[Room] = field(default_factory=list)

    def room(self, verb: str, *flags: str, state: str = "state") -> Room:
        """Start a room and wait until it says where it is."""
        folder = self.folder / state
        folder.mkdir(mode=0o700, exist_ok=True)
        secret = folder / "webhook.secret"
        if not secret.exists():
            secret.touch(0o600)
            secret.write_bytes(SECRET)
        load_or_create(folder / "identity.key")
        if FINISHED and not (folder / "store.db").exists():
            finished(folder, int(FINISHED))
        with (self.folder / f"{verb}.log").open("a") as log:
            process = subprocess.Popen(
                (PUSHTRAIN, verb, "--json", "--state", str(folder), "--port", "0", *flags),
                env=environment(
                    PUSHTRAIN_GIT_TOKEN=self.host.token,
                    PUSHTRAIN_SENDER_PORT="0",
                    PUSHTRAIN_RULES_MIN_ISOLATION="none",  # the best level that there is, whichever that is
                ),
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        text = ""
        assert process.stdout is not None
        for line in process.stdout:
            text += line
            if line.startswith("}"):
                break
        room = Room(process, json.loads(text), folder)
        self.rooms.append(room)
        return room

    def repository(self, name: str, files: Mapping[str, str | bytes]) -> WorkRepository:
        """A repository on the host, with a clone that has pushed its first commit."""
        remote = self.host.create(f"bench/{name}")
        work = WorkRepository(self.folder / name, remote, token=self.host.token)
        work.commit(files, "The beginning")
        work.push()
        return work

    def webhook(self, room: Room, name: str, before: str, after: str, ref: str = "refs/heads/main") -> float:
        """POST a push as GitHub does; returns the seconds until the answer."""
        update = Update(ref=ref, before=before, after=after)
        body = payload(
            base_url=self.host.url, repository=f"bench/{name}", update=update, commits=(), forced=False
        )
        request = urllib.request.Request(
            room.facts["webhook"],
            data=body,
            headers={
                "content-type": "application/json",
                "x-github-event": "push",
                "x-github-delivery": f"{after}-{time.monotonic_ns()}",
                "x-hub-signature-256": signature(SECRET, body),
            },
        )
        begun = time.perf_counter()
        with urllib.request.urlopen(request, timeout=30) as answer:
            answer.read()
        return time.perf_counter() - begun

    def tip(self, name: str, ref: str = RESULTS) -> str:
        """The commit of a ref on the host; empty when there is none. Reads files, starts nothing."""
        folder = self.host.folder(f"bench/{name}")
        try:
            return (folder / ref).read_text().strip()
        except FileNotFoundError:
            packed = folder / "packed-refs"
            lines = packed.read_text().splitlines() if packed.exists() else []
            return next((line.split()[0] for line in lines if line.endswith(f" {ref}")), "")

    def wait_tip(self, name: str, old: str, *, seconds: float = 120) -> float:
        """Wait until the results branch is no longer at `old`; returns the time of day it was seen."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if self.tip(name) not in {"", old}:
                return time.time()
            time.sleep(0.001)
        log = "\n".join(path.read_text()[-2000:] for path in self.folder.glob("*.log"))
        raise TimeoutError(f"no result within {seconds:g} s\n{log}")


@contextmanager
def world() -> Iterator[World]:
    """A world in a temporary folder; everything it started is ended."""
    with tempfile.TemporaryDirectory(prefix="pushtrain-bench-") as name:
        folder = Path(name)
        with hosting(folder / "host") as host:
            made = World(folder, host)
            try:
                yield made
            finally:
                for room in made.rooms:
                    room.end()
                    _end_jobs(room.state)


def _end_jobs(state: Path) -> None:
    """End what outlives its executor on purpose: the jobs that it had begun."""
    store = View(state / "store.db")
    try:
        for run in store.active():
            sweep(attempt_mark(run))
    finally:
        store.close()


def spread(values: Sequence[float]) -> tuple[float, float]:
    """Median and 90th percentile."""
    ordered = sorted(values)
    return ordered[len(ordered) // 2], ordered[min(len(ordered) - 1, int(len(ordered) * 0.9))]
