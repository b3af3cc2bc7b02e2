"""JSON of one meaning."""

import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pushtrain.core.errors import UsageError
from pushtrain.core.text.strictjson import MAX_DEPTH, loads

TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))
PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=20,
)


@given(PLAIN)
def test_what_json_can_say_plainly_is_read(value: object) -> None:
    assert loads(json.dumps(value).encode()) == value


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (b"", "Expecting value"),
        (b"{", "Expecting property name"),
        (b'{"a":1,"a":2}', "a name stands twice"),
        (b'{"b":[{"a":1,"\\u0061":1}]}', "a name stands twice"),
        (b"NaN", "NaN is not a JSON number"),
        (b"[Infinity]", "Infinity is not"),
        (b"[-Infinity]", "-Infinity is not"),
        (b"[1e999]", "a number is too large"),
        (b"[-1e999]", "a number is too large"),
        (b"9" * 5000, "Exceeds the limit"),
        (b'"\\ud800"', "lone surrogate"),
        (b'{"\\udfff":1}', "lone surrogate"),
        (b'["a\\u0000b"]', "NUL"),
        (b'"\xff"', "can't decode"),
        (b"\xef\xbb\xbf{}", "BOM"),
        (b"{} {}", "Extra data"),
        (b"'a'", "Expecting value"),
        (b'"\n"', "Invalid control character"),
        (b"[" * 33 + b"]" * 33, f"more than {MAX_DEPTH} levels"),
        (b"[" * 100_000 + b"]" * 100_000, f"more than {MAX_DEPTH} levels"),
        (b'{"a":' * 100_000 + b"1" + b"}" * 100_000, f"more than {MAX_DEPTH} levels"),
    ],
)
def test_what_two_parsers_could_read_in_two_ways_is_refused(text: bytes, why: str) -> None:
    with pytest.raises(UsageError, match="not JSON of one meaning") as caught:
        loads(text)
    assert why in caught.value.message
    assert len(caught.value.message) < 300


@given(st.binary(max_size=200))
def test_noise_is_refused_or_read_but_breaks_nothing(noise: bytes) -> None:
    with contextlib.suppress(UsageError):
        loads(noise)


def test_the_deepest_nesting_that_is_allowed_is_read() -> None:
    assert loads(b"[" * MAX_DEPTH + b"]" * MAX_DEPTH)
