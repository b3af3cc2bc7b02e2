"""Commit statuses from a real executor to a server that knows GitHub's contract: killed, without a token."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import tomlkit
from house import AT_THE_GATE, House, Work, housed, open_gate

from pushtrain.core.values.jobspec import EnvironmentKind, EnvironmentSpec
from pushtrain.core.values.states import Outcome, State
from pushtrain.testing import a_command, a_spec, wait_until
from status_host import TOKEN, StatusApi, serving_statuses

pytestmark = pytest.mark.slow
SYSTEM = EnvironmentSpec(kind=EnvironmentKind.SYSTEM)


@pytest.fixture
def api() -> Iterator[StatusApi]:
    with serving_statuses() as api:
        yield api


@pytest.fixture
def house(tmp_path: Path, api: StatusApi) -> Iterator[House]:
    """An executor that serves one repository under the key that it has at the stand-in for GitHub."""
    with housed(tmp_path) as house:
        served = {"key": f"{api.host}/ada/r0", "remote": house.remotes[0]}
        settings = {"repositories": [served], "executor": {"status_api": api.url, "port": 0, "name": "lab-1"}}
        house.executor_state.settings.write_text(tomlkit.dumps(settings))
        yield house


def start(house: House) -> None:
    house.executor_state.card.unlink(missing_ok=True)
    out = house.start("executor", "executor", "--state", house.executor_state.root)
    house.facts("executor", out)


def send(house: House, api: StatusApi, commit: str, command: str, **spec: object) -> str:
    job = a_spec(command=command, environment=SYSTEM, **spec)
    order = a_command(repository=f"{api.host}/ada/r0", commit=commit, job=job)
    return house.client(house.executor_state).send(order).id


def arguments_of_others(pid: int) -> bytes:
    """What `ps` shows of every other process."""
    found = b""
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if entry.name != str(pid):
                found += (entry / "cmdline").read_bytes()
        except OSError:
            continue
    return found


def test_statuses_survive_a_killed_executor_and_the_token_reaches_nobody(
    house: House, api: StatusApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PUSHTRAIN_HOST_TOKEN", TOKEN)
    start(house)
    run_id = send(
        house,
        api,
        Work(house, 0).pushed(),
        f"env; {AT_THE_GATE}",
        setup=("env",),
        cell={"lr": 0.1},
    )
    wait_until(lambda: [got.short[2] for got in api.got] == ["running on lab-1"])
    assert TOKEN.encode() not in arguments_of_others(os.getpid())
    house.kill("executor")
    open_gate(house.executor_state)
    start(house)
    client = house.client(house.executor_state)
    run = wait_until(lambda: next((r for r in client.runs(find=run_id) if r.state is State.DONE), None))
    wait_until(lambda: len(api.got) > 1)
    assert run.outcome is Outcome.SUCCEEDED
    assert [(got.body["context"], got.body["state"]) for got in api.got] == [
        ("pushtrain/train (lr=0.1)", "pending"),
        ("pushtrain/train (lr=0.1)", "success"),
    ]
    link = f"https://{api.host}/ada/r0/tree/pushtrain/results/{run.result_path}"
    assert [got.body["target_url"] for got in api.got] == [None, link]
    house.end()
    kept = [path for path in house.folder.rglob("*") if path.is_file() and not path.is_symlink()]
    assert [path for path in kept if TOKEN.encode() in path.read_bytes()] == []


def test_without_a_token_all_else_works_and_it_is_said_once(house: House, api: StatusApi) -> None:
    start(house)
    client = house.client(house.executor_state)
    commit = Work(house, 0).pushed()
    for name in ("first", "second"):
        run_id = send(house, api, commit, "true", name=name)
        wait_until(lambda run_id=run_id: client.view(run_id).run.state is State.DONE)  # type: ignore[misc]
    assert api.asked == []
    assert house.log("executor").count("commit statuses are off: no token") == 1
