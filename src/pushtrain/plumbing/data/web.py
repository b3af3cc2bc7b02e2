"""Files by http and https: an `Opener` for `plumbing.data.download`.

Redirects are followed by us, five at most, never from https to http, and a token goes to the host that it
is meant for and to no other. Every URL, a redirect's too, is read by `core.text.weburl` and judged before
anything is asked of it; every connection comes from `Web._connections`, whose sockets `plumbing.data.dial`
judges by their addresses and `plumbing.http.pace` watches. Nothing that a server sends is decompressed, kept
beyond its use, or read without a bound.

Proxies are taken from the environment (`HTTPS_PROXY`, `HTTP_PROXY`, `NO_PROXY`). The owner has named
them, so they may be anywhere. A proxy looks names up itself: what a name leads to is judged beforehand as
far as this machine can look it up, and what the proxy then connects to is the proxy's to judge.
"""

import contextlib
import logging
import re
import socket
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final, cast
from urllib.parse import quote, urljoin, urlsplit

import urllib3
from urllib3.exceptions import HTTPError, LocationValueError, NameResolutionError, SSLError

from pushtrain import __version__
from pushtrain.core.errors import DataError
from pushtrain.core.owner.outward import Outward
from pushtrain.core.text.weburl import WebAddress, read, shown
from pushtrain.plumbing.data import dial
from pushtrain.plumbing.data.download import Ask, Interrupted, Nowhere, Opener, Restart, Stream, Version
from pushtrain.plumbing.http.pace import Pace

Moved = Callable[[urllib3.BaseHTTPResponse], str]
"""Where an answer says that the file is, otherwise than by a redirect; empty: nowhere else."""

_CHUNK: Final = 256 * 1024
_REDIRECTS: Final = 5
_REST: Final = 64 * 1024
"""Bytes of an answer nobody wants that are read for the sake of its connection."""
_TIMEOUT: Final = urllib3.Timeout(connect=10, read=30)
_MAY_PASS: Final = frozenset({408, 425, 429, 500, 502, 503, 504})
_NOT_OURS: Final = (
    "If it is not public: its owner may list it in `data_credentials` of `[rules]`, see docs/data.md."
)
_MENDS: Final = {401: _NOT_OURS, 403: _NOT_OURS, 404: "Check the URL.", 410: "Check the URL."}
_SLOW: Final = "the server sent next to nothing"
_NUMBER: Final = re.compile(r"[0-9]{1,18}")
_ETAG: Final = re.compile(r'(W/)?"[!#-~]{0,200}"')
_DATE: Final = re.compile(r"[A-Za-z0-9:, +-]{1,64}")
_PRINTABLE: Final = "".join(map(chr, range(0x21, 0x7F))).replace("\\", "")

# At debug level it writes whole URLs, and the signatures in their queries.
logging.getLogger("urllib3").setLevel(logging.INFO)


@dataclass(frozen=True, slots=True)
class _Wanted:
    """One file, and how it is asked for."""

    url: str
    token: str = field(default="", repr=False)
    headers: Mapping[str, str] = field(default_factory=dict[str, str], repr=False)
    body: bytes = b""
    kind: str = ""
    moved: Moved = lambda _: ""

    def sent(self, url: str, ours: Mapping[str, str]) -> dict[str, str]:
        """What is sent along to this URL: what is meant for one host goes to no other."""
        if self.body:
            ours = {**ours, "Accept": self.kind, "Content-Type": self.kind}
        if urlsplit(url).netloc != urlsplit(self.url).netloc:
            return dict(ours)
        trusted = self.token and urlsplit(url).scheme == "https"
        return {**ours, **self.headers} | ({"Authorization": f"Bearer {self.token}"} if trusted else {})


