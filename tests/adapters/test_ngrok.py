"""The ngrok tunnel: the real SDK against a loopback stand-in for ngrok's service."""

import asyncio
import logging
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keyring
import keyring.backend
import keyring.errors
import pytest
import urllib3
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from ngrok_edge import GOOD, Edge, serving_edge
from pushtrain.adapters.tunnels.authtoken import Found, find, in_file
from pushtrain.adapters.tunnels.ngrok import TROUBLES, Ngrok, explained
from pushtrain.core.errors import ConfigError, PushtrainError, Unreachable
from pushtrain.core.settings import ExecutorSettings
from pushtrain.plumbing.http.client import ExecutorClient
from tunnel_world import Greeter, greeting, kept, post, story


@pytest.fixture
def edge(tmp_path: Path) -> Iterator[Edge]:
    with serving_edge(tmp_path) as edge:
        yield edge


@pytest.fixture
def local() -> Iterator[int]:
    with greeting() as port:
        yield port


def tunnel(edge: Edge, *, token: str = GOOD, domain: str = "", **changes: Any) -> Ngrok:
    settings = ExecutorSettings(
        domain=domain, ngrok_server=edge.address, ngrok_root_cas=str(edge.certificate)
    )
    return kept(Ngrok(settings, token=lambda: Found(token, "a test"), **changes))


@story
async def test_it_comes_up_and_requests_go_through(edge: Edge, local: int) -> None:
    ngrok = tunnel(edge)
    began = time.monotonic()
    url = await ngrok.open("127.0.0.1", local)
    assert time.monotonic() - began < 5
    assert url == edge.url
    assert await post(f"{url}/v1/runs?a=b", b"x" * 300_000) == "/v1/runs?a=b 300000"
    assert edge.visits == 1
    await ngrok.close()
    with pytest.raises(urllib3.exceptions.NewConnectionError):
        await post(url, b"")


@story
async def test_it_asks_for_the_reserved_domain(edge: Edge, local: int) -> None:
    ngrok = tunnel(edge, domain="lab.example.app")
    await ngrok.open("127.0.0.1", local)
    assert edge.domains == ["lab.example.app"]


@story
async def test_a_drop_is_noticed_at_once_and_the_next_url_is_the_one_that_counts(
    edge: Edge, local: int
) -> None:
    ngrok = tunnel(edge)
    first = await ngrok.open("127.0.0.1", local)
    began = time.monotonic()
    edge.drop()
    why = await asyncio.wait_for(ngrok.lost(), 10)
    assert "transport error" in why
    await ngrok.close()
    second = await ngrok.open("127.0.0.1", local)
    assert time.monotonic() - began < 5
    assert second == edge.url != first
    assert await post(second, b"abc") == "/ 3"
    assert len(edge.sessions) == 1, "the SDK must not have reconnected on its own"


@story
async def test_a_silent_edge_is_given_up_after_our_own_timeout(edge: Edge, local: int) -> None:
    ngrok = tunnel(edge, timeout=0.5)
    edge.frozen = True
    with pytest.raises(Unreachable, match="did not answer within"):
        await ngrok.open("127.0.0.1", local)
    await ngrok.close()
    edge.frozen = False
    assert await ngrok.open("127.0.0.1", local)
    assert len(edge.sessions) == 1, "the one that was given up has hung up"


@pytest.mark.slow
@story
async def test_an_edge_that_falls_silent_is_noticed_by_heartbeats(edge: Edge, local: int) -> None:
    ngrok = tunnel(edge, heartbeat=(1, 1))
    await ngrok.open("127.0.0.1", local)
    edge.frozen = True
    assert await asyncio.wait_for(ngrok.lost(), 10) == "no sign of life from ngrok for 2 s"
    await ngrok.close()
    edge.frozen = False
    assert await ngrok.open("127.0.0.1", local) == edge.url


@pytest.mark.slow
@story
async def test_heartbeats_keep_an_idle_tunnel_and_are_no_requests(edge: Edge, local: int) -> None:
    ngrok = tunnel(edge, heartbeat=(1, 1))
    await ngrok.open("127.0.0.1", local)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(ngrok.lost(), 3)
    assert edge.visits == 0


@story
async def test_nobody_at_the_edges_address_is_said_so(edge: Edge) -> None:
    settings = ExecutorSettings(ngrok_server="127.0.0.1:1", ngrok_root_cas=str(edge.certificate))
    with pytest.raises(Unreachable, match="opened no tunnel"):
        await Ngrok(settings, token=lambda: Found(GOOD, "")).open("127.0.0.1", 1)


