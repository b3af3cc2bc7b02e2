"""The signature of requests and answers: what holds, and that nothing else does."""

import base64
import hashlib
import sys
import time
import timeit
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from pushtrain.core.errors import Unauthorized, UsageError
from pushtrain.core.wire.signing import (
    MAX_AGE,
    MAX_SKEW,
    Message,
    Signed,
    content_digest,
    fields,
    fingerprint,
    parse_public,
    public_text,
    sign_request,
    sign_response,
    verify_request,
    verify_response,
)

SENDER = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
EXECUTOR = Ed25519PrivateKey.from_private_bytes(bytes(range(32, 64)))
STRANGER = Ed25519PrivateKey.from_private_bytes(bytes(range(64, 96)))
SENDER_ID = fingerprint(SENDER.public_key())
EXECUTOR_ID = fingerprint(EXECUTOR.public_key())
NOW = 1_790_000_000.0
NONCE = "AAAAAAAAAAAAAAAAAAAAAA"
BODY = b'{"version":1}'
KEYS = {SENDER_ID: SENDER.public_key()}


def signed(
    *,
    method: str = "POST",
    path: str = "/v1/runs",
    query: str = "",
    body: bytes = BODY,
    key: Ed25519PrivateKey = SENDER,
    audience: str = EXECUTOR_ID,
    nonce: str = NONCE,
    now: float = NOW,
) -> Message:
    bare = Message(method, path, query, body=body)
    headers = sign_request(bare, key=key, audience=audience, nonce=nonce, now=now, idempotency_key="run-1")
    return replace(bare, headers=headers)


def check(message: Message, *, now: float = NOW) -> Signed:
    return verify_request(message, lookup=KEYS.get, audience=EXECUTOR_ID, now=now)


def refused(message: Message, *, now: float = NOW) -> str:
    with pytest.raises(Unauthorized) as caught:
        check(message, now=now)
    assert caught.value.status == 401
    return str(caught.value)


REFUSED = refused(Message("GET", "/"))
"""What everybody is told whose signature did not hold."""


def with_header(message: Message, name: str, value: str) -> Message:
    return replace(message, headers={**message.headers, name: value})


def without_header(message: Message, name: str) -> Message:
    return replace(message, headers={k: v for k, v in message.headers.items() if k != name})


def edited(message: Message, before: str, after: str) -> Message:
    """The same with another `signature-input`."""
    value = message.headers["signature-input"]
    assert before in value
    return with_header(message, "signature-input", value.replace(before, after))


# --- the format is frozen ---------------------------------------------------------------------------------

GOLDEN_REQUEST = {
    "pushtrain-audience": "SHA256:JPbtasv-EAnAMNfKVnwzykgwkRSYI2tVYabIKr7F3ig",
    "content-type": "application/json",
    "content-digest": "sha-256=:JDDxoq0pgtAGeIVIikyJ4hrR18g7EVuo8bIKzIjfrqg=:",
    "idempotency-key": "run-1",
    "signature-input": (
        'pushtrain=("@method" "@path" "@query" "pushtrain-audience" "content-type" "content-digest" '
        '"idempotency-key");created=1790000000;keyid="SHA256:Vkdap1RjR0wChd9dvyvKtz2mUTWIOem3dIGy6rEHcIw";'
        'alg="ed25519";expires=1790000060;nonce="AAAAAAAAAAAAAAAAAAAAAA";tag="pushtrain-request"'
    ),
    "signature": (
        "pushtrain=:Db4eBquFdITHa85jxU1BbXXbSMnsz88QRZgYesZpBRwq9UJpT4uS0uInUq3Eo326/4umXipaQYNvUmmVIUvnAw==:"
    ),
}
GOLDEN_RESPONSE = {
    "content-digest": "sha-256=:QGLtr3UPuAdOfoPgyQKMlOMkaKi28WFHdDKO8EUVD5M=:",
    "signature-input": (
        'pushtrain=("@status" "content-type" "content-digest" "signature";req;key="pushtrain");'
        'created=1790000000;keyid="SHA256:JPbtasv-EAnAMNfKVnwzykgwkRSYI2tVYabIKr7F3ig";alg="ed25519";'
        'tag="pushtrain-response"'
    ),
    "signature": (
        "pushtrain=:4KmM7W48KB9lm4VueQ/6Epgi4O76M4DWRZBmFMqJ8sk7NgqINLwSG8O/uPLrZhPTWf6eKGtTKpEl7wvQjNaEAg==:"
    ),
}


