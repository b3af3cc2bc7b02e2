"""One executor over HTTP: sign what goes out, believe only what is signed for it.

Connections are kept; redirects, cookies and encodings are not taken part in. Proxies come from the
environment (`HTTPS_PROXY`, `HTTP_PROXY`, `NO_PROXY`), but never stand between us and this machine itself.
An answer without the executor's signature is no answer, whatever it says: a login page, a tunnel's error page
and somebody else's server all look the same from here.
"""

import contextlib
import ipaddress
import re
import ssl
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

import urllib3
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from pydantic import ValidationError
from urllib3.exceptions import (
    ConnectTimeoutError,
    HTTPError,
    NewConnectionError,
    ProtocolError,
    ProxyError,
    SSLError,
)

from pushtrain import __version__
from pushtrain.core.errors import PushtrainError, Unauthorized, Unreachable, UsageError
from pushtrain.core.wire.bodies import ErrorBody
from pushtrain.core.wire.signing import (
    UNKNOWN_KEY,
    Message,
    fields,
    fingerprint,
    public_text,
    sign_request,
    verify_response,
)
from pushtrain.core.wire.succession import HEADER as SUCCESSION
from pushtrain.plumbing.http.onepiece import in_one_piece

_MOST: Final = 64 * 1024 * 1024
"""Bytes of an answer that are read before it is known whose it is."""
_PIECE: Final = 64 * 1024
_CONNECTIONS: Final = 8
_OK: Final = frozenset({200, 202})
_TUNNEL_CODE: Final = re.compile(r"ERR_NGROK_\d{1,6}")
"""What an edge of ngrok says in a header when it answers in the executor's stead."""
_HEADERS: Final = {"accept-encoding": "identity", "user-agent": f"pushtrain/{__version__}"}


@dataclass(frozen=True, slots=True)
class Request:
    """What to ask."""

    method: str
    path: str
    query: str = ""
    body: bytes = b""
    idempotency_key: str = ""


