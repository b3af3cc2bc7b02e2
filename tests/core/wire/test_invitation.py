"""Invitations: codes as people type them, what proves them, and every way that one can go."""

import base64
import hashlib
import hmac

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt
from hypothesis import given, settings
from hypothesis import strategies as st

from pushtrain.core.errors import Conflict, PushtrainError, Unauthorized, UsageError
from pushtrain.core.wire.grants import Scope, Terms
from pushtrain.core.wire.invitation import (
    SECRET_BYTES,
    TRIES,
    Code,
    Invitation,
    Keys,
    Standing,
    after_joining,
    after_wrong_proof,
    answering_proof,
    asking_proof,
    derived,
    invitation,
    is_name,
    nobodys,
    parse_code,
    proves,
    spell,
)
from pushtrain.core.wire.signing import fingerprint, public_text
from pushtrain.testing import NOON

ADA = public_text(Ed25519PrivateKey.from_private_bytes(bytes(range(32))).public_key())
EVE_KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32, 64))).public_key()
EVE = public_text(EVE_KEY)
KEYS = Keys("n" * 21 + "A", b"a" * 32, b"b" * 32)

secrets = st.binary(min_size=SECRET_BYTES, max_size=SECRET_BYTES)
hosts = st.from_regex(r"[a-z][a-z0-9]{0,10}(-[a-z0-9]{1,5})?(\.[a-z][a-z0-9]{0,8}){1,3}", fullmatch=True)
ports = st.sampled_from(["", ":1", ":8421", ":65535"])


def an_invitation(**changes: object) -> Invitation:
    made = invitation(KEYS, terms=Terms(scopes=(Scope.SEND,), name="ada"), now=NOON, lifetime=600)
    return made.model_copy(update=changes)


# --- the code ---------------------------------------------------------------------------------------------


@given(secrets)
def test_a_secret_is_four_words_that_read_back(secret: bytes) -> None:
    words = spell(secret)
    assert [len(word) for word in words.split("-")] == [5, 5, 5, 5]
    assert parse_code(words) == Code(secret)


@given(secrets, hosts, ports, st.sampled_from(["https", "http"]))
def test_a_code_with_an_address_reads_back(secret: bytes, host: str, port: str, scheme: str) -> None:
    code = Code(secret, f"{scheme}://{host}{port}")
    assert parse_code(str(code)) == code
    assert str(code).startswith("http://" if scheme == "http" else host)


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("https://lab-3.example.org", "lab-3.example.org/"),
        ("http://127.0.0.1:8421", "127.0.0.1:8421/"),
        ("http://[::1]:8421", "[::1]:8421/"),
        ("http://localhost:1", "localhost:1/"),
        ("https://127.0.0.1:8421", "https://127.0.0.1:8421/"),
        ("http://192.168.1.7:8421", "http://192.168.1.7:8421/"),
    ],
)
def test_the_scheme_is_left_out_where_it_can_be_guessed(url: str, text: str) -> None:
    code = Code(bytes(8), url)
    assert str(code) == f"{text}babab-babab-babab-babab"
    assert parse_code(str(code)).url == url


@pytest.mark.parametrize(
    "said",
    [
        "lusab-babad-gutih-tugad",
        "LUSAB BABAD GUTIH TUGAD",
        " lusab - babad.gutih_tugad\n",
        "Lusab-Babad-Gutih-Tugad",
    ],
)
def test_a_code_is_understood_as_people_write_it(said: str) -> None:
    assert spell(parse_code(said).secret) == "lusab-babad-gutih-tugad"
    assert parse_code(f" lab.example/{said}") == Code(parse_code(said).secret, "https://lab.example")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "lusab-babad-gutih",
        "lusab-babad-gutih-tugad-lusab",
        "lusab-babad-gutih-tugae",
        "7-crossover-clockwork",
        "lab.example",
        "lab.example/",
        "user@lab.example/lusab-babad-gutih-tugad",
        "https://lab.example/path/lusab-babad-gutih-tugad",
        "ftp://lab.example/lusab-babad-gutih-tugad",
        "lab.example?x=/lusab-babad-gutih-tugad",
        "lab.example:99999/lusab-babad-gutih-tugad",
        "[/lusab-babad-gutih-tugad",
        "-oProxy=x y/lusab-babad-gutih-tugad",
    ],
)
def test_what_is_no_code_is_refused_before_anybody_is_asked(text: str) -> None:
    with pytest.raises(UsageError):
        parse_code(text)


@given(st.text(max_size=80))
def test_no_text_breaks_the_reader(text: str) -> None:
    try:
        code = parse_code(text)
    except UsageError:
        return
    assert parse_code(str(code)) == code


def test_a_code_that_slips_into_a_log_tells_no_secret() -> None:
    code = parse_code("lab.example/lusab-babad-gutih-tugad")
    assert "lusab" not in repr(code)
    assert repr(code.secret) not in repr(code)


# --- what it proves ---------------------------------------------------------------------------------------


def test_the_derivation_is_frozen_and_another_library_comes_to_the_same() -> None:
    secret = bytes.fromhex("7f14cad26f3f2a35")
    keys = derived(secret)
    whole = Scrypt(salt=b"pushtrain-invitation-1", length=32, n=2**15, r=8, p=1).derive(secret)
    name = hmac.new(whole, b"name", hashlib.sha256).digest()[:16]
    assert keys.name == base64.urlsafe_b64encode(name).decode().rstrip("=")
    assert keys.asks == hmac.new(whole, b"asks", hashlib.sha256).digest()
    assert keys.answers == hmac.new(whole, b"answers", hashlib.sha256).digest()
    assert (spell(secret), keys.name) == ("lusih-sorif-kusuz-fomuj", "oCBzGt8KT_W7qckLEBEjgg")
    assert is_name(keys.name)


