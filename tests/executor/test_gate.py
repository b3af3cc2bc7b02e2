"""The request gate of a real executor: floods, replays, timing, odd JSON, and who may do what where."""

import asyncio
import contextlib
import json
import resource
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from asking import SENDER, STRANGER, Answer, ask, exchange, headers_for, send
from pushtrain.core.lifecycle import Exited, Prepared
from pushtrain.core.runs.usage import DAY, Stood
from pushtrain.core.values.run import Artifact
from pushtrain.core.values.states import Reason
from pushtrain.core.wire import signing
from pushtrain.core.wire.invitation import PATH as JOIN
from pushtrain.executor.api.calls import ROUTES
from pushtrain.plumbing.keys.authorized import Scope
from pushtrain.testing import REPOSITORY, a_command, wait_until
from served import Served, served

FRIEND = Ed25519PrivateKey.from_private_bytes(bytes(range(96, 128)))


@pytest.fixture
def executor(tmp_path: Path) -> Iterator[Served]:
    with served(tmp_path / "state") as one:
        one.authorized.add(SENDER.public_key(), name="ada")
        yield one


# --- floods -----------------------------------------------------------------------------------------------

WHOLE = (
    b"GET /v1/runs HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n",
)
"""Their connections idle then, for longer; but not where somebody else needs the room."""
HALVES = (
    b"",
    b"POST /v1/runs HTTP/1.1\r\nHost: x\r\nX-",
    b"POST /v1/runs HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n{",
    b"POST /v1/runs HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nfffff\r\n{",
    *WHOLE,
)
SOCKETS = 720


@contextlib.contextmanager
def many_files() -> Iterator[None]:
    """Attackers and executor live in one process here."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(4096, hard), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


class Attack:
    """Sockets that say half a request, some of them byte by byte, and how long each was let be."""

    def __init__(self, port: int) -> None:
        self.lived: list[float] = []
        """Seconds for which each half request was let be."""
        self._port = port
        self._open: dict[socket.socket, tuple[bytes, float]] = {}
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Self:
        for number in range(SOCKETS):
            one = socket.create_connection(("127.0.0.1", self._port), timeout=10)
            said = HALVES[number % len(HALVES)]
            one.sendall(said)
            one.setblocking(False)
            self._open[one] = said, time.monotonic()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join(20)
        for one in self._open:
            one.close()

    @property
    def goes_on(self) -> bool:
        """Whether a half request is still let be."""
        return any(said not in WHOLE for said, _ in list(self._open.values()))

    def _run(self) -> None:
        while not self._end.wait(0.05):
            for number, (one, (said, began)) in enumerate(list(self._open.items())):
                try:
                    if number % 3 and said and said not in WHOLE:
                        one.send(b"a")
                    if not one.recv(65536):
                        raise ConnectionResetError
                except BlockingIOError:
                    continue
                except OSError:
                    if said not in WHOLE:
                        self.lived.append(time.monotonic() - began)
                    del self._open[one]
                    one.close()


@pytest.mark.slow
def test_hundreds_of_half_requests_end_within_ten_seconds_and_a_signed_one_comes_through_in_one(
    executor: Served,
) -> None:
    took: list[float] = []
    with many_files(), Attack(executor.port) as attack:
        while attack.goes_on:
            began = time.monotonic()
            assert ask(executor, "GET", "/v1/runs").status == 200
            took.append(time.monotonic() - began)
            wait_until(lambda: time.monotonic() > began + 0.2)  # noqa: B023  called at once
    assert len(attack.lived) == SOCKETS - SOCKETS // 3
    assert max(attack.lived) < 13, "ten seconds, on a machine that is busy with the attack itself"
    assert max(took) < 1, sorted(took)[-5:]


def test_the_door_answers_while_everything_else_in_the_process_waits(executor: Served) -> None:
    """A dozen remotes that hang used to take every thread of the process, the door's too."""
    loop = executor.loop
    release = threading.Event()

    async def hang() -> None:
        await asyncio.gather(*(asyncio.to_thread(release.wait, 20) for _ in range(64)))

    waiting = asyncio.run_coroutine_threadsafe(hang(), loop)
    try:
        began = time.monotonic()
        assert send(executor).status == 202
        assert time.monotonic() - began < 5
    finally:
        release.set()
        waiting.result(20)


