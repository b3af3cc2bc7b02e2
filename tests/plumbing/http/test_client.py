"""The client against the real door, against impostors, and over lines that break."""

import contextlib
import hashlib
import json
import re
import socket
import socketserver
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from starlette.types import ASGIApp, Receive, Scope, Send

from pushtrain.core import errors
from pushtrain.core.errors import (
    BeyondLimits,
    Busy,
    ConfigError,
    Conflict,
    DataError,
    Draining,
    Forbidden,
    NotFound,
    PushtrainError,
    Refused,
    StorageError,
    TooLarge,
    Unauthorized,
    Unreachable,
    UsageError,
)
from pushtrain.core.frames import BeatFrame, EndFrame, LogFrame, ViewFrame
from pushtrain.core.lifecycle import Exited, Prepared, Published, Requeued
from pushtrain.core.run import Artifact, LogChunk, Run, RunView
from pushtrain.core.signing import fingerprint, public_text, sign_response
from pushtrain.core.states import Reason
from pushtrain.core.wire import ErrorBody
from pushtrain.executor.api import stream
from pushtrain.plumbing.attempts.rundir import RunDir
from pushtrain.plumbing.http.client import ExecutorClient
from pushtrain.plumbing.keys.authorized import Scope as Right
from pushtrain.testing import Clock, a_command, a_spec, wait_until
from served import Served, in_a_thread, served

SENDER = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
OTHER = Ed25519PrivateKey.from_private_bytes(bytes(range(32, 64)))


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


def to(
    url: str, *, patience: float = 600, timeout: float = 20, pauses: list[float] | None = None
) -> ExecutorClient:
    """A client that expects the key `OTHER` at a URL, believes that it is there, and does not really wait."""
    waited = [] if pauses is None else pauses
    client = ExecutorClient(
        url,
        OTHER.public_key(),
        SENDER,
        timeout=timeout,
        patience=patience,
        clock=Clock(),
        pause=waited.append,
        ticks=lambda: 0.0,
    )
    client._proven_at = 0.0
    return client


# --- asking -----------------------------------------------------------------------------------------------


def test_a_command_goes_in_and_shows_up(executor: Served, client: ExecutorClient) -> None:
    run = client.send(a_command())
    assert run == executor.store.run(run.id)
    assert client.send(a_command()) == run
    assert [found.id for found in client.runs(find="main")] == [run.id]
    assert client.runs(find="other & strange") == []
    assert client.view(run.id).run == run
    assert client.cancel(run.id).cancel_requested is False
    assert client.challenge().card.public_url == executor.url


def test_connections_are_kept(executor: Served, cut: "Callable[[int], _Cuts]") -> None:
    line = cut(10_000_000)
    reader = ExecutorClient(line.url, executor.key.public_key(), SENDER, clock=executor.clock)
    for _ in range(5):
        reader.challenge()
        with pytest.raises(NotFound):
            reader.view("0" * 32)
    assert line.connections == 1


