"""The reconciler: a lost webhook costs time, never a run."""

import asyncio
import socket
import subprocess
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moody_host import A_PAGE, GOOD, NAME, TOKEN, moody
from pushtrain.core.errors import GitError, PushtrainError
from pushtrain.core.settings import Repository
from pushtrain.core.values.push import NO_COMMIT
from pushtrain.plumbing.git.complaint import Unanswered
from pushtrain.plumbing.git.mirror import Mirror
from pushtrain.sender.poll import Reconciler, moves
from pushtrain.sender.service import SenderService
from pushtrain.testing import eventually
from sender_world import World


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with World(tmp_path) as made:
        yield made


KEY = "git.example.org/octo/hello"
A, B, C = ("1" * 40, "2" * 40, "3" * 40)
MAIN = "refs/heads/main"


def noted(known: dict[str, str], seen: dict[str, str]) -> dict[str, str]:
    found = moves(KEY, known, seen)
    after = {**known, **found.tips, **{push.ref: push.after for push in found.pushes}}
    return {ref: commit for ref, commit in after.items() if commit is not None}


def test_tips_at_first_sight_are_a_baseline() -> None:
    found = moves(KEY, {}, {MAIN: A})
    assert found.pushes == ()
    assert found.tips[MAIN] == A


def test_a_repository_that_was_empty_at_first_sight_has_a_first_push() -> None:
    known = noted({}, {})
    (push,) = moves(KEY, known, {MAIN: A}).pushes
    assert (push.key, push.ref, push.before, push.after) == (KEY, MAIN, NO_COMMIT, A)


def test_a_moved_tip_is_a_push_from_where_it_was() -> None:
    known = noted({}, {MAIN: A, "refs/tags/v1": A})
    found = moves(KEY, known, {MAIN: B, "refs/tags/v1": A})
    (push,) = found.pushes
    assert (push.before, push.after) == (A, B)
    assert push.delivery.startswith(f"poll:{KEY}:{MAIN}:{B}")
    assert found.tips == {}


def test_a_new_branch_of_a_sha256_repository_has_a_before_of_its_length() -> None:
    known = noted({}, {})
    (push,) = moves(KEY, known, {MAIN: "a" * 64}).pushes
    assert push.before == "0" * 64


def test_a_deleted_ref_is_forgotten_and_new_when_it_comes_back() -> None:
    known = noted({}, {MAIN: A, "refs/heads/topic": B})
    found = moves(KEY, known, {MAIN: A})
    assert found.tips == {"refs/heads/topic": None}
    (push,) = moves(KEY, noted(known, {MAIN: A}), {MAIN: A, "refs/heads/topic": C}).pushes
    assert push.before == NO_COMMIT


def test_our_own_branches_and_other_refs_are_not_looked_at() -> None:
    known = noted({}, {})
    seen = {"refs/heads/pushtrain/results": A, "refs/heads/pushtrain/config": A, "refs/pull/1/head": A}
    assert moves(KEY, known, seen).pushes == ()


_refs = st.dictionaries(st.sampled_from([MAIN, "refs/heads/b", "refs/tags/t"]), st.sampled_from([A, B, C]))


@given(st.lists(_refs, min_size=1, max_size=6))
def test_after_each_round_everything_seen_is_noted_and_a_second_look_finds_nothing(
    rounds: list[dict[str, str]],
) -> None:
    known: dict[str, str] = {}
    for seen in rounds:
        known = noted(known, seen)
        assert {ref: commit for ref, commit in known.items() if ref} == seen
        again = moves(KEY, known, seen)
        assert (again.pushes, dict(again.tips)) == ((), {})


def test_a_push_without_a_webhook_is_found_and_runs(world: World) -> None:
    world.commit()
    reconciler = Reconciler(world.service, poll_seconds=0.05, jitter=lambda: 0.5)

    async def story() -> str:
        async with world.running():
            polling = asyncio.create_task(reconciler.run())
            await eventually(lambda: world.store.tips(KEY))
            commit = world.commit({"train.py": "x"})
            await eventually(world.delivered)
            polling.cancel()
            return commit

    commit = asyncio.run(story())
    assert [command.commit for command in world.executor.accepted.values()] == [commit]


