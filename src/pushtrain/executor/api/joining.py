"""The one door that is open without a key's signature: `POST /v1/join`, behind an invitation's secret.

The raw bytes are verified before anything of them is parsed, by the proof that only who knows the code can
make. Whoever cannot is told one and the same, whatever the reason: no such invitation, a wrong proof, none at
all. Only a request with the right proof learns that the code was used, has expired, or that a clock is wrong,
and every answer to it carries a proof of its own, so that nobody in between can make one up.

Guesses are few: an invitation that was named `core.wire.invitation.TRIES` times without the right proof is
worthless. Beyond so many wrong requests a minute, whatever they name, the rest are told to come later: they
are no answer, and whoever has the right code is let in meanwhile.
"""

import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from pydantic import ValidationError

from pushtrain.core.errors import Busy, PushtrainError, UsageError
from pushtrain.core.text import strictjson
from pushtrain.core.values.card import ExecutorCard
from pushtrain.core.wire.bodies import JSON
from pushtrain.core.wire.invitation import (
    NAME,
    PROOF,
    Introduction,
    Invitation,
    Welcome,
    is_name,
    nobodys,
    unproven,
)
from pushtrain.core.wire.signing import MAX_SKEW, Message, Signed, fingerprint, parse_public, verify_request
from pushtrain.executor.admission import Admission

MAX_INTRODUCTION: Final = 4096
"""Bytes of a request's body: it is read before it is known who sends it."""
_BURST: Final = 30
"""Wrong requests in a row that are answered."""
_PACE: Final = 1.0
"""Wrong requests a second that are answered, on the long run."""
_NOBODYS: Final = nobodys(secrets.token_bytes(32))


@dataclass(frozen=True, slots=True)
class Guest:
    """A request to join whose proof held."""

    message: Message
    invitation: Invitation

    def proof(self, status: int, body: bytes) -> dict[str, str]:
        """The header that goes with an answer."""
        signature = self.message.headers.get("signature", "")
        return {PROOF: self.invitation.answer(signature=signature, status=status, body=body)}


class Porch:
    """Lets guests in.

    Args:
        admission: Who may come in.
        card: Who this is.
        clock: Seconds since the epoch.
        ticks: Seconds that only go forward.
    """

    def __init__(
        self,
        admission: Admission,
        card: Callable[[], ExecutorCard],
        *,
        clock: Callable[[], float] = time.time,
        ticks: Callable[[], float] = time.monotonic,
    ) -> None:
        self._admission = admission
        self._card = card
        self._clock = clock
        self._patience = _Patience(ticks)

    def admit(self, message: Message) -> Guest:
        """Whoever proves a code.

        Raises:
            Unauthorized: The proof does not hold.
            Busy: Too many did not, just now.
        """
        name, proof = message.headers.get(NAME, ""), message.headers.get(PROOF, "")
        found = self._admission.invitation(name) if is_name(name) else None
        signature = message.headers.get("signature", "")
        held = (found or _NOBODYS).proven(proof, signature=signature, body=message.body)
        if found is not None and held:  # never kept waiting for what others send
            return Guest(message, found)
        if found is not None:
            self._admission.doubt(name)
        self._patience.lose()
        raise unproven()

    def welcome(self, guest: Guest) -> tuple[Welcome, Signed]:
        """Authorise the guest's key, by which the request is signed, too.

        Raises:
            PushtrainError: The request is not of our form, a clock is wrong, or the invitation is over.
        """
        key = _introduced(guest.message)

        def lookup(key_id: str) -> Ed25519PublicKey | None:
            return key if fingerprint(key) == key_id else None

        name = guest.invitation.name
        signed = verify_request(guest.message, lookup=lookup, audience=name, now=self._clock())
        joined = self._admission.join(
            name,
            Introduction.model_validate_json(guest.message.body).public_key,
            nonce=f"{signed.key_id}:{signed.nonce}",
            nonce_expires=signed.expires + MAX_SKEW,
        )
        return Welcome(card=self._card(), terms=joined.terms), signed


def _introduced(message: Message) -> Ed25519PublicKey:
    if message.headers.get("content-type") != JSON:
        raise UsageError(f"A request to join is sent as {JSON}.")
    strictjson.loads(message.body)
    try:
        return parse_public(Introduction.model_validate_json(message.body, strict=True).public_key)
    except ValidationError as error:
        raise UsageError(
            "The body is no request to join.",
            mend="Both sides may be of different versions: `pushtrain --version` on both.",
        ) from error


class _Patience:
    """So many wrong requests at once, and so many a second."""

    def __init__(self, ticks: Callable[[], float]) -> None:
        self._ticks = ticks
        self._guard = threading.Lock()
        self._left = float(_BURST)
        self._at = ticks()

    def lose(self) -> None:
        """One was wrong; raises Busy when there were too many."""
        with self._guard:
            now = self._ticks()
            self._left = min(float(_BURST), self._left + (now - self._at) * _PACE)
            self._at = now
            if self._left >= 1:
                self._left -= 1
                return
        raise _too_many()


def _too_many() -> PushtrainError:
    return Busy(
        "Too many requests to join came without the right code.",
        mend="Try again in a minute; the executor's log tells more.",
    )
