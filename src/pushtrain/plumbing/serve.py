"""Serve an ASGI application on one address inside the running event loop.

uvicorn's HTTP/1.1 protocol (h11) without uvicorn's server object: no signal handlers, no ticking while idle,
no `sys.exit`, no access log. Every phase of a connection has a deadline, so that a caller who trickles bytes
holds nothing for long. Whoever enters `serving` owns the server; leaving the block ends it and every request.
"""

import asyncio
import contextlib
import errno
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import h11
from uvicorn.config import Config
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from pushtrain.core.errors import Conflict, PushtrainError, UsageError

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

_HEADER_BYTES: Final = 16 * 1024
_BACKLOG: Final = 512
_ACCEPTING: Final = 4
"""Turns of the event loop after which a connection that was just accepted is made."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What one server grants its callers; seconds and counts."""

    headers: float = 10
    """From the first byte (or the connection) to the end of a request's headers."""
    body: float = 60
    """From the end of the headers to the end of the body."""
    idle: float = 75
    """How long a connection is kept open between requests; longer than our client keeps one."""
    connections: int = 512
    """Open connections; one more is answered 503 and closed."""
    grace: float = 0.5
    """How long requests may go on once the server ends, before their callers are cut off."""


@contextlib.asynccontextmanager
async def serving(
    app: "ASGIApp", host: str, port: int, *, limits: Limits | None = None
) -> AsyncIterator[int]:
    """Serve `app` on `host:port` while the block runs, and yield the bound port.

    Args:
        app: Any ASGI 3 application; lifespan events are not sent.
        host: An address or a name; of a name with several addresses the first one is used.
        port: The port; 0 for any free one.
        limits: Deadlines and caps; None for the defaults.

    Raises:
        Conflict: Another program listens there.
        UsageError: The address is not one of this machine's, or may not be used.
    """
    limits = limits or Limits()
    listener = await _bind(host, port)

    async def application(scope: "Scope", receive: "Receive", send: "Send") -> None:
        await app(
            scope, receive, send
        )  # uvicorn would first call a bare `*args` app to see if it is a factory

    config = Config(
        application,
        http=H11Protocol,
        ws="none",
        lifespan="off",
        interface="asgi3",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        date_header=False,
        limit_concurrency=limits.connections,
        timeout_keep_alive=max(1, round(limits.idle)),
        h11_max_incomplete_event_size=_HEADER_BYTES,
    )
    config.load()
    state = ServerState()
    loop = asyncio.get_running_loop()
    server = await loop.create_server(
        lambda: _Deadlined(config=config, server_state=state, app_state={}, limits=limits),
        sock=listener,
        backlog=_BACKLOG,
    )
    try:
        yield listener.getsockname()[1]
    finally:
        loop.remove_reader(listener)
        for _ in range(_ACCEPTING):  # asyncio forgets a connection that is half made when its server closes
            await asyncio.sleep(0)
        server.close()
        await _end(state, limits.grace)


async def _bind(host: str, port: int) -> socket.socket:
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
        family, _, _, _, address = found[0]
        listener = socket.create_server(address[:2], family=family, backlog=_BACKLOG)
    except OSError as error:
        raise _refused(host, port, error) from error
    listener.setblocking(False)
    # asyncio sets this only where the socket's protocol is named; without it Nagle's algorithm and the
    # caller's delayed acknowledgement hold back every answer of more than one write by 40 ms.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


def _refused(host: str, port: int, error: OSError) -> PushtrainError:
    if error.errno == errno.EADDRINUSE:
        return Conflict(
            f"Port {port} of {host} is taken: another program listens there.",
            mend="Stop that program (another pushtrain?), or choose another port; 0 takes any free one.",
        )
    message = f"Cannot listen on {host}, port {port}: {error.strerror}."
    return UsageError(message, mend="Choose an address of this machine, and a port that you may use.")


async def _end(state: ServerState, grace: float) -> None:
    """Close idle connections, let requests finish for `grace` seconds, cut the rest off, reap every task."""
    for connection in list(state.connections):
        connection.shutdown()
    if state.tasks:
        await asyncio.wait(state.tasks, timeout=grace)
    for connection in list(state.connections):
        _abort(connection)
    if state.tasks:  # their callers are gone, which a well-behaved application notices
        await asyncio.wait(state.tasks, timeout=grace)
    for task in list(state.tasks):
        task.cancel()
    await asyncio.gather(*state.tasks, return_exceptions=True)


def _abort(connection: Any) -> None:
    connection.transport.abort()


class _Deadlined(H11Protocol):
    """uvicorn's HTTP/1.1 connection, with a deadline for the headers and one for the body."""

    def __init__(self, *, limits: Limits, **keywords: Any) -> None:
        super().__init__(**keywords)
        self._limits = limits
        self._phase: object = None
        self._deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._arm(h11.IDLE, self._limits.headers)

    def handle_events(self) -> None:
        super().handle_events()
        match self.conn.their_state:
            case h11.IDLE if self.conn.trailing_data[0]:
                self._arm(h11.IDLE, self._limits.headers)
            case h11.SEND_BODY:
                self._arm(h11.SEND_BODY, self._limits.body)
            case _:  # nothing begun (the keep-alive timer runs), or all of it is here
                self._disarm()

    def connection_lost(self, exc: Exception | None) -> None:
        self._disarm()
        super().connection_lost(exc)

    def _arm(self, phase: object, seconds: float) -> None:
        """Set the deadline of the phase that the caller is in; the same phase keeps the one it has."""
        if phase is not self._phase:
            self._disarm()
            self._phase = phase
            self._deadline = self.loop.call_later(seconds, self.transport.abort)

    def _disarm(self) -> None:
        self._phase = None
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
