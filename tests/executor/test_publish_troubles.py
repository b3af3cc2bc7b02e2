"""Results whose host has a bad day are kept, told, tried again, and land exactly once when it can be."""

import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from publishing_line import Line, one, published

from moody_host import (
    A_PAGE,
    ARCHIVED,
    BROKEN_GATEWAY,
    FORBIDDEN,
    GONE,
    GOOD,
    LIMITED,
    LIMITED_SILENTLY,
    LIMITED_WHILE_PUSHING,
    LIMITED_WITHOUT_SENSE,
    NAME,
    NOT_GRANTED,
    UNAUTHORIZED,
    UNICORN,
    Mood,
    MoodyHost,
    moody,
)
from pushtrain.core.errors import CredentialError, GitError, NotFound, PushtrainError
from pushtrain.core.settings import ExecutorSettings, Repository
from pushtrain.core.values.value import RESULTS_BRANCH
from pushtrain.executor.results.courier import pause_after
from pushtrain.executor.results.publish import Publisher
from pushtrain.plumbing.git.complaint import PushDeclined, RateLimited
from pushtrain.plumbing.git.mirror import Mirror
from pushtrain.testing import NOON, WorkRepository


class Troubled(Line):
    """Publishing to a moody host."""

    def __init__(self, folder: Path, host: MoodyHost) -> None:
        super().__init__(folder)
        self.host = host
        self.git_host = WorkRepository(folder / "clone", host.remote(NAME), token=host.token)

    def publisher(self, name: str = "lab-3", **changes: object) -> Publisher:
        remote = Repository(key=self.host.key(NAME), remote=self.host.remote(NAME))
        mirror = Mirror(self.folder / name, remote, token=self.host.token)
        mirror.ensure()
        return Publisher(lambda _: mirror, ExecutorSettings(name=name, **changes), clock=lambda: NOON)

    def landed(self) -> list[str]:
        """The ids of the runs on the results branch, by what really lies at the host."""
        tip = self.git_host.fetch(RESULTS_BRANCH)
        form = "--format=%(trailers:key=Run-Id,valueonly,separator=)"
        return self.git_host.git("log", form, tip).splitlines() if tip else []


@pytest.fixture(scope="module")
def lasting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Troubled]:
    """One host for all bad days."""
    folder = tmp_path_factory.mktemp("moody")
    with moody(folder / "host") as host:
        line = Troubled(folder / "line", host)
        one(line.publisher(), line.item())
        yield line


@pytest.fixture
def line(tmp_path: Path) -> Iterator[Troubled]:
    with moody(tmp_path / "host") as host:
        yield Troubled(tmp_path / "line", host)


@pytest.mark.parametrize(
    ("mood", "kind", "words"),
    [
        (UNAUTHORIZED, CredentialError, "Authentication failed.*PUSHTRAIN_GIT_TOKEN"),
        (FORBIDDEN, CredentialError, "Permission to octo/hello.git denied to lab.*Give git access"),
        (NOT_GRANTED, CredentialError, "Write access to repository not granted"),
        (ARCHIVED, CredentialError, "archived so it is read-only"),
        (GONE, NotFound, "epository not found.*Check the remote"),
        (LIMITED, RateLimited, "rate-limited.*left alone for 90 s.*tried again by itself"),
        (LIMITED_WHILE_PUSHING, RateLimited, "left alone for 90 s"),
        (LIMITED_SILENTLY, RateLimited, "rate-limited"),
        (LIMITED_WITHOUT_SENSE, RateLimited, "rate-limited"),
        (BROKEN_GATEWAY, GitError, "502.*tried again"),
        (UNICORN, GitError, "503.*tried again"),
        (A_PAGE, GitError, "no Git host: a sign-in page of the network.*tried again"),
    ],
)
def test_whatever_the_host_says_the_results_are_kept_and_land_once_when_it_takes_them(
    lasting: Troubled, mood: Mood, kind: type[PushtrainError], words: str
) -> None:
    publisher, item, host = lasting.publisher(), lasting.item({"model.pt": b"weights"}), lasting.host
    host.mood = mood
    (outcome,) = publisher.publish([item]).values()
    host.mood = GOOD
    assert isinstance(outcome, kind)
    assert re.search(words, str(outcome), re.DOTALL), str(outcome)
    assert host.token not in str(outcome)
    assert "http.c" not in str(outcome), "what git traces is nothing for people"
    one(publisher, item)
    assert lasting.landed().count(item.run.id) == 1


