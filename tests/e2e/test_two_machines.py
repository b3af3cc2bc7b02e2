"""A laptop, a Git host, and a machine elsewhere that only a tunnel leads to, each with its own state folder.

They know of each other what the README has them exchange, a code, and what the repository holds.
"""

import hashlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from house import AT_THE_GATE, SYSTEM, House, housed, open_gate

from cable import Cable, laid
from ngrok_edge import GOOD, Edge, serving_edge
from pushtrain.core.values.card import ExecutorCard
from pushtrain.core.values.value import CONFIG_BRANCH
from pushtrain.core.wire.roster import parse, sign_card, with_card
from pushtrain.core.wire.signing import parse_public, public_text
from pushtrain.plumbing.disk.state import StateFolder
from pushtrain.plumbing.keys.authorized import Trusted, load_or_create
from pushtrain.testing import WorkRepository, wait_until

pytestmark = pytest.mark.slow

README = Path(__file__).parents[2] / "README.md"
JOB = f'[job.train]\ncommand = "echo trained"\n{SYSTEM}'
COUNTING = (
    "for i in $(seq 400); do echo line $i; sleep 0.01; done; "
    "head -c 6000000 /dev/urandom > $PUSHTRAIN_RESULTS_DIR/large"
)


class Machine:
    """One machine: a state folder, and a shell that stands in a clone or nowhere."""

    def __init__(self, world: "World", name: str) -> None:
        self.world = world
        self.name = name
        self.state = StateFolder(world.house.folder / name / "state").create()
        self.clone = WorkRepository(world.house.folder / name / "clone", world.remote, token=world.token)
        self.clone.fetch("main")
        self.clone.git("reset", "--quiet", "--hard", "refs/remotes/origin/main", check=False)

    @property
    def key(self) -> str:
        """What `pushtrain key show` prints first."""
        return public_text(load_or_create(self.state.key).public_key())

    def say(self, *words: str, code: int | None = 0) -> "subprocess.CompletedProcess[str]":
        """A verb, in the clone; its exit status is looked at unless it is None."""
        done = self.world.house.cli(*words, state=self.state, cwd=self.clone.folder)
        assert code is None or done.returncode == code, (words, done.stdout, done.stderr)
        return done

    def json(self, *words: str) -> Any:
        """What a verb prints with `--json`."""
        return json.loads(self.say(*words, "--json").stdout)

    def start(self, verb: str, *flags: str) -> dict[str, Any]:
        """A verb that goes on; what it says of itself."""
        name = f"{self.name}-{verb}"
        state = ("--state", str(self.state.root))
        return self.world.house.facts(
            name, self.world.house.start(name, verb, *state, *flags, cwd=self.clone.folder)
        )

    def stop(self, verb: str) -> None:
        """End it in order."""
        child = self.world.house.processes.pop(f"{self.name}-{verb}")
        child.terminate()
        assert child.wait(20) == 0, self.log(verb)

    def log(self, verb: str) -> str:
        """What it said."""
        return self.world.house.log(f"{self.name}-{verb}")

    def run_of(self, commit: str) -> str:
        """The id of the one run of a commit, as soon as this machine sees it."""
        found = self.world.house.wait(
            lambda: (
                json.loads(done.stdout)
                if (done := self.say("ps", commit, "--json", code=None)).returncode == 0
                else None
            ),
            f"a run of {commit[:7]} to be seen from {self.name}",
        )
        return str(found[0]["id"])


