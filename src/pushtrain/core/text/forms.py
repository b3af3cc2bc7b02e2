"""The forms of single values in a file that a person wrote: durations, sizes, paths; how messages show them.

Each reading function takes what TOML gave and returns the value, or raises `Wrong`: the problem and its mend.
"""

import difflib
import json
import re
import shlex
from collections.abc import Iterable, Sequence
from typing import Final

from pushtrain.core.values import names
from pushtrain.core.values.value import Scalar

MAX_INTEGER: Final = 2**53 - 1
"""The largest whole number that every JSON reader keeps exactly (RFC 8785, RFC 7493)."""
MAX_DURATION: Final = 10 * 366 * 86_400.0
_UNSEEN: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""What a terminal might obey instead of showing it."""
_UNITS: Final = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_UNITS_BINARY: Final = {"KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40}
_SIZE: Final = re.compile(r"(\d{1,15}(?:\.\d{1,6})?) ?((?:[kKMGT]i?)?B)", re.ASCII)
_DURATION: Final = re.compile(
    r"(?:(\d{1,6})d)?(?:(\d{1,6})h)?(?:(\d{1,6})m)?(?:(\d{1,9})s)?", re.ASCII | re.IGNORECASE
)


class Wrong(ValueError):
    """A value that a reading function refuses: what is wrong, and the mend."""

    def __init__(self, problem: str, mend: str) -> None:
        super().__init__(problem)
        self.problem = problem
        self.mend = mend


def duration(value: object) -> float:
    """Seconds, from `90`, `"90s"`, `"30m"`, `"1h30m"` or `"2d"`.

    Raises:
        Wrong: It is none of them, or not above zero.
    """
    mend = 'Write seconds as a number, or text such as "30m", "1h30m", "90s" or "2d".'
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        seconds = value
    elif isinstance(value, str) and value and (match := _DURATION.fullmatch(value)):
        days, hours, minutes, rest = (int(part or 0) for part in match.groups())
        seconds = ((days * 24 + hours) * 60 + minutes) * 60 + rest
    else:
        raise Wrong("is not a duration", mend)
    if not 0 < seconds <= MAX_DURATION:
        raise Wrong("is not a duration between nothing and ten years", mend)
    return float(seconds)


def size(value: object) -> int:
    """Bytes, from a number of bytes, `"8GB"` (decimal) or `"8GiB"` (binary).

    Raises:
        Wrong: It is none of them, or so small that a unit must be missing.
    """
    mend = 'Write text with a unit, such as "8GB" (decimal) or "8GiB" (binary), or the number of bytes.'
    if isinstance(value, int) and not isinstance(value, bool):
        if 0 < value < 10**6:
            raise Wrong("would be bytes, too few for any job", f'Write a unit, as in "{value}GB".')
        count = value
    elif isinstance(value, str) and (match := _SIZE.fullmatch(value.strip())):
        unit = match[2].upper()
        count = round(float(match[1]) * (_UNITS.get(unit) or _UNITS_BINARY[unit]))
    else:
        raise Wrong("is not a size", mend)
    if not 0 <= count <= MAX_INTEGER:
        raise Wrong("is not a size that a machine can have", mend)
    return count


def inside(value: object, *, root: bool = False) -> str:
    """A path below the repository's root, tidied: no `./`, no doubled or trailing slash; `.` is the root.

    Raises:
        Wrong: It is not text, is absolute, leads out of the root, or is the root where that makes no sense.
    """
    problem = text_problem(value)
    mend = "Write a path relative to the repository's root, without `..`."
    if problem:
        raise Wrong(problem, mend)
    text = str(value)
    if _UNSEEN.search(text):
        raise Wrong("holds a control character", "Leave it out.")
    if text.startswith(("/", "~")) or "\\" in text or re.match(r"[A-Za-z]:", text):
        raise Wrong("is not a relative path with forward slashes", mend)
    parts = [part for part in text.split("/") if part not in {"", "."}]
    if ".." in parts:
        raise Wrong("leads out of the repository", mend)
    if parts and parts[0].lower() == ".git":
        raise Wrong("lies in .git, which a run never has", mend)
    if not parts and not root:
        raise Wrong("is the repository's root itself", "Name a folder or a file below it.")
    return "/".join(parts) or "."


def text_problem(value: object) -> str:
    """What is wrong with a value that should be text; empty when nothing is."""
    if not isinstance(value, str):
        return f"is {kind(value)}, not text"
    if not value.strip():
        return "is blank"
    return names.argument_problem(value)


def scalar_problem(value: object) -> str:
    """What is wrong with a value that should be one matrix parameter; empty when nothing is."""
    if isinstance(value, bool):
        return ""
    if isinstance(value, str):
        return names.argument_problem(value)
    if isinstance(value, int):
        return (
            "" if abs(value) <= MAX_INTEGER else "is beyond 2^53, so that not every reader keeps it exactly"
        )
    if isinstance(value, float):
        return "" if abs(value) != float("inf") and value == value else "is not a finite number"  # noqa: PLR0124  NaN
    return f"is {kind(value)}, not text, a number, true or false"


def written(value: Scalar) -> str:
    """A scalar as text: `true` and `false` in lower case, numbers as Python writes them."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def kind(value: object) -> str:
    """What a TOML value is, in words."""
    names = {
        bool: "true or false",
        int: "a number",
        float: "a number",
        str: "text",
        list: "a list",
        dict: "a table",
    }
    return names.get(type(value), "a date or a time")


def show(value: object) -> str:
    """A value much as TOML writes it, cut to a length for a message; passwords in URLs are masked."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    text = clean(re.sub(r"(://)[^/@\s\"]*@", r"\1…@", text[: names.LONGEST_TEXT]))
    return text if len(text) <= 60 else f"{text[:57]}…"  # noqa: PLR2004  what fits on a line


def clean(text: str) -> str:
    """Text that a terminal only shows: control characters and those that turn the writing round, escaped."""
    return _UNSEEN.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """`Did you mean …?`, or nothing."""
    said = name.replace("-", "_").lower()
    plain = {key.replace("-", "_").lower(): key for key in known}
    near = difflib.get_close_matches(said, plain, n=1, cutoff=0.7)
    near += [key for key in plain if len(said) > 2 and key.startswith(said)]  # noqa: PLR2004  `sha` for `sha256`
    return f"Did you mean `{plain[near[0]]}`?" if near else ""


def listed(names: Iterable[str]) -> str:
    """Names for a sentence, each in backquotes."""
    return ", ".join(f"`{clean(name)}`" for name in names)


def dotted(path: Iterable[str]) -> str:
    """A key as TOML writes it, with quotes where it needs them."""
    return ".".join(part if re.fullmatch(r"[\w-]+", part, re.ASCII) else json.dumps(part) for part in path)


def script_of(command: str | Sequence[str]) -> str:
    """The first word of a command that names a Python file: what it runs, most likely; else nothing."""
    try:
        words = shlex.split(command, comments=True) if isinstance(command, str) else list(command)
    except ValueError:
        return ""
    return next((word for word in words if word.endswith(".py") and not word.startswith(("-", "/"))), "")