def test_many_threads_share_a_client(executor: Served, client: ExecutorClient) -> None:
    found: list[Run] = []
    threads = [
        threading.Thread(target=lambda i=i: found.append(client.send(a_command(request=f"r{i}"))))
        for i in range(16)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len({run.id for run in found}) == 16
    assert len(executor.store.runs()) == 16


def test_what_the_executor_says_comes_back_in_its_class(executor: Served, client: ExecutorClient) -> None:
    with pytest.raises(NotFound):
        client.view("0" * 32)
    with pytest.raises(Forbidden, match="does not serve the repository"):
        client.send(a_command(repository="github.com/octo/other"))
    run = client.send(a_command())
    executor.claim()
    executor.store.advance(run.id, Prepared())
    executor.store.advance(run.id, Exited(Reason.EXITED, 0))
    with pytest.raises(Conflict, match="has ended already"):
        client.cancel(run.id)
    executor.authorized.add(SENDER.public_key(), scopes=[Right.SEND])
    with pytest.raises(Forbidden, match="may not read"):
        client.runs()


def test_a_stranger_is_told_how_to_be_authorised(executor: Served) -> None:
    stranger = ExecutorClient(executor.url, executor.key.public_key(), OTHER, clock=executor.clock)
    with pytest.raises(Unauthorized, match="does not know this machine's key") as told:
        stranger.challenge()
    assert f"`pushtrain key authorize {public_text(OTHER.public_key())}`" in told.value.mend


def test_a_clock_that_is_wrong_is_named(executor: Served) -> None:
    late = Clock()
    late.advance(-100)
    slow = ExecutorClient(executor.url, executor.key.public_key(), SENDER, clock=late)
    with pytest.raises(Unauthorized, match="signed 100 s ago"):
        slow.challenge()


def test_a_command_over_the_limit_is_not_even_sent(client: ExecutorClient) -> None:
    with pytest.raises(TooLarge, match="larger than"):
        client.send(a_command(job=a_spec(setup=("x" * 99_000,) * 12)))


def test_every_error_class_travels_and_comes_back() -> None:
    classes = [PushtrainError]
    for kind in classes:
        classes += kind.__subclasses__()
    own = [kind for kind in classes if kind.__module__ == errors.__name__]
    for kind in own:
        back = ErrorBody.of(kind("What.", mend="Mend.")).raised(kind.status)
        assert type(back) is kind
        assert (back.message, back.mend) == ("What.", "Mend.")


def test_the_protocols_page_tells_every_error_that_travels() -> None:
    page = (Path(__file__).parents[3] / "docs/wire-protocol.md").read_text()
    rows = re.findall(r"^\| `([a-z-]+)` \| ([0-9, ]+) \| ([0-9]+) \|", page, flags=re.MULTILINE)
    told = {code: (statuses.split(", ")[0], exit_code) for code, statuses, exit_code in rows}
    known = (Unauthorized, UsageError, Forbidden, Refused, NotFound, Conflict, TooLarge, Busy, StorageError)
    for kind in (*known, PushtrainError, ConfigError, BeyondLimits, Draining):
        assert told.pop(kind.code) == (str(kind.status), str(kind.exit_code))
    assert told == {}


def test_an_error_of_a_newer_executor_is_raised_by_its_status() -> None:
    body = ErrorBody.model_validate({"error": {"code": "never-heard-of", "message": "What."}})
    assert type(body.raised(409)) is Conflict
    assert type(body.raised(499)) is PushtrainError


# --- addresses --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url",
    [
        "",
        "lab.example",
        "ftp://lab.example",
        "http://",
        "http://u:secret@lab.example",
        "http://lab/x",
        "http://lab?x",
        "http://lab:port",
    ],
)
def test_what_is_no_address_is_refused_without_repeating_a_password(url: str) -> None:
    with pytest.raises(UsageError, match="no executor's address") as caught:
        to(url)
    assert "secret" not in str(caught.value)


def test_a_closed_port_means_that_nothing_was_sent() -> None:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{held.getsockname()[1]}"
        with pytest.raises(Unreachable, match="Connection refused") as caught:
            to(url).send(a_command())
    assert caught.value.sent is False


def test_a_name_that_is_not_there_means_that_nothing_was_sent() -> None:
    with pytest.raises(Unreachable, match="No connection") as caught:
        to("http://executor.invalid").challenge()
    assert caught.value.sent is False


