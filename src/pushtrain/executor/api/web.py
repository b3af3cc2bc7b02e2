"""The executor's HTTP door: verifies before it parses, and signs every answer.

A request's signature is checked before a byte of its body is read; the body is read raw and bounded, compared
with the digest that was signed, and only then is anything of it parsed and acted on (`calls`). Errors leave
as signed JSON with their status; what nobody expected leaves as a signed 500 that tells nothing, its
traceback in the log. Only `/healthz` is open, and it says nothing; the way in for who has an invitation is
behind its secret (`joining`).

The door has threads of its own: whatever else waits in this process, a remote that hangs or a full disk, the
door still answers.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final, TypeVar

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from starlette.applications import Starlette
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from pushtrain.core.errors import NotFound, PushtrainError, TooLarge, Unauthorized, UsageError
from pushtrain.core.wire.bodies import MAX_BODY, ErrorBody
from pushtrain.core.wire.invitation import PATH as JOIN
from pushtrain.core.wire.signing import (
    AUDIENCE,
    UNKNOWN_KEY,
    Message,
    check_body,
    fields,
    fingerprint,
    parse_public,
    sign_response,
    verify_head,
)
from pushtrain.core.wire.succession import HEADER as SUCCESSION
from pushtrain.core.wire.succession import of_header
from pushtrain.executor.api.calls import ROUTES, Call, Handler, Reply, Service
from pushtrain.executor.api.joining import MAX_INTRODUCTION, Porch
from pushtrain.executor.api.lines import Write
from pushtrain.executor.api.stream import Streams
from pushtrain.plumbing.http.serve import proven

if TYPE_CHECKING:
    from pushtrain.plumbing.keys.authorized import Grant

log = logging.getLogger(__name__)

Headers = list[tuple[bytes, bytes]]
T = TypeVar("T")

_THREADS: Final = 8
_PRIVATE: Final = {"cache-control": "no-store, no-transform"}


def create_app(service: Service, *, clock: Callable[[], float] = time.time) -> Starlette:
    """The executor's HTTP interface.

    Args:
        service: What stands behind it.
        clock: Seconds since the epoch.
    """
    door = _Door(service, clock, Streams(service))
    porch = Porch(service.admission, service.card, clock=clock)
    routes = [Route("/healthz", _Health()), Route(JOIN, _Entrance(door, porch))]
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
    threads: ThreadPoolExecutor = field(
        default_factory=lambda: ThreadPoolExecutor(_THREADS, thread_name_prefix="pushtrain-door")
    )
    refusals: dict[tuple[object, ...], Headers] = field(default_factory=dict)
    """What strangers were told in this second."""

    async def think(self, work: Callable[..., T], *arguments: object) -> T:
        """Do what may block in a thread."""
        return await asyncio.get_running_loop().run_in_executor(self.threads, work, *arguments)

    def admit(self, message: Message, path: Mapping[str, str], key: Ed25519PrivateKey) -> Call:
        """Verify a request, its body apart.

        Raises:
            Unauthorized: See `core.wire.signing.verify_head`.
        """
        found: list[tuple[Grant, bool]] = []

        shown = of_header(message.headers.get(SUCCESSION, ""))

        def lookup(key_id: str) -> Ed25519PublicKey | None:
            known = self.service.admission.grant(key_id)
            grant = known or (self.service.admission.heir(key_id, shown) if shown else None)
            if grant is None:
                return None
            found.append((grant, known is None))
            return parse_public(grant.public_key)

        audience = fingerprint(key.public_key())
        signed = verify_head(message, lookup=lookup, audience=audience, now=self.clock())
        ((grant, is_heir),) = found
        if is_heir:
            self.service.admission.succeed(signed.key_id, shown)
            if self.service.admission.grant(signed.key_id) is None:
                raise Unauthorized("Another key has taken the place of that one.", mend=UNKNOWN_KEY)
        return Call(message, signed, grant, path, self.service, key)

    def asked(self, scope: Scope) -> Ed25519PrivateKey:
        """The one of our keys that a request is meant for: the current one, unless it is a former one."""
        names = [value for name, value in scope["headers"] if name == AUDIENCE.encode()]
        identity = self.service.identity
        audience = names[0].decode("latin-1") if len(names) == 1 else ""
        return identity.counting(self.clock()).get(audience, identity.key)

    def seal(self, reply: Reply, request: str | None, key: Ed25519PrivateKey) -> Headers:
        """Every header of an answer, its signature among them; a refusal where no signature held.

        Strangers in a second are told the same, so it is signed once: they cannot make us work.

        Args:
            reply: What to answer.
            request: The signature of the request, once it held.
            key: The one of our keys that was asked.
        """
        if request is not None:
            return self._seal(reply, request, key)
        who = key.public_key().public_bytes_raw()
        kind = (int(self.clock()), who, reply.status, reply.body, tuple(reply.headers.items()))
        known = self.refusals.get(kind)
        if known is None:
            known = self._seal(reply, None, key)
            self.refusals.clear()
            self.refusals[kind] = known
        return known

    def _seal(self, reply: Reply, request: str | None, key: Ed25519PrivateKey) -> Headers:
        headers = {"content-type": reply.kind, **_PRIVATE, **reply.headers}
        body = None if reply.stream else reply.body
        if body is not None:
            headers["content-length"] = str(len(body))
        now = self.clock()
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
            reply, headers = await self._answer(scope, receive, held)
            await send({"type": "http.response.start", "status": reply.status, "headers": headers})
            if reply.stream:
                await self._door.streams.follow(reply.stream, _lines(send), _gone(receive))
            await send({"type": "http.response.body", "body": reply.body})

    async def _answer(
        self, scope: Scope, receive: Receive, held: contextlib.ExitStack
    ) -> tuple[Reply, Headers]:
        """Everything before the first byte of an answer."""
        think, key = self._door.think, self._door.asked(scope)
        if not _announces_a_body(scope):
            return await think(lambda: self._act(self._admit(scope, key), b"", held, key))
        admitted = await think(self._admit, scope, key)
        body: bytes | PushtrainError = b""
        if isinstance(admitted, Call):
            try:
                body = await _read(scope, receive)
            except PushtrainError as error:
                body = error
        return await think(self._act, admitted, body, held, key)

    def _admit(self, scope: Scope, key: Ed25519PrivateKey) -> Call | Exception:
        """The request without its body, once its signature held; else why it did not."""
        try:
            self._check(scope["method"])
            call = self._door.admit(_message(scope), scope["path_params"], key)
        except Exception as error:  # noqa: BLE001  whatever it is, the caller gets a signed answer
            return error
        proven(scope)
        return call

    def _act(
        self,
        admitted: Call | Exception,
        body: bytes | PushtrainError,
        held: contextlib.ExitStack,
        key: Ed25519PrivateKey,
    ) -> tuple[Reply, Headers]:
        """Do what is asked; the answer, whatever happens."""
        call = None
        try:
            if isinstance(admitted, Exception):
                raise admitted  # noqa: TRY301  one way to tell of it
            if isinstance(body, bytes):
                admitted = replace(admitted, message=replace(admitted.message, body=body))
                check_body(admitted.message)
            call = admitted
            if isinstance(body, Exception):
                raise body  # noqa: TRY301
            reply = self._handlers[call.message.method](call)
            if reply.stream:
                held.enter_context(self._door.streams.place(reply.stream))
        except Exception as error:  # noqa: BLE001
            reply = self._told(error)
        return reply, self._door.seal(reply, call.signed.signature if call else None, key)

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
        if error.retry_after:
            headers["retry-after"] = str(error.retry_after)
        return Reply(error.status, ErrorBody.of(error).model_dump_json().encode(), headers=headers)


class _Entrance(_Resource):
    """Where a guest with an invitation comes in; every answer to a proven request is proven, too."""

    def __init__(self, door: _Door, porch: Porch) -> None:
        super().__init__(door, {})
        self._methods = ("POST",)
        self._porch = porch

    async def _answer(
        self,
        scope: Scope,
        receive: Receive,
        held: contextlib.ExitStack,  # noqa: ARG002  a guest gets no stream
    ) -> tuple[Reply, Headers]:
        body: bytes | PushtrainError
        try:
            body = await _read(scope, receive, most=MAX_INTRODUCTION)
        except PushtrainError as error:
            body = error
        return await self._door.think(self._let_in, scope, body)

    def _let_in(self, scope: Scope, body: bytes | PushtrainError) -> tuple[Reply, Headers]:
        guest, signed = None, None
        try:
            self._check(scope["method"])
            if isinstance(body, Exception):
                raise body  # noqa: TRY301
            guest = self._porch.admit(replace(_message(scope), body=body))
            proven(scope)
            welcome, signed = self._porch.welcome(guest)
            reply = Reply(body=welcome.model_dump_json().encode())
        except Exception as error:  # noqa: BLE001  whatever it is, the caller gets a signed answer
            reply = self._told(error)
        if guest is not None:
            reply = replace(reply, headers={**reply.headers, **guest.proof(reply.status, reply.body)})
        return reply, self._door.seal(reply, signed.signature if signed else None, self._door.service.key)


def _message(scope: Scope) -> Message:
    pairs = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in scope["headers"]]
    path, query = scope["raw_path"].decode("latin-1"), scope["query_string"].decode("latin-1")
    return Message(scope["method"], path, query, fields(pairs))


def _announces_a_body(scope: Scope) -> bool:
    return any(
        name == b"transfer-encoding" or (name == b"content-length" and value != b"0")
        for name, value in scope["headers"]
    )


async def _read(scope: Scope, receive: Receive, *, most: int = MAX_BODY) -> bytes:
    """The raw body, of so many bytes at most.

    Raises:
        TooLarge: It is over the limit; the rest is not read.
        UsageError: It is encoded, so that what is signed and what is meant could differ; or it broke off.
    """
    for name, value in scope["headers"]:
        if name == b"content-encoding":
            raise _Unsupported("An encoded body is not taken.", mend="Send it without Content-Encoding.")
        if name == b"content-length" and int(value) > most:  # digits, says `core.text.heads`
            raise _too_large(most)
    body = bytearray()
    more = True
    while more:
        event = await receive()
        if event["type"] == "http.disconnect":
            raise UsageError("The request broke off in its body.")
        body += event.get("body", b"")
        more = event.get("more_body", False)
        if len(body) > most:
            raise _too_large(most)
    return bytes(body)


def _too_large(most: int) -> TooLarge:
    return TooLarge(f"The body is larger than {most} bytes.", mend="Put data at a URL, not in a command.")


def _lines(send: Send) -> Write:
    return lambda line: send({"type": "http.response.body", "body": line, "more_body": True})


async def _gone(receive: Receive) -> None:
    """Return once the caller has hung up."""
    while (await receive())["type"] != "http.disconnect":
        pass
