"""A push is never hijacked by a roster: a real sender, a real Git host, and somebody who listens."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import tomlkit
from house import SYSTEM, House, Work, housed

from liar import Recorder
from pushtrain.core.settings import Repository
from pushtrain.core.values.card import ExecutorCard
from pushtrain.core.values.value import CONFIG_BRANCH
from pushtrain.core.wire.place import Place
from pushtrain.core.wire.roster import sign_card, with_card
from pushtrain.core.wire.signing import public_text
from pushtrain.plumbing.git.mirror import Mirror
from pushtrain.plumbing.git.rosterfile import RosterFile
from pushtrain.plumbing.keys.authorized import Trusted, load_or_create
from pushtrain.testing import a_card, wait_until

pytestmark = pytest.mark.slow

DATA = "https://data.example/set.tar?X-Signature=presigned"
JOB = (
    f'[job.train]\ncommand = "python train.py --very-special"\n{SYSTEM}'
    f'[[job.train.data]]\nurl = "{DATA}"\nsha256 = "{"0" * 64}"\npath = "set"\n'
)
NOT_FOUND = b"HTTP/1.1 404 Not Found\r\ncontent-length: 26\r\n\r\nTunnel lab-3 not found....."


class Lured:
    """A house whose sender trusts an executor's key and finds its address on a roster."""

    def __init__(self, house: House) -> None:
        self.house = house
        self.work: Work = house.work(JOB)
        self.key = load_or_create(house.executor_state.key)
        Trusted(house.sender_state.trusted).add(self.key.public_key())
        document = tomlkit.dumps({"repositories": house.remotes})
        house.sender_state.settings.write_text(document)
        self.work.commit(message="Nothing yet")
        self.work.push()

    def card(self, url: str, number: int) -> ExecutorCard:
        """A genuine card of the executor, which is not there."""
        card = a_card(
            public_url=url,
            public_key=public_text(self.key.public_key()),
            repositories=(self.work.key,),
            sequence=number,
            expires=4e9,
        )
        return sign_card(card, self.key)

    def publish(self, text: str) -> None:
        """Make this the roster, as anybody may who can push."""
        repository = Repository(key=self.work.key, remote=self.house.remotes[0])
        mirror = Mirror(self.house.folder / "rival", repository, token=self.house.host.token)
        place = Place(repository=repository, branch=CONFIG_BRANCH, path="config.json")
        RosterFile(mirror, place).write(lambda _: text, message="A card", when=1)

    def standing(self) -> list[str]:
        return [each["verdict"]["standing"] for each in self.house.json("roster")["cards"]]


@pytest.fixture
def lured(tmp_path: Path) -> Iterator[Lured]:
    with housed(tmp_path / "house") as house:
        yield Lured(house)


def nothing_of(recorder: Recorder, commit: str) -> bool:
    """Whether he heard nothing of what was pushed, where to, or what it needs."""
    words = ("very-special", "train.py", "data.example", "presigned", "ada/r0", "refs/", commit[:10])
    return not any(word.encode() in recorder.heard for word in words)


def test_a_recycled_tunnel_and_a_poisoned_roster_hear_nothing_of_a_push(lured: Lured) -> None:
    house, work = lured.house, lured.work
    with Recorder(NOT_FOUND) as recycled, Recorder(NOT_FOUND) as poison:
        lured.publish(with_card("", lured.card(recycled.url, 3)))
        house.start_sender(poll_seconds=0.3, webhook=False)
        wait_until(lambda: lured.standing() == ["trusted"], timeout=30)
        commit = work.pushed("Train this")
        wait_until(lambda: recycled.asked, timeout=60, what=f"a challenge\n{house.logs()}")
        house.cli("send", cwd=work.folder)
        house.cli("ps")
        assert set(recycled.asked) == {"POST /v1/challenge"}
        assert nothing_of(recycled, commit)

        card = json.loads(with_card("", lured.card(recycled.url, 4)))
        (entry,) = card["executors"].values()
        entry["public_url"] = poison.url
        lured.publish(json.dumps(card))
        wait_until(lambda: lured.standing() == ["bad signature"], timeout=30)
        second = work.pushed("And this")
        waiting = wait_until(
            lambda: [run for run in house.json("ps") if run["command"]["commit"] == second],
            timeout=60,
            what=f"the second push to wait\n{house.logs()}",
        )
        house.cli("send", cwd=work.folder)
        assert waiting[0]["state"] == "waiting"
        assert (poison.visits, poison.heard) == (0, b"")
        assert set(recycled.asked) == {"POST /v1/challenge"}
        assert nothing_of(recycled, second)
