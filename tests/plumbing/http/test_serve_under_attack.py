"""The server under attack: floods, dribbles, readers who do not read, and requests that hide others."""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Callable

import pytest
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from pushtrain.plumbing.http.serve import Limits, serving
from pushtrain.testing import eventually

pytestmark = pytest.mark.anyio

CROWD = 20
HALVES = {
    "silence": b"",
    "half a head": b"POST /echo HTTP/1.1\r\nHost: x\r\nX-",
    "half a body": b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nhalf",
    "half a chunk": b"POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nff\r\nhalf",
}


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Doors:
    """An application that knows whoever says `x-key: right`, and counts what it was asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.go_on = asyncio.Event()
        self.app = Starlette(
            routes=[
                Route("/echo", self._echo, methods=["GET", "POST"]),
                Route("/slow", self._slow),
                Route("/much", self._much),
            ]
        )

    async def _echo(self, request: Request) -> Response:
        self.asked.append(request.url.path)
        if request.headers.get("x-key") == "right":
            request.scope["state"]["proven"]()
        try:
            return PlainTextResponse(await request.body())
        except ClientDisconnect:
            return Response(status_code=400)

    async def _slow(self, request: Request) -> Response:
        if request.headers.get("x-key") == "right":
            request.scope["state"]["proven"]()
        self.asked.append(request.url.path)
        await self.go_on.wait()
        return PlainTextResponse("at last")

    async def _much(self, request: Request) -> Response:
        if request.headers.get("x-key") == "right":
            request.scope["state"]["proven"]()
        return PlainTextResponse(b"x" * 50_000_000)


class Caller:
    """One connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def say(self, data: bytes) -> None:
        self.writer.write(data)
        with contextlib.suppress(ConnectionError):
            await self.writer.drain()

    async def answer(self) -> bytes:
        """One answer whose length is told."""
        head = await self.reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
        return head + await self.reader.readexactly(length)

    async def rest(self) -> bytes:
        """All that comes until the server hangs up."""
        got = b""
        with contextlib.suppress(ConnectionError):
            while piece := await self.reader.read(65536):
                got += piece
        return got


@contextlib.asynccontextmanager
async def a_server(doors: Doors, **limits: float) -> AsyncIterator[Callable[..., "asyncio.Future[Caller]"]]:
    """A server; how to call it."""
    callers: list[Caller] = []
    async with serving(doors.app, "127.0.0.1", 0, limits=Limits(**limits)) as port:  # type: ignore[arg-type]

        async def call(data: bytes = b"") -> Caller:
            caller = Caller(*await asyncio.open_connection("127.0.0.1", port))
            callers.append(caller)
            await caller.say(data)
            return caller

        try:
            yield lambda data=b"": asyncio.ensure_future(call(data))
        finally:
            for caller in callers:
                caller.writer.transport.abort()


def _get(path: str = "/echo", *more: str) -> bytes:
    return "\r\n".join([f"GET {path} HTTP/1.1", "Host: x", *more, "", ""]).encode()


# --- too many ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("half", HALVES)
async def test_whoever_floods_the_server_pushes_out_himself(half: str) -> None:
    async with a_server(Doors(), connections=CROWD, request=60) as call:
        flood = [await call(HALVES[half]) for _ in range(3 * CROWD)]
        began = time.monotonic()
        async with asyncio.timeout(20):
            friend = await call(_get("/echo", "x-key: right"))
            assert (await friend.answer()).startswith(b"HTTP/1.1 200 ")
            assert time.monotonic() - began < 1
            for oldest in flood[: 2 * CROWD]:
                await oldest.rest()
        assert not flood[-1].reader.at_eof()


async def test_a_flood_of_kept_connections_is_pushed_out_too() -> None:
    async with a_server(Doors(), connections=CROWD) as call:
        flood = []
        for _ in range(2 * CROWD):
            one = await call(_get())
            await one.answer()
            flood.append(one)
        async with asyncio.timeout(20):
            assert (await (await call(_get())).answer()).startswith(b"HTTP/1.1 200 ")
            await flood[0].rest()


