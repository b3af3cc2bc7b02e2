"""JSON that has one meaning only: what two parsers could read in two ways is refused.

Refused are names that stand twice in an object, NaN and infinities (numbers too large for a float, too),
lone surrogates, NUL characters, bytes that are not UTF-8, and nesting beyond any use (RFC 8259 leaves all of
them to the parser's taste; RFC 7493 calls what remains I-JSON).
"""

import json
import math
from typing import Any, Final, NoReturn

from pushtrain.core.errors import UsageError

MAX_DEPTH: Final = 32


def loads(raw: bytes, *, any_text: bool = False) -> Any:
    """The value of a JSON text.

    Args:
        raw: The bytes.
        any_text: Whether texts may hold NULs and lone surrogates, as a commit's message may; whoever
            uses such a text looks at it again.

    Raises:
        UsageError: It is not JSON, or not of one meaning.
    """
    try:
        value = json.loads(
            raw.decode("utf-8"),
            object_pairs_hook=_object,
            parse_constant=_constant,
            parse_float=_number,
        )
    except RecursionError:
        raise _refused(f"it is nested more than {MAX_DEPTH} levels deep") from None
    except (ValueError, UnicodeDecodeError) as error:
        raise _refused(str(error)[:200]) from error
    _check(value, any_text=any_text)
    return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name stands twice in an object")
    return found


def _constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is not a JSON number")


def _number(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise ValueError("a number is too large")
    return number


def _check(value: Any, *, any_text: bool) -> None:
    """Look at every text and at the depth, without recursion."""
    waiting = [(value, 1)]
    while waiting:
        item, depth = waiting.pop()
        if depth > MAX_DEPTH:
            raise _refused(f"it is nested more than {MAX_DEPTH} levels deep")
        if isinstance(item, str):
            if any_text:
                continue
            if "\0" in item or any("\ud800" <= character <= "\udfff" for character in item):
                raise _refused("a text holds a NUL or a lone surrogate")
        elif isinstance(item, dict):
            waiting += [(name, depth) for name in item]
            waiting += [(each, depth + 1) for each in item.values()]
        elif isinstance(item, list):
            waiting += [(each, depth + 1) for each in item]


def _refused(why: str) -> UsageError:
    return UsageError(f"The body is not JSON of one meaning: {why}.", mend="Send plain JSON (RFC 7493).")