class World:
    """The host, one repository, and its machines."""

    def __init__(self, house: House) -> None:
        self.house = house
        self.remote = house.remotes[0]
        self.token = house.host.token
        self._read = ("", "")

    def machine(self, name: str) -> Machine:
        """One more machine."""
        return Machine(self, name)

    def pushed(self, machine: Machine, files: Mapping[str, str], message: str = "A change") -> str:
        """Commit and push from a machine; the commit."""
        commit = machine.clone.commit(files, message)
        machine.clone.push("HEAD:main")
        return commit

    def cards(self) -> dict[str, ExecutorCard]:
        """The roster as it is on the host, by the executors' names."""
        return {listed.card.name: listed.card for listed in parse(self.roster()).cards}

    def roster(self) -> str:
        """The text of `config.json` on the host; empty when there is none."""
        folder = self.house.host.folder(self.house.names[0])
        try:
            tip = (folder / "refs/heads" / CONFIG_BRANCH).read_text().strip()
        except FileNotFoundError:
            return ""
        if tip != self._read[0]:  # whoever waits for a card asks a hundred times a second
            argv = ("git", f"--git-dir={folder}", "show", f"{tip}:config.json")
            done = subprocess.run(argv, capture_output=True, text=True, check=False)
            self._read = (tip, done.stdout if done.returncode == 0 else "")
        return self._read[1]

    def wait_card(self, name: str, **wanted: object) -> ExecutorCard:
        """An executor's card, once the roster has it with these fields."""

        def look() -> ExecutorCard | None:
            card = self.cards().get(name)
            same = card is not None and all(getattr(card, field) == value for field, value in wanted.items())
            return card if same else None

        return self.house.wait(look, f"the card of {name} with {wanted}")

    def poison(self, text: str) -> None:
        """Put another roster in the place of the one that is there, as whoever may push can."""
        work = WorkRepository(self.house.folder / "attacker", token=self.token)
        work.commit({"config.json": text})
        work.git("push", "--quiet", "--force", self.remote, f"HEAD:refs/heads/{CONFIG_BRANCH}")


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with housed(tmp_path) as house:
        yield World(house)


@pytest.fixture
def edge(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Edge]:
    """What ngrok's SDK connects to."""
    (tmp_path / "edge").mkdir()
    with serving_edge(tmp_path / "edge") as edge:
        monkeypatch.setenv("NGROK_AUTHTOKEN", GOOD)
        monkeypatch.setenv("PUSHTRAIN_EXECUTOR_NGROK_SERVER", edge.address)
        monkeypatch.setenv("PUSHTRAIN_EXECUTOR_NGROK_ROOT_CAS", str(edge.certificate))
        yield edge


@pytest.fixture
def cable() -> Iterator[Cable]:
    with laid() as cable:
        yield cable


def lent(world: World, cable: Cable, *, to: Machine) -> Machine:
    """A machine that a cable leads to, lent to another; each knows the other's key."""
    box = world.machine("gpu-box")
    box.say("key", "authorize", to.key, "--name", "ada")
    to.say("key", "trust", box.key, "--name", "lab-3")
    start(box, cable)
    return box


def start(box: Machine, cable: Cable) -> None:
    flags = ("--name", "lab-3", "--port", "0", "--tunnel", "static", "--public-url", cable.url)
    box.start("executor", *flags)
    cable.port = json.loads(box.state.card.read_text())["port"]
    box.world.wait_card("lab-3", online=True, public_url=cable.url)


def watching(machine: Machine, verb: str = "sender") -> None:
    """Wait until what is pushed is noticed: what was pushed before a first look starts nothing."""
    wait_until(lambda: "is watched" in machine.log(verb), 30, what="the first look")


# --- as the README says -----------------------------------------------------------------------------------


def commands() -> list[tuple[str, str]]:
    """Machine and command line of each step of the README's two machines."""
    text = README.read_text()
    section = text[text.index("## Two machines") :]
    block = section.split("```")[1]
    steps = re.findall(r"^(gpu-box|laptop)\$ +(.*?)(?: +#.*)?$", block, re.MULTILINE)
    assert len(steps) >= 8, block
    return [(machine, line) for machine, line in steps]


def test_the_two_machines_of_the_readme(world: World, edge: Edge) -> None:
    machines = {name: world.machine(name) for name in ("gpu-box", "laptop")}
    laptop = machines["laptop"]
    code, commit = "", ""
    for name, shown in commands():
        machine, line = machines[name], shown.replace("https://github.com/you/project", world.remote)
        line = line.replace("CODE", code)
        verb, *words = line.removesuffix(" &").removeprefix("pushtrain ").split()
        if line.startswith(("uv tool install", "export ", "cd ")):
            continue
        if line == "git push":
            commit = world.pushed(laptop, {"pushtrain.toml": JOB})
        elif verb == "invite":
            code = str(machine.start(verb, *words)["code"])
        elif verb == "executor":
            facts = machine.start(verb, *words, "--port", "0")
            assert facts["tunnel"] == "ngrok"
            world.wait_card("lab-3", public_url=edge.url)
        elif verb == "sender":
            machine.start(verb, *words, "--port", "0", "--poll-seconds", "0.3")
            watching(laptop)
        elif verb == "ps":
            laptop.run_of(commit)
            assert commit[:7] in machine.say(verb, *words).stdout
        else:
            assert line.startswith("pushtrain "), line
            done = machine.say(verb, *words)
            if verb == "logs":
                assert done.stdout == "trained\n"
    assert code.startswith(f"{edge.url.removeprefix('http://')}/")
    assert edge.visits > 0
    assert world.house.processes.pop("gpu-box-invite").wait(30) == 0, "who invited is told, and needs no more"
    assert not laptop.json("key", "list")["trusted"][0]["url"], "the roster tells where it is"
    results = laptop.json("results", "fetch", commit, "--into", str(world.house.folder / "fetched"))
    assert "README.md" in results["files"]


