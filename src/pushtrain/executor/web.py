"""The executor's HTTP door: verifies before it parses, and signs every answer.

A request is read raw and bounded, then its signature is checked, and only then is anything of it parsed and
acted on (`calls`). Errors leave as signed JSON with their status; what nobody expected leaves as a signed 500
that tells nothing, its traceback in the log. Only `/healthz` is open, and it says nothing; the way in for who
has an invitation is behind its secret (`joining`).
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from starlette.applications import Starlette
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from pushtrain.core.errors import NotFound, PushtrainError, TooLarge, UsageError
from pushtrain.core.invitation import PATH as JOIN
from pushtrain.core.signing import (
    Message,
    Signed,
    fields,
    fingerprint,
    parse_public,
    sign_response,
    verify_request,
)
from pushtrain.core.wire import MAX_BODY, ErrorBody
from pushtrain.executor.calls import ROUTES, Call, Handler, Reply, Service
from pushtrain.executor.joining import Porch
from pushtrain.executor.lines import Write
from pushtrain.executor.stream import Streams

if TYPE_CHECKING:
    from pushtrain.plumbing.keys import Grant

log = logging.getLogger(__name__)

Headers = list[tuple[bytes, bytes]]

_PRIVATE: Final = {"cache-control": "no-store, no-transform"}


def create_app(service: Service, *, clock: Callable[[], float] = time.time) -> Starlette:
    """The executor's HTTP interface.

    Args:
        service: What stands behind it.
        clock: Seconds since the epoch.
    """
    door = _Door(service, clock, Streams(service))
    routes = [Route("/healthz", _Health()), Route(JOIN, _Entrance(door, Porch(service, clock=clock)))]
    routes += [Route(path, _Resource(door, handlers)) for path, handlers in ROUTES.items()]
    routes.append(Route("/{rest:path}", _Resource(door, {})))
    app = Starlette(routes=routes)
    app.router.redirect_slashes = False
    return app


class _Unsupported(UsageError):
    """The body is encoded in a way that we do not take."""

    status = 415


class _NoSuchMethod(UsageError):
    """The path exists, but not for this method."""

    status = 405


class _Health:
    """`/healthz`: alive, and not a word more."""

    async def __call__(self, scope: Scope, _receive: Receive, send: Send) -> None:
        status, headers = (204, []) if scope["method"] == "GET" else (405, [(b"allow", b"GET")])
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": b""})


@dataclass(frozen=True, slots=True)
class _Door:
    """What all resources share."""

    service: Service
    clock: Callable[[], float]
    streams: Streams

    def admit(self, message: Message, path: Mapping[str, str]) -> Call:
        """Verify a request.

        Raises:
            Unauthorized: See `core.signing.verify_request`.
        """
        found: list[Grant] = []

        def lookup(key_id: str) -> Ed25519PublicKey | None:
            grant = self.service.grant(key_id)
            if grant is None:
                return None
            found.append(grant)
            return parse_public(grant.public_key)

        audience = fingerprint(self.service.key.public_key())
        signed = verify_request(message, lookup=lookup, audience=audience, now=self.clock())
        return Call(message, signed, found[0], path, self.service)

    def seal(self, reply: Reply, signed: Signed | None) -> Headers:
        """Every header of an answer, its signature among them; a refusal where no signature held."""
        headers = {"content-type": reply.kind, **_PRIVATE, **reply.headers}
        body = None if reply.stream else reply.body
        if body is not None:
            headers["content-length"] = str(len(body))
        request = signed.signature if signed else None
        key, now = self.service.key, self.clock()
        headers |= sign_response(reply.status, headers, body, key=key, request=request, now=now)
        return [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]


class _Resource:
    """One path: its methods, and the same way in and out for each of them."""

    def __init__(self, door: _Door, handlers: Mapping[str, Handler]) -> None:
        self._door = door
        self._handlers = handlers
        self._methods = tuple(handlers)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with contextlib.ExitStack() as held:
            raw: bytes | PushtrainError
            try:
                raw = await _read(scope, receive)
            except PushtrainError as error:
                raw = error
            reply, headers = await asyncio.to_thread(self._answer, scope, raw, held)
            await send({"type": "http.response.start", "status": reply.status, "headers": headers})
            if reply.stream:
                await self._door.streams.follow(reply.stream, _lines(send), _gone(receive))
            await send({"type": "http.response.body", "body": reply.body})

    def _answer(
        self, scope: Scope, raw: bytes | PushtrainError, held: contextlib.ExitStack
    ) -> tuple[Reply, Headers]:
        """Everything between the last byte of a request and the first of its answer; blocks."""
        signed = None
        try:
            self._check(scope["method"])
            handler = self._handlers[scope["method"]]
            call = self._door.admit(_message(scope, raw), scope["path_params"])
            signed = call.signed
            reply = handler(call)
            if reply.stream:
                held.enter_context(self._door.streams.place(reply.stream))
        except Exception as error:  # noqa: BLE001  whatever it is, the caller gets a signed answer
            reply = self._told(error)
        return reply, self._door.seal(reply, signed)

    def _check(self, method: str) -> None:
        if not self._methods:
            raise NotFound("There is nothing here.")
        if method not in self._methods:
            raise _NoSuchMethod("That cannot be done here.")

    def _told(self, error: Exception) -> Reply:
        if not isinstance(error, PushtrainError):
            log.error("a request failed in a way that nobody expected", exc_info=error)
            error = PushtrainError(
                "The executor failed in a way that it did not expect.", mend="Its log tells more."
            )
        headers = {"allow": ", ".join(self._methods)} if isinstance(error, _NoSuchMethod) else {}
        return Reply(error.status, ErrorBody.of(error).model_dump_json().encode(), headers=headers)


class _Entrance(_Resource):
    """Where a guest with an invitation comes in; every answer to a proven request is proven, too."""

    def __init__(self, door: _Door, porch: Porch) -> None:
        super().__init__(door, {})
        self._methods = ("POST",)
        self._porch = porch

    def _answer(
        self,
        scope: Scope,
        raw: bytes | PushtrainError,
        held: contextlib.ExitStack,  # noqa: ARG002  a guest gets no stream
    ) -> tuple[Reply, Headers]:
        guest, signed = None, None
        try:
            self._check(scope["method"])
            guest = self._porch.admit(_message(scope, raw))
            welcome, signed = self._porch.welcome(guest)
            reply = Reply(body=welcome.model_dump_json().encode())
        except Exception as error:  # noqa: BLE001  whatever it is, the caller gets a signed answer
            reply = self._told(error)
        if guest is not None:
            reply = replace(reply, headers={**reply.headers, **guest.proof(reply.status, reply.body)})
        return reply, self._door.seal(reply, signed)


def _message(scope: Scope, raw: bytes | PushtrainError) -> Message:
    if isinstance(raw, PushtrainError):
        raise raw
    pairs = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in scope["headers"]]
    path, query = scope["raw_path"].decode("latin-1"), scope["query_string"].decode("latin-1")
    return Message(scope["method"], path, query, fields(pairs), raw)


async def _read(scope: Scope, receive: Receive) -> bytes:
    """The raw body.

    Raises:
        TooLarge: It is over the limit; the rest is not read.
        UsageError: It is encoded, so that what is signed and what is meant could differ; or it broke off.
    """
    for name, value in scope["headers"]:
        if name == b"content-encoding":
            raise _Unsupported("An encoded body is not taken.", mend="Send it without Content-Encoding.")
        if name == b"content-length" and int(value) > MAX_BODY:
            raise _too_large()
    body = bytearray()
    more = True
    while more:
        event = await receive()
        if event["type"] == "http.disconnect":
            raise UsageError("The request broke off in its body.")
        body += event.get("body", b"")
        more = event.get("more_body", False)
        if len(body) > MAX_BODY:
            raise _too_large()
    return bytes(body)


def _too_large() -> TooLarge:
    return TooLarge(f"The body is larger than {MAX_BODY} bytes.", mend="Put data at a URL, not in a command.")


def _lines(send: Send) -> Write:
    return lambda line: send({"type": "http.response.body", "body": line, "more_body": True})


async def _gone(receive: Receive) -> None:
    """Return once the caller has hung up."""
    while (await receive())["type"] != "http.disconnect":
        pass
