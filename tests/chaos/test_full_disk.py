"""A whole executor on a small full disk: nothing accepted is lost, nothing is accepted that is not kept."""

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "executor"))

from executor_house import House, done, logged, story

from pushtrain.core.errors import StorageError
from pushtrain.core.runs import retry
from pushtrain.core.values.run import Run
from pushtrain.core.values.states import Outcome, Reason, State
from pushtrain.testing import eventually

MIB = 1024**2


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A file system of 48 MiB."""
    if os.geteuid() != 0:
        pytest.skip("only root may mount a small file system")
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ("mount", "-t", "tmpfs", "-o", "size=48m", "pushtrain-test", str(folder))
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("this root may not mount a file system")
    try:
        yield folder
    finally:
        subprocess.run(("umount", "-l", str(folder)), check=True)


def fill(folder: Path) -> Path:
    """A file that takes all that is left."""
    ballast = folder / "ballast"
    with ballast.open("wb", buffering=0) as file:
        for size in (MIB, 4096, 1):
            try:
                while True:
                    file.write(b"x" * size)
            except OSError:
                continue
    return ballast


def open_gates(house: House) -> None:
    """Let the jobs go on that wait."""
    for folder in house.state.runs.glob("*/*/job/tree"):
        with contextlib.suppress(FileNotFoundError):  # its run has ended
            (folder / "go").touch()


@pytest.mark.slow
@story
async def test_on_a_full_disk_nothing_is_accepted_and_what_was_lands_when_there_is_room(small: Path) -> None:
    house = House(small, slots=2)
    async with house.running() as service:
        first = house.send(service, "echo ready; until test -e go; do sleep 0.02; done; echo done")
        await logged(service, first, "ready")
        waiting = house.send(service, "until test -e go; do sleep 0.02; done")
        third = house.send(service, "echo third")
        ballast = fill(small)
        for _ in range(3):
            with pytest.raises(StorageError) as caught:
                house.send(service, "echo never")
            assert caught.value.status == 503
        known = {run.id for run in service.store.runs()}
        assert known == {first.id, waiting.id, third.id}
        ballast.unlink()
        open_gates(house)
        assert (await done(service, first)).outcome is Outcome.SUCCEEDED
        assert "done" in house.result(service.store.run(first.id), "log.txt")

        def opened() -> bool:
            open_gates(house)
            return service.store.run(waiting.id).state is State.DONE

        await eventually(opened, 60, what="the one that waited")
        assert (await done(service, third)).outcome is Outcome.SUCCEEDED
        assert service.store.run(waiting.id).outcome is Outcome.SUCCEEDED


@pytest.mark.slow
@story
async def test_a_job_that_fills_the_disk_fails_and_the_next_one_runs(small: Path) -> None:
    house = House(small)
    async with house.running() as service:
        greedy = house.send(service, "cat /dev/zero > big")
        after = house.send(service, "echo after")
        ended = await done(service, greedy, 60)
        assert ended.outcome is Outcome.FAILED
        assert (await done(service, after, 60)).outcome is Outcome.SUCCEEDED


@pytest.mark.slow
@story
async def test_a_run_for_whose_files_there_is_no_room_waits_and_trains_when_there_is(
    small: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retry, "FIRST_UNREADY", 0.05)
    house = House(small)
    house.commit({"large.bin": os.urandom(4 * MIB)})
    async with house.running() as service:
        ballast = fill(small)
        os.truncate(ballast, ballast.stat().st_size - 2 * MIB)
        run = house.send(service, "test -e large.bin")

        def there() -> Run | None:
            found = service.store.run(run.id)
            return found if found.state is State.QUEUED and found.reason is Reason.STORAGE else None

        waiting = await eventually(there, 20, what="a try in vain")
        assert "No space left on device" in waiting.waiting_for
        assert "Free some space" in waiting.waiting_for
        ballast.unlink()
        assert (await done(service, run, 60)).outcome is Outcome.SUCCEEDED
