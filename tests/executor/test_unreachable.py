"""A preparation that reaches nobody, or whose git is killed, is tried again: the run is not to blame."""

import errno
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from executor_house import Bare, House, done, story

from moody_host import (
    A_PAGE,
    BROKEN_GATEWAY,
    GONE,
    GOOD,
    LIMITED,
    LIMITED_SILENTLY,
    NAME,
    TOKEN,
    UNAUTHORIZED,
    UNICORN,
    Mood,
    MoodyHost,
    moody,
)
from pushtrain.core.errors import BuildError
from pushtrain.core.runs import retry
from pushtrain.core.settings import Repository
from pushtrain.core.values.command import TrainCommand
from pushtrain.core.values.jobspec import EnvironmentSpec
from pushtrain.core.values.run import Run
from pushtrain.core.values.states import Outcome, Reason, State
from pushtrain.executor.runs import library
from pushtrain.executor.runs.vault import Given, Vault
from pushtrain.executor.service import ExecutorService
from pushtrain.plumbing.attempts.rundir import RunDir
from pushtrain.plumbing.git.complaint import Unanswered
from pushtrain.ports import Builder, Recipe
from pushtrain.testing import REPOSITORY, eventually


class Cut(Bare):
    """An environment in whose making the network is lost, once."""

    def __init__(self, host: MoodyHost, mood: Mood) -> None:
        self.host = host
        self.mood = mood
        self.tries = 0

    def plan(self, tree: Path, spec: EnvironmentSpec) -> Recipe | None:
        del tree, spec
        return Recipe(key="ab12", title="cut", locked=True)

    def build(self, tree: Path, spec: EnvironmentSpec, into: Path, builder: Builder) -> None:
        del tree, spec, into, builder
        self.tries += 1
        if self.tries == 1:
            self.host.mood = self.mood
            raise BuildError("No index answers.", mend="Look at the network.")


@pytest.fixture
def host(tmp_path: Path) -> Iterator[MoodyHost]:
    with moody(tmp_path / "host") as host:
        yield host


@pytest.fixture
def house(tmp_path: Path, host: MoodyHost, monkeypatch: pytest.MonkeyPatch) -> House:
    """An executor whose repository is the host's, and which does not wait long before it tries again."""
    monkeypatch.setattr(retry, "FIRST_UNREADY", 0.05)
    house = House(tmp_path)
    remote = host.remote(NAME)
    house.work.git("push", "--quiet", remote.replace("//", f"//x:{TOKEN}@"), "main")
    served = (Repository(key=REPOSITORY, remote=remote),)
    house.settings = house.settings.model_copy(update={"repositories": served})
    house.token = TOKEN
    return house


async def waits(service: ExecutorService, run: Run) -> Run:
    """The run, once it waits because nobody was reached."""

    def there() -> Run | None:
        found = service.store.run(run.id)
        return found if found.state is State.QUEUED and found.reason is Reason.UNREACHABLE else None

    return await eventually(there, 20, what=f"{run.short} waiting")


async def fails(service: ExecutorService, run: Run) -> Run:
    """The run, once it has failed; its host may not take its results yet."""

    def there() -> Run | None:
        found = service.store.run(run.id)
        return found if found.outcome is Outcome.FAILED else None

    return await eventually(there, 20, what=f"the end of {run.short}")


@pytest.mark.parametrize("mood", [UNICORN, BROKEN_GATEWAY, A_PAGE], ids=["503", "502", "page"])
@story
async def test_a_run_whose_host_does_not_answer_waits_says_so_and_trains_when_it_does(
    house: House, host: MoodyHost, mood: Mood
) -> None:
    host.mood = mood
    async with house.running() as service:
        waiting = await waits(service, run := house.send(service, "true"))
        assert "git could not fetch" in waiting.waiting_for
        assert "tried again" in waiting.waiting_for
        host.mood = GOOD
        ended = await done(service, run)
        assert ended.outcome is Outcome.SUCCEEDED
        first, *_, last = service.store.attempts(run.id)
        assert (first.reason, last.exit_code) == (Reason.UNREACHABLE, 0)


@pytest.mark.parametrize(
    ("mood", "least"), [(LIMITED, 90), (LIMITED_SILENTLY, 60)], ids=["retry-after", "silently"]
)
@story
async def test_a_host_that_asks_for_fewer_requests_is_left_alone_by_preparations_too(
    house: House, host: MoodyHost, mood: Mood, least: float
) -> None:
    host.mood = mood
    async with house.running() as service:
        begin = time.time()
        waiting = await waits(service, house.send(service, "true"))
    assert begin + least < waiting.not_before < begin + least + 30


