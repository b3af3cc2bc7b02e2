"""Files by http and https: an `Opener` for `plumbing.download`.

Redirects are followed by us, five at most, never from https to http, and a token goes only to the host it is
meant for. Every URL, a redirect's too, passes `admit` before anything is asked of it, and every connection
comes from `Web._pool`: the one place where rules about addresses belong. Proxies are taken from the
environment (`HTTPS_PROXY`, `HTTP_PROXY`, `NO_PROXY`).
"""

import contextlib
import re
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from typing import Final
from urllib.parse import urljoin, urlsplit

import urllib3
from urllib3.exceptions import HTTPError, LocationValueError, SSLError

from pushtrain import __version__
from pushtrain.core.errors import DataError
from pushtrain.plumbing.download import Ask, Interrupted, Opener, Restart, Stream, Version

Admit = Callable[[str], None]
"""Given every URL before it is asked; raises `DataError` to refuse it."""

_CHUNK: Final = 256 * 1024
_REDIRECTS: Final = 5
_TIMEOUT: Final = urllib3.Timeout(connect=10, read=30)
_MAY_PASS: Final = frozenset({408, 425, 429, 500, 502, 503, 504})
_MENDS: Final = {
    401: "The executor has no permission for it; for Hugging Face set HF_TOKEN there.",
    403: "The executor has no permission for it; for Hugging Face set HF_TOKEN there.",
    404: "Check the URL.",
    410: "Check the URL.",
}


def without_query(url: str) -> str:
    """The URL as it may be shown: queries often hold signatures, and user names passwords."""
    parts = urlsplit(url)
    return parts._replace(query="", fragment="", netloc=parts.netloc.rpartition("@")[2]).geturl()


class Web:
    """Connections to web servers, kept open between files.

    Args:
        admit: Asked before every request.
        tokens: Bearer tokens by host.
        workers: How many threads will use it at once.
    """

    def __init__(
        self,
        *,
        admit: Admit = lambda _: None,
        tokens: Mapping[str, str] | None = None,
        workers: int = 1,
    ) -> None:
        self._admit = admit
        self._tokens = dict(tokens or {})
        self._workers = workers
        self._pools: dict[str, urllib3.PoolManager] = {}

    def opener(self, url: str) -> Opener:
        """How to get the file at this URL."""
        return lambda ask: self._open(url, ask)

    def close(self) -> None:
        """Close what is still open."""
        for pool in self._pools.values():
            pool.clear()

    @contextlib.contextmanager
    def _open(self, url: str, ask: Ask) -> Iterator[Stream]:
        headers = {"User-Agent": f"pushtrain/{__version__}", "Accept": "*/*", "Accept-Encoding": "identity"}
        if ask.offset:
            headers["Range"] = f"bytes={ask.offset}-"
            if ask.version.strong:
                headers["If-Range"] = ask.version.strong
        elif ask.known.etag:
            headers["If-None-Match"] = ask.known.etag
        elif ask.known.modified:
            headers["If-Modified-Since"] = ask.known.modified
        response = self._request(url, headers)
        try:
            yield _stream(response, without_query(url), ask)
        finally:
            if response.length_remaining != 0:  # unread bytes would spoil it for the next request
                response.close()
            response.release_conn()

    def _request(self, url: str, headers: Mapping[str, str]) -> urllib3.BaseHTTPResponse:
        """The answer that is no redirect."""
        first = url
        for _ in range(_REDIRECTS + 1):
            self._admit(url)
            parts = urlsplit(url)
            token = self._tokens.get(parts.hostname or "") if parts.scheme == "https" else None
            sent = {**headers, "Authorization": f"Bearer {token}"} if token else dict(headers)
            try:
                response = self._pool(url).request(
                    "GET", url, headers=sent, redirect=False, retries=False, preload_content=False
                )
            except SSLError as error:
                raise DataError(
                    f"{without_query(url)} has no certificate that this machine trusts: {error}.",
                    mend="Check the URL, the machine's clock, and SSL_CERT_FILE.",
                ) from error
            except LocationValueError as error:
                raise DataError(f"{without_query(url)} is not a URL: {error}.") from error
            except HTTPError as error:
                raise Interrupted(_said(error)) from error
            target = response.headers.get("Location")
            if response.status not in {301, 302, 303, 307, 308} or not target:
                return response
            response.drain_conn()
            url = _followed(url, target)
        raise DataError(
            f"{without_query(first)} redirects more than {_REDIRECTS} times.", mend="Check the URL."
        )

    def _pool(self, url: str) -> urllib3.PoolManager:
        """The connections that this URL uses: direct, or through the proxy that the environment names."""
        parts = urlsplit(url)
        proxy = urllib.request.getproxies().get(parts.scheme, "")
        if not proxy or urllib.request.proxy_bypass(parts.netloc.rpartition("@")[2]):
            proxy = ""
        if proxy not in self._pools:
            self._pools[proxy] = self._connections(proxy)
        return self._pools[proxy]

    def _connections(self, proxy: str) -> urllib3.PoolManager:
        if not proxy:
            return urllib3.PoolManager(maxsize=self._workers, timeout=_TIMEOUT)
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
        return urllib3.ProxyManager(bare, proxy_headers=headers, maxsize=self._workers, timeout=_TIMEOUT)


