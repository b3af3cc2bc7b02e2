"""A JSON file that many write at once: entries under names of their own, in one table of a versioned object.

Whoever changes an entry leaves the text of every other as it is, readable or not, and so does everything
else in the file. The roster is such a file, and so are the sealed secrets beside it.
"""

import json
import re
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic import ValidationError

from pushtrain.core.errors import ConfigError, UsageError
from pushtrain.core.text.forms import clean
from pushtrain.core.text.members import Member, NoObject, members

ValueT = TypeVar("ValueT")


def unfit(error: ValidationError) -> UsageError:
    """Why an entry has not the form that it should have: the first thing that is wrong with it."""
    first = error.errors(include_url=False, include_input=False)[0]
    where = ".".join(str(part) for part in first["loc"])
    return UsageError(f"`{clean(where[:60])}`: {first['msg'].lower()}")


@dataclass(frozen=True, slots=True)
class Register:
    """One kind of such a file.

    Attributes:
        kind: For messages: `roster`.
        table: The member that holds the entries.
        entry: For messages: what people call several of them, `cards`.
        version: The newest form of the file that we know.
        most_text: Characters of the file.
        most: Entries.
        mend: What to do about a file that is none.
        broken: The error for such a file.
    """

    kind: str
    table: str
    entry: str
    version: int
    most_text: int
    most: int
    mend: str
    broken: type[ConfigError]

    def entries(self, text: str, source: str) -> tuple[Member, ...]:
        """The entries, in their order; none in an empty text.

        Raises:
            ConfigError: It is no such file (`broken`), or a newer pushtrain wrote it.
        """
        found = self._entries(text, source) or ()
        if len(found) > self.most:
            raise self._broken(source, f"it has more than {self.most} {self.entry}")
        return found

    def read(
        self, text: str, source: str, one: Callable[[str, str], ValueT]
    ) -> tuple[tuple[ValueT, ...], tuple[tuple[str, str], ...]]:
        """What the entries are, and which cannot be read and why; one that cannot spoils no other.

        Args:
            text: The file.
            source: For messages: where it stands.
            one: An entry's value, of its name and its text; a UsageError says why it is none.

        Raises:
            ConfigError: As `entries`.
        """
        found = self.entries(text, source)
        times = Counter(member.name for member in found)
        values: list[ValueT] = []
        unread: list[tuple[str, str]] = []
        for member in found:
            try:
                if times[member.name] > 1:
                    raise UsageError("it stands there twice")  # noqa: TRY301  one way to say why
                values.append(one(member.name, text[member.at : member.end]))
            except UsageError as error:
                unread.append((clean(member.name[:80]), error.message))
        return tuple(values), tuple(dict.fromkeys(unread))

    def with_entry(self, text: str, name: str, document: Mapping[str, Any], source: str) -> str:
        """The file with this entry in the place of the one of that name; everything else stays.

        Raises:
            ConfigError: As `entries`.
        """
        body = json.dumps(document, indent=2, ensure_ascii=False).replace("\n", "\n    ")
        own = f"{json.dumps(name)}: {body}"
        top = self._top(text, source)
        if not top:
            return f'{{\n  "version": {self.version},\n  "{self.table}": {_object([own])}\n}}\n'
        known = self._entries(text, source)
        if known is None:
            end = max(member.end for member in top.values())
            return f'{text[:end]},\n  "{self.table}": {_object([own])}{text[end:]}'
        others = [member for member in known if member.name != name]
        lines = [text[member.name_at : member.end] for member in others]
        before = next((at for at, member in enumerate(others) if member.name > name), len(others))
        where = top[self.table]
        return text[: where.at] + _object([*lines[:before], own, *lines[before:]]) + text[where.end :]

    def without(self, text: str, names: Collection[str], source: str) -> str:
        """The file without the entries of these names; everything else stays.

        Raises:
            ConfigError: As `entries`.
        """
        known = self._entries(text, source) or ()
        kept = [text[member.name_at : member.end] for member in known if member.name not in names]
        if len(kept) == len(known):
            return text
        where = self._top(text, source)[self.table]
        return text[: where.at] + _object(kept) + text[where.end :]

    def _entries(self, text: str, source: str) -> tuple[Member, ...] | None:
        """The table's members; None where there is no table."""
        place = self._top(text, source).get(self.table)
        if place is None:
            return None
        try:
            return members(text, place.at)
        except NoObject as error:
            raise self._broken(source, f"`{self.table}` is no object: {error}") from error

    def _top(self, text: str, source: str) -> dict[str, Member]:
        """The file's own members, once it is a file that we understand; empty for an empty text."""
        if not text.strip():
            return {}
        if len(text) > self.most_text:
            raise self._broken(source, f"it has more than {self.most_text} characters")
        try:
            found = members(text)
        except NoObject as error:
            raise self._broken(source, f"it is not a JSON object: {error}") from error
        names = [member.name for member in found]
        if twice := next((name for name in ("version", self.table) if names.count(name) > 1), ""):
            raise self._broken(source, f"`{twice}` stands there twice")
        top = {member.name: member for member in found}
        place = top.get("version")
        version = text[place.at : place.end] if place else "missing"
        if not re.fullmatch(r"[1-9][0-9]{0,8}", version):
            raise self._broken(source, f"its `version` is {clean(version[:40])}")
        if int(version) > self.version:
            raise ConfigError(
                f"{source} is of version {version}; this pushtrain knows version {self.version}.",
                mend="Upgrade pushtrain.",
            )
        return top

    def _broken(self, source: str, why: str) -> ConfigError:
        return self.broken(f"{source} is no {self.kind}: {why}.", mend=self.mend)


def _object(lines: list[str]) -> str:
    if not lines:
        return "{}"
    inside = ",\n".join(f"    {line}" for line in lines)
    return f"{{\n{inside}\n  }}"