def test_each_refusal_comes_with_the_command_that_mends_it(world: World, cable: Cable) -> None:
    laptop, box = world.machine("laptop"), world.machine("gpu-box")
    world.pushed(laptop, {"pushtrain.toml": JOB})
    nobody = laptop.say("ps", code=2)
    assert "pushtrain key trust KEY" in nobody.stderr
    start(box, cable)

    stranger = laptop.say("ps", code=2)
    assert "lab-3 is on the roster, but its key is not trusted here." in stranger.stderr
    assert cable.visits == 0, "nobody is asked before its key is trusted"
    laptop.say(*commanded(stranger.stderr))

    unknown = laptop.say("ps", code=4)
    assert "does not know this machine's key" in unknown.stderr
    box.say(*commanded(unknown.stderr), "--scope", "read")

    assert "No runs yet." in laptop.say("ps").stdout
    refused = laptop.say("send", code=4)
    assert "may not send" in refused.stderr
    box.say("key", "authorize", laptop.key)
    laptop.say("send", "--wait")
    (run,) = laptop.json("ps")
    box.say("key", "authorize", laptop.key, "--scope", "read")
    again = laptop.say("rerun", run["id"], code=4)
    assert "may not send" in again.stderr
    assert "may not cancel" in laptop.say("cancel", run["id"], code=4).stderr


def commanded(text: str) -> list[str]:
    """The words of the command that a message tells to say."""
    found = re.findall(r"`pushtrain (key (?:trust|authorize) [^`]+)`", text)
    assert found, text
    return str(found[-1]).split()


def test_both_sides_get_new_keys_while_they_run_and_nobody_is_told_by_hand(
    world: World, cable: Cable
) -> None:
    laptop = world.machine("laptop")
    world.pushed(laptop, {"README.md": "Nothing to train yet"})
    box = lent(world, cable, to=laptop)
    laptop.start("sender", "--port", "0", "--poll-seconds", "0.3")
    watching(laptop)
    before = {laptop.key, box.key}
    for number, machine in enumerate((laptop, box, box, laptop)):
        fresh = machine.json("key", "rotate")["public_key"]
        if machine is box:
            world.wait_card("lab-3", public_key=fresh, online=True)
        commit = world.pushed(laptop, {"pushtrain.toml": JOB, "n": str(number)}, f"After rotation {number}")
        assert laptop.say("logs", "-f", laptop.run_of(commit)).stdout == "trained\n"
        wait_until(lambda: box.key in pinned(laptop), 30, what="the executor's new key to be pinned")
        assert laptop.key in {each["public_key"] for each in box.json("key", "list")["authorized"]}
    assert len(world.cards()) == 1
    assert not before & {laptop.key, box.key}
    assert box.key in {each["public_key"] for each in laptop.json("key", "list")["trusted"]}
    assert laptop.say("key", "show").stdout.split()[0] == laptop.key

    box.say("key", "revoke", "ada")
    assert "does not know this machine's key" in laptop.say("ps", code=4).stderr


def pinned(machine: Machine) -> set[str]:
    """The keys that it trusts as executors."""
    return {one.public_key for one in Trusted(machine.state.trusted).entries()}


# --- tunnels that move and break --------------------------------------------------------------------------


