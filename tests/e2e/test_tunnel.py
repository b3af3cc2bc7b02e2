"""An executor behind a tunnel, as real processes: ngrok's real SDK at a loopback edge, ssh at a real sshd."""

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from house import AT_THE_GATE, SYSTEM, House, housed, open_gate

from ngrok_edge import GOOD, Edge, serving_edge
from pushtrain.core.values.card import ExecutorCard
from pushtrain.core.values.states import Outcome, State
from pushtrain.core.wire.frames import EndFrame, LogFrame
from pushtrain.testing import wait_until
from sshd import Sshd, sshd

__all__ = ["sshd"]

pytestmark = pytest.mark.slow


@pytest.fixture
def edge(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Edge]:
    """An edge that executors find by their environment."""
    with serving_edge(tmp_path) as edge:
        monkeypatch.setenv("NGROK_AUTHTOKEN", GOOD)
        monkeypatch.setenv("PUSHTRAIN_EXECUTOR_NGROK_SERVER", edge.address)
        monkeypatch.setenv("PUSHTRAIN_EXECUTOR_NGROK_ROOT_CAS", str(edge.certificate))
        yield edge


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    with housed(tmp_path / "house") as it:
        yield it


def card(house: House) -> ExecutorCard:
    return ExecutorCard.model_validate_json(house.executor_state.card.read_bytes())


WAITING = f'[job.train]\ncommand = "echo started; {AT_THE_GATE}; echo ended"\n{SYSTEM}'
"""A job that goes on until the gate is opened."""


def test_a_tunnel_that_moves_while_a_run_is_on_touches_no_run(house: House, edge: Edge) -> None:
    facts = house.start_executor()
    assert (facts["url"], facts["tunnel"]) == (edge.url, "ngrok"), "by the authtoken alone"
    assert card(house).public_url == edge.url
    assert facts["local"] == f"http://127.0.0.1:{card(house).port}"
    assert edge.visits == 0, "nobody has called yet"

    house.start_sender()
    work = house.work(WAITING)
    commit = work.pushed()
    run = house.until(house.run_of(commit).run.id, State.RUNNING).run
    before = edge.url
    assert edge.visits > 0, "the command came through the tunnel"

    began = time.monotonic()
    edge.drop()
    wait_until(lambda: card(house).public_url != before, 20)
    assert time.monotonic() - began < 5
    assert card(house).public_url == edge.url
    assert house.client().view(run.id).run.state is State.RUNNING

    open_gate(house.executor_state)
    view = house.until(run.id, State.DONE)
    assert view.run.outcome is Outcome.SUCCEEDED
    assert len(view.attempts) == 1
    assert work.results(view)["log.txt"] == "started\nended"


def test_a_log_that_is_followed_through_a_tunnel_cut_twenty_times_is_whole(house: House, edge: Edge) -> None:
    house.start_executor("--domain", "lab.example.app")
    house.start_sender()
    script = "for i in $(seq 400); do echo line $i; sleep 0.01; done"
    commit = house.work(f"[job.train]\ncommand = {json.dumps(script)}\n{SYSTEM}").pushed()
    run = house.until(house.run_of(commit).run.id, State.RUNNING).run
    text, cuts = b"", 0
    for frame in house.client().follow(run.id):
        if isinstance(frame, LogFrame):
            text += frame.data
            if cuts < 20 and text.count(b"\n") > cuts * 15:
                cuts += 1
                edge.cut()
        if isinstance(frame, EndFrame):
            break
    assert cuts == 20
    assert text == b"".join(b"line %d\n" % number for number in range(1, 401))
    assert edge.domains == ["lab.example.app"]


def test_the_executor_is_driven_through_ones_own_ssh_server(
    house: House, sshd: Sshd, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PUSHTRAIN_EXECUTOR_SSH_CONFIG", str(sshd.config))
    facts = house.start_executor("--ssh-target", "gpu", "--public-url", "http://127.0.0.1:{port}")
    assert facts["tunnel"] == "ssh"
    assert facts["url"] not in {facts["local"], ""}
    house.start_sender()
    work = house.work(WAITING)
    commit = work.pushed()
    run = house.until(house.run_of(commit).run.id, State.RUNNING).run
    sshd.stop()
    # On this machine the executor is asked past the tunnel.
    assert house.json("ps", state=house.executor_state)
    open_gate(house.executor_state)
    wait_until(lambda: work.results_count() == 1, 30, what="the results without a tunnel")
    before = card(house).public_url
    sshd.start()
    wait_until(lambda: card(house).public_url != before, 30)
    assert house.client().view(run.id).run.outcome is Outcome.SUCCEEDED


def test_doctor_says_what_is_wrong_with_the_tunnel_and_when_it_works(
    house: House, edge: Edge, monkeypatch: pytest.MonkeyPatch
) -> None:
    def findings() -> dict[str, tuple[str, str]]:
        text = house.cli("doctor", "--json", state=house.executor_state).stdout
        return {one["what"]: (one["verdict"], one["text"]) for one in json.loads(text)}

    house.start_executor()
    found = findings()
    assert found["tunnel"] == ("ok", "ngrok, authtoken in NGROK_AUTHTOKEN")
    assert found["public address"][0] == "ok"
    assert found["public address"][1].startswith(f"{edge.url} leads here")
    assert GOOD not in json.dumps(found)
    monkeypatch.setenv("PUSHTRAIN_EXECUTOR_TUNNEL", "none")
    assert findings()["tunnel"][0] == "note"
    monkeypatch.setenv("PUSHTRAIN_EXECUTOR_TUNNEL", "ssh")
    assert findings()["tunnel"] == ("wrong", "The ssh tunnel needs a server to go through.")


def test_the_authtoken_is_in_no_log_no_state_and_no_job(house: House, edge: Edge) -> None:
    house.start_executor()
    assert edge.tokens == [GOOD]
    house.start_sender()
    script = "env; tr '\\0' '\\n' < /proc/self/environ"
    commit = house.work(f"[job.train]\ncommand = {json.dumps(script)}\n{SYSTEM}").pushed()
    view = house.done(commit)
    assert view.run.outcome is Outcome.SUCCEEDED
    assert GOOD not in house.logs()
    for path in house.executor_state.root.rglob("*"):
        if path.is_file():
            assert GOOD.encode() not in path.read_bytes(), path