def signature_base(message: Message) -> str:
    """What is signed, by hand: RFC 9421 (2.5). Expects the headers that our form needs."""
    names = ["@method", "@path", "@query", "pushtrain-audience"]
    derived = {"@method": message.method, "@path": message.path, "@query": f"?{message.query}"}
    if message.body:
        names += ["content-type", "content-digest", "idempotency-key"]
    values = {**derived, **message.headers}
    listed = " ".join(f'"{name}"' for name in names)
    times = f'created={NOW:.0f};keyid="{SENDER_ID}";alg="ed25519";expires={NOW + 60:.0f}'
    parameters = f'({listed});{times};nonce="{NONCE}";tag="pushtrain-request"'
    return "\n".join([*(f'"{name}": {values[name]}' for name in names), f'"@signature-params": {parameters}'])


def by_hand(message: Message, key: Ed25519PrivateKey) -> dict[str, str]:
    """The same signature without the library."""
    headers = {"pushtrain-audience": EXECUTOR_ID}
    if message.body:
        digest = base64.b64encode(hashlib.sha256(message.body).digest()).decode()
        headers |= {
            "content-type": "application/json",
            "content-digest": f"sha-256=:{digest}:",
            "idempotency-key": "run-1",
        }
    base = signature_base(replace(message, headers=headers))
    parameters = base.rpartition('"@signature-params": ')[2]
    signature = base64.b64encode(key.sign(base.encode())).decode()
    return headers | {"signature-input": f"pushtrain={parameters}", "signature": f"pushtrain=:{signature}:"}


def test_the_format_of_a_request_is_frozen() -> None:
    assert signed(query="a=1").headers == GOLDEN_REQUEST
    assert check(replace(signed(query="a=1"), headers=GOLDEN_REQUEST)).key_id == SENDER_ID


def test_the_format_of_an_answer_is_frozen() -> None:
    headers = {"content-type": "application/json"}
    request = GOLDEN_REQUEST["signature"]
    assert (
        sign_response(202, headers, b'{"ok":true}', key=EXECUTOR, request=request, now=NOW) == GOLDEN_RESPONSE
    )


@pytest.mark.parametrize("body", [b"", BODY])
def test_the_library_signs_what_rfc_9421_says_by_hand(body: bytes) -> None:
    message = signed(query="a=%2F&b", body=body)
    assert message.headers == by_hand(message, SENDER)


# --- what holds -------------------------------------------------------------------------------------------


def test_a_signed_request_names_its_sender_nonce_and_times() -> None:
    message = signed()
    assert check(message) == Signed(
        SENDER_ID, NONCE, int(NOW), int(NOW) + MAX_AGE, message.headers["signature"]
    )


@pytest.mark.parametrize(
    "message",
    [
        signed(method="GET", body=b""),
        signed(path="/", body=b""),
        signed(path="/v1/a%2Fb/c~d", query="x=%20&y=/?", body=b""),
        signed(method="POST", body=b""),
        signed(body=b"\x00" * 100_000),
    ],
)
def test_every_kind_of_request_can_be_signed(message: Message) -> None:
    assert check(message).key_id == SENDER_ID


def test_headers_that_are_not_covered_may_change_on_the_way() -> None:
    message = with_header(with_header(signed(), "host", "tunnel.example"), "x-forwarded-for", "203.0.113.9")
    assert check(message).nonce == NONCE


def test_a_content_type_of_ones_own_is_covered() -> None:
    bare = Message("POST", "/v1/runs", headers={"content-type": "text/x"}, body=BODY)
    headers = sign_request(
        bare, key=SENDER, audience=EXECUTOR_ID, nonce=NONCE, now=NOW, idempotency_key="run-1"
    )
    assert headers["content-type"] == "text/x"
    assert check(replace(bare, headers=headers)).nonce == NONCE


