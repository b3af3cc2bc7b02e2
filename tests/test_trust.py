"""Whose executors are believed: by files, by the environment, by a fingerprint; and who is no more."""

import json
import subprocess
import time
from contextlib import closing
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from pushtrain.cli.app import run
from pushtrain.core.errors import ConfigError
from pushtrain.core.settings import ExecutorAddress, Repository, SenderSettings, Settings
from pushtrain.core.values.card import ExecutorCard
from pushtrain.core.wire.roster import Standing, sign_card, with_card
from pushtrain.core.wire.signing import fingerprint, public_text
from pushtrain.core.wire.succession import Succession, succession
from pushtrain.plumbing.disk.state import StateFolder
from pushtrain.plumbing.git.mirror import Mirror
from pushtrain.plumbing.git.rosterfile import RosterFile
from pushtrain.plumbing.keys.authorized import Trusted
from pushtrain.plumbing.sqlite.store import Store
from pushtrain.sender.kept import KeptCommands
from pushtrain.testing import WorkRepository, a_card, a_command
from pushtrain.wiring.directory import look_up
from pushtrain.wiring.parts import executor_addresses, identity, mirror
from pushtrain.wiring.rosters import look, places
from pushtrain.wiring.trust import heirs, trusted_here

Out = pytest.CaptureFixture[str]

KEY = Ed25519PrivateKey.from_private_bytes(b"k" * 32)
TEXT, ID = public_text(KEY.public_key()), fingerprint(KEY.public_key())
EVE = Ed25519PrivateKey.from_private_bytes(b"e" * 32)


class Laptop:
    """A state folder, the user's own, and a clone whose roster lists one executor."""

    def __init__(self, folder: Path) -> None:
        self.state = StateFolder(folder / "state").create()
        self.users = StateFolder(folder / "home" / "pushtrain").create()
        self.remote = folder / "remote.git"
        subprocess.run(["git", "init", "-q", "--bare", "-b", "main", str(self.remote)], check=True)
        self.clone = WorkRepository(folder / "clone", str(self.remote))
        self.clone.commit({"README.md": "hello"})
        self.clone.git("remote", "add", "origin", str(self.remote), check=False)
        self.settings = Settings(repositories=(Repository(key="h/octo", remote=str(self.remote)),))
        ((place, _),) = places(self.settings)
        self.roster = RosterFile(Mirror(folder / "writer", place.repository), place)

    def list_card(self, key: Ed25519PrivateKey = KEY, **changes: object) -> ExecutorCard:
        given = {
            "expires": time.time() + 3600,
            "public_url": "https://lab.example",
            "name": "lab-3",
            **changes,
        }
        card = sign_card(a_card(public_key=public_text(key.public_key()), **given), key)
        self.roster.write(lambda text: with_card(text, card), message="Card", when=1)
        return card

    def standing(self) -> Standing:
        rosters = look(self.state, self.settings, lambda each: mirror(self.state, each), max_age=0)
        (found,) = rosters.verdicts()
        return found.verdict.standing

    def say(self, *words: str) -> int:
        return run([*words, "--state", str(self.state.root)])


@pytest.fixture
def laptop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Laptop:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "home"))
    one = Laptop(tmp_path)
    monkeypatch.chdir(one.clone.folder)
    return one


# --- CI, and the user's other folders ---------------------------------------------------------------------


