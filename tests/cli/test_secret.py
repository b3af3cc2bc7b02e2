"""`pushtrain secret`: as a person calls it, and what the executor makes of it."""

import io
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pexpect
import pytest

from pushtrain.cli.app import run
from pushtrain.core.settings import Repository
from pushtrain.core.wire.place import Place
from pushtrain.core.wire.roster import sign_card, with_card
from pushtrain.core.wire.secrets import parse
from pushtrain.core.wire.signing import public_text
from pushtrain.executor.runs.vault import Vault
from pushtrain.plumbing.disk.state import StateFolder
from pushtrain.plumbing.git.mirror import Mirror
from pushtrain.plumbing.git.rosterfile import RosterFile
from pushtrain.plumbing.keys.authorized import Authorized, Trusted, load_or_create
from pushtrain.plumbing.keys.sealing import sealing_key, sealing_text
from pushtrain.testing import WorkRepository, a_card, a_command, a_spec

Out = pytest.CaptureFixture[str]
VALUE = "wk-9f+/Zq?8=_Lm4"


class World:
    """Two executors on the roster of a repository, and a borrower who trusts them and stands in its clone."""

    def __init__(self, folder: Path, repository: Callable[..., WorkRepository]) -> None:
        self.origin = folder / "origin.git"
        subprocess.run(["git", "init", "-q", "--bare", "-b", "main", str(self.origin)], check=True)
        self.work = repository("work", remote=str(self.origin))
        self.work.commit({"pushtrain.toml": '[job.train]\ncommand = "x"\nsecrets = ["API_KEY"]\n'})
        self.work.push()
        self.key = f"localhost{str(self.origin).removesuffix('.git')}"
        self.remote = Repository(key=self.key, remote=str(self.origin))
        self.borrower = StateFolder(folder / "borrower").create()
        self.folder = folder
        self.executors = {name: self.executor(name) for name in ("lab-1", "lab-2")}

    def executor(self, name: str) -> StateFolder:
        state = StateFolder(self.folder / name).create()
        key = load_or_create(state.key)
        card = a_card(
            name=name,
            public_key=public_text(key.public_key()),
            sealing_key=sealing_text(sealing_key(state.sealing_key).public_key()),
            public_url="",
            expires=1.0,  # it was not renewed, and counts all the same
        )
        signed = sign_card(card, key)
        self.file("config.json").write(lambda text: with_card(text, signed), message="Card", when=1)
        Trusted(self.borrower.trusted).add(key.public_key(), name=name)
        sender = load_or_create(self.borrower.key).public_key()
        Authorized(state.authorized).add(sender, name="ada")
        return state

    def file(self, path: str) -> RosterFile:
        mirror = Mirror(self.folder / "mirror", self.remote)
        return RosterFile(mirror, Place(repository=self.remote, branch="pushtrain/config", path=path))

    def text(self) -> str:
        return self.file("secrets.json").read().text

    def given(self, executor: str, *, ref: str = "refs/heads/main", job: str = "train") -> str:
        """The value that a run would get there, or why it gets none."""
        state = self.executors[executor]
        vault = Vault(
            sealing_key(state.sealing_key),
            sealed={self.key: lambda _: self.text()},
            grants=Authorized(state.authorized).lookup,
            memory=state.secret_times,
        )
        spec = a_spec(name=job, secrets=("API_KEY",))
        try:
            return vault.of(a_command(repository=self.key, ref=ref, job=spec))["API_KEY"].value
        except Exception as error:  # noqa: BLE001  told by its words
            return str(error)


@pytest.fixture
def world(
    tmp_path: Path, repository: Callable[..., WorkRepository], monkeypatch: pytest.MonkeyPatch
) -> World:
    found = World(tmp_path, repository)
    monkeypatch.chdir(found.work.folder)
    monkeypatch.setenv("PUSHTRAIN_STATE", str(found.borrower.root))
    return found


def pipe(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode())))


@pytest.fixture
def piped(world: World, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], World]:
    """The world, with a value on standard input."""

    def make(value: str) -> World:
        pipe(monkeypatch, value)
        return world

    return make