def test_a_proxy_of_the_environment_is_used_but_never_for_this_machine(
    executor: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[bytes] = []

    def refuse(data: bytes) -> bytes:
        asked.append(data)
        return b"HTTP/1.1 502 no\r\ncontent-length: 0\r\n\r\n"

    with _impostor(refuse) as proxy:
        monkeypatch.setenv("http_proxy", proxy)
        monkeypatch.setenv("no_proxy", "")
        mine = ExecutorClient(executor.url, executor.key.public_key(), SENDER, clock=executor.clock)
        mine.challenge()
        named = executor.url.replace("127.0.0.1", "localhost")
        ExecutorClient(named, executor.key.public_key(), SENDER, clock=executor.clock).challenge()
        assert asked == []
        with pytest.raises(Unreachable, match="not signed by its key"):
            to("http://lab.example").challenge()
        assert asked[0].startswith(b"POST http://lab.example/v1/challenge ")
        monkeypatch.setenv("no_proxy", "lab.invalid")
        with pytest.raises(Unreachable, match="No connection"):
            to("http://lab.invalid").challenge()
        assert len(asked) == 1


def test_a_proxy_that_is_down_means_that_nothing_was_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    with pytest.raises(Unreachable) as caught:
        to("https://lab.example").challenge()
    assert caught.value.sent is False


# --- impostors --------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _impostor(answer: Callable[[bytes], bytes]) -> Iterator[str]:
    """A server of raw bytes: gives for each request what `answer` returns, then hangs up."""

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            self.request.settimeout(20)
            data = b""
            while b"\r\n\r\n" not in data:
                piece = self.request.recv(65536)
                if not piece:
                    return
                data += piece
            self.request.sendall(answer(data))

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join(20)


def _http(status: str, body: bytes, *, kind: str = "text/html", more: str = "") -> bytes:
    head = f"HTTP/1.1 {status}\r\ncontent-type: {kind}\r\ncontent-length: {len(body)}\r\n{more}\r\n"
    return head.encode() + body


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(_http("200 OK", b"<html>Log in to the hotel"), id="captive portal"),
        pytest.param(_http("202 Accepted", b"{}", kind="application/json"), id="unsigned 202"),
        pytest.param(_http("404 Not Found", b"Tunnel lab.example not found"), id="recycled tunnel"),
        pytest.param(_http("302 Found", b"", more="location: http://127.0.0.1:9/\r\n"), id="redirect"),
        pytest.param(_http("401 no", b"{}", more="signature: x\r\nsignature-input: y\r\n"), id="noise"),
        pytest.param(_http("200 OK", b"", more="signature: a\r\nsignature: a\r\n"), id="signed twice"),
        pytest.param(_http("503 busy", b"Service Unavailable"), id="our own server's limit"),
    ],
)
def test_an_answer_without_the_executors_signature_is_none(answer: bytes) -> None:
    with _impostor(lambda _: answer) as url:
        asks: list[Callable[[], object]] = [
            lambda: to(url).send(a_command()),
            lambda: to(url).challenge(),
            lambda: next(to(url).follow("a")),
        ]
        for ask in asks:
            with pytest.raises(Unreachable, match="is not the executor") as caught:
                ask()
            assert caught.value.sent is True
            assert "hotel" not in str(caught.value)


