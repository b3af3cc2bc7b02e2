"""An executor clears its disk by itself, and never what a run has."""

from pathlib import Path

import pytest
from executor_house import House, done, story

from pushtrain.executor import steward
from pushtrain.plumbing.attempts.rundir import RunDir
from pushtrain.plumbing.disk.cache import Cache
from pushtrain.testing import eventually


@pytest.fixture
def house(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> House:
    """An executor that looks at its disk often."""
    for name in ("_SETTLE", "_LOOK", "_BETWEEN"):
        monkeypatch.setattr(steward, name, 0.05)
    made = House(tmp_path, slots=2)
    made.state.create()
    return made


def fill(folder: Path) -> None:
    (folder / "file").write_bytes(b"x" * 10**6)


@pytest.mark.slow
@story
async def test_beyond_its_budget_an_executor_collects_by_itself_and_runs_go_on(house: House) -> None:
    house.state.settings.write_text("[executor]\ndisk_floor = 0\ndisk_budget = 100000\n")
    old = house.state.data / "old"
    async with house.running() as service:
        run = house.send(
            service, "echo x > $PUSHTRAIN_CHECKPOINT_DIR/epoch; until test -e go; do sleep 0.05; done"
        )
        folder = RunDir.of(house.state.runs, run.id, 1)
        await eventually((folder.checkpoint / "epoch").exists, 20)
        Cache(house.state.data).build("old", fill)
        await done(service, house.send(service, "true"))
        await eventually(lambda: not old.exists(), 30)
        assert (folder.checkpoint / "epoch").exists()
        (folder.tree / "go").touch()
        assert (await done(service, run)).final
