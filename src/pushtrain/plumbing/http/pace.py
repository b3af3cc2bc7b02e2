"""A watch over servers that keep a connection alive and send next to nothing.

A timeout of the socket starts anew with every byte, so that one byte now and then would hold a download,
and the run that waits for it, for weeks. Whoever brings less than a minimum within a window is hung up
on, whatever the bytes belong to: TLS, headers, the lengths of chunks. One thread watches all transfers of
a fetch.
"""

import contextlib
import os
import socket
import threading
import time
from dataclasses import dataclass, field
from typing import Final

WINDOW: Final = 60.0
"""Seconds in which a server must have brought something."""
LEAST: Final = 60 * 1024
"""Bytes of content that it must have brought in that time."""
_LOOKS: Final = 8


@dataclass(slots=True)
class _Transfer:
    handle: socket.socket
    """Another handle of the same connection: it stays one whatever TLS makes of the first."""
    since: float = field(default_factory=time.monotonic)
    brought: int = 0
    cut: bool = False


class Pace:
    """The watch; each thread has one transfer at a time.

    Args:
        window: Seconds.
        least: Bytes of content in that time.
    """

    def __init__(self, window: float = WINDOW, least: int = LEAST) -> None:
        self._window = window
        self._least = least
        self._transfers: dict[int, _Transfer] = {}
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._watcher: threading.Thread | None = None

    def begin(self, descriptor: int) -> None:
        """Watch this thread's connection from now on, instead of an earlier one."""
        self.end()
        transfer = _Transfer(socket.socket(fileno=os.dup(descriptor)))
        with self._lock:
            self._transfers[threading.get_ident()] = transfer
            if self._watcher is None and not self._closed.is_set():
                self._watcher = threading.Thread(target=self._watch, name="pushtrain-pace", daemon=True)
                self._watcher.start()

    def count(self, size: int) -> None:
        """This thread's transfer has brought so many bytes of content."""
        if (transfer := self._transfers.get(threading.get_ident())) is not None:
            transfer.brought += size

    @property
    def hung_up(self) -> bool:
        """Whether this thread's connection was cut off for its pace."""
        transfer = self._transfers.get(threading.get_ident())
        return transfer is not None and transfer.cut

    def end(self) -> bool:
        """This thread's transfer is over; whether it was cut off for its pace."""
        with self._lock:
            transfer = self._transfers.pop(threading.get_ident(), None)
        if transfer is None:
            return False
        transfer.handle.close()
        return transfer.cut

    def close(self) -> None:
        """Stop watching."""
        self._closed.set()
        if self._watcher is not None:
            self._watcher.join()

    def _watch(self) -> None:
        while not self._closed.wait(self._window / _LOOKS):
            with self._lock:
                for transfer in self._transfers.values():
                    if time.monotonic() - transfer.since >= self._window:
                        self._judge(transfer)

    def _judge(self, transfer: _Transfer) -> None:
        if transfer.brought >= self._least:
            transfer.since, transfer.brought = time.monotonic(), 0
        else:
            transfer.cut = True
            with contextlib.suppress(OSError):
                transfer.handle.shutdown(socket.SHUT_RDWR)
