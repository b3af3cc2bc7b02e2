"""What people see: one console, one table style, one way to tell of an error, one way to print JSON."""

import json
import os
import re
import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from functools import cache
from typing import TYPE_CHECKING, Any, Final, Literal

from pushtrain.cli.screen import markup
from pushtrain.cli.screen.columns import Layout, layout
from pushtrain.cli.screen.hanging import broken, hang
from pushtrain.cli.screen.terminal import clean

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

COLOURS: Final = {
    "waiting": "cyan",
    "refused": "red",
    "queued": "cyan",
    "preparing": "blue",
    "running": "bold blue",
    "publishing": "magenta",
    "publish pending": "bold magenta",
    "succeeded": "green",
    "failed": "red",
    "cancelled": "yellow",
    "lost": "red",
    "moved": "dim",
}


_HIDDEN: Final = re.compile(r"[\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_WHO: Final = "pushtrain: "
_AS_A_TERMINAL: Final = ("FORCE_COLOR", "TTY_COMPATIBLE", "COLUMNS")
"""Variables that ask for what a terminal would show; the last one alone says how wide it is."""
_UNCUT: Final = 10_000
"""Columns of what is no terminal: one line a row, for `grep` and `awk`."""


@cache
def console() -> "Console":
    """The console for output; plain when it is not a terminal."""
    from rich.console import Console

    return Console(highlight=False, soft_wrap=True)


def width() -> int | None:
    """Columns of the terminal; None: there is none, and nothing is wrapped or cut.

    Colours that were asked for in a pipe say nothing of how wide a line may be: `grep` wants it whole.
    """
    return console().width if sys.stdout.isatty() or "COLUMNS" in os.environ else None


def _piped() -> bool:
    """Whether output goes into a pipe or a file, and nobody asks for what a terminal would show."""
    return not (sys.stdout.isatty() or any(name in os.environ for name in _AS_A_TERMINAL))


def say(text: str = "") -> None:
    """Print one line; `[bold]…[/]` is rich's markup. On a terminal no word of it is broken."""
    if _piped():
        sys.stdout.write(markup.bare(text) + "\n")
        return
    wide = width()
    if wide is None or len(text) <= wide:
        console().print(text)
        return
    from rich.text import Text

    for line in Text.from_markup(text).split("\n", allow_blank=True):
        if line.cell_len <= wide:
            console().print(line)
            continue
        for indent, start, end in broken(line.plain, wide):
            console().print(Text(" " * indent) + line[start:end])


def literal(text: str) -> str:
    """Text from outside, fit to stand in markup: no tag of it counts, and nothing in it steers a terminal."""
    return markup.escape(clean(text).replace("\t", " "))


def plain(text: str) -> None:
    """Print text as it is, no markup, no wrapping; nothing in it steers a terminal."""
    sys.stdout.write(clean(text) if text.endswith("\n") else clean(text) + "\n")


def tell(text: str) -> None:
    """Print a sentence that holds words of others: no markup, and broken between words on a terminal."""
    say(literal(text))


def note(text: str) -> None:
    """Tell something beside the output, on standard error."""
    sys.stderr.write(f"{clean(text)}\n")


def emit_json(value: object) -> None:
    """Print one JSON document; values of the core are understood."""
    sys.stdout.write(_json(_plain(value), indent=2) + "\n")


def _json(value: object, *, indent: int | None = None) -> str:
    """JSON with every letter as it is; what cannot be seen, and might steer a terminal, is escaped."""
    text = json.dumps(value, indent=indent, ensure_ascii=False)
    return _HIDDEN.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def _plain(value: Any) -> Any:
    if hasattr(value, "model_dump"):
        from pushtrain.core.text.queries import shown_run, shown_view
        from pushtrain.core.values.run import Run, RunView

        if isinstance(value, RunView):
            return shown_view(value).model_dump(mode="json")
        if isinstance(value, Run):
            return shown_run(value).model_dump(mode="json")
        return value.model_dump(mode="json")
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple, set)):
        return [_plain(v) for v in value]
    return value


def error(message: str, mend: str = "", *, code: str = "error", as_json: bool = False) -> None:
    """Tell of an error on standard error: what and why, then the mend."""
    if as_json:
        document = {"error": {"code": code, "message": message, "mend": mend}}
        sys.stderr.write(_json(document) + "\n")
        return
    from rich.console import Console
    from rich.text import Text

    screen = Console(stderr=True, highlight=False, soft_wrap=True)
    columns = screen.width if sys.stderr.isatty() else None
    message, mend = clean(message), clean(mend)
    if columns is None or len(_WHO) + len(message) + 1 + len(mend) <= columns:
        told = [Text.assemble((_WHO, "bold red"), message, (f" {mend}" if mend else "", "bold"))]
    else:
        first, *more = hang(_WHO, message, width=columns)
        told = [Text.assemble((_WHO, "bold red"), first[len(_WHO) :]), *map(Text, more)]
        told += [Text(line, "bold") for line in (hang(" " * len(_WHO), mend, width=columns) if mend else ())]
    for line in told:
        screen.print(line)