async def test_who_has_proven_who_he_is_stays_in_a_flood() -> None:
    async with a_server(Doors(), connections=CROWD, request=60) as call:
        friend = await call(_get("/echo", "x-key: right"))
        await friend.answer()
        for _ in range(3 * CROWD):
            await call(b"GET /")
        await friend.say(_get("/echo", "x-key: right"))
        async with asyncio.timeout(20):
            assert (await friend.answer()).startswith(b"HTTP/1.1 200 ")


async def test_a_proven_request_is_answered_while_others_that_idle_make_room() -> None:
    doors = Doors()
    async with a_server(doors, connections=2) as call:
        idle = await call(_get("/echo", "x-key: right"))
        await idle.answer()
        busy = await call(_get("/slow", "x-key: right"))
        await eventually(lambda: "/slow" in doors.asked)
        newcomer = await call(_get("/echo", "x-key: right"))
        async with asyncio.timeout(20):
            assert (await newcomer.answer()).startswith(b"HTTP/1.1 200 ")
            await idle.rest()
            doors.go_on.set()
            assert (await busy.answer()).endswith(b"at last")


async def test_where_everybody_is_answered_who_has_proven_it_the_newcomer_leaves() -> None:
    doors = Doors()
    async with a_server(doors, connections=1) as call:
        busy = await call(_get("/slow", "x-key: right"))
        await eventually(lambda: "/slow" in doors.asked)
        async with asyncio.timeout(20):
            assert await (await call(_get())).rest() == b""
            doors.go_on.set()
            assert (await busy.answer()).endswith(b"at last")


# --- too slow ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("half", HALVES)
async def test_a_request_that_is_dribbled_ends_in_time(half: str) -> None:
    async with a_server(Doors(), request=0.3) as call:
        caller = await call(HALVES[half])
        began = time.monotonic()

        async def dribble() -> None:
            while not caller.writer.is_closing():
                await caller.say(b"a" if half != "silence" else b"")
                await asyncio.sleep(0.02)

        dribbling = asyncio.ensure_future(dribble())
        async with asyncio.timeout(20):
            await caller.rest()
        dribbling.cancel()
        assert time.monotonic() - began < 5


async def test_a_stranger_who_does_not_read_his_answer_is_hung_up_on() -> None:
    async with a_server(Doors(), request=0.3) as call:
        stranger, friend, old = (
            await call(_get("/much")),
            await call(_get("/much", "x-key: right")),
            await call(),
        )
        await old.say(_get("/echo", "x-key: right"))
        await old.answer()
        await old.say(_get("/much", "x-key: right"))
        for caller in (stranger, friend, old):
            caller.writer.transport.pause_reading()  # type: ignore[attr-defined]
        await asyncio.sleep(0.6)
        async with asyncio.timeout(20):
            stranger.writer.transport.resume_reading()  # type: ignore[attr-defined]
            assert len(await stranger.rest()) < 50_000_000
            for one in (friend, old):
                one.writer.transport.resume_reading()  # type: ignore[attr-defined]
                assert (await one.answer()).endswith(b"x" * 100)


# --- requests that hide others ----------------------------------------------------------------------------

