"""A cable on loopback: connections that come to its plug lead to a port, until somebody cuts them."""

import contextlib
import re
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

_AT_ONCE: Final = 64 * 1024
_REQUEST: Final = re.compile(rb"^(?:GET|POST) \S+(?= HTTP/1\.1\r$)", re.MULTILINE)
_RESET: Final = struct.pack("ii", 1, 0)


class Cable:
    """Forwards TCP in threads. Attributes may be looked at from any thread.

    Args:
        port: Where it leads to; 0: nowhere, it only listens and counts.
    """

    def __init__(self, port: int = 0) -> None:
        self.port = port
        self.visits = 0
        """Connections that came."""
        self.heard = 0
        """Bytes that came in."""
        self.requests: list[str] = []
        """The first line of each HTTP request that came in."""
        self._guard = threading.Lock()
        self._lines: set[socket.socket] = set()
        self._plug = socket.create_server(("127.0.0.1", 0))
        self._thread = threading.Thread(target=self._listen)
        self._thread.start()

    @property
    def url(self) -> str:
        """Its plug."""
        return f"http://127.0.0.1:{self._plug.getsockname()[1]}"

    def cut(self) -> None:
        """Break every connection that stands; new ones may come."""
        with self._guard:
            lines, self._lines = self._lines, set()
        for line in lines:
            with contextlib.suppress(OSError):  # its thread has closed it
                line.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                line.shutdown(socket.SHUT_RDWR)

    def end(self) -> None:
        """Break everything, and listen no more."""
        with contextlib.suppress(OSError):
            self._plug.shutdown(socket.SHUT_RDWR)
        self._plug.close()
        self._thread.join(10)
        self.cut()

    def _listen(self) -> None:
        while True:
            try:
                visitor, _ = self._plug.accept()
            except OSError:
                return
            self.visits += 1
            threading.Thread(target=self._serve, args=(visitor,), daemon=True).start()

    def _serve(self, visitor: socket.socket) -> None:
        with visitor:
            try:
                inner = socket.create_connection(("127.0.0.1", self.port), 5) if self.port else None
            except OSError:
                return
            with self._guard:
                self._lines |= {visitor} if inner is None else {visitor, inner}
            if inner is None:
                self._carry(visitor, None, visitor)
                return
            with inner:
                inner.settimeout(None)
                back = threading.Thread(target=self._carry, args=(inner, visitor, visitor), daemon=True)
                back.start()
                self._carry(visitor, inner, visitor)
                back.join()

    def _carry(self, source: socket.socket, target: socket.socket | None, visitor: socket.socket) -> None:
        """Bring bytes one way until either end has had enough; what the visitor says is counted."""
        with contextlib.suppress(OSError):
            while data := source.recv(_AT_ONCE):
                if source not in self._lines:
                    break
                if target is None or source is visitor:
                    self.heard += len(data)
                    self.requests += [line.decode() for line in _REQUEST.findall(data)]
                if target is not None:
                    target.sendall(data)
        for end in (source, target):
            if end is not None:
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)


@contextmanager
def laid(port: int = 0) -> Iterator[Cable]:
    """A cable that is there while the block runs."""
    cable = Cable(port)
    try:
        yield cable
    finally:
        cable.end()