@given(
    path=st.text(alphabet="abcXYZ019._~!$&'()*+,;=:@/-", max_size=60),
    query=st.text(alphabet="abcXYZ019._~!$&'()*+,;=:@/-?", max_size=60),
    body=st.binary(max_size=300),
    nonce=st.from_regex(r"[A-Za-z0-9_-]{16,128}", fullmatch=True),
)
def test_whatever_is_signed_is_verified(path: str, query: str, body: bytes, nonce: str) -> None:
    message = signed(path=f"/{path}", query=query, body=body, nonce=nonce)
    assert check(message).nonce == nonce


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"path": "v1"}, "k"),
        ({"path": "/a b"}, "k"),
        ({"path": "/a#b"}, "k"),
        ({"query": "a#b"}, "k"),
        ({"nonce": "short"}, "k"),
        ({}, ""),
    ],
)
def test_what_cannot_be_signed_is_a_defect_of_the_caller(changes: dict[str, str], key: str) -> None:
    parts = {"path": "/v1/runs", "query": "", "nonce": NONCE} | changes
    message = Message("POST", parts["path"], parts["query"], body=BODY)
    with pytest.raises(ValueError, match=r"cannot be signed|idempotency key"):
        sign_request(
            message, key=SENDER, audience=EXECUTOR_ID, nonce=parts["nonce"], now=NOW, idempotency_key=key
        )


# --- and nothing else does --------------------------------------------------------------------------------


@given(data=st.data())
def test_any_flipped_byte_of_any_covered_part_is_refused(data: st.DataObject) -> None:
    message = signed(query="limit=5")
    parts = {"method", "path", "query", "body", *message.headers}
    part = data.draw(st.sampled_from(sorted(parts)))
    value = message.headers.get(part) or getattr(message, part)
    raw = bytearray(value if isinstance(value, bytes) else value.encode("latin-1"))
    raw[data.draw(st.integers(0, len(raw) - 1))] ^= data.draw(st.integers(1, 255))
    text = raw.decode("latin-1")
    changed = {
        "method": replace(message, method=text),
        "path": replace(message, path=text),
        "query": replace(message, query=text),
        "body": replace(message, body=bytes(raw)),
    }.get(part, with_header(message, part, text))
    assert refused(changed) == REFUSED


@pytest.mark.parametrize("name", GOLDEN_REQUEST)
def test_a_request_that_lacks_a_header_is_refused(name: str) -> None:
    assert refused(without_header(signed(), name)) == REFUSED


def resigned(message: Message, before: str, after: str) -> Message:
    """Another `signature-input`, honestly signed again by hand."""
    message = edited(message, before, after)
    parameters = message.headers["signature-input"].removeprefix("pushtrain=")
    values = {"@method": "POST", "@path": "/v1/runs", "@query": "?", **message.headers}
    names = parameters[1 : parameters.index(")")].split()
    lines = [f"{name}: {values[name.split(chr(34))[1]]}" for name in names]
    base = "\n".join([*lines, f'"@signature-params": {parameters}'])
    signature = base64.b64encode(SENDER.sign(base.encode())).decode()
    return with_header(message, "signature", f"pushtrain=:{signature}:")


COVERED = '"@method" "@path" "@query" "pushtrain-audience" "content-type" "content-digest" "idempotency-key"'


@pytest.mark.parametrize("name", COVERED.split())
def test_a_signature_that_does_not_cover_enough_is_refused(name: str) -> None:
    """Signed honestly, by the right key, over less: what the library alone would let pass."""
    less = " ".join(part for part in COVERED.split() if part != name)
    assert refused(resigned(signed(), COVERED, less)) == REFUSED


