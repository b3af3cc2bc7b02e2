"""What a job may leave, hostile files included."""

import contextlib
import ctypes
import hashlib
import os
import socket
import struct
import threading
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pushtrain.core.errors import Cancelled, StorageError
from pushtrain.core.values.run import Artifact
from pushtrain.executor.results import collect as collecting
from pushtrain.executor.results import taking
from pushtrain.executor.results.collect import collect, place
from pushtrain.executor.results.names import unfit

T = TypeVar("T")
Collected = tuple[dict[str, Artifact], dict[str, str]]


@pytest.fixture
def results(tmp_path: Path) -> Path:
    folder = tmp_path / "results"
    folder.mkdir()
    return folder


@pytest.fixture
def work(tmp_path: Path) -> Path:
    folder = tmp_path / "tree"
    folder.mkdir()
    return folder


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    file = tmp_path / "secret"
    file.write_text("the owner's own words")
    return file


@pytest.fixture
def take(results: Path, work: Path, tmp_path: Path) -> Callable[..., Collected]:
    def call(*globs: str) -> Collected:
        found = collect(results, work, globs, tmp_path / "ours")
        taken = {file.path: file for file in found if file.where != "refused"}
        return taken, {file.path: file.why for file in found if file.where == "refused"}

    return call


Take = Callable[..., Collected]


def put(folder: Path, *names: str, content: str = "x") -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)


def test_everything_in_the_results_folder_is_taken_with_its_digest(
    take: Take, results: Path, tmp_path: Path
) -> None:
    put(results, "model.pt", "a/b/c.txt", ".hidden", content="hello")
    inode = (results / "model.pt").stat().st_ino
    taken, refused = take()
    assert (tmp_path / "ours" / "model.pt").stat().st_ino == inode, "moved, not copied"
    assert sorted(taken) == [".hidden", "a/b/c.txt", "model.pt"]
    assert taken["model.pt"].sha256 == hashlib.sha256(b"hello").hexdigest()
    assert taken["model.pt"].size == 5
    assert not refused
    assert (tmp_path / "ours" / "a/b/c.txt").read_text() == "hello"
    assert not (results / "model.pt").exists()


@pytest.mark.parametrize(
    ("glob", "expected"),
    [
        ("*.csv", ["m.csv"]),
        ("**/*.csv", ["m.csv", "out/deep/n.csv", "out/o.csv"]),
        ("out", ["out/deep/n.csv", "out/o.csv", "out/p.png"]),
        ("out/", ["out/deep/n.csv", "out/o.csv", "out/p.png"]),
        ("out/**", ["out/deep/n.csv", "out/o.csv", "out/p.png"]),
        ("out/*", ["out/deep/n.csv", "out/o.csv", "out/p.png"]),
        ("out/*.png", ["out/p.png"]),
        ("o*/[op].*", ["out/o.csv", "out/p.png"]),
        ("**/deep/?.csv", ["out/deep/n.csv"]),
        ("./m.csv", ["m.csv"]),
        ("nope/*.csv", []),
        ("../*", []),
        ("", []),
    ],
)
def test_globs_of_the_work_folder(take: Take, work: Path, glob: str, expected: list[str]) -> None:
    put(work, "m.csv", "train.py", "out/o.csv", "out/p.png", "out/deep/n.csv", ".venv/x.csv")
    assert sorted(take(glob)[0]) == expected


def test_overlapping_globs_take_a_file_once(take: Take, work: Path) -> None:
    put(work, "out/a.csv")
    taken, refused = take("out", "**/*.csv", "out/a.csv")
    assert list(taken) == ["out/a.csv"]
    assert not refused


def test_of_two_results_with_one_name_the_results_folder_wins(take: Take, results: Path, work: Path) -> None:
    put(results, "a.csv", "d", content="from results")
    put(work, "a.csv", "d/e", content="from work")
    taken, refused = take("a.csv", "d")
    assert taken["a.csv"].size == len("from results")
    assert refused == {
        "a.csv (2)": "another result has the same name",
        "d/e": "another result has the name of its folder",
    }