def test_a_moved_tunnel_is_found_again_while_a_run_goes_on(world: World, edge: Edge) -> None:
    laptop, box = world.machine("laptop"), world.machine("gpu-box")
    box.say("key", "authorize", laptop.key)
    laptop.say("key", "trust", box.key)
    box.start("executor", "--name", "lab-3", "--port", "0", "--slots", "2")
    world.wait_card("lab-3", public_url=edge.url)
    laptop.start("sender", "--port", "0", "--poll-seconds", "0.3")
    watching(laptop)
    script = f"echo started; {AT_THE_GATE}; echo ended"
    first = world.pushed(laptop, {"pushtrain.toml": f"[job.train]\ncommand = {json.dumps(script)}\n{SYSTEM}"})
    run = laptop.run_of(first)
    wait_until(lambda: "started" in laptop.say("logs", run).stdout, what="its output")

    before = edge.url
    edge.drop()
    wait_until(lambda: edge.url != before)
    world.wait_card("lab-3", public_url=edge.url)
    second = world.pushed(laptop, {"pushtrain.toml": JOB}, "After the move")
    assert laptop.say("logs", "-f", laptop.run_of(second)).stdout == "trained\n"

    open_gate(box.state)
    assert laptop.say("logs", "-f", run).stdout == "started\nended\n"
    assert len(laptop.json("show", run)["attempts"]) == 1


