import os
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pushtrain.core.errors import Cancelled, StorageError
from pushtrain.plumbing.disk.cache import Cache

BUILDER = """
import pathlib, sys
from pushtrain.plumbing.disk.cache import Cache
root, key, mode = sys.argv[1:]

def make(folder):
    (folder / "half").write_text("half")
    if mode == "hang":
        print("building", flush=True)
        sys.stdin.read()
    with open(pathlib.Path(root) / "builds.log", "a") as log:
        log.write("built\\n")

path, cached = Cache(pathlib.Path(root)).build(key, make)
print("cached" if cached else "made", flush=True)
"""


class Ticks:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        self.now += 1
        return self.now


def fill(folder: Path) -> None:
    (folder / "deep").mkdir()
    (folder / "deep" / "file").write_bytes(b"12345")


def builder(root: Path, key: str, mode: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", BUILDER, str(root), key, mode],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def test_entry_is_made_once_and_found_afterwards(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "c")
    assert cache.get("abc") is None
    path, cached = cache.build("abc", fill)
    assert (path, cached) == (tmp_path / "c" / "abc", False)
    assert cache.get("abc") == path
    assert cache.build("abc", lambda _: pytest.fail("made twice")) == (path, True)
    assert [(entry.key, entry.size) for entry in cache.entries()] == [("abc", 5)]


def test_entry_is_built_at_its_final_path(tmp_path: Path) -> None:
    seen: list[Path] = []
    path, _ = Cache(tmp_path).build("abc", seen.append)
    assert seen == [path]


def test_entries_are_read_only_and_links_out_are_left_alone(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.write_text("mine")
    before = outside.stat().st_mode

    def make(folder: Path) -> None:
        fill(folder)
        (folder / "link").symlink_to(outside)

    path, _ = Cache(tmp_path / "c").build("abc", make)
    for item in (path, path / "deep", path / "deep" / "file"):
        assert not item.stat().st_mode & (stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH)
    assert outside.stat().st_mode == before


def test_failed_build_leaves_no_entry_but_keeps_its_scratch(tmp_path: Path) -> None:
    cache = Cache(tmp_path)

    def make(folder: Path) -> None:
        fill(folder)
        (cache.scratch("abc") / "part").write_text("half")
        raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        cache.build("abc", make)
    assert cache.get("abc") is None
    assert not (tmp_path / "abc").exists()
    assert (cache.scratch("abc") / "part").read_text() == "half"
    cache.build("abc", fill)
    assert not (tmp_path / ".scratch" / "abc").exists()


def test_killed_builder_leaves_no_entry_and_the_next_one_builds_afresh(tmp_path: Path) -> None:
    with builder(tmp_path, "abc", "hang") as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "building\n"
        child.send_signal(signal.SIGKILL)
        child.wait(10)
    cache = Cache(tmp_path)
    assert (tmp_path / "abc" / "half").exists()
    assert cache.get("abc") is None
    path, cached = cache.build("abc", fill)
    assert not cached
    assert sorted(item.name for item in path.iterdir()) == ["deep"]


def test_two_processes_build_one_key_once(tmp_path: Path) -> None:
    children = [builder(tmp_path, "abc", "quick") for _ in range(4)]
    said = [child.communicate(timeout=60)[0].strip() for child in children]
    assert sorted(said) == ["cached", "cached", "cached", "made"]
    assert (tmp_path / "builds.log").read_text() == "built\n"


def test_threads_build_one_key_once_and_other_keys_meanwhile(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    inside, release = threading.Event(), threading.Event()
    made: list[str] = []

    def slow(_: Path) -> None:
        made.append("slow")
        inside.set()
        assert release.wait(20)

    threads = [threading.Thread(target=cache.build, args=("abc", slow)) for _ in range(4)]
    for thread in threads:
        thread.start()
    assert inside.wait(20)
    assert cache.get("abc") is None, "an entry is not visible before it is whole"
    assert cache.build("other", fill)[1] is False
    release.set()
    for thread in threads:
        thread.join(20)
    assert made == ["slow"]


def test_waiting_for_another_builder_stops_when_asked(tmp_path: Path) -> None:
    cache = Cache(tmp_path)

    def stop() -> None:
        raise Cancelled("The run was cancelled.")

    with cache.lock("abc"), pytest.raises(Cancelled):
        cache.build("abc", fill, stop=stop)


def test_entries_are_told_least_used_first(tmp_path: Path) -> None:
    cache = Cache(tmp_path, clock=Ticks())
    for key in ("a", "b", "c"):
        cache.build(key, fill)
    cache.get("a")
    assert [entry.key for entry in cache.entries()] == ["b", "c", "a"]
    assert cache.remove("b")
    assert [entry.key for entry in cache.entries()] == ["c", "a"]
    assert not (tmp_path / "b").exists()


def test_what_is_held_is_not_removed_until_its_holder_is_gone(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "c", clock=Ticks())
    attempt = tmp_path / "attempt"
    attempt.mkdir()
    cache.build("a", fill)
    assert cache.get("a", holder=attempt) is not None
    assert cache.in_use("a")
    assert not cache.remove("a")
    attempt.rmdir()
    assert not cache.in_use("a")
    assert cache.remove("a")


def test_entry_under_construction_is_not_removed(tmp_path: Path) -> None:
    cache = Cache(tmp_path)

    def make(folder: Path) -> None:
        fill(folder)
        cache.scratch("abc")
        assert cache.in_use("abc")
        assert not cache.remove("abc")
        assert (folder / "deep" / "file").exists()

    cache.build("abc", make)


def test_asking_for_an_entry_that_is_being_removed_finds_none(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "c")
    cache.build("abc", fill)
    with cache.lock("abc"):
        assert cache.get("abc", holder=tmp_path) is None


def test_what_served_its_purpose_goes_first(tmp_path: Path) -> None:
    cache = Cache(tmp_path, clock=Ticks())
    for key in ("a", "b"):
        cache.build(key, fill)
    cache.go_first("b")
    assert [entry.key for entry in cache.entries()] == ["b", "a"]


def test_unfinished_work_is_removed_too(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    (cache.scratch("abc") / "part").write_text("half")
    assert [key for _, key in cache.candidates()] == ["abc"]
    assert cache.remove("abc")
    assert not (tmp_path / ".scratch" / "abc").exists()
    (cache.scratch("abc") / "part").write_text("half")
    cache.clear_scratch("abc")
    assert not (tmp_path / ".scratch" / "abc").exists()


def test_a_lock_of_which_nothing_is_left_is_swept(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    with cache.lock("url-1"):
        cache.sweep()
        assert (tmp_path / ".entries" / "url-1.lock").exists(), "somebody works under it"
    cache.build("abc", fill)
    cache.sweep()
    assert [path.name for path in (tmp_path / ".entries").glob("*.lock")] == ["abc.lock"]


def test_sweep_removes_leftovers_and_keeps_entries(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "c")
    cache.build("abc", fill)
    cache.get("abc", holder=tmp_path / "gone")
    (cache.root / "half-built").mkdir()
    doomed = cache.root / ".trash" / "x"
    doomed.mkdir(parents=True)
    fill(doomed)
    doomed.chmod(0o500)
    cache.sweep()
    assert cache.get("abc") is not None
    assert not (cache.root / "half-built").exists()
    assert not doomed.exists()
    assert not list(cache.root.glob(".entries/*.holders/*"))


def test_removed_entry_can_be_built_again(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    cache.build("abc", fill)
    assert cache.remove("abc")
    assert cache.get("abc") is None
    assert cache.build("abc", fill)[1] is False


def test_lock_file_removed_under_a_waiter_is_noticed(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    done = threading.Event()

    def build() -> None:
        cache.build("abc", fill)
        done.set()

    with cache.lock("abc"):
        waiter = threading.Thread(target=build)
        waiter.start()
        (tmp_path / ".entries" / "abc.lock").unlink()
    assert done.wait(20)
    waiter.join(20)
    assert cache.get("abc") is not None


def test_unwritable_root_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot write"):
        Cache(tmp_path / "file" / "c").build("abc", fill)


@given(st.text(min_size=1, max_size=5))
def test_keys_cannot_name_anything_outside(key: str) -> None:
    cache = Cache(Path("/nonexistent"))
    if key.isascii() and key.replace("-", "").replace("_", "").isalnum() and key == key.lower():
        return
    with pytest.raises(ValueError, match="cannot be a cache key"):
        cache.get(key)


def test_sealed_entry_is_removed_by_an_ordinary_user_too() -> None:
    # Root may do anything, so an unprivileged child builds and removes.
    script = """
import os, pathlib, sys, tempfile
from pushtrain.plumbing.disk.cache import Cache
if os.getuid() == 0:
    os.setgid(65534); os.setuid(65534)
root = pathlib.Path(tempfile.mkdtemp())
def make(folder):
    (folder / "deep").mkdir(); (folder / "deep" / "file").write_text("x")
cache = Cache(root / "c")
path, _ = cache.build("abc", make)
try:
    (path / "deep" / "file").write_text("changed")
except PermissionError:
    print("read-only")
print(cache.remove("abc"), os.listdir(root / "c" / ".trash"))
import shutil; shutil.rmtree(root)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False, cwd="/"
    )
    assert done.stdout == "read-only\nTrue []\n", done.stderr


# --- watched ----------------------------------------------------------------------------------------------


def plant(path: Path) -> None:
    """Other bytes of the same length, with all times put back that one can put back."""
    before = path.stat()
    path.parent.chmod(0o700)
    path.chmod(0o600)
    path.write_bytes(b"evil!"[: before.st_size])
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    path.chmod(before.st_mode)
    path.parent.chmod(0o500)


def add_file(path: Path) -> None:
    path.parent.chmod(0o700)
    (path.parent / "more").write_text("x")
    path.parent.chmod(0o500)


def take_file(path: Path) -> None:
    path.parent.chmod(0o700)
    path.unlink()
    path.parent.chmod(0o500)


def swap_for_link(path: Path) -> None:
    take_file(path)
    path.parent.chmod(0o700)
    path.symlink_to("/etc/hostname")
    path.parent.chmod(0o500)


@pytest.mark.parametrize("attack", [plant, add_file, take_file, swap_for_link])
@pytest.mark.parametrize("how", ["get", "build"])
def test_watched_entry_that_was_changed_is_made_anew(
    tmp_path: Path, attack: Callable[[Path], None], how: str
) -> None:
    cache = Cache(tmp_path / "c", watched=True)

    def make(into: Path) -> None:
        (into / "folder").mkdir()
        (into / "folder" / "data").write_bytes(b"right")

    path, _ = cache.build("k", make)
    assert cache.get("k") == path
    assert cache.build("k", make) == (path, True)
    attack(path / "folder" / "data")
    if how == "get":
        assert cache.get("k") is None
    assert cache.build("k", make) == (path, False)
    assert (path / "folder" / "data").read_bytes() == b"right"
    assert [item.name for item in (path / "folder").iterdir()] == ["data"]
    assert Cache(tmp_path / "c", watched=True).get("k") == path


def test_watched_entry_stays_one_while_it_is_read_held_and_left_by_its_scratch(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "c", watched=True)

    def make(into: Path) -> None:
        (cache.scratch("k") / "part").write_bytes(b"right")
        (into / "data").hardlink_to(cache.scratch("k") / "part")

    path, _ = cache.build("k", make, holder=tmp_path)
    assert (path / "data").read_bytes() == b"right"
    assert cache.get("k", holder=tmp_path / "other") == path
    cache.go_first("k")
    assert cache.get("k") == path


def test_entry_of_a_cache_that_was_not_watched_is_made_anew_by_one_that_is(tmp_path: Path) -> None:
    path, _ = Cache(tmp_path / "c").build("k", lambda into: (into / "a").touch())
    assert Cache(tmp_path / "c").get("k") == path
    assert Cache(tmp_path / "c", watched=True).build("k", lambda into: (into / "b").touch()) == (path, False)
