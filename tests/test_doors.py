"""Every door of every server: who is not proven gets no further than the door, whatever he tries.

The tests walk the routing tables that the rooms really serve. Behind the doors stands a house that fails a
test as soon as anything in it is touched.
"""

import http.client
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from starlette.applications import Starlette
from starlette.routing import Route

from asking import SENDER, STRANGER
from pushtrain.adapters.hosts.github import GitHub
from pushtrain.core.wire.invitation import PATH as JOIN
from pushtrain.core.wire.signing import Message, fingerprint, sign_request
from pushtrain.core.wire.succession import HEADER as SUCCESSION
from pushtrain.executor.api.calls import ROUTES
from pushtrain.executor.api.web import create_app as executor_app
from pushtrain.plumbing.keys.identity import Identity
from pushtrain.sender.web import create_app as sender_app
from pushtrain.testing import NOON
from pushtrain.wiring.rooms import _side_by_side
from served import in_a_thread

if TYPE_CHECKING:
    from starlette.types import ASGIApp

ROOT = Path(__file__).resolve().parent.parent
EXECUTOR = Ed25519PrivateKey.from_private_bytes(bytes(range(64, 96)))
METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS", "TRACE", "PROPFIND")

OPEN = {("/healthz", "GET"), ("/healthz", "HEAD")}
"""The health check, which tells nothing."""
OWN_DOOR = {"/webhook": "the host's HMAC", JOIN: "an invitation's secret"}
"""Routes that something else than a signature opens. Every other route of the executor asks for one."""
SERVERS = {
    "src/pushtrain/wiring/rooms.py": "the executor, the sender, and `up` with both",
    "src/pushtrain/plumbing/isolation/trial.py": "what a sandbox keeps its canaries from; it accepts nobody",
    "src/pushtrain/demo/host.py": "the demo's Git host: on loopback, for its own repositories, with a token",
}
"""Where anything is served."""


class Nobody:
    """Nobody may come in; what else an admission can do, only somebody may ask for."""

    def __init__(self, touched: list[str]) -> None:
        self._touched = touched

    def grant(self, _key_id: str) -> None:
        """Nobody is known."""

    def heir(self, _key_id: str, _shown: object) -> None:
        """Nor is anybody who follows somebody."""

    def invitation(self, _name: str) -> None:
        """Nobody is invited."""

    def __getattr__(self, name: str) -> Any:
        self._touched.append(name)
        raise AssertionError(f"somebody unknown got as far as `{name}`")


class Untouched:
    """A house in which nothing may be touched but what a door needs to look at who stands before it."""

    key = EXECUTOR
    identity = Identity(EXECUTOR)

    def __init__(self) -> None:
        self.touched: list[str] = []
        self.admission = Nobody(self.touched)

    def card(self) -> Any:
        """The porch holds it from the beginning, for whoever joins."""
        return self.__getattr__("card")

    def __getattr__(self, name: str) -> Any:
        self.touched.append(name)
        raise AssertionError(f"somebody unknown got as far as `{name}`")


class NoHost(GitHub):
    """GitHub, of which nothing but the signature may be looked at."""

    def __init__(self, house: Untouched) -> None:
        self._house = house

    def parse(self, headers: object, body: object) -> Any:
        self._house.touched.append("parse")
        raise AssertionError("an unverified body was parsed")


