"""`pushtrain key`: as a person calls it."""

import json
import time
from pathlib import Path

import pytest

from pushtrain.cli.app import run
from pushtrain.core.wire.signing import fingerprint, parse_public
from pushtrain.plumbing.disk.state import StateFolder
from pushtrain.plumbing.http.client import ExecutorClient
from pushtrain.plumbing.keys.authorized import Authorized, Scope, Trusted, load_or_create
from pushtrain.testing import REPOSITORY, a_command
from served import served

Out = pytest.CaptureFixture[str]


@pytest.fixture
def lender(tmp_path: Path) -> StateFolder:
    return StateFolder(tmp_path / "lender")


@pytest.fixture
def borrower(tmp_path: Path) -> StateFolder:
    return StateFolder(tmp_path / "borrower")


def key_of(state: StateFolder, capsys: Out) -> str:
    assert run(["key", "show", "--json", "--state", str(state.root)]) == 0
    return str(json.loads(capsys.readouterr().out)["public_key"])


def test_show_makes_a_key_once_and_prints_what_others_need(lender: StateFolder, capsys: Out) -> None:
    assert run(["key", "show", "--state", str(lender.root)]) == 0
    first = capsys.readouterr().out.splitlines()
    assert first[1] == f"fingerprint {fingerprint(parse_public(first[0]))}"
    run(["key", "show", "--state", str(lender.root)])
    assert capsys.readouterr().out.splitlines() == first
    assert "PRIVATE" not in "".join(first)


def test_two_state_folders_become_executor_and_sender(
    lender: StateFolder, borrower: StateFolder, capsys: Out
) -> None:
    sender = key_of(borrower, capsys)
    argv = ["key", "authorize", sender, "--name", "ada", "--repo", "github.com/octo/*", "--scope", "send"]
    assert run([*argv, "--scope", "read", "--state", str(lender.root)]) == 0
    said = capsys.readouterr().out
    assert f"ada ({fingerprint(parse_public(sender))}) may send, read for github.com/octo/*." in said
    with served(lender.root) as executor:
        executor_key = key_of(lender, capsys)
        assert f"pushtrain key trust {executor_key}" in said
        assert run(["key", "trust", executor_key, executor.url + "/", "--state", str(borrower.root)]) == 0
        (entry,) = Trusted(borrower.trusted).entries()
        assert entry.url == executor.url
        client = ExecutorClient(
            entry.url,
            parse_public(entry.public_key),
            load_or_create(borrower.key),
            clock=executor.clock,
        )
        assert client.send(a_command(repository=REPOSITORY)).sender == fingerprint(parse_public(sender))


def test_authorising_again_replaces_what_the_key_might_do(
    lender: StateFolder, borrower: StateFolder, capsys: Out
) -> None:
    sender = key_of(borrower, capsys)
    for scope in ("cancel", "read"):
        assert run(["key", "authorize", sender, "--scope", scope, "--json", "--state", str(lender.root)]) == 0
    said = json.loads(capsys.readouterr().out.split("}\n{")[-1].join(["{", ""]))
    assert said["scopes"] == ["read"]
    (grant,) = Authorized(lender.authorized).grants()
    assert grant.scopes == (Scope.READ,)


@pytest.mark.parametrize(
    ("repo", "pattern"),
    [
        ("https://github.com/octo/hello.git", "github.com/octo/hello"),
        ("git@github.com:octo/hello.git", "github.com/octo/hello"),
        ("github.com/octo/*", "github.com/octo/*"),
        ("*", "**"),
    ],
)
def test_a_repository_is_named_as_people_name_it(
    lender: StateFolder, borrower: StateFolder, capsys: Out, repo: str, pattern: str
) -> None:
    sender = key_of(borrower, capsys)
    assert run(["key", "authorize", sender, "--repo", repo, "--state", str(lender.root)]) == 0
    assert Authorized(lender.authorized).grants()[0].repositories == (pattern,)


def test_a_right_may_end(lender: StateFolder, borrower: StateFolder, capsys: Out) -> None:
    sender = key_of(borrower, capsys)
    assert run(["key", "authorize", sender, "--expires", "2099-01-31", "--state", str(lender.root)]) == 0
    assert "until 2099-01-31 00:00 UTC" in capsys.readouterr().out
    (grant,) = Authorized(lender.authorized).grants()
    assert (grant.expires or 0) > time.time()


def test_list_shows_both_files_and_says_what_to_do_when_they_are_empty(
    lender: StateFolder, borrower: StateFolder, capsys: Out
) -> None:
    assert run(["key", "list", "--state", str(lender.root)]) == 0
    assert "pushtrain key authorize KEY" in capsys.readouterr().out
    sender = key_of(borrower, capsys)
    run(["key", "authorize", sender, "--name", "ada[/x]", "--state", str(lender.root)])
    run(["key", "trust", sender, "http://127.0.0.1:1", "--name", "self", "--state", str(lender.root)])
    capsys.readouterr()
    assert run(["key", "list", "--state", str(lender.root)]) == 0
    shown = capsys.readouterr().out
    assert "ada[/x]" in shown
    assert "send, read, cancel for every" in shown
    assert "http://127.0.0.1:1" in shown
    assert run(["key", "list", "--json", "--state", str(lender.root)]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["authorized"][0]["fingerprint"] == document["trusted"][0]["fingerprint"]


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        (["authorize", "ssh-ed25519 AAAA"], "is not a public key"),
        (["authorize", "KEY", "--repo", "hello"], "is no repository"),
        (["authorize", "KEY", "--name", "two words"], "cannot stand in a key file"),
        (["authorize", "KEY", "--expires", "soon"], "is no date"),
        (["authorize", "KEY", "--scope", "all"], "scope"),
        (["trust", "KEY", "lab.example"], "no executor's address"),
        (["trust", "nonsense"], "is not a public key"),
    ],
)
def test_a_mistake_is_one_line_with_its_mend(
    lender: StateFolder, borrower: StateFolder, capsys: Out, argv: list[str], told: str
) -> None:
    own = key_of(borrower, capsys)
    words = [own if word == "KEY" else word for word in argv]
    assert run(["key", *words, "--state", str(lender.root)]) == 2
    said = capsys.readouterr().err
    assert told in said.lower() or told in said
    assert "Traceback" not in said
    assert not lender.authorized.exists()
    assert not lender.trusted.exists()


def test_trusting_a_key_without_an_address_is_possible(
    lender: StateFolder, borrower: StateFolder, capsys: Out
) -> None:
    assert run(["key", "trust", key_of(lender, capsys), "--json", "--state", str(borrower.root)]) == 0
    assert json.loads(capsys.readouterr().out)["url"] == ""
