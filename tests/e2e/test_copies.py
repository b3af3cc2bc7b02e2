"""One executor for one state folder: a second one, and copies of the folder, are noticed."""

import asyncio
import json
import re
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from house import House, housed

from pushtrain.core.errors import Cloned
from pushtrain.core.settings import ExecutorSettings, Repository, Settings
from pushtrain.core.wire.place import Place
from pushtrain.core.wire.roster import parse, sign_card, with_card
from pushtrain.core.wire.signing import fingerprint, public_text
from pushtrain.executor import announce
from pushtrain.plumbing.disk.state import StateFolder
from pushtrain.plumbing.git.mirror import Mirror
from pushtrain.plumbing.git.rosterfile import RosterFile
from pushtrain.plumbing.keys.identity import load
from pushtrain.testing import eventually
from pushtrain.wiring.rooms import serve_executor

pytestmark = pytest.mark.slow


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    with housed(tmp_path) as it:
        yield it


def test_a_second_executor_names_the_first_and_leaves_it_alone(house: House) -> None:
    house.start_executor()
    first = house.processes["executor"].pid
    for verb in ("executor", "up"):
        second = house.cli(verb, "--repo", house.remotes[0], "--port", "0", state=house.executor_state)
        assert second.returncode == 6
        told = re.search(r"already served by process (\d+), since 20\d\d-\d\d-\d\d \d\d:", second.stderr)
        assert told, second.stderr
        assert int(told[1]) == first
    assert house.client().challenge().card.name == "lab-1"


def test_a_copy_on_another_machine_is_refused_until_it_is_said_to_have_moved(house: House) -> None:
    house.start_executor()
    house.end()
    home = house.executor_state.machine
    if not json.loads(home.read_text())["machine"]:
        pytest.skip("this machine has no machine-id, so it cannot be told from another one")
    home.write_text(json.dumps({"machine": "f" * 32, "host": "somewhere-else"}))
    start = ("executor", "--repo", house.remotes[0], "--port", "0")
    refused = house.cli(*start, state=house.executor_state)
    assert refused.returncode == 3
    assert "belongs to another machine, somewhere-else" in refused.stderr
    assert "`pushtrain store moved`" in refused.stderr
    assert house.cli("store", "moved", state=house.executor_state).returncode == 0
    house.start_executor()


def test_a_copy_that_cannot_be_told_apart_stops_at_its_start_while_the_first_one_works(house: House) -> None:
    """As a cloned virtual machine does: it has the same machine-id."""
    first, second = free_port(), free_port()
    house.start_executor("--tunnel", "static", "--public-url", f"http://127.0.0.1:{first}", port=str(first))
    key = house.client().public_key
    work = house.work("")
    house.wait(lambda: work.fetch("pushtrain/config") or None, "the first one's card")
    copy = StateFolder(house.folder / "copy")
    shutil.copytree(house.executor_state.root, copy.root, symlinks=True)
    flags = ("--tunnel", "static", "--public-url", f"http://127.0.0.1:{second}", "--port", str(second))
    refused = house.cli("executor", "--repo", house.remotes[0], *flags, state=copy)
    assert refused.returncode == 3, refused.stderr
    assert f"at http://127.0.0.1:{first}, which is not this one's" in refused.stderr
    assert house.client().challenge().card.public_key == public_text(key)
    home = json.loads(copy.machine.read_text())
    assert "copy of this executor's state folder" in home["twin"], (
        "no further start either, before a person looked"
    )


def free_port() -> int:
    """A port that is free."""
    with socket.create_server(("127.0.0.1", 0)) as one:
        port: int = one.getsockname()[1]
        return port


def test_an_executor_stops_when_the_roster_shows_that_a_copy_of_it_is_at_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two machines that cannot be told apart, as cloned virtual ones: the roster tells."""
    hasty = announce.Habit(lifetime=3600, renewal=1.0, spacing=0.0, greets=True)
    monkeypatch.setattr(announce, "OWN", hasty)
    origin = Repository(key="git.example.org/ada/r", remote=str(tmp_path / "origin.git"))
    subprocess.run(("git", "init", "-q", "--bare", "-b", "main", origin.remote), check=True)
    state = StateFolder(tmp_path / "state").create()
    key = load(state.key).key
    place = Place(repository=origin, branch="pushtrain/config", path="config.json")
    elsewhere = RosterFile(Mirror(tmp_path / "elsewhere", origin), place)
    settings = Settings(repositories=(origin,), executor=ExecutorSettings(port=0, tunnel="none"))

    def twin(text: str) -> str:
        mine = parse(text).find(fingerprint(key.public_key()))
        assert mine is not None
        card = mine.card.model_copy(update={"sequence": mine.card.sequence + 5, "name": "twin"})
        return with_card(text, sign_card(card, key))

    async def story() -> None:
        async with serve_executor(state, settings) as running:
            await eventually(lambda: "executors" in elsewhere.read().text, what="the card")
            await asyncio.to_thread(elsewhere.write, twin, message="The copy", when=1)
            await asyncio.wait_for(running.task, 30)

    with pytest.raises(Cloned, match=r"copy of this executor's state folder.*card number.*twin"):
        asyncio.run(story())
    assert '"twin"' in elsewhere.read().text, "the other one's card stays"

    async def again() -> None:
        async with serve_executor(state, settings):
            raise AssertionError

    with pytest.raises(Cloned, match="copy of this executor's state folder"):
        asyncio.run(again())
