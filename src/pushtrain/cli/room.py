"""Run a room until Ctrl-C or SIGTERM: say where it is, stop it in order."""

import asyncio
import logging
import signal
import sys
from contextlib import AbstractAsyncContextManager

from pushtrain.cli import render
from pushtrain.wiring.rooms import Running


async def run_until_stopped(room: AbstractAsyncContextManager[Running], title: str, *, as_json: bool) -> None:
    """Enter the room, announce it, and leave it at SIGINT, at SIGTERM, or when one of its tasks fails."""
    logging.basicConfig(
        level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(message)s", datefmt="%H:%M:%S"
    )
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
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
    if "webhook" in running.facts:
        render.say(
            "[dim]The next push starts its jobs; `pushtrain send` starts those of a commit that is there.[/]"
        )
    render.say("[dim]Ctrl-C stops it; trainings go on, and the next start takes them up again.[/]")
    sys.stdout.flush()


def _farewell(active: int) -> str:
    return (
        f"Stopped. {active} running training{'s' if active != 1 else ''} will go on."
        if active
        else "Stopped."
    )
