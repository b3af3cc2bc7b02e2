"""Secrets are hidden in every form, wherever a text is cut."""

import base64
import html
import json
import re
from collections.abc import Callable
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pushtrain.core.text.redact import LEAST, NOTHING, Mask

TOKEN = "wk-9f+/Zq?8=_Lm4"
KEY = "-----BEGIN KEY-----\nMIIEvQIBADANBgkqhkiG\n9w0BAQEFAASCBKcw\nggSj\n-----END KEY-----\n"

LETTERS = st.sampled_from("abkz019+/=_-%? \"'\\&<é€\t")
VALUES = st.text(LETTERS, min_size=LEAST, max_size=60).filter(lambda text: len(set(text.strip())) > 3)
SECRETS = st.one_of(VALUES, st.lists(VALUES, min_size=2, max_size=4).map("\n".join))
NOISE = st.binary(max_size=40) | st.text("abkz019+/=\r\n", max_size=40).map(str.encode)

FORMS: dict[str, Callable[[str], bytes]] = {
    "raw": lambda value: value.encode(),
    "url": lambda value: quote(value, safe="").encode(),
    "path": lambda value: quote(value).encode(),
    "form": lambda value: quote_plus(value).encode(),
    "url in small letters": lambda value: re.sub(
        "%[0-9A-F]{2}", lambda match: match[0].lower(), quote(value, safe="")
    ).encode(),
    "json": lambda value: json.dumps(value)[1:-1].encode(),
    "json with its characters": lambda value: json.dumps(value, ensure_ascii=False)[1:-1].encode(),
    "python": lambda value: repr(value)[1:-1].encode(),
    "python's bytes": lambda value: repr(value.encode())[2:-1].encode(),
    "html": lambda value: html.escape(value).encode(),
    "hex": lambda value: value.encode().hex().encode(),
}


def in_base64(value: str, before: bytes, behind: bytes, *, urlsafe: bool) -> tuple[bytes, int, int]:
    """The encoding, and where in it characters stand that tell of the value."""
    data = value.encode()
    encode = base64.urlsafe_b64encode if urlsafe else base64.b64encode
    first = 8 * len(before) // 6
    return encode(before + data + behind), first, -(-8 * len(before + data) // 6)


def wrapped(text: bytes, width: int, end: bytes = b"\n") -> bytes:
    return end.join(text[at : at + width] for at in range(0, len(text), width))


@pytest.mark.parametrize("form", FORMS)
@given(value=SECRETS, before=NOISE, behind=NOISE)
def test_a_secret_is_hidden_in_each_form_that_programs_print(
    form: str, value: str, before: bytes, behind: bytes
) -> None:
    shown = FORMS[form](value)
    hidden = Mask({"A": value}).hide(before + shown + behind)
    assert len(hidden) == len(before + shown + behind)
    assert set(hidden[len(before) : len(before) + len(shown)]) <= set(b"*\r\n")
    assert Mask({"A": value}).found(before + shown + behind) == ("A",)


@given(
    value=SECRETS,
    with_it=st.tuples(st.binary(max_size=5), st.binary(max_size=5)),
    urlsafe=st.booleans(),
    width=st.integers(4, 90),
    around=st.tuples(NOISE, NOISE),
)
def test_every_character_of_base64_that_tells_of_a_secret_is_hidden(
    value: str, with_it: tuple[bytes, bytes], urlsafe: bool, width: int, around: tuple[bytes, bytes]
) -> None:
    before, behind = with_it
    encoded, first, last = in_base64(value, before, behind, urlsafe=urlsafe)
    mask = Mask({"A": value})
    hidden = mask.hide(around[0] + encoded + around[1])
    assert hidden[len(around[0]) + first : len(around[0]) + last].strip(b"*") == b""
    for end in (b"\n", b"\r\n"):
        told = mask.hide(b"\n\n" + wrapped(encoded[first:last], width, end) + b"\n\n")
        assert set(told) <= set(b"*\r\n")


@given(value=SECRETS, shown=st.lists(st.sampled_from(sorted(FORMS)), min_size=1, max_size=3), data=st.data())
def test_whatever_the_pieces_the_same_bytes_are_hidden(
    value: str, shown: list[str], data: st.DataObject
) -> None:
    draw = data.draw
    mask = Mask({"A": value})
    parts = [part for form in shown for part in (draw(NOISE), FORMS[form](value))]
    text = b"".join([*parts, base64.b64encode(b"u:" + value.encode()), draw(NOISE)])
    whole = mask.hide(text)
    start = draw(st.integers(0, len(text)))
    end = draw(st.integers(start, len(text)))
    low, high = max(0, start - mask.reach), end + mask.reach
    assert mask.within(text[low:high], start - low, end - low) == whole[start:end]


@given(value=SECRETS, data=st.data())
def test_a_stream_that_is_shown_as_it_grows_shows_the_same(value: str, data: st.DataObject) -> None:
    mask = Mask({"A": value})
    text = data.draw(NOISE) + value.encode() + data.draw(NOISE)
    text += wrapped(base64.b64encode(value.encode()), data.draw(st.integers(4, 20))) + data.draw(NOISE)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=12)))
    shown = b""
    for size in (*cuts, len(text)):
        there = text[:size]
        safe = size - mask.begun(there) if size < len(text) else size
        if safe > len(shown):
            shown += mask.within(there, len(shown), safe)
    assert shown == mask.hide(text)