# --- replays ----------------------------------------------------------------------------------------------


def _writes() -> dict[str, tuple[str, bytes, str, str]]:
    command = a_command(request="another")
    waits = a_command().run_id
    return {
        "a command": ("/v1/runs", command.model_dump_json().encode(), command.run_id, ""),
        "a cancel": (f"/v1/runs/{waits}/cancel", b"", "", ""),
        "a release": (f"/v1/runs/{waits}/release", b"", "", "attempt=0"),
    }


@pytest.mark.parametrize("what", _writes())
def test_a_write_that_was_recorded_is_refused_also_after_a_restart(tmp_path: Path, what: str) -> None:
    path, body, idempotency, query = _writes()[what]
    target = f"{path}?{query}" if query else path
    with served(tmp_path / "state") as executor:
        executor.authorized.add(SENDER.public_key())
        send(executor)
        headers = headers_for(executor, "POST", path, query, body, idempotency=idempotency)
        recorded = list(headers.items())
        assert exchange(executor, "POST", target, recorded, body).status in {200, 202}
        assert exchange(executor, "POST", target, recorded, body).status == 401
    with served(tmp_path / "state") as executor:
        before = executor.store.runs()
        replayed = exchange(executor, "POST", target, recorded, body)
        assert (replayed.status, replayed.error) == (401, "unauthorized")
        assert executor.store.runs() == before


