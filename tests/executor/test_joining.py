"""Joining by an invitation: a real executor, a real client, and whoever may stand between them."""

import hashlib
import http.client
import json
import logging
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Self

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from pushtrain.core.errors import Busy, Conflict, PushtrainError, StorageError, Unauthorized, Unreachable
from pushtrain.core.wire.bodies import ErrorBody
from pushtrain.core.wire.grants import Scope, Terms
from pushtrain.core.wire.invitation import (
    NAME,
    PATH,
    PROOF,
    TRIES,
    Introduction,
    Invitation,
    Keys,
    Standing,
    asking_proof,
    derived,
    invitation,
)
from pushtrain.core.wire.signing import Message, fingerprint, public_text, sign_request, sign_response
from pushtrain.executor.api import joining
from pushtrain.plumbing.http.client import ExecutorClient
from pushtrain.plumbing.keys.enrol import Joined, NotProven, join
from pushtrain.plumbing.keys.invitations import Invitations
from pushtrain.testing import NOON, REPOSITORY, a_command
from served import Served, served

Asks = Callable[[dict[str, str], bytes], tuple[dict[str, str], bytes]]
Answers = Callable[[int, dict[str, str], bytes], tuple[int, dict[str, str], bytes]]

ADA = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
EVE = Ed25519PrivateKey.from_private_bytes(bytes(range(32, 64)))
KEYS = derived(b"a secret")
OTHER = derived(b"another!")
TERMS = Terms(scopes=(Scope.SEND,), repositories=(REPOSITORY,), branches=("main",), name="ada")


@pytest.fixture
def executor(tmp_path: Path) -> Iterator[Served]:
    with served(tmp_path / "state") as one:
        yield one


@pytest.fixture
def invitations(executor: Served) -> Invitations:
    return Invitations(executor.state.invitations)


@pytest.fixture
def invited(executor: Served, invitations: Invitations) -> Invitation:
    made = invitation(KEYS, terms=TERMS, now=executor.clock(), lifetime=600)
    invitations.keep(made, executor.clock())
    return made


def joins(executor: Served, *, url: str = "", keys: Keys = KEYS, key: Ed25519PrivateKey = ADA) -> Joined:
    return join(url or executor.url, keys, key, clock=executor.clock)


def may(executor: Served, key: Ed25519PrivateKey) -> bool:
    return executor.authorized.lookup(fingerprint(key.public_key())) is not None


# --- both sides learn the other's key ---------------------------------------------------------------------


@pytest.mark.usefixtures("invited")
def test_one_request_pins_both_keys_with_the_rights_that_the_owner_chose(
    executor: Served, invitations: Invitations
) -> None:
    joined = joins(executor)
    assert public_text(joined.key) == public_text(executor.key.public_key())
    assert joined.card.name == "lab-1"
    assert joined.terms == TERMS
    grant = executor.authorized.lookup(fingerprint(ADA.public_key()))
    assert grant is not None
    assert (grant.scopes, grant.repositories, grant.branches, grant.name) == (
        (Scope.SEND,),
        (REPOSITORY,),
        ("main",),
        "ada",
    )
    client = ExecutorClient(executor.url, joined.key, ADA, clock=executor.clock)
    assert client.send(a_command()).sender == fingerprint(ADA.public_key())
    found = invitations.find(KEYS.name)
    assert found is not None
    assert (found.standing(executor.clock()), found.settled) == (Standing.JOINED, True)


@pytest.mark.usefixtures("invited")
def test_whose_answer_was_lost_asks_again(executor: Served) -> None:
    joins(executor)
    before = executor.state.authorized.read_text()
    assert public_text(joins(executor).key) == public_text(executor.key.public_key())
    assert executor.state.authorized.read_text() == before


@pytest.mark.usefixtures("invited")
def test_an_invitation_is_good_once(executor: Served) -> None:
    joins(executor)
    with pytest.raises(Conflict, match="was used by another key") as caught:
        joins(executor, key=EVE)
    assert fingerprint(ADA.public_key()) in str(caught.value)
    assert not may(executor, EVE)


@pytest.mark.usefixtures("invited")
def test_an_invitation_is_good_for_a_while(executor: Served) -> None:
    executor.clock.advance(600)
    with pytest.raises(Unauthorized, match="expired 0 s ago"):
        joins(executor)
    assert not may(executor, ADA)


