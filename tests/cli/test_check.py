"""`pushtrain check` and `pushtrain schema`: the verdict, the reasons, the ids, the notes."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pushtrain.cli.app import run
from pushtrain.core.jobs.schema import URL, json_schema
from pushtrain.core.values.command import run_id
from pushtrain.testing import WorkRepository

DOCS = Path(__file__).parents[2] / "docs"
FILE = """\
[job.train]
command = "python train.py --lr ${{ matrix.lr }}"
on = {push = {branches = ["main"], paths-ignore = ["**.md"]}}
[job.train.matrix]
lr = [0.1, 0.01]

[job.test]
command = ["pytest"]
on = "manual"
"""
ORIGIN = "https://github.com/octo/hello.git"


@pytest.fixture
def work(repository: Callable[..., WorkRepository], monkeypatch: pytest.MonkeyPatch) -> WorkRepository:
    """A committed repository that the test stands in; `origin` is only a name."""
    found = repository(remote=ORIGIN)
    found.commit({"train.py": "", "README.md": "x"}, "Begin")
    found.commit({"pushtrain.toml": FILE}, "Add jobs")
    monkeypatch.chdir(found.folder)
    return found


def told(capsys: pytest.CaptureFixture[str], *args: str) -> dict[str, Any]:
    assert run(["check", "--json", *args]) == 0
    document: dict[str, Any] = json.loads(capsys.readouterr().out)
    return document


def verdicts(document: dict[str, Any]) -> dict[str, tuple[bool, str]]:
    return {job["job"]: (job["starts"], job["why"]) for job in document["jobs"]}


def test_check_tells_which_jobs_start_and_why(
    work: WorkRepository, capsys: pytest.CaptureFixture[str]
) -> None:
    document = told(capsys)
    why = "branch `main` is in `on.push.branches`, and changed `pushtrain.toml` is not in"
    assert verdicts(document) == {
        "train": (True, f"{why} `on.push.paths-ignore`"),
        "test": (False, "`on` names no push: it starts by hand only"),
    }
    assert document["commit"] == work.head()
    assert document["repository"] == "github.com/octo/hello"
    assert document["notes"] == []


def test_check_tells_the_run_ids_that_the_sender_would_use(
    work: WorkRepository, capsys: pytest.CaptureFixture[str]
) -> None:
    (train, _) = told(capsys)["jobs"]
    expected = [
        run_id(repository="github.com/octo/hello", commit=work.head(), job="train", cell={"lr": lr})
        for lr in (0.1, 0.01)
    ]
    assert [found["id"] for found in train["runs"]] == expected
    assert train["runs"][0]["title"] == "train (lr=0.1)"


def test_check_prints_for_people(work: WorkRepository, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["check"]) == 0
    out = capsys.readouterr().out
    assert "pushtrain.toml is valid: 2 jobs." in out
    assert f"A push of commit {work.head()[:7]} to main would start (compared with its parent):" in out
    assert "2 runs" in out
    assert "train (lr=0.01)" in out


def test_check_says_when_the_message_skips(work: WorkRepository, capsys: pytest.CaptureFixture[str]) -> None:
    work.commit({"a.py": ""}, "Work\n\n[skip train]")
    assert run(["check"]) == 0
    assert "[skip train]" in capsys.readouterr().out


def test_check_of_a_commit_reads_the_file_of_that_commit(
    work: WorkRepository, capsys: pytest.CaptureFixture[str]
) -> None:
    work.write({"pushtrain.toml": "broken"})
    assert run(["check"]) == 3
    capsys.readouterr()
    assert told(capsys, "HEAD")["source"] == f"pushtrain.toml at {work.head()[:7]}"


def test_check_of_a_branch_or_tag_is_as_if_that_were_pushed(
    work: WorkRepository, capsys: pytest.CaptureFixture[str]
) -> None:
    work.git("branch", "dev")
    work.git("tag", "v1")
    assert verdicts(told(capsys, "dev"))["train"] == (
        False,
        "branch `dev` is not in `on.push.branches` (`main`)",
    )
    assert verdicts(told(capsys, "v1"))["train"] == (
        False,
        "`on.push` names branches only, and this is a tag",
    )
    assert verdicts(told(capsys, "--branch", "dev"))["train"][0] is False
    assert verdicts(told(capsys, work.head()))["train"][0] is True


def test_check_compares_with_what_origin_has(
    work: WorkRepository, capsys: pytest.CaptureFixture[str]
) -> None:
    base = work.head()
    work.git("update-ref", "refs/remotes/origin/main", base)
    work.commit({"a.py": ""}, "Code")
    work.commit({"README.md": "y"}, "Words")
    assert "changed `a.py`" in verdicts(told(capsys))["train"][1]
    work.git("update-ref", "refs/remotes/origin/main", "HEAD~1")
    assert verdicts(told(capsys))["train"] == (
        False,
        "every changed file is in `on.push.paths-ignore`",
    )
    assert told(capsys, "origin/main")["ref"] == "refs/heads/main"


def test_check_before_the_first_commit_and_without_a_remote(
    repository: Callable[..., WorkRepository],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    work = repository()
    work.write({"pushtrain.toml": FILE, "train.py": ""})
    monkeypatch.chdir(work.folder)
    document = told(capsys)
    assert (document["commit"], document["repository"], document["committed"]) == ("", "", False)
    assert [found["id"] for found in document["jobs"][0]["runs"]] == ["", ""]
    assert run(["check"]) == 0
    assert "this clone has no remote `origin`" in capsys.readouterr().out
    work.git("remote", "add", "origin", ORIGIN)
    assert run(["check"]) == 0
    assert "commit pushtrain.toml first" in capsys.readouterr().out


def test_a_remote_without_a_key_is_no_obstacle(
    work: WorkRepository, capsys: pytest.CaptureFixture[str]
) -> None:
    work.git("remote", "set-url", "origin", "ext::sh -c x")
    assert told(capsys)["repository"] == ""
    assert run(["check"]) == 0
    said = capsys.readouterr().out
    assert "no remote `origin`" not in said
    assert "No run ids: no repository key follows from the remote `origin`" in said


def test_a_word_too_many_is_named_with_the_verb_that_does_not_take_it(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run(["check", "HEAD", "nofile"]) == 2
    assert capsys.readouterr().err.startswith("pushtrain: `check` takes no `nofile`. ")
    assert run(["data", "verify", "a", "b"]) == 2
    assert capsys.readouterr().err.startswith("pushtrain: `data verify` takes no `a`, `b`. ")


def test_a_detached_head_counts_as_the_default_branch(
    work: WorkRepository, capsys: pytest.CaptureFixture[str]
) -> None:
    work.git("checkout", "--quiet", "--detach")
    assert told(capsys)["ref"] == "refs/heads/main"


def test_check_notes_what_is_probably_not_meant(
    work: WorkRepository, capsys: pytest.CaptureFixture[str]
) -> None:
    work.commit(
        {
            ".gitmodules": "",
            "pushtrain.toml": '[job.a]\ncommand = "python -u ./gone.py && python ../up.py"\n'
            'environment = {requirements = "no.txt"}\ndata = [{url = "https://h/x.csv", path = "x.csv"}]\n'
            '[job.b]\ncommand = ["python", "train.py"]\nworkdir = "nowhere"\nsubmodules = true\n',
        }
    )
    notes = told(capsys)["notes"]
    assert [note.partition(".")[0] for note in notes if note.startswith("b")] == [
        "b: `nowhere/train",
        "b: the folder `nowhere` is not in the repository",
    ]
    said = "\n".join(notes)
    for words in (
        "a: `gone.py`",
        "a: `no.txt`",
        "a: submodules stay empty",
        "a: https://h/x.csv is not pinned",
    ):
        assert words in said
    assert run(["check"]) == 0
    assert "Note: a: `gone.py` is not in the repository." in capsys.readouterr().out


@pytest.mark.parametrize(
    ("args", "code", "words"),
    [
        (["mian"], 5, "Did you mean `main`?"),
        (["0123abc"], 5, "There is no commit `0123abc` in this clone."),
        (["--", "--help"], 5, "There is no commit `--help`"),
        (["HEAD~1"], 5, "There is no pushtrain.toml at"),
    ],
)
@pytest.mark.usefixtures("work")
def test_a_revision_that_is_not_there_is_told(
    capsys: pytest.CaptureFixture[str], args: list[str], code: int, words: str
) -> None:
    assert run(["check", *args]) == code
    assert words in capsys.readouterr().err


def test_no_file_is_told_with_the_way_to_one(
    work: WorkRepository, capsys: pytest.CaptureFixture[str]
) -> None:
    (work.folder / "pushtrain.toml").unlink()
    assert run(["check"]) == 5
    assert "`pushtrain init` writes one" in capsys.readouterr().err


def test_a_mistake_is_told_to_scripts_as_json(
    work: WorkRepository, capsys: pytest.CaptureFixture[str]
) -> None:
    work.write({"pushtrain.toml": '[job.train]\ncommand = "x"\ntimout = 3\n'})
    assert run(["check", "--json"]) == 3
    error = json.loads(capsys.readouterr().err)["error"]
    assert error["code"] == "config"
    assert error["message"].startswith("pushtrain.toml:3: `job.train.timout = 3` is not a known key")
    assert error["mend"] == "Did you mean `timeout`?"


def test_the_published_schema_is_the_generated_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["schema"]) == 0
    printed = capsys.readouterr().out
    assert json.loads(printed) == json_schema()
    assert (DOCS / "pushtrain.schema.json").read_text(encoding="utf-8") == printed
    assert URL.endswith("docs/pushtrain.schema.json")
