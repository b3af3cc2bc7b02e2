"""The webhook's door, over a real socket: verified, kept, answered; never a traceback, never a second run."""

import asyncio
import hashlib
import hmac
import json
import socket
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import urllib3

from pushtrain.adapters.hosts.github import GitHub
from pushtrain.plumbing.http.serve import serving
from pushtrain.sender.web import BODY_LIMIT, create_app
from pushtrain.testing import eventually
from sender_world import World


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with World(tmp_path) as made:
        yield made


SECRET = b"It's a Secret to Everybody"
EVENT = json.loads((Path(__file__).parents[1] / "fixtures" / "github" / "push-branch.json").read_text())


def an_event(commit: str = "1" * 40, **repository: Any) -> bytes:
    about = {"full_name": "octo/hello", "html_url": "https://git.example.org/octo/hello", **repository}
    changed = {"ref": "refs/heads/main", "after": commit, "repository": EVENT["repository"] | about}
    return json.dumps(EVENT | changed).encode()


def signed(body: bytes, **headers: str) -> dict[str, str]:
    return {
        "Content-Type": "application/json",
        "X-GitHub-Event": "push",
        "X-GitHub-Delivery": "d-1",
        "X-Hub-Signature-256": "sha256=" + hmac.new(SECRET, body, hashlib.sha256).hexdigest(),
        **headers,
    }


class Caller:
    """Posts to the door under test."""

    def __init__(self, port: int) -> None:
        self.port = port
        self._http = urllib3.PoolManager(retries=False)

    async def post(self, body: bytes, headers: dict[str, str] | None = None) -> urllib3.BaseHTTPResponse:
        given = signed(body) if headers is None else headers
        return await self.request("POST", "/webhook", body=body, headers=given)

    async def request(self, method: str, path: str, **options: Any) -> urllib3.BaseHTTPResponse:
        return await asyncio.to_thread(
            self._http.request, method, f"http://127.0.0.1:{self.port}{path}", **options
        )


def at_the_door(world: World, story: Callable[[Caller], Awaitable[None]]) -> None:
    async def run() -> None:
        app = create_app(world.service, host=GitHub(), secret=SECRET)
        async with world.running(), serving(app, "127.0.0.1", 0) as port:
            await story(Caller(port))

    asyncio.run(run())


def test_a_signed_push_is_kept_answered_and_seen_to(world: World) -> None:
    commit = world.commit()

    async def story(caller: Caller) -> None:
        answer = await caller.post(an_event(commit))
        assert answer.status == 202
        assert answer.json() == {"status": "accepted", "delivery": "d-1"}
        await eventually(world.delivered)

    at_the_door(world, story)
    assert [command.commit for command in world.executor.accepted.values()] == [commit]
    assert world.store.pushes()[0].source == "webhook"


def test_a_redelivered_webhook_enqueues_once(world: World) -> None:
    body = an_event(world.commit())

    async def story(caller: Caller) -> None:
        answers = [await caller.post(body) for _ in range(3)]
        assert [answer.json()["status"] for answer in answers] == ["accepted", "known", "known"]
        await eventually(world.delivered)

    at_the_door(world, story)
    assert len(world.store.pushes()) == len(world.executor.received) == 1


def test_a_webhook_without_the_right_signature_is_refused_before_anything_is_read(world: World) -> None:
    body = an_event()

    async def story(caller: Caller) -> None:
        wrong = signed(body, **{"X-Hub-Signature-256": "sha256=" + "0" * 64})
        missing = {name: value for name, value in signed(body).items() if name != "X-Hub-Signature-256"}
        for headers, sent in ((wrong, body), (missing, body), (signed(body), body + b" "), (wrong, b"{")):
            answer = await caller.post(sent, headers)
            assert answer.status == 401
            assert answer.json()["error"]["code"] == "unauthorized"

    at_the_door(world, story)
    assert world.store.pushes() == []


def test_a_push_to_a_repository_that_is_not_watched_is_answered_404(world: World) -> None:
    async def story(caller: Caller) -> None:
        answer = await caller.post(an_event(full_name="octo/other"))
        assert answer.status == 404
        assert "does not watch git.example.org/octo/other" in answer.json()["error"]["message"]

    at_the_door(world, story)
    assert world.store.pushes() == []


def test_a_ping_is_answered_and_ignored(world: World) -> None:
    async def story(caller: Caller) -> None:
        answer = await caller.post(b"{}", signed(b"{}", **{"X-GitHub-Event": "ping"}))
        assert (answer.status, answer.json()) == (202, {"status": "ignored"})

    at_the_door(world, story)


def test_a_signed_body_of_another_form_is_answered_400(world: World) -> None:
    async def story(caller: Caller) -> None:
        for body in (b"{", b"[]", b'{"ref": "main"}'):
            answer = await caller.post(body)
            assert answer.status == 400
            assert answer.json()["error"]["code"] == "usage"

    at_the_door(world, story)


def test_a_body_over_the_limit_is_refused_announced_or_not(world: World) -> None:
    async def story(caller: Caller) -> None:
        announced = await caller.request(
            "POST",
            "/webhook",
            headers={"Content-Length": str(BODY_LIMIT + 1), "Connection": "close"},
            body=b"",
        )
        assert announced.status == 413
        piece = b"x" * (1 << 20)
        streamed = await caller.request("POST", "/webhook", body=iter([piece] * 26), headers={}, chunked=True)
        assert streamed.status == 413

    at_the_door(world, story)


def test_a_body_as_large_as_github_sends_is_taken(world: World) -> None:
    event = json.loads(an_event())
    event["commits"] = ["x" * (BODY_LIMIT - 20_000)]
    body = json.dumps(event).encode()
    assert 20 << 20 < len(body) <= BODY_LIMIT

    async def story(caller: Caller) -> None:
        assert (await caller.post(body)).status == 202

    at_the_door(world, story)


