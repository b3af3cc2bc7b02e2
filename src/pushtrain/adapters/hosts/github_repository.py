"""Which repository a name means at GitHub now: the number that it keeps when it is renamed.

A name can be given to another repository once its owner is renamed or gone; the number never is
(https://docs.github.com/en/rest/repos/repos#get-a-repository). Public repositories tell it to everybody, at
most 60 times an hour for one address; private ones to a token that may read them.
"""

import json
import threading
import time
from collections.abc import Callable
from typing import Final

from pushtrain.adapters.hosts.github_api import GitHubApi, limited, repository_path
from pushtrain.core.errors import ConfigError, CredentialError, NotFound, Unreachable
from pushtrain.core.text.forms import clean

_FRESH: Final = 60.0
"""Seconds for which an answer counts."""
_TOKEN: Final = "A token that may read it stands in PUSHTRAIN_HOST_TOKEN of the executor."  # noqa: S105  advice


class GitHubRepositories:
    """The repositories of one GitHub. Any thread may use it.

    Args:
        api: The GitHub.
        clock: A clock that never goes back.
    """

    def __init__(self, api: GitHubApi, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._api = api
        self._clock = clock
        self._lock = threading.Lock()
        self._known: dict[str, tuple[float, str]] = {}

    def number_of(self, key: str) -> str:
        """The number of the repository that has this key now.

        Raises:
            ConfigError: It is on another host.
            NotFound: There is none, as far as we are told.
            CredentialError: The token is not known there.
            Unreachable: There is no answer that tells; there may be one later.
        """
        if not self._api.serves(key):
            raise ConfigError(
                f"{clean(key)} is not on {self._api.host}, whose API is the one that is asked.",
                mend="The executor's owner sets `status_api` to the host's API, or takes `id` away.",
            )
        with self._lock:
            at, number = self._known.get(key, (float("-inf"), ""))
            if self._clock() - at > _FRESH:
                number = self._ask(key)
                self._known[key] = (self._clock(), number)
            return number

    def _ask(self, key: str) -> str:
        try:
            reply = self._api.ask("GET", repository_path(key))
        finally:
            self._api.close()  # the next question comes in a minute at the earliest
        if reply.status == 401:  # noqa: PLR2004  Unauthorized
            raise CredentialError(f"{self._api.host} does not know the token.", mend=_TOKEN)
        if reply.status in {403, 404} and not limited(reply):
            raise NotFound(f"{self._api.host} shows no repository {clean(key)}.", mend=_TOKEN)
        try:
            number = json.loads(reply.body)["id"] if reply.status == 200 else None  # noqa: PLR2004  OK
        except (ValueError, KeyError, TypeError):
            number = None
        if type(number) is not int:
            raise Unreachable(f"{self._api.host} answered: {reply.message}.", mend="Try again later.")
        return str(number)
