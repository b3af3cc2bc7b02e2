"""What the request gate costs: a signature checked, and a signed request while hundreds say only half of one."""

import contextlib
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from urllib.parse import urlsplit

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from bench.measures import Figure
from bench.world import spread, world
from pushtrain.core.errors import Unauthorized
from pushtrain.core.text import heads
from pushtrain.core.wire.signing import Message, fields, fingerprint, sign_request, verify_request
from pushtrain.plumbing.http.client import ExecutorClient
from pushtrain.plumbing.keys.authorized import load_or_create
from pushtrain.testing import a_command

SOCKETS = 600
HALVES = (
    b"",
    b"GET /v1/runs HTTP/1.1\r\nHost: x\r\nX-",
    b"POST /v1/runs HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n{",
)


def gate(quick: bool) -> Iterator[Figure]:
    """Signatures by themselves, then a real executor over loopback."""
    rounds = 200 if quick else 2000
    sender, executor, stranger = (Ed25519PrivateKey.generate() for _ in range(3))
    audience = fingerprint(executor.public_key())
    bare = Message("POST", "/v1/runs", body=a_command().model_dump_json().encode())
    headers = sign_request(bare, key=sender, audience=audience, nonce="n" * 22, now=1e9, idempotency_key="x")
    signed = replace(bare, headers=fields(headers.items()))
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    head = f"POST /v1/runs HTTP/1.1\r\nHost: x\r\n{lines}\r\n".encode()

    def check(key: Ed25519PrivateKey) -> None:
        with contextlib.suppress(Unauthorized):
            verify_request(signed, lookup=lambda _: key.public_key(), audience=audience, now=1e9)

    checked: list[tuple[str, Callable[[], object], float, str]] = [
        ("a request's signature checked", lambda: check(sender), 1e-3, "≤ 1 ms"),
        ("… that an unknown key made", lambda: check(stranger), 1e-3, "≤ 1 ms"),
        ("a request's head read strictly", lambda: heads.fault(head), 1e-4, "≤ 0.1 ms"),
    ]
    for what, work, most, target in checked:
        median, high = spread([_timed(work) for _ in range(rounds)])
        yield Figure(what, median * 1e3, "ms", target, median <= most, f"p90 {high * 1e3:.2f}")
    yield from _flood(20 if quick else 100)


def _timed(work: Callable[[], object]) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def _flood(rounds: int) -> Iterator[Figure]:
    """A signed request alone, and while more sockets than the server keeps say half of one."""
    with world() as made, contextlib.ExitStack() as attack:
        remote = made.host.create("bench/gate")
        room = made.room("executor", "--repo", remote, "--tunnel", "none")
        url, key = room.facts["url"], load_or_create(room.state / "identity.key")
        client = ExecutorClient(url, key.public_key(), key)
        client.challenge()
        median, high = spread([_timed(client.runs) for _ in range(rounds)])
        yield Figure(
            "a signed request answered",
            median * 1e3,
            "ms",
            "≤ 20 ms",
            median <= 0.02,
            f"p90 {high * 1e3:.1f}",
        )
        place = urlsplit(url)
        for number in range(SOCKETS):
            one = attack.enter_context(socket.create_connection((place.hostname, place.port), timeout=10))
            one.sendall(HALVES[number % len(HALVES)])
        client.close()
        times = [_timed(ExecutorClient(url, key.public_key(), key).runs) for _ in range(rounds)]
        note = "the worst, each on a connection of its own, its challenge included"
        yield Figure(
            f"… while {SOCKETS} sockets say half of one",
            max(times) * 1e3,
            "ms",
            "< 1 s",
            max(times) < 1,
            note,
        )
