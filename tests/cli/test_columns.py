"""Tables that are too wide for a terminal: what is told stays whole."""

from hypothesis import given
from hypothesis import strategies as st

from pushtrain.cli.screen.columns import layout

WORD = st.text("abcdefgh-", min_size=1, max_size=14)
CELL = st.one_of(st.just(""), WORD, st.lists(WORD, max_size=12).map(" ".join))
TABLES = st.integers(2, 7).flatmap(
    lambda many: st.lists(st.lists(CELL, min_size=many, max_size=many), min_size=1, max_size=6)
)


@given(TABLES, st.integers(50, 140))
def test_each_column_is_in_the_table_or_below_it_unless_nothing_is_in_it(
    rows: list[list[str]], width: int
) -> None:
    titles = ["title"] * len(rows[0])
    made = layout(titles, rows, width)
    gone = set(range(len(titles))) - {*made.kept, *made.below}
    assert not any(row[at] for row in rows for at in gone)
    assert made.kept[0] == 0
    assert len({*made.kept, *made.below}) == len(made.kept) + len(made.below)
    if len(made.kept) > 1:
        assert sum(made.widths) + made.gap * (len(made.kept) - 1) <= width


@given(TABLES)
def test_what_is_no_terminal_gets_every_column(rows: list[list[str]]) -> None:
    made = layout(["title"] * len(rows[0]), rows, None)
    assert (made.kept, made.below) == (tuple(range(len(rows[0]))), ())


def test_empty_columns_go_first_then_a_long_one_is_wrapped_or_goes_below() -> None:
    titles = ("name", "address", "labels", "why")
    long, path = "it goes with the last of those", "x" * 60
    assert layout(titles, [("demo", "a" * 20, "", "no")], 33).kept == (0, 1, 3)
    wrapped = layout(titles, [("demo", "a" * 20, "", long)], 50)
    assert (wrapped.wrapped, wrapped.below, sum(wrapped.widths) + 4) == (3, (), 50)
    assert layout(titles, [("demo", "a" * 20, "", path)], 60).below == (3,)
    assert layout(titles, [("demo", path, "gpu", "no")], 60).below == (1,)
