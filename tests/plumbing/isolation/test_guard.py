"""The guard, where there are no control groups: what no process calls its own, or is hidden, counts, too."""

import contextlib
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from pushtrain.plumbing.disk.trees import remove_tree
from pushtrain.plumbing.isolation import guard
from pushtrain.plumbing.isolation.guard import Guard

MIB = 1 << 20
SHARED = "import mmap; held = mmap.mmap(-1, 64 << 20); held.write(b'x' * (64 << 20))"
UNMAPPED = "import os; held = os.memfd_create('x'); [os.write(held, b'x' * (1 << 20)) for _ in range(64)]"


@pytest.mark.parametrize("hoard", [SHARED, UNMAPPED], ids=["shared without a file", "a file of memory"])
@pytest.mark.parametrize("allowed", [48 * MIB, 128 * MIB], ids=["over", "within"])
def test_memory_that_is_not_a_process_own_counts(hoard: str, allowed: int) -> None:
    limits = {"memory": allowed, "processes": 0, "disk": 0, "folders": (), "growing": (), "cgroups": {}}
    program = f"{hoard}; print('ready', flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as job:
        assert job.stdout is not None
        assert job.stdout.readline() == "ready\n"
        found = Guard(limits).look(lambda: [job.pid])
        job.communicate("\n")
    assert (found is not None and found[0] == "oom") == (allowed == 48 * MIB)


HIDES = """
import tempfile
with tempfile.TemporaryDirectory(dir="/var/tmp") as place:
    shut = os.path.join(place, "shut")
    deeper = os.path.join(shut, "deeper")
    os.makedirs(deeper)
    for name in (shut, deeper):
        with open(f"{name}/large", "wb") as file:
            file.write(bytes(1 << 20))
    os.chmod(deeper, 0o400)
    os.chmod(shut, 0)
    print(total(files_below([place])) >> 20, oct(os.stat(shut).st_mode & 0o777))
    os.chmod(shut, 0o700)
    print(oct(os.stat(deeper).st_mode & 0o777))
    os.chmod(deeper, 0o700)
"""


