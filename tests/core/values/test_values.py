"""The values: strict, frozen, the same after a trip over the wire; and the run's deterministic id."""

import hashlib
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from pushtrain.core.values.command import TrainCommand, run_id
from pushtrain.core.values.jobspec import JobSpec, ResultsTarget
from pushtrain.core.values.push import Push
from pushtrain.core.values.run import Run
from pushtrain.core.values.states import State
from pushtrain.core.values.value import RepositoryKey, Scalar

COMMIT = "1" * 40
KEY = "github.com/octo/hello"
SCALARS = (
    st.booleans() | st.integers(-(2**53) + 1, 2**53 - 1) | st.text(max_size=5) | st.sampled_from([0.1, 1e-5])
)
CELLS = st.dictionaries(st.text(min_size=1, max_size=5), SCALARS, max_size=4)


def test_the_run_id_is_the_documented_hash() -> None:
    # RFC 8785 of ["github.com/octo/hello","111…","train",{"aug":true,"lr":0.1,"seed":3},""], by hand.
    text = f'["{KEY}","{COMMIT}","train",{{"aug":true,"lr":0.1,"seed":3}},""]'
    by_hand = hashlib.sha256(b"pushtrain-run-1\n" + text.encode()).hexdigest()[:32]
    cell: dict[str, Scalar] = {"lr": 0.1, "seed": 3, "aug": True}
    assert run_id(repository=KEY, commit=COMMIT, job="train", cell=cell) == by_hand


@pytest.mark.parametrize(
    ("cell", "request_", "golden"),
    [
        ({}, "", "787f4db9cc00798f91224e2d94cea640"),
        ({"lr": 0.1, "aug": True, "seed": 3}, "", "d1810d49015d32e1e10a8d572a0bf703"),
        ({}, "again", "22456c59080a28378a37dfaca69c9b07"),
    ],
)
def test_the_run_id_never_changes(cell: dict[str, Scalar], request_: str, golden: str) -> None:
    assert run_id(repository=KEY, commit=COMMIT, job="train", cell=cell, request=request_) == golden


@given(CELLS)
def test_the_run_id_does_not_depend_on_the_order_of_a_cell(cell: dict[str, Scalar]) -> None:
    backwards = dict(reversed(cell.items()))
    assert _id(cell=cell) == _id(cell=backwards)


@given(CELLS, CELLS)
def test_two_cells_have_one_id_only_when_they_are_equal(
    one: dict[str, Scalar], two: dict[str, Scalar]
) -> None:
    def kinds(cell: dict[str, Scalar]) -> dict[str, tuple[bool, Scalar]]:
        return {name: (isinstance(value, bool), value) for name, value in cell.items()}

    assert (_id(cell=one) == _id(cell=two)) is (kinds(one) == kinds(two))


@pytest.mark.parametrize(
    "other",
    [
        {"repository": "github.com/octo/other"},
        {"commit": "2" * 40},
        {"job": "test"},
        {"cell": {"lr": 1}},
        {"request": "again"},
    ],
)
def test_everything_that_identifies_a_run_changes_its_id(other: dict[str, Any]) -> None:
    assert _id(**other) != _id()


def _id(**changes: Any) -> str:
    identity: dict[str, Any] = {"repository": KEY, "commit": COMMIT, "job": "train", "cell": {}}
    return run_id(**(identity | changes))


def _command(**changes: Any) -> TrainCommand:
    fields: dict[str, Any] = {
        "run_id": "0" * 32,
        "repository": KEY,
        "ref": "refs/heads/main",
        "commit": COMMIT,
        "job": JobSpec(name="train", command="python train.py"),
    }
    return TrainCommand(**(fields | changes))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("run_id", "0" * 31),
        ("run_id", "G" * 32),
        ("repository", "no-host"),
        ("repository", "github.com/a b"),
        ("repository", "github.com//a"),
        ("ref", "main"),
        ("commit", "abc"),
        ("commit", "A" * 40),
        ("request", "x" * 65),
        ("version", 2),
        ("surprise", 1),
    ],
)
def test_a_command_with_a_malformed_field_is_refused(field: str, value: object) -> None:
    with pytest.raises(ValidationError):
        _command(**{field: value})


def test_a_command_takes_sha256_commits_too() -> None:
    assert _command(commit="a" * 64).commit == "a" * 64


@given(st.dictionaries(st.text(min_size=1, max_size=5), SCALARS, max_size=4))
def test_a_command_is_the_same_after_a_trip_over_the_wire(cell: dict[str, Scalar]) -> None:
    command = _command(job=JobSpec(name="train", command=("a", "b"), cell=cell))
    back = TrainCommand.model_validate_json(command.model_dump_json())
    assert back == command
    assert [type(value) for value in back.job.cell.values()] == [type(value) for value in cell.values()]


@pytest.mark.parametrize("value", [math.inf, math.nan])
def test_numbers_that_are_no_numbers_do_not_travel(value: float) -> None:
    with pytest.raises(ValidationError):
        JobSpec(name="train", command="x", cell={"lr": value})


def test_values_are_frozen() -> None:
    with pytest.raises(ValidationError):
        ResultsTarget().branch = "x"  # type: ignore[misc]


def test_a_push_names_its_repository_by_lower_case_host_and_path() -> None:
    push = Push(
        host="GitHub.com",
        repository="Octo/Hello",
        ref="refs/heads/x",
        before="0" * 40,
        after=COMMIT,
        delivery="d",
    )
    assert push.key == "github.com/Octo/Hello"
    assert TypeAdapter(RepositoryKey).validate_python(push.key) == push.key
    assert not push.deletes
    assert push.model_copy(update={"after": "0" * 40}).deletes


def test_a_spec_is_titled_by_its_name_and_cell() -> None:
    assert JobSpec(name="train", command="x").title == "train"
    titled = JobSpec(name="train", command="x", cell={"lr": 0.1, "aug": True, "name": "a"})
    assert titled.title == "train (lr=0.1, aug=true, name=a)"


def test_a_run_is_final_only_when_done() -> None:
    run = Run(id="0123456789" + "0" * 22, command=_command(), sender="SHA256:x", accepted_at=1, updated_at=1)
    assert run.short == "01234567"
    assert [state for state in State if run.model_copy(update={"state": state}).final] == [State.DONE]
