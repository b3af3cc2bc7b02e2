"""The webhook's door: raw bytes are verified before they are parsed, kept before they are answered.

`POST /webhook` answers 202 once the push is on the disk; what it starts is found out afterwards. `GET
/healthz` answers 204 and tells nothing.
"""

import asyncio
import logging
from collections.abc import Mapping
from typing import Final

from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from pushtrain.core.errors import Busy, PushtrainError, TooLarge, Unauthorized, UsageError
from pushtrain.ports import GitHost
from pushtrain.sender.service import SenderService

log = logging.getLogger(__name__)

BODY_LIMIT: Final = 25 * 1024 * 1024
"""What GitHub sends at most."""
_HELD_LIMIT: Final = 4 * BODY_LIMIT
"""Bytes of unverified bodies in memory at once, of all callers together."""


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


class _Door:
    def __init__(self, service: SenderService, host: GitHost, secret: bytes) -> None:
        self._service = service
        self._host = host
        self._secret = secret
        self._held = 0

    async def webhook(self, request: Request) -> Response:
        body = bytearray()
        try:
            await self._read(request, body)
            answer = await asyncio.to_thread(self._take, dict(request.headers), bytes(body))
            return JSONResponse(answer, status_code=202)
        except ClientDisconnect:
            return Response(status_code=400)
        except PushtrainError as error:
            log.info("a webhook was answered %d: %s", error.status, error.message)
            document = {"error": {"code": error.code, "message": error.message, "mend": error.mend}}
            return JSONResponse(document, status_code=error.status)
        finally:
            self._held -= len(body)

    async def _read(self, request: Request, body: bytearray) -> None:
        """Read the body into `body`, within the limits."""
        length = request.headers.get("content-length", "0")
        if not length.isdecimal():
            raise UsageError("The header Content-Length is not a number.")
        if int(length) > BODY_LIMIT:
            raise TooLarge(f"The body has {length} bytes; at most {BODY_LIMIT} are read.")
        async for chunk in request.stream():
            if self._held + len(chunk) > _HELD_LIMIT:
                raise Busy("Too many large deliveries at once.", mend="Deliver it again later.")
            body += chunk
            self._held += len(chunk)
            if len(body) > BODY_LIMIT:
                raise TooLarge(f"The body has more than {BODY_LIMIT} bytes.")

    def _take(self, headers: Mapping[str, str], body: bytes) -> dict[str, str]:
        if not self._host.verify(headers, body, self._secret):
            raise Unauthorized(
                "The webhook's signature is missing or wrong.",
                mend="Give the Git host the secret that stands in this sender's webhook.secret.",
            )
        push = self._host.parse(headers, body)
        if push is None:
            return {"status": "ignored"}
        new = self._service.hear(push, source="webhook")
        return {"status": "accepted" if new else "known", "delivery": push.delivery}
