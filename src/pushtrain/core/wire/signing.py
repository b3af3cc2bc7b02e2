"""Who said it: sign and verify requests and answers with Ed25519. No clock, no randomness.

Requests and answers carry RFC 9421 HTTP Message Signatures; docs/wire-protocol.md shows each byte of one.
The library builds and checks signature bases; everything it leaves open is closed here, before it is asked:

- One label, `pushtrain`, and one fixed list of components for each kind of message, in one order.
- All of created, expires, nonce, keyid, alg and tag are demanded, each once; nothing else may be there.
- Base64 must be canonical, so that no byte of a valid message can change and leave it valid.
- A body has a SHA-256 `content-digest`, compared with the body by us.
- An unknown key and a wrong signature get one and the same answer. Only a caller whose signature held learns
  that a clock is wrong.

An answer covers the request's signature, and with it all that the request said: no other answer fits it.
Whatever is answered before a request's signature held is signed as a refusal, which binds to nothing and
which a client trusts only as "somebody at this key's machine said no".
"""

import base64
import hashlib
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from http_message_signatures import (
    HTTPMessageSignaturesException,
    HTTPMessageSigner,
    HTTPMessageVerifier,
    HTTPSignatureKeyResolver,
)
from http_message_signatures.algorithms import ED25519

from pushtrain.core.errors import Unauthorized, UsageError

LABEL: Final = "pushtrain"
AUDIENCE: Final = "pushtrain-audience"
IDEMPOTENCY: Final = "idempotency-key"
MAX_AGE: Final = 60
"""Seconds that a signed request is good for."""
MAX_SKEW: Final = 15
"""Seconds that a request may seem to come from the future."""
UNKNOWN_KEY: Final = (
    "Let the executor's owner run `pushtrain key authorize` with the key that `pushtrain key show` prints."
)
"""What an executor says to whoever it does not know; a caller knows the key to put there."""

_TARGET: Final = ("@method", "@path", "@query", AUDIENCE)
_BODY: Final = ("content-type", "content-digest", IDEMPOTENCY)
_TO: Final = f'"signature";req;key="{LABEL}"'

REQUEST: Final = "pushtrain-request"
RESPONSE: Final = "pushtrain-response"
STREAM: Final = "pushtrain-stream"
REFUSAL: Final = "pushtrain-refusal"
_ANSWERS: Final = {
    RESPONSE: ("@status", "content-type", "content-digest", _TO),
    STREAM: ("@status", "content-type", _TO),
    REFUSAL: ("@status", "content-type", "content-digest"),
}
"""The tag of each kind of answer, and what it covers."""

KEPT: Final = frozenset({"signature", "signature-input", AUDIENCE, *_BODY})
"""The headers that a signature rests on: each at most once, and worth keeping with a command."""
_REQUEST_PARAMETERS: Final = frozenset({"created", "expires", "nonce", "keyid", "alg", "tag"})
_ANSWER_PARAMETERS: Final = frozenset({"created", "keyid", "alg", "tag"})

_INPUT: Final = re.compile(rf'{LABEL}=\(([^()\n]*)\)((?:;[a-z]+=(?:[0-9]+|"[ !#-\[\]-~]*"))+)')
_PARAMETER: Final = re.compile(r';([a-z]+)=(?:([0-9]+)|"([^"]*)")')
_SIGNATURE: Final = re.compile(rf"{LABEL}=:[A-Za-z0-9+/]{{85}}[AQgw]==:")
_TIME: Final = re.compile(r"[1-9][0-9]{0,11}")
_NONCE: Final = re.compile(r"[A-Za-z0-9_-]{16,128}")
_PUBLIC: Final = re.compile(r"ed25519:[A-Za-z0-9+/]{42}[AEIMQUYcgkosw048]=")
_ESCAPED: Final = r"[A-Za-z0-9._~!$&'()*+,;=:@/-]|%[0-9A-Fa-f]{2}"
_PATH: Final = re.compile(rf"/(?:{_ESCAPED})*")
_QUERY: Final = re.compile(rf"(?:{_ESCAPED}|\?)*")

