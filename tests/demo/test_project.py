"""The sample project: a real training, which also runs without pushtrain."""

import gzip
import hashlib
import json
import os
import shutil
import subprocess
import tomllib
import zipfile
from pathlib import Path

import pytest
from uv import find_uv_bin

import pushtrain.demo
from pushtrain.core.jobs.jobfile import parse

HERE = Path(pushtrain.demo.__file__).parent
PROJECT = HERE / "project"
DIGITS = HERE / "data" / "digits.csv.gz"


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of the environment that the project's lock describes."""
    place = tmp_path_factory.mktemp("project") / "venv"
    subprocess.run(
        (find_uv_bin(), "sync", "--quiet", "--frozen", "--no-progress", "--project", PROJECT),
        env={**os.environ, "UV_PROJECT_ENVIRONMENT": str(place)},
        check=True,
    )
    return place / "bin" / "python"


@pytest.mark.slow
def test_it_reads_nineteen_of_twenty_digits_and_leaves_model_metrics_and_summary(
    python: Path, tmp_path: Path
) -> None:
    (tmp_path / "data").mkdir()
    shutil.copy(DIGITS, tmp_path / "data")
    # No variable of pushtrain's is set: this is how it runs on a laptop.
    environment = {"OMP_NUM_THREADS": "1"}
    argv = (python, PROJECT / "train.py")
    done = subprocess.run(argv, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    lines = [json.loads(line) for line in (tmp_path / "results" / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(1, len(lines) + 1))
    assert lines[-1]["accuracy"] >= 0.95
    assert lines[-1]["loss"] < lines[0]["loss"] / 5
    assert f"epoch {len(lines)}/{len(lines)}" in done.stdout
    assert zipfile.is_zipfile(tmp_path / "results" / "model.npz")
    summary = (tmp_path / "results" / "summary.md").read_text()
    assert "test digits are read rightly" in summary
    assert summary.count("\n|") == 12


def test_the_way_back_through_the_network_is_the_slope_of_the_loss(python: Path) -> None:
    subprocess.run((python, "-B", PROJECT / "test_train.py"), check=True, env={"OMP_NUM_THREADS": "1"})


def test_pushtrain_toml_is_valid_and_names_the_data_by_its_digest() -> None:
    text = (PROJECT / "pushtrain.toml").read_text().replace("@DATA_URL@", "http://127.0.0.1:8000/data")
    source = parse(text).job("train").spec.data[0]
    assert source.url == "http://127.0.0.1:8000/data/digits.csv.gz"
    assert source.sha256 == hashlib.sha256(DIGITS.read_bytes()).hexdigest()
    with gzip.open(DIGITS) as table:
        assert sum(1 for _ in table) == 1797


def test_the_lock_holds_numpy_for_every_python_that_pushtrain_runs_on() -> None:
    lock = tomllib.loads((PROJECT / "uv.lock").read_text())
    packages = {package["name"]: package for package in lock["package"]}
    assert set(packages) == {"digits", "numpy"}
    wheels = " ".join(wheel["url"] for wheel in packages["numpy"]["wheels"])
    assert all(f"-cp3{minor}-" in wheels for minor in (11, 12, 13, 14))


def test_the_data_sets_licence_stands_beside_it() -> None:
    assert "CC BY 4.0" in (DIGITS.parent / "LICENSE.md").read_text()
