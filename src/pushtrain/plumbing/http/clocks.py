"""How far our clock is from another machine's, by the `Date` of an HTTP answer: right to about a second."""

import time
from collections.abc import Callable
from email.utils import parsedate_to_datetime
from typing import Final
from urllib.parse import urlsplit

import urllib3
from urllib3.exceptions import HTTPError

from pushtrain import __version__
from pushtrain.plumbing.http.connection import proxy_for

_TIMEOUT: Final = 5.0
_HALF: Final = 0.5
"""The header counts whole seconds; on average it is so much behind."""


def ahead(url: str, *, clock: Callable[[], float] = time.time) -> float | None:
    """Seconds that our clock is ahead of the one at `url` (negative: behind); None when it does not tell.

    No credential is sent, no redirect followed; whatever the answer is, only its `Date` counts.
    """
    try:
        parts = urlsplit(url)
        proxy = proxy_for(parts.scheme, parts.hostname or "", parts.port)
        with urllib3.ProxyManager(proxy) if proxy else urllib3.PoolManager() as pool:
            before = clock()
            response = pool.request(
                "HEAD",
                url,
                headers={"user-agent": f"pushtrain/{__version__}"},
                redirect=False,
                retries=False,
                timeout=_TIMEOUT,
            )
            after = clock()
        there = parsedate_to_datetime(response.headers.get("date", "")).timestamp() + _HALF
    except (HTTPError, ValueError, OverflowError):
        return None
    return (before + after) / 2 - there