def check(url: str) -> None:
    """Refuse what is not a plain http(s) URL.

    Raises:
        DataError: Another scheme, no host, or a user name in it.
    """
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise DataError(f"{without_query(url)} is not an http(s) URL.", mend="Use https://.")
    if "@" in parts.netloc:
        raise DataError(
            f"{without_query(url)} carries a user name or a password.",
            mend="A URL is kept in Git and in reports: use a signed URL, or a public file with its sha256.",
        )


def _followed(url: str, target: str) -> str:
    there = urljoin(url, target)
    check(there)
    if urlsplit(url).scheme == "https" and urlsplit(there).scheme != "https":
        raise DataError(
            f"{without_query(url)} redirects from https to {without_query(there)}.",
            mend="Use a server that stays on https.",
        )
    return there


def _stream(response: urllib3.BaseHTTPResponse, title: str, ask: Ask) -> Stream:
    status = response.status
    version = Version(response.headers.get("ETag", ""), response.headers.get("Last-Modified", ""))
    if status == 304 and ask.known != Version():  # noqa: PLR2004  Not Modified
        return Stream(version, iter(()), unchanged=True)
    if status == 416:  # noqa: PLR2004  Range Not Satisfiable
        raise Restart("the server has fewer bytes than arrived earlier")
    if status in _MAY_PASS:
        after = response.headers.get("Retry-After", "")
        raise Interrupted(f"the server answered {status}", after=float(after) if after.isdecimal() else 0)
    if status == 206:  # noqa: PLR2004  Partial Content
        found = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+|\*)", response.headers.get("Content-Range", ""))
        if not ask.offset or found is None:
            raise Restart("the server sent a part that nobody can place")
        size = None if found[3] == "*" else int(found[3])
        return Stream(version, _chunks(response), start=int(found[1]), size=size)
    if status != 200:  # noqa: PLR2004  OK
        raise DataError(
            f"{title} could not be fetched: the server answered {status}.", mend=_MENDS.get(status, "")
        )
    length = response.headers.get("Content-Length", "")
    return Stream(version, _chunks(response), size=int(length) if length.isdecimal() else None)


def _chunks(response: urllib3.BaseHTTPResponse) -> Iterator[bytes]:
    try:
        while chunk := response.read1(_CHUNK, decode_content=False):
            yield chunk
    except HTTPError as error:
        raise Interrupted(_said(error)) from error


def _said(error: HTTPError) -> str:
    """A network error in one line, without the pool and the URL that urllib3 puts in."""
    text = str(error.args[-1] if error.args else error)
    if "IncompleteRead" in text:
        return "the connection closed early"
    return re.sub(r"^<?[\w.]+(Connection|Pool)[^:]*: ", "", text).rstrip(".")
