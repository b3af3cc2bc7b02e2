"""From a push that was heard to a command that an executor has, whatever dies in between."""

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pushtrain.core.errors import Forbidden, GitError, NotFound, StorageError
from pushtrain.core.runs.precedence import Order
from pushtrain.core.settings import Repository
from pushtrain.core.values.push import Push
from pushtrain.plumbing.git.mirror import Mirror
from pushtrain.ports import Stop
from pushtrain.sender import service as service_module
from pushtrain.sender.planning import Plan
from pushtrain.sender.planning import plan as really_plan
from pushtrain.sender.service import SenderService
from pushtrain.testing import a_capacity, a_command, a_spec, eventually
from sender_world import ScriptedExecutor, World


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with World(tmp_path) as made:
        yield made


def test_a_push_becomes_a_delivered_run(world: World) -> None:
    commit = world.commit()

    async def story() -> None:
        async with world.running() as service:
            assert service.hear(world.push(commit), source="webhook")
            await eventually(world.delivered)

    asyncio.run(story())
    (command,) = world.executor.accepted.values()
    assert (command.commit, command.ref, command.job.name) == (commit, "refs/heads/main", "train")
    assert world.store.pending_pushes() == []
    assert world.note().startswith("starts 1 run")


def test_a_redelivered_push_enqueues_once(world: World) -> None:
    push = world.push(world.commit())

    async def story() -> None:
        async with world.running() as service:
            assert service.hear(push, source="webhook")
            assert not service.hear(push, source="webhook")
            await eventually(world.delivered)
            assert not service.hear(push, source="webhook")

    asyncio.run(story())
    assert len(world.store.pushes()) == 1
    assert len(world.executor.received) == 1


def test_two_deliveries_of_one_commit_are_one_run(world: World) -> None:
    commit = world.commit()

    async def story() -> None:
        async with world.running() as service:
            service.hear(world.push(commit), source="webhook")
            service.hear(world.push(commit, delivery="poll:x"), source="poll")
            await eventually(lambda: not world.store.pending_pushes())
            await eventually(world.delivered)

    asyncio.run(story())
    assert len(world.store.pushes()) == 2
    assert len(world.executor.received) == 1


def test_a_push_to_a_repository_that_is_not_watched_is_refused(world: World) -> None:
    with pytest.raises(NotFound, match="does not watch"):
        world.service.hear(world.push("1" * 40, repository="octo/other"), source="webhook")
    assert world.store.pushes() == []


def test_the_configured_key_counts_whatever_capitals_the_host_uses(world: World) -> None:
    commit = world.commit()

    async def story() -> None:
        async with world.running() as service:
            service.hear(world.push(commit, repository="Octo/Hello"), source="webhook")
            await eventually(world.delivered)

    asyncio.run(story())
    (command,) = world.executor.accepted.values()
    assert command.repository == world.repository.key


def test_what_an_executor_did_not_answer_is_kept_and_delivered_later(world: World) -> None:
    commit = world.commit()
    world.executor.down = True

    async def story() -> None:
        async with world.running() as service:
            service.hear(world.push(commit), source="webhook")
            await eventually(lambda: world.store.outbox() and world.store.outbox()[0].detail)
            assert world.store.outbox()[0].detail == "lab-1 does not answer"
            world.executor.down = False
            await eventually(world.delivered)

    asyncio.run(story())
    assert len(world.executor.received) == 1


def test_a_push_that_was_heard_before_a_crash_is_seen_to_after_it(world: World) -> None:
    commit = world.commit()
    world.service.hear(world.push(commit), source="webhook")
    world.restart()

    async def story() -> None:
        async with world.running():
            await eventually(world.delivered)

    asyncio.run(story())
    assert len(world.executor.received) == 1


def test_an_answer_that_was_lost_leads_to_the_same_run_on_the_same_executor(world: World) -> None:
    world.executors.append(ScriptedExecutor("lab-2"))
    world.executor.loses_answers = True
    commit = world.commit()

    async def first() -> None:
        async with world.running() as service:
            service.hear(world.push(commit), source="webhook")
            await eventually(lambda: world.store.outbox() and world.store.outbox()[0].tries)

    async def second() -> None:
        async with world.running():
            await eventually(world.delivered)

    asyncio.run(first())
    world.executor.loses_answers = False
    world.restart()
    asyncio.run(second())
    assert len(set(world.executor.received)) == 1
    assert len(world.executor.received) >= 2
    assert world.executors[1].received == []