def test_links_pipes_sockets_and_devices_are_refused_with_the_reason(take: Take, results: Path) -> None:
    (results / "passwd").symlink_to("/etc/passwd")
    (results / "etc").symlink_to("/etc")
    os.mkfifo(results / "pipe")
    with socket.socket(socket.AF_UNIX) as listening:
        here = Path.cwd()
        os.chdir(results)
        try:
            listening.bind("socket")
        finally:
            os.chdir(here)
        put(results, "good")
        taken, refused = take()
    assert list(taken) == ["good"]
    assert refused == {
        "passwd": "it is a symbolic link",
        "etc": "it is a symbolic link",
        "pipe": "it is a FIFO",
        "socket": "it is a socket",
    }


def test_a_glob_does_not_lead_through_a_link(take: Take, work: Path, tmp_path: Path) -> None:
    put(tmp_path / "owner", "secret.txt")
    (work / "out").symlink_to(tmp_path / "owner")
    taken, refused = take("out/*.txt", "out", "**/*.txt", "out/secret.txt")
    assert not taken
    assert refused == {"out": "it is a symbolic link"}
    assert (tmp_path / "owner" / "secret.txt").exists()


def without_a_masters_key(work: Callable[[], T]) -> T:
    """Do something as an executor that is not root: what a mode forbids is forbidden, to this thread."""
    libc, head, rights = ctypes.CDLL(None), struct.pack("Ii", 0x20080522, 0), ctypes.create_string_buffer(24)
    found: list[T] = []

    def alone() -> None:
        assert libc.capget(head, rights) == 0
        counts, *rest = struct.unpack("6I", rights.raw)
        assert libc.capset(head, struct.pack("6I", counts & ~0b110, *rest)) == 0  # CAP_DAC_…
        found.append(work())

    thread = threading.Thread(target=alone)
    thread.start()
    thread.join(30)
    return found[0]


def test_a_folder_that_may_not_be_read_is_told_as_that(take: Take, results: Path, work: Path) -> None:
    """It was told as a link, which its owner would look for in vain."""
    put(results, "deep/a.txt", "b.txt")
    put(work, "out/c.txt")
    for folder in (results / "deep", work / "out"):
        folder.chmod(0)
    assert without_a_masters_key(lambda: take("out/*.txt"))[1] == {
        "deep": "it cannot be read: its mode is 000",
        "out/": "it cannot be read: its mode is 000",
    }
    for folder in (results, work):
        folder.chmod(0)
    try:
        assert without_a_masters_key(lambda: take("out/*.txt"))[1] == {
            "results/": "the folder for results cannot be read: its mode is 000",
            "out/*.txt": "the work folder cannot be read: its mode is 000",
        }
    finally:
        for folder in (results, work, results / "deep", work / "out"):
            folder.chmod(0o700)


def test_a_results_folder_that_became_something_else_is_told_as_that(take: Take, results: Path) -> None:
    results.rmdir()
    results.write_text("")
    assert take() == ({}, {"results/": "the folder for results is no folder any more"})
    results.unlink()
    assert take() == ({}, {}), "a job may leave none"


def test_a_results_folder_that_became_a_link_is_not_followed(
    take: Take, results: Path, tmp_path: Path
) -> None:
    put(tmp_path / "owner", "secret.txt")
    results.rmdir()
    results.symlink_to(tmp_path / "owner")
    assert take() == ({}, {"results/": "the folder for results is a symbolic link"})