def test_what_lies_in_a_folder_that_a_job_has_shut_counts_and_the_folder_stays_shut() -> None:
    """Of an ordinary user's executor, whose jobs have its uid: root is kept out of nothing."""
    python, somebody = Path(sys.executable), None
    if not os.getuid():
        python, somebody = Path(f"/usr/bin/python{sys.version_info[0]}.{sys.version_info[1]}"), 34567
        if not python.exists():
            pytest.skip(f"another user cannot run this Python, and there is no {python}")
    program = Path(guard.__file__).read_text() + HIDES
    done = subprocess.run(
        [python, "-I", "-S", "-"],
        input=program,
        cwd="/",
        user=somebody,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.split() == ["2", "0o0", "0o400"], done.stderr


def test_looking_costs_the_same_for_each_folder_however_deep_it_lies(tmp_path: Path) -> None:
    """A job makes ten thousand in no time, and looking must not keep the shim from hearing the owner."""
    deepest = 6000
    at = os.open(tmp_path, os.O_RDONLY)
    for _ in range(deepest):
        os.mkdir("d", dir_fd=at)
        below = os.open("d", os.O_RDONLY, dir_fd=at)
        os.close(at)
        at = below
    os.close(at)
    begin = time.thread_time()
    assert sum(one != guard.NOTHING for one in guard.files_below([str(tmp_path)])) == deepest
    assert time.thread_time() - begin < 2
    remove_tree(tmp_path)


def looks(limited: Guard) -> list[object]:
    """What looks say one after the other, as long as the disk is being looked at."""
    said: list[object] = []
    while not said or limited.weighing is not None:
        limited.next = 0
        said.append(limited.look(list))
    return said


def a_guard(folder: Path, disk: int) -> Guard:
    return Guard(
        {"memory": 0, "processes": 0, "disk": disk, "folders": (str(folder),), "growing": (), "cgroups": {}}
    )


def test_what_lies_in_the_caches_is_counted_before_the_job_begins_and_what_it_adds_is_its_own(
    tmp_path: Path,
) -> None:
    """At the first look it was counted at once, and for a cache of millions the shim heard nobody."""
    limits = {"memory": 0, "processes": 0, "disk": MIB // 2, "folders": (), "cgroups": {}}
    limited = Guard({**limits, "growing": (str(tmp_path),)})
    (tmp_path / "old").write_bytes(bytes(MIB))
    limited.open()
    assert limited.look(list) is None
    limited.close()
    limited = Guard({**limits, "growing": (str(tmp_path),)})
    limited.open()
    (tmp_path / "new").write_bytes(bytes(MIB))
    found = limited.look(list)
    assert found is not None
    assert found[0] == "disk"


def test_a_look_at_many_files_is_done_piece_by_piece_so_that_the_shim_hears_the_owner_between(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(2000):
        (tmp_path / str(number)).touch()
    (tmp_path / "large").write_bytes(bytes(MIB))
    limited = a_guard(tmp_path, MIB // 2)
    monkeypatch.setattr(guard, "SLICE", 0.0)
    assert looks(limited) == [None] * 5
    *before, last = looks(limited)
    assert before == [None] * 4
    assert last == ("disk", "It had written 1.05 MB when it was looked at; 524 kB are allowed.")


def test_a_look_at_many_empty_folders_is_done_piece_by_piece_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To enter a folder and to leave it costs more than a file; a hundred thousand took two seconds."""
    for number in range(100):
        (tmp_path / str(number)).mkdir()
    limited = a_guard(tmp_path, MIB)
    monkeypatch.setattr(guard, "SLICE", 0.0)
    monkeypatch.setattr(guard, "STEP", 50)
    assert len(looks(limited)) > 300 / 50, "each is listed, entered and left"


def test_a_look_at_many_open_files_is_done_piece_by_piece_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limited, held = a_guard(tmp_path, MIB // 2), (tmp_path / "gone").open("wb")
    monkeypatch.setattr(guard, "SLICE", 0.0)
    monkeypatch.setattr(guard, "STEP", 50)
    with held, contextlib.ExitStack() as many:
        held.write(bytes(MIB))
        held.flush()
        (tmp_path / "gone").unlink()
        for _ in range(100):
            many.enter_context(Path(os.devnull).open("rb"))
        for verdict in (None, "disk"):
            said: list[Any] = []
            while not said or limited.weighing is not None:
                limited.next = 0
                said.append(limited.look(lambda: [os.getpid()]))
            assert len(said) > 2
            assert (said[-1] and said[-1][0]) == verdict


def test_a_look_at_the_memory_that_many_open_files_hold_is_done_piece_by_piece_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where no control group keeps it; a million of them took four seconds at once."""
    limited, pids = a_guard(tmp_path, 0), [os.getpid()]
    with os.fdopen(os.memfd_create("x"), "wb") as held, contextlib.ExitStack() as many:
        held.write(bytes(MIB))
        held.flush()
        for _ in range(100):
            many.enter_context(Path(os.devnull).open("rb"))
        assert limited.files_in_memory(pids) == MIB, "few are counted at once"
        monkeypatch.setattr(guard, "SLICE", 0.0)
        monkeypatch.setattr(guard, "STEP", 50)
        limited = a_guard(tmp_path, 0)
        counts = [limited.files_in_memory(pids) for _ in range(8)]
    assert counts[:3] == [0, 0, 0]
    assert counts[-1] == MIB


def test_what_is_moved_during_a_long_look_is_not_counted_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "later").mkdir()
    (tmp_path / "large").write_bytes(bytes(MIB))
    limited = a_guard(tmp_path, MIB + MIB // 2)
    monkeypatch.setattr(guard, "SLICE", 0.0)
    monkeypatch.setattr(guard, "STEP", 1)
    for _ in range(2):
        limited.next = 0
        assert limited.look(list) is None
    (tmp_path / "large").rename(tmp_path / "later" / "large")
    for _ in range(3):
        assert not any(looks(limited))


def test_a_job_that_makes_files_quicker_than_they_are_looked_at_is_looked_at_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(50):
        (tmp_path / str(number)).touch()
    limited = a_guard(tmp_path, MIB)
    monkeypatch.setattr(guard, "SLICE", 0.0)
    monkeypatch.setattr(guard, "STEP", 1)
    assert len(looks(limited)) == 52
    monkeypatch.setattr(guard, "LONGEST", 0.0)
    assert len(looks(limited)) == 1
    monkeypatch.setattr(guard, "LONGER", 0.0)
    assert len(looks(limited)) == 52, "one that makes them without end keeps the shim from nothing"


def test_what_a_job_moves_away_while_it_is_looked_at_takes_nothing_else_along(tmp_path: Path) -> None:
    large = [tmp_path / name / "below" / "large" for name in "abc"]
    for file in large:
        file.parent.mkdir(parents=True)
        file.write_bytes(bytes(MIB))
    names = {file.stat().st_ino: file for file in large}
    seen: set[int] = set()
    before = _descriptors()
    for (_, number), _, _ in guard.files_below([str(tmp_path)]):
        if number in names:
            if not seen:
                names[number].parent.rename(tmp_path / "moved")
            seen.add(number)
    assert seen == names.keys()
    assert _descriptors() == before


def _descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_folders_nested_beyond_a_path_count_on_the_disk(tmp_path: Path) -> None:
    at = os.open(tmp_path, os.O_RDONLY)
    for _ in range(30):
        os.mkdir("d" * 200, dir_fd=at)
        below = os.open("d" * 200, os.O_RDONLY, dir_fd=at)
        os.close(at)
        at = below
    large = os.open("large", os.O_WRONLY | os.O_CREAT, dir_fd=at)
    os.write(large, bytes(1 << 20))
    os.close(large)
    os.close(at)
    assert guard.total(guard.files_below([str(tmp_path)])) >= 1 << 20
    remove_tree(tmp_path)
