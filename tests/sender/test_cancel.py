"""A command that waits at the sender is dropped on a person's wish, and never starts."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from pushtrain.core.errors import Unreachable
from pushtrain.testing import a_command, eventually
from sender_world import KEY, World


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with World(tmp_path) as made:
        yield made


def test_a_wish_reaches_a_running_sender_and_the_command_never_starts(world: World) -> None:
    command = a_command(repository=KEY)
    world.executor.down = True

    async def story() -> None:
        async with world.running() as service:
            world.store.settle_push(None, [command], "pushed")
            service.kept_more()
            await eventually(lambda: world.store.outgoing(command.run_id).detail)
            world.kept.wish_cancel(command.run_id)
            await eventually(lambda: not world.kept.wishes())
            assert world.store.outgoing(command.run_id).state == "cancelled"
            world.executor.down = False
            other = a_command(repository=KEY, request="other")
            world.store.settle_push(None, [command, other], "pushed")
            service.kept_more()
            await eventually(world.delivered)
            assert world.executor.received == [other.run_id]

    asyncio.run(story())


def test_a_wish_that_nobody_was_there_for_is_fulfilled_before_the_next_sender_sends(world: World) -> None:
    dropped, kept = a_command(repository=KEY), a_command(repository=KEY, request="kept")
    world.store.settle_push(None, [dropped, kept], "pushed")
    world.kept.wish_cancel(dropped.run_id)
    world.kept.wish_cancel("0" * 32)

    async def story() -> None:
        async with world.running():
            await eventually(world.delivered)

    asyncio.run(story())
    assert world.executor.received == [kept.run_id]
    assert world.store.outgoing(dropped.run_id).state == "cancelled"
    assert world.kept.wishes() == []


def test_a_command_that_an_executor_may_have_stays_until_its_answer_is_known(world: World) -> None:
    command = a_command(repository=KEY)
    world.executor.loses_answers = True

    async def story() -> None:
        async with world.running() as service:
            world.store.settle_push(None, [command], "pushed")
            service.kept_more()
            await eventually(lambda: world.store.outgoing(command.run_id).tries)
            world.kept.wish_cancel(command.run_id)
            world.executor.loses_answers = False
            await eventually(world.delivered)
            await eventually(lambda: not world.kept.wishes())

    asyncio.run(story())
    assert world.store.outgoing(command.run_id).state == "delivered"


def test_a_command_that_comes_back_from_an_executor_is_dropped_then(world: World) -> None:
    command = a_command(repository=KEY)
    world.store.settle_push(None, [command], "pushed", executor=world.executor.id)
    world.executor.refusal = Unreachable("It does not answer.")
    world.kept.wish_cancel(command.run_id)

    async def story() -> None:
        async with world.running():
            await eventually(lambda: world.store.outgoing(command.run_id).tries)
            assert world.kept.wishes() == [command.run_id]
            world.store.outbox_moved(command, "it came back")
            await eventually(lambda: world.store.outgoing(command.run_id).state == "cancelled")

    asyncio.run(story())
    assert world.delivered() == []


def test_what_a_person_sends_once_more_is_no_longer_cancelled(world: World) -> None:
    command = a_command(repository=KEY)
    world.store.settle_push(None, [command], "pushed")
    assert world.store.outbox_cancelled(command.run_id, "cancelled")
    assert not world.store.outbox_cancelled(command.run_id, "cancelled")
    world.kept.wish_cancel(command.run_id)
    entry = world.kept.keep(command)
    assert entry is not None
    entry.close()

    async def story() -> None:
        async with world.running():
            await eventually(world.delivered)

    asyncio.run(story())
    assert world.executor.received == [command.run_id]
