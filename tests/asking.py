"""Asking a served executor over a real socket, byte for byte as the test says."""

import http.client
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypedDict, Unpack

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from pushtrain.core.values.command import TrainCommand
from pushtrain.core.wire.bodies import ErrorBody
from pushtrain.core.wire.signing import Message, fields, fingerprint, sign_request, verify_response
from pushtrain.testing import a_command
from served import Served

SENDER = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
STRANGER = Ed25519PrivateKey.from_private_bytes(bytes(range(32, 64)))
JSON = "application/json"
_nonces = iter(range(10**9))


class How(TypedDict, total=False):
    """How a request is signed, where not as usual."""

    key: Ed25519PrivateKey
    idempotency: str
    nonce: str
    kind: str


@dataclass
class Answer:
    """What came back, and whether the executor said it."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    bound: bool | None = field(default=None)
    """True: an answer to exactly this request. False: a refusal. None: not signed."""

    @property
    def error(self) -> str:
        """The code of the error in it."""
        return ErrorBody.model_validate_json(self.body).error.code

    @property
    def told(self) -> str:
        """What the error says."""
        return ErrorBody.model_validate_json(self.body).error.message


def headers_for(
    executor: Served,
    method: str,
    path: str,
    query: str = "",
    body: bytes = b"",
    **how: Unpack[How],
) -> dict[str, str]:
    return sign_request(
        Message(method, path, query, {"content-type": how.get("kind", JSON)}, body),
        key=how.get("key", SENDER),
        audience=fingerprint(executor.key.public_key()),
        nonce=how.get("nonce") or f"nonce-{next(_nonces):016d}",
        now=executor.clock(),
        idempotency_key=how.get("idempotency") or "none",
    )


def exchange(
    executor: Served, method: str, target: str, headers: list[tuple[str, str]], body: bytes = b""
) -> Answer:
    """One request as it is, one answer, and whose it is."""
    connection = http.client.HTTPConnection("127.0.0.1", executor.port, timeout=20)
    try:
        connection.putrequest(method, target, skip_accept_encoding=True)
        for name, value in headers:
            connection.putheader(name, value)
        if body and not any(name.lower() in {"content-length", "transfer-encoding"} for name, _ in headers):
            connection.putheader("content-length", str(len(body)))
        connection.endheaders(body or None)
        response = connection.getresponse()
        content = response.read()
        answer = Answer(response.status, fields(response.getheaders()), content)
    finally:
        connection.close()
    if "signature" in answer.headers and method != "HEAD":
        asked = dict(headers).get("signature", "")
        answer.bound = verify_response(
            answer.status, answer.headers, answer.body, key=executor.key.public_key(), request=asked
        )
    return answer


def ask(
    executor: Served,
    method: str,
    path: str,
    query: str = "",
    body: bytes = b"",
    **how: Unpack[How],
) -> Answer:
    headers = headers_for(executor, method, path, query, body, **how)
    return exchange(executor, method, f"{path}?{query}" if query else path, list(headers.items()), body)


def send(executor: Served, command: TrainCommand | None = None, *, key: Ed25519PrivateKey = SENDER) -> Answer:
    command = command or a_command()
    body = command.model_dump_json().encode()
    return ask(executor, "POST", "/v1/runs", body=body, idempotency=command.run_id, key=key)