def test_who_waits_for_the_first_look_pushes_nothing_into_the_baseline(world: World) -> None:
    world.commit()
    reconciler = Reconciler(world.service, 600)

    async def story() -> None:
        await reconciler.settled(0.01)
        assert world.store.tips(KEY) == {}, "it waits no longer than it is told"
        task = asyncio.create_task(reconciler.run())
        try:
            await reconciler.settled(20)
            assert MAIN in world.store.tips(KEY)
        finally:
            task.cancel()
            await asyncio.wait([task])

    asyncio.run(story())


def test_a_webhook_and_the_reconciler_start_one_run_for_one_push(world: World) -> None:
    world.commit()
    reconciler = Reconciler(world.service, poll_seconds=60)
    reconciler.look(KEY)
    before = world.store.tips(KEY)[MAIN]
    commit = world.commit({"train.py": "x"})
    assert reconciler.look(KEY) == 1
    assert reconciler.look(KEY) == 0
    world.service.hear(world.push(commit, before=before), source="webhook")

    async def story() -> None:
        async with world.running():
            await eventually(lambda: not world.store.pending_pushes())
            await eventually(world.delivered)

    asyncio.run(story())
    assert len(world.executor.received) == 1
    assert len(world.store.outbox()) == 1


def test_what_a_webhook_told_is_no_news_to_the_reconciler(world: World) -> None:
    first = world.commit()
    reconciler = Reconciler(world.service, poll_seconds=60)
    reconciler.look(KEY)
    commit = world.commit({"train.py": "x"})
    world.service.hear(world.push(commit, before=first), source="webhook")

    async def story() -> None:
        async with world.running():
            await eventually(world.delivered)

    asyncio.run(story())
    assert reconciler.look(KEY) == 0
    assert world.store.tips(KEY)[MAIN] == commit


def test_a_webhook_that_came_before_its_commit_is_made_good_by_the_reconciler(world: World) -> None:
    first = world.commit()
    reconciler = Reconciler(world.service, poll_seconds=60)
    reconciler.look(KEY)
    commit = world.work.commit({"train.py": "x"})
    world.service.hear(world.push(commit, before=first), source="webhook")

    async def story() -> None:
        async with world.running():
            await eventually(lambda: not world.store.pending_pushes())
            assert "starts nothing" in world.note()
            world.work.push()
            assert await asyncio.to_thread(reconciler.look, KEY) == 1
            await eventually(world.delivered)

    asyncio.run(story())
    assert [command.commit for command in world.executor.accepted.values()] == [commit]


def test_a_commit_that_is_forced_back_is_noted_again_so_that_the_next_push_is_compared_with_it(
    world: World,
) -> None:
    first = world.commit()
    reconciler = Reconciler(world.service, poll_seconds=60)
    reconciler.look(KEY)
    second = world.commit({"train.py": "x"})

    async def story() -> None:
        async with world.running():
            for tip in (second, first, second):
                world.work.git("push", "--quiet", "--force", str(world.remote), f"{tip}:{MAIN}")
                assert await asyncio.to_thread(reconciler.look, KEY) == 1
                await eventually(lambda: not world.store.pending_pushes())
                assert world.store.tips(KEY)[MAIN] == tip

    asyncio.run(story())
    third = world.commit({"train.py": "y"})
    assert reconciler.look(KEY) == 1
    (push,) = world.store.pending_pushes()
    assert (push.push.before, push.push.after) == (second, third)


def test_a_push_that_was_overtaken_before_it_was_fetched_is_looked_at_when_its_commit_returns(
    world: World,
) -> None:
    first = world.commit()
    reconciler = Reconciler(world.service, poll_seconds=60)
    reconciler.look(KEY)
    second = world.commit({"train.py": "x"})
    reconciler.look(KEY)
    world.work.git("push", "--quiet", "--force", str(world.remote), f"{first}:{MAIN}")
    subprocess.run(["git", "-C", world.remote, "gc", "--quiet", "--prune=now"], check=True)

    async def story() -> None:
        async with world.running():
            await eventually(lambda: not world.store.pending_pushes())
            assert "starts nothing" in world.note()
            world.work.git("push", "--quiet", str(world.remote), f"{second}:{MAIN}")
            assert await asyncio.to_thread(reconciler.look, KEY) == 1
            await eventually(world.delivered)

    asyncio.run(story())
    assert [command.commit for command in world.executor.accepted.values()] == [second]


