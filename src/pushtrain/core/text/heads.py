"""Heads of HTTP/1 requests that have one meaning only: what two readers could read in two ways is refused.

A tunnel, a proxy and our server each read the same bytes. Where they may disagree about where a request ends
or what it asks for, somebody can hide a second request in the first (request smuggling). RFC 9112 leaves much
of that to the reader's taste; no client of ours, no Git host and no tunnel needs any of it:

- Lines end with CR LF, none begins with a blank, and there is nothing before the first.
- The target is a path (origin form) of plain segments: no `//`, `.` or `..`, and no escaped slash, dot,
  backslash or control character.
- A length is said once: one plain `Content-Length`, or `Transfer-Encoding: chunked` in HTTP/1.1, never both.
- There are at most `MAX_FIELDS` header fields.
"""

import re
from typing import Final

MAX_FIELDS: Final = 64
"""Header fields of a request."""

_START: Final = re.compile(
    rb"(?P<method>[A-Z]{1,16}) (?P<path>/[!-~]*?)(?:\?[!-~]*)? HTTP/1\.(?P<minor>[01])"
)
_FIELD: Final = re.compile(rb"(?P<name>[!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*(?P<value>[^\0\r\n]*?)[ \t]*")
_PLAIN_PATH: Final = re.compile(rb"/|(?:/(?!\.{1,2}(?:/|$))[^/]+)+/?")
_HIDDEN: Final = re.compile(rb"%(?:[01][0-9a-f]|2[ef]|5c|7f)|[\\#]", re.IGNORECASE)
_LENGTH: Final = re.compile(rb"[0-9]{1,15}")


def fault(head: bytes) -> str:
    """Why a request may be read in two ways; empty when it may not.

    Args:
        head: The request from its first byte to the blank line at least; what follows that is not looked at.
    """
    lines = head.partition(b"\r\n\r\n")[0].split(b"\r\n")
    if any(b"\r" in line or b"\n" in line for line in lines):
        return "a line ends with something else than CR LF"
    start = _START.fullmatch(lines[0])
    if start is None:
        return "the request line is none, or its target is no path"
    if not _PLAIN_PATH.fullmatch(start["path"]) or _HIDDEN.search(start["path"]):
        return "the path can be spelt in another way"
    if len(lines) - 1 > MAX_FIELDS:
        return f"it has more than {MAX_FIELDS} header fields"
    fields = [_FIELD.fullmatch(line) for line in lines[1:]]
    if not all(fields):
        return "a header field is none"
    pairs = [(field["name"].lower(), field["value"]) for field in fields if field]
    return _wrong_length(pairs, chunks=start["minor"] == b"1")


def _wrong_length(pairs: list[tuple[bytes, bytes]], *, chunks: bool) -> str:
    """Why it is not certain where the request ends."""
    lengths = [value for name, value in pairs if name == b"content-length"]
    codings = [value for name, value in pairs if name == b"transfer-encoding"]
    if len(lengths) + len(codings) > 1:
        return "its length is said more than once"
    if lengths and not _LENGTH.fullmatch(lengths[0]):
        return "its length is no plain number"
    if codings and not (chunks and codings[0].lower() == b"chunked"):
        return "its transfer encoding is another one than chunked"
    return ""
