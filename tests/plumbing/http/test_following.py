"""A run followed live: at the real door, over lines that break, and against lines that lie."""

import contextlib
import hashlib
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from breaking import OTHER, SENDER, Cuts, to
from starlette.types import ASGIApp, Receive, Scope, Send

from pushtrain.core.errors import (
    Busy,
    NotFound,
    StorageError,
    Unreachable,
)
from pushtrain.core.lifecycle import Exited, Prepared, Published, Requeued
from pushtrain.core.values.run import LogChunk, RunView
from pushtrain.core.values.states import Reason
from pushtrain.core.wire.frames import BeatFrame, EndFrame, LogFrame, ViewFrame
from pushtrain.core.wire.signing import sign_response
from pushtrain.executor.api import stream
from pushtrain.plumbing.attempts.rundir import RunDir
from pushtrain.plumbing.http.client import ExecutorClient
from pushtrain.testing import a_command, wait_until
from served import Served, in_a_thread, served


@pytest.fixture
def executor(tmp_path: Path) -> Iterator[Served]:
    with served(tmp_path / "state") as one:
        one.authorized.add(SENDER.public_key(), name="ada")
        yield one


@pytest.fixture
def client(executor: Served) -> Iterator[ExecutorClient]:
    one = ExecutorClient(executor.url, executor.key.public_key(), SENDER, clock=executor.clock)
    yield one
    one.close()


def test_a_run_is_followed_from_queue_to_results(executor: Served, client: ExecutorClient) -> None:
    run = client.send(a_command())
    frames = client.follow(run.id)
    first = next(frames)
    assert isinstance(first, ViewFrame)
    assert first.view.run.state == "queued"
    _, folder = executor.claim()
    assert _next_view(frames).run.state == "preparing"
    executor.store.advance(run.id, Prepared())
    executor.tell(run.id)
    assert _next_view(frames).run.state == "running"
    folder.log.write_bytes(b"epoch 1\n")
    assert _next_log(frames).data == b"epoch 1\n"
    with folder.log.open("ab") as log:
        log.write(b"epoch 2\n")
    assert _next_log(frames).data == b"epoch 2\n"
    executor.store.advance(run.id, Exited(Reason.EXITED, 0))
    executor.tell(run.id)
    assert _next_view(frames).run.outcome == "succeeded"
    executor.store.advance(run.id, Published("c" * 40, "runs/x"))
    executor.tell(run.id)
    *_, last = frames
    assert isinstance(last, EndFrame)
    assert last.view.run.result_commit == "c" * 40
    assert last.view.run.token == ""


def _next_view(frames: Iterator[LogFrame | ViewFrame | EndFrame]) -> RunView:
    frame = next(frames)
    assert isinstance(frame, ViewFrame), frame
    return frame.view


def _next_log(frames: Iterator[LogFrame | ViewFrame | EndFrame]) -> LogFrame:
    frame = next(frames)
    assert isinstance(frame, LogFrame), frame
    return frame


def _running(executor: Served, client: ExecutorClient) -> tuple[str, RunDir]:
    run = client.send(a_command())
    _, folder = executor.claim()
    executor.store.advance(run.id, Prepared())
    executor.tell(run.id)
    return run.id, folder


def _end(executor: Served, run_id: str, *, publish: bool = True) -> None:
    executor.store.advance(run_id, Exited(Reason.EXITED, 0))
    if publish:
        executor.store.advance(run_id, Published("c" * 40, "x"))
    executor.tell(run_id)


def test_each_new_line_reaches_the_reader_while_the_run_goes_on(
    executor: Served, client: ExecutorClient
) -> None:
    run_id, folder = _running(executor, client)
    frames = client.follow(run_id)
    next(frames)
    with folder.log.open("ab", buffering=0) as log:
        for number in range(10):
            log.write(b"line %d\n" % number)
            assert _next_log(frames).data == b"line %d\n" % number
    frames.close()  # type: ignore[attr-defined]


def test_a_log_that_was_there_before_is_read_whole_and_from_any_offset(
    executor: Served, client: ExecutorClient
) -> None:
    run_id, folder = _running(executor, client)
    content = hashlib.shake_256(b"log").digest(3_000_000)
    folder.log.write_bytes(content)
    _end(executor, run_id)
    for offset in (0, 1, 262_144, 2_999_999, 3_000_000):
        got = b"".join(f.data for f in client.follow(run_id, offset=offset) if isinstance(f, LogFrame))
        assert got == content[offset:]


def test_the_log_alone_may_be_enough(executor: Served, client: ExecutorClient) -> None:
    run_id, folder = _running(executor, client)
    folder.log.write_bytes(b"all")
    _end(executor, run_id, publish=False)
    frames = list(client.follow(run_id, until_log=True))
    assert isinstance(frames[-1], EndFrame)
    assert frames[-1].view.run.state == "publishing"


