"""Where a roster lies, as people write it in a setting."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pushtrain.core.errors import ConfigError
from pushtrain.core.settings import Repository
from pushtrain.core.wire.place import Named, Place, beside, named, secrets_path

OWN = ("pushtrain/config", "config.json")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("pushtrain/config:config.json", ("", *OWN)),
        ("main:config.json", ("", "main", "config.json")),
        ("main:lab/roster.json", ("", "main", "lab/roster.json")),
        ("main:", ("", "main", "config.json")),
        ("lab/gpus", ("lab/gpus", *OWN)),
        ("github.com/lab/gpus", ("github.com/lab/gpus", *OWN)),
        ("lab/gpus#main", ("lab/gpus", "main", "config.json")),
        ("lab/gpus#main:x.json", ("lab/gpus", "main", "x.json")),
        ("lab/gpus#", ("lab/gpus", *OWN)),
        ("https://host:8443/lab/gpus.git", ("https://host:8443/lab/gpus.git", *OWN)),
        ("https://host/lab/gpus#main:x.json", ("https://host/lab/gpus", "main", "x.json")),
        ("ssh://git@host/lab/gpus", ("ssh://git@host/lab/gpus", *OWN)),
        ("git@host:lab/gpus.git", ("git@host:lab/gpus.git", *OWN)),
        ("git@host:lab/gpus.git#main:x.json", ("git@host:lab/gpus.git", "main", "x.json")),
        ("/srv/git/gpus.git", ("/srv/git/gpus.git", *OWN)),
        ("/srv/git/gpus.git#a:b", ("/srv/git/gpus.git", "a", "b")),
    ],
)
def test_a_setting_names_repository_branch_and_path(text: str, expected: tuple[str, str, str]) -> None:
    repository, branch, path = expected
    assert named(text) == Named(repository=repository, branch=branch, path=path)


def test_an_empty_setting_is_no_roster() -> None:
    assert named("") is None


@pytest.mark.parametrize(
    "text",
    [
        "#main:x",
        "-x:config.json",
        "a..b:config.json",
        "a b:config.json",
        "main:../config.json",
        "main:a/../b",
        "main:/etc/x",
        "main:.git/config",
        "main:a//b",
        "main:a:b",
        "main:..",
        "main:lab/secrets.json",
        "x.lock:config.json",
        ":config.json",
        "lab/gpus#a^b:x",
    ],
)
def test_what_names_no_place_is_refused_with_its_mend(text: str) -> None:
    with pytest.raises(ConfigError, match="names no place") as error:
        named(text)
    assert "BRANCH:PATH" in error.value.mend


@given(st.text())
def test_any_text_is_a_place_or_a_config_error(text: str) -> None:
    try:
        found = named(text)
    except ConfigError:
        return
    assert found is None or (found.branch and found.path and ".." not in found.path.split("/"))


@pytest.mark.parametrize(
    ("remote", "expected"),
    [
        ("https://github.com/octo/hello", "https://github.com/lab/gpus"),
        ("https://github.com/octo/hello.git", "https://github.com/lab/gpus.git"),
        ("http://127.0.0.1:3000/octo/hello.git", "http://127.0.0.1:3000/lab/gpus.git"),
        ("ssh://git@host:2222/octo/hello", "ssh://git@host:2222/lab/gpus"),
        ("git@github.com:octo/hello.git", "git@github.com:lab/gpus.git"),
        ("/srv/git/hello.git", ""),
        ("file:///srv/git/hello.git", ""),
    ],
)
def test_a_shared_roster_lies_beside_the_repository_on_the_same_host(remote: str, expected: str) -> None:
    assert beside(remote, "lab/gpus") == expected


@pytest.mark.parametrize("name", ["gpus", "../gpus", "lab/..", "lab/", "-x/y", "lab/gp us"])
def test_a_shared_roster_needs_an_owner_and_a_name(name: str) -> None:
    with pytest.raises(ConfigError, match="names the repository"):
        beside("https://github.com/octo/hello", name)


def test_only_our_own_branch_is_ours() -> None:
    repository = Repository(key="github.com/octo/hello", remote="https://github.com/octo/hello")
    own = Place(repository=repository, branch="pushtrain/config", path="config.json")
    assert own.own
    assert not Place(repository=repository, branch="main", path="config.json").own
    assert own.ref == "refs/heads/pushtrain/config"
    assert own.title == "github.com/octo/hello pushtrain/config:config.json"


def test_sealed_secrets_lie_beside_the_roster() -> None:
    assert secrets_path("config.json") == "secrets.json"
    assert secrets_path("lab/gpus.json") == "lab/secrets.json"
