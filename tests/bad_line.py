"""A line to an executor that fails as lines do: cut, slow, doubled, or with something else at its end.

It stands where a tunnel would: what callers say comes in here, and one fault after the other is done to it.
Each request has a connection of its own to the executor.
"""

import contextlib
import itertools
import re
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Final

_AT_ONCE: Final = 64 * 1024
_LENGTH: Final = re.compile(rb"^content-length: *(\d+)\r$", re.IGNORECASE | re.MULTILINE)
_HTML: Final = b"<html>\r\n<head><title>502 Bad Gateway</title></head>\r\n<body>nginx</body>\r\n</html>\r\n"
_GATEWAY: Final = (
    b"HTTP/1.1 502 Bad Gateway\r\nserver: nginx\r\ncontent-type: text/html\r\nconnection: close\r\n"
    b"content-length: %d\r\n\r\n%s" % (len(_HTML), _HTML)
)


@dataclass(frozen=True)
class Fault:
    """What happens to one request; nothing, without a word."""

    request: int | None = None
    """Bytes of it that get through; then the line is cut. None: all."""
    answer: int | None = None
    """Bytes of the answer that get through; then the line is cut. None: all."""
    gateway: bool = False
    """A proxy answers in the executor's place; the request never gets there."""
    times: int = 1
    """How often the executor gets it; the last answer is passed on."""
    stall: float = 0
    """Seconds before the answer is passed on."""


GOOD: Final = Fault()
LOST_REQUEST: Final = Fault(request=0)
HALF_A_REQUEST: Final = Fault(request=300)
LOST_ANSWER: Final = Fault(answer=0)
HALF_AN_ANSWER: Final = Fault(answer=700)
GATEWAY: Final = Fault(gateway=True)
DOUBLED: Final = Fault(times=2)
STALLED: Final = Fault(stall=1.5)


class BadLine:
    """A plug on loopback that leads to a port.

    Args:
        port: The executor's.
        fault: What happens to a request, by its first line; called once for each.
    """

    def __init__(self, port: int, fault: Callable[[str], Fault]) -> None:
        self._port = port
        self._fault = fault
        self._guard = threading.Lock()
        self.asked: list[str] = []
        """Methods and paths, as they came."""
        self._plug = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._plug.getsockname()[1]}"
        self._thread = threading.Thread(target=self._listen)
        self._thread.start()

    def end(self) -> None:
        """Listen no more."""
        with contextlib.suppress(OSError):
            self._plug.shutdown(socket.SHUT_RDWR)
        self._plug.close()
        self._thread.join(10)

    def _listen(self) -> None:
        while True:
            try:
                visitor, _ = self._plug.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(visitor,), daemon=True).start()

    def _serve(self, visitor: socket.socket) -> None:
        with visitor, contextlib.suppress(OSError):
            visitor.settimeout(20)
            said = _request(visitor)
            if said is None:
                return
            first = said.partition(b" HTTP/1.1\r\n")[0].decode()
            with self._guard:
                self.asked.append(first.partition("?")[0])
                fault = self._fault(first)
            if fault.gateway:
                visitor.sendall(_GATEWAY)
                return
            for last in (turn == fault.times - 1 for turn in range(fault.times)):
                self._pass_on(said, visitor if last else None, fault)

    def _pass_on(self, said: bytes, visitor: socket.socket | None, fault: Fault) -> None:
        with socket.create_connection(("127.0.0.1", self._port), 5) as executor:
            executor.settimeout(20)
            executor.sendall(said if fault.request is None else said[: fault.request])
            if fault.request is not None:
                return
            left = fault.answer
            if fault.stall and visitor is not None:
                time.sleep(fault.stall)
            while data := executor.recv(_AT_ONCE):
                if visitor is not None:
                    visitor.sendall(data if left is None else data[:left])
                if left is not None and (left := left - len(data)) <= 0:
                    return


def _request(visitor: socket.socket) -> bytes | None:
    """One whole request, with the wish that its connection is closed after it; None: it broke off."""
    said = b""
    while b"\r\n\r\n" not in said:
        data = visitor.recv(_AT_ONCE)
        if not data:
            return None
        said += data
    head, _, body = said.partition(b"\r\n\r\n")
    length = _LENGTH.search(head + b"\r\n")
    while length is not None and len(body) < int(length[1]):
        data = visitor.recv(_AT_ONCE)
        if not data:
            return None
        body += data
    lines = [line for line in head.split(b"\r\n") if not line.lower().startswith(b"connection:")]
    return b"\r\n".join([*lines, b"connection: close", b"", b""]) + body


def in_turn(faults: Iterable[Fault], *, only: str = "") -> Callable[[str], Fault]:
    """One fault after the other for the requests whose first line holds a word; then none any more."""
    left = itertools.chain(faults, itertools.repeat(GOOD))
    return lambda first: next(left) if only in first else GOOD


@contextlib.contextmanager
def bad_line(port: int, fault: Callable[[str], Fault]) -> Iterator[BadLine]:
    """A bad line that is there while the block runs."""
    line = BadLine(port, fault)
    try:
        yield line
    finally:
        line.end()
