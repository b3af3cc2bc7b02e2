"""What goes into a pipe is what rich would have written there, without rich."""

import io

from hypothesis import given
from hypothesis import strategies as st
from rich import box
from rich.console import Console
from rich.errors import MarkupError
from rich.markup import escape as rich_escape
from rich.table import Table
from rich.text import Text

from pushtrain.cli.screen.markup import bare, escape, lines

TEXT = st.text(st.sampled_from("ab[]/\\= é日😀"), max_size=30)
CELLS = st.text(st.sampled_from("ab é日😀1"), max_size=12)


@given(TEXT)
def test_text_is_escaped_as_rich_does(text: str) -> None:
    assert escape(text) == rich_escape(text)


@given(TEXT)
def test_tags_are_taken_off_as_rich_does(text: str) -> None:
    try:
        expected = Text.from_markup(text, emoji=False).plain
    except MarkupError:
        return
    assert bare(text) == expected
    assert bare(f"[bold]{escape(text)}[/]") == Text.from_markup(f"[bold]{escape(text)}[/]", emoji=False).plain


@given(st.lists(st.tuples(CELLS, CELLS, CELLS), max_size=5))
def test_a_table_is_laid_out_as_rich_does(rows: list[tuple[str, str, str]]) -> None:
    columns = ("run", "job", "took")
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for title in columns:
        table.add_column(title, justify="right" if title == "took" else "left")
    for row in rows:
        table.add_row(*row)
    out = io.StringIO()
    Console(file=out, width=10_000, emoji=False).print(table)
    ours = [line.rstrip() for line in lines(columns, rows, right=("took",))]
    assert ours == [line.rstrip() for line in out.getvalue().splitlines()]
