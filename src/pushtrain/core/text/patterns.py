"""GitHub Actions' filter patterns for branches, tags and paths, matched in linear time.

Follows the filter pattern cheat sheet of GitHub's workflow syntax page: `*` is any run without a slash, `**`
any run, `?` makes the character before it optional, `+` repeats it, `[]` is one letter or digit of a set, a
backslash takes the next character as it is, and `!` at the start takes back what earlier patterns matched. A
pattern matches the whole name. It comes from somebody's repository, so matching never backtracks: a set of
positions walks along the name, whatever the pattern holds.
"""

import string
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Final

MAX_LENGTH: Final = 512
_SPECIAL: Final = "*?+[]!\\"
_RANGES: Final = {"digit": string.digits, "lower": string.ascii_lowercase, "upper": string.ascii_uppercase}


class PatternError(ValueError):
    """A pattern is not of the cheat sheet's form; the text says what to write instead."""


@dataclass(frozen=True, slots=True)
class _Step:
    """One position of a pattern: what it eats, whether it may eat again, and where it may jump to uneaten."""

    eats: frozenset[str] | None
    """Characters; None: any."""
    but_slash: bool = False
    again: bool = False
    jump: int = 0
    """How many positions further a match may go on without eating here; 0: it must eat."""


@dataclass(frozen=True, slots=True)
class Pattern:
    """One compiled pattern; positions are bits of an integer."""

    negative: bool
    """Whether it began with `!`."""
    eats: dict[str, int]
    """Which positions eat a character, for the characters that the pattern names."""
    eats_other: int
    """Which positions eat any other character."""
    again: int
    jumps: tuple[tuple[int, int], ...]
    """(positions, how far)."""
    end: int

    def matches(self, name: str) -> bool:
        """Whether the whole name matches, the leading `!` aside."""
        here = self._reach(1)
        for character in name:
            eaten = here & self.eats.get(character, self.eats_other)
            if not eaten:
                return False
            here = self._reach((eaten << 1) | (eaten & self.again))
        return bool(here & self.end)

    def _reach(self, here: int) -> int:
        while True:
            further = here
            for positions, distance in self.jumps:
                further |= (further & positions) << distance
            if further == here:
                return here
            here = further


def selects(patterns: Sequence[str], name: str) -> bool:
    """Whether the patterns, taken in order, select the name: the last one that matches decides.

    Raises:
        PatternError: A pattern is malformed.
    """
    chosen = False
    for text in patterns:
        pattern = compiled(text)
        if pattern.negative == chosen and pattern.matches(name):
            chosen = not pattern.negative
    return chosen


def literal(name: str) -> str:
    """The pattern that matches exactly this name."""
    return "".join(f"\\{character}" if character in _SPECIAL else character for character in name)


@lru_cache(maxsize=1024)
def compiled(text: str) -> Pattern:
    """The pattern, ready to match.

    Raises:
        PatternError: It is malformed.
    """
    if len(text) > MAX_LENGTH:
        raise PatternError(f"a pattern has at most {MAX_LENGTH} characters")
    negative = text.startswith("!")
    body = text[1:] if negative else text
    if not body:
        raise PatternError("a pattern cannot be empty")
    steps = _steps(body)
    named = {character for step in steps for character in step.eats or ()} | {"/"}
    return Pattern(
        negative=negative,
        eats={character: _positions(steps, character) for character in named},
        eats_other=_positions(steps, ""),
        again=sum(1 << at for at, step in enumerate(steps) if step.again),
        jumps=tuple(
            (sum(1 << at for at, step in enumerate(steps) if step.jump == distance), distance)
            for distance in sorted({step.jump for step in steps} - {0})
        ),
        end=1 << len(steps),
    )


def _positions(steps: Sequence[_Step], character: str) -> int:
    """Which steps eat this character; the empty string stands for one that the pattern does not name."""
    mask = 0
    for at, step in enumerate(steps):
        eats = character in step.eats if step.eats is not None else not (step.but_slash and character == "/")
        mask |= eats << at
    return mask


def _steps(body: str) -> list[_Step]:
    steps: list[_Step] = []
    repeatable = False
    at = 0
    while at < len(body):
        if body[at] == "*":
            at = _wildcard(body, at, steps)
            repeatable = False
        elif body[at] in "?+":
            if not repeatable:
                raise PatternError(
                    f"`{body[at]}` needs a character before it; to mean itself write `\\{body[at]}`"
                )
            steps[-1] = replace(steps[-1], again=body[at] == "+", jump=int(body[at] == "?"))
            at += 1
            repeatable = False
        else:
            at, eats = _character(body, at)
            steps.append(_Step(eats))
            repeatable = True
    return steps


def _wildcard(body: str, at: int, steps: list[_Step]) -> int:
    """Append the steps of the `*` or `**` at this place; returns where the pattern goes on."""
    if not body.startswith("**", at):
        steps.append(_Step(None, but_slash=True, again=True, jump=1))
        return at + 1
    if body.startswith("/", at + 2) and (at == 0 or body[at - 1] == "/"):
        # In place of whole folders: none at all, or one character, any more, and a slash.
        steps += [_Step(None, jump=3), _Step(None, again=True, jump=1), _Step(frozenset("/"))]
        return at + 3
    steps.append(_Step(None, again=True, jump=1))
    return at + 2


def _character(body: str, at: int) -> tuple[int, frozenset[str]]:
    """The characters that may stand at this place, and where the pattern goes on."""
    if body[at] == "[":
        close = body.find("]", at)
        if close < 0:
            raise PatternError("`[` is never closed; to mean itself write `\\[`")
        return close + 1, _set(body[at + 1 : close])
    if body[at] != "\\":
        return at + 1, frozenset(body[at])
    if at + 1 == len(body):
        raise PatternError("nothing follows the last backslash; to mean itself write two")
    return at + 2, frozenset(body[at + 1])


def _set(inside: str) -> frozenset[str]:
    chosen: set[str] = set()
    at = 0
    while at < len(inside):
        first = inside[at]
        ranged = inside[at + 1 : at + 2] == "-" and at + 2 < len(inside)
        last = inside[at + 2] if ranged else first
        if not (_kind(first) and _kind(first) == _kind(last) and first <= last):
            break
        chosen |= {chr(code) for code in range(ord(first), ord(last) + 1)}
        at += 3 if ranged else 1
    if at < len(inside) or not chosen:
        raise PatternError(f"`[{inside}]` is not a set of letters and digits such as `[0-9a-z]`")
    return frozenset(chosen)


def _kind(character: str) -> str:
    """Which of the three ranges a character belongs to; empty: none."""
    return next((kind for kind, members in _RANGES.items() if character in members), "")