HIDDEN = b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n"
POST = b"POST /echo HTTP/1.1\r\nHost: x\r\n"
SMUGGLED = {
    "a length and chunks": POST
    + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
    + HIDDEN,
    "chunks and a length": POST
    + b"Transfer-Encoding: chunked\r\nContent-Length: %d\r\n\r\n0\r\n\r\n%s" % (5 + len(HIDDEN), HIDDEN),
    "two lengths": POST + b"Content-Length: 0\r\nContent-Length: %d\r\n\r\n%s" % (len(HIDDEN), HIDDEN),
    "the same length twice": POST + b"Content-Length: 0\r\nContent-Length: 0\r\n\r\n",
    "a length of +5": POST + b"Content-Length: +5\r\n\r\nhello",
    "a length of 1_0": POST + b"Content-Length: 1_0\r\n\r\nhellohello",
    "a folded coding": b"POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n",
    "bare line feeds": b"POST /echo HTTP/1.1\nHost: x\nContent-Length: 0\n\n" + HIDDEN,
    "a bare line feed": b"POST /echo HTTP/1.1\r\nHost: x\r\nX: a\nContent-Length: 0\r\n\r\n",
    "absolute form": b"GET http://evil.example/echo HTTP/1.1\r\nHost: x\r\n\r\n",
    "CONNECT": b"CONNECT evil.example:443 HTTP/1.1\r\nHost: x\r\n\r\n",
    "the preface of HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "a TLS hello": bytes.fromhex("16030100a5010000a10303") + bytes(100),
    "a parent in the path": b"GET /x/../echo HTTP/1.1\r\nHost: x\r\n\r\n",
    "an escaped slash": b"GET /x%2f..%2fecho HTTP/1.1\r\nHost: x\r\n\r\n",
    "no host": b"GET /echo HTTP/1.1\r\n\r\n",
    "two hosts": b"GET /echo HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n",
    "a thousand fields": b"GET /echo HTTP/1.1\r\nHost: x\r\n" + b"X: y\r\n" * 1000 + b"\r\n",
    "a chunk of no length": b"POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\n",
}


@pytest.mark.parametrize("name", SMUGGLED)
async def test_a_request_that_two_could_read_in_two_ways_is_refused(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    doors = Doors()
    async with a_server(doors) as call, asyncio.timeout(20):
        answer = await (await call(SMUGGLED[name])).rest()
    assert answer.startswith(b"HTTP/1.1 400 ") or answer == b""
    assert answer.count(b"HTTP/1.1") <= 1
    assert "/slow" not in doors.asked
    assert doors.asked == [] or name.startswith("a chunk")
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == [], (
        "noise fills no log"
    )


async def test_what_follows_a_request_before_its_answer_is_not_answered() -> None:
    doors = Doors()
    async with a_server(doors) as call, asyncio.timeout(20):
        answer = await (await call(_get() + _get("/much") + _get())).rest()
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert answer.count(b"HTTP/1.1 ") == 1, "not even with a refusal"
    assert doors.asked == ["/echo"]


async def test_what_follows_a_body_that_nobody_read_is_not_answered() -> None:
    doors = Doors()
    body = b"POST /none HTTP/1.1\r\nHost: x\r\nContent-Length: 200000\r\n\r\n"
    async with a_server(doors) as call, asyncio.timeout(20):
        caller = await call(body)
        assert (await caller.answer()).startswith(b"HTTP/1.1 404 ")
        await caller.say(b"x" * 200_000 + _get())
        assert b"HTTP/1.1 200" not in await caller.rest()
    assert doors.asked == []


async def test_a_second_request_after_the_answer_is_read_as_strictly_as_the_first() -> None:
    doors = Doors()
    async with a_server(doors) as call, asyncio.timeout(20):
        caller = await call(_get())
        assert (await caller.answer()).startswith(b"HTTP/1.1 200 ")
        await caller.say(SMUGGLED["a length and chunks"])
        assert (await caller.rest()).startswith(b"HTTP/1.1 400 ")
    assert doors.asked == ["/echo"]


@pytest.mark.parametrize("what", ["h2c", "websocket"])
async def test_nobody_talks_the_server_into_another_protocol(
    what: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with a_server(Doors()) as call, asyncio.timeout(20):
        caller = await call(_get("/echo", "Connection: Upgrade", f"Upgrade: {what}"))
        assert (await caller.answer()).startswith(b"HTTP/1.1 200 ")
    assert caplog.records == []