def test_a_signature_by_hand_is_verified() -> None:
    assert check(resigned(signed(), "created=1790000000", "created=1790000001")).created == 1790000001


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (";created=1790000000", ""),
        (";expires=1790000060", ""),
        (f';nonce="{NONCE}"', ""),
        (f';keyid="{SENDER_ID}"', ""),
        (';alg="ed25519"', ""),
        (';tag="pushtrain-request"', ""),
        (';alg="ed25519"', ';alg="hmac-sha256"'),
        (';alg="ed25519"', ';alg="rsa-v1_5-sha256"'),
        (';tag="pushtrain-request"', ';tag="pushtrain-response"'),
        (';tag="pushtrain-request"', ';tag="pushtrain-request";tag="pushtrain-request"'),
        (';tag="pushtrain-request"', ';tag="pushtrain-request";extra="1"'),
        ("expires=1790000060", "expires=1790000061"),
        ("expires=1790000060", "expires=1790000000"),
        ("expires=1790000060", 'expires="1790000060"'),
        ("created=1790000000", "created=0"),
        ("created=1790000000", "created=9999999999999999999"),
        ("created=1790000000", "created=1790000000.5"),
        ("created=1790000000", "created=-1790000000"),
        (f'nonce="{NONCE}"', 'nonce="short"'),
        (f'nonce="{NONCE}"', 'nonce=""'),
        (f'nonce="{NONCE}"', f'nonce="{"A" * 129}"'),
        (f'nonce="{NONCE}"', 'nonce="AAAAAAAA AAAAAAAA"'),
        ('"@method" "@path"', '"@path" "@method"'),
        ('"@method"', '"@method" "@method"'),
        ('"@method"', '"@method";req'),
        ('"content-type"', '"content-type";bs'),
    ],
)
def test_parameters_other_than_ours_are_refused_although_signed(before: str, after: str) -> None:
    assert refused(resigned(signed(), before, after)) == REFUSED


@pytest.mark.parametrize(
    "label",
    [
        'other=("@method");created=1, {}',
        '{}, other=("@method");created=1',
        "{}, {}",
        " {}",
        "{};more=1",
        "{}\n",
        "",
        "pushtrain=1",
    ],
)
def test_more_or_other_labels_are_refused(label: str) -> None:
    message = signed()
    value = message.headers["signature-input"]
    assert refused(with_header(message, "signature-input", label.replace("{}", value))) == REFUSED


@pytest.mark.parametrize("pattern", ["{}, other=:AAAA:", "other=:AAAA:, {}", "{}, {}", "{};x", "pushtrain=1"])
def test_more_or_other_signatures_are_refused(pattern: str) -> None:
    message = signed()
    value = message.headers["signature"]
    assert refused(with_header(message, "signature", pattern.replace("{}", value))) == REFUSED


def test_base64_in_another_spelling_is_refused() -> None:
    message = signed()
    value = message.headers["signature"]
    other = value[:-4] + chr(ord(value[-4]) + 1) + "==:"
    assert base64.b64decode(other[11:-1]) == base64.b64decode(value[11:-1])
    assert refused(with_header(message, "signature", other)) == REFUSED


@pytest.mark.parametrize(
    "digest",
    [
        f"sha-512=:{base64.b64encode(hashlib.sha512(BODY).digest()).decode()}:",
        f"md5=:{base64.b64encode(hashlib.md5(BODY, usedforsecurity=False).digest()).decode()}:",
        content_digest(BODY) + ", " + content_digest(BODY),
        content_digest(b"another body"),
        "sha-256=:AAAA:",
        "sha-256=1",
        "nonsense",
    ],
)
def test_a_digest_that_is_not_the_bodys_sha_256_is_refused_although_signed(digest: str) -> None:
    message = with_header(signed(), "content-digest", digest)
    assert refused(resigned(message, "created=1790000000", "created=1790000001")) == REFUSED


@pytest.mark.parametrize("name", ["content-type", "content-digest", "idempotency-key"])
def test_a_header_about_a_body_that_is_not_there_is_refused(name: str) -> None:
    assert refused(with_header(signed(body=b""), name, "x")) == REFUSED


def test_a_body_without_its_signature_is_refused() -> None:
    assert refused(replace(signed(body=b""), body=BODY)) == REFUSED


