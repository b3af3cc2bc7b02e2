"""Requests and bytes that nobody would send by mistake: the door answers, and never breaks."""

import http.client
import json
import socket
from collections.abc import Iterator, Mapping

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from asking import SENDER, headers_for
from depth import tries
from pushtrain.core.values.command import TrainCommand
from pushtrain.testing import REPOSITORY, a_command
from served import Served, served

pytestmark = [pytest.mark.slow, pytest.mark.deep, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def lasting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """One executor for all the noise."""
    with served(tmp_path_factory.mktemp("lasting") / "state", queue_limit=100_000) as one:
        one.authorized.add(SENDER.public_key(), name="ada")
        yield one


NOISE = settings(
    max_examples=tries(400, 1500), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


class Caller:
    """A kept raw connection, made anew whenever the server has closed it."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._connection: http.client.HTTPConnection | None = None

    def say(self, raw: bytes) -> int:
        """Send bytes on a connection of their own and say the answer's status; 0: hung up without one."""
        with socket.create_connection(("127.0.0.1", self._port), timeout=20) as caller:
            caller.sendall(raw)
            caller.shutdown(socket.SHUT_WR)
            head = b""
            while b"\r\n" not in head:
                piece = caller.recv(4096)
                if not piece:
                    return 0
                head += piece
        return int(head.split(b" ")[1])

    def ask(self, method: str, target: str, headers: Mapping[str, str], body: bytes) -> tuple[int, bytes]:
        """A well-formed request over the kept connection."""
        if self._connection is None:
            self._connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=20)
        self._connection.request(method, target, body or None, dict(headers))
        response = self._connection.getresponse()
        return response.status, response.read()

    def close(self) -> None:
        """Hang up."""
        if self._connection:
            self._connection.close()


@pytest.fixture(scope="module")
def caller(lasting: Served) -> Iterator[Caller]:
    one = Caller(lasting.port)
    yield one
    one.close()


@NOISE
@given(data=st.data())
def test_bytes_changed_on_the_way_never_get_in_and_never_break_the_server(
    lasting: Served, caller: Caller, data: st.DataObject
) -> None:
    command = a_command()
    body = command.model_dump_json().encode()
    headers = headers_for(lasting, "POST", "/v1/runs", body=body, idempotency=command.run_id)
    head = "POST /v1/runs HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
    head += "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    raw = bytearray(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(raw) - 1))
        match data.draw(st.sampled_from(["flip", "cut", "insert"])):
            case "flip":
                raw[at] ^= data.draw(st.integers(1, 255))
            case "cut":
                del raw[at : at + data.draw(st.integers(1, 40))]
            case _:
                raw[at:at] = data.draw(st.binary(min_size=1, max_size=20))
        if not raw:
            break
    status = caller.say(bytes(raw)) if raw else 0
    harmless = status == 202  # a change in what is not covered, such as Host
    assert harmless or status == 0 or 400 <= status < 500, (status, bytes(raw))
    if harmless:
        assert lasting.store.command_as_received(command.run_id)[0] == body


JSONS = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from(["refs/heads/main", "0" * 40, REPOSITORY, "\0", "../..", "-x"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3),
    max_leaves=6,
)


@settings(NOISE, max_examples=tries(1300, 5000))
@given(data=st.data())
def test_whatever_an_authorised_sender_signs_is_accepted_or_refused_but_never_breaks_the_server(
    lasting: Served, caller: Caller, data: st.DataObject
) -> None:
    document = a_command().model_dump(mode="json")
    place = document
    while True:
        name = data.draw(st.sampled_from(sorted(place)))
        if not (isinstance(place[name], dict) and place[name] and data.draw(st.booleans())):
            break
        place = place[name]
    match data.draw(st.sampled_from(["change", "remove", "add"])):
        case "change":
            place[name] = data.draw(JSONS)
        case "remove":
            del place[name]
        case _:
            place[data.draw(st.text(min_size=1, max_size=10))] = data.draw(JSONS)
    if data.draw(st.booleans()):
        document = _renamed(document)
    body = json.dumps(document).encode()
    key = document.get("run_id")
    idempotency = key if isinstance(key, str) and key.isascii() and key.isalnum() else "none"
    headers = headers_for(lasting, "POST", "/v1/runs", body=body, idempotency=idempotency)
    status, answer = caller.ask("POST", "/v1/runs", headers, body)
    assert status == 202 or 400 <= status < 500, (status, answer, body)


def _renamed(document: dict[str, object]) -> dict[str, object]:
    """With the run id that the command really has, where it has one."""
    try:
        command = TrainCommand.model_validate(document)
        true = a_command(
            repository=command.repository,
            commit=command.commit,
            ref=command.ref,
            job=command.job,
            request=command.request,
        )
    except ValueError:
        return document
    return document | {"run_id": true.run_id}


@settings(NOISE, max_examples=tries(800, 3500))
@given(
    method=st.sampled_from(["GET", "POST", "HEAD", "PUT", "OPTIONS"]),
    path=st.lists(
        st.sampled_from(
            [
                "v1",
                "runs",
                a_command().run_id,
                "log",
                "stream",
                "cancel",
                "artifacts",
                "..",
                "%2e",
                "a",
                "%00",
                "",
            ]
        ),
        max_size=5,
    ),
    query=st.lists(
        st.tuples(
            st.sampled_from(["offset", "limit", "attempt", "until", "find", "repository", "x", "%00"]),
            st.sampled_from(
                ["0", "1", "-1", "99999999999999999999", "9007199254740992", "%00", "log", "%FF", "main", ""]
            ),
        ),
        max_size=3,
    ),
)
def test_whatever_is_asked_with_a_right_signature_is_answered(
    lasting: Served, caller: Caller, method: str, path: list[str], query: list[tuple[str, str]]
) -> None:
    target, asked = "/" + "/".join(path), "&".join("=".join(pair) for pair in query)
    if target.endswith("/stream") and method == "GET":
        asked = "until=never"
    headers = headers_for(lasting, method, target, asked)
    status, body = caller.ask(method, f"{target}?{asked}" if asked else target, headers, b"")
    assert status < 500, (method, target, asked, body)
