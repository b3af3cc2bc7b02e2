"""What `pushtrain doctor` looks at on this machine: programs, private files, disk, GPUs, service."""

import contextlib
import os
import platform
import shutil
import stat
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from pushtrain.cli.checks.finding import Finding
from pushtrain.cli.screen import render
from pushtrain.core.errors import PushtrainError
from pushtrain.core.settings import Settings
from pushtrain.core.values.card import Gpu
from pushtrain.core.values.states import State
from pushtrain.plumbing.disk.state import StateFolder
from pushtrain.plumbing.machine.excluded import Excluded
from pushtrain.plumbing.machine.systemd import UNIT, Manager
from pushtrain.plumbing.sqlite.soundness import damage
from pushtrain.plumbing.sqlite.view import View

_GIT: Final = (2, 30)
_READ: Final = 0o077
_WRITE: Final = 0o022
_LONG: Final = 16
_MANY: Final = 1000
_DRIVER: Final = Path("/proc/driver/nvidia")


def programs() -> Iterator[Finding]:
    """Python and the programs that pushtrain calls."""
    yield Finding("python", "ok", f"{platform.python_version()} on {platform.system()} {platform.release()}")
    yield _git()
    yield _git_lfs()
    yield _uv()


def private_files(folder: StateFolder) -> Iterator[Finding]:
    """The state folder, and what in it only its user may read."""
    yield Finding("state", "ok", str(folder.root))
    yield from _private_files(folder)


def store(folder: StateFolder) -> Iterator[Finding]:
    """Whether the store is whole, all of it; a server may use it meanwhile."""
    if not folder.store.exists():
        yield Finding("store", "note", f"none yet at {folder.store}; it is made when first needed")
        return
    try:
        damaged = damage(folder.store)
        if damaged:
            yield Finding("store", "wrong", damaged, "Stop pushtrain and run `pushtrain store recover`.")
            return
        with contextlib.closing(View(folder.store)) as opened:
            pending = [run for run in opened.runs(states=(State.PUBLISHING,), limit=_MANY) if run.pending]
    except PushtrainError as error:
        yield Finding("store", "wrong", error.message, error.mend)
        return
    yield Finding("store", "ok", str(folder.store))
    for why, count in Counter(run.waiting_for for run in pending).most_common():
        text = f"pending for {count} run{'s' if count != 1 else ''}, kept and tried again: {why}"
        yield Finding("publishing", "wrong", text, "The report follows by itself once that is mended.")


def hardware(folder: StateFolder, settings: Settings) -> Iterator[Finding]:
    """Disk and GPUs."""
    yield _disk(folder, settings)
    yield _gpus()
    yield from _failed(folder)


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
    """Secrets that others can read, and lists of keys that others can write."""
    for what, path in (("key", folder.key), ("webhook secret", folder.webhook_secret)):
        if not path.exists():
            yield Finding(what, "note", f"none yet at {path}; it is made when first needed")
        else:
            yield _mode(what, path, _READ, "others can read it")
    if folder.sealing_key.exists():
        yield _mode("sealing key", folder.sealing_key, _READ, "others can read it")
    for what, path in (("authorized", folder.authorized), ("trusted", folder.trusted)):
        if path.exists():
            yield _mode(what, path, _WRITE, "others can write it, so it is ignored")
    for manager in (Manager(system=False), Manager(system=True)):
        for path in manager.settings.glob("*.env"):
            yield _mode("service tokens", path, _READ, "others can read it")
    if "PUSHTRAIN_WEBHOOK_SECRET" in os.environ:
        yield _given_secret(os.environ["PUSHTRAIN_WEBHOOK_SECRET"])


def _mode(what: str, path: Path, bits: int, danger: str) -> Finding:
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & bits:
        return Finding(what, "wrong", f"{path} has mode {mode:o}: {danger}", f"`chmod 600 {path}`")
    return Finding(what, "ok", str(path))


