"""JSON and small files for the shim, which no start may wait for: standard library only and few imports.

`_json` is the C half of `json`, whose Python half costs 8 ms.
"""

import os
from _json import encode_basestring_ascii, make_scanner

TYPE_CHECKING = False  # typing's own costs 10 ms
if TYPE_CHECKING:
    from typing import Any


class Grammar:
    """What the JSON scanner wants to know."""

    strict = True
    object_hook = None
    object_pairs_hook = None
    parse_float = float
    parse_int = int
    parse_constant = float


class Quietly:
    """`contextlib.suppress`, without what importing it costs."""

    def __init__(self, *errors: type[BaseException]) -> None:
        self.errors = errors

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: object) -> bool:
        return kind is not None and issubclass(kind, self.errors)


def read_json(path: str) -> "dict[str, Any]":
    """Read a JSON object."""
    with open(path, encoding="utf-8") as file:
        return from_json(file.read())


def from_json(text: str) -> "dict[str, Any]":
    """The object that a text holds."""
    found: dict[str, Any] = make_scanner(Grammar)(text, 0)[0]  # type: ignore[arg-type]
    return found


def to_json(value: object) -> str:
    """Write JSON: what `json.dumps` does for the few types in our records."""
    if isinstance(value, str):
        return encode_basestring_ascii(value)
    if isinstance(value, bool) or value is None:
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, dict):
        return "{" + ",".join(f"{to_json(k)}:{to_json(v)}" for k, v in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ",".join(map(to_json, value)) + "]"
    return repr(value)


def read_small(path: str) -> bytes:
    """Read a file of `/proc` in one go; empty when there is none."""
    try:
        with open(path, "rb", buffering=0) as file:
            return file.read() or b""
    except OSError:
        return b""


def write_whole(path: str, text: str, reserved: str = "", *, mode: int = 0o600) -> None:
    """Write a file whole, durably; into the blocks of a reserved file if one is named."""
    temporary = reserved or f"{path}.new"
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT, mode)
    data = text.encode()
    os.write(descriptor, data)
    os.ftruncate(descriptor, len(data))
    os.fsync(descriptor)
    os.close(descriptor)
    os.replace(temporary, path)
    folder = os.open(os.path.dirname(path), os.O_RDONLY | os.O_DIRECTORY)
    os.fsync(folder)
    os.close(folder)
