"""Drain: what runs is finished, nothing new is taken, then the executor stops; and who is told of it."""

import asyncio
from pathlib import Path

import pytest
from executor_house import House, done, logged, reached, story

from pushtrain.core.errors import Draining
from pushtrain.core.values.run import Run
from pushtrain.core.values.states import State
from pushtrain.executor.service import ExecutorService
from pushtrain.plumbing.owner import drainfile
from pushtrain.plumbing.owner.drainfile import DrainOrder
from pushtrain.plumbing.programs.proc import boot_id
from pushtrain.testing import SENDER, a_command, eventually

AT_THE_GATE = "while [ ! -e gate ]; do sleep 0.02; done; echo through"


@pytest.fixture
def house(tmp_path: Path) -> House:
    return House(tmp_path)


def drain(house: House, *, timeout: float | None = None) -> None:
    drainfile.order(house.state.drain, since=1_790_000_000, timeout=timeout)


async def at_the_gate(house: House, service: ExecutorService) -> Run:
    run = house.send(service, AT_THE_GATE)
    return await reached(service, run, State.RUNNING)


def open_gate(house: House, run: Run) -> None:
    (house.state.runs / run.id / "1/job/tree/gate").touch()


@story
async def test_a_draining_executor_finishes_what_runs_takes_nothing_new_and_is_over(tmp_path: Path) -> None:
    house = House(tmp_path)
    async with house.running() as service:
        running = await at_the_gate(house, service)
        waiting = house.send(service, "echo later")
        drain(house)
        await eventually(lambda: service.drain.on, what="the drain")
        with pytest.raises(Draining, match="takes nothing new"):
            house.send(service, "true")
        assert service.capacity().free_slots == 0
        assert service.card().draining
        over = asyncio.ensure_future(service.drain.over())
        open_gate(house, running)
        await asyncio.wait_for(over, 30)
        assert service.store.run(running.id).state is State.DONE
        assert service.store.run(waiting.id).state is State.QUEUED
        assert not house.state.drain.exists(), "the next start takes new runs"
    async with house.running() as service:
        await done(service, waiting)


@story
async def test_a_command_that_was_taken_on_is_answered_while_draining(tmp_path: Path) -> None:
    house = House(tmp_path)
    async with house.running() as service:
        command = a_command(commit=house.work.head(), job=house.command(AT_THE_GATE).job)

        def accept(nonce: str) -> tuple[Run, bool]:
            raw = command.model_dump_json().encode()
            return service.accept(command, sender=SENDER, raw=raw, headers={}, nonce=nonce, nonce_expires=2e9)

        run, _ = accept("one")
        await reached(service, run, State.RUNNING)
        drain(house)
        await eventually(lambda: service.drain.on, what="the drain")
        again, fresh = accept("two")
        assert (again.id, fresh) == (run.id, False)
        open_gate(house, run)
        await service.drain.over()


@story
async def test_a_drain_goes_on_after_a_kill_and_can_be_called_off(tmp_path: Path) -> None:
    house = House(tmp_path)
    async with house.running() as service:
        running = await at_the_gate(house, service)
        waiting = house.send(service, "echo later")
        drain(house)
        await eventually(lambda: service.drain.on, what="the drain")
    async with house.running() as service:
        assert service.drain.on
        assert drainfile.done(house.state.drain)
        await eventually(lambda: not service.drain.on, what="lending again")
        open_gate(house, running)
        await done(service, running)
        await done(service, waiting)


@story
async def test_when_a_drain_is_called_off_what_waits_begins_though_nothing_ends(tmp_path: Path) -> None:
    house = House(tmp_path, slots=2)
    async with house.running() as service:
        first, second = [await at_the_gate(house, service) for _ in range(2)]
        waiting = house.send(service, "echo later")
        drain(house)
        await eventually(lambda: service.drain.on, what="the drain")
        open_gate(house, first)
        await done(service, first)
        assert service.store.run(waiting.id).state is State.QUEUED
        assert drainfile.done(house.state.drain)
        await done(service, waiting)
        open_gate(house, second)
        await done(service, second)


@story
async def test_when_its_time_is_over_the_executor_stops_and_the_run_goes_on(tmp_path: Path) -> None:
    house = House(tmp_path)
    async with house.running() as service:
        running = await at_the_gate(house, service)
        drain(house, timeout=0)
        await asyncio.wait_for(service.drain.over(), 30)
    open_gate(house, running)
    async with house.running() as service:
        await done(service, running)
        assert "through" in await logged(service, running, "through")


@story
async def test_results_that_a_remote_does_not_take_hold_up_no_drain(tmp_path: Path) -> None:
    house = House(tmp_path)
    async with house.running() as service:
        running = await at_the_gate(house, service)
        house.origin.rename(tmp_path / "away")
        drain(house)
        open_gate(house, running)
        await asyncio.wait_for(service.drain.over(), 30)
        kept = service.store.run(running.id)
        assert (kept.state, kept.publish_tries > 0) == (State.PUBLISHING, True)
        (tmp_path / "away").rename(house.origin)


def test_an_order_from_before_a_restart_of_the_machine_is_void_and_an_unreadable_one_counts(
    tmp_path: Path,
) -> None:
    path = tmp_path / "drain.json"
    assert drainfile.ordered(path) is None
    given = drainfile.order(path, since=5, timeout=60)
    assert drainfile.ordered(path) == given == DrainOrder(since=5, until=65, boot=boot_id())
    assert drainfile.order(path, since=5, timeout=None).until is None
    path.write_text(DrainOrder(since=5, boot="another").model_dump_json())
    assert drainfile.ordered(path) is None
    path.write_text("{")
    assert drainfile.ordered(path) is not None
    assert drainfile.done(path)
    assert not drainfile.done(path)