@pytest.mark.parametrize("text", [TEXT, ID, f"{public_text(EVE.public_key())} {ID}", f"\n{TEXT},\n"])
def test_a_key_in_the_environment_is_trusted_and_nothing_is_written(
    laptop: Laptop, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    laptop.list_card()
    assert laptop.standing() is Standing.UNKNOWN
    monkeypatch.setenv("PUSHTRAIN_TRUST", text)
    assert laptop.standing() is Standing.TRUSTED
    (client,) = look_up(laptop.state, laptop.settings).executors
    assert (client.id, client.url) == (ID, "https://lab.example")
    assert not laptop.state.trusted.exists()


@pytest.mark.parametrize("text", ["nonsense", "https://lab.example", ID[:-1], f"{ID}x", TEXT[:-2]])
def test_what_is_no_key_in_the_environment_is_an_error_and_not_ignored(
    laptop: Laptop, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.setenv("PUSHTRAIN_TRUST", f"{ID} {text}")
    with pytest.raises(ConfigError, match="PUSHTRAIN_TRUST"):
        trusted_here(laptop.state, laptop.settings)


def test_an_empty_variable_trusts_nobody(laptop: Laptop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PUSHTRAIN_TRUST", " \n")
    assert trusted_here(laptop.state, laptop.settings) == {fingerprint(identity(laptop.state).public_key())}


def test_what_the_user_trusts_counts_in_all_of_his_folders_but_leads_nowhere(laptop: Laptop) -> None:
    """A folder of its own, such as the demo's, must not begin to ask the user's executors."""
    Trusted(laptop.users.trusted).add(KEY.public_key(), url="https://elsewhere.example", name="lab-3")
    assert ID in trusted_here(laptop.state, laptop.settings)
    assert executor_addresses(laptop.state, laptop.settings) == []
    laptop.list_card()
    (client,) = look_up(laptop.state, laptop.settings).executors
    assert client.url == "https://lab.example"


# --- by fingerprint ---------------------------------------------------------------------------------------


def test_a_fingerprint_will_do_where_the_roster_lists_its_key(laptop: Laptop, capsys: Out) -> None:
    laptop.list_card()
    assert laptop.say("key", "trust", ID, "--json") == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["public_key"], document["name"], document["url"]) == (TEXT, "lab-3", "")
    (entry,) = Trusted(laptop.state.trusted).entries()
    assert (entry.public_key, entry.url) == (TEXT, ""), "its key is pinned, never where it was"
    laptop.list_card(public_url="https://moved.example", sequence=2)
    assert laptop.standing() is Standing.TRUSTED


def test_a_fingerprint_that_no_roster_lists_says_what_to_do(laptop: Laptop, capsys: Out) -> None:
    laptop.list_card(EVE)
    assert laptop.say("key", "trust", ID) == 5
    said = capsys.readouterr().err
    assert "No roster here lists" in said
    assert "name the whole key" in said
    assert not laptop.state.trusted.exists()


def test_a_card_that_claims_a_fingerprint_is_not_pinned_for_it(laptop: Laptop) -> None:
    """Whoever may push puts his own key under the fingerprint that you were told."""
    card = laptop.list_card(EVE)
    text = with_card("", card).replace(fingerprint(EVE.public_key()), ID)
    laptop.roster.write(lambda _: text, message="Card", when=1)
    assert laptop.say("key", "trust", ID) == 5
    assert not laptop.state.trusted.exists()


# --- no more ----------------------------------------------------------------------------------------------


def test_a_distrusted_executor_is_believed_by_nobody_here(
    laptop: Laptop, monkeypatch: pytest.MonkeyPatch, capsys: Out
) -> None:
    laptop.list_card()
    assert laptop.say("key", "trust", TEXT, "https://lab.example", "--name", "lab-3") == 0
    assert laptop.standing() is Standing.TRUSTED
    assert laptop.say("key", "distrust", "lab-3") == 0
    assert laptop.standing() is Standing.UNKNOWN
    monkeypatch.setenv("PUSHTRAIN_TRUST", ID)
    Trusted(laptop.users.trusted).add(KEY.public_key())
    named = SenderSettings(executors=(ExecutorAddress(url="https://lab.example", public_key=TEXT),))
    settings = laptop.settings.model_copy(update={"sender": named})
    assert ID not in trusted_here(laptop.state, settings)
    assert executor_addresses(laptop.state, settings) == []
    assert look_up(laptop.state, settings).clients == ()
    capsys.readouterr()
    assert laptop.say("key", "list") == 0
    assert "not any more" in capsys.readouterr().out
    assert laptop.say("key", "trust", TEXT) == 0
    assert ID in trusted_here(laptop.state, settings)


@pytest.mark.parametrize("who", [TEXT, ID])
def test_who_was_never_trusted_can_be_distrusted(
    laptop: Laptop, monkeypatch: pytest.MonkeyPatch, capsys: Out, who: str
) -> None:
    laptop.list_card()
    monkeypatch.setenv("PUSHTRAIN_TRUST", ID)
    assert laptop.say("key", "distrust", who) == 0
    assert "PUSHTRAIN_TRUST names it as well" in capsys.readouterr().out
    assert ID not in trusted_here(laptop.state, laptop.settings)


def test_what_the_user_distrusts_is_distrusted_in_all_of_his_folders(laptop: Laptop, capsys: Out) -> None:
    Trusted(laptop.state.trusted).add(KEY.public_key(), url="https://lab.example")
    (entry,) = Trusted(laptop.state.trusted).entries()
    Trusted(laptop.users.trusted).revoke(entry)
    assert ID not in trusted_here(laptop.state, laptop.settings)
    assert executor_addresses(laptop.state, laptop.settings) == []
    assert laptop.say("key", "trust", TEXT) == 0
    assert "so it is not believed" in capsys.readouterr().out


# --- an executor with a new key ---------------------------------------------------------------------------


def heir_of(laptop: Laptop, *, overlap: float = 3600, **changes: object) -> Ed25519PrivateKey:
    """The executor's new key, whose card stands in the roster in the place of the old one's."""
    new = Ed25519PrivateKey.generate()
    said = succession(KEY, new.public_key(), at=time.time(), overlap=overlap)
    laptop.list_card(new, succession=(str(said),), **changes)
    return new


def test_a_roster_leads_to_the_new_key_and_it_is_pinned(laptop: Laptop) -> None:
    Trusted(laptop.state.trusted).add(KEY.public_key(), name="gpu")
    new = heir_of(laptop)
    assert laptop.standing() is Standing.TRUSTED
    old, entry = Trusted(laptop.state.trusted).entries()
    assert (entry.public_key, entry.name, entry.was) == (public_text(new.public_key()), "gpu", (ID,))
    assert old.until is not None
    assert heirs(laptop.state) == {ID: fingerprint(new.public_key())}


def test_the_old_keys_card_leads_nowhere_beside_the_new_ones(laptop: Laptop) -> None:
    Trusted(laptop.state.trusted).add(KEY.public_key())
    laptop.list_card()
    new = heir_of(laptop, public_url="https://new.example")
    (client,) = look_up(laptop.state, laptop.settings).executors
    assert (client.id, client.url) == (fingerprint(new.public_key()), "https://new.example")
    found = look(laptop.state, laptop.settings, lambda each: mirror(laptop.state, each), max_age=0).verdicts()
    assert {(each.verdict.fingerprint, each.verdict.standing) for each in found} == {
        (ID, Standing.OLDER),
        (client.id, Standing.TRUSTED),
    }


def test_a_key_of_the_environment_leads_to_the_new_one_too(
    laptop: Laptop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PUSHTRAIN_TRUST", ID)
    heir_of(laptop)
    assert laptop.standing() is Standing.TRUSTED


def test_a_stranger_on_the_roster_is_nobodys_heir(laptop: Laptop) -> None:
    """He may push, and he may write whatever he likes onto his own card."""
    Trusted(laptop.state.trusted).add(KEY.public_key())
    said = succession(KEY, Ed25519PrivateKey.generate().public_key(), at=time.time(), overlap=60)
    own = succession(EVE, EVE.public_key(), at=time.time(), overlap=60)
    forged = Succession(TEXT, public_text(EVE.public_key()), said.at, said.until, said.signature)
    for lie in ((str(said),), (str(own),), (str(forged),), (str(said), str(own)), ("nonsense",)):
        laptop.list_card(EVE, succession=lie)
        assert laptop.standing() is Standing.UNKNOWN
    assert len(Trusted(laptop.state.trusted).entries()) == 1


def test_a_command_that_an_executor_may_have_goes_to_its_new_key(laptop: Laptop) -> None:
    with closing(Store(laptop.state.store)) as store:
        store.settle_push(None, [a_command()], "by hand", executor=ID)
        store.outbox_inherited(ID, "SHA256:new")
        store.outbox_inherited("SHA256:other", "SHA256:x")
        assert [each.executor for each in store.outbox_of([a_command().run_id])] == ["SHA256:new"]
    kept = KeptCommands(laptop.state.outbox)
    held = kept.keep(a_command())
    assert held is not None
    with held:
        held.place(ID)
    kept.inherited({ID: "SHA256:new"})
    assert [executor for _, executor, _ in kept.peek()] == ["SHA256:new"]


def test_rotating_is_one_command(laptop: Laptop, capsys: Out) -> None:
    before = identity(laptop.state)
    assert laptop.say("key", "rotate", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["former"] == fingerprint(before.public_key())
    assert told["fingerprint"] == fingerprint(identity(laptop.state).public_key())
    assert 6.9 * 86400 < told["until"] - time.time() < 7.1 * 86400
    assert laptop.say("key", "rotate", "--overlap", "1h") == 0
    said = capsys.readouterr().out
    assert "is this machine's key now" in said
    secret = laptop.state.key.read_text().split("-----")[2].strip()
    assert secret not in said + json.dumps(told)
    for wrong in ("soon", "91d"):
        assert laptop.say("key", "rotate", "--overlap", wrong) == 2
