"""TensorBoard's event files, read without TensorFlow.

A file is a sequence of records (length, its checksum, an `Event` protocol buffer, its checksum); see
tensorflow/core/lib/io/record_writer.h, util/event.proto and framework/summary.proto. Only scalars are read,
the old style (`simple_value`) and the new one (a tensor of one number). Checksums are not verified: a record
that makes no sense ends the reading, and what came before it counts.
"""

import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Final

from pushtrain.adapters.metrics import LARGEST, Points
from pushtrain.ports import Series

_RECORD_LIMIT: Final = 1024 * 1024
_HEAD: Final = 12
"""A record's length and its checksum."""
_CHECKSUM: Final = 4
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_TENSOR_FORMATS: Final = {1: "<f", 2: "<d", 3: "<i", 9: "<q"}
"""DT_FLOAT, DT_DOUBLE, DT_INT32, DT_INT64."""

Field = tuple[int, int | bytes]


class TensorBoard:
    """Metrics as TensorBoard event files."""

    def fits(self, path: Path) -> bool:
        """`events.out.tfevents.*`."""
        return ".tfevents." in path.name

    def read(self, path: Path, content: IO[bytes]) -> list[Series]:
        """All scalar series of the file."""
        points = Points()
        for record in _records(content):
            try:
                for tag, step, value in _scalars(record):
                    points.add(tag, step, value)
            except (ValueError, IndexError, struct.error):
                break
        return points.series()


def _records(file: IO[bytes]) -> Iterator[bytes]:
    """The records that scalars may be in; images and their like are passed over by their size."""
    read = 0
    while read < LARGEST and len(head := file.read(_HEAD)) == _HEAD:
        (length,) = struct.unpack_from("<Q", head)
        read += _HEAD + length + _CHECKSUM
        if length > _RECORD_LIMIT:
            if read >= LARGEST:
                return
            file.seek(length + _CHECKSUM, os.SEEK_CUR)
            continue
        if len(record := file.read(length)) < length or len(file.read(_CHECKSUM)) < _CHECKSUM:
            return
        yield record


def _scalars(event: bytes) -> Iterator[tuple[str, int, float]]:
    step = 0
    values: list[bytes] = []
    for number, content in _fields(event):
        if number == 2 and isinstance(content, int):  # noqa: PLR2004  Event.step
            step = content - (1 << 64) if content >> 63 else content
        elif number == 5 and isinstance(content, bytes):  # noqa: PLR2004  Event.summary
            values += [value for one, value in _fields(content) if one == 1 and isinstance(value, bytes)]
    for value in values:
        tag, scalar = _value(value)
        if tag and scalar is not None:
            yield tag, step, scalar


def _value(message: bytes) -> tuple[str, float | None]:
    """A `Summary.Value`: its tag, and its number if it is a scalar."""
    tag, found = "", None
    for number, content in _fields(message):
        if number == 1 and isinstance(content, bytes):
            tag = content.decode("utf-8", "replace")
        elif number == 2 and isinstance(content, bytes):  # noqa: PLR2004  simple_value
            found = _unpacked("<f", content)
        elif number == 8 and isinstance(content, bytes):  # noqa: PLR2004  tensor
            found = _tensor(content)
    return tag, found


def _tensor(message: bytes) -> float | None:
    """A `TensorProto` that holds one number."""
    fields = dict(_fields(message))
    kind = fields.get(1)
    form = _TENSOR_FORMATS.get(kind) if isinstance(kind, int) else None
    content = fields.get(4)
    if form and isinstance(content, bytes) and len(content) == struct.calcsize(form):
        return _unpacked(form, content)
    for number, packed in ((5, "<f"), (6, "<d")):
        listed = fields.get(number)
        if isinstance(listed, bytes) and len(listed) == struct.calcsize(packed):
            return _unpacked(packed, listed)
    for number in (7, 10):
        listed = fields.get(number)
        if isinstance(listed, int):
            return float(listed)
        if isinstance(listed, bytes) and listed:
            value, end = _varint(listed, 0)
            return float(value) if end == len(listed) else None
    return None


def _unpacked(form: str, content: bytes) -> float:
    (value,) = struct.unpack(form, content)
    return float(value)


def _fields(message: bytes) -> Iterator[Field]:
    """The fields of a protocol buffer: number, and an int for varints or the bytes of anything else."""
    at = 0
    while at < len(message):
        key, at = _varint(message, at)
        number, wire = key >> 3, key & 7
        if wire == _VARINT:
            value, at = _varint(message, at)
            yield number, value
            continue
        if wire == _BYTES:
            length, at = _varint(message, at)
        elif wire in (_FIXED32, _FIXED64):
            length = 4 if wire == _FIXED32 else 8
        else:
            raise ValueError(f"wire type {wire}")
        if at + length > len(message):
            raise ValueError("a field ends beyond its message")
        yield number, message[at : at + length]
        at += length


def _varint(message: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:  # noqa: PLR2004  the last byte of a varint
            return value & ((1 << 64) - 1), at
        shift += 7
        if shift > 63:  # noqa: PLR2004  a varint has at most ten bytes
            raise ValueError("a varint that does not end")
