import hashlib
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pushtrain.core.errors import DataError
from pushtrain.plumbing.data import manifest
from pushtrain.plumbing.data.manifest import below, parse

ONE, TWO = "1" * 64, "2" * 64


def parsed(tmp_path: Path, text: str) -> dict[str, str]:
    path = tmp_path / "SHA256SUMS"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    return dict(parse(path, "M"))


def test_lines_of_sha256sum_are_understood(tmp_path: Path) -> None:
    text = f"{ONE}  a.txt\n{TWO} *./dir/b c.bin\r\n\n{ONE.upper()}  dir/UPPER\n"
    assert parsed(tmp_path, text) == {"a.txt": ONE, "dir/b c.bin": TWO, "dir/UPPER": ONE}


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("hello", "Line 1 .* not `DIGEST  PATH`"),
        (f"{ONE}  a\n{ONE[:40]}  b", "Line 2"),
        (f"{ONE}  ../a", "leads out"),
        (f"{ONE}  /a", "absolute"),
        (f"{ONE}  .", "names no file"),
        (f"{ONE}  a\n{TWO}  ./a", "listed twice"),
        (f"{ONE}  a\n{TWO}  a/b", "as a file and as a folder"),
        ("\n\n", "lists no files"),
        (f"\\{ONE}  a\\nb", "control characters"),
        (f"{ONE}  a\x1b[2J", "control characters"),
        (f"{ONE}  a\udcff", "no UTF-8"),
        ("SHA256 (a) = " + ONE, "Line 1"),
    ],
)
def test_wrong_lines_are_errors_that_name_the_line(tmp_path: Path, text: str, why: str) -> None:
    with pytest.raises(DataError, match=why):
        parsed(tmp_path, text)


def test_same_line_twice_is_harmless(tmp_path: Path) -> None:
    assert parsed(tmp_path, f"{ONE}  a\n{ONE}  a\n") == {"a": ONE}


def test_manifest_of_too_many_files_is_refused(tmp_path: Path) -> None:
    listing = tmp_path / "M"
    listing.write_text("".join(f"{ONE}  {number}\n" for number in range(20)))
    assert len(parse(listing, "M", 20)) == 20
    with pytest.raises(DataError, match="more than 19 files"):
        parse(listing, "M", 19)


def test_oversized_manifest_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manifest, "MAX_SIZE", 10)
    with pytest.raises(DataError, match="at most 10"):
        parsed(tmp_path, f"{ONE}  a\n")


def test_urls_below_a_folder_are_quoted() -> None:
    assert below("https://h/d/", "a b/ü?#%.txt") == "https://h/d/a%20b/%C3%BC%3F%23%25.txt"


# `-` is standard input to `sha256sum`.
FILE_NAMES = st.text(
    st.characters(codec="utf-8", exclude_categories=["Cc", "Zl", "Zp"], exclude_characters="/"),
    min_size=1,
    max_size=12,
).filter(lambda name: name not in {".", "..", "-"} and len(name.encode()) < 200)


@given(st.sets(FILE_NAMES, min_size=1, max_size=5))
@settings(max_examples=25, deadline=None)
def test_what_sha256sum_writes_is_read_back(
    tmp_path_factory: pytest.TempPathFactory, names: set[str]
) -> None:
    folder = tmp_path_factory.mktemp("files")
    for name in names:
        (folder / name).write_bytes(name.encode())
    tool = shutil.which("sha256sum")
    assert tool is not None
    argv = [tool, "--", *sorted(names)]
    text = subprocess.run(argv, cwd=folder, capture_output=True, check=True).stdout
    listing = tmp_path_factory.mktemp("m") / "SHA256SUMS"
    listing.write_bytes(text)
    assert parse(listing, "M") == {name: hashlib.sha256(name.encode()).hexdigest() for name in names}


@given(st.binary(max_size=200))
def test_any_bytes_are_a_manifest_or_an_error(tmp_path_factory: pytest.TempPathFactory, text: bytes) -> None:
    listing = tmp_path_factory.getbasetemp() / "any"
    listing.write_bytes(text)
    with pytest.raises(DataError):
        parse(listing, "M")
