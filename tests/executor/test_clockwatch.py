"""A clock that jumps, or a machine that slept: nothing waits for the difference. Time is virtual."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from pushtrain.core.lifecycle import Prepared, Requeued
from pushtrain.core.values.run import Run
from pushtrain.core.values.states import Reason, State
from pushtrain.executor.clockwatch import ClockWatch
from pushtrain.plumbing.sqlite.store import Store
from pushtrain.testing import NOON, SENDER, a_command
from virtual_time import VirtualLoop

HOUR = 3600.0


class Machine:
    """A store, a clock that can be set, and a watch over it."""

    def __init__(self, folder: Path, loop: VirtualLoop) -> None:
        self.loop = loop
        self.set_by = 0.0
        self.store = Store(folder / "store.db", clock=self.clock)
        self.jumps = 0
        self.watch = ClockWatch(self.store, jumped=self._jumped, clock=self.clock, ticks=loop.time)

    def clock(self) -> float:
        return NOON + self.loop.time() + self.set_by

    def _jumped(self) -> None:
        self.jumps += 1

    def waits(self, seconds: float) -> Run:
        """A run that is tried again after so long."""
        command = a_command(request=f"{seconds}")
        raw = command.model_dump_json().encode()
        self.store.accept(
            command, sender=SENDER, raw=raw, headers={}, nonce=f"{seconds}", nonce_expires=2e9, queue_limit=9
        )
        claimed = self.store.claim(slots=9, gpus=(), executor="lab")
        assert claimed
        run, _ = claimed
        self.store.advance(run.id, Prepared(), token=run.token)
        again = Requeued(Reason.LOST, "Again.", self.clock() + seconds)
        return self.store.advance(run.id, again, token=run.token)

    def left(self, run: Run) -> float:
        """Seconds until it may start."""
        return self.store.run(run.id).not_before - self.clock()


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    loop = VirtualLoop()
    made = Machine(tmp_path, loop)
    task = loop.create_task(made.watch.run())
    loop.pass_time(1)
    yield made
    task.cancel()
    loop.run_until_complete(asyncio.wait([task]))
    made.store.close()
    loop.close()


@pytest.mark.parametrize("jump", [-60.0, -HOUR, -24 * HOUR])
def test_a_run_that_waits_is_started_when_it_would_have_been_though_the_clock_was_set_back(
    machine: Machine, jump: float
) -> None:
    run, soon = machine.waits(600), machine.waits(2)
    machine.loop.pass_time(60)
    machine.set_by += jump
    machine.loop.pass_time(6)
    assert 600 - 70 <= machine.left(run) <= 600 - 60
    assert machine.store.run(run.id).state is State.QUEUED
    assert machine.left(soon) <= 0
    assert machine.jumps == 1
    machine.loop.pass_time(300)
    assert machine.jumps == 1


def test_after_a_sleep_what_is_due_is_looked_at_at_once(machine: Machine) -> None:
    run = machine.waits(600)
    machine.set_by += 8 * HOUR  # the clock that ticks stood still
    machine.loop.pass_time(6)
    assert machine.left(run) < 0
    assert machine.jumps == 1


def test_a_clock_that_is_brought_back_slowly_is_no_jump(machine: Machine) -> None:
    run = machine.waits(600)
    for _ in range(20):
        machine.set_by -= 2
        machine.loop.pass_time(5)
    assert machine.jumps == 0
    assert machine.left(run) == pytest.approx(600 - 100 + 40, abs=1)
