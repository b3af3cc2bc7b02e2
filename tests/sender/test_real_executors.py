"""A sender and several real executors: signed HTTP over sockets that are counted and cut."""

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from cable import Cable
from pushtrain.core.lifecycle import Exited, Prepared, Requeued
from pushtrain.core.values.command import TrainCommand
from pushtrain.core.values.jobspec import Resources
from pushtrain.core.values.run import Run
from pushtrain.core.values.states import Outcome, Reason, State
from pushtrain.plumbing.http.client import ExecutorClient
from pushtrain.plumbing.sqlite.store import Store
from pushtrain.sender import board
from pushtrain.sender.rounds import Rounds
from pushtrain.testing import SENDER, Clock, a_command, a_gpu, a_spec, eventually
from served import Served, served

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
JOB = a_spec(resources=Resources(gpus=1, gpu_memory=16 << 30))


class Now(Clock):
    """The time of day, so that signatures hold while a test goes on."""

    def __call__(self) -> float:
        return time.time()


class Lab:
    """An executor with one GPU, at the end of a cable."""

    def __init__(self, executor: Served) -> None:
        self.executor = executor
        self.cable = Cable(executor.port)
        self.client = ExecutorClient(self.cable.url, executor.key.public_key(), KEY, timeout=5)
        self.at_work: Run | None = None

    def keep_busy(self) -> None:
        """Somebody else's run takes the GPU."""
        command = a_command(request="somebody's", job=JOB)
        self.executor.store.accept(
            command, sender=SENDER, raw=b"{}", headers={}, nonce="n", nonce_expires=9e9, queue_limit=9
        )
        self.start()

    def prepare(self) -> None:
        claimed = self.executor.store.claim(
            slots=1, gpus=self.executor.service.gpus, executor=self.executor.service.settings.executor.name
        )
        assert claimed
        self.at_work = claimed[0]
        self.executor.tell(self.at_work.id)

    def start(self) -> None:
        self.prepare()
        assert self.at_work
        self.executor.store.advance(self.at_work.id, Prepared(), token=self.at_work.token)
        self.executor.tell(self.at_work.id)

    def fail(self, reason: Reason) -> None:
        """The machine was not ready for what it was preparing."""
        run = self.at_work
        assert run
        store = self.executor.store
        (attempt,) = store.attempts(run.id)
        ended = attempt.model_copy(update={"reason": reason, "ended_at": time.time()})
        later = Requeued(reason, "No space left.", time.time() + 600)
        store.advance(run.id, later, token=run.token, attempt=ended)
        self.executor.tell(run.id)

    def get_free(self) -> None:
        assert self.at_work
        ended = Exited(Reason.EXITED, 0)
        self.executor.store.advance(self.at_work.id, ended, token=self.at_work.token)
        self.executor.tell(self.at_work.id)

    def run(self, run_id: str) -> Run:
        return self.executor.store.run(run_id)


@contextlib.contextmanager
def lab(folder: Path, name: str, *, memory: int = 24) -> Iterator[Lab]:
    with served(folder / name, name=name, gpus=(a_gpu(memory=memory << 30),), clock=Now()) as executor:
        executor.authorized.add(KEY.public_key())
        one = Lab(executor)
        try:
            yield one
        finally:
            one.client.close()
            one.cable.end()


class Sender:
    def __init__(self, folder: Path, *labs: Lab) -> None:
        self.folder = folder
        self.labs = list(labs)
        self.store = Store(folder / "sender.db")
        self.rounds = self.begin()

    def begin(self) -> Rounds:
        self.rounds = Rounds(
            self.store, lambda: [(one.client, None) for one in self.labs], jitter=lambda: 0.0
        )
        return self.rounds

    def push(self, command: TrainCommand) -> str:
        self.store.settle_push(None, [command], "pushed")
        self.rounds.wake()
        return command.run_id

    def play(self, story: Callable[[], Any]) -> None:
        async def both() -> None:
            task = asyncio.create_task(self.rounds.run())
            try:
                await story()
            finally:
                task.cancel()
                await asyncio.wait([task])

        asyncio.run(both())


async def listening(sender: Sender, to: Lab, *, beyond: int = 0) -> int:
    """Wait until the sender hears an executor on a stream with a number beyond this one; the number."""
    entry = sender.rounds.board._entries[to.client.id]
    return await eventually(lambda: entry.stream if entry.live and entry.stream > beyond else 0)


@pytest.fixture
def sender(tmp_path: Path) -> Iterator[Sender]:
    made = Sender(tmp_path)
    yield made
    made.store.close()


