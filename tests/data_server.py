"""A loopback web server that serves bytes properly, and badly when told to."""

import re
import threading
from collections import defaultdict, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

Fault = Callable[["Handler", "Served"], bool]
"""Answers the request and returns True, or changes what is served and returns False."""


@dataclass
class Served:
    content: bytes
    etag: str = '"one"'
    modified: str = ""
    ranges: bool = True
    conditions: bool = True
    length: bool = True
    kind: str = "application/octet-stream"


@dataclass
class Asked:
    path: str
    headers: dict[str, str]


@dataclass
class FileServer:
    url: str
    files: dict[str, Served] = field(default_factory=dict)
    faults: dict[str, deque[Fault]] = field(default_factory=lambda: defaultdict(deque))
    asked: list[Asked] = field(default_factory=list)

    def serve(self, path: str, content: bytes, *faults: Fault, **options: object) -> str:
        self.files[path] = Served(content, **options)  # type: ignore[arg-type]
        self.faults[path].extend(faults)
        return self.url + path

    def paths(self) -> list[str]:
        return [one.path for one in self.asked]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    files: FileServer

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        self.files.asked.append(Asked(self.path, {k.lower(): v for k, v in self.headers.items()}))
        served = self.files.files.get(path)
        if served is None:
            self.send_error(404)
            return
        waiting = self.files.faults[path]
        if waiting and waiting.popleft()(self, served):
            return
        self.answer(served)

    def do_HEAD(self) -> None:
        served = self.files.files.get(self.path)
        if served is None:
            self.send_error(404)
        else:
            self.head(200, served, len(served.content))

    def answer(self, served: Served, *, send: int | None = None) -> None:
        """The right answer, of which only `send` bytes of the body leave."""
        known = self.headers.get("If-None-Match"), self.headers.get("If-Modified-Since")
        if served.conditions and (
            (known[0] and known[0] == served.etag) or (known[1] and known[1] == served.modified)
        ):
            self.head(304, served, 0)
            return
        start = self.wanted_start(served)
        body = served.content[start:]
        if start:
            self.head(206, served, len(body), start)
        else:
            self.head(200, served, len(body))
        self.wfile.write(body if send is None else body[:send])
        if send is not None:
            self.close_connection = True

    def wanted_start(self, served: Served) -> int:
        found = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        guard = self.headers.get("If-Range")
        if found is None or not served.ranges or guard not in {None, served.etag, served.modified}:
            return 0
        return int(found[1])

    def head(self, status: int, served: Served, length: int, start: int = 0) -> None:
        self.send_response(status)
        self.send_header("Content-Type", served.kind)
        if served.etag:
            self.send_header("ETag", served.etag)
        if served.modified:
            self.send_header("Last-Modified", served.modified)
        if start:
            total = len(served.content)
            self.send_header("Content-Range", f"bytes {start}-{total - 1}/{total}")
        if served.length:
            self.send_header("Content-Length", str(length))
        else:
            self.send_header("Connection", "close")
            self.close_connection = True
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  the base class's word
        """Say nothing."""


def cut(after: int) -> Fault:
    """Close the connection after so many bytes of the body."""

    def fault(handler: Handler, served: Served) -> bool:
        handler.answer(served, send=after)
        return True

    return fault


def status(code: int, **headers: str) -> Fault:
    """Answer with a status and no body."""

    def fault(handler: Handler, _: Served) -> bool:
        handler.send_response(code)
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.send_header("Content-Length", "0")
        handler.end_headers()
        return True

    return fault


def becomes(content: bytes, etag: str) -> Fault:
    """From here on the file is another one."""

    def fault(_: Handler, served: Served) -> bool:
        served.content, served.etag = content, etag
        return False

    return fault


def misplaced(start: int) -> Fault:
    """Answer a range with another range."""

    def fault(handler: Handler, served: Served) -> bool:
        body = served.content[start:]
        handler.head(206, served, len(body), start)
        handler.wfile.write(body)
        return True

    return fault


def stalled(after: int, reached: threading.Event, go_on: threading.Event) -> Fault:
    """Send so many bytes, tell, and wait to be told."""

    def fault(handler: Handler, served: Served) -> bool:
        start = handler.wanted_start(served)
        body = served.content[start:]
        handler.head(206 if start else 200, served, len(body), start)
        handler.wfile.write(body[:after])
        handler.wfile.flush()
        reached.set()
        go_on.wait(30)
        try:
            handler.wfile.write(body[after:])
        except OSError:
            handler.close_connection = True
        return True

    return fault


class _Server(ThreadingHTTPServer):
    def handle_error(self, request: object, client_address: object) -> None:
        """Clients that hang up are part of the game."""


@contextmanager
def file_server() -> Iterator[FileServer]:
    """A server on a free port."""
    handler = type("Bound", (Handler,), {})
    server = _Server(("127.0.0.1", 0), handler)
    files = FileServer(f"http://127.0.0.1:{server.server_address[1]}")
    handler.files = files  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield files
    finally:
        server.shutdown()
        thread.join(20)
        server.server_close()
