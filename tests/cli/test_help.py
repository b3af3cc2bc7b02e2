"""What `--help` says, of every verb: whole, alike, and nothing that only its library could mean."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from cyclopts import App

from pushtrain.cli.app import build, run

BOTH_WAYS = {"--no-poll", "--no-start", "--no-wait"}
"""What turns off what is on by default or by a setting; a flag that is off otherwise needs no such form."""


def verbs(app: App, *words: str) -> Iterator[tuple[str, ...]]:
    """Every verb, and those below it."""
    for name in app:
        if not name.startswith("-"):
            yield (*words, name)
            yield from verbs(app[name], *words, name)


def told(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert run((*words, "--help")) == 0
    return capsys.readouterr().out


@pytest.fixture(scope="module")
def every() -> list[tuple[str, ...]]:
    return list(verbs(build("*")))


def test_every_verb_is_listed_with_what_it_does(
    every: list[tuple[str, ...]], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    parents = {words[:-1] for words in every}
    assert ("executor", "service") in parents
    for parent in parents:
        listed = dict(re.findall(r"^│ ([a-z]+)  +(\S[^│]*)│$", told(capsys, *parent), re.MULTILINE))
        for words in every:
            if words[:-1] == parent:
                assert words[-1] in listed, words


def test_a_verb_that_is_called_tells_all_of_its_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert "disk_budget" in told(capsys, "executor", "disk")
    assert "wherever it answers" in " ".join(told(capsys, "key", "trust").split())
    assert "docs/rules.md" in told(capsys, "executor", "rules")


def test_flags_are_alike() -> None:
    app = build("*")
    for words in verbs(app):
        called = app
        for word in words:
            called = called[word]
        if called.default_command is not None:
            names = {name for argument in called.assemble_argument_collection() for name in argument.names}
            assert not [name for name in names if name.startswith("--empty-")], words
            assert {name for name in names if name.startswith("--no-")} <= BOTH_WAYS, words
            assert "--json" in names or words == ("completion",), words


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("--foo", "There is no option `--foo`. `pushtrain --help` lists the verbs."),
        ("ps --limt 3", "`ps` takes no `--limt`. Did you mean `--limit`?"),
        ("ps -x", "`ps` takes no `-x`. See `pushtrain ps --help`."),
        ("key revok x", "There is no verb `key revok`. Did you mean `revoke`?"),
        ("executor statu", "`executor` takes no `statu`. Did you mean `status`?"),
        ("ps --limit", "`--limit` needs a value. See `pushtrain ps --help`."),
        ("secret set", "`secret set` needs NAME. See `pushtrain secret set --help`."),
        ("ps --limit 1 --limit 2", "`--limit` is given more than once. Give it once."),
        ("logs --attempt x", "`--attempt x` is not a whole number. See `pushtrain logs --help`."),
        (
            "usage --by y",
            "`--by y` is none of `person`, `repository`, `executor`. See `pushtrain usage --help`.",
        ),
        ("usage --days 0", "`--days 0`: it must be at least 1. See `pushtrain usage --help`."),
        ("ps -n -5", "`-n -5`: it must be from 1 to 1000. See `pushtrain ps --help`."),
        ("results list -n 0", "`-n 0`: it must be from 1 to 1000. See `pushtrain results list --help`."),
    ],
)
def test_words_that_a_verb_does_not_take_are_told_with_their_mend(
    line: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(line.split()) == 2
    assert capsys.readouterr().err == f"pushtrain: {said}\n"


def test_the_card_of_an_executor_that_has_not_started_promises_no_isolation(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(("executor", "card", "--state", str(tmp_path))) == 0
    told = capsys.readouterr().out
    assert "isolation     a start tries it" in told
    assert "isolation     none" not in told
