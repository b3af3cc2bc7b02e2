"""A tunnel that lies: it forwards what callers ask to an executor, and changes what comes back."""

import asyncio
import contextlib
import http.client
import re
import socket
import socketserver
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Self
from urllib.parse import urlsplit

from starlette.types import Receive, Scope, Send

from served import in_a_thread

Pairs = list[tuple[str, str]]
_OF_THE_LINE = {"content-length", "transfer-encoding", "connection"}


@dataclass(frozen=True)
class Said:
    """An answer as it came from the executor, whole."""

    status: int
    headers: Pairs
    body: bytes

    def but(self, before: str, after: str) -> "Said":
        """The same with another body of the same length."""
        assert before.encode() in self.body
        return replace(self, body=self.body.replace(before.encode(), after.encode()))

    def without(self, name: str) -> "Said":
        """The same without a header."""
        return replace(self, headers=[pair for pair in self.headers if pair[0].lower() != name])


@dataclass
class Liar:
    """What it does; may be changed at any time.

    Args:
        target: The executor's URL.
        tell: Given a whole answer, what to say instead.
        lines: Given the lines of a stream, what to say instead.
    """

    target: str
    tell: Callable[[Said], Said] = field(default=lambda said: said)
    lines: Callable[[Iterator[bytes]], Iterator[bytes]] = field(default=iter)
    asked: list[str] = field(default_factory=list)
    """Methods and targets."""
    heard: list[bytes] = field(default_factory=list)
    """Every header line and body that callers said."""
    url: str = ""
    could_not: list[AssertionError] = field(default_factory=list)
    """Lies that did not fit what was said: a test that tells one proves nothing."""
    change: Callable[[Pairs, bytes], tuple[Pairs, bytes]] = field(default=lambda pairs, body: (pairs, body))
    """Given what a caller says, what to pass on instead."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = b""
        while True:
            event = await receive()
            body += event.get("body", b"")
            if not event.get("more_body"):
                break
        target = scope["raw_path"].decode() + (
            f"?{scope['query_string'].decode()}" if scope["query_string"] else ""
        )
        pairs = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in scope["headers"]]
        self.asked.append(f"{scope['method']} {target}")
        self.heard += [f"{name}: {value}".encode() for name, value in pairs] + [target.encode(), body]
        pairs, body = self.change([pair for pair in pairs if pair[0] not in _OF_THE_LINE], body)
        loop = asyncio.get_running_loop()
        parts = urlsplit(self.target)
        connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=20)

        async def pass_on(event: dict[str, object]) -> None:
            await send(event)

        def say(event: dict[str, object]) -> None:
            asyncio.run_coroutine_threadsafe(pass_on(event), loop).result(20)

        def forward() -> None:
            connection.request(scope["method"], target, body or None, dict(pairs))
            response = connection.getresponse()
            if response.headers.get("content-type") == "application/x-ndjson":
                self._pass_on(response, say)
                return
            said = self.tell(Said(response.status, response.getheaders(), response.read()))
            _start(say, said.status, said.headers)
            say({"type": "http.response.body", "body": said.body})

        async def hang_up() -> None:
            while (await receive())["type"] != "http.disconnect":
                pass
            with contextlib.suppress(OSError, AttributeError):
                connection.sock.shutdown(socket.SHUT_RDWR)

        left = asyncio.ensure_future(hang_up())
        with contextlib.closing(connection):
            try:
                await asyncio.to_thread(forward)
            except AssertionError as error:
                self.could_not.append(error)
                raise
            finally:
                left.cancel()

    def _pass_on(self, response: http.client.HTTPResponse, say: Callable[[dict[str, object]], None]) -> None:
        said = self.tell(Said(response.status, response.getheaders(), b""))
        _start(say, said.status, said.headers)
        for line in self.lines(iter(response.readline, b"")):
            say({"type": "http.response.body", "body": line, "more_body": True})
        say({"type": "http.response.body", "body": b""})


def _start(say: Callable[[dict[str, object]], None], status: int, headers: Pairs) -> None:
    pairs = [(name.encode(), value.encode()) for name, value in headers if name.lower() not in _OF_THE_LINE]
    say({"type": "http.response.start", "status": status, "headers": pairs})


@contextlib.contextmanager
def lying(target: str) -> Iterator[Liar]:
    """A liar in front of an executor while the block runs."""
    liar = Liar(target)
    with in_a_thread(liar) as port:
        liar.url = f"http://127.0.0.1:{port}"
        yield liar
    assert liar.could_not == []


class Recorder:
    """A server that keeps every byte it hears, and answers each request with the same bytes."""

    def __init__(self, answer: bytes) -> None:
        self.heard = b""
        self.visits = 0
        guard = threading.Lock()
        recorder = self

        class Handler(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                self.request.settimeout(0.5)
                with guard:
                    recorder.visits += 1
                with contextlib.suppress(OSError):
                    while data := self.request.recv(65536):
                        with guard:
                            recorder.heard += data
                        if b"\r\n\r\n" in data:
                            if not answer:
                                return
                            self.request.sendall(answer)

        self._server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(20)

    @property
    def asked(self) -> list[str]:
        """Methods and targets."""
        found = re.findall(rb"^([A-Z]+ \S+) HTTP/1\.1\r$", self.heard, re.MULTILINE)
        return [line.decode() for line in found]