def test_a_run_that_never_started_ends_its_stream(executor: Served, client: ExecutorClient) -> None:
    run = client.send(a_command())
    client.cancel(run.id)
    assert isinstance(list(client.follow(run.id, until_log=True))[-1], EndFrame)
    executor.store.advance(run.id, Published("c" * 40, "x"))
    assert isinstance(list(client.follow(run.id))[-1], EndFrame)


def test_a_second_attempts_log_follows_the_first(executor: Served, client: ExecutorClient) -> None:
    run_id, folder = _running(executor, client)
    folder.log.write_bytes(b"first")
    frames = client.follow(run_id)
    next(frames)
    assert _next_log(frames).data == b"first"
    executor.store.advance(run_id, Requeued(Reason.LOST))
    _, second = executor.claim()
    second.log.write_bytes(b"second")
    executor.store.advance(run_id, Prepared())
    _end(executor, run_id)
    logs = [frame for frame in frames if isinstance(frame, LogFrame)]
    assert [(frame.attempt, frame.offset, frame.data) for frame in logs] == [(2, 0, b"second")]
    both = [f.data for f in client.follow(run_id, attempt=1) if isinstance(f, LogFrame)]
    assert both == [b"first", b"second"]


def test_a_silent_run_is_kept_alive_and_beats_are_no_news(
    executor: Served, client: ExecutorClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "BEAT", 0.05)
    beats: list[int] = []

    def beat() -> BeatFrame:
        beats.append(1)
        return BeatFrame()

    monkeypatch.setattr(stream, "BeatFrame", beat)
    run_id, _ = _running(executor, client)
    frames = client.follow(run_id)
    next(frames)

    def end() -> None:
        wait_until(lambda: len(beats) > 3)
        _end(executor, run_id)

    thread = threading.Thread(target=end)
    thread.start()
    *changes, last = [type(frame).__name__ for frame in frames]
    assert last == "EndFrame"
    assert set(changes) == {"ViewFrame"}  # beats are not among them; a change may be seen half-way
    assert len(changes) <= 2
    thread.join(20)


def test_a_lost_notification_costs_no_more_than_a_beat(
    executor: Served, client: ExecutorClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "BEAT", 0.05)
    run = client.send(a_command())
    frames = client.follow(run.id)
    next(frames)
    executor.store.request_cancel(run.id, by="nobody who tells")
    assert _next_view(frames).run.outcome == "cancelled"
    frames.close()  # type: ignore[attr-defined]


def test_a_reader_who_leaves_frees_its_place(
    executor: Served, client: ExecutorClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "MAX_STREAMS_PER_KEY", 2)
    run_id, _ = _running(executor, client)
    readers = [client.follow(run_id) for _ in range(2)]
    for reader in readers:
        next(reader)
    with pytest.raises(Busy, match="2 live streams"):
        next(client.follow(run_id))
    readers[0].close()  # type: ignore[attr-defined]

    def again() -> bool:
        with contextlib.suppress(Busy):
            other = client.follow(run_id)
            next(other)
            other.close()  # type: ignore[attr-defined]
            return True
        return False

    wait_until(again)
    assert executor.service._subscribers
    readers[1].close()  # type: ignore[attr-defined]
    wait_until(lambda: not executor.service._subscribers, what="nobody watches any more")


