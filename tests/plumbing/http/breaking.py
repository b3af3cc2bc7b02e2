"""A client that expects another key, and lines that break: what tests of the client share."""

import contextlib
import socket
import threading

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from pushtrain.plumbing.http.client import ExecutorClient
from pushtrain.testing import Clock

SENDER = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
OTHER = Ed25519PrivateKey.from_private_bytes(bytes(range(32, 64)))


def to(
    url: str, *, patience: float = 600, timeout: float = 20, pauses: list[float] | None = None
) -> ExecutorClient:
    """A client that expects the key `OTHER` at a URL, believes that it is there, and does not really wait."""
    waited = [] if pauses is None else pauses
    client = ExecutorClient(
        url,
        OTHER.public_key(),
        SENDER,
        timeout=timeout,
        patience=patience,
        clock=Clock(),
        pause=waited.append,
        ticks=lambda: 0.0,
    )
    client._proven_at = 0.0
    return client


class Cuts:
    """Passes bytes on to a server, and cuts every connection after so many of them."""

    def __init__(self, port: int, after: int) -> None:
        self._port = port
        self._after = after
        self.connections = 0
        self._stop = threading.Event()
        self._open: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def _accept(self) -> None:
        while not self._stop.is_set():
            try:
                inner, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            self._open.append(inner)
            thread = threading.Thread(target=self._pass, args=(inner,))
            self._threads.append(thread)
            thread.start()

    def _pass(self, inner: socket.socket) -> None:
        with inner, socket.create_connection(("127.0.0.1", self._port)) as outer:
            back = threading.Thread(target=self._forward, args=(inner, outer))
            back.start()
            left = self._after
            with contextlib.suppress(OSError):
                while left > 0 and (data := outer.recv(min(left, 65536))):
                    inner.sendall(data)
                    left -= len(data)
            for side in (inner, outer):
                with contextlib.suppress(OSError):
                    side.shutdown(socket.SHUT_RDWR)
            back.join(20)

    @staticmethod
    def _forward(source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                target.sendall(data)
        with contextlib.suppress(OSError):
            target.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._stop.set()
        for each in (self._listener, *self._open):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join(20)
