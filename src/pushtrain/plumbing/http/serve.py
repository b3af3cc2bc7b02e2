"""Serve an ASGI application on one address inside the running event loop.

uvicorn's HTTP/1.1 protocol (h11) without uvicorn's server object: no signal handlers, no ticking while idle,
no `sys.exit`, no access log. Whoever enters `serving` owns the server; leaving the block ends it and every
request.

Callers are nobody until the application says that one has proven who it is (`proven`):

- A request has to be whole within seconds of its first byte, and a stranger has to take its answer as soon. -
A connection is always taken. When there are too many, the oldest that has proven nothing is hung up on:
behind a tunnel all callers have one address, so only what they have shown can tell them apart. Whoever floods
the server pushes out his own connections; a signed request is through in milliseconds. - A head that two
readers could read in two ways is refused (`core.text.heads`), and nothing may follow a request before its
answer: neither is needed by anybody who means well.
"""

import asyncio
import contextlib
import errno
import itertools
import logging
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import h11
from uvicorn.config import Config
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from pushtrain.core.errors import Conflict, PushtrainError, UsageError
from pushtrain.core.text import heads

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

_HEADER_BYTES: Final = 16 * 1024
_BACKLOG: Final = 512
_log = logging.getLogger(f"{__name__}.http")
_log.setLevel(logging.ERROR)  # whoever sends noise must not fill the log with it
_ACCEPTING: Final = 4
"""Turns of the event loop after which a connection that was just accepted is made."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What one server grants its callers; seconds and counts."""

    request: float = 10
    """From the first byte (or the connection) to the end of a request; and for a stranger's answer."""
    idle: float = 75
    """How long a connection is kept open between requests; longer than our client keeps one."""
    connections: int = 512
    """Open connections; for one more, somebody who has proven nothing is hung up on."""
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
        timeout_keep_alive=max(1, round(limits.idle)),
        h11_max_incomplete_event_size=_HEADER_BYTES,
    )
    config.load()
    state, crowd = ServerState(), _Crowd(limits.connections)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(
        lambda: _Connection(config=config, server_state=state, limits=limits, crowd=crowd),
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


def proven(scope: "Scope") -> None:
    """Say that the caller of this request has proven who it is. Any thread may."""
    say = scope.get("state", {}).get("proven")
    if say is not None:  # else somebody else serves the application
        say()


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


class _Strict(h11.Connection):
    """h11's reader, which lets pass only requests whose head has one meaning."""

    def __init__(self) -> None:
        super().__init__(h11.SERVER, _HEADER_BYTES)
        self._raw = bytearray()

    def receive_data(self, data: bytes) -> None:
        if self.their_state is h11.IDLE:
            self._raw += data
        super().receive_data(data)

    def next_event(self) -> Any:
        event = super().next_event()
        if isinstance(event, h11.Request):
            raw, self._raw = self._raw, bytearray()
            if why := heads.fault(bytes(raw)):
                raise h11.RemoteProtocolError(why)
        return event

    @property
    def begun(self) -> bool:
        """Whether a request has begun and is not whole yet."""
        return self.their_state is h11.SEND_BODY or (self.their_state is h11.IDLE and bool(self._raw))

    @property
    def overrun(self) -> bool:
        """Whether something came behind a request that is not answered yet."""
        return self.their_state not in {h11.IDLE, h11.SEND_BODY} and bool(self.trailing_data[0])


class _Crowd:
    """Everybody who is connected, the oldest first."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._strangers: dict[_Connection, None] = {}
        self._known: dict[_Connection, None] = {}

    def enter(self, one: "_Connection") -> None:
        """Let one more in; where that is one too many, hang up on somebody else."""
        self._strangers[one] = None
        if len(self._strangers) + len(self._known) > self._most:
            victim = self._least(one)
            self.leave(victim)
            _abort(victim)

    def leave(self, one: "_Connection") -> None:
        """Forget one."""
        self._strangers.pop(one, None)
        self._known.pop(one, None)

    def know(self, one: "_Connection") -> None:
        """This one has proven who it is."""
        if one in self._strangers:
            del self._strangers[one]
            self._known[one] = None

    def _least(self, newcomer: "_Connection") -> "_Connection":
        """Whom to hang up on: who has said nothing whole, else who has proven nothing, else who is idle."""
        others = (one for one in self._strangers if one is not newcomer)
        halves = (one for one in self._strangers if not one.busy and one is not newcomer)
        idle = (one for one in self._known if not one.busy)
        return next(itertools.chain(halves, others, idle), newcomer)


class _Connection(H11Protocol):
    """uvicorn's HTTP/1.1 connection, with deadlines, strict heads and a place in the crowd."""

    def __init__(self, *, config: Config, server_state: ServerState, limits: Limits, crowd: _Crowd) -> None:
        super().__init__(config=config, server_state=server_state, app_state={"proven": self._proven})
        self.conn = self._strict = _Strict()
        self.logger = _log
        self._limits = limits
        self._crowd = crowd
        self._known = False
        self._asking: asyncio.TimerHandle | None = None
        self._telling: asyncio.TimerHandle | None = None

    @property
    def busy(self) -> bool:
        """Whether a whole request is being answered."""
        return not self._strict.begun and self._strict.our_state in {h11.SEND_RESPONSE, h11.SEND_BODY}

    def _proven(self) -> None:
        """The caller has proven who it is. Any thread may say so."""
        with contextlib.suppress(RuntimeError):  # the server has ended
            self.loop.call_soon_threadsafe(self._know)

    def _know(self) -> None:
        self._known = True
        self._told()  # it may take its time
        self._crowd.know(self)

    # --- what uvicorn calls -------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._crowd.enter(self)
        self._asking = self._in_time()

    def connection_lost(self, exc: Exception | None) -> None:
        self._crowd.leave(self)
        self._heard()
        self._told()
        super().connection_lost(exc)

    def handle_events(self) -> None:
        super().handle_events()
        if not self._strict.begun:  # nothing begun (the keep-alive timer runs), or all of it is here
            self._heard()
        elif self._asking is None:
            self._asking = self._in_time()

    def on_response_complete(self) -> None:
        if self._strict.overrun:
            self.transport.close()
        super().on_response_complete()

    def pause_writing(self) -> None:
        super().pause_writing()
        if not self._known and self._telling is None:
            self._telling = self._in_time()

    def resume_writing(self) -> None:
        self._told()
        super().resume_writing()

    def _in_time(self) -> asyncio.TimerHandle:
        return self.loop.call_later(self._limits.request, self.transport.abort)

    def _heard(self) -> None:
        if self._asking is not None:
            self._asking.cancel()
            self._asking = None

    def _told(self) -> None:
        if self._telling is not None:
            self._telling.cancel()
            self._telling = None