def test_a_clean_clone_follows_a_log_through_a_tunnel_that_is_cut_twenty_times(
    world: World, cable: Cable
) -> None:
    laptop = world.machine("laptop")
    world.pushed(laptop, {"pushtrain.toml": f"[job.train]\ncommand = {json.dumps(COUNTING)}\n{SYSTEM}"})
    lent(world, cable, to=laptop)
    (sent,) = laptop.json("send")
    environment = {**world.house._environment(), "PUSHTRAIN_STATE": str(laptop.state.root)}
    argv = (sys.executable, "-P", "-m", "pushtrain", "logs", "-f", sent["run"]["id"])
    text, cuts = b"", 0
    with subprocess.Popen(
        argv, cwd=laptop.clone.folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as reader:
        assert reader.stdout is not None
        assert reader.stderr is not None
        while data := os.read(reader.stdout.fileno(), 65536):
            text += data
            if cuts < 20 and text.count(b"\n") > (cuts + 1) * 15:
                cuts += 1
                cable.cut()
        complaints = reader.stderr.read()
    assert (reader.returncode, cuts) == (0, 20), complaints
    whole = b"".join(b"line %d\n" % number for number in range(1, 401))
    assert hashlib.sha256(text).hexdigest() == hashlib.sha256(whole).hexdigest()

    into = world.house.folder / "fetched"
    laptop.say("results", "fetch", sent["run"]["id"], "--into", str(into))
    (large,) = laptop.json("show", sent["run"]["id"])["artifacts"]
    assert (large["where"], large["size"]) == ("executor", 6_000_000), "too large for Git"
    assert hashlib.sha256((into / "files" / "large").read_bytes()).hexdigest() == large["sha256"]


def test_a_push_is_two_requests_through_the_tunnel_and_waiting_for_one_is_none(
    world: World, cable: Cable
) -> None:
    laptop = world.machine("laptop")
    world.pushed(laptop, {"README.md": "Nothing to train yet"})
    lent(world, cable, to=laptop)
    laptop.start("sender", "--port", "0", "--poll-seconds", "0.1")
    watching(laptop)
    (laptop.clone.folder / "pushtrain.toml").write_text(JOB)
    world.pushed(laptop, {"notes.txt": "Looked at many times before this is delivered"})
    wait_until(lambda: "is with" in laptop.log("sender"), 30, what="the delivery")
    wait_until(lambda: published(world), 30, what="its results")
    assert cable.requests == ["POST /v1/challenge", "POST /v1/runs"]


# --- without a tunnel, and without an executor ------------------------------------------------------------


def test_an_executor_without_a_tunnel_is_seen_and_never_called(world: World) -> None:
    laptop, box = world.machine("laptop"), world.machine("gpu-box")
    world.pushed(laptop, {"README.md": "Nothing to train yet"})
    laptop.say("key", "trust", box.key)
    box.start(
        "executor", "--name", "lab-9", "--tunnel", "none", "--poll", "--poll-seconds", "0.3", "--port", "0"
    )
    card = world.wait_card("lab-9", online=True)
    watching(box, "executor")
    assert (card.public_url, card.name) == ("", "lab-9")
    commit = world.pushed(laptop, {"pushtrain.toml": JOB})
    wait_until(lambda: laptop.json("results", "list") if published(world) else None, 30, what="a result")

    listed = laptop.say("ps")
    assert "lab-9 takes no calls" in listed.stderr
    assert commit[:7] in listed.stdout
    assert laptop.say("logs", commit).stdout == "trained\n"
    assert laptop.json("show", commit)["run"]["outcome"] == "succeeded"


def published(world: World) -> bool:
    folder = world.house.host.folder(world.house.names[0])
    argv = ("git", f"--git-dir={folder}", "rev-parse", "--verify", "-q", "refs/heads/pushtrain/results")
    return subprocess.run(argv, capture_output=True, check=False).returncode == 0


def test_when_the_executor_is_away_the_results_branch_answers(world: World, cable: Cable) -> None:
    laptop = world.machine("laptop")
    commit = world.pushed(laptop, {"pushtrain.toml": JOB})
    box = lent(world, cable, to=laptop)
    laptop.say("send", "--wait")
    (run,) = laptop.json("ps")
    wait_until(lambda: laptop.json("show", run["id"])["run"]["state"] == "done", what="its results")
    box.stop("executor")
    world.wait_card("lab-3", online=False)
    laptop.state.roster_notes.unlink()  # a minute later

    listed = laptop.say("ps")
    assert re.search(r"lab-3 went offline \d+ s ago\. What was published is shown\.", listed.stderr)
    assert run["id"][:8] in listed.stdout
    assert "went offline" in laptop.say("executor", "status", code=2).stderr
    assert laptop.say("logs", "-f", run["id"]).stdout == "trained\n"
    shown = laptop.json("show", commit)
    assert shown["run"]["state"] == "done"
    assert [attempt["executor"] for attempt in shown["attempts"]] == ["lab-3"]
    assert "has ended already" in laptop.say("cancel", run["id"], code=6).stderr
    kept = laptop.say("rerun", run["id"], code=7)
    assert "It is kept" in kept.stderr

    world.house.host.folder(world.house.names[0]).rename(world.house.folder / "away")
    assert run["id"][:8] in laptop.say("ps").stdout, "and without a network"
    assert laptop.say("logs", run["id"]).stdout == "trained\n"


# --- a roster that somebody has tampered with -------------------------------------------------------------


def test_a_poisoned_roster_gets_not_a_byte(world: World, cable: Cable) -> None:
    laptop = world.machine("laptop")
    world.pushed(laptop, {"pushtrain.toml": JOB})
    box = lent(world, cable, to=laptop)
    laptop.start("sender", "--port", "0", "--poll-seconds", "0.3")
    watching(laptop)
    true_roster, true_card = world.roster(), world.cards()["lab-3"]
    thief = load_or_create(world.house.folder / "thief.key")
    with laid() as trap:
        moved = true_card.model_copy(update={"public_url": trap.url, "sequence": true_card.sequence + 9})
        stolen = moved.model_copy(update={"public_key": public_text(thief.public_key())})
        forged = sign_card(stolen, thief)
        poisons = {
            "the address is another one": with_card("", moved),
            "a stranger signed it": with_card("", forged),
            "a stranger signed it in the other's place": with_card("", forged).replace(
                _name(stolen.public_key), _name(true_card.public_key)
            ),
            "a stranger stands beside it": with_card(true_roster, forged),
        }
        for number, (what, text) in enumerate(poisons.items()):
            world.poison(text)
            laptop.state.roster_notes.unlink(missing_ok=True)
            commit = world.pushed(laptop, {"pushtrain.toml": JOB, "n": str(number)}, what)
            if "beside" in what:  # the true card is there: the run finds its way
                assert laptop.say("logs", "-f", laptop.run_of(commit)).stdout == "trained\n"
                continue
            wait_until(lambda: f"push of {commit[:7]}" in laptop.log("sender"), what="the push")  # noqa: B023
            laptop.say("send", code=7)
        assert (trap.visits, trap.heard) == (0, 0)
    assert box.log("executor")


def _name(public_key: str) -> str:
    from pushtrain.core.wire.signing import fingerprint

    return fingerprint(parse_public(public_key))
