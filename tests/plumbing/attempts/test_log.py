import ctypes
from pathlib import Path

import pytest

from pushtrain.plumbing.attempts.log import log_size, read_ends, read_log


def punch(path: Path, begin: int, end: int) -> None:
    with path.open("r+b") as file:
        punch_hole_keep_size = 3
        function = ctypes.CDLL(None, use_errno=True).fallocate
        function.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_longlong, ctypes.c_longlong)
        assert function(file.fileno(), punch_hole_keep_size, begin, end - begin) == 0


@pytest.fixture
def long_log(tmp_path: Path) -> Path:
    """A log of 40 blocks, the middle 20 of them let go."""
    path = tmp_path / "log.txt"
    path.write_bytes(b"".join(b"%063d\n" % number for number in range(40 * 1024)))
    punch(path, 10 * 65536, 30 * 65536)
    return path


def test_a_log_that_does_not_exist_yet_is_empty_and_not_complete(tmp_path: Path) -> None:
    chunk = read_log(tmp_path / "none", 1, 0, 100, ended=False)
    assert (chunk.data, chunk.next_offset, chunk.complete) == (b"", 0, False)
    assert read_log(tmp_path / "none", 1, 0, 100, ended=True).complete
    assert log_size(tmp_path / "none") == 0
    assert read_ends(tmp_path / "none", 100).size == 0


def test_an_empty_log_of_an_ended_job_is_complete(tmp_path: Path) -> None:
    path = tmp_path / "log.txt"
    path.touch()
    chunk = read_log(path, 1, 0, 100, ended=True)
    assert (chunk.data, chunk.complete, chunk.elided) == (b"", True, False)


def test_chunks_follow_each_other_to_the_end(tmp_path: Path) -> None:
    path = tmp_path / "log.txt"
    path.write_bytes(b"0123456789")
    first = read_log(path, 1, 0, 6, ended=True)
    assert (first.data, first.next_offset, first.complete) == (b"012345", 6, False)
    second = read_log(path, 1, 6, 6, ended=True)
    assert (second.data, second.next_offset, second.complete) == (b"6789", 10, True)
    assert not read_log(path, 1, 6, 6, ended=False).complete
    assert read_log(path, 1, 99, 6, ended=True).data == b""


def test_a_chunk_ends_at_the_hole_and_the_next_begins_behind_it(long_log: Path) -> None:
    hole = (10 * 65536, 30 * 65536)
    before = read_log(long_log, 1, 10 * 65536 - 64, 10_000, ended=True)
    assert (before.data, before.next_offset) == (b"%063d\n" % 10_239, hole[0])
    assert not before.elided
    behind = read_log(long_log, 1, before.next_offset, 64, ended=True)
    assert (behind.offset, behind.data, behind.elided) == (hole[1], b"%063d\n" % 30_720, True)
    middle = read_log(long_log, 1, 20 * 65536 + 7, 64, ended=True)
    assert middle.offset == hole[1]


def test_all_chunks_together_are_the_log_without_the_hole(long_log: Path) -> None:
    offset, parts, complete = 0, [], False
    while not complete:
        chunk = read_log(long_log, 1, offset, 100_000, ended=True)
        parts.append(chunk.data)
        offset, complete = chunk.next_offset, chunk.complete
    whole = b"".join(b"%063d\n" % number for number in range(40 * 1024))
    assert b"".join(parts) == whole[: 10 * 65536] + whole[30 * 65536 :]


def test_the_ends_of_a_short_log_are_all_of_it(tmp_path: Path) -> None:
    path = tmp_path / "log.txt"
    path.write_bytes(b"one\ntwo\n")
    ends = read_ends(path, 100)
    assert (ends.head, ends.tail, ends.missing) == (b"one\ntwo\n", b"", 0)


def test_the_ends_of_a_long_log_are_whole_lines_and_add_up(long_log: Path) -> None:
    ends = read_ends(long_log, 1000)
    assert ends.head == b"".join(b"%063d\n" % number for number in range(7))
    assert ends.tail.endswith(b"%063d\n" % (40 * 1024 - 1))
    assert ends.tail.startswith(b"0")
    assert len(ends.head) + ends.missing + len(ends.tail) == ends.size == 40 * 65536


def test_the_ends_never_show_the_hole(long_log: Path) -> None:
    ends = read_ends(long_log, 38 * 65536)
    assert b"\0" not in ends.head + ends.tail
    assert 20 * 65536 <= ends.missing <= 20 * 65536 + 64


def test_a_chunk_survives_its_way_through_json(tmp_path: Path) -> None:
    path = tmp_path / "log.txt"
    path.write_bytes(bytes(range(256)))
    chunk = read_log(path, 1, 0, 1000, ended=True)
    assert type(chunk).model_validate_json(chunk.model_dump_json()) == chunk
