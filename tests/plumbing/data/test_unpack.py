import bz2
import errno
import gzip
import io
import lzma
import stat
import sys
import tarfile
import warnings
import zipfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pushtrain.core.errors import Cancelled, DataError, StorageError
from pushtrain.plumbing.data.unpack import Limits, member_path, unpack


def opened(archive: Path, into: Path, **options: object) -> Path:
    into.mkdir()
    return unpack(archive, into, title="the archive", report=lambda *_: None, stop=lambda: None, **options)  # type: ignore[arg-type]


def tar_of(*members: tuple[tarfile.TarInfo, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for info, content in members:
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return out.getvalue()


def member(name: str, kind: bytes = tarfile.REGTYPE, *, link: str = "", mode: int = 0o644) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.mode = kind, link, mode
    return info


def zip_of(members: dict[str, bytes], modes: dict[str, int] | None = None) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            info = zipfile.ZipInfo(name)
            info.external_attr = (modes or {}).get(name, 0) << 16
            archive.writestr(info, content)
    return out.getvalue()


def zip_twice(*names: str) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive, warnings.catch_warnings(action="ignore"):
        for name in names:
            archive.writestr(zipfile.ZipInfo(name), b"x")
    return out.getvalue()


PLAIN = tar_of(
    (member("top", tarfile.DIRTYPE, mode=0o000), b""),
    (member("top/run.sh", mode=0o4777), b"#!/bin/sh\n"),
    (member("top/deep/a.txt"), b"hello"),
)


@pytest.mark.parametrize("pack", [lambda data: data, gzip.compress, bz2.compress, lzma.compress])
def test_tar_of_every_kind_is_unpacked(tmp_path: Path, pack: object) -> None:
    archive = tmp_path / "no-telling-name"
    archive.write_bytes(pack(PLAIN))  # type: ignore[operator]
    tree = opened(archive, tmp_path / "into")
    assert tree == tmp_path / "into" / "tree"
    assert (tree / "top/deep/a.txt").read_text() == "hello"
    assert stat.S_IMODE((tree / "top/run.sh").stat().st_mode) == 0o755
    assert not (tree / "top/deep/a.txt").stat().st_mode & 0o111


def test_zip_is_unpacked(tmp_path: Path) -> None:
    archive = tmp_path / "a"
    archive.write_bytes(zip_of({"a/": b"", "a/b.txt": b"hello", "run.sh": b"x"}, {"run.sh": 0o104755}))
    tree = opened(archive, tmp_path / "into")
    assert (tree / "a/b.txt").read_text() == "hello"
    assert stat.S_IMODE((tree / "run.sh").stat().st_mode) == 0o755


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress])
def test_single_compressed_file_is_a_file(tmp_path: Path, pack: object) -> None:
    archive = tmp_path / "train.csv.gz"
    archive.write_bytes(pack(b"a,b\n" * 1000))  # type: ignore[operator]
    found = opened(archive, tmp_path / "into")
    assert found == tmp_path / "into" / "file"
    assert found.read_bytes() == b"a,b\n" * 1000


def test_zstd_is_unpacked_or_the_mend_is_named(tmp_path: Path) -> None:
    archive = tmp_path / "a.zst"
    archive.write_bytes(bytes.fromhex("28b52ffd200511000068656c6c6f"[:18]) + b"\x29\x00\x00hello")
    if sys.version_info >= (3, 14):
        assert opened(archive, tmp_path / "into").read_bytes() == b"hello"
    else:
        with pytest.raises(DataError, match="zstd") as caught:
            opened(archive, tmp_path / "into")
        assert "3.14" in caught.value.mend


def test_gzip_that_begins_like_nothing_is_not_taken_for_a_tar(tmp_path: Path) -> None:
    archive = tmp_path / "zeros.gz"
    archive.write_bytes(gzip.compress(bytes(5000)))
    assert opened(archive, tmp_path / "into").stat().st_size == 5000


