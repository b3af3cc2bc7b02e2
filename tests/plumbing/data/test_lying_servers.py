"""Servers that lie, dribble or never end: an executor's download is bounded, and never a defect."""

import gzip
import hashlib
import socket
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from downloading import CONTENT, get, port_of, raw

from data_server import FileServer, Handler, Served, file_server
from pushtrain.core.errors import DataError
from pushtrain.core.owner.rules import Limits, Rules
from pushtrain.plumbing.data import download as downloading
from pushtrain.plumbing.data.terms import Terms, of_rules
from pushtrain.plumbing.disk.cache import Cache
from pushtrain.plumbing.http import pace

MIB = 1024 * 1024


@pytest.fixture
def server() -> Iterator[FileServer]:
    with file_server() as found:
        yield found


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "data")


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(downloading, "_pause", lambda *_: None)
    for name in (
        "HTTP_PROXY",
        "http_proxy",
        "HTTPS_PROXY",
        "https_proxy",
        "ALL_PROXY",
        "all_proxy",
        "NO_PROXY",
    ):
        monkeypatch.delenv(name, raising=False)


def endless(head: bytes, body: bytes, pause: float = 0) -> Callable[[Handler, Served], bool]:
    """Send without end, until the other side hangs up."""

    def fault(handler: Handler, _: Served) -> bool:
        stopped = threading.Event()
        try:
            handler.wfile.write(head)
            while not stopped.wait(pause):
                handler.wfile.write(body)
                handler.wfile.flush()
        except OSError:
            pass
        handler.close_connection = True
        return True

    return fault


def limited(server: FileServer, size: int) -> Terms:
    rules = Rules(allow_data_hosts=(f"127.0.0.1:{port_of(server)}",), limits=Limits(data=size))
    return of_rules(rules)


@pytest.mark.parametrize(
    "head", [b"HTTP/1.1 200 OK\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 9999999999\r\n\r\n"]
)
def test_body_without_end_ends_at_the_limit(server: FileServer, cache: Cache, head: bytes) -> None:
    url = server.serve("/x", b"", *[endless(head, bytes(64 * 1024))] * 9)
    with pytest.raises(DataError, match=r"more than (the )?5242880 bytes") as caught:
        get(cache, url, terms=limited(server, 5 * MIB))
    assert "rules.limits.data" in caught.value.mend
    assert len(server.asked) == 1
    assert sum(path.stat().st_size for path in cache.root.rglob("part")) <= 5 * MIB


def test_all_data_of_a_run_is_counted_together(server: FileServer, cache: Cache) -> None:
    terms = limited(server, 3 * MIB)
    told = [server.serve(f"/{number}", bytes([number]) * 2 * MIB) for number in range(2)]
    get(cache, told[0], terms=terms)
    with pytest.raises(DataError, match="comes to more than 3145728 bytes"):
        get(cache, told[1], terms=terms)


def test_redirect_with_a_body_without_end_is_left_at_once(server: FileServer, cache: Cache) -> None:
    server.serve("/b", CONTENT)
    head = b"HTTP/1.1 302 Found\r\nLocation: /b\r\nTransfer-Encoding: chunked\r\n\r\n"
    url = server.serve("/a", b"", endless(head, b"10000\r\n" + bytes(65536) + b"\r\n", pause=0.02))
    tracemalloc.start()
    try:
        assert get(cache, url, f"127.0.0.1:{port_of(server)}")[0].read_bytes() == CONTENT
        assert server.paths() == ["/a", "/b"]
        assert tracemalloc.get_traced_memory()[1] < 20 * MIB
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("head", "drip"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n", b"x"),
        (b"HTTP/1.1 200 OK\r\n", b"X-Header: y\r\n"),
        (b"", b"H"),
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0", b"0"),
    ],
    ids=["body", "headers", "status", "informational", "chunk"],
)
def test_server_that_dribbles_is_hung_up_on(
    server: FileServer, cache: Cache, monkeypatch: pytest.MonkeyPatch, head: bytes, drip: bytes
) -> None:
    monkeypatch.setattr(pace.Pace.__init__, "__defaults__", (0.3, 60 * 1024))
    monkeypatch.setattr(downloading, "_TRIES", 2)
    url = server.serve("/x", b"", *[endless(head, drip, pause=0.02)] * 9)
    begun = time.monotonic()
    with pytest.raises(DataError, match="next to nothing"):
        get(cache, url, f"127.0.0.1:{port_of(server)}")
    assert time.monotonic() - begun < 10
    assert len(server.asked) == 2