def test_a_value_from_a_pipe_is_sealed_for_every_trusted_executor(
    world: World, monkeypatch: pytest.MonkeyPatch, capsys: Out
) -> None:
    pipe(monkeypatch, f"{VALUE}\n")
    assert run(["secret", "set", "API_KEY"]) == 0
    said = capsys.readouterr().out
    assert "API_KEY is sealed for lab-1, lab-2: every job on every branch of" in said
    assert VALUE not in said + world.text()
    assert [world.given(name) for name in world.executors] == [VALUE, VALUE]
    assert run(["secret", "list"]) == 0
    listed = capsys.readouterr().out
    assert listed.count("API_KEY") == 2
    assert "you" in listed
    assert "lab-2" in listed
    assert world.file("config.json").read().text.count("sealing_key") == 2, "the cards are still there"


def test_it_is_for_the_executor_job_branch_and_time_that_were_named(
    world: World, monkeypatch: pytest.MonkeyPatch, capsys: Out
) -> None:
    pipe(monkeypatch, VALUE)
    argv = ["secret", "set", "API_KEY", "--executor", "lab-2", "--job", "train*", "--branch", "release/*"]
    assert run([*argv, "--expires", "90d", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert [one["name"] for one in told["executors"]] == ["lab-2"]
    assert world.given("lab-2", ref="refs/heads/release/1") == VALUE
    assert "is for the job train* on release/*" in world.given("lab-2")
    assert "is sealed for another executor" in world.given("lab-1", ref="refs/heads/release/1")
    (entry,) = parse(world.text()).entries
    assert entry.expires == told["expires"]


def test_set_again_replaces_the_value_and_remove_takes_it_back_for_good(
    world: World, monkeypatch: pytest.MonkeyPatch, capsys: Out
) -> None:
    for value in ("the-first-value", VALUE):
        pipe(monkeypatch, value)
        assert run(["secret", "set", "API_KEY", "--executor", "lab-1"]) == 0
    assert len(parse(world.text()).entries) == 1
    assert world.given("lab-1") == VALUE
    before = world.text()
    assert run(["secret", "remove", "API_KEY"]) == 0
    assert "removed (1 sealed value)" in capsys.readouterr().out
    assert "was removed" in world.given("lab-1")
    world.file("secrets.json").write(lambda _: before, message="Back", when=1)
    assert "somebody put an old value back" in world.given("lab-1")
    pipe(monkeypatch, "a-third-value")
    assert run(["secret", "set", "API_KEY", "--executor", "lab-1"]) == 0
    assert world.given("lab-1") == "a-third-value"


def test_what_somebody_else_sealed_is_removed_from_the_file(
    world: World, monkeypatch: pytest.MonkeyPatch, capsys: Out
) -> None:
    pipe(monkeypatch, VALUE)
    assert run(["secret", "set", "API_KEY"]) == 0
    bob = StateFolder(world.folder / "bob").create()
    for state in world.executors.values():
        Trusted(bob.trusted).add(load_or_create(state.key).public_key())
    assert run(["secret", "remove", "API_KEY", "--state", str(bob.root)]) == 0
    assert parse(world.text()).entries == ()
    capsys.readouterr()
    assert run(["secret", "list"]) == 0
    assert "No secret is sealed" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "value", "told"),
    [
        ("hf_aTokenInsteadOfAName", VALUE, "What was given is not a variable's name in capitals"),
        ("LD_PRELOAD", VALUE, "changes how programs run"),
        ("API_KEY", "short", "fewer than 8 characters"),
        ("API_KEY", "", "No value was given"),
        ("API_KEY --executor lab-9", VALUE, "There are: lab-1"),
        ("API_KEY --branch [z", VALUE, "branch pattern"),
        ("API_KEY --expires 2020-01-01", VALUE, "is over"),
        ("API_KEY --expires soon", VALUE, "no date"),
        ("API_KEY --file /nowhere/at/all", VALUE, "cannot be read"),
    ],
)
def test_what_cannot_be_is_told_in_one_line_without_the_value(
    piped: Callable[[str], World], capsys: Out, words: str, value: str, told: str
) -> None:
    world = piped(value)
    assert run(["secret", "set", *words.split()]) != 0
    said = capsys.readouterr()
    assert told in said.err
    assert VALUE not in said.err + said.out
    assert "hf_aToken" not in said.err
    assert world.text() == ""


