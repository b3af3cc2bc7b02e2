"""When results are tried again: days without a network, hosts that ask to be left alone, one try for all."""

import asyncio
import contextlib
import errno
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest
from executor_house import story

from pushtrain.core.errors import GitError, PushtrainError
from pushtrain.core.lifecycle import Exited, Prepared
from pushtrain.core.values.run import Run
from pushtrain.core.values.states import Reason, State
from pushtrain.executor.results import courier
from pushtrain.executor.results.courier import Courier
from pushtrain.executor.results.publish import Publishable, Published
from pushtrain.plumbing.git.complaint import RateLimited
from pushtrain.plumbing.sqlite.store import Store
from pushtrain.ports import Stop
from pushtrain.testing import SENDER, Clock, a_command, eventually

DAY = 86_400.0


class Remote:
    """Stands in for a remote behind the publisher: says what the test says, and counts."""

    def __init__(self) -> None:
        self.trouble: PushtrainError | None = None
        self.tries: list[list[str]] = []

    def publish(
        self, batch: Sequence[Publishable], *, stop: Stop | None = None
    ) -> dict[str, Published | PushtrainError]:
        del stop
        self.tries.append([item.run.id for item in batch])
        done = Published("c" * 40, "runs/train/1")
        return {item.run.id: self.trouble or done for item in batch}


class Desk:
    """A courier over a real store, with a clock that moves when told."""

    def __init__(self, folder: Path) -> None:
        self.clock = Clock()
        self.store = Store(folder / "store.db", clock=self.clock)
        self.remote = Remote()
        self.courier = Courier(
            self.store, self.remote, folder / "runs", changed=lambda _: None, clock=self.clock
        )
        self._number = 0

    def ended(self, repository: str = "git.example.org/octo/hello") -> Run:
        """A run that has ended and is to be published."""
        self._number += 1
        command = a_command(repository=repository, request=f"r{self._number}")
        raw = command.model_dump_json().encode()
        nonce = f"n{self._number}"
        self.store.accept(
            command, sender=SENDER, raw=raw, headers={}, nonce=nonce, nonce_expires=2e9, queue_limit=10
        )
        claimed = self.store.claim(slots=8, gpus=(), executor="lab")
        assert claimed
        run, _ = claimed
        self.store.advance(run.id, Prepared(), token=run.token)
        return self.store.advance(run.id, Exited(Reason.EXITED, 0), token=run.token)

    @contextlib.asynccontextmanager
    async def working(self) -> AsyncIterator[None]:
        task = asyncio.create_task(self.courier.run())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.wait([task])
            self.store.close()

    async def tried(self, run: Run, times: int) -> Run:
        """The run once it was tried so often."""
        await eventually(lambda: self.store.run(run.id).publish_tries >= times, what=f"try {times}")
        return self.store.run(run.id)


@story
async def test_after_days_without_a_network_results_are_out_within_ten_minutes(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    desk.remote.trouble = GitError("git could not fetch: could not resolve host.", mend="Check the network.")
    run = desk.ended()
    began, times = desk.clock(), 0
    async with desk.working():
        while desk.clock() - began < 3 * DAY:
            times += 1
            kept = await desk.tried(run, times)
            assert kept.state is State.PUBLISHING
            assert "could not resolve host" in kept.waiting_for
            assert 0 < kept.not_before - desk.clock() <= 600
            # An hour is as good as ten minutes here: what counts is that no try is the last one.
            desk.clock.advance(max(kept.not_before - desk.clock(), 3600))
            desk.courier.wake()
        desk.remote.trouble = None
        desk.clock.advance(600)
        desk.courier.wake()
        await eventually(lambda: desk.store.run(run.id).state is State.DONE, what="the results")
    assert len(desk.remote.tries) == times + 1


@story
async def test_a_clock_that_is_set_back_an_hour_keeps_no_results(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    desk.remote.trouble = RateLimited("Less.", after=90)
    run = desk.ended()
    async with desk.working():
        await desk.tried(run, 1)
        desk.remote.trouble = None
        desk.clock.advance(-3600)
        desk.courier.wake()
        await eventually(lambda: desk.store.run(run.id).state is State.DONE, what="the results")


@story
async def test_a_host_that_asks_to_be_left_alone_is_by_all_runs_of_that_repository(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    desk.remote.trouble = RateLimited("Less.", after=90)
    first = desk.ended()
    async with desk.working():
        kept = await desk.tried(first, 1)
        assert kept.not_before == desk.clock() + 90
        second, other = desk.ended(), desk.ended("git.example.org/octo/other")
        desk.remote.trouble = None
        desk.courier.wake()
        await eventually(lambda: desk.store.run(other.id).state is State.DONE, what="the other repository")
        desk.clock.advance(89)
        desk.courier.wake()
        third = desk.ended("git.example.org/octo/other")
        desk.courier.wake()
        await eventually(lambda: desk.store.run(third.id).state is State.DONE, what="the other repository")
        assert desk.store.run(second.id).publish_tries == 0
        desk.clock.advance(1)
        desk.courier.wake()
        await eventually(lambda: desk.store.run(second.id).state is State.DONE, what="the second")
        await eventually(lambda: desk.store.run(first.id).state is State.DONE, what="the first")
    assert desk.remote.tries[-1] == [first.id, second.id] or desk.remote.tries[-1] == [second.id, first.id]


@story
async def test_any_number_of_results_that_have_to_wait_hold_up_no_other_repository(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only the first 200 were looked at: a sweep at a host that asks to be left alone stood before all."""
    monkeypatch.setattr(courier, "_MOST_AT_ONCE", 2)
    desk = Desk(tmp_path)
    desk.remote.trouble = RateLimited("Less.", after=90)
    first = desk.ended()
    async with desk.working():
        await desk.tried(first, 1)
        desk.remote.trouble = None
        waiting = [desk.ended() for _ in range(5)]
        others = [desk.ended(f"git.example.org/octo/{name}") for name in "abbbc"]
        desk.courier.wake()
        await eventually(
            lambda: all(desk.store.run(run.id).state is State.DONE for run in others), what="the others"
        )
        assert {desk.store.run(run.id).publish_tries for run in waiting} == {0}


@story
async def test_a_run_whose_folder_cannot_be_cleared_ends_no_other_repositorys_results(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk's error there ended the executor."""
    really, odd = courier.clear, Desk(tmp_path)
    run = odd.ended()

    def clear(folder: Path) -> None:
        if folder.name == run.id:
            raise OSError(errno.EIO, "Input/output error")
        really(folder)

    monkeypatch.setattr(courier, "clear", clear)
    async with odd.working():
        await eventually(lambda: odd.store.run(run.id).state is State.DONE, what="the odd one")
        other = odd.ended("git.example.org/octo/other")
        odd.courier.wake()
        await eventually(lambda: odd.store.run(other.id).state is State.DONE, what="the other")