def test_without_a_network_the_results_are_kept(tmp_path: Path) -> None:
    away = Repository(key="127.0.0.1/a/b", remote="http://127.0.0.1:9/a/b.git")
    mirror = Mirror(tmp_path / "away", away)
    lost = Publisher(lambda _: mirror, ExecutorSettings(), clock=lambda: NOON)
    (outcome,) = lost.publish([Line(tmp_path).item()]).values()
    assert isinstance(outcome, GitError)
    assert "Check the network; it is tried again." in str(outcome)


def test_a_protected_branch_is_named_and_keeps_only_the_results_that_go_there(line: Troubled) -> None:
    line.host.protect("docs")
    publisher = line.publisher()
    refused = line.item(results_to={"branch": "docs"})
    taken = line.item()
    outcomes = publisher.publish([refused, taken])
    kept = outcomes[refused.run.id]
    assert isinstance(kept, PushDeclined)
    assert "GH006: Protected branch update failed for refs/heads/docs" in str(kept)
    assert "pull request" in str(kept)
    published(outcomes[taken.run.id])
    line.host.unprotect()
    one(publisher, refused)


def test_a_renamed_repository_is_followed_to_its_new_name(line: Troubled) -> None:
    publisher, first, second = line.publisher(), line.item(), line.item()
    one(publisher, first)
    line.host.rename("octo/greetings")
    one(publisher, second)
    assert any("POST /octo/greetings.git/git-receive-pack" in asked for asked in line.host.asked)
    assert line.landed() == [second.run.id, first.run.id]


def test_a_host_that_asks_for_fewer_requests_is_left_alone_for_as_long_as_it_says() -> None:
    def told(after: float) -> RateLimited:
        return RateLimited("Less.", after=after)

    assert pause_after(0) == 1
    assert pause_after(0, GitError("Away.")) == 1
    assert pause_after(0, told(90)) == 90
    assert pause_after(0, told(0)) == 60
    assert pause_after(30, told(90)) == 600
    assert pause_after(0, told(1e9)) == 3600, "a host that is wrong does not keep results for ever"


def test_a_branch_that_people_push_to_meanwhile_is_never_forced(line: Troubled) -> None:
    clone, branch = line.git_host, "main"
    clone.commit({"a.txt": "0"}, "The beginning")
    clone.push(branch)
    folder = line.host.folder(NAME)
    with (folder / "config").open("a") as config:
        config.write("[core]\n\tlogAllRefUpdates = always\n")
    items = [line.item(results_to={"branch": branch}) for _ in range(6)]
    publishers = [line.publisher(f"lab-{number}") for number in range(2)]

    def publish(number: int) -> None:
        for item in items[number::2]:
            one(publishers[number], item)

    def people_push() -> None:
        for number in range(6):
            for _ in range(50):
                tip = clone.fetch(branch)
                clone.git("reset", "--quiet", "--hard", tip)
                clone.commit({"a.txt": f"{number}"}, f"Change {number}")
                try:
                    clone.push(branch)
                except GitError:
                    continue
                break
            else:
                pytest.fail("a person could never push")

    with ThreadPoolExecutor(3) as pool:
        done = [pool.submit(publish, 0), pool.submit(publish, 1), pool.submit(people_push)]
        for each in done:
            each.result()
    moves = [entry.split()[:2] for entry in (folder / f"logs/refs/heads/{branch}").read_text().splitlines()]
    clone.fetch(branch)
    assert len(moves) >= 12
    for before, after in moves:
        clone.git("merge-base", "--is-ancestor", before, after)
    assert clone.git("log", "--format=%s", moves[-1][1]).count("Change ") == 6
    ids = clone.git("log", "--format=%(trailers:key=Run-Id,valueonly,separator=)", moves[-1][1]).split()
    assert sorted(ids) == sorted(item.run.id for item in items)
