"""Jobs inside each level of isolation: what still works there, and what does not."""

from pathlib import Path

import pytest
from executor_house import House, done, story

from pushtrain.adapters.sandboxes import Ground
from pushtrain.adapters.sandboxes.sandbox import Bubblewrap
from pushtrain.core.model import Isolation, Outcome


@pytest.fixture
def house(tmp_path: Path) -> House:
    """An executor whose jobs run in bubblewrap."""
    house = House(tmp_path)
    house.sandbox = Bubblewrap(Ground(house.state.isolation))
    if house.sandbox.missing()[0]:
        pytest.skip(f"level `sandbox` cannot be tried here: {house.sandbox.missing()[0]}")
    return house


@story
async def test_a_job_runs_in_its_sandbox_and_its_results_come_back(house: House) -> None:
    command = (
        "python -c 'import os; print(os.getpid(), os.getuid())'; ls -d /*; "
        "echo kept > $PUSHTRAIN_RESULTS_DIR/kept.txt; echo '# hello' > $PUSHTRAIN_SUMMARY; echo $TMPDIR"
    )
    async with house.running() as service:
        run = await done(service, house.send(service, command))
        (attempt,) = service.store.attempts(run.id)
        assert service.card().isolation == attempt.isolation == Isolation.SANDBOX
    assert (run.outcome, run.reason) == (Outcome.SUCCEEDED, "exited"), house.result(run, "log.txt")
    log = house.result(run, "log.txt").splitlines()
    assert (log[0].split()[1], log[-1]) == ("1000", "/tmp")  # noqa: S108  the job's own
    assert not {"/home", "/boot", "/mnt", "/srv"} & set(log)
    assert "isolation sandbox" in house.result(run, "README.md")
    assert house.result(run, "files/kept.txt") == "kept"
