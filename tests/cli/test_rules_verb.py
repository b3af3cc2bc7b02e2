"""`pushtrain executor rules`: what is in force, and what would become of a push."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from rich.text import Text

from pushtrain.cli.app import run
from pushtrain.cli.screen import render
from pushtrain.core.owner.explain import every_rule, explain
from pushtrain.core.wire.signing import fingerprint, public_text
from pushtrain.plumbing.data.ledger import Ledger
from pushtrain.plumbing.disk.lock import FolderLock
from pushtrain.plumbing.disk.state import StateFolder
from pushtrain.plumbing.keys.authorized import Authorized
from pushtrain.wiring.settings import load

ADA = Ed25519PrivateKey.from_private_bytes(bytes(range(32))).public_key()
SETTINGS = """
repositories = ["https://github.com/octo/hello", "https://github.com/octo/private"]
[rules]
network = "none"
[rules.limits]
downloads_per_day = "200GB"
[[rules.allow]]
repository = "github.com/octo/hello"
id = 1296269
branches = ["main"]
[[rules.allow]]
repository = "github.com/octo/hello"
branches = ["dev"]
tags = []
pull_requests = true
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StateFolder:
    state = StateFolder(tmp_path / "state").create()
    state.settings.write_text(SETTINGS)
    monkeypatch.setenv("PUSHTRAIN_STATE", str(state.root))
    for name in ("MIN_ISOLATION", "NETWORK"):
        monkeypatch.delenv(f"PUSHTRAIN_RULES_{name}", raising=False)  # the tests' own
    monkeypatch.setenv("COLUMNS", "80")
    Authorized(state.authorized).add(ADA, name="ada", branches=("main", "dev", "topic"))
    return state


def told(capsys: pytest.CaptureFixture[str], *words: str, code: int = 0) -> str:
    assert run(("executor", "rules", *words)) == code
    return capsys.readouterr().out


def document(capsys: pytest.CaptureFixture[str], *words: str, code: int = 0) -> Any:
    return json.loads(told(capsys, *words, "--json", code=code))


