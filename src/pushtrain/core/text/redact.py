"""Hide what must not be shown: secrets in bytes and texts, by as many `*`, so that every offset stays.

A value is looked for as it is and in the forms that programs print by accident: percent-encoded, escaped for
JSON, Python or HTML, in hexadecimal, and in base64 at each of its three alignments, in either alphabet, the
characters that hold a part of it at its edges included. Where a tool has broken a form over lines
(`base64` does, and so do terminals), it is found all the same. A value of several lines is looked for line by
line, too. Line ends themselves are never replaced.

What is hidden at one place depends on at most `reach` bytes on either side, so that a long text may be read
in pieces: whatever the pieces, the same bytes are hidden. `begun` and `ended` tell what, at the end or at the
start of a text, may be a part of a value whose rest is not there.

This guards against accidents. A job that wants to show its secret can always disguise it.
"""

import base64
import bisect
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Final
from urllib.parse import quote, quote_plus

LEAST: Final = 8
"""Characters of a value, or of one of its lines, below which it cannot be told from ordinary words."""
STAR: Final = b"*"

_PIECE: Final = 4
"""A value is recognised over a line break only when at least so many characters of it stand on each line."""
_STARS: Final = bytes(byte if byte in b"\r\n" else STAR[0] for byte in range(256))
_BREAK: Final = re.compile(rb"\r?\n")
_ALPHABETS: Final = (
    b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/",
    b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_",
)
_JAVASCRIPT: Final = "!~*'()"
"""What `encodeURIComponent` leaves as it is, letters, digits, `-`, `_` and `.` aside."""

Span = tuple[int, int]