@pytest.mark.parametrize(
    "answer", [b"", b"SSH-2.0-OpenSSH_9.2\r\n", b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf"]
)
def test_a_line_that_breaks_may_have_carried_the_request(answer: bytes) -> None:
    asked: list[bytes] = []

    def reply(data: bytes) -> bytes:
        asked.append(data)
        return answer

    with _impostor(reply) as url, pytest.raises(Unreachable) as caught:
        to(url).send(a_command())
    assert caught.value.sent is True
    assert len(asked) == 2, "asked once more, as a kept connection might have been closed meanwhile"
    assert _nonce(asked[0]) != _nonce(asked[1]), "signed anew"


def _nonce(request: bytes) -> bytes:
    return request.partition(b'nonce="')[2].partition(b'"')[0]


def test_an_executor_that_never_answers_runs_into_the_timeout() -> None:
    release = threading.Event()
    with _impostor(lambda _: bytes(release.wait(20))) as url:
        with pytest.raises(Unreachable, match="timed out") as caught:
            to(url, timeout=0.1).send(a_command())
        release.set()
    assert caught.value.sent is True


def test_an_endless_answer_is_not_read_to_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pushtrain.plumbing.http.connection._MOST", 1000)
    with (
        _impostor(lambda _: _http("200 OK", b"x" * 100_000)) as url,
        pytest.raises(Unreachable, match="more than"),
    ):
        to(url).challenge()


def _signing(
    status: int, body: bytes, *, bound: bool = True, key: Ed25519PrivateKey = OTHER
) -> Callable[[bytes], bytes]:
    """Answers that the right key signed, whatever they say."""

    def answer(request: bytes) -> bytes:
        lines = request.partition(b"\r\n\r\n")[0].decode().split("\r\n")[1:]
        asked = dict(line.split(": ", 1) for line in lines)["signature"] if bound else None
        headers = {"content-type": "application/json"}
        headers |= sign_response(status, headers, body, key=key, request=asked, now=1)
        more = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        return f"HTTP/1.1 {status} x\r\n{more}content-length: {len(body)}\r\n\r\n".encode() + body

    return answer


def test_a_signed_answer_that_is_not_understood_asks_for_the_versions() -> None:
    for status, body in ((200, b"{}"), (404, b"{}"), (500, b"")):
        with (
            _impostor(_signing(status, body)) as url,
            pytest.raises(Unreachable, match="answered with") as caught,
        ):
            to(url).challenge()
        assert "--version" in caught.value.mend


def test_an_acceptance_of_another_run_is_none(client: ExecutorClient) -> None:
    other = client.send(a_command(request="other")).model_dump_json().encode()
    with _impostor(_signing(202, other)) as url, pytest.raises(Unreachable, match="another run"):
        to(url).send(a_command())


def test_a_refusal_that_is_bound_to_no_request_is_believed_only_about_keys() -> None:
    told = ErrorBody.of(Unauthorized("No.")).model_dump_json().encode()
    with _impostor(_signing(401, told, bound=False)) as url, pytest.raises(Unauthorized, match=r"No\."):
        to(url).send(a_command())
    told = ErrorBody.of(Forbidden("Replayed.")).model_dump_json().encode()
    with (
        _impostor(_signing(403, told, bound=False)) as url,
        pytest.raises(Unreachable, match="Replayed") as caught,
    ):
        to(url).send(a_command())
    assert caught.value.sent is True
    with _impostor(_signing(202, told, bound=False)) as url, pytest.raises(Unreachable):
        to(url).send(a_command())


def test_an_answer_to_another_request_is_none() -> None:
    kept: list[bytes] = []

    def stale(request: bytes) -> bytes:
        kept.append(request)
        return _signing(404, ErrorBody.of(NotFound("Old.")).model_dump_json().encode())(kept[0])

    with _impostor(stale) as url:
        with pytest.raises(NotFound):
            to(url).view("a")
        with pytest.raises(Unreachable, match="is not the executor"):
            to(url).view("a")


# --- following --------------------------------------------------------------------------------------------


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


class _Cuts:
    """Passes bytes on to a server, and cuts every connection after so many of them."""

    def __init__(self, port: int, after: int) -> None:
        self._port = port
        self._after = after
        self.connections = 0
        self._stop = threading.Event()
        self._open: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def _accept(self) -> None:
        while not self._stop.is_set():
            try:
                inner, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            self._open.append(inner)
            thread = threading.Thread(target=self._pass, args=(inner,))
            self._threads.append(thread)
            thread.start()

    def _pass(self, inner: socket.socket) -> None:
        with inner, socket.create_connection(("127.0.0.1", self._port)) as outer:
            back = threading.Thread(target=self._forward, args=(inner, outer))
            back.start()
            left = self._after
            with contextlib.suppress(OSError):
                while left > 0 and (data := outer.recv(min(left, 65536))):
                    inner.sendall(data)
                    left -= len(data)
            for side in (inner, outer):
                with contextlib.suppress(OSError):
                    side.shutdown(socket.SHUT_RDWR)
            back.join(20)

    @staticmethod
    def _forward(source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                target.sendall(data)
        with contextlib.suppress(OSError):
            target.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._stop.set()
        for each in (self._listener, *self._open):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join(20)


@pytest.fixture
def cut(executor: Served) -> Iterator[Callable[[int], _Cuts]]:
    made: list[_Cuts] = []

    def make(after: int) -> _Cuts:
        made.append(_Cuts(executor.port, after))
        return made[-1]

    yield make
    for one in made:
        one.close()


@pytest.mark.parametrize("after", [100_000, 400_001, 999_999])
def test_each_byte_arrives_once_over_a_line_that_keeps_breaking(
    executor: Served, client: ExecutorClient, cut: Callable[[int], _Cuts], after: int
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
    executor: Served, client: ExecutorClient, cut: Callable[[int], _Cuts]
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
    executor: Served, client: ExecutorClient, cut: Callable[[int], _Cuts]
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


# --- files ------------------------------------------------------------------------------------------------

CONTENT = hashlib.shake_256(b"model").digest(1_000_003)


def _left(executor: Served, client: ExecutorClient, content: bytes = CONTENT, sha256: str = "") -> str:
    run = client.send(a_command())
    _, folder = executor.claim()
    folder.artifacts.mkdir(exist_ok=True)
    (folder.artifacts / "model ü.bin").write_bytes(content)
    executor.store.advance(run.id, Prepared())
    executor.store.advance(run.id, Exited(Reason.EXITED, 0))
    file = Artifact(
        path="model ü.bin",
        size=len(content),
        sha256=sha256 or hashlib.sha256(content).hexdigest(),
        where="executor",
    )
    executor.store.save_artifacts(
        run.id, [file, Artifact(path="in-git", size=1, sha256="0" * 64, where="git")]
    )
    return run.id


@pytest.mark.parametrize("content", [CONTENT, b"", b"x"])
def test_a_file_is_fetched_whole_and_verified(
    executor: Served, client: ExecutorClient, tmp_path: Path, content: bytes
) -> None:
    run_id = _left(executor, client, content)
    told: list[tuple[str, int, int]] = []
    into = tmp_path / "into"
    into.mkdir()
    file = client.artifact(run_id, "model ü.bin", into / "model.bin", lambda *each: told.append(each))
    assert (into / "model.bin").read_bytes() == content
    assert [each.name for each in into.iterdir()] == ["model.bin"]
    assert told[-1] == ("model ü.bin", len(content), file.size)


def test_a_fetch_goes_on_where_an_earlier_one_stopped(
    executor: Served, client: ExecutorClient, tmp_path: Path
) -> None:
    run_id = _left(executor, client)
    part = tmp_path / f".model.bin.{hashlib.sha256(CONTENT).hexdigest()[:16]}.part"
    part.write_bytes(CONTENT[:900_000])
    told: list[int] = []
    client.artifact(run_id, "model ü.bin", tmp_path / "model.bin", lambda _, done, __: told.append(done))
    assert told == [900_000, len(CONTENT)]
    assert (tmp_path / "model.bin").read_bytes() == CONTENT


def test_a_file_arrives_over_a_line_that_keeps_breaking(
    executor: Served,
    client: ExecutorClient,
    tmp_path: Path,
    cut: Callable[[int], _Cuts],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("pushtrain.plumbing.http.client.MAX_PIECE", 50_000)
    run_id = _left(executor, client)
    line = cut(200_000)
    pauses: list[float] = []
    reader = ExecutorClient(
        line.url, executor.key.public_key(), SENDER, clock=executor.clock, pause=pauses.append
    )
    reader.artifact(run_id, "model ü.bin", tmp_path / "model.bin")
    assert (tmp_path / "model.bin").read_bytes() == CONTENT
    assert line.connections > 4


def test_a_file_that_is_not_what_the_run_left_is_never_put_there(
    executor: Served, client: ExecutorClient, tmp_path: Path
) -> None:
    run_id = _left(executor, client, sha256="0" * 64)
    (tmp_path / "model.bin").write_bytes(b"mine")
    with pytest.raises(DataError, match="is damaged"):
        client.artifact(run_id, "model ü.bin", tmp_path / "model.bin")
    assert (tmp_path / "model.bin").read_bytes() == b"mine"
    assert list(tmp_path.glob(".*.part")) == []


def test_a_file_that_became_shorter_is_said_to_end_too_early(
    executor: Served, client: ExecutorClient, tmp_path: Path
) -> None:
    run_id = _left(executor, client)
    path = RunDir.of(executor.state.runs, run_id, 1).artifacts / "model ü.bin"
    path.write_bytes(CONTENT[:10])
    with pytest.raises(DataError, match="ends too early"):
        client.artifact(run_id, "model ü.bin", tmp_path / "model.bin")


def test_a_part_that_is_too_long_is_begun_anew(
    executor: Served, client: ExecutorClient, tmp_path: Path
) -> None:
    run_id = _left(executor, client)
    part = tmp_path / f".model.bin.{hashlib.sha256(CONTENT).hexdigest()[:16]}.part"
    part.write_bytes(CONTENT + b"more")
    client.artifact(run_id, "model ü.bin", tmp_path / "model.bin")
    assert (tmp_path / "model.bin").read_bytes() == CONTENT


@pytest.mark.parametrize("path", ["in-git", "none", "../log"])
def test_a_file_that_the_executor_does_not_keep_is_not_found(
    executor: Served, client: ExecutorClient, tmp_path: Path, path: str
) -> None:
    run_id = _left(executor, client)
    with pytest.raises(NotFound, match="has no file"):
        client.artifact(run_id, path, tmp_path / "x")


def test_a_folder_that_cannot_be_written_is_a_storage_error(
    executor: Served, client: ExecutorClient, tmp_path: Path
) -> None:
    run_id = _left(executor, client)
    with pytest.raises(StorageError, match="cannot be written: No such file"):
        client.artifact(run_id, "model ü.bin", tmp_path / "none" / "x")


def test_the_client_names_whom_it_expects(client: ExecutorClient, executor: Served) -> None:
    assert fingerprint(client.public_key) == fingerprint(executor.key.public_key())
    assert json.dumps(client.url) == json.dumps(executor.url)