@pytest.mark.slow
def test_one_is_dead_one_is_busy_one_is_too_small_and_the_line_is_cut(
    sender: Sender, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(board, "_FIRST_PAUSE", 0.1)
    with (
        lab(tmp_path, "dead") as dead,
        lab(tmp_path, "busy") as busy,
        lab(tmp_path, "small", memory=8) as small,
    ):
        busy.keep_busy()
        dead.cable.end()
        sender.labs = [dead, busy, small]

        async def story() -> None:
            run_id = sender.push(a_command(job=JOB))
            words = ("busy is busy; ", "No connection to the executor", "small has 0 GPUs of at least")
            await eventually(lambda: all(word in sender.store.outgoing(run_id).detail for word in words))
            for _ in range(3):
                number = await listening(sender, busy)
                busy.cable.cut()
                assert await listening(sender, busy, beyond=number) > number
            await eventually(lambda: "busy is busy" in sender.store.outgoing(run_id).detail)
            begun = time.monotonic()
            busy.get_free()
            await eventually(lambda: sender.store.outgoing(run_id).state in {"delivered", "started"})
            assert time.monotonic() - begun < 1
            assert busy.run(run_id).state is State.QUEUED
            busy.start()
            await eventually(lambda: sender.store.outgoing(run_id).state == "started")
            await eventually(lambda: not sender.rounds._watches)
            heard = [one.cable.heard for one in sender.labs]
            await asyncio.sleep(0.5)
            assert [one.cable.heard for one in sender.labs] == heard

        sender.play(story)


@pytest.mark.slow
def test_a_run_is_recalled_sent_elsewhere_and_comes_back_without_being_doubled(
    sender: Sender, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pushtrain.sender.placement.RECALL_AFTER", 0.1)
    with lab(tmp_path, "first") as first, lab(tmp_path, "second") as second:
        first.keep_busy()
        sender.labs = [first]

        async def ahead() -> None:
            run_id = sender.push(a_command(job=JOB))
            await eventually(lambda: sender.store.outgoing(run_id).state == "delivered")

        async def moved() -> None:
            run_id = a_command(job=JOB).run_id
            await eventually(lambda: sender.store.outgoing(run_id).executor == second.client.id)
            await eventually(lambda: sender.store.outgoing(run_id).state in {"delivered", "started"})
            gone, here = first.run(run_id), second.run(run_id)
            assert (gone.outcome, here.state, here.command.attempt) == (Outcome.MOVED, State.QUEUED, 1)
            assert not here.command.possible_duplicate

        async def back() -> None:
            """The second one is taken by its owner; the first becomes free."""
            run_id = a_command(job=JOB).run_id
            first.get_free()
            await eventually(lambda: first.run(run_id).state is State.QUEUED)
            assert second.run(run_id).outcome is Outcome.MOVED
            first.start()
            assert first.run(run_id).attempt == 3
            await eventually(lambda: sender.store.outgoing(run_id).state == "started")
            assert len(first.executor.store.attempts(run_id)) == 1

        sender.play(ahead)
        sender.labs = [first, second]
        sender.begin()
        sender.play(moved)
        sender.begin()
        taken = a_command(request="the owner's", job=JOB)
        second.executor.store.accept(
            taken, sender=SENDER, raw=b"{}", headers={}, nonce="o", nonce_expires=9e9, queue_limit=9
        )
        sender.play(back)


@pytest.mark.slow
def test_a_run_goes_on_elsewhere_when_its_machine_is_not_ready_for_it(
    sender: Sender, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its disk was full, or it had no network: for a day the run stayed there, whoever else was free."""
    monkeypatch.setattr("pushtrain.sender.placement.RECALL_AFTER", 0.1)
    with lab(tmp_path, "first") as first, lab(tmp_path, "second") as second:
        sender.labs = [first]

        async def ahead() -> None:
            run_id = sender.push(a_command(job=JOB))
            await eventually(lambda: sender.store.outgoing(run_id).state == "delivered")
            first.prepare()
            sender.labs.append(second)
            sender.rounds._listed_at = None
            sender.rounds.wake()
            await eventually(lambda: first.client.id in sender.rounds._watches, what="the stream")
            first.fail(Reason.STORAGE)
            await eventually(lambda: sender.store.outgoing(run_id).executor == second.client.id)
            await eventually(lambda: sender.store.outgoing(run_id).state == "delivered")
            gone, here = first.run(run_id), second.run(run_id)
            assert (gone.outcome, here.state, here.command.attempt) == (Outcome.MOVED, State.QUEUED, 1)
            assert here.command.checkpoint is not None
            (told,) = here.command.checkpoint.segments
            assert (told.attempt, told.executor, told.reason) == (1, "first", Reason.STORAGE)
            assert not here.command.possible_duplicate

        sender.play(ahead)


@pytest.mark.slow
def test_a_sender_that_died_between_release_and_sending_goes_on(sender: Sender, tmp_path: Path) -> None:
    with lab(tmp_path, "first") as first, lab(tmp_path, "second") as second:
        first.keep_busy()
        sender.labs = [first]

        async def ahead() -> None:
            run_id = sender.push(a_command(job=JOB))
            await eventually(lambda: sender.store.outgoing(run_id).state == "delivered")

        sender.play(ahead)
        run_id = a_command(job=JOB).run_id
        sender.store.outbox_recall(run_id)
        first.client.release(run_id, 0)  # and here it died, before it wrote the answer down
        sender.labs = [first, second]
        sender.begin()

        async def story() -> None:
            await eventually(lambda: sender.store.outgoing(run_id).state in {"delivered", "started"})
            assert sender.store.outgoing(run_id).executor == second.client.id
            assert second.run(run_id).state is State.QUEUED

        sender.play(story)
        assert first.run(run_id).outcome is Outcome.MOVED
        assert len(first.executor.store.events(run_id)) == 2
