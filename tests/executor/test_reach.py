"""Keeping the tunnel open: what is told, when it is tried again, and over real tunnels what that takes."""

import asyncio
import contextlib
import itertools
import logging
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ngrok_edge import GOOD, serving_edge
from pushtrain.adapters.tunnels.authtoken import Found
from pushtrain.adapters.tunnels.ngrok import Ngrok
from pushtrain.adapters.tunnels.ssh import Ssh
from pushtrain.core.errors import ConfigError, Unreachable
from pushtrain.core.settings import ExecutorSettings
from pushtrain.executor.reach import Reach, pause_after
from pushtrain.ports import Tunnel
from pushtrain.testing import Clock, eventually
from sshd import Sshd, sshd
from tunnel_world import greeting, post, story

__all__ = ["sshd"]

A, B = "https://a.example", "https://b.example"


class Scripted:
    """A tunnel that does what a list says: comes up under a URL, to be lost when told, or fails."""

    def __init__(self, script: Sequence[str | Exception]) -> None:
        self.script = list(script)
        self.closed = 0
        self.cut = asyncio.Event()

    async def open(self, host: str, port: int) -> str:
        assert (host, port) == ("127.0.0.1", 8421)
        if not self.script:
            await asyncio.Event().wait()
        step = self.script.pop(0)
        if isinstance(step, Exception):
            raise step
        return step

    async def lost(self) -> str:
        await self.cut.wait()
        self.cut.clear()
        return "somebody pulled the plug"

    async def close(self) -> None:
        self.closed += 1


