"""Executor and sender that know of each other only their keys, and find each other by the roster."""

import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
import tomlkit
from house import SYSTEM, House, housed

from pushtrain.core.values.card import ExecutorCard
from pushtrain.core.values.states import Outcome
from pushtrain.core.values.value import CONFIG_BRANCH
from pushtrain.core.wire.roster import parse
from pushtrain.plumbing.keys.authorized import Trusted, load_or_create
from pushtrain.testing import wait_until

pytestmark = pytest.mark.slow

JOB = f'[job.train]\ncommand = "echo trained"\n{SYSTEM}'


class Lent:
    """A house whose sender has no executor's address, and an executor behind an address that moves."""

    def __init__(self, house: House) -> None:
        self.house = house
        self.work = house.work(JOB)
        self.roster = ""
        executor = load_or_create(house.executor_state.key).public_key()
        Trusted(house.sender_state.trusted).add(executor)

    def settle(self, roster: str) -> None:
        """Give both sides the same setting."""
        document = tomlkit.dumps({"repositories": self.house.remotes, "roster": roster})
        for state in (self.house.executor_state, self.house.sender_state):
            state.settings.write_text(document)
        self.roster = roster

    def start(self) -> str:
        """Start the executor at an address of its own; its public URL."""
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        url = f"http://127.0.0.1:{port}"
        state = ("--state", self.house.executor_state.root)
        flags = ("--name", "lab-1", "--port", str(port), "--tunnel", "static", "--public-url", url)
        self.house.facts("executor", self.house.start("executor", "executor", *state, *flags))
        wait_until(lambda: self.at(url), what=f"{url} on the roster")
        return url

    def at(self, url: str) -> bool:
        return any(card.public_url == url and card.online for card in self.cards())

    def stop(self) -> None:
        child = self.house.processes.pop("executor")
        child.send_signal(signal.SIGTERM)
        assert child.wait(20) == 0

    def cards(self) -> list[ExecutorCard]:
        """The cards as they are on the host."""
        branch, _, path = self.roster.partition(":")
        tip = self.work.fetch(branch)
        listed = path in self.work.files(tip) if tip else False
        return [one.card for one in parse(self.work.show(tip, path)).cards] if listed else []


@pytest.fixture
def lent(tmp_path: Path) -> Iterator[Lent]:
    with housed(tmp_path / "house") as house:
        yield Lent(house)


@pytest.mark.parametrize("roster", [f"{CONFIG_BRANCH}:config.json", "main:lab/config.json"])
def test_a_push_reaches_an_executor_that_only_the_roster_tells_of_and_follows_it_when_it_moves(
    lent: Lent, roster: str
) -> None:
    house, work = lent.house, lent.work
    lent.settle(roster)
    work.commit(message="Nothing yet")
    work.push()
    lent.start()
    house.start_sender(poll_seconds=0.5, webhook=False)
    wait_until(lambda: house.json("roster")["cards"], what="the card to be seen")
    ran = [_ran(lent, "one")]
    lent.stop()
    (card,) = lent.cards()
    assert not card.online
    moved = lent.start()
    ran.append(_ran(lent, "two"))
    (found,) = house.json("roster")["cards"]
    assert (found["roster"], found["verdict"]["standing"]) == (f"{work.key} {roster}", "trusted")
    assert found["verdict"]["card"]["public_url"] == moved
    assert house.json("executor", "status")[0]["card"]["public_url"] == moved
    commits = house.client(house.executor_state).runs()
    assert sorted(run.command.commit for run in commits) == sorted(ran), "no card has started a run"
    tip = work.fetch(roster.partition(":")[0])
    if roster.startswith(CONFIG_BRANCH):
        assert work.git("rev-list", "--count", tip) == "1"


def _ran(lent: Lent, message: str) -> str:
    """Push, and wait until it was trained; the commit."""
    lent.work.fetch("main")
    lent.work.git("rebase", "--quiet", "refs/remotes/origin/main")
    commit = lent.work.pushed(message)
    client = lent.house.client(lent.house.executor_state)

    def look() -> bool:
        return any(run.outcome is Outcome.SUCCEEDED for run in client.runs(find=commit))

    wait_until(look, timeout=60, what=f"{message}\n{lent.house.logs()}")
    return commit
