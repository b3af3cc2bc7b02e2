"""The builders and helpers that other tests stand on."""

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from pydantic import ValidationError

from pushtrain.core.errors import GitError
from pushtrain.core.values.states import State
from pushtrain.testing import (
    NOON,
    Clock,
    WorkRepository,
    a_capacity,
    a_card,
    a_command,
    a_gpu,
    a_new_branch,
    a_push,
    a_run,
    a_spec,
    an_attempt,
    eventually,
    wait_until,
)


def test_builders_give_valid_values_and_take_any_field() -> None:
    assert a_push().key == "github.com/octo/hello"
    assert a_push().delivery != a_push().delivery
    assert set(a_new_branch().before) == {"0"}
    assert a_run(state=State.RUNNING).state is State.RUNNING
    assert an_attempt(number=3).number == 3
    assert a_card(name="lab-2").name == "lab-2"
    assert a_gpu(1).index == 1
    assert a_capacity(queued=4).queued == 4


def test_a_builder_refuses_what_the_value_refuses() -> None:
    with pytest.raises(ValidationError):
        a_spec(timeout=-1)
    with pytest.raises(ValidationError):
        a_push(colour="red")


def test_a_built_commands_run_id_follows_from_what_it_says() -> None:
    assert a_command().run_id == a_command(ref="refs/heads/other").run_id
    assert a_command(request="again").run_id != a_command().run_id
    assert a_command(job=a_spec(cell={"lr": 0.1})).run_id != a_command().run_id


def test_the_clock_moves_only_when_told() -> None:
    clock = Clock()
    assert clock() == clock() == NOON
    assert clock.advance(2.5) == clock() == NOON + 2.5


def test_wait_until_gives_what_the_condition_gave() -> None:
    ready = threading.Event()
    threading.Timer(0.05, ready.set).start()
    assert wait_until(lambda: "yes" if ready.is_set() else None, timeout=5) == "yes"


def test_wait_until_names_what_did_not_come() -> None:
    with pytest.raises(AssertionError, match="the moon"):
        wait_until(lambda: False, timeout=0.02, what="the moon")


def test_eventually_lets_the_loop_go_on() -> None:
    async def story() -> int:
        loop = asyncio.get_running_loop()
        seen: list[int] = []
        loop.call_later(0.02, seen.append, 1)
        with pytest.raises(AssertionError, match="never"):
            await eventually(lambda: False, 0.01, what="never")
        return await eventually(lambda: len(seen))

    assert asyncio.run(story()) == 1


def test_a_work_repository_commits_and_pushes_with_an_identity_of_its_own(
    tmp_path: Path, repository: Callable[..., WorkRepository]
) -> None:
    bare = WorkRepository(tmp_path / "bare")
    bare.git("config", "receive.denyCurrentBranch", "ignore")
    work = repository(remote=str(bare.folder))
    commit = work.commit({"src/train.py": "print(1)\n", "weights.bin": b"\0\xff"}, "First")
    work.push()
    assert bare.git("rev-parse", "main") == work.fetch("main") == commit
    assert bare.show(commit, "src/train.py") == "print(1)"
    assert bare.files(commit) == ["src/train.py", "weights.bin"]
    assert bare.git("log", "-1", "--format=%an <%ae>") == "Ada <ada@example.org>"
    assert work.fetch("missing") == ""
    with pytest.raises(GitError, match="nowhere"):
        work.git("checkout", "nowhere")