def test_dribbling_handshake_is_hung_up_on(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pace.Pace.__init__, "__defaults__", (0.3, 60 * 1024))
    monkeypatch.setattr(downloading, "_TRIES", 1)
    ended = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def dribble() -> None:
            connection, _ = listening.accept()
            with connection:
                try:
                    connection.recv(4096)
                    connection.sendall(b"\x16\x03\x03\x40\x00")
                    while not ended.wait(0.02):
                        connection.sendall(b"\x02")
                except OSError:
                    pass

        thread = threading.Thread(target=dribble, daemon=True)
        thread.start()
        port = listening.getsockname()[1]
        begun = time.monotonic()
        with pytest.raises(DataError):
            get(cache, f"https://127.0.0.1:{port}/x", f"127.0.0.1:{port}")
        assert time.monotonic() - begun < 8, "a socket's own timeout would begin anew with every byte"
        ended.set()
        thread.join(10)


def test_steady_server_is_not_hung_up_on(
    server: FileServer, cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pace.Pace.__init__, "__defaults__", (0.2, 1024))
    content = bytes(200 * 1024)

    def slowly(handler: Handler, served: Served) -> bool:
        handler.head(200, served, len(content))
        for start in range(0, len(content), 4096):
            handler.wfile.write(content[start : start + 4096])
            threading.Event().wait(0.01)
        return True

    url = server.serve("/x", content, slowly)
    assert get(cache, url, f"127.0.0.1:{port_of(server)}")[0].read_bytes() == content
    assert len(server.asked) == 1


def test_server_that_brings_one_byte_each_time_is_given_up(server: FileServer, cache: Cache) -> None:
    content = bytes(2000)

    def one_byte(handler: Handler, served: Served) -> bool:
        start = handler.wanted_start(served)
        handler.head(206 if start else 200, served, len(content) - start, start)
        handler.wfile.write(content[start : start + 1])
        handler.close_connection = True
        return True

    url = server.serve("/x", content, *[one_byte] * 2000)
    with pytest.raises(DataError, match="6 tries in a row"):
        get(cache, url, f"127.0.0.1:{port_of(server)}")
    assert len(server.asked) == 6


def test_content_encoding_is_a_lie_that_changes_nothing(server: FileServer, cache: Cache) -> None:
    bomb = gzip.compress(bytes(50 * MIB))
    head = f"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: {len(bomb)}\r\n\r\n".encode()
    url = server.serve("/x", b"", raw(head, bomb))
    path, fetched = get(cache, url, terms=limited(server, MIB), sha256=hashlib.sha256(bomb).hexdigest())
    assert path.read_bytes() == bomb
    assert fetched.size == len(bomb)
    assert server.asked[0].headers["accept-encoding"] == "identity"


@pytest.mark.parametrize(
    "lines",
    [
        b"Content-Length: 99999999999999999999999999\r\n",
        b"Content-Length: " + b"9" * 5000 + b"\r\n",
        b"Content-Length: -5\r\n",
        b"Content-Length: 2\r\nContent-Length: 3\r\n",
        b'ETag: "a\r\n b"\r\nContent-Length: 2\r\n',
        b'ETag: "' + b"a" * 9000 + b'"\r\nContent-Length: 2\r\n',
        b'ETag: "\x1b[2J"\r\nContent-Length: 2\r\n',
        b"Last-Modified: \x00\xff\r\nContent-Length: 2\r\n",
        b"Content-Range: bytes 5-9/" + b"9" * 6000 + b"\r\nContent-Length: 2\r\n",
        b"Retry-After: " + b"9" * 6000 + b"\r\nContent-Length: 2\r\n",
    ],
)
def test_headers_that_lie_are_an_error_or_ignored_and_never_a_defect(
    server: FileServer, cache: Cache, lines: bytes
) -> None:
    listed = f"127.0.0.1:{port_of(server)}"
    for code in (b"200 OK", b"206 Partial Content", b"416 No", b"503 Later", b"302 Found"):
        url = server.serve("/x", b"", *[raw(b"HTTP/1.1 " + code + b"\r\n" + lines + b"\r\nok")] * 20)
        for _ in range(2):  # the second time with what was kept of the first one's headers
            try:
                _, fetched = get(cache, url, listed)
            except DataError:
                continue
            assert fetched.etag.isprintable()
            assert len(fetched.etag) < 210


def test_length_that_promises_more_than_comes_is_noticed(server: FileServer, cache: Cache) -> None:
    head = b'HTTP/1.1 200 OK\r\nETag: "x"\r\nContent-Length: 1000\r\n\r\n'
    url = server.serve("/x", b"", *[raw(head, b"short")] * 9)
    with pytest.raises(DataError, match="6 tries"):
        get(cache, url, f"127.0.0.1:{port_of(server)}")
    assert not list(cache.root.glob("*/file"))
