"""A request leaves in one piece, with and without TLS; what cannot be sent fails as urllib3 lets it fail."""

import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import urllib3

from ngrok_edge import make_certificate
from pushtrain.plumbing.http.onepiece import in_one_piece

ANSWER = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"


@contextmanager
def listening(pieces: list[bytes], context: ssl.SSLContext | None = None) -> Iterator[int]:
    """Answer two requests on one connection; each must be whole in the first piece that comes."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            raw, _ = server.accept()
            with context.wrap_socket(raw, server_side=True) if context else raw as line:
                for _ in range(2):
                    pieces.append(line.recv(65536))
                    line.sendall(ANSWER)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield server.getsockname()[1]
        finally:
            thread.join(10)


def ask_twice(manager: urllib3.PoolManager, url: str) -> None:
    with manager:
        for _ in range(2):
            answer = manager.urlopen("POST", url, body=b"the body", headers={"a": "b"}, retries=False)
            assert answer.data == b"ok"


def test_head_and_body_are_one_piece() -> None:
    pieces: list[bytes] = []
    with listening(pieces) as port:
        ask_twice(in_one_piece(urllib3.PoolManager(num_pools=1)), f"http://127.0.0.1:{port}/x")
    assert len(pieces) == 2
    assert all(piece.startswith(b"POST /x") and piece.endswith(b"\r\n\r\nthe body") for piece in pieces)


def test_head_and_body_are_one_record_of_tls(tmp_path: Path) -> None:
    make_certificate(tmp_path / "cert.pem", tmp_path / "key.pem")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "cert.pem", tmp_path / "key.pem")
    pieces: list[bytes] = []
    with listening(pieces, context) as port:
        manager = in_one_piece(urllib3.PoolManager(num_pools=1, ca_certs=str(tmp_path / "cert.pem")))
        ask_twice(manager, f"https://localhost:{port}/x")
    assert all(piece.endswith(b"\r\n\r\nthe body") for piece in pieces)


def test_where_nobody_listens_nothing_was_sent() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    manager = in_one_piece(urllib3.PoolManager(num_pools=1))
    with pytest.raises(urllib3.exceptions.NewConnectionError):
        manager.urlopen("POST", f"http://127.0.0.1:{port}/", body=b"x", retries=False)