@pytest.mark.parametrize(
    ("info", "why"),
    [
        (member("/etc/passwd"), "absolute"),
        (member("../x"), "leads out"),
        (member("a/../../x"), "leads out"),
        (member("dev", tarfile.CHRTYPE), "is a device"),
        (member("dev", tarfile.BLKTYPE), "is a device"),
        (member("pipe", tarfile.FIFOTYPE), "is a FIFO"),
        (member("link", tarfile.SYMTYPE, link="/etc/passwd"), "is a symbolic link.*--dereference"),
        (member("link", tarfile.SYMTYPE, link="inside"), "is a symbolic link"),
        (member("hard", tarfile.LNKTYPE, link="/etc/passwd"), "is a hard link"),
        (member("sparse", tarfile.GNUTYPE_SPARSE), "is a sparse file"),
        (member("volume", b"V"), "no file or folder"),
        (member("/".join("x" * 70)), "cannot be"),
        (member("line\nbreak"), "control characters"),
        (member("\x1b[2J"), "control characters"),
        (member("not utf-8 \udcff"), "no UTF-8"),
    ],
)
def test_what_must_not_be_in_an_archive_ends_it(tmp_path: Path, info: tarfile.TarInfo, why: str) -> None:
    archive = tmp_path / "a.tar"
    archive.write_bytes(tar_of((info, b"")))
    with pytest.raises(DataError, match=why) as caught:
        opened(archive, tmp_path / "into")
    assert "the archive cannot be unpacked" in str(caught.value)