def test_a_reader_who_does_not_read_holds_up_nobody_but_himself(
    executor: Served, client: ExecutorClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id, folder = _running(executor, client)
    with folder.log.open("wb") as log:
        log.truncate(200_000_000)
    read: list[int] = []
    real = executor.service.shown.log_chunk

    def counted(name: str, attempt: int, offset: int, limit: int) -> LogChunk:
        read.append(limit)
        return real(name, attempt, offset, limit)

    monkeypatch.setattr(executor.service.shown, "log_chunk", counted)
    monkeypatch.setattr("pushtrain.plumbing.attempts.log.hole", lambda *_: None)
    slow = client.follow(run_id)
    next(slow)
    next(slow)
    quiet = [-1]

    def settled() -> bool:
        quiet.append(len(read))
        return quiet[-1] == quiet[-2] and len(read) > 1

    wait_until(settled, every=0.3)
    assert sum(read) < 50_000_000, "the rest waits for the reader"
    assert client.challenge().capacity.running == 1
    slow.close()  # type: ignore[attr-defined]
    wait_until(lambda: not executor.service._subscribers, what="nobody watches any more")


def test_a_stream_that_the_executor_breaks_off_is_taken_up_again(
    executor: Served, client: ExecutorClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id, folder = _running(executor, client)
    content = bytes(range(256)) * 4000
    folder.log.write_bytes(content)
    _end(executor, run_id)
    real = executor.service.shown.log_chunk
    calls: list[int] = []

    def flaky(*arguments: object) -> object:
        calls.append(1)
        if len(calls) % 3 == 0:
            raise StorageError("I/O error.")
        return real(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(executor.service.shown, "log_chunk", flaky)
    again = ExecutorClient(
        executor.url, executor.key.public_key(), SENDER, clock=executor.clock, pause=lambda _: None
    )
    assert b"".join(f.data for f in again.follow(run_id) if isinstance(f, LogFrame)) == content


@pytest.fixture
def cut(executor: Served) -> Iterator[Callable[[int], Cuts]]:
    made: list[Cuts] = []

    def make(after: int) -> Cuts:
        made.append(Cuts(executor.port, after))
        return made[-1]

    yield make
    for one in made:
        one.close()


@pytest.mark.parametrize("after", [100_000, 400_001, 999_999])
def test_each_byte_arrives_once_over_a_line_that_keeps_breaking(
    executor: Served, client: ExecutorClient, cut: Callable[[int], Cuts], after: int
) -> None:
    run_id, folder = _running(executor, client)
    content = hashlib.shake_256(b"log").digest(2_000_000)
    folder.log.write_bytes(content)
    _end(executor, run_id)
    line = cut(after)
    pauses: list[float] = []
    reader = ExecutorClient(
        line.url, executor.key.public_key(), SENDER, clock=executor.clock, pause=pauses.append
    )
    got = bytearray()
    for frame in reader.follow(run_id):
        if isinstance(frame, LogFrame):
            assert frame.offset == len(got)
            got += frame.data
    assert bytes(got) == content
    assert line.connections > 2
    assert pauses
    assert set(pauses) == {0.2}, "each connection brought something"


def test_patience_ends_with_a_line_that_brings_nothing_new(
    executor: Served, client: ExecutorClient, cut: Callable[[int], Cuts]
) -> None:
    run_id, folder = _running(executor, client)
    folder.log.write_bytes(bytes(1_000_000))
    pauses: list[float] = []
    reader = ExecutorClient(
        cut(20_000).url,
        executor.key.public_key(),
        SENDER,
        clock=executor.clock,
        patience=30,
        pause=pauses.append,
    )
    with pytest.raises(Unreachable, match="no whole answer"):
        list(reader.follow(run_id))
    assert pauses == [0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 10, 10]


def test_views_are_not_repeated_after_a_cut(
    executor: Served, client: ExecutorClient, cut: Callable[[int], Cuts]
) -> None:
    run_id, folder = _running(executor, client)
    folder.log.write_bytes(bytes(1_000_000))
    _end(executor, run_id)
    line = cut(500_000)
    reader = ExecutorClient(
        line.url, executor.key.public_key(), SENDER, clock=executor.clock, pause=lambda _: None
    )
    kinds = [frame.kind for frame in reader.follow(run_id)]
    assert kinds.count("view") == 1
    assert kinds[-1] == "end"


def test_nobody_there_at_first_is_said_at_once() -> None:
    pauses: list[float] = []
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        with pytest.raises(Unreachable):
            next(to(f"http://127.0.0.1:{held.getsockname()[1]}", pauses=pauses).follow("a"))
    assert pauses == []


def test_following_a_run_that_is_not_there_says_so(client: ExecutorClient) -> None:
    with pytest.raises(NotFound):
        next(client.follow("0" * 32))


def _forged_stream(line: Callable[[bytes], bytes]) -> ASGIApp:
    """A stream whose head the executor signed, and whose lines somebody touched."""

    async def app(scope: Scope, _receive: Receive, send: Send) -> None:
        asked = dict(scope["headers"])[b"signature"].decode()
        headers = {"content-type": "application/x-ndjson"}
        headers |= sign_response(200, headers, None, key=OTHER, request=asked, now=1)
        pairs = [(name.encode(), value.encode()) for name, value in headers.items()]
        await send({"type": "http.response.start", "status": 200, "headers": pairs})
        await send({"type": "http.response.body", "body": line(asked.encode())})

    return app


@pytest.mark.parametrize("line", [b'{"kind":"beat"}\n', b"\n", b"nonsense\n", b"no end", b""])
def test_a_line_that_somebody_touched_is_no_news(line: bytes) -> None:
    with in_a_thread(_forged_stream(lambda _: line)) as port, pytest.raises(Unreachable, match="live stream"):
        list(to(f"http://127.0.0.1:{port}").follow("a"))


def test_a_line_without_end_is_not_kept_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pushtrain.plumbing.http.client.MAX_LINE", 1000)
    app = _forged_stream(lambda _: b"x" * 100_000)
    with in_a_thread(app) as port, pytest.raises(Unreachable, match="without an end"):
        list(to(f"http://127.0.0.1:{port}").follow("a"))
