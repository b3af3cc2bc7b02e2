"""GitHub's REST API: one question, one answer, bounded; for whoever asks or tells something there.

A token goes to the one API that was named and nowhere else, in a header: never into an address, a log or an
error. A redirect that leads to another host is not followed. GitHub Enterprise Server speaks the same.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final
from urllib.parse import quote, urljoin, urlsplit

import urllib3
from urllib3.exceptions import HTTPError

from pushtrain import __version__
from pushtrain.core.errors import ConfigError, Unreachable
from pushtrain.plumbing.http.connection import is_loopback, last_words, proxy_for

_MOST: Final = 1024 * 1024
_REDIRECTS: Final = 3
_TOKEN: Final = re.compile(r"[\x21-\x7e]{1,1000}")


@dataclass(frozen=True, slots=True)
class Reply:
    """What the API answered."""

    status: int
    headers: Mapping[str, str]
    """Names are lower-case."""
    body: bytes

    @property
    def message(self) -> str:
        """What the body says for people, in one line."""
        try:
            document = json.loads(self.body)
            text = str(document["message"])
        except (ValueError, KeyError, TypeError):
            text = ""
        return " ".join("".join(filter(str.isprintable, text)).split())[:200] or f"HTTP {self.status}"


class GitHubApi:
    """One GitHub's API. Any thread may use it.

    Args:
        api: Its base: `https://api.github.com`, `https://HOST/api/v3`.
        token: For what is not public; empty: none.
        timeout: Seconds for an answer; half of it for a connection.

    Raises:
        ConfigError: The address or the token is not of that form.
    """

    def __init__(self, api: str, token: str = "", *, timeout: float = 10) -> None:
        self.host = host_of(api)
        if token and not _TOKEN.fullmatch(token):
            raise ConfigError(
                f"The token for {self.host} holds characters that no token has.",
                mend="Set PUSHTRAIN_HOST_TOKEN to the token alone, without quotes or line breaks.",
            )
        self._api = api.rstrip("/")
        self._timeout = urllib3.Timeout(connect=timeout / 2, read=timeout)
        self._headers = {
            "accept": "application/vnd.github+json",
            "accept-encoding": "identity",
            "user-agent": f"pushtrain/{__version__}",
            "x-github-api-version": "2022-11-28",
        } | ({"authorization": f"Bearer {token}"} if token else {})
        parts = urlsplit(self._api)
        proxy = proxy_for(parts.scheme, parts.hostname or "", parts.port)
        self._pool = urllib3.ProxyManager(proxy) if proxy else urllib3.PoolManager()

    def close(self) -> None:
        """Close the kept connections."""
        self._pool.clear()

    def serves(self, key: str) -> bool:
        """Whether a repository is on this GitHub."""
        return is_on(self.host, key)

    def ask(self, method: str, path: str, body: bytes | None = None) -> Reply:
        """One question; redirects within the same API are followed, as a renamed repository needs it.

        Raises:
            Unreachable: There is no answer.
        """
        url = self._api + path
        headers = self._headers | ({"content-type": "application/json"} if body else {})
        for _ in range(_REDIRECTS):
            try:
                response = self._pool.request(
                    method,
                    url,
                    body=body,
                    headers=headers,
                    redirect=False,
                    retries=False,
                    timeout=self._timeout,
                    preload_content=False,
                )
                content = response.read(_MOST)
            except HTTPError as error:
                why = last_words(error)
                raise Unreachable(f"{self.host} cannot be asked: {why}.") from error
            if response.length_remaining:
                response.close()
            response.release_conn()
            reply = Reply(response.status, {n.lower(): v for n, v in response.headers.items()}, content)
            there = urljoin(url, reply.headers.get("location", ""))
            if reply.status not in {301, 302, 307, 308} or urlsplit(there)[:2] != urlsplit(url)[:2]:
                return reply
            url = there
        return reply


def is_on(host: str, key: str) -> bool:
    """Whether a repository's key is one of this GitHub."""
    own, *path = key.split("/")
    return own.lower() == host and len(path) == 2  # noqa: PLR2004  owner and name


def host_of(api: str) -> str:
    """The Git host that an API belongs to: `github.com` for `https://api.github.com`.

    Raises:
        ConfigError: It is no such address, or one that a token must not be sent to.
    """
    try:
        parts = urlsplit(api)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        host, port, parts = "", None, urlsplit("")
    plain = parts.scheme == "http" and is_loopback(host)
    if not host or "@" in parts.netloc or parts.query or not (plain or parts.scheme == "https"):
        raise ConfigError(
            f"`status_api` is {api[:200].rpartition('@')[2]!r}, not the https address of an API.",
            mend="It looks like https://api.github.com or https://HOST/api/v3.",
        )
    own = host.removeprefix("api.") if parts.path in {"", "/"} else host
    return own if port in {None, 443} else f"{own}:{port}"


def limited(reply: Reply) -> bool:
    """Whether this refusal is a rate limit, the primary or the secondary one."""
    return reply.status == 429 or (  # noqa: PLR2004  Too Many Requests
        reply.status == 403  # noqa: PLR2004  Forbidden
        and (
            reply.headers.get("x-ratelimit-remaining") == "0"
            or "retry-after" in reply.headers
            or "rate limit" in reply.message.lower()
        )
    )


def repository_path(key: str) -> str:
    """A repository's place in the API."""
    return f"/repos/{quote(key.partition('/')[2])}"