@pytest.mark.parametrize(
    "path", ["/v1/runs#x", "http://executor/v1/runs", "//", "/v1/runs?", "*", "", "/v1/r%zz"]
)
def test_a_target_that_reads_in_two_ways_is_refused(path: str) -> None:
    assert refused(replace(signed(), path=path)) == REFUSED


def test_a_request_for_another_executor_is_refused() -> None:
    assert refused(signed(audience=SENDER_ID)) == REFUSED


def test_an_unknown_key_and_a_wrong_signature_get_the_same_answer() -> None:
    unknown = refused(signed(key=STRANGER))
    forged = refused(with_header(signed(), "signature", signed(key=STRANGER).headers["signature"]))
    assert unknown == forged == REFUSED


def test_a_key_under_another_keys_name_is_refused() -> None:
    with pytest.raises(Unauthorized, match="missing or wrong"):
        verify_request(signed(), lookup=lambda _: STRANGER.public_key(), audience=EXECUTOR_ID, now=NOW)


def test_nobodys_key_lets_nobody_in() -> None:
    asked: list[str] = []
    with pytest.raises(Unauthorized):
        verify_request(signed(), lookup=asked.append, audience=EXECUTOR_ID, now=NOW)
    assert asked == [SENDER_ID]


# --- clocks -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("late", [0, MAX_AGE, -MAX_SKEW])
def test_a_request_is_good_for_sixty_seconds_and_a_small_skew(late: float) -> None:
    assert check(signed(), now=NOW + late).created == NOW


@pytest.mark.parametrize(
    ("late", "told"),
    [
        (MAX_AGE + 1, "signed 61 s ago and was good for 60 s"),
        (-MAX_SKEW - 1, "signed 16 s in the future"),
    ],
)
def test_a_wrong_clock_is_told_to_whom_the_signature_held(late: float, told: str) -> None:
    text = refused(signed(), now=NOW + late)
    assert told in text
    assert "Check the clocks" in text


@pytest.mark.parametrize("late", [MAX_AGE + 1, -MAX_SKEW - 1])
def test_a_wrong_clock_is_not_told_to_strangers(late: float) -> None:
    assert refused(signed(key=STRANGER), now=NOW + late) == REFUSED
    assert refused(replace(signed(), path="/v1/runs/x"), now=NOW + late) == REFUSED


# --- header lines -----------------------------------------------------------------------------------------


def test_header_lines_become_a_mapping_with_repeated_ones_joined() -> None:
    assert fields([("Host", " a "), ("X-A", "1"), ("x-a", "2\t")]) == {"host": "a", "x-a": "1, 2"}


@pytest.mark.parametrize("name", [*GOLDEN_REQUEST])
def test_a_second_line_of_a_header_that_signatures_rest_on_is_refused(name: str) -> None:
    lines = [*signed().headers.items(), (name.upper(), GOLDEN_REQUEST[name])]
    with pytest.raises(Unauthorized, match="missing or wrong"):
        fields(lines)


# --- answers ----------------------------------------------------------------------------------------------

JSON = {"content-type": "application/json"}
ASKED = GOLDEN_REQUEST["signature"]


def answered(
    status: int = 202,
    body: bytes | None = BODY,
    *,
    request: str | None = ASKED,
    key: Ed25519PrivateKey = EXECUTOR,
) -> dict[str, str]:
    return JSON | sign_response(status, JSON, body, key=key, request=request, now=NOW)


def heard(
    headers: dict[str, str], *, status: int = 202, body: bytes | None = BODY, request: str = ASKED
) -> bool:
    return verify_response(status, headers, body, key=EXECUTOR.public_key(), request=request)


@pytest.mark.parametrize("body", [BODY, b"", None])
def test_an_answer_is_bound_to_the_request(body: bytes | None) -> None:
    headers = answered(body=body)
    assert heard(headers, body=body)
    other = signed(nonce="B" * 22).headers["signature"]
    with pytest.raises(Unauthorized):
        heard(headers, body=body, request=other)


def test_a_refusal_is_bound_to_nothing_and_says_so() -> None:
    headers = answered(401, request=None)
    assert heard(headers, status=401) is False
    assert heard(headers, status=401, request="pushtrain=:anything:") is False


