"""A proxy on loopback that judges where a trusted program goes, on behalf of a stranger's files.

uv runs nobody's code where it only fetches wheels, but it goes to whatever URL a lock file, an index's page
or a redirect names. Where it must reach the owner's own index in the owner's network, and so is not in a
network of public addresses, it is told to ask here for all of it: each host is looked up once, judged as
for data, and connected to at the address that was judged. The names of variables that tell it so are
`variables`. It is for programs that do as these say; code of others would not, and is never given it.

Who asks must know a word that each proxy thinks up, so that it is no way out for other users or jobs of the
machine. One connection carries one request; TLS passes through and is never opened. An http:// proxy that
the owner's environment names is gone through, and is itself no place that may be asked for.
"""

import base64
import contextlib
import http.server
import secrets
import select
import socket
import socketserver
import threading
import urllib.request
from collections.abc import Mapping
from types import TracebackType
from typing import Final, Self, cast
from urllib.parse import urlsplit

from pushtrain.core.errors import DataError
from pushtrain.core.owner.outward import Outward
from pushtrain.core.text.weburl import WebAddress, read
from pushtrain.plumbing.data import dial

NAMES: Final = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy")
"""Variables by which programs are told of a proxy."""
DIRECT: Final = ("NO_PROXY", "no_proxy")
"""Variables by which they are told whom to ask without one."""

_CONNECT: Final = 20.0
_SILENCE: Final = 300.0
"""Seconds without a byte after which a connection is ended."""
_FIRST: Final = 10.0
"""Seconds in which whoever connects must have sent its request."""
_BLOCK: Final = 256 * 1024
_HEAD: Final = 64 * 1024
_TOLD: Final = 10
_HOP: Final = frozenset(
    {"connection", "keep-alive", "te", "trailer", "upgrade", "transfer-encoding", "content-length", "host"}
)


class JudgedProxy:
    """One proxy, from `with` to its end.

    Args:
        outward: Whom it lets be asked.
        environ: The executor's environment, for the proxies that its owner names.
    """

    def __init__(self, outward: Outward, environ: Mapping[str, str]) -> None:
        self.refused: list[str] = []
        """Why hosts were refused, the first ones."""
        self._outward = outward
        self._proxies = {
            scheme: environ.get(f"{scheme}_proxy")
            or environ.get(f"{scheme}_proxy".upper())
            or environ.get("all_proxy")
            or environ.get("ALL_PROXY")
            or ""
            for scheme in ("http", "https")
        }
        self._direct = environ.get("no_proxy") or environ.get("NO_PROXY") or ""
        self._word = secrets.token_urlsafe(24)
        self._server = _Server(self)
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, name="pushtrain-outproxy"
        )

    @property
    def variables(self) -> dict[str, str]:
        """What tells a program to ask here."""
        url = f"http://pushtrain:{self._word}@127.0.0.1:{self._server.server_address[1]}"
        return dict.fromkeys(NAMES, url)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.hang_up()
        self._server.server_close()

    def knows(self, shown: str) -> bool:
        """Whether a `Proxy-Authorization` is of whom this was made for."""
        expected = "Basic " + base64.b64encode(f"pushtrain:{self._word}".encode()).decode()
        return secrets.compare_digest(shown.encode("utf-8", "replace"), expected.encode())

    def to(self, there: WebAddress) -> tuple[socket.socket, str]:
        """A connection towards a host, and what the owner's proxy at its other end is shown first.

        The second is empty where the connection leads to the host itself.

        Raises:
            DataError: The host must not be asked.
            OSError: It does not answer.
        """
        why = self._outward.why_not_ask(there)
        if why:
            raise dial.refused(there.host, there.port, why)
        proxy = self._proxies[there.scheme]
        place, direct = f"{there.host}:{there.port}", {"no": self._direct}
        # typeshed does not have it
        if not proxy or urllib.request.proxy_bypass_environment(place, direct):  # type: ignore[attr-defined]
            addresses = dial.judge(self._outward, there.host, there.port)
            return _connected([str(one) for one in addresses], there.port), ""
        with contextlib.suppress(socket.gaierror):  # a name that only the owner's proxy knows
            dial.judge(self._outward, there.host, there.port)
        parts = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
        if parts.scheme != "http" or not parts.hostname:
            raise DataError(
                f"A proxy of the kind {parts.scheme}:// is not supported for builds.",
                mend="Set HTTPS_PROXY to an http:// proxy, or NO_PROXY to the index's host.",
            )
        login = f"{parts.username}:{parts.password or ''}" if parts.username else ""
        shown = f"Proxy-Authorization: Basic {base64.b64encode(login.encode()).decode()}\r\n" if login else ""
        return _connected([parts.hostname], parts.port or 80), f"Connection: close\r\n{shown}"

    def note(self, error: DataError) -> None:
        """Remember why a host was refused."""
        said = f"{error.message} {error.mend}"
        if said not in self.refused and len(self.refused) < _TOLD:
            self.refused.append(said)


