"""`pushtrain doctor`: look at everything that a run needs, and say the mend for what is wrong."""

import os
import platform
import shutil
import stat
import subprocess
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Final, Literal

from pushtrain.cli import render
from pushtrain.cli.options import Json, State
from pushtrain.core.errors import Conflict, NeedsMending, PushtrainError
from pushtrain.core.settings import Settings
from pushtrain.plumbing.state import StateFolder
from pushtrain.wiring.parts import executor_clients, mirror
from pushtrain.wiring.settings import load_settings, open_state

_GIT: Final = (2, 30)
_SKEW: Final = 30
_MARKS: Final = {"ok": "[green]✓[/]", "note": "[yellow]·[/]", "wrong": "[red]✗[/]"}


@dataclass(frozen=True, slots=True)
class Finding:
    """What one look found."""

    what: str
    verdict: Literal["ok", "note", "wrong"]
    text: str
    mend: str = ""


def doctor(*, json: Json = False, state: State = None) -> None:
    """Check this machine: programs, state folder, key, store, settings, repositories, executor, disk, GPUs.

    Each line says what was looked at; what is wrong comes with its mend. Exits with 14 when something must be
    mended. Changes nothing but the state folder, which it makes when there is none.
    """
    found: list[Finding] = []
    for finding in _examine(open_state(state)):
        found.append(finding)
        if not json:
            render.say(f"{_MARKS[finding.verdict]} [bold]{finding.what:<16}[/]{_escaped(finding.text)}")
            if finding.mend:
                render.say(f"  {'':<16}[bold]→[/] {_escaped(finding.mend)}")
    if json:
        render.emit_json([asdict(finding) for finding in found])
    wrong = [finding.what for finding in found if finding.verdict == "wrong"]
    if wrong:
        raise NeedsMending(f"To be mended: {', '.join(wrong)}.", mend="Each line above says how.")


def _escaped(text: str) -> str:
    from rich.markup import escape

    return escape(text)


def _examine(folder: StateFolder) -> Iterator[Finding]:
    yield Finding("python", "ok", f"{platform.python_version()} on {platform.system()} {platform.release()}")
    yield _git()
    yield _git_lfs()
    yield _uv()
    yield Finding("state", "ok", str(folder.root))
    yield from _private_files(folder)
    yield _store(folder)
    try:
        settings = load_settings(folder)
    except PushtrainError as error:
        yield Finding("settings", "wrong", error.message, error.mend)
        return
    yield _disk(folder, settings)
    yield _gpus()
    yield from _repositories(folder, settings)
    yield from _executors(folder, settings)


def _version(*argv: str) -> str:
    try:
        done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip()


def _git() -> Finding:
    version = _version("git", "--version").removeprefix("git version ")
    numbers = tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
    if numbers >= _GIT:
        return Finding("git", "ok", version)
    wanted = ".".join(map(str, _GIT))
    return Finding("git", "wrong", version or "not found", f"Install git {wanted} or later.")


def _git_lfs() -> Finding:
    if shutil.which("git-lfs"):
        return Finding("git-lfs", "ok", _version("git-lfs", "--version").split(" ")[0])
    text = "not found; only repositories that use Git LFS need it"
    return Finding("git-lfs", "note", text, "`apt install git-lfs`")


def _uv() -> Finding:
    from uv import find_uv_bin

    try:
        return Finding("uv", "ok", _version(find_uv_bin(), "--version").removeprefix("uv "))
    except FileNotFoundError:
        return Finding("uv", "wrong", "its program is missing", "Install pushtrain again.")


def _private_files(folder: StateFolder) -> Iterator[Finding]:
    for what, path in (("key", folder.key), ("webhook secret", folder.webhook_secret)):
        if not path.exists():
            yield Finding(what, "note", f"none yet at {path}; it is made when first needed")
        elif (mode := stat.S_IMODE(path.stat().st_mode)) & 0o077:
            yield Finding(
                what, "wrong", f"{path} has mode {mode:o}: others can read it", f"`chmod 600 {path}`"
            )
        else:
            yield Finding(what, "ok", str(path))


def _store(folder: StateFolder) -> Finding:
    from pushtrain.plumbing.lock import FolderLock
    from pushtrain.plumbing.store import Store

    if not folder.store.exists():
        return Finding("store", "note", f"none yet at {folder.store}; it is made when first needed")
    try:
        with FolderLock(folder.lock):
            Store(folder.store).close()
    except Conflict:
        return Finding("store", "ok", f"{folder.store}, in use")
    except PushtrainError as error:
        return Finding("store", "wrong", error.message, error.mend)
    return Finding("store", "ok", str(folder.store))


def _disk(folder: StateFolder, settings: Settings) -> Finding:
    free = shutil.disk_usage(folder.root).free
    text = f"{render.size(free)} free"
    if free < settings.executor.disk_floor:
        floor = render.size(settings.executor.disk_floor)
        return Finding(
            "disk", "wrong", f"{text}, below the floor of {floor}", "Free some, or lower `disk_floor`."
        )
    return Finding("disk", "ok", text)


def _gpus() -> Finding:
    from pushtrain.plumbing.gpu import inventory

    gpus = inventory()
    if not gpus:
        return Finding("gpu", "note", "none with a working NVIDIA driver: this is a CPU executor")
    shown = ", ".join(f"{gpu.index}: {gpu.name}, {render.size(gpu.memory)}" for gpu in gpus)
    return Finding("gpu", "ok", f"{shown} (driver {gpus[0].driver})")


def _repositories(folder: StateFolder, settings: Settings) -> Iterator[Finding]:
    if not settings.repositories:
        yield Finding("repositories", "note", "none in settings.toml; `pushtrain up` uses the clone's origin")
    for repository in settings.repositories:
        try:
            heads = mirror(folder, repository, os.environ).ls_remote()
        except PushtrainError as error:
            yield Finding("repository", "wrong", error.message, error.mend)
        else:
            yield Finding("repository", "ok", f"{repository.key}: {len(heads)} refs readable")


def _executors(folder: StateFolder, settings: Settings) -> Iterator[Finding]:
    clients = executor_clients(folder, settings)
    if not clients:
        yield Finding(
            "executor", "note", "none is known here", "`pushtrain up` or `pushtrain executor` starts one."
        )
    for client in clients:
        before = time.time()
        try:
            answer = client.challenge()
        except PushtrainError as error:
            yield Finding("executor", "wrong", error.message, error.mend)
            continue
        free = f"{answer.capacity.free_slots} of {answer.capacity.slots} slots free"
        yield Finding("executor", "ok", f"{answer.card.name} at {answer.card.public_url}: {free}")
        if abs(answer.card.timestamp - before) > _SKEW and answer.card.timestamp > before:
            yield Finding(
                "clock", "wrong", "the executor's clock is ahead of ours", "Check both clocks (NTP)."
            )
