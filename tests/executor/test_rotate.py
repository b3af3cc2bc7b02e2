"""New keys: a sender's is obeyed with its next request, an executor's followed by its card; no forks."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from pushtrain.core.errors import Unauthorized, Unreachable
from pushtrain.core.settings import ExecutorAddress, Settings
from pushtrain.core.values.command import TrainCommand
from pushtrain.core.values.states import Outcome
from pushtrain.core.wire.frames import CapacityFrame, ViewFrame
from pushtrain.core.wire.grants import Scope, Word
from pushtrain.core.wire.signing import fingerprint, public_text
from pushtrain.core.wire.succession import header, succession
from pushtrain.plumbing.disk.state import StateFolder
from pushtrain.plumbing.http.client import ExecutorClient
from pushtrain.plumbing.keys.authorized import Trusted
from pushtrain.plumbing.keys.identity import Identity, load, rotate
from pushtrain.testing import REPOSITORY, a_command
from pushtrain.wiring.parts import executor_addresses
from pushtrain.wiring.trust import follow, heirs, trusted_here
from served import Served, served

DAY = 86_400.0


class Sender:
    """A machine that sends: its identity, and clients that speak for it."""

    def __init__(self, folder: Path, executor: Served) -> None:
        self.path = folder / "identity.key"
        folder.mkdir()
        self.executor = executor

    @property
    def identity(self) -> Identity:
        return load(self.path)

    def rotate(self, overlap: float = DAY) -> Identity:
        return rotate(self.path, overlap=overlap, clock=self.executor.clock)

    def client(self, identity: Identity | None = None, *, shows: bool = True) -> ExecutorClient:
        who = identity or self.identity
        return ExecutorClient(
            self.executor.url,
            self.executor.key.public_key(),
            who.key,
            succession=header(who.chain) if shows else "",
            clock=self.executor.clock,
        )


@pytest.fixture
def executor(tmp_path: Path) -> Iterator[Served]:
    with served(tmp_path / "state") as one:
        yield one


@pytest.fixture
def sender(tmp_path: Path, executor: Served) -> Sender:
    one = Sender(tmp_path / "sender", executor)
    executor.authorized.add(
        one.identity.key.public_key(),
        name="ada",
        scopes=[Scope.SEND],
        repositories=[REPOSITORY],
        branches=["main"],
    )
    return one


# --- a sender's new key -----------------------------------------------------------------------------------


def test_a_new_key_is_obeyed_with_its_first_request_and_has_the_same_rights(
    executor: Served, sender: Sender
) -> None:
    old = sender.identity
    new = sender.rotate()
    with pytest.raises(Unauthorized):
        sender.client(shows=False).challenge()
    assert sender.client().send(a_command()).sender == new.id
    grant, former = executor.authorized.lookup(new.id), executor.authorized.lookup(old.id)
    assert grant
    assert former
    assert (grant.scopes, grant.repositories, grant.branches, grant.name) == (
        former.scopes,
        former.repositories,
        former.branches,
        former.name,
    )
    assert grant.was == (old.id,)
    sender.client(shows=False).challenge()
    sender.client(old).challenge()


def test_a_key_that_is_forestalled_while_it_is_being_written_down_is_refused(
    executor: Served, sender: Sender, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the look and the pen another key may take the place."""
    sender.rotate()
    with monkeypatch.context() as forestalled:
        forestalled.setattr(executor.service.admission, "succeed", lambda *_: None)
        with pytest.raises(Unauthorized):
            sender.client().challenge()
    sender.client().challenge()


def test_after_the_overlap_only_the_new_key_counts(executor: Served, sender: Sender) -> None:
    old = sender.identity
    sender.rotate()
    sender.client().challenge()
    executor.clock.advance(DAY + 1)
    with pytest.raises(Unauthorized):
        sender.client(old).challenge()
    sender.client().challenge()


def test_who_was_away_during_the_overlap_is_still_led_to_the_new_key(
    executor: Served, sender: Sender
) -> None:
    for _ in range(3):
        sender.rotate()
        executor.clock.advance(10 * DAY)
    sender.client().challenge()
    assert executor.authorized.lookup(sender.identity.id)


def test_what_the_old_key_sent_stays_its_own(executor: Served, sender: Sender) -> None:
    first, second = (a_command(request=each) for each in "ab")
    for each in (first, second):
        sender.client().send(each)
    old = sender.identity
    sender.rotate()
    sender.client().challenge()
    executor.clock.advance(DAY + 1)
    assert executor.authorized.word(old.id) is Word.MAY, "its runs may still start"
    news = sender.client().events()
    frame = next(news)
    assert isinstance(frame, CapacityFrame)
    assert set(frame.waiting) == {first.run_id, second.run_id}
    news.close()  # type: ignore[attr-defined]
    assert sender.client().release(first.run_id, 0).outcome is Outcome.MOVED


def refused(client: ExecutorClient, command: TrainCommand | None = None) -> None:
    with pytest.raises(Unauthorized):
        client.send(command or a_command())


def test_a_stolen_old_key_makes_no_second_heir(executor: Served, sender: Sender) -> None:
    """Eve has a copy of the old key, and is late."""
    old = sender.identity
    sender.rotate()
    sender.client().challenge()
    eve = Ed25519PrivateKey.generate()
    stolen = succession(old.key, eve.public_key(), at=executor.clock(), overlap=DAY)
    refused(sender.client(Identity(eve, (stolen,))))
    executor.clock.advance(DAY + 1)
    refused(sender.client(Identity(eve, (stolen,))))


