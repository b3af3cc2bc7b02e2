"""GitHub's commit statuses: one line a job beside the pushed commit.

Written after https://docs.github.com/en/rest/commits/statuses and GitHub's rules for waiting,
https://docs.github.com/en/rest/using-the-rest-api/best-practices-for-using-the-rest-api. The token goes to
the one API that was named and nowhere else, in a header: never into an address, a log or an error. A redirect
that leads to another host is not followed.
"""

import json
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any, Final
from urllib.parse import quote, urljoin, urlsplit

import urllib3
from urllib3.exceptions import HTTPError

from pushtrain import __version__
from pushtrain.core.errors import ConfigError, CredentialError, Unreachable
from pushtrain.core.status import Answer, CommitStatus, Later, Never, Told
from pushtrain.plumbing.connection import is_loopback, last_words, proxy_for

_MOST: Final = 1024 * 1024
_HOUR: Final = 3600.0
_MINUTE: Final = 60.0
_REDIRECTS: Final = 3
_TOKEN: Final = re.compile(r"[\x21-\x7e]{1,1000}")
_NEEDED: Final = "It needs `Commit statuses: write` (a fine-grained token) or the scope `repo:status`."


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


class GitHubStatuses:
    """One GitHub, as whoever reports commit statuses sees it. Any thread may use it.

    Args:
        api: Base of its API: `https://api.github.com`, `https://HOST/api/v3`.
        token: May write commit statuses there.
        timeout: Seconds for an answer; half of it for a connection.
        clock: Seconds since the epoch.

    Raises:
        ConfigError: The address or the token is not of that form.
    """

    def __init__(
        self, api: str, token: str, *, timeout: float = 10, clock: Callable[[], float] = time.time
    ) -> None:
        self.host = host_of(api)
        if not _TOKEN.fullmatch(token):
            raise ConfigError(
                "The token for commit statuses is empty or holds characters that no token has.",
                mend="Set PUSHTRAIN_HOST_TOKEN to the token alone, without quotes or line breaks.",
            )
        self._api = api.rstrip("/")
        self._timeout = urllib3.Timeout(connect=timeout / 2, read=timeout)
        self._clock = clock
        self._headers = {
            "accept": "application/vnd.github+json",
            "accept-encoding": "identity",
            "authorization": f"Bearer {token}",
            "user-agent": f"pushtrain/{__version__}",
            "x-github-api-version": "2022-11-28",
        }
        parts = urlsplit(self._api)
        proxy = proxy_for(parts.scheme, parts.hostname or "", parts.port)
        self._pool = urllib3.ProxyManager(proxy) if proxy else urllib3.PoolManager()

    def close(self) -> None:
        """Close the kept connections."""
        self._pool.clear()

    def serves(self, key: str) -> bool:
        """Whether a repository is on this GitHub."""
        host, *path = key.split("/")
        return host.lower() == self.host and len(path) == 2  # noqa: PLR2004  owner and name

    def tell(self, key: str, commit: str, status: CommitStatus) -> Answer:
        """Put a status beside a commit of a repository; what came of it. A dead network is no error."""
        body = {
            "state": status.verdict.value,
            "context": status.context,
            "description": status.description,
            "target_url": status.link or None,
        }
        try:
            reply = self._ask("POST", f"{_path(key)}/statuses/{commit}", json.dumps(body).encode())
        except Unreachable as error:
            return Later(error.message)
        return answer(reply, repository=key, now=self._clock())

    def probe(self, key: str) -> str:
        """What the token may do with a repository, for people; nothing is written.

        Raises:
            CredentialError: It certainly cannot write statuses there.
            Unreachable: The API gave no answer that tells.
        """
        reply = self._ask("GET", _path(key))
        if reply.status == 200:  # noqa: PLR2004  OK
            return _may(reply, key)
        if reply.status == 401:  # noqa: PLR2004  Unauthorized
            raise CredentialError(
                f"{self.host} does not know the token for commit statuses.", mend=f"Make a new one. {_NEEDED}"
            )
        if reply.status in {403, 404} and not _limited(reply):
            raise CredentialError(f"The token for commit statuses cannot see {key}.", mend=_NEEDED)
        raise Unreachable(f"{self.host} answered: {reply.message}.", mend="Try again later.")

    def _ask(self, method: str, path: str, body: bytes | None = None) -> Reply:
        """One question; redirects within the same API are followed, as a renamed repository needs it."""
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
                raise Unreachable(f"{self.host} cannot be asked about commit statuses: {why}.") from error
            if response.length_remaining:
                response.close()
            response.release_conn()
            reply = Reply(response.status, {n.lower(): v for n, v in response.headers.items()}, content)
            there = urljoin(url, reply.headers.get("location", ""))
            if reply.status not in {301, 302, 307, 308} or urlsplit(there)[:2] != urlsplit(url)[:2]:
                return reply
            url = there
        return reply


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