def test_each_proof_is_good_for_its_direction_alone() -> None:
    keys = KEYS
    ask = asking_proof(keys.asks, signature="s", body=b"x")
    answer = answering_proof(keys.asks, signature="s", status=200, body=b"x")
    assert ask != answer


@settings(max_examples=200)
@given(
    st.tuples(st.binary(max_size=8), st.text("ab", max_size=4), st.integers(200, 203), st.binary(max_size=8)),
    st.tuples(st.binary(max_size=8), st.text("ab", max_size=4), st.integers(200, 203), st.binary(max_size=8)),
)
def test_a_proof_holds_for_exactly_what_was_said(
    one: tuple[bytes, str, int, bytes], other: tuple[bytes, str, int, bytes]
) -> None:
    def prove(said: tuple[bytes, str, int, bytes]) -> tuple[str, str]:
        key, signature, status, body = said
        return (
            asking_proof(key, signature=signature, body=body),
            answering_proof(key, signature=signature, status=status, body=body),
        )

    assert proves(prove(one)[1], prove(other)[1]) is (one == other)
    assert proves(prove(one)[0], prove(other)[0]) is (
        (one[0], one[1], one[3]) == (other[0], other[1], other[3])
    )


@pytest.mark.parametrize("given_", ["", "A" * 42, "A" * 44, "é" * 43, "A" * 42 + "\n", "A" * 42 + "B"])
def test_what_has_not_the_form_of_a_proof_is_none(given_: str) -> None:
    assert not proves(given_, "A" * 43)


def test_an_invitation_knows_the_proofs_and_not_the_code() -> None:
    secret = parse_code("lusab-babad-gutih-tugad").secret
    keys = derived(secret)
    made = invitation(keys, terms=Terms(), now=NOON, lifetime=600)
    kept = made.model_dump_json()
    assert "lusab" not in kept
    assert secret.hex() not in kept
    back = Invitation.model_validate_json(kept)
    assert back.proven(asking_proof(keys.asks, signature="s", body=b"x"), signature="s", body=b"x")
    assert not back.proven(asking_proof(keys.asks, signature="t", body=b"x"), signature="s", body=b"x")
    assert back.answer(signature="s", status=200, body=b"y") == answering_proof(
        keys.answers, signature="s", status=200, body=b"y"
    )


def test_nobodys_invitation_opens_nothing() -> None:
    nobody = nobodys(b"n" * 32)
    assert nobody.standing(NOON) is Standing.EXPIRED
    assert not is_name(nobody.name)


# --- what becomes of it -----------------------------------------------------------------------------------


def test_it_is_open_until_its_time_is_over() -> None:
    made = an_invitation()
    assert made.standing(NOON + 599.9) is Standing.OPEN
    assert made.standing(NOON + 600) is Standing.EXPIRED
    with pytest.raises(Unauthorized, match="expired 5 s ago"):
        after_joining(made, ADA, NOON + 605)


def test_the_key_that_joined_may_ask_again_and_no_other() -> None:
    joined = after_joining(an_invitation(), ADA, NOON)
    assert joined.joined_by == ADA
    assert after_joining(joined, ADA, NOON + 9999) == joined
    with pytest.raises(Conflict, match="was used by another key") as caught:
        after_joining(joined, EVE, NOON)
    assert "pushtrain key revoke SHA256:" in caught.value.mend
    with pytest.raises(Conflict, match=fingerprint(EVE_KEY)):
        after_joining(an_invitation(joined_by=EVE), ADA, NOON)


def test_a_few_wrong_proofs_burn_it() -> None:
    burnt = an_invitation()
    for _ in range(TRIES):
        assert burnt.standing(NOON) is Standing.OPEN
        burnt = after_wrong_proof(burnt, NOON)
    assert burnt.standing(NOON) is Standing.BURNT
    assert after_wrong_proof(burnt, NOON) == burnt
    with pytest.raises(Unauthorized, match="machine between"):
        after_joining(burnt, ADA, NOON)


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("join"), st.sampled_from([ADA, EVE])),
            st.tuples(st.just("wrong"), st.just("")),
            st.tuples(st.just("wait"), st.sampled_from(["1", "599", "700"])),
        ),
        max_size=12,
    )
)
def test_whatever_happens_at_most_one_key_joins_and_only_while_it_is_open(
    steps: list[tuple[str, str]],
) -> None:
    now, here = NOON, an_invitation()
    joined: set[str] = set()
    for what, value in steps:
        open_before = here.standing(now) is Standing.OPEN
        match what:
            case "wait":
                now += float(value)
            case "wrong":
                after = after_wrong_proof(here, now)
                assert (after.wrong == here.wrong + 1) is open_before
                here = after
            case _:
                try:
                    after = after_joining(here, value, now)
                except PushtrainError:
                    assert not open_before
                else:
                    assert open_before or value in joined
                    joined.add(value)
                    here = after
    assert len(joined) <= 1
    assert (here.standing(now) is Standing.JOINED) is bool(joined)