def test_a_stream_has_no_refusal() -> None:
    with pytest.raises(ValueError, match="a refusal has a body"):
        answered(body=None, request=None)


@pytest.mark.parametrize("body", [BODY, None])
def test_an_answer_of_another_kind_is_no_answer(body: bytes | None) -> None:
    with pytest.raises(Unauthorized):
        heard(answered(body=body), body=None if body else BODY)
    with pytest.raises(Unauthorized):
        heard(answered(request=None), body=None)


def test_an_answer_with_another_status_or_body_is_refused() -> None:
    for status, body in ((200, BODY), (202, b"{}"), (202, b"")):
        with pytest.raises(Unauthorized):
            heard(answered(), status=status, body=body)


def test_an_answer_of_another_executor_is_refused() -> None:
    with pytest.raises(Unauthorized):
        heard(answered(key=STRANGER))
    named = answered()
    named["signature-input"] = named["signature-input"].replace(EXECUTOR_ID, SENDER_ID)
    with pytest.raises(Unauthorized):
        heard(named)


@given(data=st.data(), kind=st.sampled_from(["response", "stream", "refusal"]))
def test_any_flipped_byte_of_an_answer_is_refused(data: st.DataObject, kind: str) -> None:
    body = None if kind == "stream" else BODY
    headers = answered(body=body, request=None if kind == "refusal" else ASKED)
    name = data.draw(st.sampled_from(sorted(headers)))
    raw = bytearray(headers[name].encode())
    raw[data.draw(st.integers(0, len(raw) - 1))] ^= data.draw(st.integers(1, 255))
    with pytest.raises(Unauthorized):
        heard({**headers, name: raw.decode("latin-1")}, body=body)


@pytest.mark.parametrize("name", sorted(answered()))
def test_an_answer_that_lacks_a_header_is_refused(name: str) -> None:
    with pytest.raises(Unauthorized):
        heard({key: value for key, value in answered().items() if key != name})


def test_a_request_is_no_answer_and_an_answer_no_request() -> None:
    with pytest.raises(Unauthorized):
        heard(dict(signed().headers))
    assert refused(replace(signed(), headers=answered())) == REFUSED


# --- keys as text -----------------------------------------------------------------------------------------


@given(st.binary(min_size=32, max_size=32))
def test_a_public_key_reads_back_from_its_text(seed: bytes) -> None:
    key = Ed25519PrivateKey.from_private_bytes(seed).public_key()
    text = public_text(key)
    assert parse_public(text).public_bytes_raw() == key.public_bytes_raw()
    assert len(text) == 52
    assert len(fingerprint(key)) == 50


@pytest.mark.parametrize(
    "text",
    [
        "",
        "ed25519:",
        "ssh-ed25519 AAAA",
        public_text(SENDER.public_key()).upper(),
        public_text(SENDER.public_key()) + "\n",
        public_text(SENDER.public_key()).removesuffix("="),
        "ed25519:" + "A" * 42 + "B=",
        "ed25519:" + "A" * 44,
    ],
)
def test_a_text_that_is_no_public_key_says_how_one_looks(text: str) -> None:
    with pytest.raises(UsageError, match="is not a public key"):
        parse_public(text)


@pytest.mark.slow
def test_signing_and_verifying_take_less_than_a_millisecond_each() -> None:
    message = signed(body=BODY * 100)
    for work in (lambda: signed(body=BODY * 100), lambda: check(message)):
        best = min(timeit.repeat(work, timer=time.process_time, number=20, repeat=10)) / 20
        assert best < (0.001 if sys.gettrace() is None else 0.01), "a tracer costs more than the work"


def test_the_protocols_page_shows_the_frozen_format() -> None:
    page = (Path(__file__).parents[3] / "docs/wire-protocol.md").read_text()
    for headers in (GOLDEN_REQUEST, GOLDEN_RESPONSE):
        for name, value in headers.items():
            assert f"{name}: {value}\n" in page
    assert public_text(SENDER.public_key()) in page
    base = signature_base(replace(signed(query="a=1"), headers=GOLDEN_REQUEST))
    assert f"```\n{base}\n```" in page
