"""Which repository a name means: asked of GitHub, remembered for a minute, never guessed."""

from collections.abc import Iterator, Mapping

import pytest

from pushtrain.adapters.hosts.github_api import GitHubApi
from pushtrain.adapters.hosts.github_repository import GitHubRepositories
from pushtrain.core.errors import ConfigError, CredentialError, NotFound, Unreachable
from pushtrain.core.settings import ExecutorSettings, Settings
from pushtrain.testing import Clock
from pushtrain.wiring.statuses import repositories
from status_host import TOKEN, Scripted, StatusApi, serving_statuses


@pytest.fixture
def api() -> Iterator[StatusApi]:
    with serving_statuses() as api:
        yield api


def ask(api: StatusApi, clock: Clock | None = None) -> GitHubRepositories:
    return GitHubRepositories(GitHubApi(api.url, TOKEN), clock=clock or Clock())


def test_the_number_is_the_hosts(api: StatusApi) -> None:
    assert ask(api).number_of(f"{api.host}/octo/hello") == "1296269"


def test_an_answer_counts_for_a_minute(api: StatusApi) -> None:
    clock = Clock()
    github = ask(api, clock)
    key = f"{api.host}/octo/hello"
    assert github.number_of(key) == "1296269"
    api.shown.append(Scripted(200, body={"id": 666}))
    clock.advance(59)
    assert github.number_of(key) == "1296269"
    clock.advance(2)
    assert github.number_of(key) == "666"


def test_a_renamed_repository_is_the_same_one(api: StatusApi) -> None:
    api.shown.append(Scripted(301, {"Location": f"{api.url}/repos/octo/renamed"}))
    assert ask(api).number_of(f"{api.host}/octo/hello") == "1296269"


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (Scripted(404, body={"message": "Not Found"}), NotFound),
        (Scripted(401, body={"message": "Bad credentials"}), CredentialError),
        (Scripted(403, body={"message": "Forbidden"}), NotFound),
        (Scripted(403, {"X-RateLimit-Remaining": "0"}, {"message": "API rate limit exceeded"}), Unreachable),
        (Scripted(502), Unreachable),
        (Scripted(200, body={"id": "1296269"}), Unreachable),
        (Scripted(200, body={"id": True}), Unreachable),
        (Scripted(200, body=[1]), Unreachable),
        (Scripted(200, body={}), Unreachable),
        (Scripted(301, {"Location": "https://elsewhere.example/repos/octo/hello"}), Unreachable),
    ],
)
def test_what_is_no_number_is_none(api: StatusApi, answer: Scripted, error: type[Exception]) -> None:
    api.shown.append(answer)
    with pytest.raises(error) as caught:
        ask(api).number_of(f"{api.host}/octo/hello")
    assert TOKEN not in str(caught.value)


def test_a_repository_of_another_host_is_not_asked_about(api: StatusApi) -> None:
    with pytest.raises(ConfigError, match="status_api"):
        ask(api).number_of("git.example.org/octo/hello")
    assert api.asked == []


WITH_TOKEN = {"PUSHTRAIN_HOST_TOKEN": "t0k3n"}


@pytest.mark.parametrize(("environ", "sent"), [({}, None), (WITH_TOKEN, "Bearer t0k3n")])
def test_a_token_is_sent_where_there_is_one(
    api: StatusApi, environ: Mapping[str, str], sent: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str | None] = []

    def answer(_method: str, _path: str, headers: Mapping[str, str], _body: bytes) -> Scripted:
        seen.append(headers.get("authorization"))
        return Scripted(200, body={"id": 7})

    monkeypatch.setattr(api, "answer", answer)
    github = repositories(Settings(executor=ExecutorSettings(status_api=api.url)), environ)
    assert github.number_of(f"{api.host}/octo/hello") == "7"
    assert seen == [sent]
