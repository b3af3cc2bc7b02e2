"""What the demo shows: stages with their times, the training's own words, a report.

On a terminal a live line tells what is going on; elsewhere (a pipe, CI) there are plain lines and no control
characters. A quiet screen shows nothing.
"""

import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import IO, ClassVar, Final

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.live import Live
from rich.markdown import Heading, Markdown, MarkdownElement
from rich.markup import escape
from rich.padding import Padding
from rich.rule import Rule
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from pushtrain.executor.results.wording import duration

_WIDEST: Final = 100
_LIVE_LINES: Final = 8
_KEPT_LINES: Final = 3
_NAME: Final = 13


class _Heading(Heading):
    """Headings at the left edge, where the rest begins."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        self.text.justify = "left"
        if self.tag != "h1":
            yield Text()
        yield Text.assemble(self.text, style="bold underline" if self.tag == "h1" else "bold")


class _Report(Markdown):
    elements: ClassVar[dict[str, type[MarkdownElement]]] = {**Markdown.elements, "heading_open": _Heading}


class Screen:
    """A place to tell the story.

    Args:
        quiet: Show nothing.
        file: Where to, instead of standard output.
        width: In characters, instead of the terminal's.
    """

    def __init__(self, *, quiet: bool = False, file: IO[str] | None = None, width: int | None = None) -> None:
        probe = Console(file=file, quiet=quiet, highlight=False, width=width)
        self._console = Console(
            file=file, quiet=quiet, highlight=False, width=min(probe.width, _WIDEST), safe_box=True
        )
        self._lines: deque[str] = deque(maxlen=_LIVE_LINES)
        self._count = 0
        self._live: Live | None = None
        self._spinner = Spinner("dots", style="cyan")
        self._now = ""
        self._since = 0.0

    @property
    def terminal(self) -> bool:
        """Whether somebody may be looking."""
        return self._console.is_terminal and not self._console.is_dumb_terminal

    def title(self, text: str, below: str = "") -> None:
        """Begin."""
        self._console.print(f"[bold]{escape(text)}[/]")
        if below:
            self._console.print(f"[dim]{escape(below)}[/]", soft_wrap=True)

    def chapter(self, text: str) -> None:
        """Begin a part."""
        self._console.print()
        self._console.print(Rule(f"[bold]{escape(text)}[/]", align="left", characters="─"))

    def fact(self, name: str, value: str) -> None:
        """Something to know."""
        self._console.print(f"  [dim]{escape(name):<{_NAME}}[/]{escape(value)}", soft_wrap=True)

    def say(self, text: str = "") -> None:
        """A sentence; may hold rich's markup."""
        self._console.print(text, soft_wrap=not self.terminal)

    def stage(self, name: str, seconds: float, note: str = "") -> None:
        """A station of the line that has been passed."""
        done = f"  [green]✓[/] {escape(name):<{_NAME}}[bold]{duration(seconds):>9}[/]"
        self._console.print(f"{done}   [dim]{escape(note)}[/]".rstrip(), soft_wrap=True)

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Show what is going on while the block runs."""
        if not self.terminal:
            yield
            return
        with Live(
            console=self._console, transient=True, get_renderable=self._moving, refresh_per_second=12
        ) as live:
            self._live = live
            try:
                yield
            finally:
                self._live = None

    def working(self, text: str) -> None:
        """What is going on."""
        if text != self._now:
            self._now, self._since = text, time.monotonic()

    def output(self, line: str) -> None:
        """A line that the training wrote."""
        self._count += 1
        self._lines.append(line)
        if self._live is None:
            self._console.print(f"  │ {line}", markup=False, soft_wrap=True)

    def output_ended(self, where: str) -> None:
        """Keep the last of what the training wrote; a live screen shows all of it only while it comes."""
        if self._live is not None and self._count:
            hidden = self._count - min(self._count, _KEPT_LINES)
            if hidden:
                self._console.print(f"  [dim]│ … {hidden} lines before; {escape(where)} has them all[/]")
            for line in list(self._lines)[-_KEPT_LINES:]:
                self._console.print(Text.assemble("  │ ", line))
        self._lines.clear()
        self._count = 0

    def change(self, removed: str, added: str) -> None:
        """A change of one line."""
        self._console.print(Text(f"  - {removed}", "red"), Text(f"  + {added}", "green"), sep="\n")

    def table(self, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
        """Numbers side by side; cells may hold rich's markup."""
        shown = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0))
        for number, column in enumerate(columns):
            shown.add_column(column, justify="right" if number else "left")
        for row in rows:
            shown.add_row(*row)
        self._page(Padding(shown, (0, 0, 0, 2)))

    def report(self, markdown: str) -> None:
        """A document."""
        self._page(Padding(_Report(markdown, hyperlinks=False), (0, 1)))

    def _page(self, page: RenderableType) -> None:
        """Without the generous distances that paper has."""
        blank = True
        for line in self._console.render_lines(page, pad=False):
            text = Text.assemble(*((segment.text, segment.style or "") for segment in line))
            text.rstrip()
            if text or not blank:
                self._console.print(text, soft_wrap=True)
            blank = not text

    def _moving(self) -> Group:
        lines = [
            Text.assemble("  │ ", (line, "dim"), no_wrap=True, overflow="ellipsis") for line in self._lines
        ]
        row = Table.grid(padding=(0, 1))
        passed = time.monotonic() - self._since
        row.add_row(" ", self._spinner, f"{escape(self._now)}", f"[dim]{passed:.1f} s[/]")
        return Group(*lines, row)