class Web:
    """Connections to web servers, kept open between files.

    Args:
        outward: Whom it may ask; None: anybody.
        workers: How many threads will use it at once.
        pace: Watches servers that bring next to nothing.
    """

    def __init__(self, *, outward: Outward | None = None, workers: int = 1, pace: Pace | None = None) -> None:
        self._outward = outward
        self._workers = workers
        self._pace = pace or Pace()
        self._look = partial(dial.judge, outward) if outward is not None else dial.anywhere
        self._pools: dict[str, urllib3.PoolManager] = {}

    def opener(
        self,
        url: str,
        *,
        token: str = "",
        headers: Mapping[str, str] | None = None,
        body: bytes = b"",
        kind: str = "",
        moved: Moved = lambda _: "",
    ) -> Opener:
        """How to get the file at this URL.

        Args:
            url: http or https.
            token: A bearer token for this URL's host, sent over https only.
            headers: More headers for this URL's host.
            body: What is posted to it, also where it redirects to; empty: it is a GET.
            kind: The media type of what is posted and of the answer.
            moved: Asked of every answer before it counts.
        """
        wanted = _Wanted(url, token, headers or {}, body, kind, moved)
        return lambda ask: self._open(wanted, Ask() if body else ask)

    def close(self) -> None:
        """Close what is still open."""
        for pool in self._pools.values():
            pool.clear()
        self._pace.close()

    @contextlib.contextmanager
    def _open(self, wanted: _Wanted, ask: Ask) -> Iterator[Stream]:
        headers = {"User-Agent": f"pushtrain/{__version__}", "Accept": "*/*", "Accept-Encoding": "identity"}
        if ask.offset:
            headers["Range"] = f"bytes={ask.offset}-"
            if ask.version.strong:
                headers["If-Range"] = ask.version.strong
        elif ask.known.etag:
            headers["If-None-Match"] = ask.known.etag
        elif ask.known.modified:
            headers["If-Modified-Since"] = ask.known.modified
        with self._paced():
            response = self._request(wanted, headers)
            try:
                yield _stream(response, self._chunks(response), shown(wanted.url), ask)
            finally:
                _leave(response)

    @contextlib.contextmanager
    def _paced(self) -> Iterator[None]:
        """Say of a transfer that was cut off for its pace that this was why."""
        try:
            yield
        except Interrupted as error:
            if self._pace.end():
                raise Interrupted(_SLOW) from error
            raise
        finally:
            self._pace.end()

    def _request(self, wanted: _Wanted, headers: Mapping[str, str]) -> urllib3.BaseHTTPResponse:
        """The answer that is no redirect."""
        url = wanted.url
        for _ in range(_REDIRECTS + 1):
            there = self._admit(url)
            response = self._ask(url, there, wanted.sent(url, headers), wanted.body)
            target = wanted.moved(response) or (
                response.headers.get("Location", "") if response.status in {301, 302, 303, 307, 308} else ""
            )
            if not target:
                return response
            _leave(response)
            url = _followed(url, target)
        raise DataError(f"{shown(wanted.url)} redirects more than {_REDIRECTS} times.", mend="Check the URL.")

    def _admit(self, url: str) -> WebAddress:
        """Judge a URL by itself; what its name leads to is judged when it is connected to."""
        there = check(url)
        why = self._outward.why_not_ask(there) if self._outward is not None else ""
        if why:
            raise dial.refused(there.host, there.port, why)
        return there

    def _ask(
        self, url: str, there: WebAddress, headers: Mapping[str, str], body: bytes
    ) -> urllib3.BaseHTTPResponse:
        try:
            return self._pool(url, there).request(
                "POST" if body else "GET",
                url,
                headers=headers,
                body=body or None,
                redirect=False,
                retries=False,
                preload_content=False,
            )
        except SSLError as error:
            raise DataError(
                f"{shown(url)} has no certificate that this machine trusts: {error}.",
                mend="Check the URL, the machine's clock, and SSL_CERT_FILE.",
            ) from error
        except LocationValueError:  # its text holds the whole URL
            raise DataError(f"{shown(url)} is not a URL.", mend="Check it.") from None
        except NameResolutionError as error:
            raise (Nowhere if dial.unknown(error.__cause__) else Interrupted)(_said(error)) from error
        except HTTPError as error:
            raise Interrupted(_said(error)) from error

    def _pool(self, url: str, there: WebAddress) -> urllib3.PoolManager:
        """The connections that this URL uses: direct, or through the proxy that the environment names."""
        parts = urlsplit(url)
        proxy = urllib.request.getproxies().get(parts.scheme, "")
        if not proxy or urllib.request.proxy_bypass(parts.netloc):
            proxy = ""
        elif self._outward is not None and there.literal is None:
            with contextlib.suppress(socket.gaierror):  # a name that only the proxy knows
                dial.judge(self._outward, there.host, there.port)
        if proxy not in self._pools:
            self._pools[proxy] = self._connections(proxy)
        return self._pools[proxy]

    def _connections(self, proxy: str) -> urllib3.PoolManager:
        if not proxy:
            direct = urllib3.PoolManager(maxsize=self._workers, timeout=_TIMEOUT)
            direct.pool_classes_by_scheme = cast("Any", dial.pools(self._look, self._pace))
            return direct
        parts = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
        if parts.scheme not in {"http", "https"}:
            raise DataError(
                f"A proxy of the kind {parts.scheme}:// is not supported.",
                mend="Set HTTPS_PROXY to an http:// or https:// proxy, or NO_PROXY to the host.",
            )
        headers = None
        if parts.username:
            headers = urllib3.make_headers(proxy_basic_auth=f"{parts.username}:{parts.password or ''}")
        bare = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
        through = urllib3.ProxyManager(bare, proxy_headers=headers, maxsize=self._workers, timeout=_TIMEOUT)
        through.pool_classes_by_scheme = cast("Any", dial.pools(dial.anywhere, self._pace))
        return through

    def _chunks(self, response: urllib3.BaseHTTPResponse) -> Iterator[bytes]:
        try:
            while chunk := response.read1(_CHUNK, decode_content=False):
                self._pace.count(len(chunk))
                yield chunk
        except HTTPError as error:
            raise Interrupted(_said(error)) from error
        if self._pace.hung_up:  # headers or chunks that end early may look like ones that are whole
            raise Interrupted(_SLOW)


