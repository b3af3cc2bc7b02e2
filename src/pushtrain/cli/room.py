"""Run a room until Ctrl-C or SIGTERM: say where it is, stop it in order."""

import asyncio
import logging
import signal
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager
from functools import partial
from pathlib import Path
from typing import Any, Final

from pushtrain.cli.clone import open_clone
from pushtrain.cli.screen import render
from pushtrain.cli.screen.safelog import SafeFormatter
from pushtrain.core.errors import UsageError
from pushtrain.core.settings import Settings
from pushtrain.plumbing.disk.state import StateFolder
from pushtrain.wiring.rooms import Running
from pushtrain.wiring.settings import load_settings

_THREADS: Final = 32


def served(
    folder: StateFolder,
    repositories: tuple[str, ...],
    *,
    executor: Mapping[str, Any] | None = None,
    sender: Mapping[str, Any] | None = None,
    rules: Mapping[str, Any] | None = None,
) -> Settings:
    """The settings of a room; where no repository is named, it is that of the clone we stand in.

    Raises:
        UsageError: There is none.
        ConfigError: A setting is wrong.
    """
    load = partial(load_settings, folder, executor=executor, sender=sender, rules=rules)
    settings = load(repositories=repositories)
    if settings.repositories:
        return settings
    return load(repositories=(_origin(),), named_by="This clone's `origin`")


def _origin() -> str:
    try:
        remote = open_clone(Path.cwd()).ask("remote", "get-url", "origin")
    except UsageError:
        remote = ""
    if not remote:
        raise UsageError(
            "There is no repository to watch: this folder is no clone with an `origin`.",
            mend="Stand in a clone, or name a remote with `--repo URL`.",
        )
    return remote


async def run_until_stopped(room: AbstractAsyncContextManager[Running], title: str, *, as_json: bool) -> None:
    """Enter the room, announce it, and leave it at SIGINT, at SIGTERM, or when one of its tasks fails."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(SafeFormatter("%(asctime)s %(message)s", datefmt="%H:%M:%S"))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    # Python's own gives five threads on one core: as many as there are loops that may wait for a network.
    loop.set_default_executor(ThreadPoolExecutor(_THREADS, thread_name_prefix="pushtrain"))
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    async with room as running:
        _announce(running, title, as_json=as_json)
        waiter = asyncio.create_task(stop.wait())
        done, _ = await asyncio.wait({waiter, running.task}, return_when=asyncio.FIRST_COMPLETED)
        waiter.cancel()
        if running.task in done:
            running.task.result()
        active = running.active()
    if not as_json:
        render.say(_farewell(active))


def _announce(running: Running, title: str, *, as_json: bool) -> None:
    if as_json:
        render.emit_json(running.facts)
        sys.stdout.flush()
        return
    render.say(f"[bold]pushtrain {title}[/]")
    for name, value in running.facts.items():
        shown = ", ".join(value) if isinstance(value, list) else value
        render.say(f"  [dim]{name:<13}[/]{render.literal(shown)}")
    if running.facts.keys() & {"webhook", "polls"}:
        render.say(
            "[dim]The next push starts its jobs; `pushtrain send` starts those of a commit that is there.[/]"
        )
    kept = "what waits is kept" if title == "sender" else "trainings go on"
    render.say(f"[dim]Ctrl-C stops it; {kept}, and the next start goes on from there.[/]")
    sys.stdout.flush()


def _farewell(active: int) -> str:
    return (
        f"Stopped. {active} running training{'s' if active != 1 else ''} will go on."
        if active
        else "Stopped."
    )
