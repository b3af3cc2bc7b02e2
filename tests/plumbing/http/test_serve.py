"""The server that every room uses: real sockets on loopback."""

import asyncio
import gc
import logging
import signal
import socket

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from pushtrain.core.errors import Conflict, UsageError
from pushtrain.plumbing.http.serve import Limits, _bind, proven, serving

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def _echo(request: Request) -> Response:
    return PlainTextResponse(await request.body())


APP = Starlette(routes=[Route("/echo", _echo, methods=["GET", "POST"])])


async def _talk(port: int, payload: bytes) -> bytes:
    """Send raw bytes and read until the server closes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(payload)
    await writer.drain()
    answer = await reader.read()
    writer.close()
    return answer


def _post(body: bytes, *, close: bool = True) -> bytes:
    last = b"Connection: close\r\n" if close else b""
    return b"POST /echo HTTP/1.1\r\nHost: x\r\n%sContent-Length: %d\r\n\r\n%s" % (last, len(body), body)


async def test_port_zero_yields_the_port_that_answers() -> None:
    async with serving(APP, "127.0.0.1", 0) as port:
        answer = await _talk(port, _post(b"hello"))
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert answer.endswith(b"\r\n\r\nhello")


async def test_answers_name_neither_server_nor_version() -> None:
    async with serving(APP, "127.0.0.1", 0) as port:
        assert b"server:" not in (await _talk(port, _post(b""))).lower()


async def test_a_host_name_is_served_on_its_first_address() -> None:
    async with serving(APP, "localhost", 0) as port:
        assert port > 0


async def test_a_taken_port_is_a_conflict_with_a_mend() -> None:
    async with serving(APP, "127.0.0.1", 0) as port:
        with pytest.raises(Conflict, match=f"Port {port} of 127.0.0.1 is taken"):
            async with serving(APP, "127.0.0.1", port):
                pass


@pytest.mark.parametrize(("host", "port"), [("203.0.113.1", 0), ("no such host", 0)])
async def test_an_address_that_cannot_be_used_is_a_usage_error(host: str, port: int) -> None:
    with pytest.raises(UsageError, match="Cannot listen on"):
        async with serving(APP, host, port):
            pass


async def test_the_port_is_free_again_after_the_block() -> None:
    async with serving(APP, "127.0.0.1", 0) as port:
        pass
    async with serving(APP, "127.0.0.1", port) as again:
        assert again == port


async def test_signal_handlers_stay_as_they_were() -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    async with serving(APP, "127.0.0.1", 0):
        assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


@pytest.mark.parametrize(
    "payload",
    [
        pytest.param(b"", id="silence"),
        pytest.param(b"POST /echo HTTP/1.1\r\nHost:", id="half a header"),
        pytest.param(_post(b"", close=False) + b"POST /echo", id="half a header behind a whole request"),
    ],
)
async def test_a_caller_who_never_ends_the_headers_is_cut_off(payload: bytes) -> None:
    async with serving(APP, "127.0.0.1", 0, limits=Limits(request=0.05)) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(payload)
        async with asyncio.timeout(10):
            await _read_to_the_end(reader)
        writer.close()


@pytest.mark.parametrize("first", [b"", _post(b"whole", close=False)])
async def test_a_caller_who_never_ends_the_body_is_cut_off(first: bytes) -> None:
    payload = first + b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nhalf"
    async with serving(APP, "127.0.0.1", 0, limits=Limits(request=0.05)) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(payload)
        async with asyncio.timeout(10):
            assert b"half" not in await _read_to_the_end(reader)
        writer.close()


async def _read_to_the_end(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.read()
    except ConnectionResetError:
        return b""


async def test_a_kept_connection_outlives_the_header_deadline() -> None:
    async with serving(APP, "127.0.0.1", 0, limits=Limits(request=0.05, idle=60)) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for _ in range(2):
            writer.write(_post(b"again", close=False))
            assert b"200 OK" in await reader.readuntil(b"again")
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(reader.read(1), 0.15)
        writer.close()


async def test_headers_that_go_on_past_the_limit_are_refused() -> None:
    async with serving(APP, "127.0.0.1", 0) as port:
        answer = await _talk(port, b"GET /echo HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 20_000)
    assert answer.startswith(b"HTTP/1.1 400 ")


async def test_the_end_of_the_block_cuts_off_readers_without_a_trace(
    caplog: pytest.LogCaptureFixture,
) -> None:
    ended = asyncio.Event()

    async def endless(scope: Scope, receive: Receive, send: Send) -> None:
        assert scope["type"] == "http"
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"x", "more_body": True})
        while (await receive())["type"] != "http.disconnect":
            pass
        ended.set()

    caplog.set_level(logging.WARNING)
    async with serving(endless, "127.0.0.1", 0, limits=Limits(grace=0.05)) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        await reader.readuntil(b"x\r\n")
    assert ended.is_set()
    assert caplog.records == []
    writer.close()


async def test_a_request_in_progress_is_answered_before_the_end() -> None:
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def slow(_: Request) -> Response:
        begun.set()
        await go_on.wait()
        return PlainTextResponse("done")

    app = Starlette(routes=[Route("/", slow)])
    async with serving(app, "127.0.0.1", 0, limits=Limits(grace=10)) as port:
        answer = asyncio.create_task(_talk(port, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"))
        await begun.wait()
        asyncio.get_running_loop().call_later(0.05, go_on.set)
    assert (await answer).endswith(b"done")


async def test_an_application_that_ignores_the_end_is_cancelled() -> None:
    begun = asyncio.Event()
    cancelled = asyncio.Event()

    async def deaf(*_: object) -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise

    async with serving(deaf, "127.0.0.1", 0, limits=Limits(grace=0.05)) as port:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        await begun.wait()
    assert cancelled.is_set()
    writer.close()


async def test_answers_of_several_writes_are_not_held_back() -> None:
    listener = await _bind("127.0.0.1", 0)  # Linux hands its options on to every accepted connection
    with listener:
        assert listener.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_an_application_that_somebody_else_serves_may_say_whom_it_knows() -> None:
    proven({"type": "http"})
    proven({"type": "http", "state": {}})


@pytest.mark.parametrize("turns", range(5))
def test_a_caller_who_arrives_as_the_server_ends_is_not_left_open(turns: int) -> None:
    async def story() -> socket.socket:
        async with serving(APP, "127.0.0.1", 0) as port:
            caller = socket.create_connection(("127.0.0.1", port))
            for _ in range(turns):
                await asyncio.sleep(0)
        return caller

    caller = asyncio.run(story())
    gc.collect()  # a connection that nobody closed would be told of here, and fail the test
    caller.close()