def test_a_refused_command_is_kept_with_the_reason_and_not_tried_again(world: World) -> None:
    world.executor.refusal = Forbidden("This key may not send.", mend="Ask the owner.")
    commit = world.commit()

    async def story() -> None:
        async with world.running() as service:
            service.hear(world.push(commit), source="webhook")
            await eventually(lambda: world.store.outbox(states=("refused",)))

    asyncio.run(story())
    (out,) = world.store.outbox()
    assert out.detail == "This key may not send. Ask the owner."
    assert world.store.outbox_next() is None


def test_a_remote_that_is_down_delays_a_push_and_loses_nothing(world: World) -> None:
    commit = world.commit()
    away = world.root / "away"
    world.remote.rename(away)

    async def story() -> None:
        async with world.running() as service:
            service.hear(world.push(commit), source="webhook")
            await eventually(lambda: world.executor.asked)
            assert len(world.store.pending_pushes()) == 1
            away.rename(world.remote)
            await eventually(world.delivered)

    asyncio.run(story())


def test_one_push_that_cannot_be_settled_does_not_hold_up_the_next(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = world.commit()
    fetch = Mirror.fetch

    def broken_for_one(self: Mirror, ref: str, wanted: str, **options: Any) -> bool:
        if wanted != commit:
            raise GitError("this commit cannot be fetched for a while")
        return fetch(self, ref, wanted, **options)

    monkeypatch.setattr(Mirror, "fetch", broken_for_one)

    async def story() -> None:
        async with world.running() as service:
            service.hear(world.push("1" * 40), source="webhook")
            service.hear(world.push(commit), source="webhook")
            await eventually(world.delivered)

    asyncio.run(story())
    assert len(world.store.pending_pushes()) == 1


def test_a_push_that_meets_a_defect_of_ours_does_not_end_the_sender(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad, good = world.commit(message="bad"), world.commit({"a": "b"}, message="good")

    def plan(push: Push, mirror: Mirror, **more: Any) -> Plan:
        if push.after == bad:
            raise UnicodeDecodeError("utf-8", b"x", 0, 1, "planted")
        return really_plan(push, mirror, **more)

    monkeypatch.setattr(service_module, "plan", plan)

    async def story() -> None:
        async with world.running() as service:
            service.hear(world.push(bad), source="webhook")
            service.hear(world.push(good), source="webhook")
            await eventually(world.delivered)

    asyncio.run(story())
    assert [command.commit for command in world.executor.accepted.values()] == [good]


def test_what_send_left_is_taken_in_and_delivered_where_it_may_be_already(world: World) -> None:
    world.executors.append(ScriptedExecutor("lab-2"))
    entry = world.kept.keep(a_command(repository=world.repository.key))
    assert entry is not None
    entry.place(world.executors[1].id)
    entry.close()

    async def story() -> None:
        async with world.running() as service:
            await eventually(world.delivered)
            later = world.kept.keep(a_command(job=a_spec(name="later")))
            assert later is not None
            later.close()
            service.kept_more()
            await eventually(lambda: len(world.delivered()) == 2)

    asyncio.run(story())
    assert len(world.executors[1].received) >= 1
    assert list(world.kept.left()) == []


def test_what_send_may_have_delivered_goes_to_nobody_else_though_a_push_tells_of_it(
    world: World,
) -> None:
    """The push's command waits for any executor; the kept one says that an executor may have it."""
    first, second = world.executors[0], ScriptedExecutor("lab-2")
    world.executors.append(second)
    command = a_command(repository=world.repository.key)
    world.store.settle_push(None, [command], "a push")
    entry = world.kept.keep(command)
    assert entry is not None
    entry.place(second.id)
    entry.close()
    second.down = True

    async def story() -> None:
        async with world.running():
            await eventually(lambda: "may have it" in world.store.outgoing(command.run_id).detail)
            second.down = False
            await eventually(world.delivered)

    asyncio.run(story())
    assert (first.received, second.received) == ([], [command.run_id])


def test_a_push_of_a_run_that_send_has_delivered_starts_it_nowhere_else(world: World) -> None:
    """The sender hears of the push after `send` has given the run to one that it would not choose."""
    first, second = world.executors[0], ScriptedExecutor("lab-2")
    second.capacity = a_capacity(free_slots=0, running=1)
    world.executors.append(second)
    command = a_command(repository=world.repository.key)
    with world.kept.keep(command) as entry:  # type: ignore[union-attr]
        entry.place(second.id)
        second.send(command)
        entry.delivered()
    world.store.settle_push(None, [command], "a push")

    async def story() -> None:
        async with world.running():
            await eventually(world.delivered)

    asyncio.run(story())
    assert first.received == []
    assert set(second.received) == {command.run_id}
    assert list(world.kept.sent()) == []


def test_while_send_hands_a_run_over_the_sender_gives_it_to_nobody_else(world: World) -> None:
    """`send` has written down where, and has not let go of its file."""
    first, second = world.executors[0], ScriptedExecutor("lab-2")
    world.executors.append(second)
    second.capacity = a_capacity(free_slots=0, running=1)
    command = a_command(repository=world.repository.key)
    world.store.settle_push(None, [command], "a push")
    entry = world.kept.keep(command)
    assert entry is not None
    entry.place(second.id)

    async def story() -> None:
        async with world.running():
            await eventually(world.delivered)

    asyncio.run(story())
    entry.close()
    assert (first.received, set(second.received)) == ([], {command.run_id})


def test_while_send_decides_where_a_run_goes_the_sender_waits(world: World) -> None:
    command = a_command(repository=world.repository.key)
    world.store.settle_push(None, [command], "a push")

    async def story() -> None:
        with world.kept.alone(command.run_id, wait=True):
            async with world.running():
                await eventually(lambda: "hands it over" in world.store.outgoing(command.run_id).detail)
        assert (world.executor.received, world.store.outgoing(command.run_id).executor) == ([], "")
        async with world.running():
            await eventually(world.delivered)

    asyncio.run(story())
    assert world.executor.received == [command.run_id]


def test_a_command_that_is_dropped_before_it_is_placed_is_not_sent(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A newer push takes its place between the decision where it goes and the first byte."""
    older = a_command(repository=world.repository.key)
    newer = a_command(repository=world.repository.key, commit="b" * 40)
    world.store.settle_push(None, [older], "a push")
    place = world.store.outbox_place

    def and_before(run_id: str, executor: str) -> bool:
        if run_id == older.run_id:
            world.store.settle_push(None, [newer], "a push", dropped={older.run_id: "a newer push"})
        return place(run_id, executor)

    async def story() -> None:
        async with world.running() as service:
            await eventually(lambda: world.store.outgoing(older.run_id).state == "cancelled")
            service.kept_more()
            await eventually(lambda: newer.run_id in world.executor.received)

    monkeypatch.setattr(world.store, "outbox_place", and_before)
    asyncio.run(story())
    assert world.executor.received == [newer.run_id]


def test_a_matrix_is_delivered_whole_while_the_executor_accepts(world: World) -> None:
    cells = ", ".join(str(number) for number in range(60))
    file = f"[job.train]\ncommand = 'python train.py'\n[job.train.matrix]\nseed = [{cells}]\n"
    commit = world.commit({"pushtrain.toml": file})

    async def story() -> None:
        async with world.running() as service:
            service.hear(world.push(commit), source="webhook")
            await eventually(lambda: len(world.store.outbox(states=("delivered",), limit=100)) == 60)

    asyncio.run(story())
    assert len(world.executor.received) == len(world.executor.accepted) == 60


def test_repositories_do_not_wait_for_each_other(world: World, tmp_path: Path) -> None:
    stuck = Repository(key="git.example.org/octo/stuck", remote=str(tmp_path / "nowhere.git"))
    both = {
        repository.key: Mirror(tmp_path / "repositories", repository)
        for repository in (stuck, world.repository)
    }
    world.service = SenderService([stuck, world.repository], world.store, both.__getitem__, world.known)
    commit = world.commit()

    async def story() -> None:
        async with world.running() as service:
            service.hear(world.push("1" * 40, repository="octo/stuck"), source="webhook")
            service.hear(world.push(commit), source="webhook")
            await eventually(world.delivered)

    asyncio.run(story())
    assert [heard.push.repository for heard in world.store.pending_pushes()] == ["octo/stuck"]


_SENDER = """
import asyncio, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from sender_world import World
world = World(Path(sys.argv[1]), fresh=False)
world.executor.down = True
async def main():
    async with world.running() as service:
        service.hear(world.push(sys.argv[3]), source="webhook")
        while not (world.store.outbox() and world.store.outbox()[0].detail):
            await asyncio.sleep(0.01)
        print("kept", flush=True)
        await asyncio.sleep(3600)
asyncio.run(main())
"""


def test_a_command_survives_the_killing_of_its_sender(world: World) -> None:
    commit = world.commit()
    argv = (sys.executable, "-c", _SENDER, str(world.root), str(Path(__file__).parents[1]), commit)
    with subprocess.Popen(argv, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"kept\n"
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
    world.restart()

    async def story() -> None:
        async with world.running():
            await eventually(world.delivered)

    asyncio.run(story())
    assert len(world.executor.received) == 1


@pytest.mark.parametrize("newest_first", [False, True])
def test_of_two_pushes_that_no_executor_has_only_the_newer_is_left_where_the_job_says_so(
    world: World, newest_first: bool
) -> None:
    job = '[job.train]\ncommand = "python train.py"\nconcurrency = "cancel-older"\n'
    older, newer = (world.commit({"pushtrain.toml": job, "x": x}) for x in "12")
    world.executor.down = True

    async def story() -> None:
        async with world.running() as service:
            for commit in (newer, older) if newest_first else (older, newer):
                service.hear(world.push(commit, delivery=commit), source="webhook")
                await eventually(lambda: not world.store.pending_pushes())
            world.executor.down = False
            await eventually(world.delivered)

    asyncio.run(story())
    states = {out.command.commit: (out.state, out.detail) for out in world.store.outbox()}
    assert states[newer][0] == "delivered"
    assert states[older] == ("cancelled", f"a newer push, {newer[:7]}, takes its place")


def test_a_sender_that_stops_waits_for_no_host_that_says_which_push_is_newer(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It did so for an hour at most."""
    job = '[job.train]\ncommand = "python train.py"\nconcurrency = "cancel-older"\n'
    commits = [world.commit({"pushtrain.toml": job, "x": x}) for x in "12"]
    world.executor.down = True
    begun, over = threading.Event(), threading.Event()

    def order(*_: object, stop: Stop = lambda: None) -> Order:
        begun.set()
        for _moment in range(3000):
            over.wait(0.01)
            stop()
        return Order.UNKNOWN

    monkeypatch.setattr(service_module, "order", order)

    async def story() -> None:
        async with world.running() as service:
            for commit in commits:
                service.hear(world.push(commit, delivery=commit), source="webhook")
            await eventually(begun.is_set, 20, what="the question")
            began = time.monotonic()
        assert time.monotonic() - began < 20

    asyncio.run(story())


def test_killed_right_after_a_newer_push_was_settled_the_older_is_dropped_all_the_same(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = '[job.train]\ncommand = "python train.py"\nconcurrency = "cancel-older"\n'
    older, newer = (world.commit({"pushtrain.toml": job, "x": x}) for x in "12")
    world.executor.down = True

    async def heard(commit: str) -> None:
        async with world.running() as service:
            service.hear(world.push(commit, delivery=commit), source="webhook")
            await eventually(lambda: not world.store.pending_pushes())

    asyncio.run(heard(older))
    world.restart()
    settle = world.store.settle_push

    def and_die(*arguments: Any, **more: Any) -> int:
        settle(*arguments, **more)
        monkeypatch.setattr(world.store, "outbox_cancelled", lambda *_: False)  # nothing more is written
        raise StorageError("killed")

    monkeypatch.setattr(world.store, "settle_push", and_die)
    asyncio.run(heard(newer))
    states = {out.command.commit: out.state for out in world.store.outbox()}
    assert states == {older: "cancelled", newer: "waiting"}
