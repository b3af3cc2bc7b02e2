"""What a room says when it opens."""

import asyncio
import os
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from pushtrain.cli.room import run_until_stopped
from pushtrain.wiring.rooms import Running


@asynccontextmanager
async def brief() -> AsyncIterator[Running]:
    """A room whose work is over at once."""
    yield Running({"url": "http://127.0.0.1:1"}, asyncio.create_task(asyncio.sleep(0)), lambda: 0)


@pytest.mark.parametrize(("title", "trains"), [("executor", True), ("up", True), ("sender", False)])
def test_only_who_trains_promises_that_trainings_go_on(
    capsys: pytest.CaptureFixture[str], title: str, trains: bool
) -> None:
    asyncio.run(run_until_stopped(brief(), title, as_json=False))
    said = " ".join(capsys.readouterr().out.split())
    assert "Ctrl-C stops it; " in said
    assert ("trainings go on" in said) is trains


def test_loops_that_wait_for_a_network_leave_threads_for_the_others_on_one_core(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 1)
    over, done = threading.Event(), []

    @asynccontextmanager
    async def busy() -> AsyncIterator[Running]:
        loop = asyncio.get_running_loop()
        waiting = [loop.run_in_executor(None, over.wait, 60) for _ in range(8)]
        try:
            async with asyncio.timeout(10):
                done.append(await asyncio.to_thread(lambda: "seen"))
        finally:
            over.set()
            await asyncio.wait(waiting)
        yield Running({}, asyncio.create_task(asyncio.sleep(0)), lambda: 0)

    asyncio.run(run_until_stopped(busy(), "executor", as_json=True))
    assert done == ["seen"]
