"""HTTP connections that send a request's head and body in one piece.

urllib3 writes them one after the other. Where a relay on the way waits with the second until the first is
acknowledged (Nagle's algorithm; OpenSSH's server does so for `ssh -N -R`), that costs 40 ms a request.
"""

from typing import Any

from urllib3 import HTTPConnectionPool, HTTPSConnectionPool, PoolManager
from urllib3.connection import HTTPConnection, HTTPSConnection


class _OnePiece(HTTPConnection):
    _held: list[bytes] | None = None

    def request(self, *args: Any, **kwargs: Any) -> None:
        """Send a request."""
        self._held = []
        try:
            super().request(*args, **kwargs)
        finally:
            held, self._held = self._held, None
        self.send(b"".join(held))

    def send(self, data: Any) -> None:
        """Send bytes, or keep them for the moment when the request is whole."""
        if self._held is None:
            super().send(data)
        else:
            self._held.append(bytes(data))


class _OnePieceTLS(_OnePiece, HTTPSConnection):
    pass


class _Pool(HTTPConnectionPool):
    ConnectionCls = _OnePiece


class _PoolTLS(HTTPSConnectionPool):
    ConnectionCls = _OnePieceTLS


def in_one_piece(manager: PoolManager) -> PoolManager:
    """The manager, which makes such connections from now on."""
    manager.pool_classes_by_scheme = {"http": _Pool, "https": _PoolTLS}
    return manager
