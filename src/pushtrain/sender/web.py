"""The webhook's door: raw bytes are verified before they are parsed, kept before they are answered.

`POST /webhook` answers 202 once the push is on the disk; what it starts is found out afterwards. `GET
/healthz` answers 204 and tells nothing.

A body cannot be verified before it is here whole, so strangers can make us hold theirs. All together get a
fixed room; where it is full, the body that has been unfinished for longest is dropped: a push of a real host
is through in moments, while who fills the room on purpose drops what he began himself.
"""

import asyncio
import logging
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Final

from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from pushtrain.core.errors import Busy, PushtrainError, TooLarge, Unauthorized, UsageError
from pushtrain.plumbing.http.serve import proven
from pushtrain.ports import GitHost
from pushtrain.sender.service import SenderService

log = logging.getLogger(__name__)

BODY_LIMIT: Final = 25 * 1024 * 1024
"""What GitHub sends at most."""
_HELD_LIMIT: Final = 4 * BODY_LIMIT
"""Bytes of unverified bodies in memory at once, of all callers together."""
_THREADS: Final = 4


def create_app(service: SenderService, *, host: GitHost, secret: bytes) -> Starlette:
    """The webhook server's application.

    Args:
        service: Keeps and works on what arrives.
        host: Verifies and parses; `adapters.hosts`.
        secret: Shared with the Git host; not empty.
    """
    door = _Door(service, host, secret)
    return Starlette(
        routes=[
            Route("/webhook", door.webhook, methods=["POST"]),
            Route("/healthz", _healthz, methods=["GET"]),
        ]
    )


async def _healthz(_: Request) -> Response:
    return Response(status_code=204)


class _Unsupported(UsageError):
    """The body is encoded in a way that we do not take."""

    status = 415


@dataclass(slots=True, eq=False)
class _Body:
    """A body that is being read."""

    data: bytearray = field(default_factory=bytearray)
    dropped: bool = False


class _Door:
    def __init__(self, service: SenderService, host: GitHost, secret: bytes) -> None:
        self._service = service
        self._host = host
        self._secret = secret
        self._bodies: dict[_Body, None] = {}
        self._held = 0
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="pushtrain-webhook")

    async def webhook(self, request: Request) -> Response:
        body = _Body()
        self._bodies[body] = None
        try:
            await self._read(request, body)
            loop = asyncio.get_running_loop()
            answer = await loop.run_in_executor(self._threads, self._take, request, bytes(body.data))
            return JSONResponse(answer, status_code=202)
        except ClientDisconnect:
            return Response(status_code=400)
        except PushtrainError as error:
            log.info("a webhook was answered %d: %s", error.status, error.message)
            document = {"error": {"code": error.code, "message": error.message, "mend": error.mend}}
            return JSONResponse(document, status_code=error.status)
        finally:
            self._drop(body)

    async def _read(self, request: Request, body: _Body) -> None:
        """Read the body, within the limits."""
        if "content-encoding" in request.headers:
            raise _Unsupported("An encoded body is not taken.")
        length = request.headers.get("content-length", "0")
        if int(length) > BODY_LIMIT:  # digits, says `core.text.heads`
            raise TooLarge(f"The body has {length} bytes; at most {BODY_LIMIT} are read.")
        async for chunk in request.stream():
            if body.dropped:
                raise Busy("Too many large deliveries at once.", mend="Deliver it again later.")
            body.data += chunk
            self._held += len(chunk)
            if len(body.data) > BODY_LIMIT:
                raise TooLarge(f"The body has more than {BODY_LIMIT} bytes.")
            while self._held > _HELD_LIMIT:
                self._drop(next(iter(self._bodies)))

    def _drop(self, body: _Body) -> None:
        """Let a body go, whoever reads it."""
        if body in self._bodies:
            del self._bodies[body]
            self._held -= len(body.data)
            body.data, body.dropped = bytearray(), True

    def _take(self, request: Request, body: bytes) -> dict[str, str]:
        headers = dict(request.headers)
        if not self._host.verify(headers, body, self._secret):
            raise Unauthorized(
                "The webhook's signature is missing or wrong.",
                mend="Give the Git host the secret that stands in this sender's webhook.secret.",
            )
        proven(request.scope)
        push = self._host.parse(headers, body)
        if push is None:
            return {"status": "ignored"}
        new = self._service.hear(push, source="webhook")
        return {"status": "accepted" if new else "known", "delivery": push.delivery}
