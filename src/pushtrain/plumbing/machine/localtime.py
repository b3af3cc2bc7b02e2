"""Windows of the week, in this machine's local time."""

import time
from collections.abc import Sequence

from pushtrain.core.text.hours import closes_in


def minute_of_week(at: float) -> int:
    """Minutes since Monday, 00:00, in local time."""
    local = time.localtime(at)
    return (local.tm_wday * 24 + local.tm_hour) * 60 + local.tm_min


def quiet_until(windows: Sequence[str], now: float) -> float | None:
    """When the quiet hours end that it is in now; None: it is in none.

    Args:
        windows: Of the week, in local time.
        now: Seconds since the epoch.
    """
    left = closes_in(windows, minute_of_week(now)) if windows else 0
    return now - now % 60 + 60 * left if left else None