_NOBODY: Final = Ed25519PublicKey.from_public_bytes(hashlib.sha256(b"pushtrain: nobody's key").digest())
"""Stands in for a key that is not known, so that the answer takes the same time."""


# --- keys as text -----------------------------------------------------------------------------------------


def public_text(key: Ed25519PublicKey) -> str:
    """A public key as people pass it on: `ed25519:` and the base64 of its 32 bytes."""
    return "ed25519:" + base64.b64encode(key.public_bytes_raw()).decode()


def parse_public(text: str) -> Ed25519PublicKey:
    """Read what `public_text` wrote.

    Raises:
        UsageError: It is not such a text.
    """
    if not _PUBLIC.fullmatch(text):
        raise UsageError(
            f"`{text[:80]}` is not a public key.",
            mend="One looks like `ed25519:` and 44 more characters; `pushtrain key show` prints yours.",
        )
    return Ed25519PublicKey.from_public_bytes(base64.b64decode(text.removeprefix("ed25519:")))


def fingerprint(key: Ed25519PublicKey) -> str:
    """A key's short name: `SHA256:` and the unpadded base64url of the SHA-256 of its 32 bytes."""
    digest = hashlib.sha256(key.public_bytes_raw()).digest()
    return "SHA256:" + base64.urlsafe_b64encode(digest).decode().rstrip("=")


# --- messages ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Message:
    """A request as it is on the wire.

    Attributes:
        method: In capitals.
        path: As sent, escapes and all; begins with `/`.
        query: As sent, without the `?`.
        headers: Names in lower case, each once; `fields` makes them so.
        body: The bytes, nothing decoded.
    """

    method: str
    path: str
    query: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""


@dataclass(frozen=True, slots=True)
class Signed:
    """What a request's signature says, once it held."""

    key_id: str
    """Fingerprint of the sender's key."""
    nonce: str
    created: int
    expires: int
    signature: str
    """The `signature` header; answers bind to it."""