def test_a_statement_that_was_overheard_is_of_no_use_to_others(executor: Served, sender: Sender) -> None:
    sender.rotate()
    eve = Identity(Ed25519PrivateKey.generate(), sender.identity.chain)
    before = executor.state.authorized.read_text()
    refused(sender.client(eve))
    signed_by_herself = succession(eve.key, eve.key.public_key(), at=executor.clock(), overlap=DAY)
    refused(sender.client(Identity(eve.key, (*sender.identity.chain, signed_by_herself))))
    assert executor.state.authorized.read_text() == before


def test_a_strangers_statement_lets_nobody_in(executor: Served, sender: Sender) -> None:
    stranger, heir = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
    said = succession(stranger, heir.public_key(), at=executor.clock(), overlap=DAY)
    refused(sender.client(Identity(heir, (said,))))


@pytest.mark.parametrize("which", ["old", "new"])
def test_with_one_key_its_whole_succession_is_revoked(executor: Served, sender: Sender, which: str) -> None:
    first = sender.identity
    second = sender.rotate()
    sender.client().challenge()
    executor.authorized.revoke(first.id if which == "old" else second.id)
    for identity in (first, second, sender.rotate()):
        refused(sender.client(identity))
    heir = Ed25519PrivateKey.generate()
    for old in (first, second):
        said = succession(old.key, heir.public_key(), at=executor.clock(), overlap=DAY)
        refused(sender.client(Identity(heir, (*old.chain, said))))


def test_a_name_means_a_machine_whatever_its_key(executor: Served, sender: Sender) -> None:
    for _ in range(2):
        sender.rotate()
        sender.client().challenge()
    meant = executor.authorized.revoke("ada")[0]
    assert meant.public_key == public_text(sender.identity.key.public_key())
    assert all(each.revoked for each in executor.authorized.grants())
    refused(sender.client())


def test_a_key_that_was_revoked_before_it_was_replaced_has_no_heir(executor: Served, sender: Sender) -> None:
    executor.authorized.revoke("ada")
    sender.rotate()
    refused(sender.client())


# --- an executor's new key --------------------------------------------------------------------------------


@pytest.fixture
def laptop(tmp_path: Path, executor: Served) -> StateFolder:
    state = StateFolder(tmp_path / "laptop").create()
    Trusted(state.trusted).add(executor.key.public_key(), url=executor.url, name="lab")
    executor.authorized.add(load(state.key).key.public_key())
    return state


def asks(executor: Served, laptop: StateFolder, key: Ed25519PrivateKey) -> ExecutorClient:
    return ExecutorClient(executor.url, key.public_key(), load(laptop.key).key, clock=executor.clock)


def rotated(executor: Served, clock: Callable[[], float] = time.time) -> Identity:
    """Its new key; the laptop's files know only the machine's clock."""
    return rotate(executor.state.key, overlap=DAY, clock=clock)


def test_a_running_executor_answers_for_both_keys_until_the_overlap_is_over(
    executor: Served, laptop: StateFolder
) -> None:
    run = asks(executor, laptop, executor.key).send(a_command())
    new = rotated(executor, executor.clock)
    for key in (executor.key, new.key):
        client = asks(executor, laptop, key)
        assert client.challenge().card.public_key == public_text(new.key.public_key())
        assert client.view(run.id).run.id == run.id
        frames = client.follow(run.id)
        assert isinstance(next(frames), ViewFrame)
        frames.close()  # type: ignore[attr-defined]
    executor.clock.advance(DAY + 1)
    with pytest.raises(Unreachable):
        asks(executor, laptop, executor.key).challenge()
    asks(executor, laptop, new.key).challenge()


def test_a_sender_follows_by_the_card_and_pins_the_new_key(executor: Served, laptop: StateFolder) -> None:
    new = rotated(executor)
    card = asks(executor, laptop, executor.key).challenge().card
    assert follow(laptop, Settings(), card, url=executor.url)
    old_id = fingerprint(executor.key.public_key())
    assert {old_id, new.id} < trusted_here(laptop, Settings())
    assert heirs(laptop) == {old_id: new.id}
    (address,) = executor_addresses(laptop, Settings())
    assert address == ExecutorAddress(url=executor.url, public_key=public_text(new.key.public_key()))
    assert not follow(laptop, Settings(), card), "it is known now"


def test_a_stolen_old_key_leads_no_sender_astray(executor: Served, laptop: StateFolder) -> None:
    rotated(executor)
    card = asks(executor, laptop, executor.key).challenge().card
    assert follow(laptop, Settings(), card)
    eve = Ed25519PrivateKey.generate()
    said = succession(executor.key, eve.public_key(), at=executor.clock(), overlap=DAY)
    hers = card.model_copy(update={"public_key": public_text(eve.public_key()), "succession": (str(said),)})
    assert not follow(laptop, Settings(), hers)
    assert fingerprint(eve.public_key()) not in trusted_here(laptop, Settings())


def test_nobody_follows_a_key_that_is_distrusted(executor: Served, laptop: StateFolder) -> None:
    (entry,) = Trusted(laptop.trusted).entries()
    Trusted(laptop.trusted).revoke(entry)
    new = rotated(executor)
    card = asks(executor, laptop, executor.key).challenge().card
    assert not follow(laptop, Settings(), card)
    assert new.id not in trusted_here(laptop, Settings())


def test_with_one_key_the_whole_succession_is_distrusted(executor: Served, laptop: StateFolder) -> None:
    new = rotated(executor)
    assert follow(laptop, Settings(), asks(executor, laptop, executor.key).challenge().card)
    old, _ = Trusted(laptop.trusted).all().values()
    Trusted(laptop.trusted).revoke(old)
    assert not {new.id, fingerprint(executor.key.public_key())} & trusted_here(laptop, Settings())
    rotated(executor)
    assert not follow(laptop, Settings(), asks(executor, laptop, new.key).challenge().card)