def test_a_caller_who_leaves_in_the_middle_leaves_nothing_behind(world: World) -> None:
    async def story(caller: Caller) -> None:
        with socket.create_connection(("127.0.0.1", caller.port)) as line:
            line.sendall(b"POST /webhook HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
        assert (await caller.request("GET", "/healthz")).status == 204

    at_the_door(world, story)
    assert world.store.pushes() == []


def test_strangers_who_fill_the_room_for_bodies_drop_their_own(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four bodies of 25 MiB used to keep every push out, for as long as they were dribbled."""
    monkeypatch.setattr("pushtrain.sender.web._HELD_LIMIT", 300_000)
    half = b"POST /webhook HTTP/1.1\r\nHost: x\r\nContent-Length: 20000000\r\n\r\n" + b"x" * 90_000

    async def story(caller: Caller) -> None:
        lines = [socket.create_connection(("127.0.0.1", caller.port), timeout=20) for _ in range(10)]
        for line in lines:
            await asyncio.to_thread(line.sendall, half)
        answer = await caller.post(an_event(world.commit()))
        assert answer.status == 202
        await asyncio.to_thread(lines[0].sendall, b"x")
        assert (await asyncio.to_thread(lines[0].recv, 100)).startswith(b"HTTP/1.1 429 ")
        for line in lines:
            line.close()
        await eventually(world.delivered)

    at_the_door(world, story)


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"Content-Encoding": "gzip"}, 415),
        ({"Content-Type": "text/plain"}, 400),
        ({"Content-Type": "application/json; charset=utf-16"}, 202),
        ({"Content-Type": ""}, 400),
        ({"Content-Type": "application/x-www-form-urlencoded"}, 400),
        ({"X-GitHub-Event": "push,push"}, 202),
        ({"X-GitHub-Delivery": ""}, 400),
        ({"X-Hub-Signature-256": ""}, 401),
        ({"X-Hub-Signature-256": "sha256="}, 401),
        ({"X-Hub-Signature-256": "sha1=" + "0" * 40}, 401),
    ],
)
def test_a_delivery_of_another_form_is_refused_or_harmless(
    world: World, change: dict[str, str], status: int
) -> None:
    body = an_event()

    async def story(caller: Caller) -> None:
        assert (await caller.post(body, signed(body) | change)).status == status

    at_the_door(world, story)


def test_only_the_signature_of_these_very_bytes_opens(world: World) -> None:
    """Two signature headers, a signature in capitals, one of other bytes that mean the same."""
    body = an_event()
    right = signed(body)["X-Hub-Signature-256"]
    padded = body.replace(b": ", b":  ", 1)
    assert json.loads(padded) == json.loads(body)

    async def story(caller: Caller) -> None:
        for headers, sent in (
            (signed(padded), body),
            ({**signed(body), "X-Hub-Signature-256": right.upper()}, body),
            ({**signed(body), "X-Hub-Signature-256": right[:-1]}, body),
            ({**signed(body), "X-Hub-Signature-256": f"{right}, {right}"}, body),
            ({**signed(body), "X-Hub-Signature-256": f" {right[7:]}"}, body),
        ):
            assert (await caller.post(sent, headers)).status == 401

    at_the_door(world, story)
    assert world.store.pushes() == []


def test_signatures_are_compared_in_constant_time(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[tuple[bytes, bytes]] = []

    def compare(given: bytes, wanted: bytes) -> bool:
        compared.append((given, wanted))
        return given == wanted

    monkeypatch.setattr("hmac.compare_digest", compare)
    body = an_event()

    async def story(caller: Caller) -> None:
        assert (await caller.post(body, signed(body, **{"X-Hub-Signature-256": "x"}))).status == 401

    at_the_door(world, story)
    right = signed(body)["X-Hub-Signature-256"].encode()
    assert compared == [(b"x", right)], "whole, and nowhere else"


@pytest.mark.parametrize(
    "body",
    [
        b"[" * 100_000,
        b'{"ref":1,"ref":2}',
        b'{"ref":NaN}',
        b'{"ref":"\\ud800"}',
        b"\xff",
        b'{"ref":1e999}',
        b"9" * 9999,
    ],
)
def test_odd_json_with_a_right_signature_is_400(world: World, body: bytes) -> None:
    async def story(caller: Caller) -> None:
        assert (await caller.post(body)).status == 400

    at_the_door(world, story)


def test_health_says_nothing_and_other_doors_are_shut(world: World) -> None:
    async def story(caller: Caller) -> None:
        health = await caller.request("GET", "/healthz")
        assert (health.status, health.data) == (204, b"")
        assert (await caller.request("GET", "/webhook")).status == 405
        assert (await caller.request("GET", "/")).status == 404

    at_the_door(world, story)


def test_a_push_that_cannot_be_kept_is_answered_503_so_that_it_is_delivered_again(world: World) -> None:
    pages = world.store._database.read(lambda db: db.pragma("page_count"))
    world.store._database.read(lambda db: db.pragma("max_page_count", pages))
    body = an_event(commit="2" * 40, id=1)[:-1] + b" " * 10 + b"}"

    async def story(caller: Caller) -> None:
        for number in range(200):
            answer = await caller.post(body, signed(body, **{"X-GitHub-Delivery": f"d-{number}-{'x' * 80}"}))
            if answer.status != 202:
                break
        assert answer.status == 503
        assert "the disk is full" in answer.json()["error"]["message"]

    app = create_app(world.service, host=GitHub(), secret=SECRET)

    async def run() -> None:
        async with serving(app, "127.0.0.1", 0) as port:
            await story(Caller(port))

    asyncio.run(run())