def test_a_command_that_could_not_be_kept_leaves_its_nonce_unused(
    executor: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nonce and run are one transaction: the same bytes may come again, and are the run then."""
    command = a_command()
    body = command.model_dump_json().encode()
    headers = headers_for(executor, "POST", "/v1/runs", body=body, idempotency=command.run_id)
    with monkeypatch.context() as broken:
        broken.setattr("pushtrain.plumbing.sqlite.rows.tell", _fail)
        assert exchange(executor, "POST", "/v1/runs", list(headers.items()), body).status == 500
    assert executor.store.runs() == []
    assert exchange(executor, "POST", "/v1/runs", list(headers.items()), body).status == 202


def _fail(*_: object) -> None:
    raise RuntimeError("the power is gone")


# --- strangers --------------------------------------------------------------------------------------------


def _refused(executor: Served) -> dict[str, Callable[[], list[tuple[str, str]]]]:
    """Ways to be nobody; each makes its headers anew."""

    def of(key: Ed25519PrivateKey) -> dict[str, str]:
        return headers_for(executor, "GET", "/v1/runs", key=key)

    def bad() -> list[tuple[str, str]]:
        headers = of(SENDER)
        forged = of(STRANGER)["signature"]
        return list((headers | {"signature": forged}).items())

    return {
        "an unknown key": lambda: list(of(STRANGER).items()),
        "a bad signature": bad,
        "an expired key": lambda: list(of(FRIEND).items()),
    }


def test_an_unknown_key_a_bad_signature_and_an_expired_key_get_the_same_bytes(executor: Served) -> None:
    executor.authorized.add(FRIEND.public_key(), expires="2001-01-01")
    answers = {
        name: exchange(executor, "GET", "/v1/runs", make()) for name, make in _refused(executor).items()
    }
    told = {(answer.status, tuple(answer.headers.items()), answer.body) for answer in answers.values()}
    assert len(told) == 1
    assert {answer.status for answer in answers.values()} == {401}


def test_an_unknown_key_costs_as_many_signature_checks_as_a_bad_signature(
    executor: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Time would tell them apart; but the time of a test says more of the machine than of the gate."""
    executor.authorized.add(FRIEND.public_key(), expires="2001-01-01")
    checked: list[object] = []
    verify = signing._verify

    def counted(*given: Any) -> bool:
        checked.append(given)
        return verify(*given)

    monkeypatch.setattr(signing, "_verify", counted)
    checks = {}
    for name, make in _refused(executor).items():
        checked.clear()
        exchange(executor, "GET", "/v1/runs", make())
        checks[name] = len(checked)
    assert set(checks.values()) == {2}, checks  # the gate's, and the caller's of the answer


# --- JSON -------------------------------------------------------------------------------------------------

ODD = {
    "too deep": b"[" * 33 + b"]" * 33,
    "far too deep": b"[" * 500_000 + b"]" * 500_000,
    "deep objects": b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
    "a name twice": b'{"a":1,"a":2}',
    "a name twice, spelt in two ways": b'{"a":1,"\\u0061":2}',
    "a name twice, deep inside": b'[{"a":[{"b":1,"b":1}]}]',
    "NaN": b"[NaN]",
    "Infinity": b"[Infinity]",
    "-Infinity": b"[-Infinity]",
    "a number that is infinite": b"[1e999]",
    "a number of many digits": b"[" + b"9" * 5000 + b"]",
    "a fraction of many digits": b"[0." + b"9" * 900_000 + b"e999999999]",
    "a lone high surrogate": b'["\\ud800"]',
    "a lone low surrogate": b'["\\udc00 "]',
    "a lone surrogate in a name": b'{"\\ud800":1}',
    "surrogates in the wrong order": b'["\\udc00\\ud800"]',
    "a surrogate in UTF-8": b'["\xed\xa0\x80"]',
    "overlong UTF-8": b'["\xc0\xaf"]',
    "a null": b'["\\u0000"]',
    "UTF-16": '{"a": 1}'.encode("utf-16"),
    "a byte order mark": b"\xef\xbb\xbf{}",
    "two documents": b"{}{}",
    "a comment": b"{} // x",
    "a trailing comma": b"[1,]",
    "single quotes": b"{'a':1}",
    "a control character": b'["\x01"]',
    "nothing but blanks": b"   ",
}


@pytest.mark.parametrize("name", ODD)
def test_json_of_more_than_one_meaning_is_400(executor: Served, name: str) -> None:
    answer = ask(executor, "POST", "/v1/runs", body=ODD[name])
    assert (answer.status, answer.bound, answer.error) == (400, True, "usage")


@pytest.mark.parametrize("name", ODD)
def test_a_command_with_such_json_inside_is_400(executor: Served, name: str) -> None:
    command = a_command()
    text = command.model_dump_json().encode()
    assert text.endswith(b"}")
    body = text[:-1] + b',"more":' + ODD[name][:900_000] + b"}"
    answer = ask(executor, "POST", "/v1/runs", body=body, idempotency=command.run_id)
    assert (answer.status, answer.bound) == (400, True)
    assert executor.store.runs() == []


NUMBERS = (
    "attempt",
    "version",
    "job.timeout",
    "job.max_parallel",
    "job.resources.memory",
    "job.resources.gpus",
    "job.resources.gpu_memory",
    "job.resources.cpus",
)


@pytest.mark.parametrize("number", [2**54, 2**63, 2**64, 10**400, -(10**400), 1e308, 10**4000])
@pytest.mark.parametrize("where", NUMBERS)
def test_huge_numbers_are_400(executor: Served, number: float, where: str) -> None:
    document = a_command().model_dump(mode="json")
    *path, last = where.split(".")
    place = document
    for name in path:
        place = place[name]
    assert last in place
    place[last] = number
    body = json.dumps(document).encode()
    answer = ask(executor, "POST", "/v1/runs", body=body, idempotency=a_command().run_id)
    assert (answer.status, answer.bound, answer.error) == (400, True, "usage"), answer.body


# --- who has an invitation ---------------------------------------------------------------------


@pytest.mark.parametrize("method", ["GET", "PUT"])
def test_the_way_in_for_guests_has_one_method(executor: Served, method: str) -> None:
    answer = exchange(executor, method, JOIN, [])
    assert (answer.status, answer.headers["allow"]) == (405, "POST")


def test_a_guests_body_is_small(executor: Served) -> None:
    """It has to be read before it is known who sends it."""
    for headers in ([("content-length", "4097")], [("transfer-encoding", "chunked")]):
        body = b"1001\r\n" + b"x" * 4097 + b"\r\n0\r\n\r\n"
        answer = exchange(executor, "POST", JOIN, headers, body)
        assert (answer.status, answer.bound, answer.error) == (413, False, "too-large")


@pytest.mark.parametrize("path", ["/v1/runs", JOIN])
def test_a_body_that_breaks_off_is_no_body(executor: Served, path: str) -> None:
    headers = headers_for(executor, "POST", "/v1/runs", body=b"x" * 100)
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    with socket.create_connection(("127.0.0.1", executor.port), timeout=20) as caller:
        caller.sendall(f"POST {path} HTTP/1.1\r\nHost: x\r\n{lines}Content-Length: 100\r\n\r\nhalf".encode())
        caller.shutdown(socket.SHUT_WR)
        assert b"202" not in caller.recv(4096)
    assert executor.store.runs() == []


# --- who may do what, where -------------------------------------------------------------------------------

HERE, ELSEWHERE = REPOSITORY, "github.com/octo/other"
NEEDS = {
    ("POST", "/v1/challenge"): None,
    ("GET", "/v1/events"): Scope.SEND,
    ("GET", "/v1/runs"): Scope.READ,
    ("POST", "/v1/runs"): Scope.SEND,
    ("GET", "/v1/runs/{run_id}"): Scope.READ,
    ("GET", "/v1/runs/{run_id}/log"): Scope.READ,
    ("GET", "/v1/runs/{run_id}/stream"): Scope.READ,
    ("GET", "/v1/runs/{run_id}/artifacts/{path:path}"): Scope.READ,
    ("GET", "/v1/usage"): Scope.READ,
    ("GET", "/v1/gpus"): Scope.READ,
    ("POST", "/v1/runs/{run_id}/cancel"): Scope.CANCEL,
    ("POST", "/v1/runs/{run_id}/release"): Scope.SEND,
}
"""What a route needs; of a run's route: for the run's repository."""


def test_the_table_of_needs_knows_every_route() -> None:
    """Who adds a route says here what it needs."""
    assert set(NEEDS) == {(method, path) for path, methods in ROUTES.items() for method in methods}


@pytest.fixture(scope="module")
def busy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Served, str, str]]:
    """An executor with a run that waits and one that has ended and left a file."""
    with served(tmp_path_factory.mktemp("busy") / "state", slots=1, queue_limit=10_000) as executor:
        executor.authorized.add(STRANGER.public_key())
        send(executor, key=STRANGER)
        ended, folder = executor.claim()
        folder.log.write_bytes(b"a log\n")
        folder.artifacts.mkdir(exist_ok=True)
        (folder.artifacts / "model").write_bytes(b"a model")
        executor.store.advance(ended.id, Prepared())
        [attempt] = executor.store.attempts(ended.id)
        executor.store.advance(ended.id, Exited(Reason.EXITED, 0), attempt=attempt)
        executor.store.note_stood(int(time.time()) // DAY, [Stood(what="input", seconds=60)])
        executor.store.save_artifacts(
            ended.id, [Artifact(path="model", size=7, sha256="0" * 64, where="executor")]
        )
        waits = a_command(request="waits")
        send(executor, waits, key=STRANGER)
        yield executor, ended.id, waits.run_id


@pytest.mark.parametrize("scopes", [(Scope.SEND,), (Scope.READ,), (Scope.CANCEL,), tuple(Scope)])
@pytest.mark.parametrize("repository", [HERE, ELSEWHERE, "github.com/octo/*", "**"])
@pytest.mark.parametrize(("method", "path"), NEEDS)
def test_every_route_asks_for_its_scope_and_its_repository(
    busy: tuple[Served, str, str], method: str, path: str, scopes: tuple[Scope, ...], repository: str
) -> None:
    executor, ended, waits = busy
    executor.authorized.add(SENDER.public_key(), scopes=scopes, repositories=[repository])
    needed = NEEDS[method, path]
    scoped = needed is None or needed in scopes
    here = repository != ELSEWHERE
    answer = _asked(executor, method, path, ended, waits)
    if not scoped:
        assert (answer.status, answer.error) == (403, "forbidden")
    elif path.startswith("/v1/runs/") and not here:
        assert (answer.status, answer.error) == (404, "not-found")
    elif path == "/v1/runs" and method == "GET":
        assert answer.status == 200
        assert (json.loads(answer.body)["runs"] != []) is here
    elif path == "/v1/usage":
        assert answer.status == 200
        told = json.loads(answer.body)
        assert ([entry["repository"] for entry in told["entries"]] == [HERE]) is here
        assert (told["stood"], bool(told["names"])) == ([], False)
    elif path == "/v1/runs":
        assert answer.status == (202 if here else 403)
    else:
        wanted = {"stream": {400}, "events": {400}, "cancel": {200, 409}, "release": {403}}
        assert answer.status in wanted.get(path.rpartition("/")[2], {200}), answer
    assert answer.bound is True


_number = iter(range(10**6))


def _asked(executor: Served, method: str, path: str, ended: str, waits: str) -> Answer:
    """Ask a route for something that may only lack the right; streams in a way that ends at once."""
    if path == "/v1/runs" and method == "POST":
        return send(executor, a_command(request=f"n{next(_number)}"))
    run = waits if path.endswith(("cancel", "release")) else ended
    query = {"stream": "until=never", "events": "x=1"}.get(path.rpartition("/")[2], "")
    return ask(executor, method, path.replace("{run_id}", run).replace("{path:path}", "model"), query)


# --- whatever is said -------------------------------------------------------------------------------------

VALUES = (b"0", b"5", b"+5", b"x", b"chunked", b"close", b"100-continue", b"h2c", b"gzip", b"\xff")
NOISE = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@NOISE
@given(
    start=st.sampled_from(
        [b"GET /v1/runs HTTP/1.1", b"POST /v1/join HTTP/1.1", b"PUT /healthz HTTP/1.1", b""]
    ),
    lines=st.lists(
        st.tuples(
            st.sampled_from(
                [
                    b"Host",
                    b"Content-Length",
                    b"Transfer-Encoding",
                    b"Signature",
                    b"Signature-Input",
                    b"Connection",
                    b"Upgrade",
                    b"Expect",
                    b"Content-Encoding",
                    b"Pushtrain-Audience",
                    b"X",
                ]
            ),
            st.sampled_from(VALUES) | st.binary(max_size=12),
        ),
        max_size=6,
    ),
    body=st.binary(max_size=40),
)
def test_whatever_strangers_say_they_are_refused_or_hung_up_on(
    busy: tuple[Served, str, str], start: bytes, lines: list[tuple[bytes, bytes]], body: bytes
) -> None:
    executor, _, _ = busy
    head = b"\r\n".join([start, *(name + b": " + value for name, value in lines), b"", b""])
    with socket.create_connection(("127.0.0.1", executor.port), timeout=20) as caller:
        caller.sendall(head + body)
        caller.shutdown(socket.SHUT_WR)
        said = b""
        with contextlib.suppress(ConnectionResetError):
            while piece := caller.recv(65536):
                said += piece
    statuses = {int(part[:3]) for part in said.split(b"HTTP/1.1 ")[1:]}
    assert statuses <= {100, 400, 401, 404, 405, 413, 415, 429}, said