@pytest.mark.usefixtures("invited")
def test_a_withdrawn_invitation_is_good_for_nothing(executor: Served, invitations: Invitations) -> None:
    assert invitations.withdraw(KEYS.name, executor.clock()) is None
    with pytest.raises(NotProven):
        joins(executor)
    assert not may(executor, ADA)


@pytest.mark.usefixtures("invited")
def test_of_two_who_come_at_once_one_joins(executor: Served) -> None:
    keys = [Ed25519PrivateKey.generate() for _ in range(8)]
    outcomes: list[object] = []

    def come(key: Ed25519PrivateKey) -> None:
        try:
            outcomes.append(joins(executor, key=key))
        except Conflict as error:
            outcomes.append(error)

    threads = [threading.Thread(target=come, args=(key,)) for key in keys]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert sum(isinstance(each, Joined) for each in outcomes) == 1
    assert len(outcomes) == 8
    assert sum(may(executor, key) for key in keys) == 1


@pytest.mark.usefixtures("invited")
def test_a_wrong_clock_is_told_to_who_knows_the_code(executor: Served) -> None:
    with pytest.raises(Unauthorized, match="clock it was signed 3600 s ago"):
        join(executor.url, KEYS, ADA, clock=lambda: executor.clock() - 3600)
    assert not may(executor, ADA)
    joins(executor)


# --- a crash at any line ----------------------------------------------------------------------------------


@pytest.mark.usefixtures("invited")
def test_a_key_that_was_noted_but_not_authorised_may_finish_and_nobody_else(
    executor: Served, invitations: Invitations
) -> None:
    def power_fails(_: object) -> None:
        raise OSError(5, "power failed")

    with pytest.raises(StorageError):
        invitations.join(KEYS.name, public_text(ADA.public_key()), executor.clock(), power_fails)
    assert not may(executor, ADA)
    with pytest.raises(Conflict):
        joins(executor, key=EVE)
    executor.clock.advance(3600)
    joins(executor)
    assert may(executor, ADA)