@story
async def test_a_bad_token_is_explained_and_nowhere_repeated(
    edge: Edge, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    secret = "2SecretSecretSecretSecret_4Secret"
    with pytest.raises(ConfigError, match=r"not valid.*ERR_NGROK_107") as caught:
        await tunnel(edge, token=secret).open("127.0.0.1", 1)
    assert edge.tokens == [secret], "it was really offered"
    assert secret not in str(caught.value) + repr(caught.value.__context__) + caplog.text
    assert "your-authtoken" in caught.value.mend


@story
async def test_a_refused_binding_is_explained_and_needs_no_second_session(edge: Edge) -> None:
    edge.bind_refusal = "This domain is reserved for another account.\r\n\r\nERR_NGROK_320\r\n"
    ngrok = tunnel(edge, domain="not-mine.example")
    with pytest.raises(ConfigError, match="reserved for another account"):
        await ngrok.open("127.0.0.1", 1)
    await ngrok.close()
    edge.bind_refusal = ""
    assert await ngrok.open("127.0.0.1", 1) == edge.url
    assert len(edge.tokens) == 1


@pytest.mark.parametrize("code", sorted(TROUBLES))
def test_every_code_that_we_know_has_a_sentence_and_a_mend(code: int) -> None:
    error = explained(f"failed to connect session whatever ERR_NGROK_{code}")
    assert f"ERR_NGROK_{code}" in error.message
    assert "whatever" not in str(error)
    assert error.mend
    assert isinstance(error, ConfigError if TROUBLES[code].lasts else Unreachable)


def test_a_code_that_we_do_not_know_leads_to_its_page_without_the_token() -> None:
    error = explained("no way with tok_en_1\r\n\r\nERR_NGROK_9999", "tok_en_1")
    assert isinstance(error, Unreachable)
    assert "err_ngrok_9999" in error.mend
    assert "tok_en_1" not in str(error)
    assert "no way with" in error.message


# --- the authtoken ----------------------------------------------------------------------------------------


def test_without_a_token_it_is_not_even_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NGROK_AUTHTOKEN", raising=False)
    with pytest.raises(ConfigError, match="no authtoken") as caught:
        Ngrok(ExecutorSettings(), token=lambda: None)
    assert "NGROK_AUTHTOKEN" in caught.value.mend


def test_without_the_sdk_the_mend_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "ngrok", None)
    with pytest.raises(ConfigError, match="not installed") as caught:
        Ngrok(ExecutorSettings(), token=lambda: Found(GOOD, ""))
    assert "pushtrain[ngrok]" in caught.value.mend


V2 = "version: '2'\nregion: eu\nauthtoken: abc_123  # mine\ntunnels:\n  web:\n    authtoken: wrong\n"
V3 = 'version: 3\nendpoints:\n  - name: x\nagent:\n  log: false\n  authtoken: "abc_123"\n'


@pytest.mark.parametrize("text", [V2, V3, "authtoken: 'abc_123'\n", "authtoken: abc_123"])
def test_the_token_is_found_in_both_versions_of_ngroks_file(text: str) -> None:
    assert in_file(text) == "abc_123"


@pytest.mark.parametrize(
    "text", ["", "version: 2\n", "tunnels:\n  x:\n    authtoken: abc\n", "authtoken:\n", "\0:"]
)
def test_a_file_without_a_token_has_none(text: str) -> None:
    assert in_file(text) == ""


@pytest.mark.parametrize("where", [".config/ngrok/ngrok.yml", ".ngrok2/ngrok.yml"])
def test_the_usual_places_are_looked_at(tmp_path: Path, where: str) -> None:
    file = tmp_path / where
    file.parent.mkdir(parents=True)
    file.write_text(V2)
    found = find({}, home=tmp_path, ask_keyring=False)
    assert found == Found("abc_123", str(file))
    assert "abc_123" not in repr(found)
    given = find({"NGROK_AUTHTOKEN": "from-env"}, home=tmp_path)
    assert given == Found("from-env", "NGROK_AUTHTOKEN")


class Ring(keyring.backend.KeyringBackend):
    """A keyring in memory; locked when `token` is None."""

    priority = 1.0
    token: str | None = "ring_token"

    def get_password(self, service: str, username: str) -> str | None:
        if self.token is None:
            raise keyring.errors.KeyringLocked("locked")
        return self.token if (service, username) == ("ngrok", "authtoken") else None

    def set_password(self, service: str, username: str, password: str) -> None:
        raise NotImplementedError((service, username, password))

    def delete_password(self, service: str, username: str) -> None:
        raise NotImplementedError((service, username))


@pytest.mark.parametrize(("kept", "wanted"), [("ring_token", "ring_token"), (None, "")])
def test_the_keyring_is_asked_last(tmp_path: Path, kept: str | None, wanted: str) -> None:
    before, ring = keyring.get_keyring(), Ring()  # type: ignore[no-untyped-call]
    ring.token = kept
    keyring.set_keyring(ring)
    try:
        found = find({}, home=tmp_path)
        assert (found.token if found else "") == wanted
        assert find({}, home=tmp_path, ask_keyring=False) is None
    finally:
        keyring.set_keyring(before)


def test_without_the_keyring_library_there_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "keyring", None)
    assert find({}, home=tmp_path) is None


def test_what_is_wrong_is_always_an_error_of_ours() -> None:
    assert isinstance(explained(""), PushtrainError)


@pytest.mark.parametrize(("code", "words"), [("ERR_NGROK_3200", "ERR_NGROK_3200"), ("<b>x", "not signed")])
def test_what_ngrok_answers_in_the_executors_stead_is_named(code: str, words: str) -> None:
    class Absent(Greeter):
        def do_POST(self) -> None:  # noqa: N802  the base class calls it so
            self.send_response(404)
            self.send_header("ngrok-error-code", code)
            self.send_header("content-length", "0")
            self.end_headers()

    key = Ed25519PrivateKey.generate()
    with greeting(Absent) as port:
        client = ExecutorClient(f"http://127.0.0.1:{port}", key.public_key(), key)
        with pytest.raises(Unreachable, match=words):
            client.challenge()
        client.close()
