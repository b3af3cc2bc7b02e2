"""The proxy by which a trusted program reaches an index of the owner's network, and nothing else of it."""

import base64
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Self
from urllib.parse import urlsplit

import pytest

from data_server import FileServer, file_server
from pushtrain.core.owner.outward import Outward
from pushtrain.plumbing.data.outproxy import DIRECT, NAMES, JudgedProxy
from pushtrain.testing import wait_until


@pytest.fixture
def index() -> Iterator[FileServer]:
    with file_server() as found:
        found.serve("/simple", b"a page")
        yield found


@contextmanager
def proxied(*hosts: str, environ: Mapping[str, str] | None = None) -> Iterator[JudgedProxy]:
    with JudgedProxy(Outward(hosts), environ or {}) as proxy:
        yield proxy


def place(server: FileServer) -> str:
    return server.url.removeprefix("http://")


def dialled(proxy: JudgedProxy) -> socket.socket:
    return socket.create_connection(("127.0.0.1", urlsplit(proxy.variables["HTTP_PROXY"]).port or 0), 20)


def said(proxy: JudgedProxy, head: str, *, word: bool = True) -> bytes:
    """All that the proxy answers to this."""
    with dialled(proxy) as mine:
        mine.sendall((head + (shown(proxy) if word else "") + "\r\n").encode())
        answer = b""
        while piece := mine.recv(65536):
            answer += piece
        return answer


def shown(proxy: JudgedProxy) -> str:
    login = urlsplit(proxy.variables["HTTP_PROXY"])
    word = base64.b64encode(f"{login.username}:{login.password}".encode()).decode()
    return f"Proxy-Authorization: Basic {word}\r\n"


def test_a_listed_host_is_asked_and_sees_nothing_of_the_proxy(index: FileServer) -> None:
    with proxied(place(index)) as proxy:
        head = f"GET {index.url}/simple?a=b HTTP/1.1\r\nHost: elsewhere.example.org\r\nX-Own: 1\r\n"
        answer = said(proxy, head + "Proxy-Connection: keep-alive\r\nConnection: keep-alive\r\n")
    assert answer.startswith(b"HTTP/1.1 200")
    assert answer.endswith(b"\r\n\r\na page")
    assert index.paths() == ["/simple?a=b"]
    assert index.asked[0].headers == {"host": place(index), "x-own": "1", "connection": "close"}
    assert proxy.refused == []
    assert set(proxy.variables) == set(NAMES)
    assert not set(DIRECT) & set(NAMES)


def test_who_does_not_know_the_word_reaches_nothing(index: FileServer) -> None:
    """Another user of the machine, or a job."""
    with proxied(place(index)) as proxy, proxied(place(index)) as another:
        for line in (f"GET {index.url}/simple HTTP/1.1\r\n", f"CONNECT {place(index)} HTTP/1.1\r\n"):
            assert said(proxy, line, word=False).startswith(b"HTTP/1.1 407")
            assert said(proxy, line + shown(another), word=False).startswith(b"HTTP/1.1 407")
    assert index.asked == []


@pytest.mark.parametrize("how", ["GET http://{0}/simple", "CONNECT {0}"])
@pytest.mark.parametrize(
    "host",
    ["127.0.0.1:{port}", "localhost:{port}", "2130706433:{port}", "127.1:{port}", "[::ffff:127.0.0.1]:{port}",
     "x@127.0.0.1:{port}", "10.0.0.1:80", "169.254.169.254:80", "nas.lan:80", "inside.example.org:{port}"],
)  # fmt: skip
def test_the_owners_network_is_not_reached(
    index: FileServer, monkeypatch: pytest.MonkeyPatch, how: str, host: str
) -> None:
    real = socket.getaddrinfo

    def looked_up(name: str, *rest: Any, **more: Any) -> Any:
        return real("127.0.0.1" if name == "inside.example.org" else name, *rest, **more)

    monkeypatch.setattr(socket, "getaddrinfo", looked_up)
    with proxied("127.0.0.1:1") as proxy:
        where = host.replace("{port}", place(index).partition(":")[2])
        answer = said(proxy, f"{how.format(where)} HTTP/1.1\r\n")
    assert answer.split(b" ")[1] in {b"400", b"403"}
    assert index.asked == []


@pytest.mark.parametrize(
    "line", ["POST {url}/simple", "GET /simple", "GET https://{place}/x", "GET ftp://x/y"]
)
def test_nothing_else_is_forwarded(index: FileServer, line: str) -> None:
    with proxied(place(index)) as proxy:
        line = line.replace("{url}", index.url).replace("{place}", place(index))
        assert said(proxy, f"{line} HTTP/1.1\r\n").split(b" ")[1] in {b"400", b"501"}
    assert index.asked == []