@story
async def test_a_host_that_answers_with_a_refusal_fails_the_run_at_once(
    house: House, host: MoodyHost
) -> None:
    host.mood = GONE
    async with house.running() as service:
        run = house.send(service, "true")
        ended = await fails(service, run)
        assert (ended.reason, ended.attempt) == (Reason.CHECKOUT, 1)


@story
async def test_a_host_that_refuses_whom_it_knew_is_waited_for(house: House, host: MoodyHost) -> None:
    """A token ends, a repository is locked for a day: when somebody has mended it nobody sends runs again."""
    async with house.running() as service:
        await done(service, house.send(service, "true"))
        house.work.commit({"more": "1"})
        house.work.git("push", "--quiet", host.remote(NAME).replace("//", f"//x:{TOKEN}@"), "main")
        host.mood = UNAUTHORIZED
        waiting = await waits(service, run := house.send(service, "true"))
        assert "has let this executor in before" in waiting.waiting_for
        host.mood = GONE

        def not_found() -> bool:
            return any("not found" in one.detail for one in service.store.attempts(run.id))

        await eventually(not_found, 20, what="the other refusal")
        host.mood = GOOD
        assert (await done(service, run)).outcome is Outcome.SUCCEEDED


@story
async def test_what_fails_while_the_hosts_of_the_world_are_out_of_reach_is_not_held_against_the_run(
    house: House, host: MoodyHost
) -> None:
    """Builders and downloads have many words for it; that the repository's host is silent, too, tells."""
    house.environments = {"system": Cut(host, UNICORN)}
    async with house.running() as service:
        waiting = await waits(service, run := house.send(service, "true"))
        assert (
            "No index answers. Look at the network. The repository's host does not answer"
            in waiting.waiting_for
        )
        host.mood = GOOD
        assert (await done(service, run)).outcome is Outcome.SUCCEEDED


@story
async def test_what_fails_by_itself_while_the_host_answers_fails_the_run(
    house: House, host: MoodyHost
) -> None:
    house.environments = {"system": Cut(host, GOOD)}
    async with house.running() as service:
        ended = await done(service, house.send(service, "true"))
        assert (ended.outcome, ended.reason, ended.attempt) == (Outcome.FAILED, Reason.ENVIRONMENT, 1)


@story
async def test_a_run_whose_sealed_secrets_cannot_be_read_now_waits(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The network may go between the fetch of the commit and the look for its secrets."""
    asked: list[TrainCommand] = []

    def given(_: Vault, command: TrainCommand, **__: object) -> dict[str, Given]:
        asked.append(command)
        if len(asked) == 1:
            raise Unanswered("git could not read the secrets.")
        return {}

    monkeypatch.setattr(Vault, "of", given)
    async with house.running() as service:
        run = await done(service, house.send(service, "true"))
        first, second = service.store.attempts(run.id)
        assert (first.reason, second.exit_code) == (Reason.UNREACHABLE, 0)


@story
async def test_a_disk_that_fills_between_two_stages_of_a_preparation_fails_no_run(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    really, tries = library.show, []

    def show(folder: RunDir) -> None:
        tries.append(folder)
        if len(tries) == 1:
            raise OSError(errno.ENOSPC, "No space left on device")
        really(folder)

    monkeypatch.setattr(library, "show", show)
    async with house.running() as service:
        run = await done(service, house.send(service, "true"))
        first, second = service.store.attempts(run.id)
        assert (first.reason, second.exit_code) == (Reason.STORAGE, 0)


@story
async def test_who_reaches_nobody_for_a_day_is_told_so(
    house: House, host: MoodyHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retry, "MOST_UNREADY", 2)
    monkeypatch.setattr(retry, "FIRST_UNREADY", 0.01)
    host.mood = UNICORN
    async with house.running() as service:
        run = house.send(service, "true")
        ended = await fails(service, run)
        assert (ended.reason, ended.attempt) == (Reason.UNREACHABLE, 3)
        assert ended.detail.endswith("That has been so for a day, and the run is given up.")


@story
async def test_a_git_that_is_killed_costs_the_run_an_attempt_and_no_more(
    house: House, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    once, real = tmp_path / "once", shutil.which("git")
    script = tmp_path / "bin" / "git"
    script.parent.mkdir()
    script.write_text(
        f'#!/bin/sh\ncase " $* " in *" fetch "*) [ -e {once} ] && rm {once} && kill -9 $$ ;; esac\n'
        f'exec {real} "$@"\n'
    )
    script.chmod(0o755)
    once.touch()
    monkeypatch.setenv("PATH", f"{script.parent}:{os.environ['PATH']}")
    async with house.running() as service:
        run = house.send(service, "true", retry={"backoff": 0.01})
        ended = await done(service, run)
        first, second = service.store.attempts(run.id)
        assert (first.reason, second.exit_code, ended.outcome) == (Reason.LOST, 0, Outcome.SUCCEEDED)
        assert "ended from outside" in first.detail
