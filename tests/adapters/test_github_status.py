"""Commit statuses as GitHub takes them: its own description is the judge, its refusals are understood."""

import logging
from collections.abc import Iterator

import pytest

from pushtrain.adapters.hosts.github_api import Reply, host_of
from pushtrain.adapters.hosts.github_status import GitHubStatuses, answer
from pushtrain.core.errors import ConfigError, CredentialError, Unreachable
from pushtrain.core.wire.status import Answer, CommitStatus, Later, Never, Told, Verdict
from pushtrain.testing import COMMIT, NOON, Clock
from status_host import TOKEN, Got, Scripted, StatusApi, serving_statuses

RUNNING = CommitStatus(context="pushtrain/train", verdict=Verdict.PENDING, description="running on lab-1")
DONE = RUNNING.model_copy(
    update={"verdict": Verdict.SUCCESS, "description": "succeeded", "link": "https://github.com/octo/hello"}
)


@pytest.fixture
def api() -> Iterator[StatusApi]:
    with serving_statuses() as api:
        yield api


@pytest.fixture
def github(api: StatusApi) -> Iterator[GitHubStatuses]:
    github = GitHubStatuses(api.url, TOKEN, clock=Clock())
    yield github
    github.close()


def tell(github: GitHubStatuses, status: CommitStatus = RUNNING) -> Answer:
    return github.tell(f"{github.host}/octo/hello", COMMIT, status)


@pytest.mark.parametrize("verdict", list(Verdict))
def test_every_verdict_is_one_that_github_knows(
    api: StatusApi, github: GitHubStatuses, verdict: Verdict
) -> None:
    assert tell(github, DONE.model_copy(update={"verdict": verdict})) == Told()
    assert [got.body["state"] for got in api.got] == [verdict]


def test_a_status_without_a_report_has_no_link(api: StatusApi, github: GitHubStatuses) -> None:
    assert (tell(github), tell(github, DONE)) == (Told(), Told())
    path = f"/repos/octo/hello/statuses/{COMMIT}"
    assert [(got.path, got.body["target_url"]) for got in api.got] == [(path, None), (path, DONE.link)]


def test_a_renamed_repository_is_followed_within_the_same_api_only(
    api: StatusApi, github: GitHubStatuses
) -> None:
    api.script.append(Scripted(307, {"Location": f"/repos/octo/new/statuses/{COMMIT}"}))
    assert tell(github) == Told()
    assert api.got == [Got(f"/repos/octo/new/statuses/{COMMIT}", api.got[0].body)]
    with serving_statuses() as elsewhere:
        api.script.append(Scripted(307, {"Location": f"{elsewhere.url}/repos/octo/hello/statuses/{COMMIT}"}))
        moved = tell(github)
        assert isinstance(moved, Later)
        assert not moved.everywhere
        assert elsewhere.asked == []


def test_redirects_in_a_circle_end(api: StatusApi, github: GitHubStatuses) -> None:
    api.script.extend([Scripted(307, {"Location": f"/repos/octo/hello/statuses/{COMMIT}"})] * 3)
    assert isinstance(tell(github), Later)
    assert len(api.asked) == 3


LIMITED = {"x-ratelimit-remaining": "0"}
REPLIES: list[tuple[int, dict[str, str], str, Answer]] = [
    (201, {}, "", Told()),
    (422, {}, "No commit found for SHA", Never("No commit found for SHA")),
    (410, {}, "", Never("HTTP 410")),
    (500, {}, "", Later("HTTP 500")),
    (503, {"retry-after": "7"}, "", Later("HTTP 503", wait=7)),
    (503, {"retry-after": "tomorrow"}, "", Later("HTTP 503")),
    (503, {"retry-after": "Mon, 01 Jan 2030 00:00:00 +9999999999999"}, "", Later("HTTP 503")),
    (503, {"retry-after": "Mon, 21 Sep 2026 14:14:10 GMT"}, "", Later("HTTP 503", wait=50)),
    (429, {}, "slow down", Later("slow down", wait=60)),
    (403, {"retry-after": "30"}, "abuse", Later("abuse", wait=30)),
    (403, {}, "a secondary rate limit", Later("a secondary rate limit", wait=60)),
    (403, LIMITED | {"x-ratelimit-reset": f"{NOON + 90:.0f}"}, "no", Later("no", wait=90)),
    (403, LIMITED | {"x-ratelimit-reset": f"{NOON + 9e9:.0f}"}, "no", Later("no", wait=3600)),
    (403, LIMITED | {"x-ratelimit-reset": f"{NOON - 9:.0f}"}, "no", Later("no", wait=1)),
]


