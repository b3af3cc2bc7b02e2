"""Read tables of a file that a person wrote, and note every mistake instead of stopping at the first.

Each getter asks for one key and answers with its default when the value is wrong, so that one reading finds
all mistakes; `Table.end()` then tells of the keys that nobody asked for. A mistake names file, line, key and
value, what is wrong, and the mend.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, TypeVar

from pushtrain.core.errors import ConfigError
from pushtrain.core.text.forms import Wrong, did_you_mean, dotted, kind, listed, show, text_problem

T = TypeVar("T")

MAX_ENTRIES: Final = 256
"""Entries of one list."""
MAX_TOLD: Final = 20
"""Mistakes that one message tells."""

_ASSIGNMENT: Final = re.compile(
    r"""\s*((?:[\w-]+|"[^"]*"|'[^']*')(?:\s*\.\s*(?:[\w-]+|"[^"]*"|'[^']*'))*)\s*="""
)
_HEADER: Final = re.compile(r"\s*\[{1,2}([^\[\]]+)\]{1,2}\s*(?:#.*)?$")


@dataclass(frozen=True, slots=True)
class Mistake:
    """One thing that is wrong, where, and what to do about it."""

    path: tuple[str, ...]
    shown: str
    """The value as the message shows it; may be empty."""
    problem: str
    mend: str


@dataclass(slots=True)
class Notes:
    """The mistakes of one file."""

    source: str
    text: str
    mistakes: list[Mistake] = field(default_factory=list)
    more: int = 0
    """Mistakes beyond those that are told."""

    @property
    def count(self) -> int:
        """How many there are."""
        return len(self.mistakes) + self.more

    @property
    def full(self) -> bool:
        """Whether more need not be explained."""
        return len(self.mistakes) >= MAX_TOLD

    def add(self, path: Sequence[str], value: object, problem: str, mend: str) -> None:
        """Note one mistake; a value of None is not shown."""
        if self.full:
            self.more += 1
            return
        self.mistakes.append(Mistake(tuple(path), "" if value is None else show(value), problem, mend))

    def settle(self) -> None:
        """Do nothing when all is well.

        Raises:
            ConfigError: Something is wrong; one line a mistake, in the file's order as far as it is known.
        """
        if not self.mistakes:
            return
        lines = line_numbers(self.text)
        told = [(line_of(lines, mistake.path), mistake) for mistake in self.mistakes]
        told.sort(key=lambda pair: pair[0] or 0)
        sentences = []
        for line, mistake in told:
            where = f"{self.source}:{line}" if line else self.source
            key = dotted(mistake.path)
            subject = f"`{key} = {mistake.shown}`" if mistake.shown else f"`{key}`" if key else ""
            sentences.append(
                f"{where}: {subject} {mistake.problem}." if key else f"{where}: {mistake.problem}."
            )
        mends = [mistake.mend for _, mistake in told]
        if len(sentences) == 1:
            raise ConfigError(sentences[0], mend=mends[0])
        lines_told = [f"{sentence} {mend}" for sentence, mend in zip(sentences, mends, strict=True)]
        if self.more:
            lines_told.append(f"{self.source}: and {self.more} more.")
        raise ConfigError("\n".join(lines_told))


