"""Scripted owners on simulated cards: whatever they do, the owner wins, and every run ends.

The rules, the landlord, the turns and the lifecycle are the real ones (`pushtrain.testing.lab`), which checks
at every step that no card has two runs, that none starts while its owner is there, before the memory of the
last one is back, or during a pause.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pushtrain.core.owner.lending import OwnerRules
from pushtrain.core.values.states import State
from pushtrain.executor.owner.landlord import Landlord
from pushtrain.executor.owner.lending import Terms
from pushtrain.plumbing.sqlite.store import Store
from pushtrain.testing.lab import Lab, Machine, Work
from pushtrain.testing.labparts import Kept, Memory
from pushtrain.testing.labweek import week

GIB = 1024**3
NOTICE = 2.0
END = 3000.0
QUIET = 200_000.0
Step = tuple[float, str, object, object]
Script = list[Step]


@contextmanager
def a_lab() -> Iterator[Lab]:
    lab = Lab()
    try:
        yield lab
    finally:
        lab.close()


works = st.builds(
    Work,
    train=st.floats(1, 2000),
    gpus=st.integers(1, 3),
    prepare=st.floats(0.1, 60),
    every=st.floats(10, 600),
    saves=st.none() | st.floats(0, 40),
    vacates=st.floats(0.01, 0.9),
)
moments = st.floats(0, END)
cards = st.integers(0, 2)
comings = st.tuples(moments, st.just("comes"), cards, st.floats(0.6, 23))
goings = st.tuples(moments, st.just("goes"), cards, st.none())
pauses = st.tuples(moments, st.just("pause"), st.none() | st.floats(1, 600), st.none())
resumes = st.tuples(moments, st.just("resume"), st.none(), st.none())
submits = st.tuples(moments, st.just("submit"), works, st.none())
scripts = st.lists(comings | goings | pauses | resumes | submits, max_size=25)
rules = st.builds(
    OwnerRules,
    settle=st.sampled_from((0, 60)),
    grace=st.sampled_from((0, 5, 30)),
    reserve=st.sampled_from((0, GIB)),
)


def follow(machine: Machine, step: Step) -> None:
    """One line of a script."""
    at, what, first, second = step
    lab, count = machine.lab, len(machine.gpus)
    if what == "comes":
        lab.at(at, lambda: machine.owner_comes(int(str(first)) % count, int(float(str(second)) * GIB)))
    elif what == "goes":
        lab.at(at, lambda: machine.owner_goes(int(str(first)) % count))
    elif what == "submit":
        assert isinstance(first, Work)
        work = Work(**{**vars(first), "gpus": min(first.gpus, count)})
        lab.at(at, lambda: machine.submit(work))
    else:
        until = 1e9 if what == "pause" and first is None else at + float(str(first or 0))
        lab.at(at, lambda: machine.pause_until(until if what == "pause" else None))


def played(script: Script, owner: OwnerRules, count: int, phase: float) -> None:
    """A script on one machine, and after it a long while without an owner."""
    with a_lab() as lab:
        machine = lab.machine("lab-1", cards=count, rules=owner, phase=phase)
        for step in script:
            follow(machine, step)
        for card in range(count):
            lab.at(END + 1, lambda card=card: machine.owner_goes(card))  # type: ignore[misc]
        lab.at(END + 1, lambda: machine.pause_until(None))
        lab.run(until=QUIET)
        assert isinstance(machine.desk, Memory)
        states = {run.state for run in machine.desk.runs.values()}
        assert states <= {State.PUBLISHING}
        assert not machine.tenants
        assert lab.tally.done == len(machine.desk.runs)
        assert max(lab.tally.noticed, default=0.0) <= NOTICE
        assert max(lab.tally.yielded, default=0.0) <= NOTICE + 1


@settings(max_examples=150)
@given(script=scripts, owner=rules, count=st.integers(1, 3), phase=st.floats(0, 1.25))
def test_whatever_owners_do_they_win_and_every_run_ends(
    script: Script, owner: OwnerRules, count: int, phase: float
) -> None:
    played(script, owner, count, phase)


def test_a_claim_that_goes_by_an_old_look_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """The simulation sees what it is there to see."""
    monkeypatch.setattr(Landlord, "terms", lambda _: Terms())
    with a_lab() as lab:
        machine = lab.machine("lab-1", cards=1, rules=OwnerRules())
        lab.at(10, lambda: machine.owner_comes(0))
        lab.at(20, lambda: machine.submit(Work(train=10)))
        with pytest.raises(AssertionError, match="a start while the owner is there"):
            lab.run(until=100)


def test_the_same_holds_over_the_executors_own_store(tmp_path: Path) -> None:
    with a_lab() as lab:
        store = Store(tmp_path / "store.db", clock=lab.clock)
        machine = lab.machine("lab-1", cards=2, rules=OwnerRules(settle=0), desk=Kept(store))
        runs = [machine.submit(Work(train=600, saves=saves)) for saves in (5.0, None, 5.0)]
        for at in (100, 400, 900):
            lab.at(at, lambda: machine.owner_comes(0))
            lab.at(at + 60, lambda: machine.owner_goes(0))
        lab.run(until=10_000)
        found = [store.run(run.id) for run in runs]
        assert [run.state for run in found] == [State.PUBLISHING] * 3
        kinds = [event.kind for run in runs for event in store.events(run.id)]
        assert kinds.count("requeued") == sum(run.attempt for run in found) - 3 == len(lab.tally.lost)
        assert len(lab.tally.lost) >= 2
        store.close()


def test_a_lab_uses_its_idle_gpu_hours_and_no_owner_waits(tmp_path: Path) -> None:
    """A day of three machines; `make bench ARGS=owners` lets ten live a week."""
    found = week(tmp_path, days=1, machines=3)
    assert found.used >= 0.95
    assert max(found.tally.noticed) <= NOTICE
    assert max(found.tally.yielded) <= NOTICE + 1  # beyond the grace that a run was given
    assert max(found.tally.lost) <= Work(train=1).every
    assert len(found.tally.lost) > 5
    assert found.tally.done > 20
