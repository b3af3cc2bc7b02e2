"""Gathering metrics, thinning them, and telling which is best."""

import math
import os
from pathlib import Path
from typing import IO

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pushtrain.adapters.metrics.csv import Csv
from pushtrain.adapters.metrics.jsonl import JsonLines
from pushtrain.executor.results import metrics
from pushtrain.executor.results.metrics import MOST_POINTS, Metric, candidates, direction, gather, steps_in
from pushtrain.ports import Series

FORMATS = (JsonLines(), Csv())


class Given:
    """A format that reads what it is told to."""

    def __init__(self, *series: Series) -> None:
        self.series = list(series)

    def fits(self, path: Path) -> bool:
        return path.suffix == ".given"

    def read(self, path: Path, content: IO[bytes]) -> list[Series]:
        if path.name.startswith("broken"):
            raise ValueError("no such thing")
        return self.series


def given_metric(tmp_path: Path, *values: float) -> Metric:
    (tmp_path / "x.given").touch()
    series = Series("loss", tuple(map(float, range(len(values)))), values)
    (found,) = gather([tmp_path / "x.given"], [Given(series)], root=tmp_path)
    return found


@pytest.mark.parametrize(
    ("name", "way"),
    [
        ("loss", "lower"), ("val/Loss", "lower"), ("train_error", "lower"), ("perplexity", "lower"),
        ("rmse", "lower"), ("accuracy", "higher"), ("val_acc", "higher"), ("f1", "higher"),
        ("AUC", "higher"), ("reward", "higher"), ("lr", ""), ("epoch", ""), ("seconds", ""),
    ],
)  # fmt: skip
def test_the_name_tells_which_way_is_better(name: str, way: str) -> None:
    assert direction(name) == way


def test_last_and_best(tmp_path: Path) -> None:
    metric = given_metric(tmp_path, 3, 1, 2)
    assert metric.last == 2
    assert metric.best() == (1, 1)
    assert metric.model_copy(update={"name": "accuracy"}).best() == (3, 0)
    assert metric.model_copy(update={"name": "lr"}).best() is None


def test_a_loss_that_became_nan_is_a_gap_and_not_the_best(tmp_path: Path) -> None:
    metric = given_metric(tmp_path, 2, math.nan, 1, math.inf)
    assert list(metric.values) == [2, None, 1, None]
    assert metric.last is None
    assert metric.best() == (1, 2)


def test_a_long_series_is_thinned_and_keeps_its_peaks(tmp_path: Path) -> None:
    values = [1.0] * 50_000
    values[30_001], values[40_003], values[10] = -5.0, 99.0, math.nan
    metric = given_metric(tmp_path, *values)
    assert metric.points == 50_000
    assert len(metric.values) <= MOST_POINTS
    assert -5.0 in metric.values
    assert 99.0 in metric.values
    assert metric.steps[0] == 0
    assert metric.steps[-1] == 49_999


def test_a_long_series_of_nan_is_thinned_too(tmp_path: Path) -> None:
    metric = given_metric(tmp_path, *([math.nan] * 10_000))
    assert len(metric.values) <= MOST_POINTS
    assert metric.best() is None


@given(st.lists(st.floats(), min_size=1, max_size=50))
def test_any_series_becomes_a_valid_metric(values: list[float]) -> None:
    metric = metrics._metric("x", Series("x", tuple(values), tuple(values)))
    assert Metric.model_validate_json(metric.model_dump_json()) == metric


def test_of_two_files_with_one_name_the_second_is_told_apart(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "metrics.csv").write_text("step,loss\n1,2\n")
    files = list(candidates(tmp_path, FORMATS))
    assert [one.name for one in gather(files, FORMATS, root=tmp_path)] == ["loss", "loss (b)"]


def test_a_file_that_cannot_be_read_is_passed_over(tmp_path: Path) -> None:
    (tmp_path / "broken.given").touch()
    (tmp_path / "link.given").symlink_to("/etc/passwd")
    files = [tmp_path / "broken.given", tmp_path / "link.given", tmp_path / "gone.given", tmp_path / "other"]
    assert gather(files, [Given()], root=tmp_path) == ()


def test_names_are_made_fit_to_be_shown(tmp_path: Path) -> None:
    (tmp_path / "x.given").touch()
    reader = Given(
        Series("a\nb\x1b[31m" + "x" * 500, (1,), (1,)), Series("", (1,), (1,)), Series("none", (), ())
    )
    found = gather([tmp_path / "x.given"], [reader], root=tmp_path)
    assert [len(one.name) for one in found] == [120, 1]
    assert all(one.name.isprintable() for one in found)


def test_the_number_of_series_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "MOST_SERIES", 3)
    (tmp_path / "x.given").touch()
    reader = Given(*(Series(f"m{number}", (1,), (1,)) for number in range(10)))
    assert len(gather([tmp_path / "x.given"], [reader], root=tmp_path)) == 3


def test_only_files_of_this_training_count(tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "metrics.csv").write_text("loss\n1\n")
    os.utime(tmp_path / "old" / "metrics.csv", (1000, 1000))
    (tmp_path / ".venv").mkdir()
    (tmp_path / ".venv" / "metrics.csv").write_text("loss\n1\n")
    (tmp_path / "metrics.csv").write_text("loss\n1\n")
    assert list(candidates(tmp_path, FORMATS, since=2000)) == [tmp_path / "metrics.csv"]
    assert len(list(candidates(tmp_path, FORMATS))) == 2


def test_the_look_round_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "_MOST_LOOKED_AT", 10)
    for number in range(20):
        (tmp_path / f"{number}").touch()
    (tmp_path / "metrics.csv").touch()
    assert list(candidates(tmp_path, FORMATS)) == []


def test_a_metrics_file_that_is_a_link_a_pipe_or_lies_behind_a_link_is_not_read(tmp_path: Path) -> None:
    owner, job = tmp_path / "owner", tmp_path / "job"
    owner.mkdir()
    job.mkdir()
    (owner / "secret.given").write_text("the owner's")
    (job / "link.given").symlink_to(owner / "secret.given")
    (job / "folder").symlink_to(owner)
    os.mkfifo(job / "pipe.given")
    (job / "fine.given").write_text("")
    reader = Given(Series("m", (1,), (1,)))
    files = [job / name for name in ("link.given", "folder/secret.given", "pipe.given")]
    assert gather(files, (reader,), root=job) == ()
    assert len(gather([*files, job / "fine.given"], (reader,), root=job)) == 1


def test_no_line_of_metrics_is_too_deep_to_count_its_steps(tmp_path: Path) -> None:
    """A run with such a line was given up: how it ended could not be written down."""
    (tmp_path / "metrics.jsonl").write_text("[" * 50_000 + "\n")
    assert steps_in(tmp_path / "metrics.jsonl", tmp_path) == 0


def test_metrics_files_are_read_up_to_a_bound_in_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "MOST_READ", 1000)
    for number in range(4):
        (tmp_path / f"{number}.given").write_bytes(bytes(400))

    class Counting(Given):
        read_so_far = 0

        def read(self, path: Path, content: IO[bytes]) -> list[Series]:
            Counting.read_so_far += 1
            return []

    gather(sorted(tmp_path.iterdir()), (Counting(),), root=tmp_path)
    assert Counting.read_so_far == 2