class _Server(socketserver.ThreadingTCPServer):
    """The listening side; knows every connection, so that the end ends them all."""

    daemon_threads = True  # one that waits for a host's answer ends by itself
    request_queue_size = 64

    def __init__(self, proxy: JudgedProxy) -> None:
        self.proxy = proxy
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        super().__init__(("127.0.0.1", 0), _Handler)

    def hold(self, one: socket.socket) -> None:
        """End this connection, too, when all end."""
        with self._lock:
            self._open.add(one)

    def release(self, one: socket.socket) -> None:
        """It has ended."""
        with self._lock:
            self._open.discard(one)

    def hang_up(self) -> None:
        """End every connection; their threads end by it."""
        with self._lock:
            for one in self._open:
                with contextlib.suppress(OSError):
                    one.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing: who hung up has no more questions."""


class _Handler(http.server.BaseHTTPRequestHandler):
    """One connection: one request."""

    server: _Server
    protocol_version = "HTTP/1.1"
    rbufsize = 0  # what follows a head is not ours to read ahead
    timeout = _FIRST

    def setup(self) -> None:
        self.server.hold(self.request)
        super().setup()
        self.close_connection = True  # one connection, one request

    def handle(self) -> None:
        """Answer it."""
        self.handle_one_request()

    def finish(self) -> None:
        self.server.release(self.request)
        super().finish()

    def do_CONNECT(self) -> None:
        """A tunnel, in which TLS is spoken."""
        self._forward(f"https://{self.path}/", tunnel=True)

    def do_GET(self) -> None:
        """A request without TLS, forwarded as it is."""
        if self.path.startswith("http://"):
            self._forward(self.path, tunnel=False)
        else:
            self._say(400, "no URL of a proxy's kind")

    do_HEAD = do_GET  # noqa: N815  as the base class calls it

    def _forward(self, url: str, *, tunnel: bool) -> None:
        proxy = self.server.proxy
        if not proxy.knows(self.headers.get("Proxy-Authorization", "")):
            self._say(407, "this proxy is for one program")
            return
        try:
            other, shown = proxy.to(there := read(url))
        except ValueError as error:
            self._say(400, f"the URL {error}")
        except DataError as error:
            proxy.note(error)
            self._say(403, error.message)
        except OSError as error:
            if dial.unknown(error):
                proxy.note(DataError(f"There is no server {read(url).host}.", mend="Check the name."))
            self._say(502, "it does not answer")
        else:
            self.server.hold(other)
            try:
                self._relay(other, shown, there, tunnel=tunnel)
            except OSError:
                return
            finally:
                self.server.release(other)
                other.close()

    def _relay(self, other: socket.socket, shown: str, there: WebAddress, *, tunnel: bool) -> None:
        mine = cast("socket.socket", self.connection)
        host = f"[{there.host}]" if ":" in there.host else there.host
        place = f"{host}:{there.port}"
        if tunnel and shown:
            other.sendall(f"CONNECT {place} HTTP/1.1\r\nHost: {place}\r\n{shown}\r\n".encode("ascii"))
            if (status := _status(other)) != 200:  # noqa: PLR2004  OK
                self._say(502, f"the owner's proxy says {status}")
                return
        if tunnel:
            mine.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
        else:
            other.sendall(self._head(place, shown))
        _both_ways(mine, other, only_answer=not tunnel)

    def _head(self, place: str, shown: str) -> bytes:
        """The request's head as it is sent on."""
        parts = urlsplit(self.path)
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        kept = [
            f"{name}: {value}\r\n"
            for name, value in self.headers.items()
            if name.lower() not in _HOP and not name.lower().startswith("proxy-")
        ]
        lines = [f"{self.command} {f'http://{place}{path}' if shown else path} HTTP/1.1\r\n"]
        lines += [f"Host: {place.removesuffix(':80')}\r\n", *kept, shown or "Connection: close\r\n", "\r\n"]
        return "".join(lines).encode("latin-1")

    def _say(self, status: int, why: str) -> None:
        body = f"pushtrain: {why}\n".encode()
        self.send_response(status)
        self.send_header("Content-Type", "text/plain; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Connection", "close")
        if status == 407:  # noqa: PLR2004  Proxy Authentication Required: git asks only then
            self.send_header("Proxy-Authenticate", 'Basic realm="pushtrain"')
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  as the base class calls it
        """Write nothing: paths may hold what is nobody's business."""


def _connected(addresses: list[str], port: int) -> socket.socket:
    """A connection to the first of these that answers."""
    last: OSError = OSError("it has no address")
    for address in addresses[:4]:
        try:
            return socket.create_connection((address, port), _CONNECT)
        except OSError as error:
            last = error
    raise last


def _status(other: socket.socket) -> int:
    """What a proxy answers to CONNECT; its answer is read, byte by byte, to the end of its head."""
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        one = other.recv(1)
        if not one or len(head) > _HEAD:
            return 0
        head += one
    words = head.split(b" ", 2)
    return int(words[1]) if len(words) > 1 and words[1].isdigit() else 0


def _both_ways(mine: socket.socket, other: socket.socket, *, only_answer: bool) -> None:
    """Pass on what comes until either side has ended, or nothing comes for long.

    Args:
        mine: Who asked.
        other: Who answers.
        only_answer: Whether the first has said all that it may: whatever else it sends ends it.
    """
    for one in (mine, other):
        one.settimeout(_SILENCE)
    sides = {mine.fileno(): (mine, other), other.fileno(): (other, mine)}
    poll = select.poll()
    for number in sides:
        poll.register(number, select.POLLIN)
    while ready := poll.poll(_SILENCE * 1000):
        for number, _ in ready:
            one, towards = sides[number]
            data = one.recv(_BLOCK)
            if not data or (only_answer and one is mine):
                return
            towards.sendall(data)
