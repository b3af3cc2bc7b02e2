"""Archives that are made to fill the memory, the disk or the time of whoever unpacks them."""

import bz2
import gzip
import hashlib
import io
import lzma
import shutil
import struct
import subprocess
import tarfile
import tracemalloc
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from pushtrain.core.errors import Cancelled, DataError
from pushtrain.plumbing.data import unpack as unpacking
from pushtrain.plumbing.data.unpack import Limits, unpack

MIB = 1024 * 1024
PACKERS: tuple[Callable[[bytes], bytes], ...] = (gzip.compress, bz2.compress, lzma.compress)


@contextmanager
def bounded(most: int = 48 * MIB) -> Iterator[None]:
    """What is within must not hold more memory than that at any time."""
    tracemalloc.start()
    try:
        yield
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < most, f"{peak / MIB:.0f} MiB"


def opened(content: bytes | Path, into: Path, stop: Callable[[], None] = lambda: None, **limits: int) -> Path:
    archive = content if isinstance(content, Path) else into.with_name(f"{into.name}.archive")
    if isinstance(content, bytes):
        archive.write_bytes(content)
    into.mkdir()
    return unpack(
        archive, into, title="the archive", report=lambda *_: None, stop=stop, limits=Limits(**limits)
    )


def noise(size: int) -> bytes:
    """Bytes that cannot be packed, the same each time."""
    return b"".join(hashlib.sha256(str(number).encode()).digest() for number in range(size // 32 + 1))[:size]


def on_disk(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def header(name: str, size: int, kind: bytes = tarfile.REGTYPE) -> bytes:
    info = tarfile.TarInfo(name)
    info.size, info.type = size, kind
    return info.tobuf(tarfile.USTAR_FORMAT)


def many_times(content: bytes, times: int) -> bytes:
    """A gzip of so many copies, made quickly: gzip files may be put one behind the other."""
    return gzip.compress(content) * times


# --- compression ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pack", PACKERS)
def test_bomb_ends_at_the_limit_and_takes_no_memory(tmp_path: Path, pack: Callable[[bytes], bytes]) -> None:
    bomb = pack(bytes(30 * MIB)) * 20  # 600 MiB
    with bounded(), pytest.raises(DataError, match="unpacks to more than 52428800 bytes"):
        opened(bomb, tmp_path / "into", size=50 * MIB)
    assert on_disk(tmp_path / "into") <= 50 * MIB


def test_tar_bomb_ends_at_the_limit(tmp_path: Path) -> None:
    body = gzip.compress(header("zeros", 900 * MIB)) + many_times(bytes(30 * MIB), 30)
    with bounded(), pytest.raises(DataError, match="unpacks to more than"):
        opened(body, tmp_path / "into", size=40 * MIB)
    assert on_disk(tmp_path / "into") <= 40 * MIB


def test_what_is_packed_beyond_belief_is_refused_before_the_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unpacking, "_UNDOUBTED", 10 * MIB)
    bomb = lzma.compress(bytes(60 * MIB))  # some 6000 times
    with pytest.raises(DataError, match="unpacks to more than") as caught:
        opened(bomb, tmp_path / "into")
    assert "data_ratio" in caught.value.mend
    assert on_disk(tmp_path / "into") <= 10 * MIB + 1000 * len(bomb)
    assert opened(bomb, tmp_path / "again", ratio=10_000).stat().st_size == 60 * MIB


def test_xz_that_asks_for_a_dictionary_of_four_gigabytes_is_refused(tmp_path: Path) -> None:
    small = bytearray(lzma.compress(b"hello" * 100, filters=[{"id": lzma.FILTER_LZMA2, "dict_size": 4096}]))
    size = (small[12] + 1) * 4  # the block's header; its last filter property is the dictionary's size
    at = 12 + small[12:].index(b"\x21\x01") + 2
    small[at] = 40  # 4 GiB - 1
    small[12 + size - 4 : 12 + size] = struct.pack("<I", zlib.crc32(small[12 : 12 + size - 4]))
    assert lzma.decompress(small) == b"hello" * 100, "a valid file"
    with pytest.raises(DataError, match=r"[Mm]emory usage limit"):
        opened(bytes(small), tmp_path / "into")


def test_flood_of_empty_streams_can_be_stopped(tmp_path: Path) -> None:
    asked: list[int] = []

    def stop() -> None:
        asked.append(1)
        if len(asked) > 20:
            raise Cancelled("The run was cancelled.")

    with pytest.raises(Cancelled):
        opened(gzip.compress(b"") * 200_000, tmp_path / "into", stop=stop)


def test_several_streams_are_one_file_and_rubbish_behind_them_is_an_error(tmp_path: Path) -> None:
    for number, pack in enumerate(PACKERS):
        two = pack(b"one ") + pack(b"") + pack(b"two")
        assert opened(two + bytes(512), tmp_path / f"a{number}").read_bytes() == b"one two"
        with pytest.raises(DataError, match="cannot be unpacked"):
            opened(two + b"rubbish", tmp_path / f"b{number}")


@pytest.mark.parametrize("pack", PACKERS)
@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_whatever_is_cut_off_is_noticed(
    tmp_path_factory: pytest.TempPathFactory, pack: Callable[[bytes], bytes], data: st.DataObject
) -> None:
    whole = pack(noise(3000))
    cut = data.draw(st.integers(6, len(whole) - 1))
    with pytest.raises(DataError, match="cannot be unpacked"):
        opened(whole[:cut], tmp_path_factory.mktemp("cut") / "into")


def test_flipped_bit_is_noticed(tmp_path: Path) -> None:
    for number, pack in enumerate(PACKERS):
        damaged = bytearray(pack(noise(5000)))
        damaged[len(damaged) // 2] ^= 4
        with pytest.raises(DataError, match="cannot be unpacked"):
            opened(bytes(damaged), tmp_path / str(number))


def test_archive_within_an_archive_stays_one(tmp_path: Path) -> None:
    inner = io.BytesIO()
    with zipfile.ZipFile(inner, "w") as archive:
        archive.writestr("bomb", b"x")
    outer = io.BytesIO()
    with zipfile.ZipFile(outer, "w") as archive:
        archive.writestr("inner.zip", inner.getvalue())
    tree = opened(outer.getvalue(), tmp_path / "a")
    assert [path.name for path in tree.rglob("*")] == ["inner.zip"]
    assert opened(gzip.compress(gzip.compress(b"x")), tmp_path / "b").read_bytes()[:2] == b"\x1f\x8b"


# --- tar --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME])
def test_header_that_fills_the_memory_is_refused(tmp_path: Path, kind: bytes) -> None:
    size = 7 * 30 * MIB
    bomb = gzip.compress(header("x", size, kind)) + many_times(bytes(30 * MIB), 7)
    with bounded(), pytest.raises(DataError, match="header is too large"):
        opened(bomb, tmp_path / "into")


def test_chain_of_headers_needs_no_stack(tmp_path: Path) -> None:
    link = header("x", 6, tarfile.GNUTYPE_LONGNAME) + b"name\0\0".ljust(512, b"\0")
    tar = link * 5000 + header("short", 2) + b"hi".ljust(512, b"\0") + bytes(1024)
    assert (opened(tar, tmp_path / "into") / "name").read_bytes() == b"hi"


def test_sparse_file_of_an_exabyte_is_refused(tmp_path: Path) -> None:
    pax = tarfile.TarInfo("sparse")
    pax.pax_headers = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": str(1 << 60)}
    old = header("sparse", 0, tarfile.GNUTYPE_SPARSE)
    for number, start in enumerate((pax.tobuf(tarfile.PAX_FORMAT), old)):
        with bounded(), pytest.raises(DataError, match="is a sparse file"):
            opened(start + bytes(1024), tmp_path / str(number))
        assert on_disk(tmp_path / str(number)) == 0


@pytest.mark.parametrize("size", [-1, -512, -(2**40)])
def test_negative_size_neither_hangs_nor_goes_back(tmp_path: Path, size: int) -> None:
    info = tarfile.TarInfo("x")
    block = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    block[124:136] = b"\xff" + (256**11 + size).to_bytes(11, "big")
    total = 256 + sum(block[:148]) + sum(block[156:])
    block[148:156] = f"{total:06o}\0 ".encode()
    with pytest.raises(DataError, match="size is none"):
        opened(bytes(block) + bytes(1024), tmp_path / "into")


@pytest.mark.parametrize("text", ["-1", "1e9", "9" * 30, "\u0663", "0x10", ""])
def test_size_in_an_extension_is_a_number_or_an_error(tmp_path: Path, text: str) -> None:
    info = tarfile.TarInfo("x")
    info.pax_headers = {"size": text}
    with pytest.raises(DataError, match="cannot be unpacked"):
        opened(info.tobuf(tarfile.PAX_FORMAT) + bytes(1024), tmp_path / "into")


def test_extension_for_all_members_cannot_rename_them(tmp_path: Path) -> None:
    tar = io.BytesIO()
    with tarfile.open(fileobj=tar, mode="w", format=tarfile.PAX_FORMAT, pax_headers={"path": "../x"}) as out:
        out.addfile(tarfile.TarInfo("harmless"))
    with pytest.raises(DataError, match="would rename all others"):
        opened(tar.getvalue(), tmp_path / "into")


def test_tar_without_its_end_or_with_more_behind_it_is_refused(tmp_path: Path) -> None:
    whole = header("a", 600) + b"x" * 600 + bytes(424) + header("b", 1) + b"y".ljust(512, b"\0") + bytes(1024)
    assert (opened(whole, tmp_path / "whole") / "a").read_bytes() == b"x" * 600
    for cut in range(512, len(whole) - 1024, 256):
        with pytest.raises(DataError, match="cannot be unpacked"):
            opened(whole[:cut], tmp_path / f"cut{cut}")
    with pytest.raises(DataError, match="behind its end"):
        opened(whole + whole, tmp_path / "twice")
    damaged = bytearray(whole)
    damaged[1536 + 10] ^= 1  # in the second member's header
    with pytest.raises(DataError, match="cannot be unpacked"):
        opened(bytes(damaged), tmp_path / "damaged")


LETTERS = st.characters(codec="utf-8", exclude_categories=["Cc", "Zl", "Zp"], exclude_characters="/")
NAMES = st.text(LETTERS, min_size=1).filter(lambda name: name not in {".", ".."})
PATHS = st.lists(NAMES, min_size=1, max_size=4).map("/".join).filter(lambda path: len(path.encode()) < 240)


@settings(max_examples=60, deadline=None)
@given(
    st.dictionaries(PATHS, st.binary(max_size=1500), min_size=1, max_size=4),
    st.sampled_from([tarfile.PAX_FORMAT, tarfile.GNU_FORMAT]),
)
def test_our_reader_sees_what_tarfile_wrote(
    tmp_path_factory: pytest.TempPathFactory, files: dict[str, bytes], kind: int
) -> None:
    tar = io.BytesIO()
    with tarfile.open(fileobj=tar, mode="w", format=kind, encoding="utf-8") as out:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            out.addfile(info, io.BytesIO(content))
    try:
        tree = opened(tar.getvalue(), tmp_path_factory.mktemp("tar") / "into")
    except DataError as error:
        told = str(error)  # names that one disk may not hold together
        assume(not any(word in told for word in ("twice", "exists", "irectory", "too long")))
        raise
    found = {str(path.relative_to(tree)): path.read_bytes() for path in tree.rglob("*") if path.is_file()}
    assert found == files


@pytest.mark.parametrize(
    "flag", ["--format=gnu", "--format=posix", "--format=ustar", "--format=v7", "-z", "-J", "-j"]
)
def test_what_tar_writes_is_read(tmp_path: Path, flag: str) -> None:
    tool = {"-J": "xz", "-j": "bzip2"}.get(flag, "tar")
    if not shutil.which(tool):
        pytest.skip(f"tar would call {tool}, which is not here")
    source = tmp_path / "source"
    (source / "deep/er").mkdir(parents=True)
    (source / "deep/er/a b.txt").write_text("hello")
    (source / "run").write_text("#!/bin/sh\n")
    (source / "run").chmod(0o755)
    (source / "empty").mkdir()
    archive = tmp_path / "a"
    subprocess.run(("tar", flag, "-cf", archive, "-C", source, "."), check=True)
    tree = opened(archive, tmp_path / "into")
    assert subprocess.run(("diff", "-r", source, tree), check=False).returncode == 0
    assert (tree / "run").stat().st_mode & 0o111


# --- zip --------------------------------------------------------------------------------------------------


def local(name: bytes, crc: int, packed: int, size: int) -> bytes:
    return struct.pack("<4s5H3I2H", b"PK\3\4", 20, 0, 8, 0, 0x21, crc, packed, size, len(name), 0) + name


def central(name: bytes, crc: int, packed: int, size: int, offset: int) -> bytes:
    numbers = (20, 20, 0, 8, 0, 0x21, crc, packed, size, len(name), 0, 0, 0, 0, 0, offset)
    return struct.pack("<4s6H3I5H2I", b"PK\1\2", *numbers) + name


def overlapping(files: int, size: int) -> bytes:
    """Fifield's zip: each file quotes the header of the next, and all end in the same packed bytes."""
    pack = zlib.compressobj(9, zlib.DEFLATED, -15)
    tail, content = pack.compress(bytes(size)) + pack.flush(), bytes(size)
    entries: list[tuple[bytes, int, int, int]] = []
    for number in range(files, 0, -1):
        name = f"f{number:03}".encode()
        head = local(name, zlib.crc32(content), len(tail), len(content))
        entries.insert(0, (name, zlib.crc32(content), len(tail), len(content)))
        if number > 1:
            quote = struct.pack("<BHH", 0, len(head), len(head) ^ 0xFFFF)
            tail, content = quote + head + tail, head + content
        else:
            tail = head + tail
    listing, offset = b"", 0
    for name, crc, packed, long in entries:
        listing += central(name, crc, packed, long, offset)
        offset += 30 + len(name) + 5
    end = struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, files, files, len(listing), len(tail), 0)
    return tail + listing + end


def test_zip_whose_members_share_bytes_is_refused(tmp_path: Path) -> None:
    bomb = overlapping(100, 4 * MIB)
    assert len(bomb) < 30_000
    with zipfile.ZipFile(io.BytesIO(bomb)) as archive:  # a valid archive of 400 MiB
        assert len(archive.infolist()) == 100
        assert sum(info.file_size for info in archive.infolist()) > 400 * MIB
    with bounded(), pytest.raises(DataError, match="share the same bytes"):
        opened(bomb, tmp_path / "into")
    assert on_disk(tmp_path / "into") == 0


def test_zip_with_an_endless_listing_is_refused_before_it_is_read(tmp_path: Path) -> None:
    archive = tmp_path / "a.zip"
    size = 1 << 30
    with archive.open("wb") as file:
        file.write(b"PK\3\4")
        file.seek(4 + size)
        file.write(struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, 9, 9, size, 4, 0))
    with bounded(), pytest.raises(DataError, match="its listing has 1073741824 bytes"):
        opened(archive, tmp_path / "into")


def test_zip_of_too_many_members_is_refused_before_they_are_listed(tmp_path: Path) -> None:
    listing = b"".join(central(str(number).encode(), 0, 0, 0, 0) for number in range(60_000))
    end = struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, 60_000, 60_000, len(listing), 34, 0)
    with bounded(16 * MIB), pytest.raises(DataError, match="more than 1000 files"):
        opened(local(b"name", 0, 0, 0) + listing + end, tmp_path / "into", files=1000)


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_zip_packed_in_a_way_without_a_bound_is_refused(tmp_path: Path, method: int) -> None:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as archive:
        archive.writestr("a", bytes(10 * MIB))
    with bounded(), pytest.raises(DataError, match="packed in an unusual way"):
        opened(out.getvalue(), tmp_path / "into")


