"""Join an executor by an invitation: our public key for the executor's, both proven by the code.

One request and one answer. Nothing of the answer is believed, not even that it says no, before its proof
held: whatever stands at that address may say anything. The code itself does not leave this machine.
"""

import hashlib
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import urllib3
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from pydantic import ValidationError
from urllib3.exceptions import HTTPError

from pushtrain import __version__
from pushtrain.core.errors import PushtrainError, Unauthorized, Unreachable
from pushtrain.core.values.card import ExecutorCard
from pushtrain.core.wire.bodies import ErrorBody
from pushtrain.core.wire.grants import Terms
from pushtrain.core.wire.invitation import (
    NAME,
    PATH,
    PROOF,
    Introduction,
    Keys,
    Welcome,
    answering_proof,
    asking_proof,
    proves,
)
from pushtrain.core.wire.signing import (
    Message,
    fields,
    parse_public,
    public_text,
    sign_request,
    verify_response,
)
from pushtrain.plumbing.http.connection import last_words, pool

_MOST: Final = 256 * 1024
"""Bytes of an answer that are read before it is known whose it is."""
_OK: Final = 200


class NotProven(Unauthorized):
    """Something answered, and could not prove that it knows the code."""


@dataclass(frozen=True, slots=True)
class Joined:
    """An executor that knows our key now, and whose key we know."""

    url: str
    key: Ed25519PublicKey
    card: ExecutorCard
    terms: Terms
    """What we may do there."""


def join(
    url: str,
    keys: Keys,
    identity: Ed25519PrivateKey,
    *,
    timeout: float = 20,
    clock: Callable[[], float] = time.time,
) -> Joined:
    """Join the executor at this address. Asking again with the same key is harmless.

    Args:
        url: Where it is.
        keys: Of the invitation's code.
        identity: Ours; its public half is authorised there.
        timeout: Seconds for the answer.
        clock: Seconds since the epoch.

    Raises:
        Unreachable: Nobody answers.
        NotProven: What answers does not know the code, or somebody changed what either side said.
        PushtrainError: The executor, proven, said no.
        UsageError: The address is none.
    """
    body = Introduction(public_key=public_text(identity.public_key())).model_dump_json().encode()
    headers = sign_request(
        Message("POST", PATH, "", {}, body),
        key=identity,
        audience=keys.name,
        nonce=secrets.token_urlsafe(16),
        now=clock(),
        idempotency_key=hashlib.sha256(body).hexdigest(),
    )
    signature = headers["signature"]
    headers |= {NAME: keys.name, PROOF: asking_proof(keys.asks, signature=signature, body=body)}
    status, told, answer = _ask(url.rstrip("/"), headers, body, timeout)
    try:
        given = fields(told)
    except Unauthorized:
        raise _not_proven(url, status) from None
    expected = answering_proof(keys.answers, signature=signature, status=status, body=answer)
    if not proves(given.get(PROOF, ""), expected):
        raise _not_proven(url, status)
    if status != _OK:
        raise _refusal(url, status, answer)
    try:
        welcome = Welcome.model_validate_json(answer)
        key = parse_public(welcome.card.public_key)
        if not verify_response(status, given, answer, key=key, request=signature):
            raise _strange(url)
    except (ValidationError, PushtrainError) as error:
        raise _strange(url) from error
    return Joined(url.rstrip("/"), key, welcome.card, welcome.terms)


def _ask(
    url: str, headers: dict[str, str], body: bytes, timeout: float
) -> tuple[int, list[tuple[str, str]], bytes]:
    connections = pool(url)
    try:
        response = connections.urlopen(
            "POST",
            url + PATH,
            body=body,
            headers={"accept-encoding": "identity", "user-agent": f"pushtrain/{__version__}"} | headers,
            retries=False,
            redirect=False,
            timeout=urllib3.Timeout(connect=min(timeout, 10), read=timeout),
            preload_content=False,
            decode_content=False,
        )
        answer = response.read(_MOST, decode_content=False)
        return response.status, list(response.headers.items()), answer
    except HTTPError as error:
        raise Unreachable(
            f"No executor answers at {url}: {last_words(error)}.",
            mend="Is it running (`pushtrain executor`), and is the code copied whole?",
        ) from error
    finally:
        connections.clear()


def _not_proven(url: str, status: int) -> NotProven:
    return NotProven(
        f"What answers at {url} (HTTP {status}) does not know this invitation: its code was mistyped or "
        "withdrawn, or a machine in between changes what is sent. Neither key was trusted.",
        mend="Ask the owner for a new code. If that fails too, exchange the keys by hand: docs/keys.md.",
    )


def _refusal(url: str, status: int, answer: bytes) -> PushtrainError:
    try:
        return ErrorBody.model_validate_json(answer).raised(status)
    except ValidationError:
        return _strange(url)


def _strange(url: str) -> Unreachable:
    return Unreachable(
        f"The executor at {url} answered with what this version does not understand.",
        mend="Compare `pushtrain --version` on both machines.",
    )