@dataclass(frozen=True, slots=True)
class _Form:
    """One form of one value: what it looks like."""

    name: str
    """The secret's."""
    core: bytes
    wraps: bool
    """Whether a line break inside does not hide it; else it may hold line breaks of its own."""
    left: frozenset[int] = frozenset()
    """What may stand right before `core` and belongs to it; empty: nothing does."""
    right: frozenset[int] = frozenset()
    """What may stand right behind it, likewise."""

    @property
    def size(self) -> int:
        return len(self.core) + bool(self.left) + bool(self.right)

    @property
    def reach(self) -> int:
        """The most bytes that it can take up."""
        return self.size + (2 * (self.size // _PIECE + 1) if self.wraps else 0)

    def fits(self, data: bytes, start: int, end: int | None = None, *, cut: bool = False) -> bool:
        """Whether what stands at the edges of a stretch may belong to it.

        Args:
            data: Where the stretch is.
            start: Where it begins.
            end: Where it ends; None: that is not there yet.
            cut: Whether its beginning is not there any more.
        """
        if not cut and self.left and not (start >= 0 and data[start] in self.left):
            return False
        return end is None or not self.right or (end <= len(data) and data[end - 1] in self.right)


class _Text:
    """A text with its line breaks taken out, and the way back."""

    def __init__(self, data: bytes) -> None:
        self.raw = data
        self.flat = data.replace(b"\r\n", b"").replace(b"\n", b"")
        self._places: list[int] | None = None
        self._lengths: list[int] = []

    def _breaks(self) -> list[int]:
        """Where, counted in `flat`, a line break stood before the byte; found when first asked."""
        if self._places is None:
            found = [(match.start(), match.end()) for match in _BREAK.finditer(self.raw)]
            self._lengths = [0, *accumulate(end - start for start, end in found)]
            self._places = [start - before for (start, _), before in zip(found, self._lengths, strict=False)]
        return self._places

    def at(self, flat: int) -> int:
        """Where a byte of `flat` stands in the text."""
        places = self._breaks()
        return flat + self._lengths[bisect.bisect_right(places, flat)]

    def whole(self, start: int, end: int, *, more: bool = False) -> bool:
        """Whether the line breaks within a stretch of `flat` leave enough on each line.

        Args:
            start: Where it begins.
            end: Where it ends.
            more: Whether it goes on after its end, so that a line break right there is within it.
        """
        places = self._breaks()
        first = bisect.bisect_right(places, start)
        last = bisect.bisect_right(places, end) if more else bisect.bisect_left(places, end)
        inside = places[first:last]
        return all(here - before >= _PIECE for before, here in zip((start, *inside), inside, strict=False))


class Mask:
    """What to hide, in every form.

    Args:
        values: The secrets by their names.
        everything: Hide all there is: the secrets are not known any more.
    """

    def __init__(self, values: Mapping[str, str] | None = None, *, everything: bool = False) -> None:
        self.everything = everything
        """Whether the secrets are not known any more."""
        forms = [form for name, value in (values or {}).items() if value for form in _forms(name, value)]
        self._forms = tuple(dict.fromkeys(forms))
        self.reach = max((form.reach for form in self._forms), default=0)
        """Bytes on either side that decide whether a byte is hidden."""

    def __bool__(self) -> bool:
        return bool(self._forms) or self.everything

    def __repr__(self) -> str:
        return f"Mask({len(self._forms)} forms)"

    def hide(self, data: bytes) -> bytes:
        """The bytes with `*` in place of whatever must not be shown."""
        if self.everything:
            return data.translate(_STARS)
        return _starred(data, self.spans(data))

    def text(self, text: str) -> str:
        """The text likewise; a character of several bytes becomes several `*`."""
        if not self:
            return text
        return self.hide(text.encode("utf-8", "surrogateescape")).decode("utf-8", "surrogateescape")

    def found(self, data: bytes) -> tuple[str, ...]:
        """The names of the secrets that show in these bytes."""
        text = _Text(data)
        return tuple(
            dict.fromkeys(form.name for form in self._forms if next(_hits(form, text), None) is not None)
        )

    def spans(self, data: bytes) -> list[Span]:
        """Where something is to be hidden: in order, not touching each other."""
        if self.everything:
            return [(0, len(data))] if data else []
        text = _Text(data)
        return _joined(sorted(span for form in self._forms for span in _hits(form, text)))

    def within(self, data: bytes, start: int, end: int) -> bytes:
        """A stretch of these bytes, with what is hidden judged by all of them."""
        if self.everything:
            return data[start:end].translate(_STARS)
        return _starred(data, self.spans(data))[start:end]

    def begun(self, data: bytes) -> int:
        """How many bytes at the end may be the beginning of something whose rest is not there yet."""
        tail = data[len(data) - min(len(data), self.reach) :]
        if not tail or self.everything:
            return 0
        # A lone carriage return may be half of a line break.
        broken = _Text(f"{tail.decode('latin-1')}\n".encode("latin-1")) if tail.endswith(b"\r") else None
        texts = [text for text in (_Text(tail), broken) if text is not None]
        starts = [_beginning(form, text) for form in self._forms for text in texts]
        return len(tail) - min((start for start in starts if start is not None), default=len(tail))

    def ended(self, data: bytes) -> int:
        """How many bytes at the start may be the end of something whose beginning is not there."""
        head = data[: self.reach]
        if not head or self.everything:
            return 0
        text = _Text(head)
        return max((_ending(form, text) for form in self._forms), default=0)


NOTHING: Final = Mask()
"""Hides nothing."""


def _starred(data: bytes, spans: Sequence[Span]) -> bytes:
    if not spans:
        return data
    shown = bytearray(data)
    for start, end in spans:
        shown[start:end] = data[start:end].translate(_STARS)
    return bytes(shown)


def _joined(spans: Sequence[Span]) -> list[Span]:
    found: list[Span] = []
    for start, end in spans:
        if found and start <= found[-1][1]:
            found[-1] = (found[-1][0], max(end, found[-1][1]))
        else:
            found.append((start, end))
    return found


# --- finding forms ----------------------------------------------------------------------------------------


def _hits(form: _Form, text: _Text) -> Iterator[Span]:
    """Where a form stands whole."""
    data = text.flat if form.wraps else text.raw
    at = data.find(form.core)
    while at >= 0:
        start, end = at - bool(form.left), at + len(form.core) + bool(form.right)
        if form.fits(data, start, end):
            if not form.wraps:
                yield start, end
            elif text.whole(start, end):
                yield text.at(start), text.at(end - 1) + 1
        at = data.find(form.core, at + 1)


def _beginning(form: _Form, text: _Text) -> int | None:
    """The first place from which on the text may be the beginning of a form; None: there is none."""
    data = text.flat if form.wraps else text.raw
    first, size = form.core[:1], len(data)
    starts = []
    at = data.find(first, max(0, size - form.size))
    while at >= 0:
        start, rest = at - bool(form.left), data[at:]
        begins = form.core.startswith(rest) or (bool(form.right) and rest == form.core)
        if begins and size - start < form.size and form.fits(data, start):
            starts.append(start)
        at = data.find(first, at + 1)
    if form.left and data and data[-1] in form.left:  # nothing of the core yet
        starts.append(size - 1)
    if not form.wraps:
        return starts[0] if starts else None
    return next((text.at(start) for start in starts if text.whole(start, size, more=True)), None)


def _ending(form: _Form, text: _Text) -> int:
    """How many bytes at the start may be the end of a form."""
    data = text.flat if form.wraps else text.raw
    last, most = form.core[-1:], 0
    at = data.find(last, 0, form.size)
    while at >= 0:
        end, part = at + 1 + bool(form.right), data[: at + 1]
        ends = form.core.endswith(part) or (bool(form.left) and part[1:] == form.core)
        if ends and end < form.size and form.fits(data, 0, end, cut=True):
            most = end
        at = data.find(last, at + 1, form.size)
    if not most and form.right and data and data[0] in form.right:
        most = 1
    return text.at(most - 1) + 1 if most and form.wraps else most


# --- making forms -----------------------------------------------------------------------------------------


def _forms(name: str, value: str) -> Iterator[_Form]:
    """All forms of a value; of one of several lines also those of its lines."""
    several = "\n" in value
    for text in _printed(value):
        yield _Form(name, text.encode("utf-8", "surrogateescape"), wraps="\n" not in text)
    yield from _encoded(name, value.encode("utf-8", "surrogateescape"))
    if several:
        for line in (line.strip() for line in value.splitlines()):
            if len(line) >= LEAST:
                for text in {line, json.dumps(line)[1:-1], json.dumps(line, ensure_ascii=False)[1:-1]}:
                    yield _Form(name, text.encode("utf-8", "surrogateescape"), wraps=True)


def _printed(value: str) -> set[str]:
    """What programs make of a text when they print, quote or escape it."""
    import html  # lazy: its tables cost 2 ms of every start

    data = value.encode("utf-8", "surrogateescape")
    urls = {quote(data, safe=safe) for safe in ("", "/", _JAVASCRIPT, "/:?&=+$,;#" + _JAVASCRIPT)}
    urls |= {quote_plus(data), "".join(f"%{byte:02X}" for byte in data)}
    urls |= {re.sub(r"%[0-9A-F]{2}", lambda match: match[0].lower(), url) for url in urls}
    escaped = {json.dumps(value)[1:-1], json.dumps(value, ensure_ascii=False)[1:-1]}
    escaped |= {text.replace("/", "\\/") for text in escaped}
    escaped |= {repr(value)[1:-1], ascii(value)[1:-1], repr(data)[2:-1]}
    marked = {html.escape(value), html.escape(value, quote=False)}
    return {value, value.replace("\n", "\r\n"), data.hex(), data.hex().upper(), *urls, *escaped, *marked}


def _encoded(name: str, data: bytes) -> Iterator[_Form]:
    """The value in base64, whatever stands before and behind it in what was encoded (RFC 4648)."""
    for before in range(3):
        first = -(-8 * before // 6)  # characters that hold a part of what stands before
        bits = 8 * (before + len(data))
        last, rest = divmod(bits, 6)
        padded = bytes(before) + data + bytes(2)
        for alphabet in _ALPHABETS:
            text = base64.b64encode(padded, altchars=alphabet[62:64])
            left = right = frozenset[int]()
            if before:
                low = alphabet.index(text[first - 1])  # its low bits are the value's
                share = 6 * first - 8 * before
                left = frozenset(alphabet[low + (high << share)] for high in range(1 << (6 - share)))
            if rest:
                high = alphabet.index(text[last])  # its high bits are
                right = frozenset(alphabet[high + low] for low in range(1 << (6 - rest)))
            core = text[first:last]
            for shown in {core, quote(core, safe="").encode()}:
                yield _Form(name, shown, wraps=True, left=left, right=right)