def test_a_push_missed_while_the_sender_was_down_is_found_at_its_start(world: World) -> None:
    world.commit()
    Reconciler(world.service, poll_seconds=60).look(KEY)
    commit = world.commit({"train.py": "x"})
    world.restart()

    async def story() -> None:
        async with world.running() as service:
            polling = asyncio.create_task(Reconciler(service, poll_seconds=60).run())
            await eventually(world.delivered)
            polling.cancel()

    asyncio.run(story())
    assert [command.commit for command in world.executor.accepted.values()] == [commit]


def test_a_remote_that_is_away_is_complained_of_once_and_looked_at_again(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    world.commit()
    away = world.root / "away"
    world.remote.rename(away)
    looks: list[int] = []

    def jitter() -> float:
        looks.append(1)
        return 0.5

    reconciler = Reconciler(world.service, poll_seconds=0.01, jitter=jitter)

    async def story() -> None:
        polling = asyncio.create_task(reconciler.run())
        await eventually(lambda: len(looks) >= 3)
        away.rename(world.remote)
        await eventually(lambda: world.store.tips(KEY))
        polling.cancel()

    with caplog.at_level("WARNING"):
        asyncio.run(story())
    assert sum("could not be compared" in record.message for record in caplog.records) == 1


def test_a_look_at_a_remote_that_is_away_raises(world: World) -> None:
    world.remote.rename(world.root / "away")
    with pytest.raises(PushtrainError) as caught:
        Reconciler(world.service, poll_seconds=60).look(KEY)
    assert caught.value.exit_code in {GitError.exit_code, 5}


def test_a_networks_sign_in_page_deletes_no_branch_and_trains_nothing_twice(
    world: World, tmp_path: Path
) -> None:
    """Git takes a page for an empty host: once the network was back, each branch would have been new."""
    with moody(tmp_path / "host") as host:
        mirror = Mirror(tmp_path / "mirrors", Repository(key=KEY, remote=host.remote(NAME)), token=TOKEN)
        service = SenderService([world.repository], world.store, lambda _: mirror, list)
        reconciler = Reconciler(service, 60)
        world.commit()
        world.work.git("push", "--quiet", host.remote(NAME).replace("//", f"//x:{TOKEN}@"), "main")
        assert reconciler.look(KEY) == 0
        known = world.store.tips(KEY)
        host.mood = A_PAGE
        with pytest.raises(Unanswered, match="sign-in page"):
            reconciler.look(KEY)
        assert world.store.tips(KEY) == known
        host.mood = GOOD
        assert reconciler.look(KEY) == 0
        assert world.store.pushes() == []


def test_a_remote_that_never_answers_does_not_hold_up_the_end(world: World, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.settimeout(20)
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/octo/hello"
        mirror = Mirror(tmp_path / "mirrors", Repository(key=KEY, remote=url))
        service = SenderService([world.repository], world.store, lambda _: mirror, list)

        async def story() -> None:
            polling = asyncio.create_task(Reconciler(service, 60).run())
            caller, _ = await asyncio.to_thread(silent.accept)
            with caller:
                polling.cancel()
                await asyncio.wait([polling])

        asyncio.run(story())  # ends only when the thread that asks has ended too


def test_hosts_that_do_not_answer_take_nobody_elses_threads(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else an owner who comes back while there is no network, or a revoked key, waits with them."""
    over = threading.Event()
    looked: list[str] = []

    def look(self: Reconciler, key: str) -> int:
        looked.append(key)
        while not over.wait(0.01):
            self._stop()
        return 0

    monkeypatch.setattr(Reconciler, "look", look)

    async def story() -> None:
        async with world.running() as service:
            served = [Repository(key=f"host.example/octo/r{n}", remote="/nowhere") for n in range(12)]
            monkeypatch.setattr(service, "repositories", served)
            asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(4))
            task = asyncio.create_task(Reconciler(service, 600).run())
            try:
                await eventually(lambda: len(looked) == len(served), 10, what="all that hang")
                async with asyncio.timeout(10):
                    await asyncio.to_thread(lambda: None)
            finally:
                task.cancel()
                await asyncio.wait([task])
                over.set()

    asyncio.run(story())