class World:
    """A scripted tunnel that is kept open, on a clock of its own."""

    def __init__(self, *script: str | Exception) -> None:
        self.tunnel = Scripted(script)
        self.clock = Clock(1000)
        self.told: list[str] = []
        self.pauses: list[float] = []
        self.reach = Reach(
            self.tunnel,
            "test",
            moved=self._moved,
            clock=self.clock,
            pause=self._pause,
            chance=lambda: 1.0,
        )

    async def _moved(self, url: str) -> None:
        self.told.append(url)

    async def _pause(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.clock.advance(seconds)
        await asyncio.sleep(0)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator["World"]:
        async with kept_open(self.reach, 8421):
            yield self

    async def lose(self, *, after: float = 0) -> None:
        """Cut the tunnel once it has been up for some time."""
        await eventually(lambda: self.reach.up)
        self.clock.advance(after)
        before = self.tunnel.closed
        self.tunnel.cut.set()
        await eventually(lambda: self.tunnel.closed > before)


@contextlib.asynccontextmanager
async def kept_open(reach: Reach, port: int) -> AsyncIterator[None]:
    task = asyncio.create_task(reach.run("127.0.0.1", port))
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait((task,))


@story
async def test_a_new_url_is_told_once_and_the_same_one_not_again() -> None:
    async with World(A, A, B, A).running() as world:
        for _ in range(3):
            await world.lose()
        await eventually(lambda: len(world.told) == 3)
        assert world.told == [A, B, A]


@story
async def test_the_first_new_try_comes_within_half_a_second_and_pauses_stay_below_a_minute() -> None:
    failures = [Unreachable("No.") for _ in range(12)]
    async with World(A, *failures, B).running() as world:
        await world.lose(after=3600)
        await eventually(lambda: world.told == [A, B])
        assert world.pauses[:5] == [0.5, 1, 2, 4, 8]
        assert world.pauses[-1] == max(world.pauses) == 45


@story
async def test_a_tunnel_that_comes_and_goes_is_tried_less_often_but_never_given_up_for_long() -> None:
    async with World(*[A, B] * 4).running() as world:
        for _ in range(6):
            await world.lose(after=1)
        await eventually(lambda: len(world.pauses) == 6)
        assert world.pauses == [1, 2, 4, 8, 8, 8]


@story
async def test_what_a_person_must_mend_is_tried_again_rarely() -> None:
    async with World(ConfigError("The token is bad.", mend="Mend it."), A).running() as world:
        await eventually(lambda: world.told == [A])
        assert world.pauses == [300]


@given(st.integers(0, 10_000), st.floats(0, 1))
def test_every_pause_is_spread_and_capped(failures: int, chance: float) -> None:
    assert 0.25 <= pause_after(failures, chance) <= 45
    assert pause_after(failures, 0) == pause_after(failures, 1) / 2


@story
async def test_the_log_has_a_sentence_for_a_change_and_none_for_more_of_the_same(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "pushtrain")
    async with World(A, *[Unreachable("Nobody there.", mend="Look.")] * 5, A).running() as world:
        await world.lose()
        await eventually(lambda: world.reach.up)
    assert [record.getMessage() for record in caplog.records] == [
        f"Reachable at {A} by the test tunnel.",
        "The test tunnel is lost: somebody pulled the plug. Runs go on; it is opened again.",
        "The test tunnel is not up: Nobody there. Look.",
        f"Reachable again at {A} by the test tunnel.",
    ]


@story
async def test_a_defect_of_a_tunnel_ends_nothing() -> None:
    async with World(RuntimeError("a defect"), A).running() as world:
        await eventually(lambda: world.told == [A])
        assert world.tunnel.closed == 1


@story
async def test_a_card_that_cannot_be_written_costs_no_tunnel(caplog: pytest.LogCaptureFixture) -> None:
    world = World(A, A)
    told = []

    async def moved(url: str) -> None:
        told.append(url)
        if len(told) == 1:
            raise OSError("disk full")

    world.reach = Reach(world.tunnel, "test", moved=moved, pause=world._pause)
    async with world.running():
        await world.lose()
        await eventually(lambda: len(told) == 2)
    assert "disk full" in caplog.text


@story
async def test_the_end_closes_the_tunnel_and_waiting_for_it_has_an_end() -> None:
    async with World().running() as world:
        began = time.monotonic()
        await world.reach.settled(0.05)
        assert time.monotonic() - began < 5
        assert not world.reach.up
    assert world.tunnel.closed == 1


@story
async def test_waiting_ends_with_the_first_try_whatever_came_of_it() -> None:
    async with World(Unreachable("No.")).running() as world:
        await asyncio.wait_for(world.reach.settled(1000), 10)
        assert "No." in world.reach.trouble


# --- over real tunnels ------------------------------------------------------------------------------------

SOON: Final = 5.0
"""Seconds from a loss that is told to the new URL."""


def real(tunnel: Tunnel, told: list[tuple[str, float]]) -> Reach:
    async def moved(url: str) -> None:
        told.append((url, time.monotonic()))

    return Reach(tunnel, "real", moved=moved)


@story
async def test_ngrok_that_is_dropped_twice_is_back_under_its_new_url_within_seconds(
    tmp_path: Path,
) -> None:
    told: list[tuple[str, float]] = []
    with serving_edge(tmp_path) as edge, greeting() as local:
        settings = ExecutorSettings(ngrok_server=edge.address, ngrok_root_cas=str(edge.certificate))
        tunnel = Ngrok(settings, token=lambda: Found(GOOD, ""))
        async with kept_open(real(tunnel, told), local):
            await eventually(lambda: told)
            for drops in (1, 2):
                began = time.monotonic()
                edge.drop()
                await eventually(lambda count=drops: len(told) > count)  # type: ignore[misc]
                assert told[-1][1] - began < SOON
                assert await post(told[-1][0], b"ab") == "/ 2"
            assert [url for url, _ in told] == edge.bindings
            assert len(edge.sessions) == 1


@story
async def test_ssh_whose_server_restarts_comes_back_by_itself(sshd: Sshd) -> None:
    told: list[tuple[str, float]] = []
    settings = ExecutorSettings(
        ssh_target="gpu", ssh_config=str(sshd.config), public_url="http://127.0.0.1:{port}"
    )
    with greeting() as local:
        reach = real(Ssh(settings, alive=1), told)
        async with kept_open(reach, local):
            await eventually(lambda: reach.up)
            sshd.stop()
            await eventually(lambda: "cannot be reached" in reach.trouble)
            sshd.start()
            await eventually(lambda: reach.up)
            assert await post(reach.url, b"ab") == "/ 2"
    assert len(told) == 2


@story
async def test_an_idle_hour_sends_nothing_through_the_tunnel(tmp_path: Path) -> None:
    """The clock is simulated: whatever the executor did by the clock would show as a try or a visit."""
    told: list[tuple[str, float]] = []
    clock = Clock()
    with serving_edge(tmp_path) as edge, greeting() as local:
        settings = ExecutorSettings(ngrok_server=edge.address, ngrok_root_cas=str(edge.certificate))
        reach = real(Ngrok(settings, token=lambda: Found(GOOD, "")), told)
        reach._clock = clock
        async with kept_open(reach, local):
            await eventually(lambda: reach.up)
            for _ in itertools.repeat(None, 60):
                clock.advance(60)
                await asyncio.sleep(0)
            assert (edge.visits, len(edge.tokens), len(edge.bindings)) == (0, 1, 1)
