"""Jobs reach what the owner's rule `network` allows, and nothing else: real jobs in an owner's network."""

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from executor_house import House, done, story

from owners_network import NEIGHBOURS, PUBLIC, OwnersNetwork, open_folder
from pushtrain.adapters.sandboxes import Ground
from pushtrain.adapters.sandboxes.sandbox import Bubblewrap
from pushtrain.core.errors import ConfigError, Forbidden
from pushtrain.core.owner.rules import Rules
from pushtrain.core.values.isolation import Isolation, JobNetwork
from pushtrain.executor.runs.access import Access
from pushtrain.plumbing.disk.state import StateFolder
from pushtrain.plumbing.programs import proc
from pushtrain.testing import wait_until
from pushtrain.wiring.isolation import choose
from pushtrain.wiring.network import WayOut, granted

HERE = Path(__file__).parent


def get(host: str) -> str:
    """A shell command that tells whether a server answers."""
    program = f"import socket; print(socket.create_connection(('{host}', 80), 3).recv(5).decode())"
    return f'python -c "{program}" 2>&1 | tail -1'


class Executor:
    """An executor on the owner's machine."""

    def __init__(self, talk: "subprocess.Popen[str]") -> None:
        self.talk = talk
        self.about = self._read()

    def _read(self) -> dict[str, Any]:
        assert self.talk.stdout is not None
        found: dict[str, Any] = json.loads(self.talk.stdout.readline())
        return found

    def ask(self, command: str | list[str], **job: Any) -> None:
        assert self.talk.stdin is not None
        self.talk.stdin.write(json.dumps({"command": command, **job}) + "\n")
        self.talk.stdin.flush()

    def run(self, command: str | list[str], **job: Any) -> dict[str, Any]:
        """Run a job; how it went, and its log."""
        self.ask(command, **job)
        return self._read()


@contextlib.contextmanager
def executor(network: OwnersNetwork, rule: str, folder: Path, **env: str) -> Iterator[Executor]:
    House(folder)  # makes its repository: a process that is killed would leave what it made it from
    variables = (f"{name}={value}" for name, value in env.items())
    words: tuple[str | Path, ...] = (
        "env",
        *variables,
        sys.executable,
        HERE / "network_house.py",
        folder,
        rule,
    )
    where = ":".join([str(HERE), str(HERE.parent), *filter(None, sys.path)])
    with subprocess.Popen(
        network.inside(words),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": where},
    ) as talk:
        assert talk.stdin is not None
        try:
            yield Executor(talk)
        finally:
            with contextlib.suppress(BrokenPipeError):
                talk.stdin.close()
            talk.wait(timeout=20)


@pytest.fixture(autouse=True)
def _nobody_reached_yet(network: OwnersNetwork) -> None:
    network.forget()


@pytest.fixture
def folder() -> Iterator[Path]:
    with open_folder() as found:
        yield found


@pytest.mark.slow
def test_a_job_reaches_the_internet_and_nothing_of_the_owners(network: OwnersNetwork, folder: Path) -> None:
    with executor(network, "internet", folder) as house:
        assert house.about == {"card": "internet", "why": "", "mend": ""}
        done = house.run(f"{get(PUBLIC)}; {get('public.test')}; {get('lan.test')}", setup=[get(PUBLIC)])
        assert done["log"].count("hello") == 3, done
        assert "No route to host" in done["log"]
        network.forget()
        done = house.run("python network_attacks.py", setup=["python network_attacks.py > setup.json"])
        assert done["outcome"] == "succeeded", done
        tried = json.loads(done["log"].splitlines()[-1])
        assert len(tried) > 100
        assert {way for way, what in tried.items() if what == "reached"} == set()
        assert network.reached() == set()


@pytest.mark.slow
def test_at_fetch_only_setup_reaches_the_internet_and_the_command_nothing(
    network: OwnersNetwork, folder: Path
) -> None:
    with executor(network, "fetch-only", folder) as house:
        assert house.about["card"] == "fetch-only"
        done = house.run(f"echo then; {get(PUBLIC)}", setup=[get(PUBLIC), f"{get(NEIGHBOURS[1])} || true"])
        before, _, after = done["log"].partition("then\n")
        assert "hello" in before
        assert "No route to host" in before
        assert "hello" not in after
        assert "unreachable" in after
        assert network.reached() == {f"tcp {PUBLIC}:80"}


@pytest.mark.slow
def test_a_job_may_ask_for_less_and_never_for_more(network: OwnersNetwork, folder: Path) -> None:
    with executor(network, "internet", folder) as house:
        done = house.run(get(PUBLIC), setup=[get(PUBLIC)], network="none")
        assert "hello" not in done["log"]
        refused = house.run(get(NEIGHBOURS[1]), network="full")["refused"]
        assert "the owner's rule `rules.network`" in refused
        assert network.reached() == set()


