"""Windows of the week, as people write them: `Mon-Fri 18:00-08:00`, `Sat,Sun`, `22:00-06:00`.

Minutes are counted from Monday, 00:00, in whatever time zone the caller means.
"""

import re
from collections.abc import Iterable, Sequence
from typing import Annotated, Final

from pydantic import BeforeValidator

from pushtrain.core.text.forms import Wrong

WEEK: Final = 7 * 24 * 60
"""Minutes."""
DAYS: Final = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_DAY: Final = 24 * 60
_WINDOW: Final = re.compile(
    rf"(?:(?P<days>(?:{'|'.join(DAYS)})(?:[-,](?:{'|'.join(DAYS)}))*))?\s*"
    r"(?:(?P<from>[0-2]?[0-9]:[0-5][0-9])-(?P<to>[0-2]?[0-9]:[0-5][0-9]))?",
    re.IGNORECASE,
)


def spans(window: str) -> tuple[tuple[int, int], ...]:
    """A window of the week as spans of minutes from Monday, 00:00; the end is outside.

    `Mon-Fri 18:00-08:00`, `Sat,Sun`, `22:00-06:00`. A window that ends before it begins goes on the next day.

    Raises:
        Wrong: It is none.
    """
    mend = 'Write it as in "Mon-Fri 18:00-08:00", "Sat,Sun" or "22:00-06:00".'
    found = _WINDOW.fullmatch(window.strip())
    if not window.strip() or found is None:
        raise Wrong("is no window of the week", mend)
    begin, end = _minute(found["from"] or "00:00"), _minute(found["to"] or "24:00", last=True)
    if begin >= _DAY or end > _DAY or begin == end:
        raise Wrong("is no window of the day", mend)
    length = (end - begin) % _DAY or _DAY
    days = _days(found["days"] or "Mon-Sun")
    return tuple((day * _DAY + begin, day * _DAY + begin + length) for day in days)


def _minute(text: str, *, last: bool = False) -> int:
    hour, _, minute = text.partition(":")
    found = int(hour) * 60 + int(minute)
    return _DAY if last and found == 0 else found


def _days(text: str) -> list[int]:
    names = [name.lower() for name in DAYS]
    found: list[int] = []
    for part in text.lower().split(","):
        first, *rest = (names.index(name) for name in part.split("-"))
        last = rest[-1] if rest else first
        found += [(first + step) % 7 for step in range((last - first) % 7 + 1)]
    return sorted(set(found))


def within(windows: Iterable[str], minute: int) -> bool:
    """Whether a minute of the week, counted from Monday 00:00, lies in one of the windows."""
    return any(
        begin <= minute < end or begin <= minute + WEEK < end
        for window in windows
        for begin, end in spans(window)
    )


def opens_in(windows: Sequence[str], minute: int) -> int:
    """Minutes until the first of the windows opens; 0: one is open."""
    if within(windows, minute):
        return 0
    return min(((begin - minute) % WEEK for window in windows for begin, _ in spans(window)), default=0)


def closes_in(windows: Sequence[str], minute: int) -> int:
    """Minutes until none of the windows is open any more; 0: none is. A week where one always is."""
    parts = [span for window in windows for span in spans(window)]
    left = 0
    while left < WEEK:
        at = (minute + left) % WEEK
        open_for = [
            end - moment for begin, end in parts for moment in (at, at + WEEK) if begin <= moment < end
        ]
        if not open_for:
            return left
        left += max(open_for)
    return WEEK


def _window(value: object) -> object:
    if isinstance(value, str):
        spans(value)
    return value


Window = Annotated[str, BeforeValidator(_window)]