def test_rules_that_an_executor_does_not_go_by_yet_are_told_so(
    folder: StateFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    late = "changed after the executor had started"
    with FolderLock(folder.lock):
        os.utime(folder.settings, (0, 0))
        assert late not in told(capsys)
        os.utime(folder.settings, (4e9, 4e9))
        assert late in " ".join(told(capsys).split())
        assert document(capsys)["changed_since_start"]
    assert late not in told(capsys), "nobody runs: the next start goes by it"


def test_every_rule_is_told_with_its_value_and_its_origin_within_80_columns(
    folder: StateFolder, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PUSHTRAIN_RULES_LIMITS_TIME", "6h")
    monkeypatch.setenv(
        "PUSHTRAIN_RULES_RESULTS_BRANCHES", ",".join(f"reports/{number}" for number in range(20))
    )
    ledger = Ledger(folder.downloads, 0)
    ledger.add(13 * 10**9)
    ledger.settle()
    text = told(capsys)
    lines = text.splitlines()
    assert max(len(line) for line in lines if line != str(folder.settings)) <= 80
    for rule in every_rule():
        name = rule.removeprefix("rules.")
        assert [line for line in lines if line.startswith(f"  {name} ")], name
    assert [line.split() for line in lines if "limits.time" in line] == [
        ["limits.time", "6", "h", "PUSHTRAIN_RULES_LIMITS_TIME"]
    ]
    assert [line.split() for line in lines if line.startswith("  network")] == [
        ["network", "none", "settings.toml"]
    ]
    assert [line.split()[-1] for line in lines if line.startswith("  committed_jobs")] == ["default"]
    assert "Today so far: 13 GB." in " ".join(text.split())
    assert "1. github.com/octo/hello, if its host says that its number is 1296269" in " ".join(text.split())


def test_in_a_pipe_a_sentence_is_one_line_whatever_is_said_of_colours(
    folder: StateFolder, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("COLUMNS")
    branches = tuple(f"reports/{number}" for number in range(20))
    monkeypatch.setenv("PUSHTRAIN_RULES_RESULTS_BRANCHES", ",".join(branches))
    for colours in (False, True):
        if colours:
            monkeypatch.setenv("FORCE_COLOR", "1")
        render.console.cache_clear()
        text = Text.from_ansi(told(capsys)).plain
        rows = explain(load(folder).settings.rules, load(folder).origins)
        for row in rows:
            (said,) = [line for line in text.splitlines() if line.startswith(f"  {row.rule[6:]} ")]
            assert row.value in said
            assert [line for line in text.splitlines() if line.startswith(f"    {row.means}")], row.means
    render.console.cache_clear()


def test_scripts_get_the_same(folder: StateFolder, capsys: pytest.CaptureFixture[str]) -> None:
    found = document(capsys)
    assert found["settings"] == str(folder.settings)
    rows = {row["rule"]: row for row in found["rules"]}
    assert rows.keys() == set(every_rule())
    assert (rows["rules.network"]["value"], rows["rules.network"]["origin"]) == ("none", "settings.toml")
    assert len(rows["rules.allow"]["entries"]) == 2


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    ("words", "rule"),
    [
        (("--ref", "topic"), "rules.allow"),
        (("--ref", "refs/notes/x"), "rules.allow"),
        (("--repo", "github.com/octo/private"), "rules.allow"),
        (("--repo", "https://github.com/octo/private.git"), "rules.allow"),
        (("--repo", "github.com/octo/other"), "repositories"),
        (("--sender", "eve"), "authorized_keys"),
        (("--sender", "ada", "--ref", "elsewhere"), "authorized_keys"),
    ],
)
def test_a_push_that_would_be_refused_names_its_rule(
    capsys: pytest.CaptureFixture[str], words: tuple[str, ...], rule: str
) -> None:
    assert f"refused by {rule}:" in told(capsys, *words, code=4)
    found = document(capsys, *words, code=4)
    assert (found["allowed"], found["refusal"]["rule"]) == (False, rule)


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    ("words", "entry", "later"),
    [
        (("--repo", "github.com/octo/hello"), "entry 1", "number is 1296269"),
        (("--ref", "dev", "--sender", "ada"), "entry 2", "the ref must hold the commit"),
        (("--ref", "refs/pull/1/head"), "entry 2", "a branch or tag of the repository must hold"),
        (("--ref", "main", "--sender", fingerprint(ADA)), "entry 1", "number"),
        (("--ref", "main", "--sender", public_text(ADA)), "entry 1", "number"),
    ],
)
def test_a_push_that_would_be_let_in_tells_by_what_and_what_is_still_to_be_proven(
    capsys: pytest.CaptureFixture[str], words: tuple[str, ...], entry: str, later: str
) -> None:
    text = told(capsys, *words)
    assert "✓ allowed" in text
    assert f"{entry} allows it" in text
    assert later in text
    assert document(capsys, *words)["allowed"] is True


def test_signatures_and_hooks_are_told_as_still_to_come(
    folder: StateFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    folder.settings.write_text(
        'repositories = ["https://github.com/octo/hello"]\n[rules]\nrequire_signed_commits = true\n'
        'allowed_signers = "signers"\n[rules.hooks]\nbefore = ["/bin/true"]\n'
    )
    text = told(capsys, "--ref", "main")
    for words in ("rules.require_signed_commits", "rules.committed_jobs", "rules.hooks.before"):
        assert words in text
    assert "no entry is written" in text


def test_where_nothing_is_served_the_question_is_an_error(
    folder: StateFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    folder.settings.write_text("")
    assert run(("executor", "rules", "--ref", "main")) == 2
    assert "--repo" in capsys.readouterr().err