@pytest.mark.parametrize(
    "name",
    [".git/hooks/post-checkout", "a/.GIT/config", "git~1/x", ".gitmodules", "a/.gitattributes", ".git./x",
     ".github/workflows/evil.yml", "a/.GitLab-ci.yml", ".git::$INDEX_ALLOCATION/x", "gi7eba~1", ".lfsconfig",
     ".forgejo/workflows/x.yml", ".g\u200cit/config", ".git /x",
     "new\nline", "bell\a", "right\u202eleft", "zero\u200bwidth", "back\\slash"],
)  # fmt: skip
def test_names_that_git_or_a_page_could_trip_over_are_refused(take: Take, results: Path, name: str) -> None:
    put(results, name, "good")
    taken, refused = take()
    assert list(taken) == ["good"]
    assert len(refused) == 1


def test_a_name_that_is_not_utf8_is_refused(take: Take, results: Path) -> None:
    (Path(os.fsdecode(os.fsencode(results) + b"/\xff\xfe"))).write_text("x")
    taken, refused = take()
    assert not taken
    assert list(refused.values()) == ["its name is not UTF-8"]


def test_a_file_with_a_second_name_is_copied(take: Take, results: Path, work: Path, tmp_path: Path) -> None:
    put(work, "cached", content="shared")
    (results / "best.pt").hardlink_to(work / "cached")
    taken, _ = take()
    assert taken["best.pt"].size == 6
    (work / "cached").write_text("changed later")
    assert (tmp_path / "ours" / "best.pt").read_text() == "shared"


def test_a_hard_link_to_a_file_of_somebody_else_is_refused_and_its_content_is_nowhere(
    take: Take, results: Path, work: Path, tmp_path: Path
) -> None:
    """The kernel may allow it (`protected_hardlinks` off), and the executor can read what the job cannot."""
    put(tmp_path / "owner", "secret", content="the owner's own words")
    (results / "innocent.txt").hardlink_to(tmp_path / "owner" / "secret")
    (work / "again.txt").hardlink_to(tmp_path / "owner" / "secret")
    put(results, "good")
    taken, refused = take("again.txt")
    assert list(taken) == ["good"]
    assert set(refused) == {"innocent.txt", "again.txt"}
    assert all("hard link to a file outside" in why for why in refused.values())
    assert all(
        b"own words" not in one.read_bytes() for one in (tmp_path / "ours").rglob("*") if one.is_file()
    )
    assert (tmp_path / "owner" / "secret").stat().st_mode & 0o777 != 0o600


def test_names_that_differ_only_in_case_or_composition_are_told_apart(take: Take, results: Path) -> None:
    put(results, "Model.pt", "model.pt", "a/X", "A/y", "caf\u00e9", "cafe\u0301")
    taken, refused = take()
    assert sorted(taken) == ["A/y", "Model.pt", "cafe\u0301"]
    assert set(refused) == {"a/X", "model.pt", "caf\u00e9"}
    assert all("only in case or composition" in why for why in refused.values())