def answer(reply: Reply, *, repository: str, now: float) -> Answer:
    """What an answer to a new status means."""
    status, said = reply.status, reply.message
    if status == 201:  # noqa: PLR2004  Created
        return Told()
    if status >= 500 or _limited(reply):  # noqa: PLR2004  its fault, or too many
        return Later(said, wait=_wait(reply, now))
    if status == 401:  # noqa: PLR2004  Unauthorized
        return Later("the token is not known (any more)", f"Make a new one. {_NEEDED}", _HOUR)
    if status == 403:  # noqa: PLR2004  Forbidden
        return Later(f"the token may not do this ({said})", _NEEDED, _HOUR, everywhere=False)
    if status == 404:  # noqa: PLR2004  Not Found
        return Later(f"the token does not see {repository}", _NEEDED, _HOUR, everywhere=False)
    if 300 <= status < 400:  # noqa: PLR2004  to another host
        return Later(f"{repository} has moved", "Change its address.", _HOUR, everywhere=False)
    return Never(said)


def _limited(reply: Reply) -> bool:
    """Whether this refusal is a rate limit, the primary or the secondary one."""
    return reply.status == 429 or (  # noqa: PLR2004  Too Many Requests
        reply.status == 403  # noqa: PLR2004  Forbidden
        and (
            reply.headers.get("x-ratelimit-remaining") == "0"
            or "retry-after" in reply.headers
            or "rate limit" in reply.message.lower()
        )
    )


def _wait(reply: Reply, now: float) -> float | None:
    """Seconds that GitHub asks us to wait, at most an hour; None: it does not say."""
    after = reply.headers.get("retry-after", "")
    if after.isdecimal():
        return min(float(after), _HOUR)
    if after:
        try:
            return min(max(0.0, parsedate_to_datetime(after).timestamp() - now), _HOUR)
        except ValueError:
            return None
    reset = reply.headers.get("x-ratelimit-reset", "")
    if reset.isdecimal() and reply.headers.get("x-ratelimit-remaining") == "0":
        return min(max(1.0, float(reset) - now), _HOUR)
    return _MINUTE if _limited(reply) else None


def _may(reply: Reply, key: str) -> str:
    """What the answer about a repository tells of the token's rights."""
    scopes = reply.headers.get("x-oauth-scopes")
    if scopes is not None:  # a classic token tells what it may
        held = {scope.strip() for scope in scopes.split(",")}
        if not held & {"repo", "repo:status"}:
            raise CredentialError(f"The token for commit statuses may not write them in {key}.", mend=_NEEDED)
        return "the token may write them"
    document: Any = json.loads(reply.body)
    rights = document.get("permissions") if isinstance(document, dict) else None
    if isinstance(rights, dict) and not rights.get("push"):
        raise CredentialError(f"The token for commit statuses may not write to {key}.", mend=_NEEDED)
    return "the token sees the repository; whether it may write statuses shows with the first run"


def _path(key: str) -> str:
    return f"/repos/{quote(key.partition('/')[2])}"
