"""`GET /v1/gpus`: what the cards do now, told to who may read, runs by name only to who may see them."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from pushtrain.core.errors import Forbidden
from pushtrain.core.runs.gpustate import GpuRun
from pushtrain.core.wire.grants import Scope
from pushtrain.executor.owner.lending import Holder
from pushtrain.plumbing.http.client import ExecutorClient
from pushtrain.plumbing.machine import gpu
from pushtrain.plumbing.machine.gpu import inventory
from pushtrain.testing import REPOSITORY, a_command
from pushtrain.testing.nvml import FakeCard, FakeNvml
from served import Served, served

GB = 10**9
SENDER = Ed25519PrivateKey.generate()


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> FakeNvml:
    """Two cards; a program that is not ours holds the second one."""
    cards = [
        FakeCard(memory=24 * GB, temperature=50, power=200.0, utilization=80, throttle=0x20),
        FakeCard(memory=24 * GB, processes={1: 9 * GB}),
    ]
    made = FakeNvml(cards)
    monkeypatch.setattr(gpu, "pynvml", made)
    return made


@pytest.fixture
def executor(library: FakeNvml, tmp_path: Path) -> Iterator[Served]:
    assert library.cards
    with served(tmp_path / "state", gpus=inventory()) as one:
        yield one
        one.service._landlord._cards.close()


def client(executor: Served) -> ExecutorClient:
    return ExecutorClient(executor.url, executor.key.public_key(), SENDER, clock=executor.clock)


def test_figures_owner_and_heat_are_told_over_the_wire(executor: Served) -> None:
    executor.authorized.add(SENDER.public_key())
    told = client(executor).gpus()
    busy, owned = told.gpus
    assert (told.executor, told.served) == ("lab-1", True)
    assert (busy.temperature, busy.power, busy.utilization, busy.throttled) == (50, 200.0, 80, ("heat",))
    assert (owned.memory_used, owned.memory_foreign, owned.memory_ours) == (9 * GB, 9 * GB, 0)
    assert (owned.lent, owned.words) == (False, "the owner is using GPU 1 (9 GB)")


def test_a_run_that_the_key_may_not_read_has_no_name(
    executor: Served, monkeypatch: pytest.MonkeyPatch, library: FakeNvml
) -> None:
    executor.authorized.add(SENDER.public_key())
    library.cards[0].utilization = 0  # else it would look like its owner before the run is there
    run = client(executor).send(a_command())
    holder = Holder(run.id, 1, "train", (library.cards[0].uuid,))
    monkeypatch.setattr(executor.service._dispatch, "holders", lambda: (holder,))
    seen = client(executor).gpus().gpus[0].runs
    assert seen == (GpuRun(id=run.id, title="train", repository=REPOSITORY),)
    executor.authorized.add(SENDER.public_key(), repositories=["github.com/somebody/*"])
    blind = client(executor).gpus().gpus[0]
    assert blind.runs == (GpuRun(),)
    assert blind.words.startswith("a run")


def test_who_may_not_read_is_told_nothing(executor: Served) -> None:
    executor.authorized.add(SENDER.public_key(), scopes=[Scope.SEND])
    with pytest.raises(Forbidden):
        client(executor).gpus()
