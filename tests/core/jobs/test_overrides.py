"""What a person wants otherwise: put into exactly one job, or refused by name."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pushtrain.core.errors import ConfigError, NotFound, UsageError
from pushtrain.core.jobs.jobfile import JobFile, expand, parse
from pushtrain.core.jobs.overrides import Overrides, overridden
from pushtrain.core.values.jobspec import DataSource, JobSpec

FILE = parse("""
[job.train]
command = "python train.py --lr ${{ matrix.lr }}"
data = [{url = "https://host/a.csv", path = "data/a.csv", unpack = true}]
[job.train.matrix]
lr = [0.1, 0.01]
seed = [1, 2]
max_parallel = 3
[job.plain]
command = "python plain.py"
[job.two]
command = "python two.py"
data = [{url = "https://host/a", path = "a"}, {url = "s3://b/c/", path = "c", manifest = "SUMS"}]
[job.auto]
command = "x"
on = "push"
""")


def specs(wanted: Overrides, job: str = "train", file: JobFile = FILE) -> tuple[JobSpec, ...]:
    return expand(overridden(file, [job], wanted).job(job))


def test_nothing_wanted_changes_nothing() -> None:
    assert overridden(FILE, [], Overrides()) is FILE


def test_a_command_takes_the_place_of_the_jobs_and_sees_the_cell() -> None:
    made = specs(Overrides(command="echo ${{ matrix.seed }}"))
    assert [spec.command for spec in made] == ["echo 1", "echo 2", "echo 1", "echo 2"]
    with pytest.raises(UsageError, match="does not have"):
        specs(Overrides(command="echo ${{ matrix.sede }}"))


def test_a_parameter_takes_the_place_of_its_axis() -> None:
    made = specs(Overrides(params=("lr=0.5",)))
    assert [spec.cell for spec in made] == [{"lr": 0.5, "seed": 1}, {"lr": 0.5, "seed": 2}]
    assert made[0].command == "python train.py --lr 0.5"
    assert made[0].max_parallel == 3
    assert len(specs(Overrides(params=("lr=0.5", "seed=3")))) == 1


def test_a_job_without_a_matrix_takes_any_parameter() -> None:
    (made,) = specs(Overrides(params=("lr=0.5", "name=adam", "flag=true", "n=3", "q='3'")), "plain")
    assert made.cell == {"lr": 0.5, "name": "adam", "flag": True, "n": 3, "q": "3"}


def test_a_parameter_that_the_matrix_does_not_have_is_refused_with_a_suggestion() -> None:
    with pytest.raises(UsageError, match="has no parameter `sed`") as caught:
        specs(Overrides(params=("sed=1",)))
    assert "`seed`" in caught.value.mend


@pytest.mark.parametrize("text", ["lr", "=1"])
def test_a_parameter_of_another_form_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="NAME=VALUE"):
        specs(Overrides(params=(text,)))


def test_a_data_url_takes_the_place_of_the_one_entry_and_its_digest_no_longer_counts() -> None:
    made = specs(Overrides(data_url="https://host/b.csv"))
    assert made[0].data == (DataSource(url="https://host/b.csv", path="data/a.csv", unpack=True),)


def test_a_job_without_data_gets_the_url_under_its_own_name() -> None:
    assert specs(Overrides(data_url="https://host/d/x.csv?v=1"), "plain")[0].data == (
        DataSource(url="https://host/d/x.csv?v=1", path="data/x.csv"),
    )
    assert specs(Overrides(data_url="https://host"), "plain")[0].data[0].path == "data/file"
    assert specs(Overrides(data_url="in/x=https://host/y"), "plain")[0].data[0].path == "in/x"


def test_one_of_several_entries_is_named_by_its_path() -> None:
    with pytest.raises(UsageError, match="several data entries") as caught:
        specs(Overrides(data_url="https://host/b"), "two")
    assert "--data-url a=URL" in caught.value.mend
    made = specs(Overrides(data_url="c=s3://b/d/"), "two")[0].data
    assert DataSource(url="s3://b/d/", path="c", manifest="SUMS") in made
    assert len(made) == 2


def test_a_data_url_that_cannot_be_used_is_refused() -> None:
    with pytest.raises(UsageError, match="is not a data URL"):
        specs(Overrides(data_url="ftp://host/x"))
    with pytest.raises(UsageError, match="is not a data URL"):
        specs(Overrides(data_url="https://[x/y"), "plain")
    with pytest.raises(UsageError, match="leads out"):
        specs(Overrides(data_url="../x=https://host/x"), "plain")
    with pytest.raises(ConfigError, match="no `manifest`"):
        specs(Overrides(data_url="https://host/folder/"))


def test_exactly_one_job_must_be_meant() -> None:
    for names in ([], ["train", "plain"]):
        with pytest.raises(UsageError, match="change one job") as caught:
            overridden(FILE, names, Overrides(command="x"))
        assert "--job" in caught.value.mend
    with pytest.raises(NotFound):
        overridden(FILE, ["trian"], Overrides(command="x"))
    only = parse("[job.a]\ncommand = 'x'\n[job.b]\ncommand = 'y'\non = {push = true, manual = false}\n")
    assert overridden(only, [], Overrides(command="z")).job("a").spec.command == "z"


@given(st.text())
def test_any_value_is_a_scalar_that_can_be_hashed_into_an_id(text: str) -> None:
    (made,) = specs(Overrides(params=(f"x={text}",)), "plain")
    value = made.cell["x"]
    assert isinstance(value, bool | int | float | str)
    assert JobSpec.model_validate_json(made.model_dump_json()).cell["x"] == value
