"""A stand-in for ngrok's service on loopback, which ngrok's real SDK (1.4) connects to.

An agent connects by TLS and speaks muxado: frames of many streams over one connection. Each stream that the
agent opens begins with four bytes that name a request (authenticate, bind, unbind, ...), then JSON both ways;
a stream of its own carries heartbeats that are echoed. For every visitor the edge opens a stream that begins
with a JSON header and goes on with the visitor's bytes. Here each binding gets a door of its own, so its
public URL is an address of loopback that any HTTP client can call. The edge runs in a thread; its methods may
be called from any other.
"""

import asyncio
import contextlib
import itertools
import json
import ssl
import struct
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

GOOD: Final = "2aaaaaaaaaaaaaaaaaaaaaaaaaa_5bbbbbbbbbbbbbbbbbbbbb"
"""The authtoken that the edge knows."""

RESET, DATA, WINDOW, GOODBYE = range(4)
FIN, SYN = 1, 2
AUTHENTICATE, BIND, UNBIND, VISIT, SERVER_INFO, HEARTBEAT = 0, 1, 2, 3, 8, 0xFFFFFFFF
FIRST_WINDOW: Final = 256 * 1024


class Stream:
    """One stream of a session: bytes both ways, each with a window."""

    def __init__(self, session: "Session", number: int) -> None:
        self._session = session
        self._number = number
        self._arrived = asyncio.Condition()
        self._bytes = bytearray()
        self._ended = False
        self._window = FIRST_WINDOW

    async def feed(self, data: bytes, *, last: bool) -> None:
        async with self._arrived:
            self._bytes += data
            self._ended = self._ended or last
            self._arrived.notify_all()

    async def widen(self, more: int) -> None:
        async with self._arrived:
            self._window += more
            self._arrived.notify_all()

    async def some(self) -> bytes:
        """What has arrived; empty at the end."""
        async with self._arrived:
            await self._arrived.wait_for(lambda: self._bytes or self._ended)
            data = bytes(self._bytes)
            self._bytes.clear()
        if data:
            self._session.frame(WINDOW, 0, self._number, struct.pack(">I", len(data)))
        return data

    async def exactly(self, count: int) -> bytes:
        async with self._arrived:
            await self._arrived.wait_for(lambda: len(self._bytes) >= count or self._ended)
            data = bytes(self._bytes[:count])
            del self._bytes[:count]
        if len(data) < count:
            raise EOFError
        return data

    async def document(self) -> dict[str, Any]:
        """One JSON document; it has no length and no end."""
        text = b""
        while True:
            text += await self.some()
            with contextlib.suppress(ValueError):
                found: dict[str, Any] = json.loads(text)
                return found

    async def write(self, data: bytes, *, first: bool = False, last: bool = False) -> None:
        flags = SYN if first else 0
        while True:
            async with self._arrived:
                if data:
                    await self._arrived.wait_for(lambda: self._window > 0 or self._ended)
            piece, data = data[: min(self._window, 65536)], data[min(self._window, 65536) :]
            self._window -= len(piece)
            self._session.frame(DATA, flags | (FIN if last and not data else 0), self._number, piece)
            flags = 0
            if not data:
                return