class Connection:
    """A way to one executor. Any thread may use it.

    Args:
        url: Where it is: scheme, host and port, nothing else.
        executor: The key that it must prove with every answer.
        identity: Signs what we ask.
        succession: What our former keys said of it, as a header; empty: it has had none.
        timeout: Seconds for an answer to begin; a fraction of it for a connection.
        clock: Seconds since the epoch.
        nonce: Makes a text that was never used before.

    Raises:
        UsageError: The address is not of that form.
    """

    def __init__(
        self,
        url: str,
        executor: Ed25519PublicKey,
        identity: Ed25519PrivateKey,
        *,
        timeout: float,
        succession: str = "",
        clock: Callable[[], float] = time.time,
        nonce: Callable[[], str],
    ) -> None:
        self.url = url.rstrip("/")
        self._executor = executor
        self._audience = fingerprint(executor)
        self._identity = identity
        self._more = {SUCCESSION: succession} if succession else {}
        self._timeout = timeout
        self._clock = clock
        self._nonce = nonce
        self._pool = pool(self.url)

    def close(self) -> None:
        """Close the kept connections."""
        self._pool.clear()

    def ask(self, request: Request) -> bytes:
        """Ask, and return the body of the answer.

        A kept connection that the other side has closed meanwhile is replaced, once; every request may be
        repeated, since what it does is done only once.

        Raises:
            Unreachable: There is no answer, or none that the executor has signed.
            PushtrainError: What the executor answered, in the class with its code.
        """
        try:
            return self._ask(request)
        except Unreachable as error:
            if not isinstance(error.__cause__, ProtocolError):
                raise
        try:
            return self._ask(request)
        except Unreachable as error:
            if error.sent:
                raise
            # That nobody listens any more says nothing of the first time.
            raise Unreachable(error.message, mend=error.mend, sent=True) from error

    def _ask(self, request: Request) -> bytes:
        with self._open(request, self._timeout) as (response, signature):
            return self._believe(response, self._body(response), signature)

    @contextlib.contextmanager
    def stream(
        self, request: Request, *, silence: float, opened: Callable[[Callable[[], None]], None] | None = None
    ) -> Iterator[tuple[Iterator[bytes], str]]:
        """Open a stream; its pieces as they come, and the signature that its lines are bound to.

        Args:
            request: What to ask.
            silence: Seconds without a byte after which the line counts as dead.
            opened: Told once it stands how to cut it, which any thread may do.

        Raises:
            Unreachable, PushtrainError: As `ask`; the pieces raise Unreachable, too.
        """
        with self._open(request, silence) as (response, signature):
            if response.status != 200:  # noqa: PLR2004  OK
                self._believe(response, self._body(response), signature)
                raise self._strange(f"HTTP {response.status} where a stream should begin")
            try:
                headers = fields(response.headers.items())
                verify_response(200, headers, None, key=self._executor, request=signature)
            except Unauthorized as error:
                raise self._unsigned(response) from error
            if opened is not None:
                opened(lambda: _cut(response))
            yield self._pieces(response), signature

    @contextlib.contextmanager
    def _open(self, request: Request, silence: float) -> Iterator[tuple[urllib3.BaseHTTPResponse, str]]:
        message = Message(request.method, request.path, request.query, {}, request.body)
        headers = sign_request(
            message,
            key=self._identity,
            audience=self._audience,
            nonce=self._nonce(),
            now=self._clock(),
            idempotency_key=request.idempotency_key,
        )
        target = f"{self.url}{request.path}" + (f"?{request.query}" if request.query else "")
        try:
            response = self._pool.urlopen(
                request.method,
                target,
                body=request.body or None,
                headers=_HEADERS | self._more | headers,
                retries=False,
                redirect=False,
                timeout=urllib3.Timeout(connect=min(self._timeout, 10), read=silence),
                preload_content=False,
                decode_content=False,
            )
        except HTTPError as error:
            raise self._unreachable(error) from error
        whole = False
        try:
            yield response, headers["signature"]
            whole = True
        finally:
            if not whole:
                response.close()
            response.release_conn()

    def _body(self, response: urllib3.BaseHTTPResponse) -> bytes:
        body = bytearray()
        for piece in self._pieces(response):
            body += piece
            if len(body) > _MOST:
                raise self._strange(f"an answer of more than {_MOST} bytes")
        return bytes(body)

    def _pieces(self, response: urllib3.BaseHTTPResponse) -> Iterator[bytes]:
        try:
            while piece := response.read1(_PIECE, decode_content=False):
                yield piece
        except HTTPError as error:
            raise self._unreachable(error) from error

    def _believe(self, response: urllib3.BaseHTTPResponse, body: bytes, signature: str) -> bytes:
        """The body, once it is certain who says it and in answer to what; raise what it says went wrong."""
        status = response.status
        try:
            headers = fields(response.headers.items())
            bound = verify_response(status, headers, body, key=self._executor, request=signature)
        except Unauthorized as error:
            raise self._unsigned(response) from error
        if bound and status in _OK:
            return body
        try:
            error_told = ErrorBody.model_validate_json(body).raised(status)
        except ValidationError:
            raise self._strange(f"HTTP {status} without a reason") from None
        if bound or isinstance(error_told, Unauthorized):
            raise self._with_our_key(error_told)
        # Said before the request was verified: it may have been said to somebody else, and be replayed to us.
        raise self._strange(f"a refusal that is bound to no request: {error_told.message}")

    def _with_our_key(self, error: PushtrainError) -> PushtrainError:
        """The refusal of a stranger, with the command that makes us known: only we know our key."""
        if not isinstance(error, Unauthorized) or error.mend != UNKNOWN_KEY:
            return error
        own = public_text(self._identity.public_key())
        return Unauthorized(
            f"The executor at {self.url} does not know this machine's key, or refuses its signature.",
            mend=f"On the executor's machine: `pushtrain key authorize {own}`",
        )

    # --- what can go wrong --------------------------------------------------------------------------------

    def _unreachable(self, error: HTTPError) -> Unreachable:
        mend = "Is it running (`pushtrain executor`), and is this still its address?"
        if _never_sent(error):
            return Unreachable(
                f"No connection to the executor at {self.url}: {last_words(error)}.", mend=mend, sent=False
            )
        return Unreachable(
            f"The executor at {self.url} gave no whole answer: {last_words(error)}.", mend=mend
        )

    def _unsigned(self, response: urllib3.BaseHTTPResponse) -> Unreachable:
        kind = response.headers.get("content-type", "without a type")[:60]
        code = response.headers.get("ngrok-error-code", "")
        if _TUNNEL_CODE.fullmatch(code):
            return Unreachable(
                f"Behind {self.url} no executor answers at this moment; the tunnel says {code}.",
                mend="Is it running? docs/tunnels.md tells what the code means.",
            )
        return Unreachable(
            f"What answers at {self.url} is not the executor {self._audience[:15]}…: HTTP {response.status}, "
            f"{kind}, not signed by its key.",
            mend="A proxy, a login page or a recycled tunnel may stand there; ask the owner for the address.",
        )

    def _strange(self, what: str) -> Unreachable:
        return Unreachable(
            f"The executor at {self.url} answered with {what}.",
            mend="Compare `pushtrain --version` on both machines.",
        )


