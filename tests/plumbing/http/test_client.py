"""The client asks: of the real door, of impostors, and where nobody is."""

import contextlib
import json
import re
import socket
import socketserver
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from breaking import OTHER, SENDER, Cuts, to
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from pushtrain.core import errors
from pushtrain.core.errors import (
    BeyondLimits,
    Busy,
    ConfigError,
    Conflict,
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
from pushtrain.core.lifecycle import Exited, Prepared
from pushtrain.core.values.states import Reason
from pushtrain.core.wire.bodies import ErrorBody
from pushtrain.core.wire.signing import fingerprint, public_text, sign_response
from pushtrain.plumbing.http.client import ExecutorClient
from pushtrain.plumbing.keys.authorized import Scope as Right
from pushtrain.testing import Clock, a_command, a_spec
from served import Served, served

if TYPE_CHECKING:
    from pushtrain.core.values.run import Run


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


def test_a_command_goes_in_and_shows_up(executor: Served, client: ExecutorClient) -> None:
    run = client.send(a_command())
    assert run == executor.store.run(run.id)
    assert client.send(a_command()) == run
    assert [found.id for found in client.runs(find="main")] == [run.id]
    assert client.runs(find="other & strange") == []
    assert client.view(run.id).run == run
    assert client.cancel(run.id).cancel_requested is False
    assert client.challenge().card.public_url == executor.url


@pytest.mark.parametrize(("theirs", "late"), [(0, "that machine"), (2, "this machine")])
def test_an_executor_of_another_protocol_is_commanded_nothing(
    executor: Served, client: ExecutorClient, monkeypatch: pytest.MonkeyPatch, theirs: int, late: str
) -> None:
    """What it did could not be read from its answer: a run would be released, and nobody would know."""
    run = executor.service.store.run(client.send(a_command()).id)
    other = ExecutorClient(executor.url, executor.key.public_key(), SENDER, clock=executor.clock)
    monkeypatch.setattr("pushtrain.executor.service.PROTOCOL", theirs)
    with pytest.raises(Unreachable, match=f"speaks version {theirs} of the protocol") as caught:
        other.release(run.id, 0)
    other.close()
    assert not caught.value.sent
    assert f"Upgrade pushtrain on {late}" in caught.value.mend
    assert executor.store.run(run.id) == run


def test_connections_are_kept(executor: Served, cut: "Callable[[int], Cuts]") -> None:
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


def test_a_request_that_an_executor_got_before_it_died_may_have_been_accepted() -> None:
    """It is asked once more, and nobody listens there any more: that says nothing of the first time."""
    listening = socket.create_server(("127.0.0.1", 0))
    got: list[bytes] = []

    def dies() -> None:
        line, _ = listening.accept()
        with line:
            got.append(line.recv(65536))
            listening.close()

    executor = threading.Thread(target=dies)
    executor.start()
    with pytest.raises(Unreachable) as caught:
        to(f"http://127.0.0.1:{listening.getsockname()[1]}").send(a_command())
    executor.join()
    assert got[0].startswith(b"POST /v1/runs ")
    assert caught.value.sent is True


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
    for status, body in ((200, b'{"protocol": 1}'), (404, b"{}"), (500, b"")):
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


@pytest.fixture
def cut(executor: Served) -> Iterator[Callable[[int], Cuts]]:
    made: list[Cuts] = []

    def make(after: int) -> Cuts:
        made.append(Cuts(executor.port, after))
        return made[-1]

    yield make
    for one in made:
        one.close()


def test_the_client_names_whom_it_expects(client: ExecutorClient, executor: Served) -> None:
    assert fingerprint(client.public_key) == fingerprint(executor.key.public_key())
    assert json.dumps(client.url) == json.dumps(executor.url)