def check(url: str) -> WebAddress:
    """Where a URL leads, if it is a plain http(s) one.

    Raises:
        DataError: It is not, or it could be read in two ways.
    """
    try:
        return read(url)
    except ValueError as error:
        mend = "Use https:// and a host in plain letters."
        if "password" in str(error):
            mend = "A URL is kept in Git and in reports: use a signed URL, or a public file with its sha256."
        raise DataError(f"{shown(url)} {error}.", mend=mend) from None


def _followed(url: str, target: str) -> str:
    """The URL that a server sends us on to; what it did not quote in the path is quoted."""
    there = urljoin(url, quote(target.encode("latin-1", "replace"), safe=_PRINTABLE))
    if urlsplit(url).scheme == "https" and check(there).scheme != "https":
        raise DataError(
            f"{shown(url)} redirects from https to {shown(there)}.",
            mend="Use a server that stays on https.",
        )
    return there


def _leave(response: urllib3.BaseHTTPResponse) -> None:
    """Keep the connection if little is left of the answer, else close it: who knows what still comes."""
    left = response.length_remaining
    if left is not None and left <= _REST:
        response.drain_conn()
    if not getattr(response, "isclosed", lambda: False)():
        response.close()
    response.release_conn()


def _stream(response: urllib3.BaseHTTPResponse, chunks: Iterator[bytes], title: str, ask: Ask) -> Stream:
    status = response.status
    version = Version(_word(response, "ETag", _ETAG), _word(response, "Last-Modified", _DATE))
    if status == 304 and ask.known != Version():  # noqa: PLR2004  Not Modified
        return Stream(version, iter(()), unchanged=True)
    if status == 416:  # noqa: PLR2004  Range Not Satisfiable
        raise Restart("the server has fewer bytes than arrived earlier")
    if status in _MAY_PASS:
        after = _word(response, "Retry-After", _NUMBER)
        raise Interrupted(f"the server answered {status}", after=float(after or 0))
    if status == 206:  # noqa: PLR2004  Partial Content
        found = re.fullmatch(
            r"bytes ([0-9]{1,18})-([0-9]{1,18})/([0-9]{1,18}|\*)", response.headers.get("Content-Range", "")
        )
        if not ask.offset or found is None:
            raise Restart("the server sent a part that nobody can place")
        size = None if found[3] == "*" else int(found[3])
        return Stream(version, chunks, start=int(found[1]), size=size)
    if status != 200:  # noqa: PLR2004  OK
        raise DataError(
            f"{title} could not be fetched: the server answered {status}.", mend=_MENDS.get(status, "")
        )
    length = _word(response, "Content-Length", _NUMBER)
    return Stream(version, chunks, size=int(length) if length else None)


def _word(response: urllib3.BaseHTTPResponse, header: str, form: re.Pattern[str]) -> str:
    """A header of the form that it should have; empty: it is not there, or is something else."""
    found = response.headers.get(header, "").strip()
    return found if form.fullmatch(found) else ""


def _said(error: HTTPError) -> str:
    """A network error in one line, without the pool and the URL that urllib3 puts in."""
    text = str(error.args[-1] if error.args else error)
    if "IncompleteRead" in text:
        return "the connection closed early"
    return re.sub(r"^<?[\w.]+(Connection|Pool)[^:]*: ", "", text).rstrip(".")