def test_a_second_request_on_a_connection_goes_nowhere(index: FileServer) -> None:
    with file_server() as victim, proxied(place(index)) as proxy:
        second = f"GET {victim.url}/x HTTP/1.1\r\nHost: {place(victim)}\r\n\r\n"
        said(proxy, f"GET {index.url}/simple HTTP/1.1\r\n{shown(proxy)}\r\n{second}")
        assert victim.asked == []
    assert index.paths() in ([], ["/simple"])  # it may be ended before the first is answered


def test_a_name_that_leads_elsewhere_the_second_time_gains_nothing(
    index: FileServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """127.0.0.9 is listed, and so plays a public address; the victim listens at 127.0.0.1 alone."""
    port, questions, real = place(index).partition(":")[2], [], socket.getaddrinfo

    def looked_up(host: str, *rest: Any, **more: Any) -> Any:
        if host != "rebind.example.org":
            return real(host, *rest, **more)
        questions.append(host)
        return real("127.0.0.9" if len(questions) == 1 else "127.0.0.1", *rest, **more)

    monkeypatch.setattr(socket, "getaddrinfo", looked_up)
    with proxied(f"127.0.0.9:{port}") as proxy:
        line = f"GET http://rebind.example.org:{port}/simple HTTP/1.1\r\n"
        assert [said(proxy, line).split(b" ")[1] for _ in range(2)] == [b"502", b"403"]
    assert index.asked == []
    assert "not public" in proxy.refused[0]


class OwnersProxy:
    """A proxy that the owner's environment names: notes what it is asked, and echoes."""

    def __init__(self) -> None:
        self.heads: list[str] = []
        self._server = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://lab:hunter2@127.0.0.1:{self._server.getsockname()[1]}"
        self._thread = threading.Thread(target=self._serve)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        self._thread.join()

    def _serve(self) -> None:
        while True:
            try:
                mine, _ = self._server.accept()
            except OSError:
                return
            with mine:
                head = b""
                while not head.endswith(b"\r\n\r\n"):
                    head += mine.recv(1)
                self.heads.append(head.decode())
                mine.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
                if head.startswith(b"CONNECT"):
                    mine.sendall(mine.recv(100).upper())


def test_the_owners_own_proxy_is_gone_through_and_is_itself_no_place_to_be_asked(index: FileServer) -> None:
    with OwnersProxy() as owners:
        environ = {"HTTPS_PROXY": owners.url, "http_proxy": owners.url, "NO_PROXY": "127.0.0.1"}
        with proxied(place(index), environ=environ) as proxy, dialled(proxy) as mine:
            mine.sendall(f"CONNECT 8.8.8.8:443 HTTP/1.1\r\n{shown(proxy)}\r\n".encode())
            mine.settimeout(20)
            assert mine.recv(1000).startswith(b"HTTP/1.1 200")
            mine.sendall(b"hello")
            assert mine.recv(1000) == b"HELLO"
            assert b"200" in said(proxy, "GET http://8.8.8.8/x HTTP/1.1\r\n")
            assert said(proxy, f"GET {index.url}/simple HTTP/1.1\r\n").endswith(b"a page")
            there = owners.url.rpartition("@")[2]
            assert said(proxy, f"GET http://{there}/ HTTP/1.1\r\n").startswith(b"HTTP/1.1 403")
    login = base64.b64encode(b"lab:hunter2").decode()
    assert [head.split(" HTTP/")[0] for head in owners.heads] == [
        "CONNECT 8.8.8.8:443",
        "GET http://8.8.8.8:80/x",
    ]
    assert all(f"Proxy-Authorization: Basic {login}\r\n" in head for head in owners.heads)
    assert "pushtrain" not in "".join(owners.heads)


def test_a_proxy_of_a_kind_that_is_not_supported_is_told() -> None:
    with proxied(environ={"ALL_PROXY": "socks5://127.0.0.1:1080"}) as proxy:
        assert said(proxy, "CONNECT 8.8.8.8:443 HTTP/1.1\r\n").startswith(b"HTTP/1.1 403")
    assert "socks5://" in proxy.refused[0]


def test_its_end_ends_every_connection() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        there = f"127.0.0.1:{silent.getsockname()[1]}"
        with proxied(there) as proxy:
            mine = dialled(proxy)
            mine.sendall(f"CONNECT {there} HTTP/1.1\r\n{shown(proxy)}\r\n".encode())
            other, _ = silent.accept()
            assert mine.recv(1000).startswith(b"HTTP/1.1 200")
        with mine, other:
            assert (mine.recv(1), other.recv(1)) == (b"", b"")
    wait_until(lambda: not [one for one in threading.enumerate() if "outproxy" in one.name])
