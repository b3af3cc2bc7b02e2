"""Whatever a line does between two machines, a command is one run, and a log is whole to the byte."""

import hashlib
import random
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from asking import SENDER
from bad_line import (
    DOUBLED,
    GATEWAY,
    GOOD,
    HALF_A_REQUEST,
    HALF_AN_ANSWER,
    LOST_ANSWER,
    LOST_REQUEST,
    STALLED,
    BadLine,
    Fault,
    bad_line,
    in_turn,
)
from pushtrain.core.errors import PushtrainError, Unauthorized, Unreachable
from pushtrain.core.lifecycle import Exited, Prepared
from pushtrain.core.values.states import Reason
from pushtrain.core.wire.frames import LogFrame
from pushtrain.plumbing.attempts.rundir import RunDir
from pushtrain.plumbing.http.client import ExecutorClient
from pushtrain.sender.delivery import Delivered, Executors
from pushtrain.testing import a_command
from served import Served, served

RUNS = "POST /v1/runs"
CUTS = 100
NOISE = random.Random(20_261_127)  # noqa: S311  no secret comes of it


@pytest.fixture
def executor(tmp_path: Path) -> Iterator[Served]:
    with served(tmp_path / "state") as one:
        one.authorized.add(SENDER.public_key(), name="ada")
        yield one


@contextmanager
def reached(
    executor: Served, fault: Callable[[str], Fault], *, timeout: float = 20
) -> Iterator[tuple[BadLine, ExecutorClient]]:
    """The executor behind a bad line, and who speaks to it through that."""
    with bad_line(executor.port, fault) as line:
        executor.service.url = line.url
        client = ExecutorClient(
            line.url,
            executor.key.public_key(),
            SENDER,
            timeout=timeout,
            clock=executor.clock,
            pause=lambda _: None,
        )
        try:
            yield line, client
        finally:
            client.close()


@pytest.mark.parametrize(
    ("fault", "kind", "arrived"),
    [
        pytest.param(LOST_REQUEST, Unreachable, False, id="the request is lost"),
        pytest.param(HALF_A_REQUEST, Unreachable, False, id="the request is cut"),
        pytest.param(LOST_ANSWER, Unreachable, True, id="the 202 is lost"),
        pytest.param(HALF_AN_ANSWER, Unreachable, True, id="the 202 is cut"),
        pytest.param(GATEWAY, Unreachable, False, id="a proxy answers 502 with HTML"),
        pytest.param(DOUBLED, Unauthorized, True, id="the request comes twice, the second answer counts"),
        pytest.param(STALLED, Unreachable, True, id="the answer stalls"),
    ],
)
def test_whatever_happens_on_the_way_a_repeated_command_is_the_same_run(
    executor: Served, fault: Fault, kind: type[PushtrainError], arrived: bool
) -> None:
    command = a_command()
    # A connection that breaks without a word is tried once more by the client itself.
    with reached(executor, in_turn([fault, fault], only=RUNS), timeout=1) as (line, client):
        with pytest.raises(kind) as caught:
            client.send(command)
        assert "<html" not in str(caught.value)
        assert not isinstance(caught.value, Unreachable) or caught.value.sent
        assert [run.id for run in executor.store.runs()] == ([command.run_id] if arrived else [])
        for _ in range(2):
            try:
                run = client.send(command)
            except PushtrainError:
                continue
            assert run.id == command.run_id
        assert [run.id for run in executor.store.runs()] == [command.run_id]
        assert line.asked.count(RUNS) <= 4


@pytest.mark.parametrize("seed", range(2))
def test_thirty_commands_through_a_line_on_which_every_second_request_fails_are_thirty_runs(
    executor: Served, seed: int
) -> None:
    chance = random.Random(seed)  # noqa: S311  no secret comes of it
    faults = (LOST_REQUEST, HALF_A_REQUEST, LOST_ANSWER, HALF_AN_ANSWER, GATEWAY, DOUBLED)

    def fault(_: str) -> Fault:
        return chance.choice(faults) if chance.random() < 0.5 else GOOD

    commands = [a_command(request=str(number)) for number in range(30)]
    with reached(executor, fault) as (_, client):
        ticks = iter(range(0, 10**9, 10))
        executors = Executors(lambda: [client], clock=lambda: float(next(ticks)))
        for command in commands:
            placed = ""

            def place(name: str) -> None:
                nonlocal placed
                placed = name

            for _ in range(200):
                if isinstance(executors.deliver(command, placed, place), Delivered):
                    break
            else:
                pytest.fail("never delivered")
    assert sorted(run.id for run in executor.store.runs()) == sorted(one.run_id for one in commands)


def test_a_log_that_is_read_by_offset_through_a_line_cut_a_hundred_times_is_whole(executor: Served) -> None:
    run_id, _ = training(executor, whole := NOISE.randbytes(2_000_000))
    ends(executor, run_id)
    cuts = [Fault(answer=NOISE.randrange(1, 30_000)) for _ in range(2 * CUTS)]
    with reached(executor, in_turn(cuts, only="/log?")) as (_, client):
        text, failed = b"", 0
        while True:
            try:
                chunk = client.log(run_id, offset=len(text), limit=64 * 1024)
            except Unreachable:
                failed += 1
                continue
            assert chunk.offset == len(text)
            text += chunk.data
            if chunk.complete:
                break
    assert failed == CUTS
    assert hashlib.sha256(text).hexdigest() == hashlib.sha256(whole).hexdigest()


def test_a_log_that_is_followed_live_through_a_line_cut_a_hundred_times_is_whole(executor: Served) -> None:
    whole = NOISE.randbytes(4_000_000)
    run_id, folder = training(executor)
    cuts = [Fault(answer=NOISE.randrange(1, 120_000)) for _ in range(CUTS)]

    def write() -> None:
        with folder.log.open("ab", buffering=0) as log:
            for begin in range(0, len(whole), 40_000):
                log.write(whole[begin : begin + 40_000])
                executor.tell(run_id)
        ends(executor, run_id)

    writer = threading.Thread(target=write)
    with reached(executor, in_turn(cuts, only="/stream?")) as (line, client):
        writer.start()
        text = b"".join(
            frame.data for frame in client.follow(run_id, until_log=True) if isinstance(frame, LogFrame)
        )
        writer.join()
        assert len([asked for asked in line.asked if asked.endswith("/stream")]) > CUTS
    assert hashlib.sha256(text).hexdigest() == hashlib.sha256(whole).hexdigest()


def training(executor: Served, log: bytes = b"") -> tuple[str, RunDir]:
    """A run that trains, with this log so far."""
    with reached(executor, lambda _: GOOD) as (_, client):
        run = client.send(a_command())
    _, folder = executor.claim()
    folder.log.write_bytes(log)
    executor.store.advance(run.id, Prepared())
    executor.tell(run.id)
    return run.id, folder


def ends(executor: Served, run_id: str) -> None:
    """Its command ends; nothing is written to its log any more."""
    executor.store.advance(run_id, Exited(Reason.EXITED, 0))
    executor.tell(run_id)
