"""The owner's programs before and after a run: real programs, real runs, and an executor that is stopped."""

import json
import logging
import os
import stat
from pathlib import Path
from typing import Any

import pytest
from ruled import Lab, ran

from pushtrain.core.errors import ConfigError
from pushtrain.core.owner.rules import Hooks, Rules
from pushtrain.core.values.states import Outcome, Reason
from pushtrain.executor.runs.hooks import INHERITED
from pushtrain.testing import wait_until

SET_BY_A_SHELL = {"PWD", "OLDPWD", "SHLVL", "_", "PUSHTRAIN_HOOK", "PUSHTRAIN_PARENT"}


def program(folder: Path, name: str, text: str = "") -> Path:
    """A hook that notes what it is told, then does `text`."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    notes = f'cat >> "{folder}/told"; env > "{folder}/env.$PUSHTRAIN_HOOK"'
    path.write_text(f"#!/bin/sh\n{notes}\n{text}\n")
    path.chmod(0o755)
    return path


def told(folder: Path) -> list[dict[str, Any]]:
    """What hooks were told, in order."""
    path = folder / "told"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def lab(folder: Path, *, before: str | None = None, after: str | None = None, timeout: float = 20) -> Lab:
    """A lab with hooks that do this."""
    hooks = folder / "hooks"
    named: dict[str, Any] = {"timeout": timeout}
    if before is not None:
        named["before"] = ((str(program(hooks, "before", before)),),)
    if after is not None:
        named["after"] = ((str(program(hooks, "after", after)),),)
    return Lab(folder / "lab", Rules(hooks=Hooks(**named)))


def test_hooks_are_told_of_an_attempt_before_and_after_it(tmp_path: Path) -> None:
    with lab(tmp_path, before="", after="").open() as one:
        run = one.done(one.send(one.command("echo the job ran; exit 3", cell={"lr": 0.1}))).run
    before, after = told(tmp_path / "hooks")
    assert (before["version"], before["event"], after["event"]) == (1, "before", "after")
    for document in (before, after):
        assert document["run"] == run.id
        assert document["attempt"] == 1
        assert document["executor"] == "lab-1"
        assert (document["repository"], document["ref"]) == (run.command.repository, "refs/heads/main")
        assert (document["commit"], document["job"], document["cell"]) == (
            run.command.commit,
            "train",
            {"lr": 0.1},
        )
        assert document["sender"] == {"key": run.sender, "name": "ada"}
    assert (after["outcome"], after["reason"], after["exit_code"]) == ("failed", "exited", 3)
    assert after["started_at"] <= after["ended_at"]


def test_hooks_find_none_of_the_executors_secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PUSHTRAIN_GIT_TOKEN", "PUSHTRAIN_HOST_TOKEN", "NGROK_AUTHTOKEN", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "hunter2")
    with lab(tmp_path, before="", after="").open() as one:
        one.done(one.send())
    for when in ("before", "after"):
        text = (tmp_path / "hooks" / f"env.{when}").read_text()
        assert "hunter2" not in text
        assert {line.partition("=")[0] for line in text.splitlines()} <= SET_BY_A_SHELL | set(INHERITED)


@pytest.mark.parametrize(
    ("text", "timeout", "logged"),
    [
        ("echo busy; echo the reactor is hot >&2; exit 1", 20, "exit code 1: the reactor is hot"),
        ("exit 7", 20, "exit code 7: it said nothing"),
        ("exec sleep 600", 0.3, "took longer than 0.3 s"),
    ],
)
def test_a_hook_that_fails_before_a_run_refuses_it_and_tells_why_to_the_owner_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, text: str, timeout: float, logged: str
) -> None:
    with (
        caplog.at_level(logging.WARNING),
        lab(tmp_path, before=text, after="", timeout=timeout).open() as one,
    ):
        view = one.done(one.send())
    assert (view.run.outcome, view.run.reason) == (Outcome.FAILED, Reason.REFUSED)
    assert "`rules.hooks.before`" in view.run.detail
    assert not ran(one, view)
    assert not (one.state.runs / view.run.id / "1" / "tree").exists()
    assert logged in caplog.text
    assert "reactor" not in view.model_dump_json() + one.log(view.run) + one.result(view.run, "run.json")
    assert [document["event"] for document in told(tmp_path / "hooks")] == ["before", "after"]
    assert told(tmp_path / "hooks")[1]["reason"] == "refused"


def test_a_hook_that_fails_after_a_run_is_only_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with lab(tmp_path, after="echo nobody listens; exit 1").open() as one:
        view = one.done(one.send())
    assert view.run.outcome is Outcome.SUCCEEDED
    assert "exit code 1: nobody listens" in caplog.text
    assert "nobody listens" not in view.model_dump_json()


def test_an_attempt_that_ends_before_its_command_has_its_hook_too(tmp_path: Path) -> None:
    with lab(tmp_path, before="", after="").open() as one:
        gone = one.done(one.send(one.command(commit="0123456789" * 4)))
        assert gone.run.reason is Reason.CHECKOUT
        assert [(one["event"], one["outcome"]) for one in told(tmp_path / "hooks")] == [("after", "failed")]
        waits = one.send(one.command("echo the job ran; exec sleep 600"))
        one.until(waits, lambda view: view.run.started_at is not None)
        one.client().cancel(waits.id)
        one.done(waits)
    assert told(tmp_path / "hooks")[-1]["outcome"] == "cancelled"


def test_a_hook_after_a_run_that_was_cut_short_by_a_restart_runs_again(tmp_path: Path) -> None:
    one = lab(tmp_path, after='test -e "$0.again" && exit 0; touch "$0.again"; exec sleep 600', timeout=600)
    with one.open():
        run = one.send()
        wait_until((tmp_path / "hooks" / "after.again").exists, what="the hook to begin")
    with one.open():
        assert one.done(run).run.outcome is Outcome.SUCCEEDED
    assert [document["attempt"] for document in told(tmp_path / "hooks")] == [1, 1]


@pytest.mark.parametrize(
    ("argv", "mode", "words"),
    [
        ("hooks/x", 0o755, "is no absolute path"),
        ("/nonexistent/hook", 0o755, "is no program"),
        ("{path}", 0o644, "is no program"),
        ("{path}", 0o757, "can be written by others"),
    ],
)
def test_hooks_that_cannot_be_run_or_that_others_can_write_stop_the_start(
    tmp_path: Path, argv: str, mode: int, words: str
) -> None:
    path = program(tmp_path, "hook")
    path.chmod(mode)
    assert stat.S_IMODE(path.stat().st_mode) == mode
    one = Lab(tmp_path / "lab", Rules(hooks=Hooks(before=((argv.format(path=path),),))))
    with pytest.raises(ConfigError, match=words) as caught, one.open():
        pass
    assert "rules.hooks.before" in caught.value.message
    assert caught.value.mend


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_a_hook_of_another_user_stops_the_start(tmp_path: Path) -> None:
    path = program(tmp_path, "hook")
    os.chown(path, 65534, -1)
    with (
        pytest.raises(ConfigError, match="belongs to nobody"),
        Lab(tmp_path / "lab", Rules(hooks=Hooks(after=((str(path),),)))).open(),
    ):
        pass
