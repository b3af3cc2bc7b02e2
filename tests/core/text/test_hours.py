import pytest
from hypothesis import given
from hypothesis import strategies as st

from pushtrain.core.text.forms import Wrong
from pushtrain.core.text.hours import DAYS, WEEK, opens_in, spans, within

DAY = 24 * 60
minutes = st.integers(0, WEEK - 1)
times = st.integers(0, DAY - 1).map(lambda m: f"{m // 60:02}:{m % 60:02}")
windows = st.builds(
    lambda first, last, begin, end: f"{first}-{last} {begin}-{end}",
    st.sampled_from(DAYS),
    st.sampled_from(DAYS),
    times,
    times,
).filter(lambda text: text.split()[1].split("-")[0] != text.split()[1].split("-")[1])


@pytest.mark.parametrize(
    ("window", "inside", "outside"),
    [
        ("Mon-Fri 18:00-08:00", (18 * 60, DAY + 7 * 60 + 59, 5 * DAY + 1), (8 * 60, 17 * 60 + 59)),
        ("Mon-Fri 18:00-08:00", (DAY, 4 * DAY + 18 * 60), (0, 5 * DAY + 8 * 60)),
        ("Sat,Sun", (5 * DAY, 7 * DAY - 1), (0, 5 * DAY - 1)),
        ("22:00-06:00", (0, 22 * 60, 6 * DAY + 23 * 60), (6 * 60, 21 * 60 + 59)),
        ("Sun 20:00-04:00", (6 * DAY + 20 * 60, 0, 3 * 60 + 59), (4 * 60, 6 * DAY + 19 * 60)),
        ("Fri-Mon", (4 * DAY, 0), (DAY, 3 * DAY)),
        ("mon 09:00-24:00", (9 * 60, DAY - 1), (DAY, 0)),
    ],
)  # fmt: skip
def test_a_window_holds_what_it_says(window: str, inside: tuple[int, ...], outside: tuple[int, ...]) -> None:
    assert [minute for minute in inside if not within((window,), minute)] == []
    assert [minute for minute in outside if within((window,), minute)] == []


@pytest.mark.parametrize(
    "text",
    ["", " ", "Mon-", "8-9", "Montag", "25:00-26:00", "10:00-10:00", "24:00-01:00", "Mon 09:00", "--"],
)
def test_what_is_no_window_is_refused_with_examples(text: str) -> None:
    with pytest.raises(Wrong) as caught:
        spans(text)
    assert "Mon-Fri" in caught.value.mend


@given(windows, minutes)
def test_a_closed_window_opens_after_exactly_as_long_as_it_says(window: str, minute: int) -> None:
    wait = opens_in((window,), minute)
    assert within((window,), (minute + wait) % WEEK)
    assert not any(within((window,), (minute + step) % WEEK) for step in range(0, wait, max(1, wait // 50)))


@given(st.text(alphabet="MonTueWdhFriSat,- 0123456789:", max_size=30))
def test_any_text_is_a_window_or_is_refused(text: str) -> None:
    try:
        found = spans(text)
    except Wrong:
        return
    assert all(0 <= begin < WEEK and begin < end <= begin + DAY for begin, end in found)