class Session:
    """One agent's connection."""

    def __init__(self, edge: "Edge", reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.edge = edge
        self.doors: list[asyncio.Server] = []
        self._reader = reader
        self._writer = writer
        self._streams: dict[int, Stream] = {}
        self._numbers = itertools.count(2, 2)
        self._tasks: set[asyncio.Task[None]] = set()

    def frame(self, kind: int, flags: int, stream: int, body: bytes) -> None:
        if not self.edge.frozen:
            head = len(body).to_bytes(3, "big") + bytes([kind << 4 | flags]) + stream.to_bytes(4, "big")
            self._writer.write(head + body)

    def open(self) -> Stream:
        number = next(self._numbers)
        self._streams[number] = Stream(self, number)
        return self._streams[number]

    def close_doors(self) -> None:
        for door in self.doors:
            door.close()
        self.doors.clear()

    def abort(self) -> None:
        self._writer.transport.abort()

    async def run(self) -> None:
        try:
            while True:
                head = await self._reader.readexactly(8)
                body = await self._reader.readexactly(int.from_bytes(head[:3], "big"))
                if head[3] >> 4 == GOODBYE:
                    return
                if not self.edge.frozen:
                    await self._framed(head[3] >> 4, head[3] & 15, int.from_bytes(head[4:], "big"), body)
        except (asyncio.IncompleteReadError, ConnectionError, ssl.SSLError):
            pass
        finally:
            self.close_doors()
            for stream in self._streams.values():
                await stream.feed(b"", last=True)
            for task in self._tasks:
                task.cancel()
            self._writer.transport.abort()

    async def _framed(self, kind: int, flags: int, number: int, body: bytes) -> None:
        if kind == DATA and flags & SYN:
            self._streams[number] = Stream(self, number)
            task = asyncio.create_task(self._asked(self._streams[number]))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        stream = self._streams.get(number)
        if stream is None:
            return
        if kind == DATA:
            await stream.feed(body, last=bool(flags & FIN))
        elif kind == WINDOW:
            await stream.widen(int.from_bytes(body[:4], "big"))
        elif kind == RESET:
            await stream.feed(b"", last=True)

    async def _asked(self, stream: Stream) -> None:
        """Answer one request of the agent, or echo its heartbeats."""
        with contextlib.suppress(EOFError):
            kind = int.from_bytes(await stream.exactly(4), "big")
            while kind == HEARTBEAT:
                await stream.write(await stream.exactly(4))
            answer = await self.edge.answer(self, kind, await stream.document())
            await stream.write(json.dumps(answer).encode(), last=True)

    async def visit(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Carry one visitor's connection to the agent and back."""
        self.edge.visits += 1
        self.edge._visitors.add(writer)
        header = {"Id": "tn_1", "ClientAddr": "127.0.0.1:1", "Proto": "https", "EdgeType": "3"}
        text = json.dumps({**header, "PassthroughTLS": False}).encode()
        stream = self.open()
        await stream.write(struct.pack(">I", VISIT) + struct.pack("<q", len(text)) + text, first=True)

        async def inward() -> None:
            with contextlib.suppress(ConnectionError):
                while data := await reader.read(65536):
                    await stream.write(data)
            await stream.write(b"", last=True)

        task = asyncio.create_task(inward())
        self._tasks.add(task)
        try:
            while data := await stream.some():
                writer.write(data)
                await writer.drain()
        except ConnectionError:
            pass
        finally:
            task.cancel()
            self._tasks.discard(task)
            writer.close()
            self.edge._visitors.discard(writer)


class Edge:
    """The service. Attributes may be looked at from any thread."""

    def __init__(self, folder: Path) -> None:
        self.certificate = folder / "edge.pem"
        self.address = ""
        self.refusal = ""
        """What every authentication is answered with, when set."""
        self.bind_refusal = ""
        self.frozen = False
        """Says nothing any more, and forgets what it hears."""
        self.tokens: list[str] = []
        """As they came."""
        self.bindings: list[str] = []
        """Every URL that was given out, the newest last."""
        self.domains: list[str] = []
        """What was asked for at each of them."""
        self.visits = 0
        """Connections of visitors."""
        self.sessions: list[Session] = []
        self._visitors: set[asyncio.StreamWriter] = set()
        self._ports: dict[str, int] = {}
        self._loop = asyncio.new_event_loop()
        self._key = folder / "edge.key"
        make_certificate(self.certificate, self._key)

    @property
    def url(self) -> str:
        """Where the newest binding is reached."""
        return self.bindings[-1]

    def cut(self) -> None:
        """Cut every visitor off; the agents stay."""
        self._call(self._cut)

    def _cut(self) -> None:
        for visitor in self._visitors:
            visitor.transport.abort()

    def drop(self) -> None:
        """Cut every agent off."""
        self._call(self._drop)

    def _drop(self) -> None:
        for session in self.sessions:
            session.abort()

    def _call(self, work: Callable[[], object]) -> None:
        done = threading.Event()
        self._loop.call_soon_threadsafe(work)
        self._loop.call_soon_threadsafe(done.set)
        assert done.wait(10)

    async def answer(self, session: Session, kind: int, question: dict[str, Any]) -> dict[str, Any]:
        """The JSON that an agent's request is answered with."""
        if kind == AUTHENTICATE:
            token = question["Extra"]["AuthToken"]
            self.tokens.append(token)
            wrong = (
                "" if token == GOOD else f"authentication failed: {token} is invalid.\r\n\r\nERR_NGROK_107"
            )
            return _welcome(self.refusal or wrong)
        if kind == BIND:
            if self.bind_refusal:
                return {"Error": self.bind_refusal}
            return await self._bind(session, question)
        if kind == UNBIND:
            session.close_doors()
        return {"Region": "lo"} if kind == SERVER_INFO else {}

    async def _bind(self, session: Session, question: dict[str, Any]) -> dict[str, Any]:
        domain = question["Opts"].get("Hostname") or ""
        port = self._ports.get(domain, 0) if domain else 0
        door = await asyncio.start_server(session.visit, "127.0.0.1", port)
        session.doors.append(door)
        self._ports[domain] = door.sockets[0].getsockname()[1]
        self.domains.append(domain)
        self.bindings.append(f"http://127.0.0.1:{self._ports[domain]}")
        options = {"Opts": question["Opts"], "BindOpts": question["Opts"]}
        extra = {"Token": "tk"}
        return {
            "Id": "tn_1",
            "URL": self.bindings[-1],
            "Proto": question["Proto"],
            **options,
            "Extra": extra,
        }

    async def _agent(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        session = Session(self, reader, writer)
        self.sessions.append(session)
        try:
            await session.run()
        finally:
            self.sessions.remove(session)

    async def _serve(self, ready: threading.Event, stop: asyncio.Event) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.certificate, self._key)
        server = await asyncio.start_server(self._agent, "127.0.0.1", 0, ssl=context)
        self.address = f"localhost:{server.sockets[0].getsockname()[1]}"
        ready.set()
        await stop.wait()
        server.close()
        self._drop()
        # They end by themselves: asyncio would log a cancelled one as an error.
        await asyncio.gather(*(asyncio.all_tasks() - {asyncio.current_task()}), return_exceptions=True)


def _welcome(wrong: str) -> dict[str, Any]:
    if wrong:
        return {"Version": "", "ClientId": "", "Error": wrong, "Extra": {}}
    extra = {"Version": "3.0", "Region": "lo", "AccountName": "t", "SessionDuration": 0, "PlanName": "Free"}
    return {"Version": "3", "ClientId": "c1", "Extra": {**extra, "Banner": "", "Cookie": "ck"}}


def make_certificate(certificate: Path, key: Path) -> None:
    """A certificate for localhost that the SDK accepts as an end's own (it refuses an authority's)."""
    kind = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=localhost"
    more = (
        "-addext",
        "subjectAltName=DNS:localhost,IP:127.0.0.1",
        "-addext",
        "basicConstraints=critical,CA:FALSE",
    )
    subprocess.run(
        ("openssl", "req", "-x509", *kind.split(), *more, "-keyout", key, "-out", certificate),
        check=True,
        capture_output=True,
    )


@contextlib.contextmanager
def serving_edge(folder: Path) -> Iterator[Edge]:
    """An edge that runs in a thread while the block runs."""
    edge = Edge(folder)
    ready, stop = threading.Event(), asyncio.Event()

    def live() -> None:
        edge._loop.run_until_complete(edge._serve(ready, stop))
        edge._loop.run_until_complete(edge._loop.shutdown_asyncgens())
        edge._loop.close()

    thread = threading.Thread(target=live)
    thread.start()
    try:
        assert ready.wait(10)
        yield edge
    finally:
        edge._loop.call_soon_threadsafe(stop.set)
        thread.join(20)
        assert not thread.is_alive()