def table(columns: Sequence[str], rows: Iterable[Sequence[object]], *, right: Sequence[str] = ()) -> None:
    """Print a light table; cells may be text or rich's. Nothing is cut or wrapped when piped."""
    given = [list(row) for row in rows]
    if _piped():
        bare = [[_bare(cell) for cell in row] for row in given]
        if not any("\n" in cell for row in bare for cell in row):
            sys.stdout.writelines(f"{line}\n" for line in markup.lines(columns, bare, right=right))
            return
    from rich.console import Console
    from rich.text import Text

    cells = [
        [cell if isinstance(cell, Text) else Text.from_markup(str(cell)) for cell in row] for row in given
    ]
    wide = width()
    made = layout(columns, [[cell.plain for cell in row] for row in cells], wide)
    screen = console() if wide is not None else Console(highlight=False, width=_UNCUT)
    if not made.below:
        screen.print(_table(columns, cells, made, right))
        return
    screen.print(_table(columns, (), made, right))
    for row in cells:
        screen.print(_table(columns, (row,), made, right, headed=False))
        for at in made.below:
            for line in hang(f"  {columns[at]}  ", row[at].plain, width=wide) if row[at].plain else ():
                screen.print(Text(line, "dim"))


def _bare(cell: object) -> str:
    """What of a cell is no markup; rich's own text says so itself."""
    plain = getattr(cell, "plain", None)
    return plain if isinstance(plain, str) else markup.bare(str(cell))


def _table(
    columns: Sequence[str],
    rows: "Iterable[Sequence[Text]]",
    made: Layout,
    right: Sequence[str],
    *,
    headed: bool = True,
) -> "Table":
    """What stays a table of it; in parts, where something stands between its rows."""
    from rich import box
    from rich.table import Table

    out = Table(
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        padding=(0, made.gap - 2, 0, 1),  # its box has a blank between columns, too
        header_style="bold",
        show_edge=False,
        show_header=headed,
    )
    for at, least in zip(made.kept, made.widths, strict=True):
        justify: Literal["left", "right"] = "right" if columns[at] in right else "left"
        no_wrap = columns[at] == "run" or made.wrapped not in {None, at}  # an id stays whole
        wide = least if made.below else None
        out.add_column(columns[at], justify=justify, overflow="fold", no_wrap=no_wrap, width=wide)
    for row in rows:
        out.add_row(*(row[at] for at in made.kept))
    return out


def coloured(word: str) -> str:
    """A state or an outcome in its colour, as rich markup."""
    return f"[{COLOURS.get(word.partition(' ')[0], 'default')}]{word}[/]"


def size(count: float) -> str:
    """Bytes for people: `5.0 MB`, decimal as GitHub and disks count."""
    for unit in ("B", "kB", "MB", "GB"):
        if abs(count) < 1000:  # noqa: PLR2004  a thousand is a thousand
            return f"{count:.0f} B" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def seconds(value: float) -> str:
    """A duration for people: `45 ms`, `3.2 s`, `4 m 05 s`, `2 h 07 m`."""
    if value < 1:
        return f"{value * 1000:.0f} ms"
    if value < 60:  # noqa: PLR2004  a minute
        return f"{value:.1f} s"
    minutes, rest = divmod(round(value), 60)
    if minutes < 60:  # noqa: PLR2004  an hour
        return f"{minutes} m {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} m"


def ago(then: float, now: float) -> str:
    """How long ago, in one unit."""
    past = max(0.0, now - then)
    for limit, divisor, unit in ((90, 1, "s"), (5400, 60, "min"), (129_600, 3600, "h")):
        if past < limit:
            return f"{past / divisor:.0f} {unit} ago"
    return f"{past / 86_400:.0f} d ago"


def ahead(then: float, now: float) -> str:
    """In how long, in one unit."""
    left = max(0.0, then - now)
    return f"in {left:.0f} s" if left < 90 else f"in {left / 60:.0f} min"  # noqa: PLR2004  as `ago`


def when(moment: float) -> str:
    """A time in the reader's zone, to the second."""
    return datetime.fromtimestamp(moment, UTC).astimezone().strftime("%Y-%m-%d %H:%M:%S")