def zip_with(change: Callable[[zipfile.ZipInfo], None], content: bytes = b"hello") -> bytes:
    out, info = io.BytesIO(), zipfile.ZipInfo("name")
    change(info)
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(info, content)
    return out.getvalue()


@pytest.mark.parametrize("name", ["a\\..\\b", "/etc/x", "..", "../x", "a\nb", "a\x1b]0;x\x07"])
def test_zip_with_a_name_that_cannot_be_is_refused(tmp_path: Path, name: str) -> None:
    def rename(info: zipfile.ZipInfo) -> None:
        info.filename = name

    with pytest.raises(DataError, match="cannot be unpacked"):
        opened(zip_with(rename), tmp_path / "into")


def test_zip_whose_name_is_cut_by_a_nul_is_refused(tmp_path: Path) -> None:
    data = zip_with(lambda _: None).replace(b"name", b"n\0me")
    with pytest.raises(DataError, match="cannot be"):
        opened(data, tmp_path / "into")


def test_zip_that_lies_about_a_size_is_noticed(tmp_path: Path) -> None:
    whole = bytearray(zip_with(lambda _: None, b"x" * 50_000))
    at = whole.index(b"PK\1\2")
    whole[at + 24 : at + 28] = struct.pack("<I", 100)
    with pytest.raises(DataError, match="CRC"):
        opened(bytes(whole), tmp_path / "into")


def test_truncated_zip_is_noticed_wherever_it_is_cut(tmp_path: Path) -> None:
    whole = zip_with(lambda _: None, noise(2000))
    for cut in range(4, len(whole), 97):
        with pytest.raises(DataError, match="cannot be unpacked"):
            opened(whole[:cut], tmp_path / str(cut))


def test_purse_of_a_run_is_shared_by_its_archives(tmp_path: Path) -> None:
    from pushtrain.plumbing.data.terms import Purse

    purse: Any = Purse(3 * MIB)
    for number in range(2):
        archive = tmp_path / f"{number}.gz"
        archive.write_bytes(gzip.compress(bytes(2 * MIB)))
        (tmp_path / str(number)).mkdir()
        work = (archive, tmp_path / str(number))
        told = {"title": "x", "report": lambda *_: None, "stop": lambda: None, "spend": purse}
        if number:
            with pytest.raises(DataError, match="comes to more than 3145728 bytes"):
                unpack(*work, **told)
        else:
            unpack(*work, **told)