def test_nothing_is_written_through_a_link(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    archive = tmp_path / "a.tar"
    archive.write_bytes(
        tar_of((member("d", tarfile.SYMTYPE, link=str(outside)), b""), (member("d/x"), b"planted"))
    )
    with pytest.raises(DataError, match="symbolic link"):
        opened(archive, tmp_path / "into")
    assert not list(outside.iterdir())
    assert not (tmp_path / "into/tree/d").is_symlink()


def test_zip_with_a_link_or_a_path_out_is_refused(tmp_path: Path) -> None:
    for number, (name, content, mode) in enumerate(
        (("l", b"/etc/passwd", stat.S_IFLNK | 0o777), ("../x", b"", 0), ("f", b"", stat.S_IFIFO))
    ):
        archive = tmp_path / f"{number}.zip"
        archive.write_bytes(zip_of({name: content}, {name: mode}))
        with pytest.raises(DataError, match="cannot be unpacked"):
            opened(archive, tmp_path / f"into{number}")
    assert not (tmp_path / "x").exists()


def test_caps_on_files_and_bytes_and_room_hold(tmp_path: Path) -> None:
    archive = tmp_path / "a.zip"
    archive.write_bytes(zip_of({str(number): bytes(100_000) for number in range(20)}))
    for number, (limits, kind, why) in enumerate(
        (
            (Limits(files=19), DataError, "more than 19 files"),
            (Limits(size=1_999_999), DataError, "more than 1999999 bytes"),
            (Limits(room=1 << 60), StorageError, "does not fit"),
        )
    ):
        with pytest.raises(kind, match=why):
            opened(archive, tmp_path / str(number), limits=limits)


def test_damaged_archives_are_told(tmp_path: Path) -> None:
    whole = {
        "zip": zip_of({"a": b"x" * 5000}),
        "gz": gzip.compress(PLAIN),
        "xz": lzma.compress(PLAIN),
        "tar": PLAIN,
    }
    for name, data in whole.items():
        archive = tmp_path / name
        archive.write_bytes(data[: 1300 if name == "tar" else len(data) // 2])
        with pytest.raises(DataError, match="cannot be unpacked"):
            opened(archive, tmp_path / f"into-{name}")


def test_what_is_no_archive_is_told(tmp_path: Path) -> None:
    for number, content in enumerate((b"", b"a,b\n1,2\n", b"<html>" * 200)):
        archive = tmp_path / str(number)
        archive.write_bytes(content)
        with pytest.raises(DataError, match="no zip, tar or compressed file"):
            opened(archive, tmp_path / f"into{number}")


def test_encrypted_zip_is_told(tmp_path: Path) -> None:
    data = bytearray(zip_of({"a": b"secret"}))
    data[6] |= 1  # the flag of an encrypted member, in the local header
    data[data.index(b"PK\x01\x02") + 8] |= 1  # and in the central one
    archive = tmp_path / "a.zip"
    archive.write_bytes(data)
    with pytest.raises(DataError, match="encrypted"):
        opened(archive, tmp_path / "into")


def test_unpacking_stops_when_asked(tmp_path: Path) -> None:
    archive = tmp_path / "a.tar"
    archive.write_bytes(PLAIN)
    (tmp_path / "into").mkdir()

    def stop() -> None:
        raise Cancelled("The run was cancelled.")

    with pytest.raises(Cancelled):
        unpack(archive, tmp_path / "into", title="x", report=lambda *_: None, stop=stop)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("a", "a"),
        ("a/b", "./a//b"),
        ("Read.me", "READ.ME"),
        ("A/x", "a/y"),
        ("\xe9", "e\u0301"),
        ("a", "a/b"),
    ],
)
@pytest.mark.parametrize("kind", ["tar", "zip"])
def test_two_names_of_which_a_disk_may_make_one_are_refused(
    tmp_path: Path, one: str, other: str, kind: str
) -> None:
    archive = tmp_path / "a"
    if kind == "tar":
        archive.write_bytes(tar_of((member(one), b"first"), (member(other), b"second")))
    else:
        archive.write_bytes(zip_twice(one, other))
    with pytest.raises(DataError, match=r"is there twice|File exists|Not a directory"):
        opened(archive, tmp_path / "into")


def test_folder_may_be_named_again(tmp_path: Path) -> None:
    archive = tmp_path / "a.tar"
    archive.write_bytes(
        tar_of(
            (member("a/x"), b"1"), (member("a", tarfile.DIRTYPE), b""), (member("./a/", tarfile.DIRTYPE), b"")
        )
    )
    assert (opened(archive, tmp_path / "into") / "a/x").read_bytes() == b"1"


@given(st.text(alphabet=st.sampled_from("ab./\\\0 "), max_size=20) | st.text(max_size=20))
def test_member_paths_stay_inside(name: str) -> None:
    try:
        parts = member_path(name)
    except ValueError:
        return
    root = Path("/root-of-it")
    assert root.joinpath(*parts).is_relative_to(root)
    assert not {"", ".", ".."} & set(parts)
    assert not any("/" in part or "\0" in part or "\n" in part for part in parts)


KINDS = st.sampled_from([tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE])
NAMES = st.lists(st.sampled_from(["a", "b", "c", "..", "."]), min_size=1, max_size=4).map("/".join)


@given(st.lists(st.tuples(NAMES, KINDS, NAMES), max_size=6))
@settings(max_examples=60, deadline=None)
def test_whatever_an_archive_holds_nothing_lands_or_leads_outside(
    tmp_path_factory: pytest.TempPathFactory, members: list[tuple[str, bytes, str]]
) -> None:
    home = tmp_path_factory.mktemp("home")
    archive = home / "a.tar"
    archive.write_bytes(tar_of(*((member(name, kind, link=link), b"") for name, kind, link in members)))
    try:
        tree = opened(archive, home / "into")
    except DataError:
        tree = home / "into" / "tree"
    else:
        for path in tree.rglob("*"):
            assert path.resolve().is_relative_to(tree.resolve())
    assert {item.name for item in home.iterdir()} == {"a.tar", "into"}
    assert {item.name for item in (home / "into").iterdir()} <= {"tree"}


@pytest.mark.parametrize(
    ("number", "kind"),
    [
        (errno.ENOSPC, StorageError),
        (errno.EIO, StorageError),
        (errno.EROFS, StorageError),
        (errno.EMFILE, OSError),
        (errno.ENAMETOOLONG, DataError),
    ],
)
def test_what_this_machine_cannot_do_now_is_not_told_as_the_archives_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, kind: type[Exception]
) -> None:
    def fails(*_: object, **__: object) -> None:
        raise OSError(number, "No")

    (tmp_path / "archive").write_bytes(zip_of({"a": b"1"}))
    (tmp_path / "into").mkdir()
    monkeypatch.setattr(Path, "mkdir", fails)
    with pytest.raises(kind) as caught:
        unpack(
            tmp_path / "archive",
            tmp_path / "into",
            title="the archive",
            report=lambda *_: None,
            stop=lambda: None,
        )
    assert ("Check the file" in str(caught.value)) is (kind is DataError)
