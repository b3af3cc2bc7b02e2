"""Sizes and durations as a person writes them in `settings.toml`: a number, or text with a unit."""

import re
from typing import Annotated, Final

from pydantic import BeforeValidator

from pushtrain.core.text.forms import duration, size

_WHOLE: Final = re.compile(r"\d{1,16}", re.ASCII)
_NUMBER: Final = re.compile(r"\d{1,16}(\.\d{1,9})?", re.ASCII)


def _bytes(value: object) -> object:
    """Bytes of text; a number stays what it is. The environment gives numbers as text."""
    if not isinstance(value, str):
        return value
    return int(value) if _WHOLE.fullmatch(value) else size(value)


def _seconds(value: object) -> object:
    if not isinstance(value, str):
        return value
    return float(value) if _NUMBER.fullmatch(value) else duration(value)


Size = Annotated[int, BeforeValidator(_bytes)]
"""Bytes: `33554432`, `"32MB"` (decimal), `"32MiB"` (binary)."""

Duration = Annotated[float, BeforeValidator(_seconds)]
"""Seconds: `90`, `"90s"`, `"30m"`, `"1h30m"`, `"2d"`."""