def test_a_value_from_a_file_keeps_its_lines(world: World, tmp_path: Path) -> None:
    path = tmp_path / "key.pem"
    path.write_text("-----BEGIN KEY-----\nabcdefgh\n-----END KEY-----\n")
    assert run(["secret", "set", "API_KEY", "--file", str(path)]) == 0
    assert world.given("lab-1") == path.read_text()


def test_at_a_terminal_the_value_is_asked_for_and_not_shown(world: World) -> None:
    child = pexpect.spawn(
        sys.executable, ["-m", "pushtrain", "secret", "set", "API_KEY"], encoding="utf-8", timeout=30
    )
    child.expect("Value of API_KEY")
    child.waitnoecho(timeout=10)
    assert not child.getecho()
    child.sendline(VALUE)
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 0
    said = child.before or ""
    assert "is sealed for lab-1, lab-2" in said
    assert VALUE not in said
    assert world.given("lab-2") == VALUE


def test_check_tells_which_secrets_nobody_has_set(
    world: World, monkeypatch: pytest.MonkeyPatch, capsys: Out
) -> None:
    assert run(["check"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "train: nobody has set the secret API_KEY for it on main" in said
    pipe(monkeypatch, VALUE)
    assert run(["secret", "set", "API_KEY", "--branch", "main"]) == 0
    world.work.git("fetch", "--quiet", "origin", "+refs/heads/*:refs/remotes/origin/*")
    capsys.readouterr()
    assert run(["check"]) == 0
    assert "API_KEY" not in capsys.readouterr().out
    assert run(["check", "--branch", "feature"]) == 0
    assert "API_KEY for it on feature" in " ".join(capsys.readouterr().out.split())
    world.file("secrets.json").write(lambda _: "[", message="Broken", when=1)
    world.work.git("fetch", "--quiet", "origin", "+refs/heads/*:refs/remotes/origin/*")
    assert run(["check"]) == 0
    assert "no file of sealed secrets" in " ".join(capsys.readouterr().out.split())


def test_an_owner_sees_what_jobs_could_get_and_what_is_wrong_with_the_rest(
    world: World, monkeypatch: pytest.MonkeyPatch, capsys: Out
) -> None:
    state = world.executors["lab-1"]
    kept = world.folder / "hf"
    kept.write_text(VALUE)
    kept.chmod(0o644)
    state.settings.write_text(
        f'repositories = ["{world.origin}"]\n'
        f'[[secrets]]\nname = "HF_TOKEN"\nfile = "{kept}"\nrepositories = ["localhost/**"]\n'
    )
    pipe(monkeypatch, VALUE)
    assert run(["secret", "set", "API_KEY"]) == 0
    eve = StateFolder(world.folder / "eve").create()
    for each in world.executors.values():
        Trusted(eve.trusted).add(load_or_create(each.key).public_key())
    pipe(monkeypatch, VALUE)
    assert run(["secret", "set", "API_KEY", "--branch", "evil", "--state", str(eve.root)]) == 0
    capsys.readouterr()
    assert run(["executor", "secrets", "--json", "--state", str(state.root)]) == 0
    text = capsys.readouterr().out
    told = {(one["name"], one["scope"]): one for one in json.loads(text)}
    assert told["API_KEY", "every job on every branch"]["origin"] == "sealed by ada"
    assert told["API_KEY", "every job on every branch"]["trouble"] == ""
    assert "not authorised here" in told["API_KEY", "every job on evil"]["trouble"]
    assert f"chmod 600 {kept}" in told["HF_TOKEN", "every job on every branch"]["trouble"]
    assert VALUE not in text
    assert run(["executor", "secrets", "--state", str(state.root)]) == 0
    assert "sealed by ada" in capsys.readouterr().out
