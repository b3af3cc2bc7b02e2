"""Whom a person may ask: all at once, nobody waited for in vain, a sentence for each who cannot be asked."""

import threading
from collections.abc import Iterator
from typing import Any, cast

import pytest

from pushtrain.cli import connect
from pushtrain.cli.connect import Nobody, absences, ask_all, askable
from pushtrain.core.errors import Unreachable
from pushtrain.core.wire.roster import Standing, Verdict
from pushtrain.plumbing.http.client import ExecutorClient
from pushtrain.sender.known import Found
from pushtrain.testing import NOON, a_card
from pushtrain.wiring.directory import Directory


class Asked:
    """What `ask_all` needs of a client."""

    def __init__(self, name: str, url: str = "") -> None:
        self.id = name
        self.url = url or f"http://{name}"


def client(name: str, url: str = "") -> ExecutorClient:
    return cast("ExecutorClient", Asked(name, url))


def clients(*names: str) -> tuple[ExecutorClient, ...]:
    return tuple(client(name) for name in names)


def listed(standing: Standing, *, mend: str = "", name: str = "lab-3", **card: Any) -> Directory:
    verdict = Verdict(
        fingerprint="SHA256:lab-3",
        standing=standing,
        why="why not",
        mend=mend,
        card=a_card(name=name, timestamp=NOON - 7200, **card),
    )
    return Directory((), (Found(roster="here", verdict=verdict),))


@pytest.fixture
def gate() -> Iterator[threading.Event]:
    event = threading.Event()
    yield event
    event.set()


def test_one_that_is_silent_holds_up_nobody(gate: threading.Event, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connect, "_SLOW", 0.05)

    def question(client: ExecutorClient) -> str:
        if client.id == "silent":
            gate.wait(20)
        if client.id == "down":
            raise Unreachable("No connection.")
        return client.id

    answers = ask_all(clients("silent", "lab-1", "down"), question)
    assert [answer.value for answer in answers] == [None, "lab-1", None]
    assert [str(answer.trouble or "") for answer in answers] == [
        "It has not answered within 0.05 s.",
        "",
        "No connection.",
    ]


def test_where_nobody_has_answered_yet_the_last_one_is_waited_for(gate: threading.Event) -> None:
    def question(client: ExecutorClient) -> str:
        if client.id == "down":
            gate.set()
            raise Unreachable("No connection.")
        gate.wait(20)
        return client.id

    assert [answer.value for answer in ask_all(clients("slow", "down"), question)] == ["slow", None]


@pytest.mark.parametrize(
    ("standing", "sentence"),
    [
        (Standing.TRUSTED, []),
        (Standing.OFFLINE, ["lab-3 went offline 2 h ago"]),
        (Standing.EXPIRED, ["lab-3 was last heard of 2 h ago"]),
        (Standing.UNKNOWN, ["lab-3 is on the roster, but its key is not trusted here"]),
        (Standing.FORGED, ["The card of lab-3 is not believed: why not"]),
        (Standing.OLDER, ["The card of lab-3 is not believed: why not"]),
    ],
)
def test_each_who_cannot_be_asked_is_told_of(standing: Standing, sentence: list[str]) -> None:
    assert absences(listed(standing), NOON) == sentence


def test_one_without_a_tunnel_takes_no_calls() -> None:
    assert absences(listed(Standing.NO_ADDRESS, public_url=""), NOON) == [
        "lab-3 takes no calls: it has no tunnel"
    ]


def test_what_a_card_calls_itself_cannot_paint_the_terminal() -> None:
    (sentence,) = absences(listed(Standing.OFFLINE, name="\x1b[31mlab-3\n"), NOON)
    assert sentence.isprintable()


def test_whoever_is_known_at_another_address_is_not_missed() -> None:
    known = listed(Standing.OFFLINE)
    assert absences(Directory(clients("SHA256:lab-3"), known.listed), NOON) == []


@pytest.mark.parametrize(
    ("known", "says", "mend"),
    [
        (Directory(()), "No executor is known here", "pushtrain key trust KEY"),
        (
            listed(Standing.UNKNOWN, mend="`pushtrain key trust ed25519:x`"),
            "its key is not trusted here.",
            "`pushtrain key trust ed25519:x`",
        ),
        (listed(Standing.NO_ADDRESS, public_url=""), "takes no calls", "`pushtrain results list`"),
        (
            Directory((), trouble={"github.com/octo/hello": "no network."}),
            "The roster github.com/octo/hello could not be read: no network.",
            "results list",
        ),
    ],
)
def test_with_nobody_to_ask_it_is_said_why_and_what_to_do(known: Directory, says: str, mend: str) -> None:
    with pytest.raises(Nobody) as told:
        askable(known)
    assert says in told.value.message
    assert mend in told.value.mend


def test_each_executor_is_sent_to_at_its_likeliest_address() -> None:
    known = Directory((client("a", "first"), client("b", "only"), client("a", "second")))
    assert [(one.id, one.url) for one in known.executors] == [("a", "first"), ("b", "only")]