@pytest.mark.usefixtures("invited")
def test_a_disk_that_is_full_authorises_nobody_and_says_so(
    executor: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("pushtrain.plumbing.keys.invitations.replace", full)
        with pytest.raises(StorageError, match="No space left"):
            joins(executor)
    assert not may(executor, ADA)
    joins(executor)


# --- whoever does not know the code -----------------------------------------------------------------------


def test_without_an_invitation_there_is_nothing_to_join(executor: Served) -> None:
    with pytest.raises(NotProven, match="does not know this invitation"):
        joins(executor)
    assert not may(executor, ADA)
    assert not executor.state.invitations.exists()


def asked(
    executor: Served, *, key: Ed25519PrivateKey = EVE, **changes: str
) -> tuple[int, dict[str, str], bytes]:
    """A request to join with some header changed; the answer as it is."""
    body = Introduction(public_key=public_text(key.public_key())).model_dump_json().encode()
    headers = sign_request(
        Message("POST", PATH, "", {}, body),
        key=key,
        audience=KEYS.name,
        nonce="n" * 16,
        now=executor.clock(),
        idempotency_key="join",
    )
    headers |= {NAME: KEYS.name, PROOF: asking_proof(b"?" * 32, signature=headers["signature"], body=body)}
    for name, value in changes.items():
        headers[{"name": NAME, "proof": PROOF}[name]] = value
    return exchanged(executor, {name: value for name, value in headers.items() if value}, body)


def exchanged(executor: Served, headers: dict[str, str], body: bytes) -> tuple[int, dict[str, str], bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", executor.port, timeout=20)
    try:
        connection.request("POST", PATH, body=body, headers=headers)
        response = connection.getresponse()
        return (
            response.status,
            {name.lower(): value for name, value in response.getheaders()},
            response.read(),
        )
    finally:
        connection.close()


def test_every_wrong_request_gets_one_and_the_same_answer(executor: Served, invitations: Invitations) -> None:
    """Whether there is such an invitation, or was, is told to nobody who does not prove its code."""
    now = executor.clock()
    names = {
        "open": KEYS.name,
        "there is none": "A" * 22,
        "expired": OTHER.name,
        "no name at all": "",
        "a name that is a path": "../../identity.key",
        "a name that is another file": ".lock",
    }
    invitations.keep(invitation(KEYS, terms=TERMS, now=now, lifetime=600), now)
    invitations.keep(invitation(OTHER, terms=TERMS, now=now - 700, lifetime=600), now)
    answers = {what: asked(executor, name=name) for what, name in names.items()}
    answers["no proof"] = asked(executor, proof="")
    joins(executor)
    answers |= {"used": asked(executor), "a proof that is none": asked(executor, proof="x")}
    assert {status for status, _, _ in answers.values()} == {401}
    assert len({body for _, _, body in answers.values()}) == 1, answers
    for _, headers, _ in answers.values():
        assert PROOF not in headers
    same = {"signature", "signature-input", "date"}
    shapes = {
        tuple(sorted((n, v) for n, v in headers.items() if n not in same))
        for _, headers, _ in answers.values()
    }
    assert len(shapes) == 1
    assert not may(executor, EVE)


@pytest.mark.usefixtures("invited")
def test_nothing_of_a_wrong_request_is_parsed(executor: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    parsed: list[bytes] = []
    monkeypatch.setattr("pushtrain.core.text.strictjson.loads", parsed.append)
    assert asked(executor)[0] == 401
    assert parsed == []


@pytest.mark.usefixtures("invited")
def test_a_few_wrong_proofs_burn_the_invitation(
    executor: Served, invitations: Invitations, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        for _ in range(TRIES):
            assert asked(executor)[0] == 401
    assert f"({TRIES} of {TRIES})" in caplog.text
    found = invitations.find(KEYS.name)
    assert found is not None
    assert found.standing(executor.clock()) is Standing.BURNT
    with pytest.raises(Unauthorized, match="machine between you and the executor"):
        joins(executor)
    assert not may(executor, ADA)


@pytest.mark.usefixtures("invited")
def test_wrong_requests_are_answered_a_few_at_a_time(executor: Served) -> None:
    tick = [0.0]
    service = executor.service
    porch = joining.Porch(service.admission, service.card, clock=executor.clock, ticks=lambda: tick[0])
    guess = Message("POST", PATH, "", {NAME: "A" * 22, PROOF: "A" * 43, "signature": "s"}, b"{}")
    for _ in range(joining._BURST):
        with pytest.raises(Unauthorized):
            porch.admit(guess)
    for _ in range(1000):
        with pytest.raises(Busy):
            porch.admit(guess)
    tick[0] += 600
    for _ in range(joining._BURST):
        with pytest.raises(Unauthorized):
            porch.admit(guess)
    with pytest.raises(Busy):
        porch.admit(guess)


@pytest.mark.usefixtures("invited")
def test_a_flood_of_wrong_requests_keeps_out_nobody_who_has_the_code(executor: Served) -> None:
    found = [asked(executor, name="A" * 22)[0] for _ in range(joining._BURST + 20)]
    assert found[: joining._BURST] == [401] * joining._BURST
    assert 429 in found
    joins(executor)
    assert may(executor, ADA)


@pytest.mark.usefixtures("invited")
def test_during_a_flood_an_invitation_is_guessed_at_no_more_often(
    executor: Served, invitations: Invitations
) -> None:
    for _ in range(joining._BURST + 20):
        asked(executor, name="A" * 22)
    for _ in range(TRIES):
        assert asked(executor)[0] in {401, 429}
    found = invitations.find(KEYS.name)
    assert found is not None
    assert found.standing(executor.clock()) is Standing.BURNT


@pytest.mark.parametrize(
    ("body", "kind", "told"),
    [
        (b"", "", 400),
        (b"{", "application/json", 400),
        (b'{"public_key": "ed25519:x"}', "application/json", 400),
        (b'{"version": 2, "public_key": "x"}', "application/json", 400),
        (b'{"public_key": "x", "scopes": ["send"]}', "application/json", 400),
        (b'{"public_key": "a", "public_key": "b"}', "application/json", 400),
        (b"[" * 4000, "application/json", 400),
        (b"{}", "text/plain", 400),
    ],
)
@pytest.mark.usefixtures("invited")
def test_who_knows_the_code_and_sends_nonsense_is_told_so(
    executor: Served, body: bytes, kind: str, told: int
) -> None:
    message = Message("POST", PATH, "", {"content-type": kind} if kind else {}, body)
    headers = sign_request(
        message, key=EVE, audience=KEYS.name, nonce="n" * 16, now=executor.clock(), idempotency_key="join"
    )
    headers |= {NAME: KEYS.name, PROOF: asking_proof(KEYS.asks, signature=headers["signature"], body=body)}
    status, answered, answer = exchanged(executor, headers, body)
    assert status == told
    assert PROOF in answered, "and can believe it"
    assert ErrorBody.model_validate_json(answer).error.code == "usage"
    assert not may(executor, EVE)
    joins(executor)


@pytest.mark.usefixtures("invited")
def test_nobody_can_join_with_a_key_that_is_not_his(executor: Served) -> None:
    """Eve knows the code and names Ada's key, which has not signed."""
    body = Introduction(public_key=public_text(ADA.public_key())).model_dump_json().encode()
    for signer in (EVE, executor.key):
        headers = sign_request(
            Message("POST", PATH, "", {}, body),
            key=signer,
            audience=KEYS.name,
            nonce="n" * 16,
            now=executor.clock(),
            idempotency_key="join",
        )
        headers |= {
            NAME: KEYS.name,
            PROOF: asking_proof(KEYS.asks, signature=headers["signature"], body=body),
        }
        assert exchanged(executor, headers, body)[0] == 401
    assert not may(executor, ADA)


# --- a machine in between ---------------------------------------------------------------------------------


class Between:
    """A proxy that terminates the connection, reads everything, and may change it both ways.

    Args:
        target: Port of the executor.
        asks: Given what the guest said, headers and body; gives what the executor hears.
        answers: Given what the executor said, status, headers and body; gives what the guest hears.
    """

    def __init__(
        self,
        target: int,
        asks: Asks | None = None,
        answers: Answers | None = None,
    ) -> None:
        self.heard: list[tuple[dict[str, str], bytes]] = []
        between = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                headers = {name.lower(): value for name, value in self.headers.items()}
                between.heard.append((headers, body))
                said = asks(headers, body) if asks else (headers, body)
                status, told, answer = between.pass_on(target, *said)
                if answers:
                    status, told, answer = answers(status, told, answer)
                self.send_response_only(status)
                for name, value in told.items():
                    if name not in {"content-length", "connection"}:
                        self.send_header(name, value)
                self.send_header("content-length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    @staticmethod
    def pass_on(target: int, headers: dict[str, str], body: bytes) -> tuple[int, dict[str, str], bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", target, timeout=20)
        try:
            sent = {name: value for name, value in headers.items() if name not in {"host", "content-length"}}
            connection.request("POST", PATH, body=body, headers=sent)
            response = connection.getresponse()
            return response.status, {n.lower(): v for n, v in response.getheaders()}, response.read()
        finally:
            connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(10)


def as_eve(executor: Served) -> Asks:
    """Put Eve's key in the place of the guest's, signed by Eve; she has no proof of her own."""

    def change(headers: dict[str, str], _: bytes) -> tuple[dict[str, str], bytes]:
        body = Introduction(public_key=public_text(EVE.public_key())).model_dump_json().encode()
        mine = sign_request(
            Message("POST", PATH, "", {}, body),
            key=EVE,
            audience=headers["pushtrain-audience"],
            nonce="e" * 16,
            now=executor.clock(),
            idempotency_key=hashlib.sha256(body).hexdigest(),
        )
        return headers | mine, body

    return change


@pytest.mark.usefixtures("invited")
def test_a_machine_that_only_passes_on_is_no_harm(executor: Served) -> None:
    with Between(executor.port) as between:
        joined = joins(executor, url=between.url)
    assert public_text(joined.key) == public_text(executor.key.public_key())


@pytest.mark.usefixtures("invited")
def test_a_machine_in_between_that_gives_its_own_key_to_the_executor_is_not_authorised(
    executor: Served, invitations: Invitations
) -> None:
    with (
        Between(executor.port, asks=as_eve(executor)) as between,
        pytest.raises(NotProven, match="machine in between changes what is sent"),
    ):
        joins(executor, url=between.url)
    assert not may(executor, EVE)
    assert not may(executor, ADA)
    found = invitations.find(KEYS.name)
    assert found is not None
    assert found.wrong == 1, "whoever waits at the executor sees it"


@pytest.mark.usefixtures("invited")
def test_a_machine_in_between_that_gives_its_own_key_to_the_guest_is_not_trusted(executor: Served) -> None:
    asked_with: list[str] = []

    def listen(headers: dict[str, str], body: bytes) -> tuple[dict[str, str], bytes]:
        asked_with.append(headers["signature"])
        return headers, body

    def swap(status: int, headers: dict[str, str], body: bytes) -> tuple[int, dict[str, str], bytes]:
        """Put Eve's key in the place of the executor's, and sign the answer with it."""
        document = json.loads(body)
        document["card"]["public_key"] = public_text(EVE.public_key())
        answer = json.dumps(document).encode()
        kind = {"content-type": "application/json"}
        signed = sign_response(status, kind, answer, key=EVE, request=asked_with[-1], now=executor.clock())
        return status, headers | signed, answer

    with (
        Between(executor.port, asks=listen, answers=swap) as between,
        pytest.raises(NotProven, match="Neither key was trusted"),
    ):
        joins(executor, url=between.url)
    assert asked_with


@pytest.mark.usefixtures("invited")
def test_a_machine_in_between_cannot_say_no_in_the_executors_name(executor: Served) -> None:
    """A forged refusal is not believed; what the guest hears is that nothing was proven."""
    no = ErrorBody.of(Conflict("This invitation was used by another key.")).model_dump_json().encode()
    for change in (
        lambda _status, headers, _body: (409, headers, no),
        lambda _status, _headers, _body: (409, {"content-type": "application/json"}, no),
        lambda _status, headers, body: (409, headers, body),
        lambda status, headers, body: (status, {**headers, PROOF: "A" * 43}, body),
        lambda status, headers, body: (status, headers, body[:-1] + b" }"),
    ):
        with Between(executor.port, answers=change) as between, pytest.raises(NotProven):
            joins(executor, url=between.url)


@pytest.mark.usefixtures("invited")
def test_a_recorded_request_lets_nobody_in_again(executor: Served) -> None:
    with Between(executor.port) as between:
        joins(executor, url=between.url)
        (recorded,) = between.heard
    status, _, answer = Between.pass_on(executor.port, *recorded)
    assert status == 401
    assert b"has been used before" in answer
    executor.state.authorized.unlink()  # the owner takes the key out by hand
    for seconds in (0, 61, 3600):
        executor.clock.advance(seconds)
        assert Between.pass_on(executor.port, *recorded)[0] == 401
    assert not may(executor, ADA)


@pytest.mark.usefixtures("invited")
def test_a_recorded_answer_lets_no_guest_trust_anybody(executor: Served, invitations: Invitations) -> None:
    recorded: list[tuple[int, dict[str, str], bytes]] = []

    def note(status: int, headers: dict[str, str], body: bytes) -> tuple[int, dict[str, str], bytes]:
        recorded.append((status, headers, body))
        return status, headers, body

    with Between(executor.port, answers=note) as between:
        joins(executor, url=between.url)
    with Between(executor.port, answers=lambda *_: recorded[0]) as between, pytest.raises(NotProven):
        joins(executor, url=between.url)
    assert invitations.find(KEYS.name)


@pytest.mark.usefixtures("invited")
def test_the_code_does_not_travel(executor: Served) -> None:
    with Between(executor.port) as between:
        joins(executor, url=between.url)
        headers, body = between.heard[0]
    told = json.dumps(headers).encode() + body
    for secret in (b"a secret", KEYS.asks, KEYS.answers):
        assert secret not in told
        assert secret.hex().encode() not in told


def test_where_nobody_answers_it_says_so() -> None:
    with pytest.raises(Unreachable, match="No executor answers"):
        join("http://127.0.0.1:1", KEYS, ADA, clock=lambda: NOON)


def test_an_answer_without_end_is_cut_off(executor: Served) -> None:
    with (
        Between(executor.port, answers=lambda *_: (200, {}, b"x" * 10_000_000)) as between,
        pytest.raises(PushtrainError),
    ):
        joins(executor, url=between.url)
