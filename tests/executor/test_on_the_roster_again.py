"""A tunnel that dies and comes back under another URL: within a minute the roster says so."""

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from test_announce import FACE, Lab

from pushtrain.core.errors import Unreachable
from pushtrain.executor.reach import Reach
from pushtrain.testing import NOON
from virtual_time import VirtualLoop

PROMISED = 60.0


class Network:
    """Stands in for a tunnel's other side, which gives out a new URL each time."""

    def __init__(self) -> None:
        self.up = True
        self.number = 0
        self._changed = asyncio.Event()

    def set(self, *, up: bool) -> None:
        """The network goes, or comes."""
        self.up = up
        self._changed.set()

    async def open(self, host: str, port: int) -> str:
        del host, port
        if not self.up:
            raise Unreachable("There is no network.")
        self.number += 1
        return f"https://{self.number}.example"

    async def lost(self) -> str:
        while self.up:
            self._changed.clear()
            await self._changed.wait()
        return "the line is dead"

    async def close(self) -> None:
        pass


@pytest.fixture
def loop() -> Iterator[VirtualLoop]:
    made = VirtualLoop()
    yield made
    made.close()


@pytest.mark.parametrize(("away", "later"), [(2, 0), (130, 0), (30_000, 0), (130, 200), (3000, 200)])
def test_a_minute_after_the_network_is_back_the_roster_has_the_new_url(
    tmp_path: Path, loop: VirtualLoop, away: float, later: float
) -> None:
    """`later`: seconds for which the Git host is away even longer than the tunnel."""
    lab = Lab(tmp_path)
    lab.clock = lambda: NOON + loop.time()  # type: ignore[assignment]
    announcer = lab.start()
    network = Network()

    async def moved(url: str) -> None:
        lab.card = FACE.model_copy(update={"public_url": url})
        announcer.told()

    reach = Reach(network, "test", moved=moved, clock=loop.time, chance=lambda: 1.0)
    tasks = [loop.create_task(reach.run("127.0.0.1", 1)), loop.create_task(announcer.run())]
    try:
        loop.pass_time(100)
        assert lab.told().public_url == "https://1.example"
        mend: Callable[[], None] = lab.break_remote()
        network.set(up=False)
        loop.pass_time(away)
        network.set(up=True)
        loop.pass_time(later)
        mend()
        back = loop.time()
        while lab.told().public_url != "https://2.example":
            loop.pass_time(1.0)
            assert loop.time() - back <= PROMISED
    finally:
        for task in tasks:
            task.cancel()
        loop.run_until_complete(asyncio.wait(tasks))