def pool(url: str) -> urllib3.PoolManager:
    """Connections to an executor's address, through the proxy that the environment names.

    Raises:
        UsageError: It is no such address.
    """
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        parts, port = urlsplit(""), None
    whole = f"{parts.scheme}://{parts.netloc}"
    if parts.scheme not in {"http", "https"} or not parts.hostname or "@" in parts.netloc or url != whole:
        raise UsageError(
            f"`{url[:200].rpartition('@')[2]}` is no executor's address.",
            mend="One looks like https://lab.example or http://127.0.0.1:8421.",
        )
    proxy = proxy_for(parts.scheme, parts.hostname, port)
    if proxy:
        return in_one_piece(urllib3.ProxyManager(proxy, num_pools=1, maxsize=_CONNECTIONS))
    return in_one_piece(urllib3.PoolManager(num_pools=1, maxsize=_CONNECTIONS))


def proxy_for(scheme: str, host: str, port: int | None) -> str:
    """The proxy to go through; empty: none."""
    if is_loopback(host):
        return ""
    proxies = urllib.request.getproxies_environment()
    place = f"{host}:{port}" if port else host
    if urllib.request.proxy_bypass(place):
        return ""
    return proxies.get(scheme, proxies.get("all", ""))


def is_loopback(host: str) -> bool:
    """Whether this host is this machine itself."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def _cut(response: urllib3.BaseHTTPResponse) -> None:
    """Wake whoever reads this answer; urllib3 closes it only from the reader's own thread."""
    with contextlib.suppress(OSError, ValueError, RuntimeError, AttributeError):  # closed meanwhile
        response.shutdown()


def _never_sent(error: HTTPError) -> bool:
    """Whether no byte of the request can have reached the executor."""
    if isinstance(error, (NewConnectionError, ConnectTimeoutError, ProxyError)):
        return True
    causes = [error, *error.args]
    return isinstance(error, SSLError) and any(
        isinstance(each, ssl.SSLCertVerificationError) for each in causes
    )


def last_words(error: HTTPError) -> str:
    """The last words of the chain, which name the cause; urllib3's own hold addresses of objects."""
    inner: BaseException = error
    while inner.__cause__ is not None or (inner.args and isinstance(inner.args[-1], BaseException)):
        inner = inner.__cause__ or inner.args[-1]
    text = getattr(inner, "strerror", None) or str(inner).rpartition(": ")[2] or type(inner).__name__
    return text.rstrip(".")