@pytest.mark.parametrize(("status", "headers", "message", "means"), REPLIES)
def test_an_answer_says_whether_and_when_to_try_again(
    status: int, headers: dict[str, str], message: str, means: Answer
) -> None:
    body = f'{{"message": "{message}"}}'.encode() if message else b"<html>"
    assert answer(Reply(status, headers, body), repository="r", now=NOON) == means


@pytest.mark.parametrize(("status", "everywhere"), [(401, True), (403, False), (404, False)])
def test_a_refused_token_waits_an_hour_and_says_what_it_needs(status: int, everywhere: bool) -> None:
    means = answer(Reply(status, {}, b'{"message": "no"}'), repository="octo/hello", now=NOON)
    assert isinstance(means, Later)
    assert (means.everywhere, means.wait) == (everywhere, 3600)
    assert "Commit statuses: write" in means.mend


def test_a_dead_network_is_told_without_the_token(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    github = GitHubStatuses("http://127.0.0.1:1", TOKEN, timeout=2)
    told = tell(github)
    assert isinstance(told, Later)
    assert "refused" in told.why
    with pytest.raises(Unreachable):
        github.probe("127.0.0.1:1/octo/hello")
    assert TOKEN not in caplog.text + str(told) + repr(vars(told.__class__))


def test_the_token_is_not_logged_when_all_is_well(
    api: StatusApi, github: GitHubStatuses, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    tell(github)
    assert api.got
    assert TOKEN not in caplog.text


# --- which host, which token -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("api_url", "host"),
    [
        ("https://api.github.com", "github.com"),
        ("https://api.github.com/", "github.com"),
        ("https://git.example.org/api/v3", "git.example.org"),
        ("https://api.octo.ghe.com", "octo.ghe.com"),
        ("https://git.example.org:8443/api/v3", "git.example.org:8443"),
        ("http://127.0.0.1:9/api/v3", "127.0.0.1:9"),
    ],
)
def test_the_host_follows_from_the_api(api_url: str, host: str) -> None:
    assert host_of(api_url) == host


@pytest.mark.parametrize(
    "wrong",
    ["http://api.github.com", "api.github.com", "https://u:p@h/api", "https://h/?x=1", "https://h:x/", "file:///x"],
)  # fmt: skip
def test_a_token_is_sent_by_https_only(wrong: str) -> None:
    with pytest.raises(ConfigError, match="not the https address") as caught:
        GitHubStatuses(wrong, TOKEN)
    assert "u:p" not in str(caught.value)


@pytest.mark.parametrize("token", ["", "two words", "line\nbreak", "ümlaut"])
def test_what_cannot_be_a_token_is_refused_before_it_is_sent(token: str) -> None:
    with pytest.raises(ConfigError, match="PUSHTRAIN_HOST_TOKEN") as caught:
        GitHubStatuses("https://api.github.com", token)
    assert not token or token not in caught.value.message


def test_only_repositories_of_that_host_are_served() -> None:
    github = GitHubStatuses("https://api.github.com", TOKEN)
    keys = ["github.com/octo/hello", "gitlab.com/octo/hello", "github.com/a/b/c", "localhost/srv/x"]
    assert [github.serves(key) for key in keys] == [True, False, False, False]


# --- the probe ---------------------------------------------------------------------------------------------


def probe(github: GitHubStatuses) -> str:
    return github.probe(f"{github.host}/octo/hello")


def test_the_probe_writes_nothing(api: StatusApi, github: GitHubStatuses) -> None:
    assert "sees the repository" in probe(github)
    assert api.asked == ["GET /repos/octo/hello"]


@pytest.mark.parametrize("scopes", ["repo", "read:org, repo:status"])
def test_a_classic_token_tells_that_it_may(api: StatusApi, github: GitHubStatuses, scopes: str) -> None:
    api.script.append(Scripted(200, {"X-OAuth-Scopes": scopes}, {}))
    assert probe(github) == "the token may write them"


@pytest.mark.parametrize(
    "reply",
    [
        Scripted(200, {"X-OAuth-Scopes": "gist"}, {}),
        Scripted(200, {}, {"permissions": {"push": False}}),
        Scripted(401, {}, {"message": "Bad credentials"}),
        Scripted(403, {}, {"message": "Resource not accessible by personal access token"}),
        Scripted(404, {}, {"message": "Not Found"}),
    ],
)
def test_a_token_that_will_not_do_is_an_error_with_its_mend(
    api: StatusApi, github: GitHubStatuses, reply: Scripted
) -> None:
    api.script.append(reply)
    with pytest.raises(CredentialError) as caught:
        probe(github)
    assert "Commit statuses: write" in caught.value.mend


def test_a_rate_limit_says_nothing_about_the_token(api: StatusApi, github: GitHubStatuses) -> None:
    api.script.append(Scripted(403, {"X-RateLimit-Remaining": "0"}, {"message": "API rate limit exceeded"}))
    with pytest.raises(Unreachable):
        probe(github)
