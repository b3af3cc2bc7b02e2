"""`pushtrain init`: what it finds in a repository, and that the file it writes is valid and means that."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pushtrain.cli.app import run
from pushtrain.cli.init import compose
from pushtrain.cli.look import NBCONVERT, Looked, look
from pushtrain.core.jobs.jobfile import JobFile, parse
from pushtrain.core.jobs.triggers import PushTrigger
from pushtrain.core.values.jobspec import EnvironmentKind, EnvironmentSpec
from pushtrain.testing import WorkRepository

Repository = Callable[..., WorkRepository]


@pytest.fixture
def work(repository: Repository, monkeypatch: pytest.MonkeyPatch) -> WorkRepository:
    """A repository that the test stands in."""
    found = repository()
    monkeypatch.chdir(found.folder)
    return found


def written(work: WorkRepository) -> JobFile:
    return parse((work.folder / "pushtrain.toml").read_bytes())


def test_init_writes_a_valid_file_for_a_plain_script(
    work: WorkRepository, capsys: pytest.CaptureFixture[str]
) -> None:
    work.commit({"train.py": 'torch.save(model, "checkpoints/last.pt"); device = "cuda"\n'})
    assert run(["init"]) == 0
    job = written(work).job("train")
    assert job.spec.command == "python train.py"
    assert job.spec.environment == EnvironmentSpec(kind=EnvironmentKind.SYSTEM)
    assert job.spec.results == ("checkpoints/**",)
    assert job.on.push == PushTrigger(branches=("main",), paths_ignore=("**.md",))
    assert job.on.manual
    said = capsys.readouterr().out
    for words in (
        "train.py: the training script",
        "speaks of CUDA",
        "main: the default branch",
        "pushtrain check",
    ):
        assert words in said
    assert (work.folder / "pushtrain.toml").stat().st_mode & 0o777 == 0o644


def test_init_names_the_schema_for_editors(work: WorkRepository) -> None:
    run(["init"])
    first = (work.folder / "pushtrain.toml").read_text(encoding="utf-8").splitlines()[0]
    assert re.fullmatch(r"#:schema https://\S+/pushtrain\.schema\.json", first)


def test_init_refuses_to_overwrite_until_it_is_forced(
    work: WorkRepository, capsys: pytest.CaptureFixture[str]
) -> None:
    work.write({"pushtrain.toml": "mine"})
    assert run(["init"]) == 6
    assert "pushtrain init --force" in capsys.readouterr().err
    assert (work.folder / "pushtrain.toml").read_text(encoding="utf-8") == "mine"
    assert run(["init", "--force"]) == 0
    assert written(work).jobs


def test_init_in_a_folder_below_writes_at_the_repositorys_root(
    work: WorkRepository, monkeypatch: pytest.MonkeyPatch
) -> None:
    work.write({"deep/er/train.py": ""})
    monkeypatch.chdir(work.folder / "deep" / "er")
    assert run(["init"]) == 0
    assert written(work).job("train").spec.command == "python deep/er/train.py"


def test_init_outside_a_repository_says_how_to_begin_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(["init"]) == 2
    assert "git init" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_init_takes_the_remotes_default_branch(
    repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    origin = repository("origin")
    origin.git("checkout", "--quiet", "-b", "trunk+1")
    origin.commit({"train.py": ""})
    clone = repository("clone")
    clone.git("remote", "add", "origin", str(origin.folder))
    clone.git("fetch", "--quiet", "origin")
    clone.git("remote", "set-head", "origin", "--auto")
    monkeypatch.chdir(clone.folder)
    assert run(["init"]) == 0
    push = written(clone).job("train").on.push
    assert push is not None
    assert push.branches == (r"trunk\+1",)


def test_init_tells_a_script_what_it_wrote(work: WorkRepository, capsys: pytest.CaptureFixture[str]) -> None:
    work.commit({"train.py": "", "requirements.txt": "numpy\n"})
    assert run(["init", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["command"] == "python train.py"
    assert told["environment"] == '{requirements = "requirements.txt"}'
    assert told["branch"] == "main"
    assert Path(told["path"]) == (work.folder / "pushtrain.toml").resolve()


INLINE = "# /// script\n# dependencies = []\n# ///\n"


@pytest.mark.parametrize(
    ("files", "command"),
    [
        ({"train.py": "", "main.py": ""}, "python train.py"),
        ({"main.py": "", "src/train.py": ""}, "python src/train.py"),
        ({"src/model/train.py": "", "src/model/__init__.py": ""}, "python -m src.model.train"),
        ({"tests/train_test.py": "", "nets/train_big.py": ""}, "python nets/train_big.py"),
        ({"a b/train.py": ""}, "python 'a b/train.py'"),
        ({"train.sh": "", "x.py": ""}, "bash train.sh"),
        ({"dvc.yaml": "", "train.py": ""}, "dvc repro"),
        ({"pyproject.toml": '[project]\nname = "x"\nscripts = {x-train = "x:main"}\n'}, "x-train"),
        ({"Makefile": "all:\n\ntrain: data\n\tpython x.py\n"}, "make train"),
        ({"Makefile": "all:\n"}, "python train.py"),
        (
            {"a.ipynb": "", "train digits.ipynb": ""},
            f"{NBCONVERT} 'train digits.ipynb'",
        ),
        ({}, "python train.py"),
    ],
)
def test_the_command_follows_from_what_lies_there(
    tmp_path: Path, files: dict[str, str], command: str
) -> None:
    assert _look(tmp_path, files).command == command


@pytest.mark.parametrize(
    ("files", "kind", "file"),
    [
        ({"uv.lock": "", "pyproject.toml": "", "requirements.txt": ""}, EnvironmentKind.UV, "."),
        ({"pyproject.toml": '[project]\nname = "x"\n', "requirements.txt": ""}, EnvironmentKind.UV, "."),
        ({"pyproject.toml": "[tool.ruff]\n"}, EnvironmentKind.SYSTEM, ""),
        ({"pyproject.toml": "not toml ["}, EnvironmentKind.SYSTEM, ""),
        (
            {"requirements-dev.txt": "", "requirements.txt": ""},
            EnvironmentKind.REQUIREMENTS,
            "requirements.txt",
        ),
        (
            {"requirements/base.txt": "", "requirements/train.txt": ""},
            EnvironmentKind.REQUIREMENTS,
            "requirements/train.txt",
        ),
        ({"environment.yml": ""}, EnvironmentKind.CONDA, "environment.yml"),
        ({"train.py": INLINE, "uv.lock": ""}, EnvironmentKind.SCRIPT, "train.py"),
        ({}, EnvironmentKind.SYSTEM, ""),
    ],
)
def test_the_environment_follows_from_what_lies_there(
    tmp_path: Path, files: dict[str, str], kind: EnvironmentKind, file: str
) -> None:
    environment = parse(compose(_look(tmp_path, files), "main")).job("train").spec.environment
    assert (environment.kind, environment.file) == (kind, file)


def test_submodules_are_asked_for_where_there_are_some(tmp_path: Path) -> None:
    text = compose(_look(tmp_path, {"train.py": "", ".gitmodules": ""}), "main")
    assert parse(text).job("train").spec.submodules


def test_a_guess_is_told_as_one(tmp_path: Path) -> None:
    looked = _look(tmp_path, {"README.md": ""})
    assert looked.guessed
    assert "no training script" in compose(looked, "main")


def test_a_name_that_no_text_can_hold_is_passed_over(tmp_path: Path) -> None:
    assert look(tmp_path, ["train\udcff.py", "train\n.py"]).guessed


def test_a_script_that_cannot_be_read_is_still_found(tmp_path: Path) -> None:
    assert look(tmp_path, ["train.py"]).command == "python train.py"


@given(
    command=st.text(st.characters(exclude_categories=["C"]), min_size=1).filter(str.strip),
    branch=st.text("ab/[]+*\"'\\!é", min_size=1),
    results=st.lists(st.sampled_from(["a/**", "b/**"]), unique=True),
)
def test_whatever_is_found_the_file_parses_and_says_it(command: str, branch: str, results: list[str]) -> None:
    if "${{" in command:
        return
    job = parse(compose(Looked(command=command, results=results), branch)).job("train")
    assert job.spec.command == command
    assert list(job.spec.results) == results


def _look(root: Path, files: dict[str, str]) -> Looked:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return look(root, sorted(files))
