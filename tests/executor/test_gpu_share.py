"""Two small runs on one card at the same time, and a whole one that waits until both are gone."""

from pathlib import Path

from executor_house import House, done, story

from pushtrain.core.values.jobspec import Resources
from pushtrain.core.values.states import Outcome, State
from pushtrain.testing import a_gpu, eventually

GB = 10**9


@story
async def test_two_runs_share_a_card_and_one_that_wants_it_alone_waits(tmp_path: Path) -> None:
    house = House(tmp_path)
    house.gpus = (a_gpu(0, memory=24 * GB),)
    part = Resources(gpus=1, gpu_memory=6 * GB, gpu_share=True)
    gate = tmp_path / "gate"
    meet = "touch {0}; until test -e {1} -a -e {2}; do :; done; echo [$CUDA_VISIBLE_DEVICES]"
    one, two = tmp_path / "one", tmp_path / "two"
    async with house.running() as service:
        runs = [
            house.send(service, meet.format(*pair, gate), resources=part) for pair in ((one, two), (two, one))
        ]
        await eventually(lambda: one.exists() and two.exists())
        alone = house.send(service, "true", resources=Resources(gpus=1))
        third = house.send(service, "true", resources=part)
        capacity = service.capacity()
        assert (capacity.free_gpus, capacity.free) == (0, ()), "whoever wants it alone keeps it for himself"
        assert {service.store.run(run.id).state for run in (alone, third)} == {State.QUEUED}
        gate.touch()
        ended = [await done(service, run) for run in (*runs, alone, third)]
        assert [run.outcome for run in ended] == [Outcome.SUCCEEDED] * 4
        assert {house.result(run, "log.txt") for run in ended[:2]} == {f"[{house.gpus[0].uuid}]"}
        attempts = [service.store.attempts(run.id)[-1] for run in ended]
        assert attempts[2].claimed_at >= max(each.ended_at or 0 for each in attempts[:2])
        used = attempts[0].gpu
        assert used is not None
        held = (attempts[0].ended_at or 0) - attempts[0].claimed_at
        assert used.seconds <= held * 6 / 24 + 0.1, "it is charged for its part of the card"