@pytest.mark.slow
def test_at_full_a_job_reaches_what_the_machine_does(network: OwnersNetwork, folder: Path) -> None:
    with executor(network, "full", folder) as house:
        done = house.run(f"{get(NEIGHBOURS[1])}; {get('lan.test')}")
        assert done["log"].count("hello") == 2, done
        less = house.run(get(NEIGHBOURS[1]), network="internet")
        assert "No route to host" in less["log"]


@pytest.mark.slow
def test_two_processes_of_a_job_talk_over_its_own_loopback(network: OwnersNetwork, folder: Path) -> None:
    talk = (
        'python -c \'import socket, os; s = socket.create_server(("127.0.0.1", 0)); '
        'os.fork() or (socket.create_connection(s.getsockname()).sendall(b"gloo"), os._exit(0)); '
        "print(s.accept()[0].recv(4).decode())'"
    )
    for rule in ("internet", "none"):
        with executor(network, rule, folder / rule) as house:
            assert house.run(talk)["log"].strip().endswith("gloo")


@pytest.mark.slow
def test_a_run_keeps_its_uplink_when_the_executor_is_killed_and_loses_it_with_the_shim(
    network: OwnersNetwork, folder: Path
) -> None:
    with executor(network, "internet", folder) as house:
        command = f"touch there; while [ ! -e gate ]; do sleep 0.05; done; {get(PUBLIC)} > got; sleep 600"
        house.ask(command)
        tree = wait_until(lambda: next(folder.glob("state/runs/*/*/job/tree/there"), None)).parent
        wait_until(lambda: len(_ours(folder, "pushtrain-net")) == 2)  # its own, and one that is ready
        house.talk.kill()
        house.talk.wait()
    (tree / "gate").touch()
    wait_until(lambda: (tree / "got").exists() and (tree / "got").read_text() == "hello\n")
    wait_until(lambda: len(_ours(folder, "pushtrain-net")) == 1)  # the ready one is gone
    (shim,) = _ours(folder, "pushtrain-shim")
    os.kill(shim, signal.SIGKILL)
    wait_until(lambda: not _ours(folder, "pushtrain-net"))


def _ours(folder: Path, name: str) -> list[int]:
    """Living processes of this name that were started from below this folder."""
    found = []
    for one in proc.everybody():
        with contextlib.suppress(OSError):
            about = Path(f"/proc/{one.pid}")
            if (about / "comm").read_text() == f"{name}\n" and str(folder) in (about / "cmdline").read_text():
                found.append(one.pid)
    return found


@pytest.mark.slow
def test_what_cannot_be_enforced_is_said_at_the_start_and_refused(
    network: OwnersNetwork, folder: Path
) -> None:
    programs = folder / "bin"
    programs.mkdir()
    for name in ("bwrap", "git", "sh", "bash", "sleep"):
        found = subprocess.run(("which", name), check=True, capture_output=True, text=True).stdout.strip()
        (programs / name).symlink_to(found)
    with executor(network, "internet", folder / "house", PATH=str(programs)) as house:
        assert house.about["card"] == ""
        assert "slirp4netns is not installed" in house.about["why"]
        assert "`sudo apt install slirp4netns`" in house.about["mend"]
        assert "the owner's rule `rules.network`" in house.run("true")["refused"]
        assert "refused" in house.run("true", network="fetch-only")
        assert house.run(["/bin/true"], network="none")["outcome"] == "succeeded"


def test_a_rule_that_no_level_here_can_enforce_is_an_error_at_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without bubblewrap only weaker levels are left, which hold nobody to a network."""
    state = StateFolder(tmp_path).create()
    way = WayOut(None, "slirp4netns is not installed", "`sudo apt install slirp4netns`")
    monkeypatch.setenv("PATH", str(tmp_path))
    lent = Rules(min_isolation=Isolation.NONE)
    with pytest.raises(ConfigError, match="cannot hold jobs to the network `internet`") as caught:
        choose(state, lent, way)
    assert 'network = "full"' in caught.value.mend
    full = lent.model_copy(update={"network": JobNetwork.FULL})
    level = choose(state, full, way).level
    assert level in {Isolation.CONFINED, Isolation.NONE}
    access = granted(full, level, way)
    assert access.told == "full"
    with pytest.raises(Forbidden, match=r"rules\.network"):
        access.settle(JobNetwork.NONE)


@story
async def test_an_enclosure_for_the_internet_is_not_entered_without_an_uplink(tmp_path: Path) -> None:
    """Fails closed: a shim that was given none does not run the command on the machine's own network."""
    house = House(tmp_path)
    house.state.create()
    house.sandbox = Bubblewrap(Ground(house.state.isolation))
    house.access = Access(JobNetwork.INTERNET, frozenset(JobNetwork))
    if house.sandbox.missing()[0]:
        pytest.skip(house.sandbox.missing()[0])
    async with house.running() as service:
        run = await done(service, house.send(service, "true"))
    assert run.outcome == "failed"
    assert "the attempt has no uplink" in house.result(run, "log.txt")