@dataclass(frozen=True)
class Door:
    """A server, and the paths that it knows."""

    port: int
    paths: tuple[str, ...]
    house: Untouched

    def ask(
        self, method: str, path: str, headers: dict[str, str], body: bytes = b""
    ) -> tuple[int, Any, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        try:
            connection.request(method, path, body or None, headers)
            answer = connection.getresponse()
            return answer.status, answer.headers, answer.read()
        finally:
            connection.close()


def _paths(app: Starlette) -> list[str]:
    found = []
    for route in app.routes:
        assert isinstance(route, Route), f"{route!r} is no plain route, so this test cannot look at it"
        found.append(route.path)
    return found


def _apps(house: Untouched) -> tuple[Starlette, Starlette]:
    commands = executor_app(house, clock=lambda: NOON)  # type: ignore[arg-type]
    return commands, sender_app(house, host=NoHost(house), secret=b"a secret")  # type: ignore[arg-type]


@pytest.fixture(params=["executor", "sender", "up"], scope="module")
def door(request: pytest.FixtureRequest) -> Iterator[Door]:
    house = Untouched()
    commands, webhooks = _apps(house)
    served: dict[str, tuple[ASGIApp, list[str]]] = {
        "executor": (commands, _paths(commands)),
        "sender": (webhooks, _paths(webhooks)),
        "up": (_side_by_side(commands, webhooks), [*_paths(commands), *_paths(webhooks)]),
    }
    app, paths = served[request.param]
    with in_a_thread(app) as port:
        yield Door(port, tuple(dict.fromkeys(paths)), house)


def _filled(path: str) -> str:
    """A path with something in the place of each parameter."""
    return re.sub(r"\{\w+(:path)?\}", "0123456789abcdef0123456789abcdef", path)


def _signed(method: str, path: str, body: bytes, *, forged: bool) -> dict[str, str]:
    """Signed by a key that is not known; or by none, in the name of one."""
    audience = fingerprint(EXECUTOR.public_key())
    message = Message(method, path, "", {}, body)
    headers = sign_request(
        message, key=STRANGER, audience=audience, nonce="n" * 20, now=NOON, idempotency_key="x"
    )
    if forged:
        own, other = (fingerprint(key.public_key()) for key in (STRANGER, SENDER))
        headers["signature-input"] = headers["signature-input"].replace(own, other)
    return headers


def _attempts(method: str, path: str) -> Iterator[tuple[dict[str, str], bytes]]:
    """What somebody tries who has no key, no secret and no code."""
    body = b'{"version": 1}' if method in {"POST", "PUT", "PATCH"} else b""
    yield {}, b""
    yield {}, body
    yield {"authorization": "Bearer admin", "x-forwarded-for": "127.0.0.1", "x-real-ip": "127.0.0.1"}, body
    yield {"x-http-method-override": "GET", "x-original-url": "/healthz", "forwarded": "for=127.0.0.1"}, body
    yield {"x-hub-signature-256": "sha256=" + "0" * 64, "x-github-event": "push"}, body
    yield {"x-hub-signature": "sha1=" + "0" * 40, "x-github-event": "ping"}, body
    yield {"signature": "pushtrain=:AAAA:", "signature-input": "pushtrain=();created=1"}, body
    yield (
        {
            "pushtrain-invitation": "A" * 22,
            "pushtrain-proof": "A" * 43,
            **({} if not body else {"content-type": "application/json"}),
        },
        body,
    )
    yield _signed(method, path, body, forged=False), body
    yield _signed(method, path, body, forged=True), body
    yield _signed(method, path, body, forged=False) | {SUCCESSION: "A" * 200}, body


def test_no_route_of_any_server_is_open(door: Door) -> None:
    opened = set()
    for path in door.paths:
        target = _filled(path)
        for method in METHODS:
            for headers, body in _attempts(method, target):
                status, _, answer = door.ask(method, target, headers, body)
                if status not in {401, 404, 405, 429}:
                    opened.add((path, method))
                    assert (status, answer) == (204, b""), (path, method, status, answer)
    assert opened <= OPEN
    assert door.house.touched == []


def test_every_method_of_every_route_of_the_executor_asks_for_a_signature_or_its_own_proof(
    door: Door,
) -> None:
    for path in {*door.paths} & {*ROUTES, *OWN_DOOR}:
        for method in ROUTES.get(path, {"POST": None}):
            status, _, _ = door.ask(method, _filled(path), {})
            assert status == 401, (path, method)


def test_the_tables_say_what_is_served() -> None:
    """Who adds a route decides here what opens it; a signature, if nothing is said."""
    commands, webhooks = _apps(Untouched())
    known = {*ROUTES, *OWN_DOOR, "/healthz", "/{rest:path}"}
    assert {*_paths(commands), *_paths(webhooks)} == known


def test_whoever_is_not_proven_is_told_nothing_but_no(door: Door) -> None:
    """No version, no name, no clock, no list of what there is; only what the documents say to anybody."""
    for path in door.paths:
        for method in METHODS:
            status, headers, answer = door.ask(method, _filled(path), {})
            told = {name.lower() for name in headers}
            assert told <= {
                "allow",
                "cache-control",
                "connection",
                "content-digest",
                "content-length",
                "content-type",
                "signature",
                "signature-input",
                "transfer-encoding",
            }
            assert len(answer) < 300
            assert not re.search(
                rb"pushtrain/\d|Traceback|uvicorn|starlette|python|/v1/|lab-", answer, re.IGNORECASE
            )
            if status == 204:
                assert answer == b""
                assert told == set()


def test_nothing_else_is_served_anywhere() -> None:
    """A new server has to be added to these tests."""
    found = set()
    for file in (ROOT / "src/pushtrain").rglob("*.py"):
        text = file.read_text()
        listens = re.search(
            r"\bserving\(|\.listen\(|create_server\(|HTTPServer\(|start_server\(|uvicorn\.run", text
        )
        if listens and file.name != "serve.py":
            found.add(str(file.relative_to(ROOT)))
    assert found == {*SERVERS}
