"""What the tests of every tunnel need: coroutines as tests, a local server, a caller."""

import asyncio
import functools
import http.server
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import urllib3

from pushtrain.ports import Tunnel

T = TypeVar("T", bound=Tunnel)

_kept: list[Tunnel] = []


def kept(tunnel: T) -> T:
    """The tunnel, which is closed when the story ends, however it ends."""
    _kept.append(tunnel)
    return tunnel


def story(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Run a test that is a coroutine."""

    async def tell(*args: Any, **kwargs: Any) -> None:
        try:
            await test(*args, **kwargs)
        finally:
            while _kept:
                await _kept.pop().close()

    @functools.wraps(test)
    def run(*args: Any, **kwargs: Any) -> None:
        asyncio.run(tell(*args, **kwargs))

    return run


class Greeter(http.server.BaseHTTPRequestHandler):
    """Answers every POST with its path and the length of its body."""

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        answer = f"{self.path} {len(body)}".encode()
        self.send_response(200)
        self.send_header("content-length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def greeting(handler: type[http.server.BaseHTTPRequestHandler] = Greeter) -> Iterator[int]:
    """The port of a local HTTP server."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join()


async def post(url: str, body: bytes) -> str:
    """What the server at a URL answers."""

    def ask() -> str:
        with urllib3.PoolManager(retries=False, timeout=20) as caller:
            return caller.request("POST", url, body=body).data.decode()

    return await asyncio.to_thread(ask)