def test_a_sparse_giant_is_refused_and_not_read(
    take: Take, results: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert collecting.MOST_BYTES == 100 << 30
    monkeypatch.setattr(collecting, "MOST_BYTES", 1 << 20)
    put(results, "good")
    with (results / "giant").open("wb") as file:
        file.truncate(collecting.MOST_BYTES + 1)
    taken, refused = take()
    assert list(taken) == ["good"]
    assert refused == {"giant": f"a run may leave {collecting.MOST_BYTES} bytes"}


def test_a_copy_that_would_fill_the_disk_is_not_made(
    take: Take, results: Path, work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(work, "b", content="12345")
    (results / "a").hardlink_to(work / "b")
    usage = type("Usage", (), {"free": collecting._ROOM + 4})()
    monkeypatch.setattr(collecting.shutil, "disk_usage", lambda _: usage)  # type: ignore[attr-defined]
    assert take() == ({}, {"a": "there is no room for a copy of it"})


def test_whatever_a_file_is_swapped_for_while_it_is_collected_no_secret_is_taken(
    results: Path, work: Path, tmp_path: Path
) -> None:
    """A process that survived swaps names for links to the owner's file as fast as it can."""
    secret = tmp_path / "secret"
    secret.write_text("the owner's own words")
    over = threading.Event()

    def swap() -> None:
        link, file = (tmp_path / f"{kind}{threading.get_ident()}" for kind in ("link", "file"))
        while not over.is_set():
            for number in range(20):
                target = results / f"f{number}"
                with contextlib.suppress(OSError):
                    link.symlink_to(secret)
                with contextlib.suppress(OSError):
                    link.rename(target)
                with contextlib.suppress(OSError):
                    file.write_text("harmless")
                    file.rename(target)
                with contextlib.suppress(OSError):
                    target.unlink(missing_ok=True)
                    target.mkdir()
                with contextlib.suppress(OSError):
                    target.rmdir()
                    os.mkfifo(target)
                with contextlib.suppress(OSError):
                    target.unlink(missing_ok=True)

    threads = [threading.Thread(target=swap) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        for number in range(60):
            into = tmp_path / f"ours{number}"
            collect(results, work, ("**",), into)
            for one in into.rglob("*"):
                assert not one.is_symlink()
                assert one.is_dir() or one.read_text() != secret.read_text()
    finally:
        over.set()
        for thread in threads:
            thread.join()
    assert secret.read_text() == "the owner's own words"


def become(kind: str, at: int, name: str, secret: Path) -> None:
    """Put something else in a file's place, as a process that survived the job might."""
    os.unlink(name, dir_fd=at)
    if kind == "link":
        os.symlink(secret, name, dir_fd=at)
    elif kind == "pipe":
        os.mkfifo(name, dir_fd=at)
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(f"/proc/self/fd/{at}/{name}")
    elif kind == "folder":
        os.mkdir(name, dir_fd=at)
        Path(f"/proc/self/fd/{at}/{name}/inside").write_text("x")
    elif kind == "other file":
        os.link(secret, name, dst_dir_fd=at)


@pytest.mark.parametrize(
    ("kind", "why"),
    [
        ("link", "it changed while it was collected"),
        ("folder", "it changed while it was collected"),
        ("pipe", "it changed while it was collected"),
        ("socket", "it changed while it was collected"),
        ("other file", "it is a hard link to a file outside the run's folders"),
        ("nothing", "it cannot be read"),
    ],
)
def test_a_file_that_is_swapped_between_look_and_open_is_refused_and_the_others_taken(
    take: Take, results: Path, secret: Path, monkeypatch: pytest.MonkeyPatch, *, kind: str, why: str
) -> None:
    put(results, "a", "b")
    real = collecting._Sweep._take

    def swapped(sweep: collecting._Sweep, at: int, name: str, path: str) -> None:
        if name == "a":
            become(kind, at, name, secret)
        real(sweep, at, name, path)

    monkeypatch.setattr(collecting._Sweep, "_take", swapped)
    before = len([*Path("/proc/self/fd").iterdir()])
    taken, refused = take()
    assert (list(taken), refused) == (["b"], {"a": why})
    assert len([*Path("/proc/self/fd").iterdir()]) == before


@pytest.mark.parametrize("kind", ["link", "pipe", "socket", "folder", "other file", "nothing"])
@pytest.mark.parametrize("aside", [True, False], ids=["moved aside", "removed"])
def test_a_file_that_is_swapped_in_the_very_moment_of_its_move_is_taken_as_it_was_looked_at(
    take: Take, results: Path, secret: Path, monkeypatch: pytest.MonkeyPatch, *, kind: str, aside: bool
) -> None:
    put(results, "a")
    real = taking.linked

    def swapped(source: int, target: Path) -> bool:
        with taking.folder_opened(results) as at:
            assert at is not None
            if aside:
                (secret.parent / "aside").hardlink_to(results / "a")
            become(kind, at, "a", secret)
        return real(source, target)

    monkeypatch.setattr(collecting, "linked", swapped)
    taken, refused = take()
    assert ([*taken], refused) == (["a"], {})
    assert (secret.parent / "ours" / "a").read_text() == "x"
    assert secret.read_text() == "the owner's own words"
    assert secret.stat().st_mode & 0o777 != 0o600


def test_a_collection_that_died_between_a_files_two_names_takes_it_once(
    take: Take, results: Path, tmp_path: Path
) -> None:
    put(results, "a")
    (tmp_path / "ours").mkdir()
    (tmp_path / "ours" / "a").hardlink_to(results / "a")
    taken, refused = take()
    assert ([*taken], refused) == (["a"], {})
    assert not (results / "a").exists()
    assert (tmp_path / "ours" / "a").stat().st_nlink == 1


def test_no_two_entries_of_the_list_have_one_name(take: Take, results: Path, work: Path) -> None:
    """One that is taken and one that is refused, and a file that is called like our own last line."""
    put(results, "a", "\u2026")
    put(work, "a")
    os.mkfifo(results / "a (2)")
    found = take("a")
    names = [*found[0], *found[1]]
    assert len(names) == len(set(names)) == 4


def test_a_file_on_another_disk_is_copied(
    take: Take, results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(results, "a", content="over there")

    # Two file systems need rights that a test may not have: the move's refusal is what they amount to.
    monkeypatch.setattr(collecting, "linked", lambda *_: False)
    taken, _ = take()
    assert taken["a"].size == 10
    assert (tmp_path / "ours" / "a").read_text() == "over there"


def test_a_file_that_grows_while_it_is_copied_ends_where_it_did_when_it_was_looked_at(
    take: Take, results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(results, "a", content="0123456789")
    real = collecting.os.read  # type: ignore[attr-defined]

    def growing(source: int, size: int) -> bytes:
        if (results / "a").stat().st_size < 50:
            with (results / "a").open("a") as file:
                file.write("more")
        return bytes(real(source, size))

    monkeypatch.setattr(collecting, "linked", lambda *_: False)
    monkeypatch.setattr(collecting.os, "read", growing)  # type: ignore[attr-defined]
    taken, _ = take()
    assert taken["a"].size == 10
    assert (tmp_path / "ours" / "a").read_text() == "0123456789"


def test_what_a_collection_that_was_killed_had_just_taken_is_made_ours(
    results: Path, tmp_path: Path, take: Take
) -> None:
    """It had its new name, and still its job's owner and mode."""
    file, ours = results / "model.bin", tmp_path / "ours" / "model.bin"
    file.write_bytes(b"weights")
    file.chmod(0o666)
    if not os.getuid():
        os.chown(file, 34567, 34567)
    ours.parent.mkdir()
    ours.hardlink_to(file)
    taken, refused = take()
    assert (list(taken), refused) == (["model.bin"], {})
    found = ours.stat()
    assert (found.st_uid, found.st_mode & 0o777, found.st_nlink) == (os.geteuid(), 0o600, 1)


def test_a_collection_that_was_cut_short_goes_on(results: Path, work: Path, tmp_path: Path) -> None:
    put(results, "a", "b", "c")
    collect(results, work, (), tmp_path / "ours")
    put(results, "d")
    (tmp_path / ".ours.partial").write_text("half")
    found = collect(results, work, (), tmp_path / "ours")
    assert [file.path for file in found] == ["a", "b", "c", "d"]
    assert not (tmp_path / ".ours.partial").exists()


@pytest.mark.parametrize("copied", [False, True])
def test_a_result_that_looks_half_written_is_a_result_like_any_other(
    take: Take, results: Path, copied: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if copied:
        monkeypatch.setattr(collecting, "linked", lambda *_: False)
    put(results, ".x.partial", "d/.y.partial")
    taken, refused = take()
    assert (list(taken), refused) == ([".x.partial", "d/.y.partial"], {})


def test_collecting_ends_when_somebody_wants_it_to(results: Path, work: Path, tmp_path: Path) -> None:
    put(results, "a")

    def stop() -> None:
        raise Cancelled("Enough.")

    with pytest.raises(Cancelled):
        collect(results, work, (), tmp_path / "ours", stop=stop)


def test_a_full_disk_is_a_storage_error(results: Path, work: Path, tmp_path: Path) -> None:
    put(results, "a")
    (tmp_path / "ours").write_text("a file where the folder should be")
    with pytest.raises(StorageError):
        collect(results, work, (), tmp_path / "ours")


def test_too_many_files_are_refused_and_counted(
    take: Take, results: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(collecting, "MOST_FILES", 5)
    put(results, *(f"{number:04}" for number in range(300)))
    taken, refused = take()
    assert len(taken) == 5
    assert len(refused) == 101
    assert refused["…"] == "195 more were refused"


def test_a_deep_folder_ends_somewhere(take: Take, results: Path) -> None:
    put(results, "/".join(["d"] * 60) + "/x")
    taken, refused = take()
    assert not taken
    assert "too deep" in next(iter(refused.values()))


def test_nothing_is_nothing(take: Take, results: Path, work: Path) -> None:
    results.rmdir()
    work.rmdir()
    assert take("**") == ({}, {})


# --- where files go ---


def file(path: str, size: int) -> Artifact:
    return Artifact(path=path, size=size, sha256="0" * 64, where="executor")


def where(files: list[Artifact], artifacts: str = "", **limits: int) -> dict[str, str]:
    chosen = {"file_limit": 10, "run_limit": 25, **limits}
    placed = place(files, artifacts, until=99.0, **chosen)
    return {one.path: one.where for one in placed}


def test_files_go_into_git_in_the_order_of_their_paths_until_the_run_is_full() -> None:
    files = [file("a", 10), file("b", 11), file("c", 10), file("d", 6), file("e", 5), file("f", 0)]
    assert where(files) == {
        "a": "git", "b": "executor", "c": "git", "d": "executor", "e": "git", "f": "git",
    }  # fmt: skip


@pytest.mark.parametrize(("artifacts", "place_"), [("", "executor"), ("lfs", "lfs"), ("s3://b/p", "url")])
def test_large_files_go_where_the_job_says(artifacts: str, place_: str) -> None:
    (placed,) = place([file("big", 11)], artifacts, file_limit=10, run_limit=25, until=99.0)
    assert placed.where == place_
    assert placed.until == (99.0 if place_ == "executor" else None)


def test_git_takes_a_thousand_files_of_a_run() -> None:
    placed = where([file(f"{number:05}", 0) for number in range(1200)])
    assert list(placed.values()).count("git") == 1000


def test_what_was_refused_stays_refused() -> None:
    refused = Artifact(path="x", size=0, sha256="", where="refused", why="it is a FIFO")
    assert place([refused], "lfs", file_limit=10, run_limit=10, until=1.0) == (refused,)


@given(
    st.lists(st.tuples(st.text("abc", min_size=1, max_size=3), st.integers(0, 30)), max_size=20),
    st.integers(0, 20),
    st.integers(0, 60),
)
def test_git_never_gets_more_than_its_limits(files: list[tuple[str, int]], one: int, all_: int) -> None:
    placed = place([file(*item) for item in files], "", file_limit=one, run_limit=all_, until=1.0)
    in_git = [item.size for item in placed if item.where == "git"]
    assert sum(in_git) <= all_
    assert all(size <= one for size in in_git)
    assert len(placed) == len(files)


@pytest.mark.parametrize("name", ["a", "a b", "ü/ñ.txt", ".hidden", "gitlab", "x.git", "日本"])
def test_ordinary_names_fit(name: str) -> None:
    assert unfit(name) == ""


@given(st.text(min_size=1, max_size=20))
def test_a_name_that_fits_is_one_line_of_shown_characters(name: str) -> None:
    if not unfit(name):
        assert all(one.isprintable() or unicodedata.category(one) == "Zs" for one in name)
        assert ".." not in name.split("/")
