"""GitHub's commit statuses: one line a job beside the pushed commit.

Written after https://docs.github.com/en/rest/commits/statuses and GitHub's rules for waiting,
https://docs.github.com/en/rest/using-the-rest-api/best-practices-for-using-the-rest-api. How the
API is spoken to stands in `github_api`.
"""

import json
import time
from collections.abc import Callable
from email.utils import parsedate_to_datetime
from typing import Any, Final

from pushtrain.adapters.hosts.github_api import GitHubApi, Reply, is_on, limited, repository_path
from pushtrain.core.errors import ConfigError, CredentialError, Unreachable
from pushtrain.core.wire.status import Answer, CommitStatus, Later, Never, Told

_HOUR: Final = 3600.0
_MINUTE: Final = 60.0
_NEEDED: Final = "It needs `Commit statuses: write` (a fine-grained token) or the scope `repo:status`."


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
        if not token:
            raise ConfigError(
                "The token for commit statuses is empty.", mend="Set PUSHTRAIN_HOST_TOKEN to the token alone."
            )
        self._api = GitHubApi(api, token, timeout=timeout)
        self._clock = clock
        self.host = self._api.host

    def close(self) -> None:
        """Close the kept connections."""
        self._api.close()

    def serves(self, key: str) -> bool:
        """Whether a repository is on this GitHub."""
        return is_on(self.host, key)

    def tell(self, key: str, commit: str, status: CommitStatus) -> Answer:
        """Put a status beside a commit of a repository; what came of it. A dead network is no error."""
        body = {
            "state": status.verdict.value,
            "context": status.context,
            "description": status.description,
            "target_url": status.link or None,
        }
        try:
            reply = self._api.ask(
                "POST", f"{repository_path(key)}/statuses/{commit}", json.dumps(body).encode()
            )
        except Unreachable as error:
            return Later(error.message)
        return answer(reply, repository=key, now=self._clock())

    def probe(self, key: str) -> str:
        """What the token may do with a repository, for people; nothing is written.

        Raises:
            CredentialError: It certainly cannot write statuses there.
            Unreachable: The API gave no answer that tells.
        """
        reply = self._api.ask("GET", repository_path(key))
        if reply.status == 200:  # noqa: PLR2004  OK
            return _may(reply, key)
        if reply.status == 401:  # noqa: PLR2004  Unauthorized
            raise CredentialError(
                f"{self.host} does not know the token for commit statuses.", mend=f"Make a new one. {_NEEDED}"
            )
        if reply.status in {403, 404} and not limited(reply):
            raise CredentialError(f"The token for commit statuses cannot see {key}.", mend=_NEEDED)
        raise Unreachable(f"{self.host} answered: {reply.message}.", mend="Try again later.")


def answer(reply: Reply, *, repository: str, now: float) -> Answer:
    """What an answer to a new status means."""
    status, said = reply.status, reply.message
    if status == 201:  # noqa: PLR2004  Created
        return Told()
    if status >= 500 or limited(reply):  # noqa: PLR2004  its fault, or too many
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


def _wait(reply: Reply, now: float) -> float | None:
    """Seconds that GitHub asks us to wait, at most an hour; None: it does not say."""
    after = reply.headers.get("retry-after", "")
    if after.isdecimal():
        return min(float(after), _HOUR)
    if after:
        try:
            return min(max(0.0, parsedate_to_datetime(after).timestamp() - now), _HOUR)
        except (ValueError, OverflowError):
            return None
    reset = reply.headers.get("x-ratelimit-reset", "")
    if reset.isdecimal() and reply.headers.get("x-ratelimit-remaining") == "0":
        return min(max(1.0, float(reset) - now), _HOUR)
    return _MINUTE if limited(reply) else None


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
