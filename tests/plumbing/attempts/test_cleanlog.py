"""A log without secrets: the same bytes are hidden whatever is asked for, around the hole and for good."""

import errno
import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pushtrain.core.errors import StorageError
from pushtrain.core.text.redact import NOTHING, Mask
from pushtrain.plumbing.attempts import cleanlog
from pushtrain.plumbing.attempts.cleanlog import clean_log, read_clean
from pushtrain.plumbing.attempts.log import hole, read_ends
from pushtrain.plumbing.attempts.tape import FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE, _libc

TOKEN = b"wk-9f+/Zq?8=_Lm4"
MASK = Mask({"KEY": TOKEN.decode()})
BLOCK = 65536


def read(path: Path, offset: int, limit: int, *, ended: bool = True, mask: Mask = MASK) -> bytes:
    return read_clean(path, 1, offset, limit, ended=ended, mask=mask).data


def whole(path: Path, size: int, step: int, *, ended: bool = True) -> bytes:
    """All that is shown of a log, by pieces."""
    shown, offset = b"", 0
    while offset < size:
        chunk = read_clean(path, 1, offset, step, ended=ended, mask=MASK)
        shown += b"\0" * (chunk.offset - offset) + chunk.data
        if not chunk.data:
            break
        offset = chunk.next_offset
    return shown


def punch(path: Path, begin: int, end: int) -> None:
    """Let go a part of a file, as the shim does."""
    with path.open("r+b") as file:
        assert _libc.fallocate(
            file.fileno(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, begin, end - begin
        ) == 0  # fmt: skip


@given(
    parts=st.lists(st.sampled_from([b"epoch 1\n", TOKEN, TOKEN[:7], TOKEN[7:], b"w", b"\n"]), max_size=20),
    step=st.integers(1, 40),
    data=st.data(),
)
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_is_asked_for_the_same_bytes_are_hidden(
    tmp_path: Path, parts: list[bytes], step: int, data: st.DataObject
) -> None:
    path, text = tmp_path / "log.txt", b"".join(parts)
    path.write_bytes(text)
    expected = MASK.hide(text)
    assert whole(path, len(text), step) == expected
    offset = data.draw(st.integers(0, len(text)))
    assert read(path, offset, step) == expected[offset : offset + step]
    shown = whole(path, len(text), step, ended=False)
    assert expected.startswith(shown)
    assert len(text) - len(shown) == MASK.begun(text)
    clean_log(path, MASK)
    assert path.read_bytes() == expected
    assert read(path, 0, 10_000, mask=NOTHING) == expected


def test_what_is_cut_by_the_hole_is_hidden_on_both_sides_and_the_hole_stays(tmp_path: Path) -> None:
    path = tmp_path / "log.txt"
    text = bytearray(b"line of text 01\n" * (6 * BLOCK // 16))
    text[BLOCK - 9 : BLOCK + 7] = TOKEN  # 9 bytes of it stay before the hole
    text[5 * BLOCK - 6 : 5 * BLOCK + 10] = TOKEN  # and 10 behind it
    text[100:116] = TOKEN
    path.write_bytes(text)
    punch(path, BLOCK, 5 * BLOCK)
    for at in (BLOCK - 9, 5 * BLOCK, 100):
        assert set(read(path, at, 9)) == {ord("*")}
        assert set(read(path, at, 9, ended=False)) == {ord("*")}
    assert read(path, BLOCK - 25, 16) == text[BLOCK - 25 : BLOCK - 9]
    before = whole(path, len(text), 10_000)
    clean_log(path, MASK)
    with path.open("rb") as file:
        assert hole(file.fileno(), len(text)) == (BLOCK, 5 * BLOCK)
    assert path.stat().st_size == len(text)
    assert path.stat().st_mode & 0o777 == 0o600
    assert whole(path, len(text), 10_000) == before
    assert MASK.found(path.read_bytes()) == ()
    ends = read_ends(path, 2000)
    assert TOKEN not in ends.head + ends.tail


def test_a_long_log_is_cleaned_over_the_borders_of_the_pieces_that_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cleanlog, "_STEP", 50)
    path = tmp_path / "log.txt"
    text = b"".join(b"%d %s\n" % (number, TOKEN if number % 3 else TOKEN[:9]) for number in range(200))
    path.write_bytes(text)
    clean_log(path, MASK)
    assert path.read_bytes() == MASK.hide(text)


def test_a_log_without_secrets_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "log.txt"
    clean_log(path, MASK)
    assert not path.exists()
    path.write_bytes(b"nothing to hide\n")
    before = path.stat()
    clean_log(path, MASK)
    clean_log(path, NOTHING)
    assert (path.stat().st_ino, path.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_a_full_disk_leaves_the_log_as_it_was_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "log.txt"
    path.write_bytes(b"key " + TOKEN)

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(StorageError, match="could not be cleaned of secrets: No space"):
        clean_log(path, MASK)
    assert path.read_bytes() == b"key " + TOKEN
    monkeypatch.setattr(os, "pwrite", lambda *_: 1)
    with pytest.raises(StorageError, match="in part"):
        clean_log(path, MASK)
    assert list(tmp_path.iterdir()) == [path]