@dataclass(slots=True)
class Table:
    """One table being read."""

    notes: Notes
    path: tuple[str, ...]
    data: Mapping[str, object]
    known: list[str] = field(default_factory=list)

    def take(self, key: str) -> object | None:
        """The raw value, or None when the key is not there."""
        self.known.append(key)
        return self.data.get(key)

    def wrong(self, key: str, value: object, problem: str, mend: str) -> None:
        """Note a mistake at one key."""
        self.notes.add((*self.path, key), value, problem, mend)

    def flag(self, key: str, *, default: bool) -> bool:
        """`true` or `false`."""
        value = self.take(key)
        if value is None or isinstance(value, bool):
            return default if value is None else value
        self.wrong(
            key, value, "is neither true nor false", f"Write `{key} = true` or `{key} = false`, no quotes."
        )
        return default

    def number(
        self, key: str, *, default: float = 0, least: float = 0, most: float, whole: bool = True
    ) -> float:
        """A number within bounds."""
        value = self.take(key)
        if value is None:
            return default
        what = "a whole number" if whole else "a number"
        fits = isinstance(value, int if whole else (int, float)) and not isinstance(value, bool)
        if not fits or not least <= value <= most:  # type: ignore[operator]
            beyond = isinstance(value, (int, float)) and not isinstance(value, bool) and value > most
            mend = (
                f"Write `{key} = {most:g}` or less."
                if beyond
                else f"Write for example `{key} = {max(least, min(default or 1, most)):g}`."
            )
            self.wrong(key, value, f"is not {what} from {least:g} to {most:g}", mend)
            return default
        return float(value)  # type: ignore[arg-type]

    def texts(self, key: str, *, example: str) -> tuple[str, ...]:
        """A list of strings."""
        value = self.take(key)
        if value is None:
            return ()
        mend = f"Write a list of texts, as in `{key} = [{json.dumps(example)}]`."
        if not isinstance(value, list):
            self.wrong(key, value, "is not a list", mend)
            return ()
        if len(value) > MAX_ENTRIES:
            self.wrong(key, None, f"has {len(value)} entries; at most {MAX_ENTRIES} are read", "Use fewer.")
            return ()
        for item in value:
            problem = text_problem(item)
            if problem:
                self.wrong(key, item, f"holds an entry that {problem}", mend)
                return ()
        if len(set(value)) < len(value):
            twice = next(item for item in value if value.count(item) > 1)
            self.wrong(key, twice, "holds an entry twice", "Leave one of them.")
        return tuple(value)

    def read(self, key: str, read: Callable[[object], T], default: T) -> T:
        """Any value, by a function that raises ValueError(problem, mend) for a wrong one."""
        value = self.take(key)
        if value is None:
            return default
        try:
            return read(value)
        except Wrong as wrong:
            self.wrong(key, value, wrong.problem, wrong.mend)
            return default

    def table(self, key: str, mend: str) -> "Table | None":
        """A table below this one."""
        value = self.take(key)
        if value is None:
            return None
        if not isinstance(value, dict):
            self.wrong(key, value, f"is {kind(value)}, not a table", mend)
            return None
        return Table(self.notes, (*self.path, key), value)

    def tables(self, key: str, mend: str) -> "list[Table]":
        """A list of tables below this one."""
        value = self.take(key)
        if value is None:
            return []
        if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
            self.wrong(key, value, "is not a list of tables", mend)
            return []
        if len(value) > MAX_ENTRIES:
            self.wrong(key, None, f"has {len(value)} entries; at most {MAX_ENTRIES} are read", "Use fewer.")
            return []
        return [Table(self.notes, (*self.path, key, str(at)), item) for at, item in enumerate(value, 1)]

    def end(self, advice: Mapping[str, str] | None = None) -> None:
        """Tell of every key that nobody asked for; `advice` has the mend for foreseen ones."""
        known = tuple(dict.fromkeys(self.known))
        for key, value in self.data.items():
            if key not in known and self.notes.full:
                self.notes.more += 1
            elif key not in known:
                shown = value if not isinstance(value, (dict, list)) else None
                mend = (advice or {}).get(key) or did_you_mean(key, known) or f"Known here: {listed(known)}."
                self.wrong(key, shown, "is not a known key", mend)


def line_numbers(text: str) -> dict[tuple[str, ...], int]:
    """The line on which each key is written, as far as a look at the lines tells.

    Text over several lines is passed over; a key that is not found is told of by the table round it.
    """
    found: dict[tuple[str, ...], int] = {}
    here: tuple[str, ...] = ()
    quote = ""
    counts: dict[tuple[str, ...], int] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if quote:
            quote = "" if quote in line else quote
            continue
        if header := _HEADER.match(line):
            here = _split(header[1])
            if line.lstrip().startswith("[["):
                counts[here] = counts.get(here, 0) + 1
                here = (*here, str(counts[here]))
            found.setdefault(here, number)
        elif assignment := _ASSIGNMENT.match(line):
            found.setdefault((*here, *_split(assignment[1])), number)
        quote = next((mark for mark in ('"""', "'''") if line.count(mark) % 2), "")
    return found


def line_of(lines: Mapping[tuple[str, ...], int], path: Sequence[str]) -> int | None:
    """The line of a key, or of the nearest table round it."""
    for length in range(len(path), 0, -1):
        if line := lines.get(tuple(path[:length])):
            return line
    return None


def _split(key: str) -> tuple[str, ...]:
    parts = re.findall(r"""[\w-]+|"[^"]*"|'[^']*'""", key)
    return tuple(part.strip("\"'") for part in parts)
