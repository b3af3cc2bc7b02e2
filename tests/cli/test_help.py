"""What `--help` says, of every verb: whole, alike, and nothing that only its library could mean."""

import re
from collections.abc import Iterator

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
