"""On what terms data is fetched: whom a fetch may ask, whose credentials it may use, how much may come."""

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from pushtrain.core.errors import DataError
from pushtrain.core.owner.lent import covers
from pushtrain.core.owner.outward import Outward
from pushtrain.core.owner.rules import Rules
from pushtrain.plumbing.data.unpack import Limits


class Purse:
    """Bytes that all data of one run may come to, whatever it is split into; threads share it.

    Args:
        most: How many.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._left = most
        self._lock = threading.Lock()

    def __call__(self, size: int) -> None:
        """Spend so many bytes.

        Raises:
            DataError: There are not so many left.
        """
        with self._lock:
            self._left -= size
            if self._left < 0:
                raise DataError(
                    f"The run's data comes to more than {self._most} bytes, the most that is taken here.",
                    mend="Have its owner raise `rules.limits.data`, or use less.",
                )


@dataclass(frozen=True, slots=True)
class Terms:
    """The terms of one fetch, or of all that one run fetches."""

    outward: Outward | None = None
    """Whom it may ask; None: anybody, as a person may on a machine of their own."""
    credentials: tuple[str, ...] | None = None
    """Where this machine's own credentials may go, as `core.owner.lent` reads it; None: everywhere."""
    limits: Limits = field(default_factory=Limits)
    """What one file or archive may come to."""
    arriving: Callable[[int], None] = lambda _: None
    """Told of bytes that arrive, before they are kept, from several threads; raises to refuse more."""
    unpacking: Callable[[int], None] = lambda _: None
    """The same for bytes that come out of archives."""

    def lends(self, url: str) -> bool:
        """Whether the credentials of this machine may be used for this URL."""
        return self.credentials is None or covers(self.credentials, url)


OWN: Final = Terms()
"""A person's own, on their own machine: what they type is what they want."""


def of_rules(rules: Rules) -> Terms:
    """Those of a run, as the executor's owner rules."""
    limits = rules.limits
    most = limits.data or limits.disk
    return Terms(
        outward=Outward(rules.allow_data_hosts),
        credentials=rules.data_credentials,
        limits=Limits(files=limits.data_files, size=most, ratio=limits.data_ratio),
        arriving=Purse(most),
        unpacking=Purse(most),
    )