def fields(pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Header lines as a mapping with lower-case names; repeated ones joined, as RFC 9110 (5.3) has it.

    Raises:
        Unauthorized: A header that signatures rest on is there twice.
    """
    found: dict[str, str] = {}
    for name, value in pairs:
        name, value = name.lower(), value.strip(" \t")  # noqa: PLW2901  the same header, made comparable
        if name in found and name in KEPT:
            raise _refuse()
        found[name] = f"{found[name]}, {value}" if name in found else value
    return found


def content_digest(body: bytes) -> str:
    """The `content-digest` header (RFC 9530) of a body."""
    return f"sha-256=:{base64.b64encode(hashlib.sha256(body).digest()).decode()}:"


def sign_request(
    message: Message,
    *,
    key: Ed25519PrivateKey,
    audience: str,
    nonce: str,
    now: float,
    idempotency_key: str = "",
) -> dict[str, str]:
    """Sign a request.

    Args:
        message: Of its headers only `content-type` counts; `application/json` where there is none.
        key: The sender's identity.
        audience: Fingerprint of the executor that it is meant for.
        nonce: 16 to 128 characters of base64url, never used before.
        now: Seconds since the epoch.
        idempotency_key: What makes two such requests one; needed where there is a body.

    Returns:
        Every header to add, names in lower case.

    Raises:
        ValueError: The target, the nonce or the idempotency key cannot be signed.
    """
    if not (_PATH.fullmatch(message.path) and _QUERY.fullmatch(message.query) and _NONCE.fullmatch(nonce)):
        raise ValueError("a target or a nonce that cannot be signed")
    headers = {AUDIENCE: audience}
    if message.body:
        headers["content-type"] = message.headers.get("content-type", "application/json")
        headers["content-digest"] = content_digest(message.body)
        headers[IDEMPOTENCY] = idempotency_key
    if not all(headers.values()):
        raise ValueError("a request with a body needs an idempotency key")
    created = int(now)
    return headers | _sign(
        _Request(message.method, _url(message), headers),
        _covered(body=bool(message.body)),
        key,
        created=created,
        expires=created + MAX_AGE,
        nonce=nonce,
        tag=REQUEST,
    )


def verify_request(
    message: Message, *, lookup: Callable[[str], Ed25519PublicKey | None], audience: str, now: float
) -> Signed:
    """Check a request's signature, and that the body is the one it covers; `verify_head`, `check_body`."""
    signed = verify_head(message, lookup=lookup, audience=audience, now=now)
    check_body(message)
    return signed


def verify_head(
    message: Message, *, lookup: Callable[[str], Ed25519PublicKey | None], audience: str, now: float
) -> Signed:
    """Check a request's signature before its body is read; it covers the body by the digest in the head.

    Args:
        message: The request; `headers` made by `fields`. Its body is not looked at: call `check_body` before
            anything of it is believed.
        lookup: The key with this fingerprint, or None when it is not authorised.
        audience: The fingerprint of this executor.
        now: Seconds since the epoch.

    Raises:
        Unauthorized: In the same words for each cause, but for a clock that is wrong by more than allowed:
            that is told to whoever's signature held.
    """
    headers = message.headers
    announced = "content-digest" in headers
    stray = not announced and any(name in headers for name in _BODY)
    plain = _PATH.fullmatch(message.path) and _QUERY.fullmatch(message.query)
    if stray or not plain or headers.get(AUDIENCE) != audience:
        raise _refuse()
    parameters = _parameters(headers, _covered(body=announced), _REQUEST_PARAMETERS, REQUEST)
    key = lookup(parameters["keyid"])
    known = key is not None and fingerprint(key) == parameters["keyid"]
    view = _Request(message.method, _url(message), headers)
    held = _verify(view, key if key is not None and known else _NOBODY)
    if not (known and held and _NONCE.fullmatch(parameters["nonce"])):
        raise _refuse()
    created, expires = int(parameters["created"]), int(parameters["expires"])
    _check_time(created, expires, now)
    return Signed(parameters["keyid"], parameters["nonce"], created, expires, headers["signature"])


def check_body(message: Message) -> None:
    """Check that the body is the one that the head's signature covers.

    Raises:
        Unauthorized: It is another one, or there is one that is not covered, or none where one is.
    """
    digest = content_digest(message.body) if message.body else None
    if message.headers.get("content-digest") != digest:
        raise _refuse()


def sign_response(
    status: int,
    headers: Mapping[str, str],
    body: bytes | None,
    *,
    key: Ed25519PrivateKey,
    request: str | None,
    now: float,
) -> dict[str, str]:
    """Sign an answer; returns every header to add.

    Args:
        status: The HTTP status.
        headers: Must hold `content-type`.
        body: The whole body; None for the head of a stream, whose frames are signed one by one.
        key: The executor's identity.
        request: `Signed.signature` of the request that is answered; None when no signature held: a refusal.
        now: Seconds since the epoch.
    """
    if body is None and request is None:
        raise ValueError("a refusal has a body")
    tag = REFUSAL if request is None else STREAM if body is None else RESPONSE
    added = {} if body is None else {"content-digest": content_digest(body)}
    view = _Response(status, {**headers, **added}, _asked(request or ""))
    return added | _sign(view, _ANSWERS[tag], key, created=int(now), expires=None, nonce=None, tag=tag)


def verify_response(
    status: int, headers: Mapping[str, str], body: bytes | None, *, key: Ed25519PublicKey, request: str
) -> bool:
    """Check an answer's signature.

    Args:
        status: The HTTP status.
        headers: Made by `fields`.
        body: The whole body; None for the head of a stream.
        key: The executor's.
        request: The `signature` header of the request that was sent.

    Returns:
        Whether it answers exactly that request. False: it is a refusal, which says nothing but no.

    Raises:
        Unauthorized: It is not that executor's answer.
    """
    claimed = headers.get("signature-input", "")
    tag = STREAM if body is None else REFUSAL if f';tag="{REFUSAL}"' in claimed else RESPONSE
    covered = _ANSWERS[tag]
    parameters = _parameters(headers, covered, _ANSWER_PARAMETERS, tag)
    held = _verify(_Response(status, headers, _asked(request)), key)
    digest = body is None or headers.get("content-digest") == content_digest(body)
    if not (held and digest and parameters["keyid"] == fingerprint(key)):
        raise _refuse()
    return tag != REFUSAL


# --- what the library is asked, and what it is not trusted with -------------------------------------------


@dataclass(slots=True)
class _Request:
    """A request as the library wants it; the host plays no part, since a tunnel changes it."""

    method: str
    url: str
    headers: Mapping[str, str]


@dataclass(slots=True)
class _Response:
    status_code: int
    headers: Mapping[str, str]
    request: _Request


class _Key(HTTPSignatureKeyResolver):
    def __init__(self, public: Ed25519PublicKey) -> None:
        self._public = public

    def resolve_public_key(self, key_id: str) -> Ed25519PublicKey:  # noqa: ARG002  `_parameters` has seen it
        return self._public


class _Verifier(HTTPMessageVerifier):
    def validate_created_and_expires(self, sig_input: Any, max_age: Any = None) -> None:
        """Do nothing: the library would ask the machine's clock, and before the signature held."""


def _refuse() -> Unauthorized:
    return Unauthorized(
        "The signature is missing or wrong, or its key is not authorised here.",
        mend=UNKNOWN_KEY,
    )


def _check_time(created: int, expires: int, now: float) -> None:
    if not created < expires <= created + MAX_AGE:
        raise _refuse()
    if created > now + MAX_SKEW:
        wrong = f"it was signed {created - now:.0f} s in the future"
    elif now > expires:
        wrong = f"it was signed {now - created:.0f} s ago and was good for {expires - created} s"
    else:
        return
    raise Unauthorized(
        f"The request's signature is right, but by the executor's clock {wrong}.",
        mend="Check the clocks of both machines (`pushtrain doctor`).",
    )


def _covered(*, body: bool) -> tuple[str, ...]:
    return _TARGET + _BODY if body else _TARGET


def _url(message: Message) -> str:
    return f"http://executor{message.path}?{message.query}"


def _asked(signature: str) -> _Request:
    """The request that an answer is bound to, as far as the answer covers it."""
    return _Request("GET", "http://executor/", {"signature": signature})


def _listed(covered: tuple[str, ...]) -> str:
    return " ".join(name if name.startswith('"') else f'"{name}"' for name in covered)


def _parameters(
    headers: Mapping[str, str], covered: tuple[str, ...], names: frozenset[str], tag: str
) -> dict[str, str]:
    """The signature's parameters, if both signature headers are exactly of the form that we write."""
    form = _INPUT.fullmatch(headers.get("signature-input", ""))
    if form is None or form[1] != _listed(covered) or not _SIGNATURE.fullmatch(headers.get("signature", "")):
        raise _refuse()
    found = [(name, number or text) for name, number, text in _PARAMETER.findall(form[2])]
    parameters = dict(found)
    if len(found) != len(names) or parameters.keys() != names:
        raise _refuse()
    if parameters["alg"] != ED25519.algorithm_id or parameters["tag"] != tag:
        raise _refuse()
    if not all(_TIME.fullmatch(parameters[name]) for name in ("created", "expires") if name in names):
        raise _refuse()
    return parameters


def _sign(
    view: _Request | _Response,
    covered: tuple[str, ...],
    key: Ed25519PrivateKey,
    *,
    created: int,
    expires: int | None,
    nonce: str | None,
    tag: str,
) -> dict[str, str]:
    prepared = _SIGNER.prepare(
        view,
        key_id=fingerprint(key.public_key()),
        created=datetime.fromtimestamp(created, UTC),
        expires=None if expires is None else datetime.fromtimestamp(expires, UTC),
        nonce=nonce,
        label=LABEL,
        tag=tag,
        covered_component_ids=covered,
        use_existing_digest="content-digest" in view.headers,
    )
    signature = base64.b64encode(key.sign(prepared.signature_base)).decode()
    return {
        "signature-input": f"{LABEL}={prepared.signature_params}",
        "signature": f"{LABEL}=:{signature}:",
    }


def _verify(view: _Request | _Response, key: Ed25519PublicKey) -> bool:
    verifier = _Verifier(signature_algorithm=ED25519, key_resolver=_Key(key))
    try:
        verifier.verify(view, max_age=None)  # what it must cover, `_parameters` has seen to
    except HTTPMessageSignaturesException:
        return False
    return True


_SIGNER: Final = HTTPMessageSigner(signature_algorithm=ED25519)