@given(value=VALUES, cut=st.integers(1, 100), before=NOISE, behind=NOISE)
def test_what_is_left_of_a_secret_at_a_gap_is_told_on_both_sides(
    value: str, cut: int, before: bytes, behind: bytes
) -> None:
    shown = value.encode()
    at = 1 + cut % (len(shown) - 1)
    mask = Mask({"A": value})
    assert mask.begun(before + shown[:at]) >= at
    assert mask.ended(shown[at:] + behind) >= len(shown) - at


@pytest.mark.parametrize("before", [b"", b"u", b"us"])
def test_at_a_gap_the_edges_of_base64_are_told_too(before: bytes) -> None:
    mask = Mask({"A": TOKEN})
    encoded, first, last = in_base64(TOKEN, before, b"zz", urlsafe=False)
    for at in range(first + 1, last):
        assert mask.begun(b"\n\n" + encoded[:at]) >= at - first
        assert mask.ended(encoded[at:] + b"\n\n") >= last - at


def test_a_lone_carriage_return_may_be_half_of_a_line_break() -> None:
    mask = Mask({"A": TOKEN})
    assert mask.begun(b"x wk-9f\r") == 6
    assert mask.begun(b"x wk-9f\n") == 6
    assert mask.begun(b"x wk-9\r\n") == 6
    assert mask.begun(b"wk-") == 3
    assert mask.begun(b"wk-\n") == 0, "three letters on a line are no sign of a secret"
    assert mask.begun(b"wk-9f\n\n") == 0


@given(NOISE)
def test_ordinary_text_stays_as_it_is(text: bytes) -> None:
    assert NOTHING.hide(text) == text
    assert NOTHING.found(text) == ()
    assert not NOTHING
    assert NOTHING.text("ä") == "ä"
    assert (NOTHING.begun(text), NOTHING.ended(text), NOTHING.reach) == (0, 0, 0)
    assert Mask({"A": "another-value-altogether"}).hide(text) == text
    assert not Mask({"A": ""})


def test_a_value_is_not_found_over_an_empty_line_or_scattered_letters() -> None:
    mask = Mask({"A": TOKEN})
    for text in (b"wk-9f+\n\n/Zq?8=_Lm4", b"wk\n-9f+/Zq?8=_Lm4", b"wk-9f+\r/Zq?8=_Lm4"):
        assert mask.hide(text) == text


def test_a_key_of_several_lines_is_hidden_line_by_line() -> None:
    mask = Mask({"KEY": KEY})
    log = f"reading\n  MIIEvQIBADANBgkqhkiG  # line 1\n{KEY}done\n".encode()
    assert mask.hide(log) == (
        b"reading\n  ********************  # line 1\n"
        b"*******************\n********************\n****************\n****\n*****************\ndone\n"
    )
    assert mask.hide(KEY.replace("\n", "\r\n").encode()).strip(b"*\r\n") == b""
    assert mask.begun(b"x -----BEGIN KEY-----\nMII") == 23


def test_a_text_keeps_its_length_in_bytes_and_its_line_breaks() -> None:
    mask = Mask({"A": "größer-als-acht"})
    assert mask.text("so: größer-als-acht!") == "so: *****************!"
    assert Mask({"A": TOKEN}).text("wk-9f+\r\n/Zq?8=_Lm4") == "******\r\n**********"


def test_when_the_secrets_are_lost_everything_is_hidden() -> None:
    mask = Mask(everything=True)
    assert mask
    assert mask.hide(b"epoch 1\nloss 2\n") == b"*******\n******\n"
    assert mask.within(b"epoch 1\n", 2, 8) == b"*****\n"
    assert (mask.begun(b"abc"), mask.ended(b"abc"), mask.spans(b"")) == (0, 0, [])
    assert mask.spans(b"ab\n") == [(0, 3)]


def test_a_mask_does_not_tell_what_it_hides() -> None:
    assert TOKEN not in repr(Mask({"A": TOKEN}))
    assert TOKEN not in str(vars(Mask({"A": TOKEN})).get("reach"))


def test_names_are_told_once_in_the_order_of_the_secrets() -> None:
    mask = Mask({"A": "first-secret", "B": "second-secret", "C": "third-secret"})
    assert mask.found(b"second-secret first-secret second-secret") == ("A", "B")
