"""Whose token tells which host of commit statuses."""

from collections.abc import Mapping

import pytest

from pushtrain.core.errors import ConfigError
from pushtrain.core.settings import ExecutorSettings, Repository, Settings
from pushtrain.wiring.statuses import statuses

ENTERPRISE = "https://git.example.org/api/v3"


def settings(*keys: str, api: str = "https://api.github.com") -> Settings:
    repositories = tuple(Repository(key=key, remote=f"https://{key}") for key in keys)
    return Settings(repositories=repositories, executor=ExecutorSettings(status_api=api))


HELLO = settings("github.com/octo/hello")


@pytest.mark.parametrize(
    ("environ", "variable"),
    [
        ({}, ""),
        ({"PUSHTRAIN_HOST_TOKEN": "a", "GITHUB_TOKEN": "b"}, "PUSHTRAIN_HOST_TOKEN"),
        ({"GITHUB_TOKEN": "b", "GH_TOKEN": "c"}, "GITHUB_TOKEN"),
        ({"GH_TOKEN": "c\n"}, "GH_TOKEN"),
        ({"PUSHTRAIN_HOST_TOKEN": " ", "PUSHTRAIN_GIT_TOKEN": "git's"}, ""),
    ],
)
def test_the_token_for_github_is_found(environ: Mapping[str, str], variable: str) -> None:
    found = statuses(HELLO, environ)
    assert (found.variable, found.client is not None) == (variable, bool(variable))


def test_githubs_tokens_are_for_github_alone() -> None:
    there = settings("git.example.org/octo/hello", api=ENTERPRISE)
    assert statuses(there, {"GITHUB_TOKEN": "b", "GH_TOKEN": "c"}).client is None
    found = statuses(there, {"PUSHTRAIN_HOST_TOKEN": "a", "GITHUB_TOKEN": "b"})
    assert found.client
    assert found.client.host == "git.example.org"


def test_only_what_is_served_there_is_told_of() -> None:
    found = statuses(settings("gitlab.com/octo/hello"), {"PUSHTRAIN_HOST_TOKEN": "a"})
    assert (found.client, found.repositories) == (None, [])
    found = statuses(settings("gitlab.com/a/b", "github.com/a/b"), {"PUSHTRAIN_HOST_TOKEN": "a"})
    assert found.repositories == ["github.com/a/b"]


def test_a_token_with_a_line_break_is_named_by_its_variable() -> None:
    with pytest.raises(ConfigError, match="PUSHTRAIN_HOST_TOKEN"):
        statuses(HELLO, {"PUSHTRAIN_HOST_TOKEN": "two words"})