def _given_secret(secret: str) -> Finding:
    if len(secret) < _LONG:
        text = f"PUSHTRAIN_WEBHOOK_SECRET has {len(secret)} characters: it can be guessed"
        return Finding("webhook secret", "wrong", text, "`openssl rand -hex 32` makes a good one.")
    return Finding("webhook secret", "ok", "from PUSHTRAIN_WEBHOOK_SECRET")


def service(_folder: StateFolder, _settings: Settings) -> Iterator[Finding]:
    """The executor as a service of systemd, where it is installed."""
    for manager in (Manager(system=False), Manager(system=True)):
        for unit in manager.units.glob(f"{UNIT}*.service"):
            if not manager.running:
                yield Finding(
                    "service", "wrong", f"{unit} is installed, but systemd does not run this machine"
                )
                continue
            state = manager.show(unit.name).get("ActiveState", "unknown")
            if state != "active":
                mend = f"`{manager.journal(unit.name)}` says why."
                yield Finding("service", "wrong", f"{unit.name} is {state}", mend)
            elif not manager.lingers:
                text = f"{unit.name} ends when {manager.user} logs out"
                yield Finding("service", "wrong", text, f"`sudo loginctl enable-linger {manager.user}`")
            else:
                yield Finding("service", "ok", f"{unit.name} is active")


def _disk(folder: StateFolder, settings: Settings) -> Finding:
    from pushtrain.cli.disk import opened  # lazy: it loads what clears the disk

    free, floor = shutil.disk_usage(folder.root).free, settings.executor.disk_floor
    text = f"{render.size(free)} free"
    if not folder.store.exists():
        if free < floor:
            text = f"{text}, below the floor of {render.size(floor)}"
            return Finding("disk", "wrong", text, "Free some, or lower `disk_floor`.")
        return Finding("disk", "ok", text)
    with opened(folder, settings) as upkeep:
        found = upkeep.look()
    disk = found.disk
    text = f"{text}; {render.size(disk.total)} here, of {render.size(disk.budget)} that may be"
    if found.stuck:
        held = f"{render.size(found.stuck)} too much, by what cannot be collected"
        mend = (
            "`pushtrain executor disk` shows what lies here and why it stays; free some, or raise the limit."
        )
        return Finding("disk", "wrong", f"{text}: {held}", mend)
    if disk.excess:
        return Finding("disk", "note", f"{text}: {render.size(disk.excess)} will be collected")
    return Finding("disk", "ok", text)


def _gpus() -> Finding:
    from pushtrain.plumbing.machine.gpu import inventory

    gpus = inventory(wake=False)
    if not gpus and _DRIVER.exists():
        text = "NVIDIA's driver is loaded, but its library finds no GPU"
        return Finding("gpu", "wrong", text, "`nvidia-smi` says why; after an update of the driver, reboot.")
    if not gpus:
        return Finding("gpu", "note", "none with a working NVIDIA driver: this is a CPU executor")
    driver = next((gpu.driver for gpu in gpus if gpu.driver), "")
    shown = "; ".join(map(_gpu, gpus))
    return Finding("gpu", "ok", f"{shown} (driver {driver})" if driver else shown)


def _failed(folder: StateFolder) -> Iterator[Finding]:
    for one in Excluded(folder.excluded, clock=time.time).all().values():
        text = f"GPU {one.number} ({one.name}) has failed ({one.trouble}), so nobody gets it"
        mend = f"Restart the machine; or, if it is in order, `pushtrain gpus --mended {one.number}`."
        yield Finding("gpu", "wrong", text, mend)


def _gpu(gpu: Gpu) -> str:
    """One GPU: `0: NVIDIA A100-SXM4-40GB, 42.9 GB, compute capability 8.0, display`."""
    told = [gpu.name, render.size(gpu.memory) if gpu.memory else "asleep, and not woken"]
    if gpu.capability:
        told.append(f"compute capability {gpu.capability}")
    if gpu.display:
        told.append("display")
    return f"{gpu.number}: {', '.join(told)}"
